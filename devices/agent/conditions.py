"""State of the board around a session: temperature, clock, throttling, what else ran.

Where each figure comes from:

* temperature: thermal zones of the SoC (names: Linux device trees, x86 drivers), else hwmon; the hottest
* clock: ``scaling_cur_freq`` of the CPUs used, the fastest; the share of time below the greatest one from
  cpufreq's ``time_in_state``
* throttling: Raspberry Pi firmware's ``get_throttled`` (bits 0-3 now, 16-19 since start) and under-voltage
  alarm; cooling devices that slow a processor; Jetson's over-current counters; x86 throttle counters; a
  ``scaling_max_freq`` that falls
* other work: CPU time of the whole board (``/proc/stat``) less that of the session's own process
* pressure: ``/proc/pressure/cpu``, the total, not the averages (they lag by 10 s)

A board that does not have one of them gives None for it.
"""

from __future__ import annotations

import os
import resource
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .files import field_of, paths, read_int, read_text

SOC_ZONES = ("cpu", "soc", "gpu", "pkg_temp", "tj", "bigcore", "littlecore", "center")
SLOWING = ("cpu", "gpu", "processor", "devfreq")
"""Cooling devices that cool by slowing a processor down; fans, batteries and offsets do not."""
CPU_HWMON = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
PLAUSIBLE_C = (-40.0, 150.0)
LIVE_BITS, STICKY_BITS = 0x0000F, 0xF0000


class Reading(NamedTuple):
    """One look at the board."""

    temperature_c: Optional[float]
    clock_hz: Optional[float]
    levels: Tuple[Tuple[str, int], ...]
    counters: Tuple[Tuple[str, int], ...]
    firmware: Optional[int]
    load_average: Optional[float]
    pressure_us: Optional[int]
    swapped_pages: Optional[int]
    involuntary_switches: int
    major_faults: int
    clock_limits: Tuple[Tuple[str, int], ...]
    time_in_state: Tuple[Tuple[int, int], ...]
    busy_s: Optional[float]
    own_s: float


