"""BANANAS (White, Neiswanger and Savani 2021, AAAI) on the tables.

As in its authors' code: cells in path encoding (of NAS-Bench-201 there are 155 paths, an edge without
operation being one of the five), five feed-forward networks of ten layers of 20, trained anew for every batch
by Adam on the absolute error, independent Thompson sampling (one normal draw per candidate from the mean and
spread of the five), 100 candidates by mutating the best so far, each edge with a probability of 1/4, ten
random trainings to begin with and then batches of ten.

The paper has one objective and no limits.  Several objectives as MO-BANANAS has them (Guerrero-Viu et al.
2021, "Bag of Baselines"; archai's ``MoBananasSearch``): an ensemble for each, and non-dominated sorting with
crowding distances, of what was trained for the parents and of the draws for the batch.  Limits by constrained
domination (Deb et al. 2002), with an ensemble per limited cost and one for whether a network runs where some
did not.

With our shortlist (``bananas+shortlist``) the candidates that sort first are measured, eight per training on
average, and sorted again with costs that are known, which is what archai does with "cheap" objectives.  What
was measured and not trained stays a candidate.

Other than published: targets are standardised, mutants come from ten parents instead of mostly from the best
one, what breaks a limit is learned from the latest ``SEEN`` only, and minibatches grow beyond 128 rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.peers import Replay, seeded
from benchmarks.search_quality import Run
from results.records import Architecture, Problem
from search.feasibility import crowding_distances, nondominated_ranks, standings
from tests.table_space import OPERATIONS, PATHS, Table

BATCH = 10
PARENTS = 10
CANDIDATES = 100
CANDIDATES_TO_MEASURE = 400
MUTATED = 0.25
MEMBERS = 5
LAYERS = 10
WIDTH = 20
EPOCHS = 150
MINIBATCH = 32
RATE = 0.01
SEEN = 300

OPTIONS = (
    f"batch={BATCH} parents={PARENTS} candidates={CANDIDATES} {MEMBERS} of {LAYERS}x{WIDTH} epochs={EPOCHS}"
)
"""As printed beside the version."""

Floats = NDArray[np.float64]


def search(table: Table, problem: Problem, *, seed: int, budget: int, shortlist: bool = False) -> Run:
    """One search of ``budget`` trainings, its shortlists measured where wished."""
    replay = Replay(table, problem, budget)
    rng = np.random.default_rng(seed)
    choose = _shortlisted if shortlist else _batch
    with seeded(seed):
        return replay.search(lambda: choose(replay, rng), rng, start=BATCH)


def _batch(replay: Replay, rng: np.random.Generator) -> list[Architecture]:
    """Of the mutants those to train, by draws of accuracy and costs."""
    mutants = _mutants(replay, rng, CANDIDATES)
    return [mutants[i] for i in _best_first(*_drawn(replay, mutants, rng))[: min(BATCH, replay.left)]]


def _shortlisted(replay: Replay, rng: np.random.Generator) -> list[Architecture]:
    """Measures the mutants that sort first; of all that is measured those to train, by draws of accuracy."""
    count = min(BATCH, replay.left)
    measured = replay.history.screened
    candidates = [*measured, *_mutants(replay, rng, CANDIDATES_TO_MEASURE)]
    losses, violations = _drawn(replay, candidates, rng)
    new = [i for i in _best_first(losses, violations) if candidates[i] not in measured]
    for i in new[: max(1, replay.screenings_left * count // replay.left)]:
        replay.measure(candidates[i])
    known = [i for i, architecture in enumerate(candidates) if architecture in measured]
    for i in known:
        figures = measured[candidates[i]].figures
        losses[i, 1:] = [figures[metric] for metric in replay.problem.objectives[1:]]
    return [candidates[known[i]] for i in _best_first(losses[known], np.zeros(len(known)))[:count]]


def _mutants(replay: Replay, rng: np.random.Generator, count: int) -> list[Architecture]:
    """Up to that many new networks, from the parents in turn; at least a random one."""
    space, outcomes = replay.table.space, replay.history.outcomes
    ranked = zip(standings(outcomes, replay.problem.objectives), outcomes, strict=True)
    order = sorted(((s, o) for s, o in ranked if s is not None), key=lambda pair: pair[0])
    parents = [outcome.architecture for _, outcome in order[:PARENTS]]
    tried = replay.history.tried(())
    mutants: dict[Architecture, None] = {}
    for i in range(5 * count):
        changes = int(rng.binomial(len(space.decisions), MUTATED))
        mutant = space.mutate(parents[i % len(parents)], rng, changes=changes) if changes else None
        if mutant is not None and mutant not in tried and len(mutants) < count:
            mutants[mutant] = None
    return list(mutants) or [space.sample(rng)]


def _best_first(losses: Floats, violations: Floats) -> NDArray[np.int64]:
    """Order of candidates ``(n, m)``: within the limits by front and crowding distance, then by violation."""
    ranks = np.where(violations > 0, len(losses), 0)
    crowding = np.zeros(len(losses))
    within = np.flatnonzero(violations == 0)
    ranks[within] = nondominated_ranks(losses[within])
    for rank in set(ranks[within]):
        front = np.flatnonzero(ranks == rank)
        crowding[front] = crowding_distances(losses[front])
    return np.lexsort((-crowding, violations, ranks))


# --------------------------------------------------------------------------- ensembles


def _drawn(
    replay: Replay, architectures: Sequence[Architecture], rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Losses, shape ``(n, m)``, and violations of limits ``(n,)``, drawn from the ensembles."""
    metrics, problem = replay.history.metrics, replay.problem
    outcomes = [o for o in replay.history.outcomes if o.state == "complete"]
    outcomes += [o for o in replay.history.outcomes if o.state != "complete"][-SEEN:]
    figures = np.array([[o.figures.get(metric, np.nan) for metric in metrics] for o in outcomes])
    ran = np.array([[float(o.state != "failed")] for o in outcomes])
    targets = figures if ran.all() else np.hstack([figures, ran])
    mean, scale = np.nanmean(targets, axis=0), np.nanstd(targets, axis=0) + 1e-12
    inputs = _paths([o.architecture for o in outcomes])
    predicted = _predicted(inputs, (targets - mean) / scale, _paths(architectures))
    drawn = rng.normal(predicted.mean(axis=0), predicted.std(axis=0)) * scale + mean
    violations = np.zeros(len(drawn)) if ran.all() else np.maximum(0.0, 0.5 - drawn[:, -1])
    for limit in problem.limits:
        violations += np.maximum(0.0, drawn[:, metrics.index(limit.metric)] / limit.upper - 1.0)
    signs = [-1.0 if metric.maximise else 1.0 for metric in problem.objectives]
    return drawn[:, : len(signs)] * signs, violations


