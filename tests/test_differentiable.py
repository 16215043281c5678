"""Differentiable search: gradients against known answers, collapse, selection, and the strategy that asks."""

from __future__ import annotations

import dataclasses
import itertools
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from results.codec import from_json, to_json
from results.errors import ConfigError
from results.records import Evaluation, Fidelity, Metric, Problem, Score, Trial
from search.cell_graph import EDGES
from search.datasets import load_task
from search.differentiable import Found, Halves, Search, SearchPlan, search_cells
from search.differentiable_blocks import CellBlocks
from search.differentiable_mixture import LatencyTerm, Unrolled, drawn, first_order, mixed, noisy
from search.differentiable_selection import select_by_perturbation, select_by_shared_weights
from search.differentiable_spaces import blocks_of
from search.differentiable_supernet import Fixed, MixedCells
from search.module import to_module
from search.network import costs
from search.spaces.cell import Space
from search.spaces.chain import Space as Chain
from search.strategies.differentiable import Strategy
from search.tasks import Normalisation, Split, Splits, Task
from search.training import repeatable

PROBLEM = Problem((Metric("accuracy", maximise=True),))
SHORT = SearchPlan(method="gdas", epochs=2, skips=0)


@cache
def space() -> Space:
    return Space(input_shape=(1, 8, 8), classes=10, channels=4, cells=2)


@cache
def blocks() -> CellBlocks:
    return CellBlocks(space())


def few_digits(count: int = 120) -> Task:
    """Digits of which training has only a few, so that a search takes a second."""
    task = load_task("digits")
    train = task.data.train
    part = Split(train.pixels[:count], train.labels[:count], train.normalisation)
    return dataclasses.replace(task, data=Splits(part, task.data.validation, task.data.test))


# --------------------------------------------------------------------------- blocks


def test_blocks_are_the_pieces_of_every_network() -> None:
    """With MACs as the "time" of a block, sums of blocks are the MACs of whole networks."""
    macs = {name: float(costs(block.network).macs) for name, block in blocks().table.items()}
    rng = np.random.default_rng(1)
    for _ in range(40):
        architecture = space().sample(rng)
        assert blocks().total_s(architecture, macs) == costs(space().build(architecture)).macs


def test_an_operation_costs_what_its_edges_cost_in_all_cells() -> None:
    macs = {name: float(costs(block.network).macs) for name, block in blocks().table.items()}
    per_edge = dict(zip(blocks().operations, blocks().edge_s(macs)[0], strict=True))
    direct = costs(space().build(space().from_options({"edge_0_3": "nor_conv_3x3"}))).macs
    assert per_edge["nor_conv_3x3"] + blocks().fixed_s(macs) == direct
    assert per_edge["none"] == per_edge["skip_connect"] == 0


def test_additions_and_calls_are_counted() -> None:
    """Every block takes 1 s to call and each copy of a piece 0.25 s: known sums."""
    times_s = {name: 1.0 + (0.25 * b.copies if b.empty else 0.0) for name, b in blocks().table.items()}
    assert blocks().fixed_s(times_s) == pytest.approx(1.0 + 4 * 0.25)
    two = space().from_options(
        {"edge_0_3": "skip_connect", "edge_0_1": "nor_conv_1x1", "edge_1_3": "skip_connect"}
    )
    # Per cell one convolution and one addition, in 3 stages of 2 cells.
    assert blocks().total_s(two, times_s) == pytest.approx(2.0 + 3 * 2 * (0.25 + 0.25))


def test_noise_makes_no_piece_negative_and_a_missing_block_is_named() -> None:
    times_s = dict.fromkeys(blocks().table, 1.0)
    times_s["stage1_add"] = 0.5
    assert blocks().piece_s(times_s)["stage1_add"] == 0.0
    del times_s["stem"]
    with pytest.raises(ConfigError, match="'stem'"):
        blocks().piece_s(times_s)


def test_spaces_without_known_blocks_are_refused() -> None:
    with pytest.raises(ConfigError, match="'nas_bench_201' or 'darts', got space 'chain'"):
        blocks_of(Chain(input_shape=(1, 8, 8), classes=10))


def test_some_operations_only() -> None:
    few = Space(
        input_shape=(1, 8, 8), classes=10, channels=4, cells=1, operations=["nor_conv_1x1", "nor_conv_3x3"]
    )
    found = search_cells(CellBlocks(few), few_digits(), SHORT, seed=0)
    assert {len(row) for row in found.probabilities} == {2}
    assert "stage1_avg_pool_3x3" not in CellBlocks(few).table


