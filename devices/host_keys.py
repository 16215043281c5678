"""Host keys: which are trusted, which are not, and what to do about it.

Keys are looked up as OpenSSH does (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"): names with wildcards and
negations, hashed names, ``[host]:port``, and the bare name where nothing is said about the port.
``@revoked`` lines win over everything.  ``@cert-authority`` lines trust nothing here: host
certificates are not checked, so such a host must be trusted by its own key.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from results.errors import ConfigError, HostKeyError

_RSA_SIGNATURES = ("rsa-sha2-512", "rsa-sha2-256")


@dataclass(frozen=True)
class HostKey:
    """A key that a host has shown.

    Attributes:
        name: The host as known_hosts files call it: ``host`` or ``[host]:port``.
        algorithm: Such as ``ssh-ed25519``.
        blob: The public key, in SSH's wire format.
        trusted: Whether a known_hosts file holds it already.
    """

    name: str
    algorithm: str
    blob: bytes
    trusted: bool = False

    @property
    def fingerprint(self) -> str:
        """``SHA256:...``, as ``ssh`` and ``ssh-keygen -lf`` show it."""
        return fingerprint(self.blob)

    @property
    def line(self) -> str:
        """The line of a known_hosts file that trusts the key, without its end."""
        return f"{self.name} {self.algorithm} {base64.b64encode(self.blob).decode()}"


@dataclass(frozen=True)
class KnownHost:
    """One line of a known_hosts file."""

    marker: Literal["", "@revoked", "@cert-authority"]
    patterns: tuple[str, ...]
    algorithm: str
    blob: bytes
    file: Path
    line_number: int

    def matches(self, name: str) -> bool:
        """Whether the line speaks of a host; a negated pattern (``!name``) overrules the others."""
        found = False
        for pattern in self.patterns:
            if pattern.startswith("!"):
                if _matches(pattern[1:], name):
                    return False
            else:
                found = found or _matches(pattern, name)
        return found

    @property
    def place(self) -> str:
        """Where the line stands, for messages."""
        return f"{self.file}:{self.line_number}"


def fingerprint(blob: bytes) -> str:
    """``SHA256:`` and the unpadded base64 of the digest of a public key."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


class KnownHosts:
    """The known_hosts files that count for one host.

    Args:
        device: Name of the device, for errors.
        entries: Their lines, in order.
    """

    def __init__(self, device: str, entries: Sequence[KnownHost]) -> None:
        self._device = device
        self._entries = tuple(entries)

    @classmethod
    def read(cls, device: str, files: Iterable[Path]) -> KnownHosts:
        """Reads files; those that do not exist are empty, lines that cannot be read are passed over.

        Raises:
            HostKeyError: If a file exists but cannot be read: it might revoke the key.
        """
        entries: list[KnownHost] = []
        for file in dict.fromkeys(files):
            try:
                text = file.read_text(errors="replace")
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise HostKeyError(
                    device, f"cannot read the known hosts in {file}: {error.strerror}"
                ) from error
            lines = (_parse(line, file, number) for number, line in enumerate(text.splitlines(), 1))
            entries.extend(line for line in lines if line)
        return cls(device, entries)

    def algorithms(self, name: str) -> tuple[str, ...]:
        """Signature algorithms of the keys that are known for a host, to be asked for first."""
        found: list[str] = []
        for entry in self._trusted(name):
            found += _RSA_SIGNATURES if entry.algorithm == "ssh-rsa" else (entry.algorithm,)
        return tuple(dict.fromkeys(found))

    def check(self, key: HostKey) -> bool:
        """Whether a key is trusted; False where nothing is known of the host.

        Raises:
            HostKeyError: If the key is revoked, or the host is known by another key.
        """
        for entry in self._entries:
            if entry.marker == "@revoked" and entry.blob == key.blob and self._speaks_of(entry, key.name):
                raise HostKeyError(
                    self._device,
                    f"the {key.algorithm} key {key.fingerprint} of {key.name} is revoked in {entry.place};"
                    " do not log in there before it has a new key",
                )
        known = self._trusted(key.name)
        if any(entry.blob == key.blob for entry in known):
            return True
        if known:
            raise HostKeyError(self._device, _changed(key, known))
        return False

    def refuse_unknown(self, key: HostKey) -> None:
        """Raises the HostKeyError of a host that nothing is known of."""
        certified = any(e.marker == "@cert-authority" and self._speaks_of(e, key.name) for e in self._entries)
        note = " (host certificates, @cert-authority, are not checked)" if certified else ""
        raise HostKeyError(
            self._device,
            f"the host key of {key.name} is not known{note}: it shows the {key.algorithm} key"
            f" {key.fingerprint}; compare that with what the machine itself says there"
            " (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`), then trust it with `boardwise devices"
            " add`, or by connecting with `ssh` once",
        )

    def _trusted(self, name: str) -> list[KnownHost]:
        plain = [entry for entry in self._entries if not entry.marker]
        exact = [entry for entry in plain if entry.matches(name)]
        # As OpenSSH: a key of the host is good for its other ports unless something is said of this port.
        return exact or [entry for entry in plain if entry.matches(_without_port(name))]

    def _speaks_of(self, entry: KnownHost, name: str) -> bool:
        return entry.matches(name) or entry.matches(_without_port(name))


