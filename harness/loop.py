"""The one search loop: ask, evaluate, tell.

With W trials in flight, ask n happens exactly when trials 0 .. n-W have been told, and trials are told in
the order of their numbers.  So the asks depend on the seed and on the results alone, never on which
trial was ready first, and a run that was interrupted goes on with the asks of an undisturbed one: what
was asked is in the store, what was told is told again, and only then is anything asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager

from harness.progress import Watcher
from results.codec import from_json, to_json
from results.evaluations import evaluations
from results.records import Evaluation, Trial
from results.store import Run
from search.space import SearchSpace
from search.strategy import Strategy


class Loop:
    """Runs a strategy until it has asked for ``trials`` trials, or ends by itself.

    Args:
        run: Where everything is stored.
        space: For the options by name that are stored beside each trial.
        strategy: Fresh; it is told what the store has.
        evaluate: Takes a trial to its final state; called in threads.
        trials: Number of trials.
        in_flight: Trials under way at once.
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
        self._trials = trials
        self._in_flight = in_flight
        self._busy = busy
        self._abort = abort
        self._watcher = watcher
        self._pending: dict[int, tuple[Trial, Future[Evaluation]]] = {}
        self._told = 0
        self._asked = 0

    def search(self) -> None:
        """Runs to the end; raises whatever ended the evaluation of a trial early."""
        with ThreadPoolExecutor(self._in_flight, thread_name_prefix="trial") as pool:
            try:
                self._catch_up(pool)
                while self._ask_all(pool):
                    self._tell_next()
            except BaseException:
                # Leaving the executor waits for its threads, so they are told to end first.
                for _, future in self._pending.values():
                    future.cancel()
                self._abort()
                raise

    def _catch_up(self, pool: ThreadPoolExecutor) -> None:
        for evaluation in evaluations(self._run):
            self._strategy.tell(evaluation)
            self._watcher.told(evaluation)
            self._told += 1
        asked = [from_json(Trial, record.body["trial"]) for record in self._run.records("asked")]
        for trial in sorted(asked, key=lambda t: t.number)[self._told :]:
            self._start(trial, pool)
        self._asked = len(asked)

    def _ask_all(self, pool: ThreadPoolExecutor) -> bool:
        """Asks for as many trials as may be under way; False when none is and none is wanted."""
        while self._asked < self._trials and self._asked - self._told < self._in_flight:
            with self._busy():
                proposal = self._strategy.ask(self._asked, [trial for trial, _ in self._pending.values()])
            if proposal is None:
                break
            trial = Trial(self._asked, proposal)
            options = self._space.describe(proposal.architecture)
            body = {"trial": to_json(trial), "options": to_json(options), "asked_at": time.time()}
            self._run.append("asked", str(trial.number), body)
            self._start(trial, pool)
            self._asked += 1
        return bool(self._pending)

    def _start(self, trial: Trial, pool: ThreadPoolExecutor) -> None:
        self._watcher.asked(trial)
        self._pending[trial.number] = (trial, pool.submit(self._evaluate, trial))

    def _tell_next(self) -> None:
        _, future = self._pending[self._told]
        evaluation = future.result()
        del self._pending[self._told]
        self._run.append("told", str(self._told), {"state": evaluation.state, "error": evaluation.error})
        self._strategy.tell(evaluation)
        self._told += 1
        self._watcher.told(evaluation)