# --------------------------------------------------------------------------- mixtures


def test_a_mixture_of_one_is_the_network_of_that_cell() -> None:
    """With one operation per edge the mixed network computes what the space's own network computes."""
    torch.manual_seed(0)
    for options in ("nor_conv_3x3", "avg_pool_3x3", "skip_connect"):
        architecture = space().from_options(
            {"edge_0_1": options, "edge_1_3": "nor_conv_1x1", "edge_0_3": options}
        )
        network = MixedCells(blocks(), seed=3).eval()
        whole = to_module(space().build(architecture)).eval()
        taken = {k: v for k, v in network.state_dict().items() if v.ndim}
        _copy_weights(whole, network, architecture.choices)
        images = torch.randn(5, 1, 8, 8)
        mixture = [Fixed(choice).terms() for choice in architecture.choices]
        assert torch.allclose(network(images, mixture), whole(images), atol=1e-5)
        assert taken.keys() == network.state_dict().keys()


def _copy_weights(whole: torch.nn.Module, mixed_network: MixedCells, choices: tuple[int, ...]) -> None:
    """Weights of the mixed network into a network of the space, by the order of convolutions and norms."""
    parts: list[torch.nn.Module] = [mixed_network.stem]
    for number, stage in enumerate(mixed_network.stages):
        if number:
            parts.append(mixed_network.reductions[number - 1])
        for cell in stage.children():
            for edge, choice in zip(cell.children(), choices, strict=True):
                name = mixed_network.operations[choice]
                if name.startswith("nor_conv"):
                    parts.append(edge.get_submodule(name))
    parts.append(mixed_network.tail)
    layers = [m for part in parts for m in part.modules() if not list(m.children()) and m.state_dict()]
    own = [m for m in whole.modules() if not list(m.children()) and m.state_dict()]
    for target, source in zip(own, layers, strict=True):
        target.load_state_dict(source.state_dict())


def test_draws_follow_the_softmax() -> None:
    """Gumbel-max: shares of 4,000 draws are within 5 standard deviations (false alarm < 1e-5 in all)."""
    alpha = torch.tensor([[0.0, 1.0, 2.0]])
    rng = np.random.default_rng(5)
    counts = np.bincount([drawn(noisy(alpha, 1.0, rng))[0][0][0] for _ in range(4000)], minlength=3)
    shares = alpha.softmax(-1)[0].numpy()
    assert (np.abs(counts / 4000 - shares) < 5 * np.sqrt(shares * (1 - shares) / 4000)).all()


def test_a_draw_weighs_one_and_has_the_gradient_of_the_soft_share() -> None:
    alpha = torch.tensor([[0.3, -0.2, 0.1]], requires_grad=True)
    ((chosen, weight),) = drawn(noisy(alpha, 2.0, np.random.default_rng(2)))[0]
    assert weight is not None
    assert float(weight.detach()) == 1.0
    (gradient,) = torch.autograd.grad(weight, [alpha])
    noise = torch.from_numpy(-np.log(-np.log(np.random.default_rng(2).random((1, 3))))).float()
    soft = ((alpha.log_softmax(-1) + noise) / 2.0).softmax(-1)
    (wanted,) = torch.autograd.grad(soft[0, chosen], [alpha])
    assert torch.allclose(gradient, wanted)
    assert gradient.abs().max() > 0


def test_what_has_no_alpha_is_never_drawn_and_has_no_gradient() -> None:
    alpha = torch.zeros(1, 3, requires_grad=True)
    barred = alpha.masked_fill(torch.tensor([True, False, False]), -torch.inf)
    rng = np.random.default_rng(3)
    for _ in range(200):
        shares = noisy(barred, 0.1, rng)
        ((chosen, weight),) = drawn(shares)[0]
        assert weight is not None
        assert chosen != 0
        (gradient,) = torch.autograd.grad(weight, [alpha], retain_graph=True)
        assert gradient[0, 0] == 0
        assert torch.isfinite(gradient).all()


def test_edges_that_all_drew_none_have_no_gradient() -> None:
    alpha = torch.zeros(2, 2, requires_grad=True)
    weight = torch.ones(1, requires_grad=True)
    gradient, _ = first_order(lambda: weight.sum(), alpha)
    assert torch.equal(gradient, torch.zeros(2, 2))


