"""The current sensors of Jetson modules: INA3221 (three rails a chip), and INA238 for the input of Thor.

Two generations of drivers are understood: NVIDIA's ``ina3221x`` (JetPack 4, in iio, with rail names and a
power of its own) and the kernel's ``ina3221`` (JetPack 5 and later, in hwmon; power is voltage times
current).  Rails are told by their labels, never by the numbers of buses or files, which differ between
boards.  One of them may be the total; otherwise those that are known to add up to it are summed:

* AGX Orin: VDDQ_VDD2_1V8AO reads the same bus voltage as VIN_SYS_5V0 and is probably part of it, so it is
  read and kept, but not added (not yet checked against an external meter).
* AGX Xavier has no total either; its six rails are added.

The sensor looks at a rail's current for 1.1 ms of every 6.6 ms, so short pulses are seen by chance alone.
Averaging (``samples``) is a running mean on the chip with a time constant of about ``samples`` cycles.
"""

from __future__ import annotations

import math
import os
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

from ..failures import Failure
from ..files import paths, read_int, read_text
from ..metering import Facts, Found, Sample, SensorFile, Text, denied, stamped

OPTIONS = {"rails": Text("")}

TOTALS = ("VIN", "VDD_IN", "POM_5V_IN")
SUMS = (
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
)
UNUSED = ("", "NC")

CYCLE_S = 0.0066
"""Three channels of 1.1 ms for the bus and 1.1 ms for the shunt each (register value 0x7127, the default)."""

STEP_V = 40e-6
"""Step of the voltage over the shunt; current steps by this over the shunt's resistance."""

USUAL_SHUNT_OHM = 0.005
GAIN = math.hypot(0.0025, 0.01) / math.sqrt(3)
"""Greatest error of the chip's factor (0.25 %) and of the shunt (1 %, assumed), both taken as rectangular."""

OFFSET_V = 80e-6 / math.sqrt(3)
REMEDY = "let the login read it: sudo chmod a+r %s (until the next start)"


class Rail(NamedTuple):
    """Files of one rail: voltage [mV] and current [mA], or power [uW times ``power_w``]."""

    label: str
    voltage: str
    current: str
    power: str
    power_w: float
    shunt_ohm: float
    chip: str


def find(root: str) -> Optional[Found]:
    """Whether there are such sensors."""
    rails = _rails(root)
    if not rails:
        return None
    problems = [denied(path, REMEDY % path) for rail in rails for path in _files(rail)]
    return Found(next((problem for problem in problems if problem), ""))


class Ina3221:
    """All rails that are wired, one after another.

    Args:
        rails: Their files.
        total: Which of them add up to the figure.
        cycle: Time of one cycle [s], and how many of them the chip averages over.
    """

    def __init__(self, rails: List[Rail], total: Tuple[int, ...], cycle: Tuple[float, int]) -> None:
        self._rails = rails
        self._files = [_open(rail) for rail in rails]
        cycle_s, averaged = cycle
        steps = [self._step_w(rails[i], self._files[i]) for i in total]
        names = " + ".join(rails[i].label for i in total)
        single = len(total) == 1 and rails[total[0]].label in TOTALS
        self.facts = Facts(
            source="ina3221 %s: %s" % (", ".join(sorted({rails[i].chip for i in total})), names),
            coverage="module" if single else "rails",
            period_s=cycle_s,
            channels=tuple(rail.label for rail in rails),
            total=total,
            time_constant_s=cycle_s * averaged if averaged > 1 else 0.0,
            resolution_w=math.sqrt(sum(step * step for step in steps)),
            gain=GAIN,
            offset_w=OFFSET_V / STEP_V * math.sqrt(sum(step * step for step in steps)),
            leaves_out="carrier board, fan and storage",
        )

    @staticmethod
    def _step_w(rail: Rail, files: List[SensorFile]) -> float:
        if rail.power and not rail.voltage:
            return 0.0
        return STEP_V / rail.shunt_ohm * files[-1].read()

    def read(self) -> List[Sample]:
        """The power of every rail now [W]."""
        at_ns, powers = stamped(lambda: tuple(_power_w(files) for files in self._files))
        return [(at_ns, powers)]

    def close(self) -> None:
        """Closes the files."""
        for file in (file for files in self._files for file in files):
            file.close()


def open_meter(root: str, options: Dict[str, Any]) -> Ina3221:
    """The sensors of this machine; ``rails`` names those that add up, separated by commas.

    Raises:
        Failure: ``meter`` if there are none, or it is not known which rails add up.
    """
    rails = _rails(root)
    if not rails:
        raise Failure("meter", "no INA3221 found: neither ina3221x (iio) nor ina3221 (hwmon) has a device")
    return Ina3221(rails, _total([rail.label for rail in rails], options["rails"]), _cycle(root))


