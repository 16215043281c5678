"""qLogNEHVI of BoTorch (Ament et al. 2023; Daulton et al. 2021) on the tables (extra ``bench``).

As BoTorch's tutorials on constrained multi-objective optimisation do it: independent Gaussian processes, here
with its kernel for categorical inputs (``MixedSingleTaskGP``), one per objective and limit, and one for
whether a network runs where some did not; limits as outcome constraints; the reference point by its own rule;
2 (d + 1) random trainings to begin with, then batches of four.  With accuracy as the only objective it is
qLogNEI.  The acquisition is optimised by BoTorch's local search over discrete choices.

With our shortlist (``botorch:qLogNEHVI+shortlist``) it proposes eight candidates, all are measured, and its
models of costs learn what came out; of everything measured and not trained, what its own acquisition then
ranks first is trained.  So the peer decides throughout, and has what ``bayesian`` has: measured costs.

Taken from the defaults for speed: ``RAW`` and ``RESTARTS`` of the local search, ``SAMPLES`` of the
integral, ``ITERATIONS`` per fit; a cost's model sees the latest ``SEEN`` measurements.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction, LinearMCObjective
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.objective import IdentityMCMultiOutputObjective
from botorch.fit import fit_gpytorch_mll
from botorch.models import MixedSingleTaskGP, ModelListGP
from botorch.optim import optimize_acqf_discrete_local_search
from botorch.sampling import SobolQMCNormalSampler
from botorch.utils.multi_objective.hypervolume import infer_reference_point
from botorch.utils.multi_objective.pareto import is_non_dominated
from gpytorch.mlls import ExactMarginalLogLikelihood
from torch import Tensor

from benchmarks.peers import Replay, seeded
from benchmarks.search_quality import Run
from results.records import Architecture, Metric, Problem
from search.history import Outcome
from tests.table_space import Table

BATCH = 4
SHORTLIST = 8
RAW = 512
RESTARTS = 4
SAMPLES = 64
ITERATIONS = 30
SEEN = 300

OPTIONS = f"batch={BATCH} raw_samples={RAW} num_restarts={RESTARTS} mc_samples={SAMPLES} maxiter={ITERATIONS}"
"""As printed beside the version."""

Constraint = Callable[[Tensor], Tensor]


def search(table: Table, problem: Problem, *, seed: int, budget: int, shortlist: bool = False) -> Run:
    """One search of ``budget`` trainings, its shortlists measured where wished."""
    replay = Replay(table, problem, budget)
    start = 2 * (len(table.space.decisions) + 1)
    with seeded(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notices on fits and scaling
        return replay.search(lambda: _chosen(replay, shortlist), np.random.default_rng(seed), start=start)


def _chosen(replay: Replay, shortlist: bool) -> list[Architecture]:
    """A batch to train; with a shortlist, the best of what was measured, if anything met the limits."""
    accuracy = _fitted(replay, replay.problem.objectives[:1])
    acquisition = _acquisition(replay, accuracy)
    if not shortlist:
        return _proposed(replay, acquisition, min(BATCH, replay.left))
    for architecture in _proposed(replay, acquisition, SHORTLIST):
        replay.measure(architecture)
    measured = list(replay.history.screened)
    if not measured:
        return []
    acquisition = _acquisition(replay, accuracy)
    with torch.no_grad():
        values = acquisition(_inputs(measured).unsqueeze(1))
    return [measured[int(values.argmax())]]


def _proposed(replay: Replay, acquisition: AcquisitionFunction, count: int) -> list[Architecture]:
    space = replay.table.space
    choices = [torch.arange(len(d.options), dtype=torch.double) for d in space.decisions]
    found, _ = optimize_acqf_discrete_local_search(
        acquisition,
        choices,
        q=count,
        num_restarts=RESTARTS,
        raw_samples=RAW,
        X_avoid=_inputs([o.architecture for o in replay.history.outcomes]),
        return_acq_values=False,
    )
    return [space.architecture([int(c) for c in row]) for row in found]


# --------------------------------------------------------------------------- models


def _fitted(replay: Replay, metrics: Sequence[Metric]) -> list[MixedSingleTaskGP]:
    """A model per metric, of all outcomes with a figure of it; figures are turned so that more is better."""
    models = []
    for metric in metrics:
        known = [o for o in replay.history.outcomes if metric in o.figures][-SEEN:]
        sign = 1.0 if metric.maximise else -1.0
        models.append(_fit(known, [sign * o.figures[metric] / _unit(replay, metric) for o in known]))
    return models


def _unit(replay: Replay, metric: Metric) -> float:
    """The limit of a metric that has one, so that a constraint is of the order of 1."""
    return next((limit.upper for limit in replay.problem.limits if limit.metric == metric), 1.0)


def _fit(outcomes: Sequence[Outcome], figures: Sequence[float]) -> MixedSingleTaskGP:
    inputs = _inputs([o.architecture for o in outcomes])
    model = MixedSingleTaskGP(
        inputs,
        torch.tensor(figures, dtype=torch.double)[:, None],
        cat_dims=list(range(inputs.shape[1])),
    )
    likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
    fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": ITERATIONS}})
    return model


def _acquisition(replay: Replay, accuracy: list[MixedSingleTaskGP]) -> AcquisitionFunction:
    """qLogNEHVI, or qLogNEI where accuracy is the only objective."""
    problem, outcomes = replay.problem, replay.history.outcomes
    models = accuracy + _fitted(replay, replay.history.metrics[1:])
    constraints = _limits(replay)
    ran = [float(o.state != "failed") for o in outcomes][-SEEN:]
    if min(ran) < 1.0:
        constraints.append(_runs(len(models)))
        models.append(_fit(outcomes[-SEEN:], ran))
    common = {
        "model": ModelListGP(*models),
        "X_baseline": _inputs([o.architecture for o in outcomes if o.feasible]),
        "sampler": SobolQMCNormalSampler(torch.Size([SAMPLES]), seed=len(outcomes)),
        "constraints": constraints or None,
        "prune_baseline": True,
    }
    count = len(problem.objectives)
    if count == 1:
        weights = torch.tensor([1.0, *[0.0] * (len(models) - 1)], dtype=torch.double)
        return qLogNoisyExpectedImprovement(objective=LinearMCObjective(weights), **common)
    points = _points(replay)
    reference = infer_reference_point(points[is_non_dominated(points)])
    objective = IdentityMCMultiOutputObjective(outcomes=list(range(count)))
    return qLogNoisyExpectedHypervolumeImprovement(ref_point=reference, objective=objective, **common)


def _limits(replay: Replay) -> list[Constraint]:
    """A constraint per limit, met where negative."""
    places = [replay.history.metrics.index(limit.metric) for limit in replay.problem.limits]
    return [_within(place) for place in places]


def _within(place: int) -> Constraint:
    return lambda samples: -samples[..., place] - 1.0


def _runs(place: int) -> Constraint:
    return lambda samples: 0.5 - samples[..., place]


def _points(replay: Replay) -> Tensor:
    """Objectives of what is feasible, shape ``(n, m)``, more being better."""
    losses = [o.losses(replay.problem.objectives) for o in replay.history.outcomes if o.feasible]
    units = [_unit(replay, metric) for metric in replay.problem.objectives]
    return -torch.tensor(losses, dtype=torch.double) / torch.tensor(units, dtype=torch.double)


def _inputs(architectures: Sequence[Architecture]) -> Tensor:
    return torch.tensor([a.choices for a in architectures], dtype=torch.double)
