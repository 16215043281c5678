#!/bin/sh
# Installs what the tests need beyond Python packages: a real OpenSSH server and client.
set -eu
need=""
command -v ssh >/dev/null 2>&1 || need="$need openssh-client"
command -v ssh-agent >/dev/null 2>&1 || need="$need openssh-client"
PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v sshd >/dev/null 2>&1 || need="$need openssh-server"
[ -z "$need" ] && exit 0
if [ "$(id -u)" = 0 ]; then run=""; elif sudo -n true 2>/dev/null; then run="sudo -n"; else
  echo "the tests need$need; install with: sudo apt-get install$need" >&2; exit 1
fi
command -v apt-get >/dev/null 2>&1 || { echo "the tests need$need; install with your package manager" >&2; exit 1; }
# policy-rc.d keeps apt from starting a system-wide server: the tests start their own on loopback.
$run apt-get update -q
$run env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -q -y --no-install-recommends $need
