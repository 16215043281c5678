"""What the user's own ssh configuration says about a host, asked of ``ssh -G``.

OpenSSH itself reads ``~/.ssh/config`` and ``/etc/ssh/ssh_config`` (``Host``, ``Match``, ``Include``,
canonical names ...) and prints the outcome, so nothing of its grammar is written a second time.
Where no ``ssh`` is installed there is nothing to ask, and OpenSSH's defaults hold: port 22, the
local user's name, ``~/.ssh/id_*``, ``~/.ssh/known_hosts``.

Heeded are ``HostName``, ``Port``, ``User``, ``IdentityFile``, ``IdentityAgent``, ``IdentitiesOnly``,
``ProxyJump``, ``ProxyCommand``, ``UserKnownHostsFile``, ``GlobalKnownHostsFile``, ``HostKeyAlias``
and ``ConnectTimeout``.  Host keys are checked whatever ``StrictHostKeyChecking`` says.  ``ssh -G``
prints lists of files without quotes: a known_hosts file with a space in its name is not found.
"""

from __future__ import annotations

import functools
import getpass
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from results.errors import ConfigError

DEFAULT_PORT = 22
CONNECT_LIMIT_S = 15.0
"""Longest time to wait for the TCP connection where ``ConnectTimeout`` is not set."""

_ASK_LIMIT_S = 20.0  # `Match exec` runs commands of the user's
_IDENTITIES = ("id_ed25519", "id_ecdsa", "id_rsa")
_TOKEN = re.compile(r"%(.)|\$\{(\w+)\}")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%\w+)?")


@dataclass(frozen=True)
class SshAddress:
    """Where to log in: a host or an alias of the user's ssh configuration, and what overrides it."""

    host: str
    user: str | None = None
    port: int | None = None

    def __post_init__(self) -> None:
        # A leading hyphen would be read as an option by ssh.
        if not re.fullmatch(r"[\w.:%][\w.:%-]*", self.host):
            raise ConfigError(f"{self.host!r} is not the name of a host; expected user@host[:port]")
        if self.user is not None and not re.fullmatch(r"[^\s@:/\x00-\x1f-][^\s:/\x00-\x1f]*", self.user):
            raise ConfigError(f"{self.user!r} is not the name of a user; expected user@host[:port]")
        if self.port is not None and not 0 < self.port < 65536:
            raise ConfigError(f"port {self.port} of {self.host} is not in 1..65535")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address that ``user@host:port``, ``ssh://user@host:port`` or an alias names.

        An IPv6 address stands in brackets where a port follows: ``pi@[2001:db8::7]:2222``.

        Raises:
            ConfigError: If it is none of these.
        """
        rest = text.strip().removeprefix("ssh://").removesuffix("/")
        user, at, rest = rest.rpartition("@")
        bracketed = re.fullmatch(r"\[([^\]]+)\](?::(.*))?", rest)
        if bracketed:
            host, port = bracketed[1], bracketed[2]
        elif _IPV6.fullmatch(rest):
            host, port = rest, None
        else:
            host, colon, digits = rest.partition(":")
            port = digits if colon else None
        if port is not None and not re.fullmatch(r"[0-9]{1,5}", port):
            raise ConfigError(f"{text!r}: {port!r} is not a port; expected user@host[:port]")
        return cls(host, user if at else None, int(port) if port else None)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host and self.port else self.host
        return f"{self.user + '@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"


@dataclass(frozen=True)
class SshOptions:
    """Everything that is needed to reach one host, all names and tokens resolved."""

    host: str
    port: int
    user: str
    identity_files: tuple[Path, ...] = ()
    identities_only: bool = False
    agent: str | None = None
    """Path of the ssh agent's socket; None where there is none or it must not be asked."""
    jumps: tuple[SshAddress, ...] = ()
    proxy_command: str | None = None
    known_hosts: tuple[Path, ...] = ()
    host_key_alias: str | None = None
    connect_limit_s: float = CONNECT_LIMIT_S

    @property
    def known_as(self) -> str:
        """The name under which a known_hosts file holds this host, as OpenSSH writes it."""
        if self.host_key_alias:
            return self.host_key_alias.lower()
        host = self.host.lower()
        return host if self.port == DEFAULT_PORT else f"[{host}]:{self.port}"

    def __str__(self) -> str:
        return str(SshAddress(self.host, self.user, self.port))


def resolve(address: SshAddress, config_file: Path | None = None) -> SshOptions:
    """What the user's configuration makes of an address.

    Args:
        address: User and port given here win over the configuration.
        config_file: Read this one instead of the user's and the machine's (``ssh -F``).

    Raises:
        ConfigError: If the configuration cannot be read or asks for what is not supported.
    """
    if shutil.which("ssh") is None:
        if config_file is not None:
            raise ConfigError(
                f"{config_file}: reading an ssh configuration needs the program ssh; install it"
            )
        return _defaults(address)
    return _from_answers(address, _ask(address, config_file))


