"""What a board is: its model, CPUs, memory, system and runtimes.  Nothing is imported to find out."""

from __future__ import annotations

import hashlib
import os
import sys
from typing import Any, Dict, List, Optional

from . import metering
from .cpus import clusters
from .files import field_of, read_text
from .governor import clock_settings
from .packages import installed_runtimes


def probe(root: str, directory: str) -> Dict[str, Any]:
    """Everything about the board that a lab file, a preflight or an environment needs.

    Args:
        root: Where the board's file tree starts.
        directory: The agent's own directory.
    """
    disk = os.statvfs(directory)
    groups = clusters(root)
    found = metering.found(root)
    return {
        "model": _model(root),
        "machine": os.uname().machine,
        "unit": _unit(root),
        "kernel": os.uname().release,
        "os": _os_name(root),
        "libc": _libc(),
        "python": "%d.%d.%d" % sys.version_info[:3],
        "cpus": len(os.sched_getaffinity(0)),
        "clusters": [[group.max_hz, list(group.cpus)] for group in groups],
        "memory_bytes": 1024 * (field_of(_read(root, "proc/meminfo"), "MemTotal") or 0),
        "governor": _governor(root, groups[0].cpus[0] if groups else 0),
        "runtimes": installed_runtimes(directory),
        "meters": [name for name, each in found.items() if not each.problem],
        "meter_problems": {name: each.problem for name, each in found.items() if each.problem},
        "boot_id": boot_id(root),
        "disk_free_bytes": disk.f_bavail * disk.f_frsize,
        "settings": clock_settings(root),
        "emulated": _emulated(root),
    }


def boot_id(root: str) -> str:
    """Changes with every start of the machine; equal for all its containers."""
    return _read(root, "proc/sys/kernel/random/boot_id") or "unknown"


def _read(root: str, path: str) -> Optional[str]:
    return read_text(os.path.join(root, path))


def _first(root: str, candidates: List[str]) -> Optional[str]:
    return next((text for text in (_read(root, path) for path in candidates) if text), None)


def _model(root: str) -> str:
    named = _first(root, ["proc/device-tree/model", "sys/firmware/devicetree/base/model"])
    maker = _read(root, "sys/class/dmi/id/sys_vendor")
    product = _read(root, "sys/class/dmi/id/product_name")
    if named or product:
        return named or " ".join(filter(None, (maker, product)))
    for line in (_read(root, "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("Model", "Hardware", "model name") and value.strip():
            return value.strip()
    return os.uname().machine


def _unit(root: str) -> str:
    """Tells two boards of one model apart.  Hashed, since a serial number is nobody else's business."""
    serial = _first(
        root,
        ["proc/device-tree/serial-number", "sys/firmware/devicetree/base/serial-number", "etc/machine-id"],
    )
    return hashlib.sha256(serial.encode()).hexdigest()[:16] if serial else "unknown"


def _os_name(root: str) -> str:
    for line in (_first(root, ["etc/os-release", "usr/lib/os-release"]) or "").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip("\"'")
    return os.uname().sysname


def _libc() -> str:
    try:
        name = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        name = None
    if name:
        return name
    return "musl" if "musl" in (read_text("/proc/self/maps") or "") else "unknown"


def _emulated(root: str) -> str:
    """What emulates the board; its kernel was told, so no board can lose the label."""
    words = (_read(root, "proc/cmdline") or "").split()
    return next((word.partition("=")[2] for word in words if word.startswith("boardwise.emulated=")), "")


def _governor(root: str, cpu: int) -> str:
    return _read(root, "sys/devices/system/cpu/cpu%d/cpufreq/scaling_governor" % cpu) or "unknown"