def test_second_order_gradient_of_a_quadratic() -> None:
    """L_train = (w - a)^2 / 2, L_val = (w - 3)^2 / 2: by hand d/da L_val(w - xi (w - a)) = xi (w' - 3)."""
    w = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    alpha = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    rate = 0.1
    unrolled = Unrolled([w], torch.optim.SGD([w], rate))
    gradient, loss = unrolled(
        lambda: ((w - alpha) ** 2).sum() / 2, lambda: ((w - 3) ** 2 + 0 * alpha).sum() / 2, alpha
    )
    moved = 1.0 - rate * (1.0 - 2.0)
    assert float(gradient) == pytest.approx(rate * (moved - 3.0), rel=1e-6)
    assert loss == pytest.approx((moved - 3.0) ** 2 / 2)
    assert float(w.detach()) == 1.0, "the weights are put back"


def test_the_step_looked_through_is_that_of_sgd_with_momentum() -> None:
    """After one real step, ``Unrolled`` evaluates at the weights that a second real step would give."""
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    alpha = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([w], 0.1, momentum=0.9, weight_decay=0.01)

    def train() -> Tensor:
        return ((w - alpha) ** 2).sum()

    def step() -> None:
        sgd.zero_grad()
        train().backward()  # type: ignore[no-untyped-call]
        sgd.step()

    step()
    seen: list[Tensor] = []

    def held_back() -> Tensor:
        seen.append(w.detach().clone())
        return (w**2).sum() + 0 * alpha.sum()

    Unrolled([w], sgd)(train, held_back, alpha)
    step()
    assert torch.allclose(seen[0], w.detach())


@pytest.mark.parametrize("form", ["linear", "log"])
def test_latency_term(form: Any) -> None:
    """Two operations of 1 and 3 s on two edges, 2 s fixed: E = 6 s with equal shares."""
    term = LatencyTerm(np.array([[[1.0, 3.0]]]), np.array([2.0]), weight=0.5, form=form)
    alpha = torch.zeros(2, 2, requires_grad=True)
    equal = torch.full((2, 2), 0.5)
    assert float(term.expected_s(equal)[0]) == pytest.approx(6.0)
    value = term(alpha.softmax(-1), equal)
    assert float(value.detach()) == pytest.approx(0.5 if form == "linear" else 0.0)
    (gradient,) = torch.autograd.grad(value, [alpha])
    # dE/dalpha = p (t - mean t) = 0.5 (1 - 2) and 0.5 (3 - 2); both forms divide by E = E0 here.
    assert gradient.tolist() == [pytest.approx([-0.5 * 0.5 / 6, 0.5 * 0.5 / 6])] * 2


def test_latency_and_loss_keep_their_proportion_at_every_temperature() -> None:
    """The gradient of a draw falls as 1 / tau, and so does that of its expected time (means of 1,000).

    The same noise at both temperatures; a standard error of a ratio is 3 % at most, 20 % are 6 of them.
    """
    term = LatencyTerm(np.array([[[1.0, 3.0]]]), np.array([2.0]), weight=1.0)
    equal = torch.full((1, 2), 0.5)
    sizes = []
    for temperature in (10.0, 5.0):
        alpha = torch.zeros(1000, 1, 2, requires_grad=True)
        shares = noisy(alpha, temperature, np.random.default_rng(4))
        weights = torch.stack([drawn(row)[0][0][1] for row in shares])  # type: ignore[misc]
        costs_ = torch.stack([term(row, equal) for row in shares])
        by_loss, by_cost = (
            torch.autograd.grad(v.sum(), [alpha], retain_graph=True)[0] for v in (weights, costs_)
        )
        sizes.append((float(by_loss.abs().mean()), float(by_cost.abs().mean())))
    (loss_hot, cost_hot), (loss_cold, cost_cold) = sizes
    assert loss_cold / loss_hot == pytest.approx(2.0, rel=0.2)
    assert cost_cold / cost_hot == pytest.approx(2.0, rel=0.2)


def test_the_slowest_target_counts_and_no_target_costs_nothing() -> None:
    slow_first = LatencyTerm(np.array([[[9.0, 1.0]], [[1.0, 1.0]]]), np.array([0.0, 0.0]), 1.0, "linear")
    shares, equal = torch.tensor([[4.0, 0.0]]).softmax(-1), torch.full((1, 2), 0.5)
    assert float(slow_first(shares, equal)) == pytest.approx(
        float(slow_first.expected_s(shares)[0]) / 5.0, rel=1e-5
    )
    assert float(LatencyTerm(np.zeros((0, 1, 2)), np.zeros(0), 1.0)(shares, equal)) == 0.0