def _ask(address: SshAddress, config_file: Path | None) -> dict[str, list[str]]:
    """The output of ``ssh -G``: values by lower-case key, in order."""
    command = ["ssh", "-G"]
    if config_file is not None:
        if not config_file.is_file():
            raise ConfigError(f"{config_file}: no such ssh configuration file")
        command += ["-F", str(config_file)]
    command += ["-p", str(address.port)] if address.port else []
    command += ["-l", address.user] if address.user else []
    try:
        done = subprocess.run(
            [*command, "--", address.host],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ASK_LIMIT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"`ssh -G {address.host}` gave no answer in {_ASK_LIMIT_S:g} s; does a `Match exec` hang?"
        ) from error
    if done.returncode:
        raise ConfigError(f"`ssh -G {address.host}` failed: {done.stderr.decode(errors='replace').strip()}")
    answers: dict[str, list[str]] = {}
    for line in done.stdout.decode(errors="replace").splitlines():
        key, _, value = line.partition(" ")
        answers.setdefault(key.lower(), []).append(value.strip())
    return answers


def _from_answers(address: SshAddress, answers: Mapping[str, list[str]]) -> SshOptions:
    def one(key: str) -> str | None:
        value = answers.get(key, [""])[0]
        return value if value and value.lower() != "none" else None

    host, user = one("hostname") or address.host, one("user") or getpass.getuser()
    port = int(one("port") or DEFAULT_PORT)
    alias = one("hostkeyalias")
    expand = functools.partial(_expand, tokens=_tokens(address, host, port, user, alias))
    if one("proxyusefdpass") == "yes":
        raise ConfigError(f"{address.host}: ProxyUseFdpass of the ssh configuration is not supported")
    if one("revokedhostkeys"):
        raise ConfigError(
            f"{address.host}: RevokedHostKeys of the ssh configuration is not supported; revoke keys with"
            " @revoked lines in a known_hosts file and set it to none for this host"
        )
    known_hosts = " ".join(answers.get("userknownhostsfile", []) + answers.get("globalknownhostsfile", []))
    command, limit_s = one("proxycommand"), one("connecttimeout")
    return SshOptions(
        host=host,
        port=port,
        user=user,
        identity_files=tuple(
            _path(expand(name)) for name in answers.get("identityfile", []) if name != "none"
        ),
        identities_only=one("identitiesonly") == "yes",
        agent=_agent(answers.get("identityagent", [""])[0], expand),
        jumps=tuple(SshAddress.parse(hop) for hop in (one("proxyjump") or "").split(",") if hop),
        proxy_command=expand(command) if command else None,
        known_hosts=tuple(_path(expand(name)) for name in known_hosts.split() if name != "none"),
        host_key_alias=alias,
        connect_limit_s=float(limit_s) if limit_s and limit_s != "0" else CONNECT_LIMIT_S,
    )


def _agent(setting: str, expand: functools.partial[str]) -> str | None:
    if setting == "none":
        return None
    if setting in ("", "SSH_AUTH_SOCK"):
        return os.environ.get("SSH_AUTH_SOCK")
    if setting.startswith("$") and not setting.startswith("${"):
        return os.environ.get(setting[1:])
    return str(_path(expand(setting)))


def _defaults(address: SshAddress) -> SshOptions:
    folder = Path.home() / ".ssh"
    return SshOptions(
        host=address.host,
        port=address.port or DEFAULT_PORT,
        user=address.user or getpass.getuser(),
        identity_files=tuple(folder / name for name in _IDENTITIES),
        agent=os.environ.get("SSH_AUTH_SOCK"),
        known_hosts=(folder / "known_hosts", folder / "known_hosts2", Path("/etc/ssh/ssh_known_hosts")),
    )


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _tokens(address: SshAddress, host: str, port: int, user: str, alias: str | None) -> dict[str, str]:
    """The TOKENS of ssh_config(5) that are known before a connection is made."""
    here = socket.gethostname()
    return {
        "%": "%",
        "d": str(Path.home()),
        "h": host,
        "i": str(os.getuid()),
        "k": alias or host,
        "L": here.partition(".")[0],
        "l": here,
        "n": address.host,
        "p": str(port),
        "r": user,
        "u": getpass.getuser(),
    }


def _expand(text: str, tokens: Mapping[str, str]) -> str:
    """Replaces ``%x`` and ``${NAME}``; what is not known stays as it is."""

    def replacement(match: re.Match[str]) -> str:
        known = tokens.get(match[1]) if match[1] else os.environ.get(match[2])
        return match[0] if known is None else known

    return _TOKEN.sub(replacement, text)
