"""What an emulated board's sensors say: a documented model of power and heat, driven by a script.

* power: ``P = idle + load * (busy - idle)``, load in 0..1; a throttled board takes the load's part by half
* heat: one thermal mass, ``tau * dT/dt = ambient + R * P - T``, solved exactly over each step
* throttling: from the soft limit on, until it is 3 °C below; flag, clock and power follow

Nothing of it is measured: energy that is computed from it is labelled as modelled.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from results.errors import ConfigError

HYSTERESIS_C = 3.0
THROTTLED_SHARE = 0.5


@dataclass(frozen=True)
class PowerModel:
    """Constants of one model of board.

    Attributes:
        idle_w: Power at rest.
        busy_w: Power at full load.
        resistance_c_per_w: Thermal resistance to the air.
        time_constant_s: Of warming and cooling.
        ambient_c: Temperature of the air.
        soft_limit_c: Where it begins to throttle.
        rail: Name of the rail whose power an INA3221 shows; empty where the board has none.
        pmic: Whether the firmware tells of the power controller's rails, as a Raspberry Pi 5's does.
    """

    idle_w: float
    busy_w: float
    resistance_c_per_w: float
    time_constant_s: float
    ambient_c: float
    soft_limit_c: float
    rail: str = ""
    pmic: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.idle_w <= self.busy_w or self.resistance_c_per_w <= 0 or self.time_constant_s <= 0:
            raise ConfigError(f"a power model needs 0 < idle <= busy and positive constants, got {self}")

    def power_w(self, load: float, throttled: bool = False) -> float:
        """Power at a load in 0..1 [W]."""
        share = load * (THROTTLED_SHARE if throttled else 1.0)
        return self.idle_w + share * (self.busy_w - self.idle_w)

    @property
    def rest(self) -> State:
        """The board after a long rest."""
        return State(0.0, self.idle_w, self.ambient_c + self.resistance_c_per_w * self.idle_w, False)


@dataclass(frozen=True)
class State:
    """The board at one moment.

    Attributes:
        at_s: When, since the script's start.
        power_w: Power; None while the sensors are silent.
        temperature_c: Temperature of the SoC; None while the sensors are silent.
        throttled: Whether it throttles.
    """

    at_s: float
    power_w: float | None
    temperature_c: float | None
    throttled: bool


@dataclass(frozen=True)
class Script:
    """What a board goes through.

    Attributes:
        load: Load in 0..1 at a time since the start [s].
        duration_s: How long it lasts; the last state stays.
        gap_s: From when to when the sensors are silent; None for never.
        ambient_c: Temperature of the air; None for the model's.
    """

    load: Callable[[float], float]
    duration_s: float
    gap_s: tuple[float, float] | None = None
    ambient_c: float | None = None


def constant(load: float, duration_s: float) -> Script:
    """One load all the time."""
    return Script(lambda at_s: load, duration_s)


def ramp(first: float, last: float, duration_s: float) -> Script:
    """A load that rises or falls evenly."""
    return Script(lambda at_s: first + (last - first) * min(1.0, at_s / duration_s), duration_s)


def heat(ambient_c: float, duration_s: float) -> Script:
    """Full load in hot air, so that the board throttles."""
    return Script(lambda at_s: 1.0, duration_s, ambient_c=ambient_c)


def sensor_gap(load: float, duration_s: float, gap_s: tuple[float, float]) -> Script:
    """One load, and sensors that are silent for a while."""
    return Script(lambda at_s: load, duration_s, gap_s=gap_s)


def states(model: PowerModel, script: Script, step_s: float = 0.1) -> Iterator[State]:
    """What the sensors say, from the script's start to its end, a state per step.

    Raises:
        ConfigError: If the script asks for a load outside of 0..1.
    """
    ambient_c = model.ambient_c if script.ambient_c is None else script.ambient_c
    temperature_c = ambient_c + model.resistance_c_per_w * model.idle_w
    decay, throttled = math.exp(-step_s / model.time_constant_s), False
    for number in range(round(script.duration_s / step_s) + 1):
        at_s = number * step_s
        load = script.load(at_s)
        if not 0.0 <= load <= 1.0:
            raise ConfigError(f"a load lies between 0 and 1, got {load:g} at {at_s:g} s")
        limit_c = model.soft_limit_c - (HYSTERESIS_C if throttled else 0.0)
        throttled = temperature_c >= limit_c
        power_w = model.power_w(load, throttled)
        silent = script.gap_s is not None and script.gap_s[0] <= at_s < script.gap_s[1]
        yield State(at_s, None if silent else power_w, None if silent else temperature_c, throttled)
        final_c = ambient_c + model.resistance_c_per_w * power_w
        temperature_c = final_c + (temperature_c - final_c) * decay


def energy_j(shown: Sequence[State]) -> float:
    """Energy of states that were all shown, by the trapezoidal rule [J]."""
    pairs = itertools.pairwise(shown)
    return sum((b.at_s - a.at_s) * ((a.power_w or 0.0) + (b.power_w or 0.0)) / 2 for a, b in pairs)
