"""Memory of this machine: what is left of it, and what a network needs at the least before it is drawn."""

from __future__ import annotations

import math
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path

from results.errors import OutOfMemory
from search.network import Network, Shape, costs, weight_shapes

COPIES = 4
"""Of the weights, at the least: training has them, their gradients and two moments of AdamW, and an export
them, those with folded batch norms, the message and its bytes."""

_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")
"""What PyTorch says on a CPU (Linux, Windows), on an accelerator, and where C++ says it."""

_UNLIMITED_BYTES = 2**60
_CGROUPS = Path("/sys/fs/cgroup")


def require_host_room(network: Network) -> None:
    """Refuses a network that this machine cannot hold, before any weight of it is drawn.

    Raises:
        OutOfMemory: If what is left of the memory is less than it needs at the least.
    """
    activation_bytes = costs(network).activation_bytes
    require_room_for(weight_shapes(network), network.fingerprint, activation_bytes)


def require_room_for(shapes: Mapping[str, Shape], candidate: str, activation_bytes: int = 0) -> None:
    """The same for float32 tensors by name, and the activations of one input."""
    needed_bytes = 4 * COPIES * sum(math.prod(shape) for shape in shapes.values()) + activation_bytes
    left_bytes = available_bytes()
    if needed_bytes > left_bytes:
        raise OutOfMemory(
            candidate,
            f"needs {needed_bytes / 1e9:.3g} GB of memory at the least, and this machine has "
            f"{left_bytes / 1e9:.3g} GB left: it was not made",
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy or PyTorch ran out of memory, on a CPU or an accelerator."""
    if isinstance(error, MemoryError):
        return True
    said = " ".join(each for each in error.args if isinstance(each, str))
    return isinstance(error, RuntimeError) and any(words in said for words in _NO_MEMORY)


def available_bytes() -> int:
    """Memory that this process can still get: swap counts, limits of its control groups hold [bytes]."""
    left = [_machine_bytes(), *(limit - used for limit, used in _limits_bytes())]
    return max(0, min(left))


def out_of_memory_kills() -> int:
    """Processes that the kernel killed so far for want of memory, here and in our control groups."""
    files = [Path("/proc/vmstat")]
    for folder in control_groups():
        files += [folder / "memory.events", folder / "memory.oom_control"]
    rows = [line.split() for file in files for line in _text(file).splitlines()]
    return sum(int(row[1]) for row in rows if len(row) == 2 and row[0] == "oom_kill")


def _machine_bytes() -> int:
    """What the kernel can give without taking anything from anybody (Linux: proc(5))."""
    rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return 1024 * sum(int(rows[name].split()[0]) for name in ("MemAvailable", "SwapFree") if name in rows)


def _limits_bytes() -> Iterator[tuple[int, int]]:
    """Limits, and what is used of each: of the address space, and of control groups of both versions."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        yield limit, resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
    for folder in control_groups():
        for most, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            found = [_number(folder / name) for name in (most, used)]
            if found[0] is not None and found[0] < _UNLIMITED_BYTES and found[1] is not None:
                yield found[0], found[1] - _cached_bytes(folder)


def control_groups() -> Iterator[Path]:
    """Folders of the control groups that bound this process's memory, from the innermost on (cgroups(7))."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            home = _CGROUPS / controllers
            inner = home / path.lstrip("/")
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(home))


def _cached_bytes(folder: Path) -> int:
    """File contents that the kernel keeps for the group, and lets go when memory is wanted."""
    rows = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
    return int(rows.get("total_inactive_file", rows.get("inactive_file", "0")))


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    """What a file of the kernel's says; nothing where there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""
