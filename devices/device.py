"""A device as the lab file describes it, and the connection to it.

A device is one physical unit: two boards of one model are two devices, because identical boards
disagree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import platformdirs

from devices.connection import Connection
from devices.meter_entry import MeterEntry
from devices.ssh_config import SshAddress
from results.errors import ConfigError
from results.records import Option

if TYPE_CHECKING:
    from devices.ssh import SshConnection  # imports this module, and paramiko, which takes its time

ConnectionKind = Literal["ssh", "local", "replay"]
CONNECTIONS: tuple[str, ...] = get_args(ConnectionKind)

AskSecret = Callable[[str], str | None]
"""Asks the person at the terminal for a passphrase or password; None means there is nobody to ask."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Seen:
    """What a board said of itself when it was added to the lab file.

    Attributes:
        at: When, ISO 8601.
        model: Board model as the board names itself.
        unit: Hash that tells this unit from its twins.
        machine: Instruction set, such as ``aarch64``.
        os: Operating system.
        libc: C library.
        python: Version of its Python.
        cpus: Number of CPUs.
        memory_bytes: Memory.
    """

    at: str
    model: str
    unit: str
    machine: str
    os: str
    libc: str
    python: str
    cpus: int
    memory_bytes: int


@dataclass(frozen=True)
class DeviceEntry:
    """One entry of the lab file.

    Attributes:
        name: Name in studies, limits and file names: letters, digits, ``-`` and ``_``.
        connection: ``ssh``, ``local`` (this very machine) or ``replay`` (answers from stored figures).
        address: For ssh ``[user@]host[:port]``, where host may be an alias of the user's ssh
            configuration; for replay where the figures are; empty for local.
        python: Python on the device, a name or a path.
        directory: Boardwise's directory on the device; relative to the login's home.
        board: Board model: a file in ``devices/boards/``.
        root: Where the device's file tree starts, for what is read from ``/proc`` and ``/sys``; emulated
            boards have a tree of their own.
        identity_file: Private key for ssh; None for what ``ssh`` itself would take.
        known_hosts: Where the device's host key is kept; None for Boardwise's own file beside the lab file.
        ssh_config: Configuration for ssh; None for the user's own.
        power_switch: ``kind`` and the options of the switch that can cut the device's power.
        meter: ``kind``, ``on`` and the options of the power meter that the device is wired to; empty for
            the one that it has itself, if it has one.
        seen: What the device was when it was added.

    Raises:
        ConfigError: If a value cannot be used; the message names key, value and what is wanted.
    """

    name: str
    connection: ConnectionKind = "ssh"
    address: str = ""
    python: str = "python3"
    directory: str = ".cache/boardwise"
    board: str = "generic-linux"
    root: str = "/"
    identity_file: str | None = None
    known_hosts: str | None = None
    ssh_config: str | None = None
    power_switch: Mapping[str, Option] = field(default_factory=dict)
    meter: Mapping[str, Option] = field(default_factory=dict)
    seen: Seen | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.connection not in CONNECTIONS:
            raise ConfigError(f"connection must be one of {', '.join(CONNECTIONS)}, got {self.connection!r}")
        self._check_address()
        for key in ("python", "directory", "board"):
            if not getattr(self, key).strip():
                raise ConfigError(f"{key} must not be empty, got {getattr(self, key)!r}")
        if self.directory.startswith("~"):
            raise ConfigError(
                f"directory = {self.directory!r}: leave out '~/', a relative path starts at the login's home"
            )
        if self.power_switch and not isinstance(self.power_switch.get("kind"), str):
            raise ConfigError(
                f"power_switch must name its kind (emulated boards have kind = 'qemu'), got "
                f"{dict(self.power_switch)}"
            )
        if self.meter:
            MeterEntry.of(self.meter)

    def _check_address(self) -> None:
        if self.connection == "local" and self.address:
            raise ConfigError(f"address must be left out for a local device, got {self.address!r}")
        if self.connection != "local" and not self.address:
            wanted = "[user@]host[:port]" if self.connection == "ssh" else "where the figures are"
            raise ConfigError(f"address is missing; connection {self.connection!r} needs {wanted}")
        if self.connection == "ssh":
            try:
                SshAddress.parse(self.address)
            except ConfigError as error:
                raise ConfigError(f"address = {self.address!r}: {error}") from error


def check_name(name: str) -> None:
    """Refuses a device name that could not stand in file names and limits.

    Raises:
        ConfigError: With the name and the rule.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"device name {name!r}: may have only letters, digits, '-' and '_', and starts with a letter or"
            " digit, because it becomes part of file names"
        )


def connect(entry: DeviceEntry, *, ask_secret: AskSecret | None = None) -> Connection:
    """A connection to a device; the caller closes it.

    Args:
        entry: The device.
        ask_secret: Asks for a passphrase or password where the device wants one.

    Raises:
        ConfigError: For a replay device, which is no machine.
    """
    if entry.connection == "ssh":
        return connect_ssh(entry, ask_secret=ask_secret)
    if entry.connection == "local":
        from devices.local import LocalConnection

        return LocalConnection(entry.name)
    raise ConfigError(
        f"device {entry.name!r} answers from stored figures and is no machine to connect to;"
        " harness/config.py composes replay devices, for searches alone"
    )


def connect_ssh(entry: DeviceEntry, *, ask_secret: AskSecret | None = None) -> SshConnection:
    """The connection to an ssh device, which can also show the device's host key before it is trusted."""
    from devices.ssh import SshConnection
    from devices.ssh_route import SshSettings

    own = platformdirs.user_config_path("boardwise") / "known_hosts"
    settings = SshSettings(
        SshAddress.parse(entry.address),
        known_hosts=Path(entry.known_hosts) if entry.known_hosts else own,
        identity_file=Path(entry.identity_file) if entry.identity_file else None,
        config_file=Path(entry.ssh_config) if entry.ssh_config else None,
    )
    return SshConnection(entry.name, settings, ask_secret=ask_secret)
