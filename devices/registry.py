"""The lab file: which devices there are and how to reach them.

A TOML file that people edit as well, so their comments and order are kept; written whole or not at
all, and under a lock, so that two processes that add a device at the same time both succeed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import platformdirs
import tomlkit
from tomlkit.exceptions import TOMLKitError

from devices.device import CONNECTIONS, ConnectionKind, DeviceEntry, Seen
from devices.meter_entry import check_meters
from results.errors import ConfigError, unknown_name
from results.settings import Settings

_TEXTS = ("address", "python", "directory", "board", "root")
_FILES = ("identity_file", "known_hosts", "ssh_config")


class Lab:
    """All devices of a lab file.

    Attributes:
        path: The lab file; it need not exist yet.
        entries: Devices by name, in the order of the file.
    """

    def __init__(self, path: Path, entries: Mapping[str, DeviceEntry]) -> None:
        self.path = path
        self.entries = dict(entries)

    @classmethod
    def load(cls, path: Path | None = None) -> Lab:
        """The lab of a file; a file that does not exist is an empty lab.

        Args:
            path: The lab file; ``lab.toml`` in the user's configuration directory by default.

        Raises:
            ConfigError: If the file cannot be used; the message names file, table, key and value.
        """
        path = path or platformdirs.user_config_path("boardwise") / "lab.toml"
        return cls(path, _entries(_read(path), path))

    @property
    def known_hosts(self) -> Path:
        """Boardwise's own file of trusted host keys."""
        return self.path.absolute().parent / "known_hosts"

    def entry(self, name: str) -> DeviceEntry:
        """The device of a name.

        Raises:
            ConfigError: If there is none, with the nearest names that there are.
        """
        if name not in self.entries:
            raise ConfigError(
                f"{self.path}: {unknown_name('device', name, self.entries)}"
                " (`boardwise devices list` shows all, `boardwise devices add` adds one)"
            )
        return self.entries[name]

    def add(self, entry: DeviceEntry) -> None:
        """Adds a device to the file, beside what others have added in the meantime.

        Raises:
            ConfigError: If the name is taken, or the file cannot be read or written.
        """
        with self._locked():
            document = _read(self.path)
            if entry.name in _entries(document, self.path):
                raise ConfigError(
                    f"{self.path}: [devices.{entry.name}] is there already; choose another name,"
                    f" or remove it first: boardwise devices remove {entry.name}"
                )
            devices = document.setdefault("devices", tomlkit.table(is_super_table=True))
            if isinstance(devices, tomlkit.items.InlineTable):
                raise ConfigError(
                    f"{self.path}: devices = {{...}} on one line cannot be added to;"
                    " write each device as a table of its own, [devices.NAME]"
                )
            devices[entry.name] = _table(entry, self.known_hosts)
            self._replace(tomlkit.dumps(document))

    def update(self, name: str, board: str, seen: Seen) -> None:
        """Writes anew what a device is; everything else in its table stays as it was written.

        Raises:
            ConfigError: If there is none of that name, or the file cannot be read or written.
        """
        with self._locked():
            document = _read(self.path)
            self.entries = _entries(document, self.path)
            self.entry(name)
            table = cast(Any, document["devices"])[name]
            table["board"] = board
            table.setdefault("seen", {}).update(dataclasses.asdict(seen))
            self._replace(tomlkit.dumps(document))

    def remove(self, name: str) -> None:
        """Takes a device out of the file; its host key stays trusted.

        Raises:
            ConfigError: If there is none of that name, or the file cannot be read or written.
        """
        with self._locked():
            document = _read(self.path)
            self.entries = _entries(document, self.path)
            self.entry(name)
            wanted = {key: entry for key, entry in self.entries.items() if key != name}
            text = _without(tomlkit.dumps(document), name)
            if _entries(_parse(text, self.path), self.path) != wanted:
                # Written in a way that whole lines cannot be cut from, such as an inline table.
                del cast(Any, document["devices"])[name]
                text = tomlkit.dumps(document)
            self._replace(text)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone with the file; the lock lies beside it because the file itself is replaced."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = self.path.with_name(self.path.name + ".lock").open("a")
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written: {error.strerror}") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _replace(self, text: str) -> None:
        entries = _entries(_parse(text, self.path), self.path)
        _write(self.path, text)
        self.entries = entries


