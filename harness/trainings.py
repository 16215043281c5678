"""Trainings that several trials share: a network that is trained in one way is trained once.

Where a trial chooses its deployment, too, others have the same network with another one.  Whoever asks first
trains; the others take what came out, now or from the store.  The seed follows from the network then and not
from the trial's number, so that it makes no difference who was first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from results.codec import digest, to_json
from results.errors import TrainingError
from results.records import Option, Proposal
from results.store import Run
from search.network import Network

Body = dict[str, Any]
TRAINING = "training"
"""Where a "trained" record says which training it is of."""


def training_key(network: Network, proposal: Proposal, settings: dict[str, Option]) -> str:
    """What the result of a training follows from, but for the study's own settings."""
    return digest([network.fingerprint, to_json(proposal.fidelity), proposal.weights_from, settings])


class SharedTrainings:
    """The trainings of a run, done and under way, by key.

    Args:
        run: Where those that are done are stored.
    """

    def __init__(self, run: Run) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Future[Body]] = {}
        for record in run.records("trained"):
            if TRAINING in record.body and record.body[TRAINING] not in self._known:
                self._known[record.body[TRAINING]] = Future()
                self._known[record.body[TRAINING]].set_result(record.body)

    def body(self, key: str, train: Callable[[], Body]) -> Body:
        """The record of a training; ``train`` is called unless somebody did or does it; it names the key.

        Raises:
            Exception: What ``train`` raised, for everyone who asked for it.
        """
        with self._lock:
            future = self._known.get(key)
            mine = future is None
            if future is None:
                future = self._known[key] = Future()
        if not mine:
            try:
                return {**future.result(), "training_s": 0.0, "wall_s": 0.0}
            except TrainingError as error:  # its seconds are those of who trained
                raise TrainingError(error.artifact, error.message) from error
        try:
            body = train()
        except BaseException as error:
            future.set_exception(error)
            raise
        future.set_result(body)
        return body
