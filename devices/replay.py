"""A device that answers from stored measurements: for repeatable tests, and to try a search again without
the board.  What it answers is labelled ``replayed`` wherever it is shown.

It is no machine: nothing is shipped or run.  A file is known by its graph (weights hardly ever change how
long a network takes, and an untrained file is what a screen measured) and by the target's runtime,
precision and options; the device's name may differ from the one that was measured.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from numpy.typing import NDArray

from devices.agent_replies import BoardFacts, Hello
from devices.board_agent import BoardAgent, SessionResult
from results.errors import RuntimeRefused
from results.power import ClockFit, Plateau, PowerTrace
from results.records import Artifact, Measurement, Plan, Target

Power = tuple[Plateau, tuple[PowerTrace, ...], tuple[ClockFit, ...]]
"""A plateau with its traces and the clocks around it."""

Known = tuple[str, str, str, tuple[tuple[str, Any], ...]]


class ReplayAgent(BoardAgent):
    """Answers sessions from measurements, each agent's in the order in which they were taken, then again.

    Args:
        device: Name of the device.
        measurements: What it may answer from; of a plan it does not have, it answers from any other.

    Raises:
        RuntimeRefused: From :meth:`session`, for a file that was never measured.
    """

    origin = "replayed"

    def __init__(self, device: str, measurements: Iterable[Measurement]) -> None:
        self.device = device
        self._known: dict[Known, dict[str, Measurement]] = defaultdict(dict)
        self._given: dict[tuple[Known, str, int], int] = defaultdict(int)
        self._given_power: dict[tuple[Known, str, int], int] = defaultdict(int)
        for measurement in measurements:
            self._known[_key(measurement.artifact, measurement.target)][measurement.plan.name] = measurement
        self.hello = Hello("replay", platform.python_version(), "replay", f"replay of {device}", 1)

    def probe(self) -> BoardFacts:
        """The facts of the board that was measured, as far as its measurements have them."""
        environment = (
            next(iter(next(iter(self._known.values())).values())).environment if self._known else None
        )
        fact = environment.get if environment else (lambda key, default="unknown": default)
        cpus = fact("cpus", "1")
        return BoardFacts(
            model=fact("model"),
            machine=fact("machine"),
            unit=fact("unit"),
            kernel=fact("kernel"),
            os=fact("os"),
            libc=fact("libc"),
            python=fact("python"),
            cpus=int(cpus) if cpus.isdecimal() else 1,
            clusters=(),
            memory_bytes=0,
            governor=fact("governor"),
            runtimes={},
            meters=(),
            boot_id=self.hello.boot_id,
            disk_free_bytes=0,
            emulated=fact("emulated", ""),
        )

    def missing(self, sha256s: Sequence[str]) -> list[str]:
        """None: nothing needs to be shipped."""
        return []

    def put(self, sha256: str, data: bytes) -> None:
        """Does nothing: there is no board to put it on."""

    def session(
        self,
        artifact: Artifact,
        target: Target,
        plan: Plan,
        *,
        role: Literal["model", "reference"] = "model",
        agent: int = 0,
        seed: int = 0,
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> SessionResult:
        """The next stored session of this file."""
        key, name = self._looked_up(artifact, target, plan)
        measurement = self._known[key][name]
        of_role = [s for s in measurement.sessions if s.role == role]
        if not of_role:
            raise RuntimeRefused(
                artifact.sha256, f"{self.device} replays, and has no {role} session of this file"
            )
        sessions = [s for s in of_role if s.agent == agent] or of_role
        number = self._given[key, name, agent]
        self._given[key, name, agent] += 1
        stored = sessions[number % len(sessions)]
        return SessionResult(replace(stored, agent=agent), measurement.ran_on)

    def power(self, artifact: Artifact, target: Target, plan: Plan, *, agent: int) -> Power | str:
        """The next stored plateau of this file with what its meter gave, or why there is none.

        Its traces and clocks are numbered as if it were the only one.

        Raises:
            RuntimeRefused: For a file that was never measured.
        """
        key, name = self._looked_up(artifact, target, plan)
        # A plan without energy has none to give; another plan of this file may.
        plans = self._known[key]
        stored = next((m for m in (plans[name], *plans.values()) if m.plateaus), None)
        if stored is None:
            said = plans[name].energy_note
            return f"replayed: when it was measured, {said}" if said else "replayed: no power was stored"
        numbers = [k for k, p in enumerate(stored.plateaus) if p.agent == agent]
        numbers = numbers or list(range(len(stored.plateaus)))
        number = numbers[self._given_power[key, name, agent] % len(numbers)]
        self._given_power[key, name, agent] += 1
        return (
            replace(stored.plateaus[number], agent=agent),
            tuple(replace(t, plateau=0) for t in stored.traces if t.plateau == number),
            tuple(replace(c, plateau=0) for c in stored.clocks if c.plateau == number),
        )

    def _looked_up(self, artifact: Artifact, target: Target, plan: Plan) -> tuple[Known, str]:
        """What is known of a file, and the plan to answer from.

        Raises:
            RuntimeRefused: For a file that was never measured.
        """
        key = _key(artifact, target)
        plans = self._known.get(key)
        if not plans:
            raise RuntimeRefused(artifact.sha256, f"{self.device} replays, and has never measured this file")
        return key, plan.name if plan.name in plans else next(iter(plans))

    def outputs(
        self, artifact: Artifact, target: Target, inputs: Sequence[NDArray[Any]], limit_s: float
    ) -> list[NDArray[Any]]:
        """Refused: a replay computes nothing."""
        raise RuntimeRefused(artifact.sha256, f"{self.device} replays and cannot compute outputs")

    def ping(self) -> None:
        """A replay is always there."""

    def close(self) -> None:
        """Nothing to end."""


def _key(artifact: Artifact, target: Target) -> Known:
    return artifact.graph, target.runtime, target.precision, target.options
