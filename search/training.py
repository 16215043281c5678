"""Training a network in PyTorch, repeatable to the bit, and using a trained one.

One thread, always: on a shared machine one thread per process gives the most trainings per hour, and
results depend on the number of threads.  The same job gives the same bytes of weights, here or in a
worker of :mod:`search.training_pool`.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from results.errors import ArchitectureError, ConfigError, TrainingError
from results.records import Fidelity, Option, Score
from search import torch_state
from search.datasets import load_task
from search.module import load_weights, to_module, weights_of
from search.network import Network, initial_weights
from search.task_hashes import TaskHashes
from search.tasks import Normalisation, Split, SplitName, Task
from search.training_checkpoint import Checkpoint
from search.training_run import (
    Inputs,
    Limits,
    OnEpoch,
    Stopped,
    TrainingRun,
    checked_score,
    one_cycle,
    outputs_of,
)
from search.user_code import blamed

Weights = Mapping[str, NDArray[np.float32]]

_TINY = 1e-30
"""Weights below this become 0: they change no output, and products with them are denormal, which makes a
CPU ten times slower."""

_kept: dict[str, tuple[dict[str, Any], Task]] = {}
_checked: set[str] = set()


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """Everything a training follows from.

    Attributes:
        network: What is trained; narrower than what is measured where ``fidelity.width`` says so, and of
            the input size of ``fidelity.resolution``: whoever builds it sees to that.
        task_name: What it learns: name or path, see :func:`search.datasets.load_task`.
        task_options: Options of the task.
        fidelity: How much it gets to see.
        seed: Initial weights, order of the images and their changes follow from it.
        weights: What to begin with instead of fresh weights.
        time_limit_s: CPU time after which it is given up [s].
        settings: Settings of the training that are not as usual (:data:`search.recipe.RECIPE`).
        device: ``cpu``, or ``cuda`` for a GPU: other bytes come out there, and perhaps not the same twice.
        task_hashes: What the task was when the run began, where that is known.
    """

    network: Network
    task_name: str
    task_options: Mapping[str, Any]
    fidelity: Fidelity
    seed: int
    weights: Weights | None = None
    time_limit_s: float = math.inf
    settings: Mapping[str, Option] = field(default_factory=dict)
    device: str = "cpu"
    task_hashes: TaskHashes | None = None


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """A trained network.

    Attributes:
        score: On the validation split, after the last epoch.
        curve: Validation score after each epoch.
        weights: Trained weights, float32, none of them denormal.
        training_s: CPU time of the training, validation included, loading the data not [s].
        flushed: Number of weights that were nearly 0 (below 1e-30) and became 0.
        stopped: Whether whoever watched ended it before its last epoch.
    """

    score: Score
    curve: tuple[float, ...]
    weights: Weights = field(repr=False)
    training_s: float
    flushed: int
    stopped: bool = False


def train(
    job: TrainingJob, on_epoch: OnEpoch | None = None, *, checkpoint: Checkpoint | None = None
) -> TrainingResult:
    """Trains a network in this process.

    Args:
        job: What to train, and how.
        on_epoch: Called with the number of epochs done and the validation score, after each; ends the
            training if it gives True.
        checkpoint: Where the state is kept; if it has one of this job, the training goes on from it.

    Raises:
        TrainingError: If it diverges, takes too long, or code of the task raises.
        ConfigError: If the task's data cannot be used (DataError), or does not fit the network, or there is
            no such device.
        ArchitectureError: If the network does not fit the data, or the job's weights are those of another.
    """
    candidate = job.network.fingerprint
    check_device(job.device)
    with _blamed_on(candidate):
        task = loaded_task(job.task_name, job.task_options, job.task_hashes)
    with repeatable(job.seed), _blamed_on(candidate):
        check_fits(job.network, task, job.fidelity)
        weights = initial_weights(job.network, job.seed) if job.weights is None else job.weights
        module = _module(job.network, weights).to(job.device)
        run = TrainingRun(
            module,
            task,
            job.fidelity,
            job.seed,
            size=_size(job.network),
            limits=Limits(candidate, job.time_limit_s),
            on_epoch=on_epoch,
            checkpoint=checkpoint,
            settings=job.settings,
            device=job.device,
        )
        stopped = False
        with _counted(run), _blamed_on(candidate):
            try:
                (task.trainer or one_cycle)(module, run)
            except Stopped:
                stopped = len(run.curve) < run.epochs
            trained, flushed = _settled(weights_of(module), candidate)
            load_weights(module, trained)
            score = run.validate()
    curve = tuple(run.curve) or (score.value,)
    return TrainingResult(score, curve, trained, run.training_s, flushed, stopped)


def evaluate(network: Network, weights: Weights, task: Task, split: SplitName) -> Score:
    """Score of a trained network on one split; images are resized to the network's input.

    Raises:
        TrainingError: If outputs or score are not finite, or code of the task raises.
        ArchitectureError: If the weights are those of another network.
    """
    data = task.data[split]
    with repeatable(0), _blamed_on(network.fingerprint, "the scoring"):
        outputs = outputs_of(
            _module(network, weights), Inputs(data.pixels, data.normalisation, _size(network))
        )
        return checked_score(task, outputs, data, network.fingerprint)


def scored(task: Task, outputs: NDArray[np.float32], split: Split, candidate: str) -> Score:
    """Score of the outputs of a file of a candidate on a split; errors as :func:`evaluate`."""
    with _blamed_on(candidate, "the scoring"):
        return checked_score(task, outputs, split, candidate)


def predict(network: Network, weights: Weights, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs ``(n, outputs)`` of a trained network, of inputs ``(n, c, h, w)`` as ``Split.images`` gives.

    Raises:
        ArchitectureError: If the weights are those of another network, or the images do not fit it.
    """
    if images.shape[1:] != network.input_shape:
        raise ConfigError(f"the network takes images {network.input_shape}, got {images.shape[1:]}")
    channels = len(images[0])
    plain = Normalisation((0.0,) * channels, (1.0,) * channels)
    with repeatable(0):
        inputs = Inputs(images.astype(np.float32, copy=False), plain, _size(network))
        return outputs_of(_module(network, weights), inputs)


