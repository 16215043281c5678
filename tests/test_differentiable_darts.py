"""Differentiable search over DARTS cells: pieces, mixtures, and how a mixture becomes a cell."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from results.codec import to_json
from results.records import Fidelity, Metric, Problem
from search.cell_networks import cells_of
from search.differentiable import Search, SearchPlan, search_cells
from search.differentiable_blocks import Selected
from search.differentiable_darts import EDGES, DartsBlocks
from search.differentiable_mixture import LatencyTerm
from search.differentiable_selection import select_by_perturbation, select_by_shared_weights
from search.differentiable_spaces import blocks_of
from search.differentiable_supernet import MixedDartsCells, terms_of
from search.module import to_module
from search.network import costs
from search.spaces.cell import Space
from search.strategies.differentiable import Strategy
from search.training import repeatable
from tests.test_differentiable import few_digits

SHORT = SearchPlan(method="gdas", epochs=2, skips=0)


@cache
def space() -> Space:
    return Space(input_shape=(1, 8, 8), classes=10, kind="darts", channels=4, cells=4)


@cache
def blocks() -> DartsBlocks:
    return DartsBlocks(space())


def selected_of(choices: tuple[int, ...]) -> Selected:
    """Edges and operations of an architecture; inverse of ``choices``."""
    return tuple(
        sorted(
            (first + EDGES.index((source, node)), operation)
            for first, cell in zip((0, len(EDGES)), cells_of(choices), strict=True)
            for node, (a, b, on_a, on_b) in enumerate(cell, start=2)
            for source, operation in ((a, on_a), (b, on_b))
        )
    )


# --------------------------------------------------------------------------- blocks


def test_blocks_are_the_pieces_of_every_network() -> None:
    """With MACs as the "time" of a block, sums of blocks are the MACs of whole networks."""
    macs = {name: float(costs(block.network).macs) for name, block in blocks().table.items()}
    rng = np.random.default_rng(1)
    for _ in range(40):
        architecture = space().sample(rng)
        assert blocks().total_s(architecture, macs) == costs(space().build(architecture)).macs


def test_the_expected_time_of_one_cell_is_the_sum_of_its_pieces() -> None:
    """Where both inputs of the cells are read: every piece of the network is in it once."""
    times_s = {
        name: 1.0 + i if not name.startswith("empty") else 0.5 for i, name in enumerate(blocks().table)
    }
    edge_s, fixed_s = blocks().edge_s(times_s), blocks().fixed_s(times_s)
    rng, compared = np.random.default_rng(2), 0
    for _ in range(40):
        architecture = space().sample(rng)
        read = [{source for node in cell for source in node[:2]} for cell in cells_of(architecture.choices)]
        if all({0, 1} <= sources for sources in read):
            alone = blocks().alone(selected_of(architecture.choices))
            assert fixed_s + (edge_s * alone).sum() == pytest.approx(blocks().total_s(architecture, times_s))
            compared += 1
    assert compared > 10


def test_mean_of_draws_with_equal_shares_is_the_expected_time() -> None:
    """Each of a node's edges stays as often as it counts; 4,000 draws, six standard errors."""
    times_s = {name: 1.0 + i for i, name in enumerate(blocks().table)}
    edge_s = blocks().edge_s(times_s)
    shares = np.full(edge_s.shape, 1.0 / edge_s.shape[1])
    rng = np.random.default_rng(3)
    drawn = np.array([(edge_s * blocks().alone(blocks().draw(shares, rng))).sum() for _ in range(4000)])
    assert abs(drawn.mean() - (edge_s * shares).sum()) < 6 * drawn.std() / np.sqrt(len(drawn))


# --------------------------------------------------------------------------- mixtures and cells


def test_a_mixture_of_one_is_the_network_of_that_cell() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(4)
    for _ in range(4):
        architecture = space().sample(rng)
        selected = selected_of(architecture.choices)
        network = MixedDartsCells(blocks(), seed=3).eval()
        whole = to_module(space().build(architecture)).eval()
        _copy_weights(whole, network, selected)
        images = torch.randn(5, 1, 8, 8)
        mixture = terms_of(selected, blocks().edges)
        with repeatable(0):
            assert torch.allclose(network(images, mixture), whole(images), atol=1e-5)


def _copy_weights(whole: torch.nn.Module, mixed: MixedDartsCells, selected: Selected) -> None:
    """Weights of the mixed network into one of the space, by the order of convolutions and norms."""
    chosen, parts = dict(selected), [mixed.stem]
    for place, entries, cell in zip(
        blocks().places, mixed.entries.children(), mixed.cells.children(), strict=True
    ):
        first = len(EDGES) * place.reduces
        read = {EDGES[edge - first][0] for edge in chosen if 0 <= edge - first < len(EDGES)}
        parts += [entry for number, entry in enumerate(entries.children()) if number in read]
        for edge, operations in enumerate(cell.children(), start=first):
            name = mixed.operations[chosen[edge]] if edge in chosen else ""
            parts += [module for other, module in operations.named_children() if other == name]
    parts.append(mixed.tail)
    layers = [m for part in parts for m in part.modules() if not list(m.children()) and m.state_dict()]
    own = [m for m in whole.modules() if not list(m.children()) and m.state_dict()]
    for target, source in zip(own, layers, strict=True):
        target.load_state_dict(source.state_dict())


