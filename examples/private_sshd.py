"""A private OpenSSH server on a loopback port: real SSH to this machine, for the demo and the tests.

It runs as the user who starts it, with a configuration, host keys and a user key of its own in one
folder, and lets in nobody but that user with that key.  The program is this machine's or, where there is
none, the one that ``tests/prepare.sh`` unpacks into ``.packages/``.  Nothing of the machine's own SSH set-up
is read or changed; when it stops, its sessions end with it::

    with PrivateSshd(folder) as server:
        print(server.user, server.port, server.identity_file, server.known_hosts)
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from results.errors import ConfigError

HOST = "127.0.0.1"
_START_LIMIT_S = 20.0
_STOP_LIMIT_S = 5.0
_POLL_S = 0.01
_SEPARATION = Path("/run/sshd")
"""Where an sshd that is run by root locks its unprivileged half in; compiled in on Debian."""

_UNPACKED = Path(__file__).resolve().parents[1] / ".packages" / "openssh-server"

_PRIVATE_VIEW = """
set -e
folder=$1 user=$2; shift 2
mount -t tmpfs -o mode=700 private "$folder"
grep -q ^sshd: /etc/passwd || {
  { cat /etc/passwd; echo sshd:x:65534:65534::/run/sshd:/usr/sbin/nologin; } >"$folder/passwd"
  mount --bind "$folder/passwd" /etc/passwd
}
test ! -e /etc/shadow || {
  sed "s/^$user:![^:]*:/$user:*:/" /etc/shadow >"$folder/shadow"
  mount --bind "$folder/shadow" /etc/shadow
}
test -d /run/sshd || {
  mkdir "$folder/run"
  mount --rbind /run "$folder/run"
  mount -t tmpfs -o mode=755 private /run
  find "$folder/run" -mindepth 1 -maxdepth 1 -exec ln -s {} /run/ \\;
  mkdir -m 755 /run/sshd
}
exec "$@"
"""
"""What root's sshd wants, shown to it and its sessions alone (a mount namespace): an account ``sshd``, the
directory /run/sshd, and no lock on the account that logs in, which sshd refuses without PAM."""


class PrivateSshd:
    """An OpenSSH server of one's own.

    Args:
        folder: Where its files are kept; keys that are there already are used again.
        key_types: Kinds of host key that it has, as ``ssh-keygen -t`` names them.
        options: Further lines of its configuration; they win over the ones below.
        home: Directory in which its logins find themselves, instead of the user's home.
        port: Port to listen on; by default a free one, kept when the server is started again.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key_types: Sequence[str] = ("ed25519",),
        options: Sequence[str] = (),
        home: Path | None = None,
        port: int | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.port = port or 0
        self.identity_file = self.folder / "user_key"
        self.known_hosts = self.folder / "known_hosts"
        self.log_file = self.folder / "sshd.log"
        self._pid_file = self.folder / "sshd.pid"
        self._key_types = tuple(key_types)
        self._options = tuple(options)
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """``user@host:port``, as ``boardwise devices add`` takes it."""
        return f"{self.user}@{HOST}:{self.port}"

    def start(self) -> None:
        """Starts it, and waits until it answers; what already runs is left as it is.

        Raises:
            ConfigError: If there is no OpenSSH server here, or it does not start; with the reason.
        """
        if self._process is not None:
            return
        program = find_sshd()
        if program is None:
            raise ConfigError(
                "there is no OpenSSH server on this machine (no sshd in PATH, /usr/sbin, /usr/local/sbin);"
                " `sh tests/prepare.sh ssh` brings one, or use the connection `local`"
            )
        self._prepare()
        self.port = self.port or _free_port()
        config = self.folder / "sshd_config"
        config.write_text(self._config(program))
        self.log_file.write_text("")
        self._pid_file.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [*self._view(), program, "-D", "-f", str(config), "-E", str(self.log_file)],
            env=os.environ | _libraries(program),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._wait_for_banner(self._process)
        except BaseException:
            self.stop()
            raise
        # Pinned: whoever logs in knows the key before the first connection.
        keys = [self._host_key(kind).with_suffix(".pub").read_text().split() for kind in self._key_types]
        self.known_hosts.write_text(
            "".join(f"[{HOST}]:{self.port} {algorithm} {key}\n" for algorithm, key, *_ in keys)
        )

    def stop(self) -> None:
        """Stops it and ends its sessions; it can be started again, on the same port."""
        if self._process is None:
            return
        # The sessions first would leave time for new ones.
        sessions = self.sessions()
        self._process.terminate()
        try:
            self._process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        _kill(sessions)

    def cut(self) -> None:
        """Ends every session at once, without a word to the clients; it goes on listening."""
        _kill(self.sessions())

    def sessions(self) -> list[int]:
        """The processes that serve a connection each (privileged and unprivileged half)."""
        return list(_servers_below(self._process.pid)) if self._process else []

    def renew_host_keys(self) -> None:
        """Gives it new host keys, as a machine that was set up anew has; start it again afterwards."""
        for kind in self._key_types:
            _make_key(self._host_key(kind), kind, anew=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ------------------------------------------------------------------ inside

    def _host_key(self, kind: str) -> Path:
        return self.folder / f"host_key_{kind}"

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for kind in self._key_types:
            _make_key(self._host_key(kind), kind)
        _make_key(self.identity_file, "ed25519")
        keys = self.folder / "authorized_keys"
        if not keys.exists():
            keys.write_text(self.identity_file.with_suffix(".pub").read_text())
        if os.geteuid() == 0 and not _may_have_own_view():
            try:
                _SEPARATION.mkdir(mode=0o755, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"sshd run by root needs the directory {_SEPARATION} ({error.strerror}); make it, or"
                    " start this as another user"
                ) from error

    def _view(self) -> list[str]:
        """What to put before sshd's command line, so that it sees what it wants."""
        if not _may_have_own_view():
            return []
        mounts = self.folder / "view"
        mounts.mkdir(exist_ok=True)
        return ["unshare", "--mount", "sh", "-c", _PRIVATE_VIEW, "sh", str(mounts), self.user]

    def _config(self, program: str) -> str:
        """The configuration; the first value that sshd reads for a key is the one that counts."""
        lines = [
            *self._options,
            f"ListenAddress {HOST}",
            f"Port {self.port}",
            *(f"HostKey {_quoted(self._host_key(kind))}" for kind in self._key_types),
            f"AuthorizedKeysFile {_quoted(self.folder / 'authorized_keys')}",
            f"PidFile {_quoted(self._pid_file)}",
            f"AllowUsers {self.user}",
            "AuthenticationMethods publickey",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            # Without PAM sshd refuses locked accounts; with it, the machine must be set up for it.
            f"UsePAM {'yes' if is_locked(self.user) and not _may_have_own_view() else 'no'}",
            "StrictModes no",  # the folder may lie below one that others can write to
            "PermitUserEnvironment no",
            # A bash that is the first one below sshd would run ~/.bashrc for each command.
            "SetEnv SHLVL=1",
            "X11Forwarding no",
            "AllowAgentForwarding no",
            "PrintMotd no",
            "Subsystem sftp internal-sftp",
            "LoginGraceTime 60",
            "MaxSessions 64",
            "LogLevel VERBOSE",
            *_parts(program),
        ]
        if self._home is not None:
            home = shlex.quote(str(self._home))
            lines.append(
                f'ForceCommand cd {home} && HOME={home} exec "$SHELL" -c "$SSH_ORIGINAL_COMMAND"',
            )
        return "\n".join(lines) + "\n"

    def _wait_for_banner(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < deadline and process.poll() is None:
            # Written once the port is its own: another's server may hold it and answer.
            if self._pid_file.exists() and self._pid_file.read_text().strip() == str(process.pid):
                with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1.0) as probe:
                    probe.settimeout(_START_LIMIT_S)
                    if probe.recv(64).startswith(b"SSH-"):
                        return
            time.sleep(_POLL_S)
        said = self.log_file.read_text(errors="replace").strip()
        raise ConfigError(f"the private sshd does not start on port {self.port}: {said or 'it says nothing'}")


def is_locked(user: str, shadow: Path = Path("/etc/shadow")) -> bool:
    """Whether an account is closed to passwords, as far as we may know: only root may look."""
    with contextlib.suppress(OSError):
        entries = (line.split(":") for line in shadow.read_text().splitlines())
        return any(entry[0] == user and entry[1].startswith("!") for entry in entries)
    return False


def find_sshd() -> str | None:
    """The full path of an OpenSSH server: this machine's, else the unpacked one; None where there is none."""
    # Users' PATH often lacks sbin.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"])
    program = shutil.which("sshd", path=path) or shutil.which(_UNPACKED / "usr/sbin/sshd")
    return str(Path(program).resolve()) if program and shutil.which("ssh-keygen") else None


def _libraries(program: str) -> dict[str, str]:
    """Environment by which the unpacked server finds its libraries; sessions get none of it."""
    if not Path(program).is_relative_to(_UNPACKED):
        return {}
    folders = [*_UNPACKED.glob("usr/lib/*-linux-*"), *_UNPACKED.glob("lib/*-linux-*")]
    return {"LD_LIBRARY_PATH": os.pathsep.join(map(str, folders))}


def _parts(program: str) -> list[str]:
    """Configuration by which the unpacked server finds its other programs (OpenSSH 9.8 and later)."""
    if not Path(program).is_relative_to(_UNPACKED):
        return []
    parts = {"SshdSessionPath": "sshd-session", "SshdAuthPath": "sshd-auth"}
    paths = {key: _UNPACKED / "usr/lib/openssh" / name for key, name in parts.items()}
    return [f"{key} {_quoted(path)}" for key, path in paths.items() if path.exists()]


@functools.cache
def _may_have_own_view() -> bool:
    """Whether this is root, and may mount what only its own processes see; containers often may not."""
    return os.geteuid() == 0 and _succeeds(["unshare", "--mount", "mount", "-t", "tmpfs", "private", "/tmp"])


def _succeeds(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _make_key(path: Path, kind: str, *, anew: bool = False) -> None:
    if path.exists() and not anew:
        return
    path.unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "boardwise private sshd", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _quoted(path: Path) -> str:
    return f'"{path}"'


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _servers_below(pid: int) -> Iterator[int]:
    """Descendants of a process that are sshd itself, not what users have started through it."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for child in map(int, children.read_text().split()):
            if Path(f"/proc/{child}/comm").read_text().startswith("sshd"):
                yield child
                yield from _servers_below(child)
