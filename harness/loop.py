"""The one search loop: ask, evaluate, tell.

With W trainings in flight, a trial is asked for exactly when fewer than W of those asked before are not yet
told, and trainings are told in the order of their numbers.  What is only screened is measured at once and
told before anything else is asked or told.  So the asks depend on the seed and on the results alone, never on
which trial was ready first, and a run that was interrupted goes on with the asks of an undisturbed one: what
was asked is in the store, what was told is told again in the same order, and only then is anything asked.
"""

from __future__ import annotations

import reprlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

from harness.progress import Watcher
from results.codec import from_json, to_json
from results.errors import ConfigError
from results.evaluations import evaluations
from results.records import Architecture, Evaluation, Fidelity, Proposal, Trial
from results.store import Run
from search.space import SearchSpace
from search.strategy import Strategy
from search.user_code import blamed


class Loop:
    """Runs a strategy until it has asked for ``trials`` trainings, or ends by itself.

    Args:
        run: Where everything is stored.
        space: For the options by name that are stored beside each trial.
        strategy: Fresh; it is told what the store has.
        evaluate: Takes a trial to its final state; called in threads.
        trials: Number of trials, those not counted that are only screened.
        in_flight: Trainings under way at once.
        busy: Held while the strategy thinks.
        abort: Makes the evaluations under way end soon; called when the search ends early.
        watcher: Told what happens.
    """

    def __init__(
        self,
        run: Run,
        space: SearchSpace,
        strategy: Strategy,
        evaluate: Callable[[Trial], Evaluation],
        *,
        trials: int,
        in_flight: int,
        busy: Callable[[], AbstractContextManager[None]],
        abort: Callable[[], None],
        watcher: Watcher,
    ) -> None:
        self._run = run
        self._space = space
        self._strategy = strategy
        self._evaluate = evaluate
        self._in_flight = in_flight
        self._busy = busy
        self._abort = abort
        self._watcher = watcher
        self._pending: dict[int, tuple[Trial, Future[Evaluation]]] = {}
        self._asked = 0
        self.wanted = trials
        """Trials that are still to be asked for."""

    def search(self) -> None:
        """Runs to the end; raises whatever ended the evaluation of a trial early.

        Raises:
            ConfigError: If the strategy raises, or gives what is no proposal; with the user's own lines.
        """
        with ThreadPoolExecutor(self._in_flight, thread_name_prefix="trial") as pool:
            try:
                self._catch_up(pool)
                while self._ask_all(pool):
                    self._tell(min(self._pending))
            except BaseException:
                # Leaving the executor waits for its threads, so they are told to end first.
                for _, future in self._pending.values():
                    future.cancel()
                self._abort()
                raise

    def _catch_up(self, pool: ThreadPoolExecutor) -> None:
        known = {evaluation.trial.number: evaluation for evaluation in evaluations(self._run)}
        told = [int(record.key) for record in self._run.records("told")]
        for number in told:
            self._hear(known[number])
        asked = [from_json(Trial, record.body["trial"]) for record in self._run.records("asked")]
        for trial in sorted(asked, key=lambda t: t.number):
            if trial.number not in known:
                self._start(trial, pool)
        self._asked = len(asked)
        self.wanted -= sum(not trial.proposal.screen_only for trial in asked)

    def _ask_all(self, pool: ThreadPoolExecutor) -> bool:
        """Asks for as many trainings as may be under way; False when none is and none is wanted."""
        self._tell_screened()
        while self.wanted > 0 and len(self._pending) < self._in_flight:
            with self._busy(), blamed("the strategy's ask() raised", ConfigError):
                trial = self._proposed()
                if trial is None:
                    break
                options = self._space.describe(trial.proposal.architecture)
                body = {"trial": to_json(trial), "options": to_json(options), "asked_at": time.time()}
            self._run.append("asked", str(trial.number), body)
            self._start(trial, pool)
            self._asked += 1
            self.wanted -= not trial.proposal.screen_only
            self._tell_screened()
        return bool(self._pending)

    def _proposed(self) -> Trial | None:
        """The next trial.

        Raises:
            ConfigError: If what the strategy gives is no proposal.
        """
        proposal = self._strategy.ask(self._asked, [trial for trial, _ in self._pending.values()])
        if proposal is None:
            return None
        parts = (getattr(proposal, "architecture", None), getattr(proposal, "fidelity", None))
        if not isinstance(proposal, Proposal) or tuple(map(type, parts)) != (Architecture, Fidelity):
            raise ConfigError(
                "the strategy's ask() is to return a results.records.Proposal of an Architecture and a "
                f"Fidelity, or None; it returned {reprlib.repr(proposal)}"
            )
        return Trial(self._asked, proposal)

    def _hear(self, evaluation: Evaluation) -> None:
        with blamed("the strategy's tell() raised", ConfigError):
            self._strategy.tell(evaluation)
        self._watcher.told(evaluation)

    def _start(self, trial: Trial, pool: ThreadPoolExecutor) -> None:
        self._watcher.asked(trial)
        self._pending[trial.number] = (trial, pool.submit(self._evaluate, trial))

    def _tell_screened(self) -> None:
        """Waits for what is only screened."""
        for number, (trial, _) in list(self._pending.items()):
            if trial.proposal.screen_only:
                self._tell(number)

    def _tell(self, number: int) -> None:
        """Waits for a trial and tells it."""
        _, future = self._pending[number]
        evaluation = future.result()
        del self._pending[number]
        body: dict[str, Any] = {"state": evaluation.state, "error": evaluation.error}
        if evaluation.state == "failed" and evaluation.training_s:
            body["training_s"] = evaluation.training_s  # nothing else is stored of a training that failed
        self._run.append("told", str(number), body)
        self._hear(evaluation)