# --------------------------------------------------------------------------- the search


def test_halves_share_no_example_and_leave_the_validation_split_alone() -> None:
    task = few_digits()
    halves = Halves(task, seed=1)
    assert set(halves.weights.tolist()) | set(halves.architecture.tolist()) == set(range(120))
    assert not set(halves.weights.tolist()) & set(halves.architecture.tolist())
    poisoned = Split(
        np.full_like(task.data.validation.pixels, 255),
        -task.data.validation.labels - 1,
        Normalisation((0.0,), (1.0,)),
    )
    other = dataclasses.replace(task, data=Splits(task.data.train, poisoned, poisoned))
    first, second = (search_cells(blocks(), t, SHORT, seed=1) for t in (task, other))
    assert first.alpha == second.alpha


@pytest.mark.parametrize("method", ["gdas", "darts", "darts_second_order"])
def test_the_same_seed_gives_the_same_weights_to_the_bit(method: Any) -> None:
    plan = dataclasses.replace(SHORT, method=method)
    task = few_digits(64)
    first, again, other = (search_cells(blocks(), task, plan, seed=seed) for seed in (1, 1, 2))
    assert first.alpha == again.alpha
    assert [e.weight_loss for e in first.curve] == [e.weight_loss for e in again.curve]
    assert first.alpha != other.alpha
    assert np.allclose([sum(row) for row in first.probabilities], 1.0)
    assert from_json(Found, to_json(first)) == first


def test_latency_that_outweighs_the_loss_leaves_nothing_but_cheap_operations() -> None:
    """Of five operations one takes time: a huge weight makes it the least likely on every edge."""
    edge_s = np.array([[[0.0, 0.0, 0.0, 1.0, 0.0]]])
    plan = dataclasses.replace(SHORT, epochs=4, batch_size=16, latency_weight=100.0, architecture_rate=0.3)
    latency = LatencyTerm(edge_s, np.array([0.1]), plan.latency_weight)
    found = search_cells(blocks(), few_digits(), plan, seed=0, latency=latency)
    assert all(min(row[1:]) == row[3] < 0.1 for row in found.probabilities)
    assert found.curve[-1].expected_s[0] < found.curve[0].expected_s[0]


def test_the_search_stops_at_skip_connections_with_the_weights_from_before() -> None:
    plan = dataclasses.replace(SHORT, epochs=6, warmup=1, skips=3)
    search = Search(blocks(), few_digits(), plan, seed=0)
    pushed = torch.zeros_like(search.alpha)
    pushed[:3, blocks().operations.index("skip_connect")] = 5.0
    epochs = itertools.count()

    def push(number: int, epoch: Any) -> None:
        if next(epochs) == 1:
            with torch.no_grad():
                search.alpha.add_(pushed)

    with repeatable(0):
        search.run(push)
    assert len(search.curve) == 3
    assert "3 skip connections" in search.stopped
    assert float((search.alpha.detach() - pushed).abs().max()) < 1.0


@pytest.mark.parametrize("method", ["gdas", "darts"])
def test_none_is_neither_learnt_nor_selected(method: Any) -> None:
    """Even where the term for latency, to which it is the best operation, outweighs the loss."""
    edge_s = np.array([[[0.0, 1.0, 1.0, 1.0, 1.0]]])
    plan = dataclasses.replace(SHORT, method=method, epochs=4, latency_weight=100.0)
    latency = LatencyTerm(edge_s, np.array([0.1]), plan.latency_weight)
    found = search_cells(blocks(), few_digits(64), plan, seed=0, latency=latency)
    assert all(row[0] == 0.0 for row in found.probabilities)
    assert 0 not in found.choices
    # Every other operation takes the same time: whatever is learnt, so does the network.
    assert [epoch.expected_s[0] for epoch in found.curve] == pytest.approx([6.1] * 4)


def test_a_space_of_none_alone_selects_it() -> None:
    empty = Space(input_shape=(1, 8, 8), classes=10, channels=4, cells=1, operations=["none"])
    assert search_cells(CellBlocks(empty), few_digits(64), SHORT, seed=0).choices == (0,) * 6