def trust(key: HostKey, file: Path) -> None:
    """Appends a key to a known_hosts file, which is made (readable for its owner alone) if need be.

    Raises:
        ConfigError: If the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600)
        text = file.read_bytes()
        with file.open("ab") as known_hosts:
            known_hosts.write(
                (b"" if text.endswith(b"\n") or not text else b"\n") + key.line.encode() + b"\n"
            )
    except OSError as error:
        raise ConfigError(f"cannot write the host key into {file}: {error.strerror}") from error


def _changed(key: HostKey, known: Sequence[KnownHost]) -> str:
    entry = next((e for e in known if e.algorithm == key.algorithm), known[0])
    return (
        f"the host key of {key.name} is not the one that was trusted. Trusted: {entry.algorithm}"
        f" {fingerprint(entry.blob)} ({entry.place}); shown now: {key.algorithm} {key.fingerprint}."
        " Somebody may be listening in, or the machine was set up anew. If you know that it was, forget"
        f" the old key with `ssh-keygen -R '{key.name}' -f '{entry.file}'` and trust the new one with"
        " `boardwise devices add`"
    )


def _parse(line: str, file: Path, number: int) -> KnownHost | None:
    fields = line.split()
    marker: Literal["", "@revoked", "@cert-authority"] = ""
    if fields and fields[0] in ("@revoked", "@cert-authority"):
        marker = "@revoked" if fields.pop(0) == "@revoked" else "@cert-authority"
    if len(fields) < 3 or fields[0].startswith(("#", "@")):
        return None
    try:
        blob = base64.b64decode(fields[2], validate=True)
    except binascii.Error:
        return None
    return KnownHost(marker, tuple(fields[0].split(",")), fields[1], blob, file, number)


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("|1|"):
        return _matches_hash(pattern, name)
    # Only * and ? are wild here; fnmatch would read the brackets of [host]:port as a set.
    return fnmatch.fnmatchcase(name, re.sub(r"\[", "[[]", pattern.lower()))


def _matches_hash(pattern: str, name: str) -> bool:
    """``|1|salt|HMAC-SHA1(salt, name)``, both in base64 (OpenSSH's HashKnownHosts)."""
    salt, _, digest = pattern[3:].partition("|")
    try:
        expected = hmac.digest(base64.b64decode(salt), name.encode(), "sha1")
        return hmac.compare_digest(expected, base64.b64decode(digest))
    except binascii.Error:
        return False


def _without_port(name: str) -> str:
    bracketed = re.fullmatch(r"\[(.+)\]:[0-9]+", name)
    return bracketed[1] if bracketed else name