def _read(path: Path) -> tomlkit.TOMLDocument:
    try:
        return _parse(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        return tomlkit.document()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _parse(text: str, path: Path) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(text)
    except RecursionError as error:
        raise ConfigError(f"{path}: its values are nested too deeply") from error
    except (TOMLKitError, ValueError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _without(text: str, name: str) -> str:
    """The text without the tables of a device, but with the comments that stand above the next one.

    (tomlkit counts those to the table before them and would take them out as well.)
    """
    kept: list[str] = []
    section: list[str] = []
    inside = False
    mine = re.compile(rf"\s*\[\s*devices\s*\.\s*([\"']?){re.escape(name)}\1\s*[.\]]")
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith("["):
            kept += _trailing_comments(section)
            section, inside = [], mine.match(line) is not None
        (section if inside else kept).append(line)
    return "".join(kept + _trailing_comments(section))


def _trailing_comments(section: list[str]) -> list[str]:
    """What follows the last value of a section: from the first blank line on, if there is one."""
    start = len(section)
    while start and (not section[start - 1].strip() or section[start - 1].lstrip().startswith("#")):
        start -= 1
    tail = section[start:]
    blank = next((i for i, line in enumerate(tail) if not line.strip()), 0)
    return tail[blank:]


def _write(path: Path, text: str) -> None:
    target = path.resolve()  # a link to a file kept elsewhere stays a link
    name = ""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, name)
        Path(name).replace(target)
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def _entries(document: tomlkit.TOMLDocument, path: Path) -> dict[str, DeviceEntry]:
    top = Settings(document.unwrap(), str(path))
    devices = top.table("devices")
    top.done()
    entries = {name: _entry(devices.table(name), name, path) for name in devices.keys()}  # noqa: SIM118
    try:
        check_meters({name: entry.meter for name, entry in entries.items()})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return entries


def _entry(settings: Settings, name: str, path: Path) -> DeviceEntry:
    settings.where = f"{path}: [devices.{name}]"
    connection = cast(ConnectionKind, settings.take_name("connection", CONNECTIONS, "ssh"))
    values: dict[str, Any] = {key: settings.take_optional(key, str) for key in (*_TEXTS, *_FILES)}
    values = {key: value for key, value in values.items() if value is not None}
    values |= {
        key: str(path.absolute().parent / Path(values[key]).expanduser()) for key in _FILES if key in values
    }
    if connection == "ssh":
        values.setdefault("known_hosts", str(path.absolute().parent / "known_hosts"))
    switch = settings.table("power_switch").rest()
    meter = settings.table("meter").rest()
    seen = _seen(settings.table("seen"), f"{path}: [devices.{name}.seen]")
    settings.done()
    try:
        return DeviceEntry(name, connection, power_switch=switch, meter=meter, seen=seen, **values)
    except ConfigError as error:
        raise ConfigError(f"{settings.where}: {error}") from error


def _seen(settings: Settings, where: str) -> Seen | None:
    if not settings.keys():
        return None
    settings.where = where
    kinds = {"cpus": int, "memory_bytes": int}
    values = {f.name: settings.take(f.name, kinds.get(f.name, str)) for f in dataclasses.fields(Seen)}
    settings.done()
    return Seen(**cast(Any, values))


def _table(entry: DeviceEntry, known_hosts: Path) -> tomlkit.items.Table:
    """Only what differs from the defaults is written."""
    table = tomlkit.table()
    for f in dataclasses.fields(entry):
        value = getattr(entry, f.name)
        plain = f.name not in ("name", "power_switch", "meter", "seen")
        if plain and (f.name == "connection" or value != f.default) and value != str(known_hosts):
            table[f.name] = value
    for name in ("power_switch", "meter"):
        if getattr(entry, name):
            table[name] = dict(getattr(entry, name))
    if entry.seen:
        table["seen"] = dataclasses.asdict(entry.seen)
    return table
