"""The training step of a trial: where its weights come from, what is stored of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from harness import checkpoints
from harness.inherit import inherited
from harness.resumption import task_hashes
from harness.rig import Progressing, Rig, Weights
from harness.training_watch import TrainingWatch
from harness.trainings import TRAINING, SharedTrainings, training_key
from results.blobs import name_of
from results.codec import from_json, to_json
from results.errors import TrainingError
from results.records import Option, Score, Trial
from search.joint import JointSpace, recipe_of
from search.learning_curve_stopping import StopsEarly
from search.network import Network
from search.training import TrainingJob, evaluate


class Trainer:
    """Trains the networks of trials; may be called from several threads.

    Args:
        rig: What the study has in use.
        stopping: Tells which trainings are hopeless; None where all are trained to their end.
    """

    def __init__(self, rig: Rig, stopping: StopsEarly | None) -> None:
        self.rig = rig
        self._stopping = stopping
        self._trainings = SharedTrainings(rig.run)

    def network(self, trial: Trial, network: Network) -> Network:
        """What is trained of a network: itself, or narrower or for smaller images at a lower fidelity."""
        fidelity, full = trial.proposal.fidelity, self.rig.study.fidelity
        if (fidelity.width, fidelity.resolution) == (full.width, full.resolution):
            return network
        with self.rig.host.busy():
            return self.rig.space.build(
                trial.proposal.architecture, width=fidelity.width, resolution=fidelity.resolution
            )

    def train(self, known: Progressing, network: Network) -> Weights:
        """Trains, or takes what the store has; what is known of the trial grows by it.

        Args:
            known: The trial.
            network: What is trained of it, see :meth:`network`.

        Returns:
            The trained weights.

        Raises:
            CandidateError: If the training failed.
        """
        body, weights = self.rig.run.get("trained", str(known.trial.number)), None
        if body is None:
            body, weights = self._trained(known, network)
        if weights is None:
            weights = checkpoints.unpack(self.rig.store.blob(body["checkpoint"]))
        known.accuracy = {name: from_json(Score, score) for name, score in body["accuracy"].items()}
        known.learning_curve = tuple(body["learning_curve"])
        known.checkpoint = body["checkpoint"]
        known.training_s = body["training_s"]
        known.stopped = "stopped" in body
        return weights

    def _trained(self, known: Progressing, network: Network) -> tuple[dict[str, Any], Weights | None]:
        """What training gave; where other trials may have the same network, each is trained once.

        The weights are None where another trial's training gave them: they are in the store.
        """
        rig, trial = self.rig, known.trial
        settings = recipe_of(rig.space, trial.proposal.architecture)
        if not isinstance(rig.space, JointSpace):
            job = self._job_of(trial, network, settings, training_seed(rig.study.seed, trial.number))
            return self._training(known, job, {})
        key = training_key(network, trial.proposal, settings)
        job = self._job_of(trial, network, settings, training_seed(rig.study.seed, int(key[:12], 16)))
        own: list[Weights] = []

        def train() -> dict[str, Any]:
            body, weights = self._training(known, job, {TRAINING: key})
            own.append(weights)
            return body

        body = self._trainings.body(key, train)
        if not own:
            rig.run.append("trained", str(trial.number), body)
        return body, own[0] if own else None

    def _job_of(self, trial: Trial, network: Network, settings: dict[str, Option], seed: int) -> TrainingJob:
        study = self.rig.study
        return TrainingJob(
            network=network,
            task_name=study.task.name,
            task_options=dict(study.task.options),
            fidelity=trial.proposal.fidelity,
            seed=seed,
            time_limit_s=study.training_limit_s,
            settings=settings,
            device=study.device,
            task_hashes=task_hashes(self.rig.run),
        )

    def _training(
        self, known: Progressing, job: TrainingJob, extra: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Weights]:
        """Trains and stores what came out; the proof of the files need not wait until that is durable."""
        with self.rig.host.busy():
            job = replace(job, weights=inherited(self.rig, known.trial, job.network))
        if job.fidelity.epochs == 0:
            return self._scoring(known, job, extra)
        watch = TrainingWatch(known.evaluation("complete"), self.rig.watcher, self._stopping)
        started = time.monotonic()
        result = self.rig.pool.submit(job, watch, may_stop=self._stopping is not None).result()
        wall_s = time.monotonic() - started
        data = checkpoints.pack(result.weights)
        body = {
            "accuracy": {"fp32": to_json(result.score)},
            "learning_curve": list(result.curve),
            "checkpoint": name_of(data),
            "training_s": result.training_s,
            "wall_s": wall_s,
            **watch.record(result),
            **extra,
        }
        self.rig.run.append_soon("trained", str(known.trial.number), body, blob=data)
        return body, result.weights

    def _scoring(
        self, known: Progressing, job: TrainingJob, extra: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Weights]:
        """Scores and stores the weights that a training of no epochs begins with."""
        if job.weights is None:
            text = "no epochs need weights to begin with: a parent's or a supernet's"
            raise TrainingError(job.network.fingerprint, text)
        started_s, started = time.thread_time(), time.monotonic()
        with self.rig.host.busy():
            score = evaluate(job.network, job.weights, self.rig.task, "validation")
        data = checkpoints.pack(job.weights)
        body = {
            "accuracy": {"fp32": to_json(score)},
            "learning_curve": [score.value],
            "checkpoint": name_of(data),
            "training_s": time.thread_time() - started_s,
            "wall_s": time.monotonic() - started,
            **extra,
        }
        self.rig.run.append_soon("trained", str(known.trial.number), body, blob=data)
        return body, job.weights


def training_seed(seed: int, number: int) -> int:
    """Seed of the training of a trial: a function of the study's seed and the trial's number."""
    return int(np.random.default_rng((seed, number, 1)).integers(2**31))