def test_half_of_the_epochs_are_warm_up_unless_said() -> None:
    assert SearchPlan(epochs=9).warm == 4
    assert SearchPlan(epochs=9, warmup=0).warm == 0
    found = search_cells(blocks(), few_digits(64), dataclasses.replace(SHORT, epochs=4), seed=0)
    assert [epoch.architecture_loss is None for epoch in found.curve] == [True, True, False, False]
    assert found.curve[0].alpha == found.curve[1].alpha != found.curve[2].alpha


def test_perturbation_keeps_what_the_loss_misses_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation that alone carries the signal is the one without which the loss is greatest."""
    plan = dataclasses.replace(SHORT, method="darts", selection="perturbation")
    search = Search(blocks(), few_digits(64), plan, seed=0)
    without: list[int] = []

    def loss(batch: Any, mixture: Any) -> Tensor:
        missing = [i for i, terms in enumerate(mixture) if len(terms) > 1 and 3 not in [o for o, _ in terms]]
        without.extend(missing)
        return torch.tensor(1.0 + len(missing))

    monkeypatch.setattr(search, "loss", loss)
    monkeypatch.setattr(search, "train_weights", lambda batch, mixture: 0.0)
    assert select_by_perturbation(search) == (3,) * len(EDGES)
    assert sorted(set(without)) == list(range(6))


def test_perturbation_of_a_trained_mixture_selects_a_whole_cell() -> None:
    plan = dataclasses.replace(SHORT, method="darts", selection="perturbation")
    found = search_cells(blocks(), few_digits(64), plan, seed=0)
    assert len(found.choices) == 6
    assert 0 not in found.choices


def test_shared_weights_select_the_cell_with_the_least_loss_and_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of drawn cells, the one with most of what is accurate; where time counts, with most of what is fast."""
    plan = dataclasses.replace(SHORT, selection="shared_weights")
    chosen = {}
    for weight in (0.0, 100.0):
        edge_s = np.array([[[5.0, 5.0, 1.0, 5.0, 5.0]]])
        latency = LatencyTerm(edge_s, np.array([0.1]), weight)
        search = Search(blocks(), few_digits(64), plan, seed=0, latency=latency)
        judged: list[list[int]] = []

        def loss(batch: Any, mixture: Any, judged: list[list[int]] = judged) -> Tensor:
            judged.append([terms[0][0] for terms in mixture])
            return torch.tensor(6.0 - judged[-1].count(3))

        monkeypatch.setattr(search, "loss", loss)
        chosen[weight] = select_by_shared_weights(search)
        assert 0 not in [operation for cell in judged for operation in cell]
        most = 3 if weight == 0.0 else 2
        assert chosen[weight].count(most) == max(cell.count(most) for cell in judged)
        assert 50 < len({tuple(cell) for cell in judged}) <= 101


def test_shared_weights_of_a_search_select_a_whole_cell() -> None:
    plan = dataclasses.replace(SHORT, selection="shared_weights")
    first, again = (search_cells(blocks(), few_digits(64), plan, seed=0) for _ in range(2))
    assert first.choices == again.choices
    assert len(first.choices) == 6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "dart"}, "gdas, darts, darts_second_order"),
        ({"epochs": 1, "warmup": 1}, "warmup < epochs"),
        ({"architecture_rate": math.nan}, "architecture_rate"),
        ({"latency_weight": -1.0}, "latency_weight"),
        ({"latency_form": "cubic"}, "log, linear"),
        ({"method": "gdas", "selection": "perturbation"}, "gdas has none"),
        ({"method": "darts", "selection": "shared_weights"}, "single cells, which darts never trains"),
    ],
)
def test_plans_that_make_no_sense_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SearchPlan(**changes)


def test_learning_takes_place() -> None:
    found = search_cells(blocks(), load_task("digits"), SearchPlan(method="darts", epochs=4, skips=0), seed=0)
    assert found.curve[-1].weight_loss < 0.8 * found.curve[0].weight_loss
    assert found.search_s > 0


# --------------------------------------------------------------------------- the strategy


def record(probabilities: Any, choices: tuple[int, ...]) -> dict[str, Any]:
    rows = tuple(tuple(float(p) for p in row) for row in probabilities)
    found = Found(rows, rows, choices, (), "", 1.0)
    return {"pretrain": {"found": to_json(found)}}


def make(prior: dict[str, Any], **options: Any) -> Strategy:
    return Strategy(space(), PROBLEM, fidelity=Fidelity(epochs=1), seed=0, prior=prior, **options)


