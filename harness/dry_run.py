"""What a study will cost at the most, before anything is measured or stored: `search --dry-run`.

Counts follow from the study file, the space and the speed-ups.  The time of the trainings is modelled: a few
networks of the space are trained for two short epochs each, here and now, and what an epoch took is scaled.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness import energy, stages
from harness.deployment import keeps_limits
from harness.prepare import PREPARE_PLAN
from harness.study import Study
from results.across_targets import spans_targets
from results.errors import ArchitectureError, CandidateError, TrainingError
from results.records import Architecture, Fidelity, Option
from search.host_memory import require_host_room
from search.joint import JointSpace, recipe_of
from search.network import Network, costs
from search.space import SearchSpace
from search.strategy import Strategy
from search.tasks import Task
from search.training import TrainingJob, train

SAMPLED = 50
"""Networks whose parameters are counted."""

TIMED = 3
"""Networks that are trained for two short epochs to tell the time of a whole one."""

TIMED_IMAGES = (128, 256)
"""Training images of the short epochs: the difference tells training from validation."""

ENOUGH_S = 10.0
"""No further network is timed once they have taken as long."""


@dataclass(frozen=True)
class OnBoard:
    """What a board will have to do, at the most.

    Attributes:
        targets: Targets of the study on it.
        measurements: Candidates and targets that are screened.
        board_s: Time of all measurements but for loading, and for runs slower than the plan's sessions [s].
    """

    targets: int
    measurements: int
    board_s: float


@dataclass(frozen=True)
class Epochs:
    """Trainings with their epochs, and those by the share of the data that they see.

    Attributes:
        trainings: Number of trainings.
        epochs: Epochs of all of them.
        whole_epochs: The same in units of epochs on all data.
    """

    trainings: int = 0
    epochs: int = 0
    whole_epochs: float = 0.0

    def plus(self, count: int, fidelity: Fidelity) -> Epochs:
        """With so many trainings more."""
        epochs = count * fidelity.epochs
        whole = self.whole_epochs + epochs * fidelity.subset
        return Epochs(self.trainings + count, self.epochs + epochs, whole)


@dataclass(frozen=True)
class Timed:
    """What an epoch of one network took, CPU time of one thread.

    Attributes:
        all_data_s: Its training on all data [s].
        validation_s: Its validation [s].
        end_s: The end of a training, with the interval of the last score [s].
    """

    all_data_s: float
    validation_s: float
    end_s: float

    def seconds(self, epochs: Epochs) -> float:
        """Time of so many trainings with their epochs [s]."""
        of_epochs = self.all_data_s * epochs.whole_epochs + self.validation_s * epochs.epochs
        return of_epochs + self.end_s * epochs.trainings


@dataclass(frozen=True)
class Forecast:
    """What a study will cost at the most; limits and speed-ups that end trials early make it less.

    Attributes:
        networks: Networks in the space; None where it has more than are asked for.
        candidates: Candidates that are measured.
        most: Trainings, if every candidate is promoted as far as it can be.
        expected: Trainings, if as many are promoted as the speed-ups foresee.
        boards: By device.
        disk_bytes: Weights and samples.
        timed: The networks that were timed.
        not_timed: Why there are none.
        workers: Trainings at a time.
    """

    networks: int | None
    candidates: int
    most: Epochs
    expected: Epochs
    boards: dict[str, OnBoard]
    disk_bytes: int
    timed: tuple[Timed, ...]
    not_timed: str
    workers: int

    def training_s(self) -> tuple[float, float, float] | None:
        """CPU time of the expected trainings, modelled: at the mean, the least and the greatest of the
        networks that were timed [s]."""
        each = [timed.seconds(self.expected) for timed in self.timed]
        return (float(np.mean(each)), min(each), max(each)) if each else None

    def as_json(self) -> dict[str, Any]:
        """Numbers with their units in the keys; None for what is not known."""
        cpu_s = self.training_s()
        return {
            "networks_in_space": self.networks,
            "candidates_at_most": self.candidates,
            "trainings_at_most": self.most.trainings,
            "trainings_expected": self.expected.trainings,
            "epochs_at_most": self.most.epochs,
            "epochs_expected": self.expected.epochs,
            "training_workers": self.workers,
            "training_cpu_s_modelled": cpu_s and cpu_s[0],
            "training_cpu_s_modelled_least": cpu_s and cpu_s[1],
            "training_cpu_s_modelled_greatest": cpu_s and cpu_s[2],
            "training_wall_s_modelled": cpu_s and cpu_s[0] / self.workers,
            "training_networks_timed": len(self.timed),
            "training_not_timed_because": self.not_timed or None,
            "boards": {
                name: {
                    "targets": on.targets,
                    "measurements_at_most": on.measurements,
                    "board_s_at_most": on.board_s,
                }
                for name, on in self.boards.items()
            },
            "disk_bytes_at_most": self.disk_bytes,
        }

    def as_rows(self) -> dict[str, str]:
        """The same for people."""
        space = "" if self.networks is None else f"; networks in the space: {self.networks}"
        rows = {
            "candidates": f"{self.candidates} are measured{space}",
            "trainings": f"{self.most.trainings}, {self.most.epochs} epochs in all, {self.workers} at a "
            "time; what breaks a limit is not trained",
        }
        if self.expected != self.most:
            rows["expected of these"] = f"{self.expected.trainings}, {self.expected.epochs} epochs in all"
        rows["time of trainings"] = self._time_of_trainings()
        for name, on in self.boards.items():
            rows[f"time on {name}"] = (
                f"{_words(on.board_s)} for {on.measurements} measurements and the confirmation; loading and "
                "slow candidates not counted"
            )
        return rows | {"disk": f"{self.disk_bytes / 1e6:.1f} MB"}

    def _time_of_trainings(self) -> str:
        if (cpu_s := self.training_s()) is None:
            return f"not estimated: {self.not_timed}"
        middle, low, high = map(_words, cpu_s)
        return (
            f"{_words(cpu_s[0] / self.workers)} with a core for each worker, {middle} of CPU time [{low}, "
            f"{high}]; modelled from {len(self.timed)} networks of the space, trained for a moment here"
        )


def forecast(study: Study, task: Task, strategy: Strategy) -> Forecast:
    """What a study will cost; trains a few networks for a moment, and stores nothing.

    Args:
        study: The study.
        task: Its data.
        strategy: Fresh, with its space and problem.
    """
    space, wanted = strategy.space, study.trials * strategy.measured_per_training
    inner = space.inner if isinstance(space, JointSpace) else space
    points, networks = (_count(each, wanted + 1) for each in (space, inner))
    recipes = math.prod(len(values) for values in study.choices.training.values())
    candidates, trained = min(wanted, points), min(study.trials, points, networks * recipes)
    most, expected = _epochs(study, trained, 1), _epochs(study, trained, _reduction(study))
    # Compromises between targets are confirmed beside each target's own front.
    confirmed = stages.CONFIRMED_PER_TARGET * (1 + spans_targets(strategy.problem))
    boards = {t.device: _on_board(study, t.device, candidates, networks, confirmed) for t in study.targets}
    screened = sum(board.measurements for board in boards.values())
    timed, not_timed = _timed(study, task, space)
    return Forecast(
        networks=networks if networks <= wanted else None,
        candidates=candidates,
        most=most,
        expected=expected,
        boards=boards,
        disk_bytes=round(
            4 * most.trainings * _parameters(study, space)
            + 12 * screened * study.screen.sessions[1] * study.screen.max_runs
        ),
        timed=timed,
        not_timed=not_timed,
        workers=study.workers,
    )


def _count(space: SearchSpace, most: int) -> int:
    """Architectures of a space, counted up to ``most``."""
    return sum(1 for _ in itertools.islice(space.architectures(), most))


def _reduction(study: Study) -> int:
    return 1 if study.speedups.ladder is None else study.speedups.ladder.reduction


def _epochs(study: Study, candidates: int, reduction: int) -> Epochs:
    """Trainings of so many candidates, if one of ``reduction`` is promoted from each rung to the next."""
    ladder, total = study.speedups.ladder, Epochs()
    if study.pretraining is not None:
        total = total.plus(study.pretraining.correlate, study.fidelity)
    if ladder is None:
        return total.plus(candidates, study.fidelity)
    for rung, fidelity in enumerate(ladder.rungs):
        of_training = fidelity if rung == 0 else ladder.training(rung)[0]
        total = total.plus(math.ceil(candidates / reduction**rung), of_training)
    return total


def _on_board(study: Study, device: str, candidates: int, networks: int, confirmed: int) -> OnBoard:
    """A network is measured once on each target, whatever else a candidate decides."""
    screen, confirm = study.screen, study.confirm
    targets = sum(target.device == device for target in study.targets)
    each = study.choices.measured_on(study.targets, device)
    measurements = min(candidates * each, networks * targets)
    screen_s = screen.sessions[1] * (screen.session_s + screen.warmup_s) + energy.least_s(screen)
    confirm_s = confirm.sessions[0] * (confirm.session_s + confirm.warmup_s) + energy.least_s(confirm)
    prepare_s = PREPARE_PLAN.sessions[0] * (PREPARE_PLAN.session_s + PREPARE_PLAN.warmup_s)
    board_s = measurements * screen_s + min(measurements, targets * confirmed) * confirm_s
    return OnBoard(targets, measurements, board_s + targets * prepare_s)


def _parameters(study: Study, space: SearchSpace) -> float:
    """Mean number of parameters of some networks of the space that can be built."""
    found = [costs(network).parameters for _, network in _sampled(study, space, SAMPLED)]
    return float(np.mean(found)) if found else 0.0


def _sampled(study: Study, space: SearchSpace, count: int) -> Iterator[tuple[Architecture, Network]]:
    rng = np.random.default_rng(study.seed)
    for _ in range(count):
        architecture = space.sample(rng)
        with contextlib.suppress(ArchitectureError, CandidateError):  # in a search it fails alone
            network = space.build(architecture)
            require_host_room(network)
            yield architecture, network


def _timed(study: Study, task: Task, space: SearchSpace) -> tuple[tuple[Timed, ...], str]:
    """What an epoch of some networks takes, or why it was not tried."""
    if study.pool != "processes" or study.device != "cpu":
        return (), f"trainings run elsewhere (pool {study.pool!r}, device {study.device!r})"
    found: list[Timed] = []
    failed, began_s = "no network that was drawn can be built and keeps the limits", time.monotonic()
    drawn = _sampled(study, space, SAMPLED)
    within = (each for each in drawn if keeps_limits(each[1], study.targets, study.limits))
    for architecture, network in itertools.islice(within, 3 * TIMED):
        try:
            found.append(_time(study, task, network, recipe_of(space, architecture)))
        except CandidateError as error:
            failed = str(error)
        if len(found) == TIMED or time.monotonic() - began_s > ENOUGH_S:
            break
    return tuple(found), "" if found else failed


def _time(study: Study, task: Task, network: Network, settings: dict[str, Option]) -> Timed:
    """Times the second epochs of two short trainings of a network.

    Raises:
        CandidateError: If they fail.
    """
    examples = task.splits().train.examples
    shares = [min(1.0, images / examples) for images in TIMED_IMAGES]
    if shares[0] == shares[1]:
        shares = [0.5, 1.0]
    (low_s, _), (high_s, end_s) = (_second_epoch_s(study, network, settings, share) for share in shares)
    all_data_s = max(0.0, high_s - low_s) / (shares[1] - shares[0])
    return Timed(all_data_s, max(0.0, high_s - shares[1] * all_data_s), end_s)


def _second_epoch_s(
    study: Study, network: Network, settings: dict[str, Option], share: float
) -> tuple[float, float]:
    """Time of the second of two epochs, and of what comes after it [s]."""
    ends_s: list[float] = []

    def ended(epoch: int, score: float) -> bool:
        ends_s.append(time.process_time())
        return False

    job = TrainingJob(
        network=network,
        task_name=study.task.name,
        task_options=dict(study.task.options),
        fidelity=Fidelity(2, subset=share),
        seed=study.seed,
        time_limit_s=study.training_limit_s,
        settings=settings,
    )
    train(job, ended)
    if len(ends_s) < 2:
        raise TrainingError(network.fingerprint, "the task's own training ended after less than two epochs")
    return ends_s[1] - ends_s[0], time.process_time() - ends_s[-1]


def _words(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"