def test_of_rivals_the_two_with_the_strongest_operation_stay() -> None:
    """Node 4 reads 1 and 3 by 3 x 3 convolutions; the first two edges have no rivals."""
    shares = np.full((28, 7), 0.1)
    shares[:, 2] = 0.2
    for edge in (EDGES.index((1, 4)), EDGES.index((3, 4))):
        shares[edge, 3] = 0.9
    selected = blocks().select(shares)
    assert len(selected) == 16
    kept = [(EDGES[edge], operation) for edge, operation in selected if edge < len(EDGES)]
    assert kept[:2] == [((0, 2), 2), ((1, 2), 2)]
    assert [pair for pair in kept if pair[0][1] == 4] == [((1, 4), 3), ((3, 4), 3)]
    described = space().describe(space().architecture(blocks().choices(selected)))
    assert "sep_conv_3x3" in str(described)


def test_choices_and_edges_are_two_encodings_of_one_cell() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        architecture = space().sample(rng)
        assert blocks().choices(selected_of(architecture.choices)) == architecture.choices


def test_probabilities_are_those_of_the_decisions() -> None:
    rng = np.random.default_rng(6)
    shares = rng.dirichlet(np.ones(7), 28)
    rows = blocks().probabilities(shares)
    assert [len(row) for row in rows] == [len(d.options) for d in space().decisions]
    assert all(sum(row) == pytest.approx(1.0) for row in rows)
    assert rows[1] == pytest.approx(shares[0].tolist()), "node 2 reads 0 and 1 always"
    certain = np.zeros((28, 7))
    certain[:, 4] = 1e-9
    certain[[0, 1, 2, 4, 5, 8, 9, 13], 4] = 1.0
    certain[14:] = certain[:14]
    likeliest = tuple(int(np.argmax(row)) for row in blocks().probabilities(certain))
    assert likeliest == blocks().choices(blocks().select(certain))


# --------------------------------------------------------------------------- the search


@pytest.mark.parametrize(
    ("method", "selection"),
    [
        ("darts", "argmax"),
        ("darts_second_order", "argmax"),
        ("gdas", "argmax"),
        ("gdas", "shared_weights"),
    ],
)
def test_a_search_finds_a_cell_of_the_space_and_again_the_same(method: Any, selection: str) -> None:
    plan = dataclasses.replace(SHORT, method=method, selection=selection)
    first, again = (search_cells(blocks(), few_digits(64), plan, seed=0) for _ in range(2))
    assert (first.alpha, first.choices) == (again.alpha, again.choices)
    assert np.shape(first.alpha) == (28, 7)
    space().check(space().architecture(first.choices))
    strategy = Strategy(
        space(),
        Problem((Metric("accuracy", maximise=True),)),
        fidelity=Fidelity(1),
        seed=0,
        prior={"pretrain": {"found": to_json(first)}},
    )
    asked = strategy.ask(0, ())
    assert asked is not None
    assert asked.architecture == space().architecture(first.choices)


def test_perturbation_keeps_operations_and_edges_that_the_loss_misses_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Operation 3 carries the signal of every edge, and of rivals the edges from 0 and 1 most of it."""
    plan = dataclasses.replace(SHORT, method="darts", selection="perturbation")
    search = Search(blocks(), few_digits(64), plan, seed=0)
    ends = [*EDGES, *EDGES]

    def loss(batch: Any, mixture: Any) -> Tensor:
        missing = [ends[i][0] for i, terms in enumerate(mixture) if 3 not in [o for o, _ in terms]]
        return torch.tensor(sum(10.0 - source for source in missing))

    monkeypatch.setattr(search, "loss", loss)
    monkeypatch.setattr(search, "train_weights", lambda batch, mixture: 0.0)
    cells = cells_of(select_by_perturbation(search))
    assert cells == ((((0, 1, 3, 3)),) * 4,) * 2


def test_shared_weights_choose_what_is_fast_where_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = dataclasses.replace(SHORT, selection="shared_weights")
    edge_s = np.ones((1, 28, 7))
    edge_s[:, :, 2] = 0.0
    latency = LatencyTerm(edge_s, np.array([0.1]), 100.0)
    search = Search(blocks(), few_digits(64), plan, seed=0, latency=latency)
    judged: list[int] = []

    def loss(batch: Any, mixture: Any) -> Tensor:
        judged.append(sum(terms[0][0] == 2 for terms in mixture if terms))
        assert sum(bool(terms) for terms in mixture) == 16
        return torch.tensor(0.0)

    monkeypatch.setattr(search, "loss", loss)
    cells = cells_of(select_by_shared_weights(search))
    skips = [o for cell in cells for node in cell for o in node[2:]].count(2)
    assert skips >= max(judged) - 2, "edges of small nodes weigh more than those of rivals"


def test_only_skip_connections_of_the_normal_cell_stop_a_search() -> None:
    for cell, stops in ((0, True), (1, False)):
        plan = dataclasses.replace(SHORT, method="darts", epochs=4, warmup=1, skips=3)
        search = Search(blocks(), few_digits(64), plan, seed=0)
        skip = search.operations.index("skip_connect")

        def push(
            number: int, epoch: Any, search: Search = search, skip: int = skip, cell: int = cell
        ) -> None:
            with torch.no_grad():
                search.alpha[14 * cell : 14 * cell + 14, skip] += 3.0

        with repeatable(0):
            search.run(push)
        assert bool(search.stopped) == stops


def test_initial_weights_differ_from_edge_to_edge() -> None:
    network, again = (MixedDartsCells(blocks(), seed=0) for _ in range(2))
    weights = [dict(n.named_parameters()) for n in (network, again)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    kernels = [value for value in weights[0].values() if value.shape[2:] == (3, 3) and value.numel() > 100]
    assert len(kernels) > 20
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(kernels, 2) if a.shape == b.shape)


def test_spaces_know_their_blocks() -> None:
    assert isinstance(blocks_of(space()), DartsBlocks)