def test_the_selected_cell_comes_first_and_likely_ones_next() -> None:
    sharp = np.full((6, 5), 0.01)
    sharp[:, 3] = 0.96
    strategy = make(record(sharp, (3, 3, 3, 3, 3, 2)))
    asked = []
    for number in range(30):
        proposal = strategy.ask(number, [])
        assert proposal is not None
        asked.append(proposal.architecture.choices)
        trial = Trial(number, proposal)
        strategy.tell(Evaluation(trial, "complete", accuracy={"fp32": Score(0.5, 10)}))
    assert asked[0] == space().architecture((3, 3, 3, 3, 3, 2)).choices
    assert asked[1] == (3,) * 6
    assert len(set(asked)) == 30
    near = {a.choices for a in space().neighbours(space().architecture((3,) * 6))}
    assert set(asked[2:8]) <= near


def test_a_selected_cell_that_is_pending_is_not_asked_for_again() -> None:
    strategy = make(record(np.full((6, 5), 0.2), (3, 3, 3, 3, 3, 3)))
    first = strategy.ask(0, [])
    assert first is not None
    second = strategy.ask(1, [Trial(0, first)])
    assert second is not None
    assert second.architecture != first.architecture


def test_operations_without_probability_are_asked_for_only_when_nothing_else_is_left() -> None:
    rows = np.zeros((6, 5))
    rows[:, 3] = 1.0
    strategy = make(record(rows, (3,) * 6), samples=4)
    first = strategy.ask(0, [])
    assert first is not None
    assert strategy.ask(1, [Trial(0, first)]) is not None


@pytest.mark.parametrize(
    "prior",
    [
        record(np.full((5, 5), 0.2), (0,) * 5),
        record(np.full((6, 4), 0.25), (0,) * 6),
        {"pretrain": {"supernet": 1}},
        record(np.zeros((6, 5)), (0,) * 6),
    ],
)
def test_weights_of_something_else_are_refused(prior: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make(prior)


@pytest.mark.parametrize(
    ("options", "epochs", "latency_weight", "selection"),
    [
        ({}, 12, 0.1, "argmax"),
        ({"method": "gdas"}, 54, 0.01, "shared_weights"),
        ({"method": "gdas", "latency_weight": 0.0, "selection": "argmax"}, 54, 0.0, "argmax"),
        ({"method": "darts_second_order", "epochs": 3}, 3, 0.1, "argmax"),
    ],
)
def test_what_is_left_out_is_as_in_the_best_measured_row_of_the_method(
    options: dict[str, Any], epochs: int, latency_weight: float, selection: str
) -> None:
    plan = make({}, **options).plan
    assert plan.method == options.get("method", "darts")
    assert (plan.epochs, plan.latency_weight, plan.selection) == (epochs, latency_weight, selection)


def test_the_default_search_learns_from_the_measured_profile() -> None:
    """An operation that takes long on the target is favoured less than where all take the same time."""
    plan = make({}, epochs=4, warmup=1).plan
    slow = blocks().operations.index("nor_conv_3x3")
    shares = []
    for factor in (1.0, 1000.0):
        edge_s = np.full((1, 6, 5), 1e-4)
        edge_s[:, :, slow] *= factor
        latency = LatencyTerm(edge_s, np.array([1e-4]), plan.latency_weight)
        found = search_cells(blocks(), few_digits(), plan, seed=0, latency=latency)
        shares.append(np.mean([row[slow] for row in found.probabilities]))
    assert shares[1] < shares[0]


def test_informed_keeps_all_options() -> None:
    plain = make({}, method="darts", epochs=7, latency_weight=0.1, samples=5)
    informed = plain.informed(record(np.full((6, 5), 0.2), (3,) * 6)["pretrain"])
    assert (informed.plan, informed.samples, informed.seed) == (plain.plan, plain.samples, plain.seed)
    assert informed.selected is not None


def test_initial_weights_follow_from_the_seed_and_differ_from_edge_to_edge() -> None:
    network, again, other = (MixedCells(blocks(), seed=seed) for seed in (0, 0, 1))
    weights = [dict(n.named_parameters()) for n in (network, again, other)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    kernels = [
        value for values in (weights[0], weights[2]) for value in values.values() if value.shape[2:] == (3, 3)
    ]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(kernels, 2) if a.shape == b.shape)


def test_an_edge_that_is_fixed_has_one_operation_without_a_weight() -> None:
    assert mixed(torch.zeros(6, 5), [None] * 5 + [Fixed(2)])[-1] == [(2, None)]
