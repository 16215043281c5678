"""The board's CPUs: which are fast, which share a core, and which a session should have."""

from __future__ import annotations

import os
from typing import Dict, List, NamedTuple, Set, Tuple

from .files import paths, read_int, read_text

CPU_GLOB = "sys/devices/system/cpu/cpu[0-9]*"


class Cluster(NamedTuple):
    """CPUs of one kind."""

    capacity: int
    max_hz: int
    cpus: Tuple[int, ...]


def clusters(root: str) -> List[Cluster]:
    """The board's CPUs grouped by speed, the fastest first; one group where the kernel does not tell.

    Speed is the scheduler's ``cpu_capacity`` (ARM), else the greatest clock.
    """
    groups: Dict[Tuple[int, int], List[int]] = {}
    for path in paths(root, CPU_GLOB):
        clock_khz = read_int(os.path.join(path, "cpufreq/cpuinfo_max_freq")) or 0
        capacity = read_int(os.path.join(path, "cpu_capacity")) or 0
        groups.setdefault((capacity, 1000 * clock_khz), []).append(_number(path))
    return [
        Cluster(speed[0], speed[1], tuple(sorted(groups[speed]))) for speed in sorted(groups, reverse=True)
    ]


def fastest_first(root: str, allowed: Set[int]) -> List[int]:
    """CPUs in the order in which a session should have them: whole cores of the fastest cluster first.

    The highest numbers come first, so that CPU 0, where most interrupts go, is the last of its kind.

    Args:
        root: Where the board's file tree starts.
        allowed: CPUs that this process may use; exactly these are given back.
    """
    second_of_a_core = _second_siblings(root)
    order: List[int] = []
    for cluster in clusters(root):
        order += sorted(cluster.cpus, key=lambda cpu: (cpu in second_of_a_core, -cpu))
    order += sorted(allowed.difference(order), reverse=True)
    return [cpu for cpu in order if cpu in allowed]


def _second_siblings(root: str) -> Set[int]:
    seconds: Set[int] = set()
    for path in paths(root, os.path.join(CPU_GLOB, "topology/thread_siblings_list")):
        seconds.update(_numbers(read_text(path) or "")[1:])
    return seconds


def _numbers(text: str) -> List[int]:
    """``"0-1,8"`` as ``[0, 1, 8]``."""
    found: List[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            found.extend(range(int(first), int(last or first) + 1))
    return sorted(found)


def _number(path: str) -> int:
    return int(os.path.basename(path)[len("cpu") :])