def _total(labels: List[str], named: str) -> Tuple[int, ...]:
    wanted = [name.strip() for name in named.split(",") if name.strip()]
    there = "the rails are " + ", ".join(labels)
    for name in wanted:
        if name not in labels:
            raise Failure("bad_option", "ina3221: there is no rail %.80r; %s" % (name, there))
    for name in TOTALS:
        if not wanted and name in labels:
            wanted = [name]
    for names in SUMS:
        if not wanted and set(names) <= set(labels):
            wanted = list(names)
    if not wanted:
        message = "ina3221: none is known as the total; name those that add up, rails = 'A, B'; " + there
        raise Failure("meter", message)
    return tuple(labels.index(name) for name in wanted)


def _power_w(files: List[SensorFile]) -> float:
    """Power file alone or first; else current times voltage."""
    return files[0].read() if len(files) != 2 else files[0].read() * files[1].read()


def _files(rail: Rail) -> List[str]:
    return [path for path in (rail.power, rail.current, rail.voltage) if path]


def _open(rail: Rail) -> List[SensorFile]:
    if rail.power:
        power = SensorFile(rail.power, rail.power_w, REMEDY % rail.power)
        # The voltage is read once, for the size of a step.
        return [power] if not rail.voltage else [power, power, SensorFile(rail.voltage, 1e-3)]
    return [SensorFile(path, 1e-3, REMEDY % path) for path in (rail.current, rail.voltage)]


def _rails(root: str) -> List[Rail]:
    seen: Set[str] = set()
    rails: List[Rail] = []
    patterns = ("sys/bus/i2c/drivers/ina3221*/*/%s", "sys/bus/i2c/devices/*/%s")
    for pattern in patterns:
        for folder in paths(root, pattern % "hwmon/hwmon*") + paths(root, pattern % "iio:device*"):
            real = os.path.realpath(folder)
            if real not in seen:
                seen.add(real)
                rails += _iio(folder) if "iio:device" in os.path.basename(folder) else _hwmon(folder)
    labels = [rail.label for rail in rails]
    return [rail for i, rail in enumerate(rails) if rail.label not in labels[:i]]


def _hwmon(folder: str) -> List[Rail]:
    name = read_text(os.path.join(folder, "name"))
    chip = _chip(os.path.dirname(os.path.dirname(folder)))
    if name == "ina238":
        power = os.path.join(folder, "power1_input")
        return [Rail("VIN", "", "", power, 1e-6, 0.0, chip)] if os.path.exists(power) else []
    if name != "ina3221":
        return []
    rails = []
    for number in (1, 2, 3):
        label = read_text(os.path.join(folder, "in%d_label" % number)) or ""
        if label not in UNUSED and read_text(os.path.join(folder, "in%d_enable" % number)) != "0":
            voltage = os.path.join(folder, "in%d_input" % number)
            current = os.path.join(folder, "curr%d_input" % number)
            micro = read_int(os.path.join(folder, "shunt%d_resistor" % number))
            rails.append(Rail(label, voltage, current, "", 0.0, (micro or 0) / 1e6 or USUAL_SHUNT_OHM, chip))
    return rails


def _iio(folder: str) -> List[Rail]:
    rails = []
    for number in (0, 1, 2):
        label = read_text(os.path.join(folder, "rail_name_%d" % number)) or ""
        power = os.path.join(folder, "in_power%d_input" % number)
        voltage = os.path.join(folder, "in_voltage%d_input" % number)
        if label not in UNUSED and os.path.exists(power):
            rails.append(
                Rail(label, voltage, "", power, 1e-3, USUAL_SHUNT_OHM, _chip(os.path.dirname(folder)))
            )
    return rails


def _chip(folder: str) -> str:
    """Bus and address, such as ``1-0040``."""
    return os.path.basename(folder)


def _cycle(root: str) -> Tuple[float, int]:
    """Time of a cycle [s] and number of samples averaged, the slowest chip's.

    Drivers differ in whether ``update_interval`` has the averaging in it.
    """
    slowest = (CYCLE_S, 1)
    for folder in paths(root, "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"):
        averaged = max(1, read_int(os.path.join(folder, "samples")) or 1)
        interval_s = (read_int(os.path.join(folder, "update_interval")) or 0) / 1000.0 or CYCLE_S
        if averaged > 1 and interval_s > 1.5 * CYCLE_S:
            interval_s /= averaged
        slowest = max(slowest, (max(interval_s, 0.001), averaged), key=lambda one: one[0] * one[1])
    return slowest