def check_device(device: str) -> None:
    """Raises ConfigError if there is no such device on this machine."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "trainings are to run on a GPU (device = 'cuda'), but PyTorch finds none here: install PyTorch "
            "for CUDA and the driver, or take device = 'cpu'"
        )


def check_fits(network: Network, task: Task, fidelity: Fidelity) -> None:
    """Raises unless the network takes the task's images and gives its outputs.

    Raises:
        ConfigError: For a resolution that the task has not.
        ArchitectureError: If it is the network that does not fit: others of its space may.
    """
    channels, height, width = task.input_shape
    if fidelity.resolution is not None:
        if fidelity.resolution > min(height, width):
            raise ConfigError(
                f"a resolution of {fidelity.resolution} is more than task {task.name!r} has: its images are "
                f"{height}x{width}; choose a smaller one, or none"
            )
        height, width = resized(height, width, fidelity.resolution)
    if network.input_shape != (channels, height, width):
        raise ArchitectureError(
            f"task {task.name!r} gives images {(channels, height, width)} at resolution "
            f"{fidelity.resolution or 'its own'}, the network takes {network.input_shape}"
        )
    outputs = network.shapes[network.output]
    if outputs != (task.classes,):
        raise ArchitectureError(f"task {task.name!r} has {task.classes} outputs, the network gives {outputs}")


def resized(height: int, width: int, resolution: int) -> tuple[int, int]:
    """Height and width of images whose shorter edge becomes ``resolution`` pixels, in their proportions."""
    shorter = min(height, width)
    return round(height * resolution / shorter), round(width * resolution / shorter)


# --------------------------------------------------------------------------- pieces


def loaded_task(name: str, options: Mapping[str, Any], hashes: TaskHashes | None = None) -> Task:
    """The task of that name; the last one is kept, since one job comes after another.

    Args:
        name: Name or path.
        options: Its options.
        hashes: What it was when the run began.  A process that starts later reads it anew.

    Raises:
        DataError: As :func:`search.datasets.load_task`, or if the task was changed meanwhile.
    """
    options = dict(options)
    if name not in _kept or _kept[name][0] != options:
        _kept.clear()
        _kept[name] = options, load_task(name, options)
        _checked.clear()
    if hashes is not None and name not in _checked:
        hashes.check(name, _kept[name][1])
        _checked.add(name)
    return _kept[name][1]


def _size(network: Network) -> tuple[int, int]:
    _, height, width = network.input_shape
    return height, width


def _module(network: Network, weights: Weights) -> nn.Module:
    return to_module(network, weights).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


@contextlib.contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """One thread, no denormals, and seeded global generators for code that uses those; put back after.

    Other threads of this process that ask for the same wait.
    """
    with torch_state.LOCK:
        yield from _repeatable(seed)


def _repeatable(seed: int) -> Iterator[None]:
    threads, python, legacy = torch.get_num_threads(), random.getstate(), np.random.get_state()
    np.finfo(np.float32), np.finfo(np.float64)  # numpy looks for denormals when first asked, and warns
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        np.random.set_state(legacy)
        random.setstate(python)
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _blamed_on(candidate: str, what: str = "the training") -> Iterator[None]:
    """Whatever PyTorch or the task's own code raises is the candidate's fault."""
    with blamed(f"{what} raised", partial(TrainingError, candidate)):
        yield


@contextlib.contextmanager
def _counted(run: TrainingRun) -> Iterator[None]:
    """What a training took that gave no network is said with the error."""
    try:
        yield
    except TrainingError as error:
        error.training_s = run.training_s
        raise


def _settled(weights: dict[str, NDArray[np.float32]], candidate: str) -> tuple[Weights, int]:
    """The weights without what is nearly 0, and how many of those there were."""
    flushed = 0
    for name, values in weights.items():
        if not np.isfinite(values).all():
            raise TrainingError(candidate, f"diverged: {name} has values that are not finite")
        tiny = (values != 0) & (np.abs(values) < _TINY)
        values[tiny] = 0
        flushed += int(tiny.sum())
    return weights, flushed
