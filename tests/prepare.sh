#!/bin/sh
# Brings what the tests need beyond Python packages: a real OpenSSH server and client, PostgreSQL's
# server programs, QEMU, cpio.  With the argument "ssh" or "qemu", what `make demo` or `make demo-arm` needs.
# It leaves no service behind: the OpenSSH server is unpacked into .packages/, not installed.
set -eu
export PATH="$PATH:/usr/sbin:/sbin:/usr/local/sbin"
own="$PWD/.packages"
lacks() { ! command -v "$1" >/dev/null 2>&1; }

# Whether sshd can be given an account and /run/sshd of its own: as another user than root it needs neither.
private() { [ "$(id -u)" != 0 ] || unshare --mount mount -t tmpfs private /tmp 2>/dev/null; }

# Keeps a service from being enabled or started by a package that is not installed yet.
mask() {
  $run mkdir -p /etc/systemd/system
  for unit; do [ -e "/etc/systemd/system/$unit" ] || $run ln -sfn /dev/null "/etc/systemd/system/$unit"; done
}

# Unpacks an OpenSSH server, with the libraries that this machine lacks, into .packages/.  No root needed:
# apt works on lists of its own, and checks the archive's signatures as ever.
unpack_sshd() {
  rm -rf "$own"
  mkdir -p "$own/apt/lists/partial" "$own/apt/archives/partial"
  export APT_CONFIG="$own/apt/conf"
  printf '%s "%s";\n' Dir::State::lists "$own/apt/lists" Dir::Cache "$own/apt" APT::Sandbox::User "" \
    Debug::NoLocking 1 >"$APT_CONFIG"
  apt-get -q update
  packages=$(apt-get -s install --no-install-recommends openssh-server |
    awk '$1 == "Inst" && ($2 ~ /^lib/ || $2 == "openssh-server") {print $2}')
  echo "fetching for the private OpenSSH server, into .packages/; nothing is installed or enabled:" $packages
  (cd "$own/apt" && apt-get -q download $packages)
  for deb in "$own"/apt/*.deb; do dpkg-deb -x "$deb" "$own/unpacked"; done
  rm -rf "$own/apt"
  mv "$own/unpacked" "$own/openssh-server"
  unset APT_CONFIG
}

need=""
if lacks ssh || lacks ssh-agent || lacks ssh-keygen; then need="$need openssh-client"; fi
if [ "${1:-all}" = all ]; then
  if lacks initdb && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then need="$need postgresql"; fi
  if lacks busybox && lacks cpio; then need="$need cpio"; fi
fi
if [ "${1:-all}" != qemu ]; then
  if ! lacks sshd; then
    echo "OpenSSH server: this machine's own, $(command -v sshd)"
  elif private && [ -x "$own/openssh-server/usr/sbin/sshd" ]; then
    echo "OpenSSH server: .packages/openssh-server, unpacked earlier"
  elif private && ! lacks apt-get && ! lacks dpkg-deb; then
    unpack_sshd
  else
    need="$need openssh-server"
  fi
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
echo "installing with apt:$need"
case "$need" in *postgresql*)
  echo "PostgreSQL: no cluster is made, and its service is masked (systemctl unmask postgresql)"
  mask postgresql.service
  $run mkdir -p /etc/postgresql-common
  conf=/etc/postgresql-common/createcluster.conf
  [ -e $conf ] || echo "create_main_cluster = false" | $run tee $conf >/dev/null
esac
case "$need" in *openssh-server*)
  echo "OpenSSH server: its service is masked, and stays so (systemctl unmask ssh)"
  mask ssh.service ssh.socket
esac
$run apt-get update -q
# RUNLEVEL=1 keeps the packages from starting system-wide servers: the tests start their own.
$run env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -q -y --no-install-recommends $need
case "$need" in *openssh-server*)
  # Where another init than systemd reads /etc/rc?.d.
  lacks update-rc.d || $run update-rc.d ssh disable || true
esac
