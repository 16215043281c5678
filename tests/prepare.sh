#!/bin/sh
# Installs what the tests need beyond Python packages: a real OpenSSH server and client, PostgreSQL's
# server programs, QEMU, cpio.  With the argument "ssh" or "qemu", what `make demo` or `make demo-arm` needs.
set -eu
export PATH="$PATH:/usr/sbin:/sbin:/usr/local/sbin"
need=""
lacks() { ! command -v "$1" >/dev/null 2>&1; }
if lacks ssh || lacks ssh-agent || lacks ssh-keygen; then need="$need openssh-client"; fi
if lacks sshd; then need="$need openssh-server"; fi
if [ "${1:-all}" = all ]; then
  if lacks initdb && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then need="$need postgresql"; fi
  if lacks busybox && lacks cpio; then need="$need cpio"; fi
fi
if [ "${1:-all}" != ssh ]; then
  # Emulated boards (tests marked qemu): what runs them and what builds their image.
  for pair in qemu-system-aarch64:qemu-system-arm qemu-img:qemu-utils fakeroot:fakeroot mke2fs:e2fsprogs; do
    if lacks "${pair%%:*}"; then need="$need ${pair##*:}"; fi
  done
  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || need="$need debian-archive-keyring"
fi
[ -z "$need" ] && exit 0
if [ "$(id -u)" = 0 ]; then run=""; elif sudo -n true 2>/dev/null; then run="sudo -n"; else
  echo "missing:$need; install with: sudo apt-get install$need" >&2; exit 1
fi
if lacks apt-get; then echo "missing:$need; install with your package manager" >&2; exit 1; fi
$run apt-get update -q
# RUNLEVEL=1 keeps the packages from starting system-wide servers: the tests start their own.
$run env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -q -y --no-install-recommends $need