class Sensors:
    """Finds the files once, reads them often.

    Args:
        root: Where the board's file tree starts; ``/`` on a real board.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._temperatures = _temperature_paths(root)
        self._levels = _cooling_paths(root) + paths(root, "sys/class/hwmon/hwmon*/in0_lcrit_alarm")
        self._counters = _counter_paths(root)
        self._clock_limits = paths(root, "sys/devices/system/cpu/cpufreq/policy*/scaling_max_freq")
        self._firmware = paths(root, "sys/devices/platform/soc*/*firmware/get_throttled")[:1]

    def read(self, cpus: Sequence[int]) -> Reading:
        """The board now; the clock is that of ``cpus``."""
        vmstat = read_text(os.path.join(self._root, "proc/vmstat"))
        swapped = [field_of(vmstat, key) for key in ("pswpin", "pswpout")]
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return Reading(
            temperature_c=self.temperature_c(),
            clock_hz=self._clock_hz(cpus),
            levels=_read_all(self._levels),
            counters=_read_all(self._counters),
            firmware=read_int(self._firmware[0], 16) if self._firmware else None,
            load_average=self._load_average(),
            pressure_us=self._pressure_us(),
            swapped_pages=None if None in swapped else sum(n or 0 for n in swapped),
            involuntary_switches=usage.ru_nivcsw,
            major_faults=usage.ru_majflt,
            clock_limits=_read_all(self._clock_limits),
            time_in_state=self._time_in_state(cpus),
            busy_s=self._busy_s(),
            own_s=usage.ru_utime + usage.ru_stime,
        )

    def _time_in_state(self, cpus: Sequence[int]) -> Tuple[Tuple[int, int], ...]:
        """Ticks at each clock [kHz], of all ``cpus`` together."""
        name = os.path.join(self._root, "sys/devices/system/cpu/cpu%d/cpufreq/stats/time_in_state")
        ticks: Dict[int, int] = {}
        for cpu in cpus:
            for line in (read_text(name % cpu) or "").splitlines():
                words = line.split()
                if len(words) == 2 and words[0].isdigit() and words[1].isdigit():
                    ticks[int(words[0])] = ticks.get(int(words[0]), 0) + int(words[1])
        return tuple(sorted(ticks.items()))

    def _busy_s(self) -> Optional[float]:
        """CPU time that the whole board has spent working (proc(5): user, nice, system, irq, softirq)."""
        words = (read_text(os.path.join(self._root, "proc/stat")) or "").split("\n", 1)[0].split()
        if len(words) < 8 or words[0] != "cpu" or not all(word.isdigit() for word in words[1:]):
            return None
        user, nice, system, _idle, _iowait, irq, softirq = (int(word) for word in words[1:8])
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")

    def temperature_c(self) -> Optional[float]:
        """The hottest SoC zone now."""
        readings = [read_int(path) for path in self._temperatures]
        degrees = [milli / 1000.0 for milli in readings if milli is not None]
        return max((c for c in degrees if PLAUSIBLE_C[0] <= c <= PLAUSIBLE_C[1]), default=None)

    def _clock_hz(self, cpus: Sequence[int]) -> Optional[float]:
        folder = os.path.join(self._root, "sys/devices/system/cpu/cpu%d/cpufreq/scaling_cur_freq")
        clocks = [read_int(folder % cpu) for cpu in cpus]
        return max((1000.0 * khz for khz in clocks if khz), default=None)

    def _load_average(self) -> Optional[float]:
        text = read_text(os.path.join(self._root, "proc/loadavg"))
        try:
            return float(text.split()[0]) if text else None
        except ValueError:
            return None

    def _pressure_us(self) -> Optional[int]:
        text = read_text(os.path.join(self._root, "proc/pressure/cpu")) or ""
        some = text.splitlines()[:1]
        total = some[0].rpartition("total=")[2] if some else ""
        return int(total) if total.isdigit() else None


def between(before: Reading, after: Reading, wall_s: float) -> Dict[str, Any]:
    """Conditions of a session that took ``wall_s`` between two readings, named as in the store."""
    return {
        "temperature_before_c": before.temperature_c,
        "temperature_after_c": after.temperature_c,
        "clock_before_hz": before.clock_hz,
        "clock_after_hz": after.clock_hz,
        "throttle_events": _throttle_events(before, after),
        "load_average": before.load_average,
        "cpu_pressure": _share(before.pressure_us, after.pressure_us, wall_s),
        "involuntary_switches": after.involuntary_switches - before.involuntary_switches,
        "major_faults": after.major_faults - before.major_faults,
        "swapped_pages": _rise(before.swapped_pages, after.swapped_pages),
        "clock_low_share": _low_share(before.time_in_state, after.time_in_state),
        "others_cpus": _others_cpus(before, after, wall_s),
    }


def _throttle_events(before: Reading, after: Reading) -> Optional[int]:
    if before.firmware is None and not (before.levels or before.counters or before.clock_limits):
        return None
    allowed = dict(before.clock_limits)
    events = len({name for name, level in before.levels + after.levels if level > 0})
    events += sum(khz < allowed.get(name, khz) for name, khz in after.clock_limits)
    counted = dict(before.counters)
    events += sum(max(0, count - counted.get(name, count)) for name, count in after.counters)
    if before.firmware is not None and after.firmware is not None:
        live = (before.firmware | after.firmware) & LIVE_BITS
        fresh = (after.firmware & ~before.firmware & STICKY_BITS) >> 16
        events += bin(live | fresh).count("1")
    return events


def _low_share(before: Tuple[Tuple[int, int], ...], after: Tuple[Tuple[int, int], ...]) -> Optional[float]:
    """Share of the time between two readings that was spent below the greatest clock there is."""
    earlier = dict(before)
    ticks = {khz: max(0, count - earlier.get(khz, 0)) for khz, count in after}
    total = sum(ticks.values())
    return (total - ticks[max(ticks)]) / total if total else None


def _others_cpus(before: Reading, after: Reading, wall_s: float) -> Optional[float]:
    """CPUs that others kept busy; one tick of rounding on every CPU is no work."""
    if before.busy_s is None or after.busy_s is None or wall_s <= 0:
        return None
    rounding_s = (os.cpu_count() or 1) / os.sysconf("SC_CLK_TCK")
    others_s = after.busy_s - before.busy_s - (after.own_s - before.own_s) - rounding_s
    return max(0.0, others_s) / wall_s


def _share(before_us: Optional[int], after_us: Optional[int], wall_s: float) -> Optional[float]:
    rise_us = _rise(before_us, after_us)
    if rise_us is None or wall_s <= 0:
        return None
    return min(1.0, rise_us / 1e6 / wall_s)


def _rise(before: Optional[int], after: Optional[int]) -> Optional[int]:
    return None if before is None or after is None else max(0, after - before)


def _read_all(files: Sequence[str]) -> Tuple[Tuple[str, int], ...]:
    values = ((path, read_int(path)) for path in files)
    return tuple((path, value) for path, value in values if value is not None)


def _temperature_paths(root: str) -> List[str]:
    zones = [
        os.path.join(zone, "temp")
        for zone in paths(root, "sys/class/thermal/thermal_zone*")
        if any(word in (read_text(os.path.join(zone, "type")) or "").lower() for word in SOC_ZONES)
    ]
    return zones or [
        path
        for chip in paths(root, "sys/class/hwmon/hwmon*")
        if read_text(os.path.join(chip, "name")) in CPU_HWMON
        for path in paths(chip, "temp[0-9]*_input")
    ]


def _cooling_paths(root: str) -> List[str]:
    return [
        os.path.join(device, "cur_state")
        for device in paths(root, "sys/class/thermal/cooling_device*")
        if any(word in (read_text(os.path.join(device, "type")) or "").lower() for word in SLOWING)
    ]


def _counter_paths(root: str) -> List[str]:
    # The third over-current counter of small Jetson modules ticks all the time, so it tells nothing.
    return (
        paths(root, "sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count")
        + paths(root, "sys/class/hwmon/hwmon*/oc1_event_cnt")
        + paths(root, "sys/class/hwmon/hwmon*/oc2_event_cnt")
    )