def _paths(architectures: Sequence[Architecture]) -> Tensor:
    """Which sequences of operations lead from a cell's input to its output, shape ``(n, 155)``."""
    base = len(OPERATIONS)
    encoded = torch.zeros(len(architectures), base + base**2 + base**3)
    for row, architecture in zip(encoded, architectures, strict=True):
        for path in PATHS:
            place = sum(base**length for length in range(1, len(path)))
            row[place + sum(architecture.choices[edge] * base**i for i, edge in enumerate(path))] = 1.0
    return encoded


def _predicted(inputs: Tensor, targets: Floats, candidates: Tensor) -> Floats:
    """What an ensemble per column of the targets (NaN: not known) predicts, shape ``(members, n, m)``."""
    columns = targets.shape[1]
    known = torch.tensor(np.isfinite(targets), dtype=torch.float32)
    aims = torch.tensor(np.nan_to_num(targets), dtype=torch.float32)
    networks = _Networks(inputs.shape[1], MEMBERS * columns)
    adam = torch.optim.Adam(networks.parameters(), lr=RATE, betas=(0.9, 0.99))
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(inputs)).split(max(MINIBATCH, -(-len(inputs) // 4))):
            adam.zero_grad()
            errors = networks(inputs[rows]).view(MEMBERS, columns, -1) - aims[rows].T
            (errors.abs() * known[rows].T).mean(dim=2).sum().backward()
            adam.step()
    with torch.no_grad():
        outputs = networks(candidates).view(MEMBERS, columns, -1).transpose(1, 2)
    return outputs.numpy().astype(np.float64)


class _Networks(torch.nn.Module):
    """Feed-forward networks side by side, independent of each other."""

    def __init__(self, inputs: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.first = _uniform(inputs, WIDTH, inputs, count * WIDTH)
        self.hidden = _uniform(WIDTH, WIDTH, LAYERS - 1, count, WIDTH, WIDTH)
        self.last = _uniform(WIDTH, 1, count, WIDTH, 1)
        self.offsets = torch.nn.Parameter(torch.zeros(LAYERS, count, 1, WIDTH))
        self.last_offset = torch.nn.Parameter(torch.zeros(count, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs for ``(n, inputs)``, shape ``(count, n)``."""
        offsets = self.offsets.unbind()
        values = (inputs @ self.first).view(-1, self.count, WIDTH).transpose(0, 1) + offsets[0]
        for weight, offset in zip(self.hidden.unbind(), offsets[1:], strict=True):
            values = torch.baddbmm(offset, values.relu(), weight)
        return torch.baddbmm(self.last_offset, values.relu(), self.last).squeeze(2)


def _uniform(before: int, after: int, *shape: int) -> torch.nn.Parameter:
    """Weights as Keras, which the authors use, draws them (Glorot and Bengio 2010)."""
    return torch.nn.Parameter((2.0 * torch.rand(shape) - 1.0) * (6.0 / (before + after)) ** 0.5)
