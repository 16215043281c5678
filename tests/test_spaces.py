"""The contract of search spaces, over every file in search/spaces, and exact tests of SearchSpace."""

from __future__ import annotations

import importlib
import json
import pickle
import pkgutil
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import search.spaces
from results.errors import ArchitectureError, ConfigError
from results.records import Architecture
from search.module import to_module
from search.network import Conv, Dense, GlobalPool, Network, Node, costs
from search.space import Decision, SearchSpace

NAMES = [module.name for module in pkgutil.iter_modules(search.spaces.__path__)]
SHAPES = [(3, 32, 32), (1, 8, 8)]
CASES: list[Any] = [(name, shape) for name in NAMES for shape in SHAPES]
CASES.append(("cell", (1, 8, 8), ("kind", "darts")))

seeds = st.integers(0, 2**32 - 1)
cases = st.sampled_from(CASES)
fast = settings(max_examples=60, deadline=None, derandomize=True)


class Tree(SearchSpace):
    """18 architectures: options that switch others on, two levels deep, and one that asks two parents."""

    def __init__(self) -> None:
        super().__init__(
            "tree",
            [
                Decision("depth", (1, 2, 3), ordered=True),
                Decision("kernel1", (3, 5), ordered=True),
                Decision("kernel2", (3, 5), (("depth", (2, 3)),)),
                Decision("kernel3", (3, 5), (("depth", (3,)),), ordered=True),
                Decision("mode", ("p", "q"), (("depth", (3,)), ("kernel3", (5,)))),
                Decision("fixed", (True,)),
            ],
        )

    def build(
        self, architecture: Architecture, *, width: float = 1.0, resolution: int | None = None
    ) -> Network:
        """One convolution per level; which mode it is shows in the channels."""
        chosen = self.describe(architecture)
        nodes, last = [], "input"
        for i in range(1, int(chosen["depth"]) + 1):
            kernel = int(chosen[f"kernel{i}"])
            pad = kernel // 2
            channels = 4 if chosen.get("mode") == "q" else 3
            nodes.append(Node(f"c{i}", Conv(channels, (kernel, kernel), padding=(pad,) * 4), (last,)))
            last = f"c{i}"
        nodes += [Node("pool", GlobalPool(), (last,)), Node("out", Dense(2), ("pool",))]
        return Network((1, resolution or 8, resolution or 8), tuple(nodes))


TREE = Tree()


@cache
def make(case: Any) -> SearchSpace:
    """The space of a case (name, shape of images, pairs of options); None for the tree."""
    if case is None:
        return TREE
    module = importlib.import_module(f"search.spaces.{case[0]}")
    space: SearchSpace = module.Space(input_shape=case[1], classes=10, **dict(case[2:]))
    return space


def sampled(space: SearchSpace, seed: int) -> Architecture:
    return space.sample(np.random.default_rng(seed))


def shared_differences(space: SearchSpace, a: Architecture, b: Architecture) -> list[int]:
    """Decisions that apply in both and differ."""
    in_a, in_b = space.applying(a.choices), space.applying(b.choices)
    return [i for i in range(len(in_a)) if in_a[i] and in_b[i] and a.choices[i] != b.choices[i]]


def merges(space: SearchSpace) -> bool:
    """Whether different choices may describe one network, so that one change may be none or several."""
    return type(space).canonical is not SearchSpace.canonical


every_space = pytest.mark.parametrize("case", [None, *CASES], ids=str)
any_space = st.sampled_from([None, *CASES])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small layers on several threads wait for each other longer than they compute where the host is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class TestContract:
    """What every space keeps, ours and a stranger's."""

    @fast
    @given(any_space, seeds)
    def test_samples_are_valid_and_repeat_with_the_seed(self, case: Any, seed: int) -> None:
        space = make(case)
        architecture = sampled(space, seed)
        space.check(architecture)
        assert sampled(space, seed) == architecture

    @fast
    @given(any_space, seeds)
    def test_options_describe_an_architecture_entirely(self, case: Any, seed: int) -> None:
        space = make(case)
        architecture = sampled(space, seed)
        options = json.loads(json.dumps(space.describe(architecture)))
        assert space.from_options(options) == architecture

    @fast
    @given(any_space, seeds, seeds)
    def test_encodings_are_equal_exactly_for_equal_architectures(self, case: Any, s: int, t: int) -> None:
        space = make(case)
        a, b = sampled(space, s), sampled(space, t)
        near = space.mutate(a, np.random.default_rng(t))
        for other in (a, b, near):
            code, known = space.encode(other), space.encode(a)
            assert code.shape == known.shape
            assert code.min() >= 0
            assert code.max() <= 1
            assert np.array_equal(code, known) == (other == a)

    @fast
    @given(any_space, seeds, seeds, st.integers(1, 3))
    def test_mutation_changes_as_many_decisions_as_asked(
        self, case: Any, s: int, t: int, changes: int
    ) -> None:
        space = make(case)
        before = sampled(space, s)
        after = space.mutate(before, np.random.default_rng(t), changes=changes)
        space.check(after)
        changed = len(shared_differences(space, before, after))
        assert after != before
        assert merges(space) or changed == changes or (case is None and 1 <= changed < changes)
        assert after == space.mutate(before, np.random.default_rng(t), changes=changes)

    @fast
    @given(any_space, seeds, seeds, seeds)
    def test_children_take_each_decision_from_a_parent_that_has_it(
        self, case: Any, s: int, t: int, u: int
    ) -> None:
        space = make(case)
        parents = [sampled(space, s), sampled(space, t)]
        child = space.crossover(*parents, np.random.default_rng(u))
        space.check(child)
        for i, applies in enumerate(space.applying(child.choices)):
            given_by = [p.choices[i] for p in parents if space.applies(i, p.choices)]
            assert not applies or not given_by or child.choices[i] in given_by or merges(space)
        assert space.crossover(parents[0], parents[0], np.random.default_rng(u)) == parents[0]

    @every_space
    def test_neighbours_are_all_single_changes_each_once(self, case: Any) -> None:
        space = make(case)
        for seed in range(3):
            a = sampled(space, seed)
            near = list(space.neighbours(a))
            assert len({a, *near}) == len(near) + 1
            assert near == list(space.neighbours(a))
            if merges(space):
                continue
            applying = space.applying(a.choices)
            free = [len(d.options) - 1 for d, on in zip(space.decisions, applying, strict=True) if on]
            assert len(near) == sum(free)
            assert all(len(shared_differences(space, a, b)) == 1 for b in near)

    @fast
    @given(any_space, seeds)
    def test_all_encodings_of_a_network_are_one_architecture(self, case: Any, seed: int) -> None:
        space = make(case)
        a = sampled(space, seed)
        same = space.equivalents(a.choices)
        assert a.choices in same
        assert len(set(same)) == len(same)
        rng = np.random.default_rng(seed)
        for i in rng.choice(len(same), size=min(5, len(same)), replace=False):
            assert space.architecture(same[i]) == a

    @every_space
    def test_steps_to_neighbours_can_be_taken_back(self, case: Any) -> None:
        space = make(case)
        a = sampled(space, 7)
        for b in space.neighbours(a):
            lost = [
                i
                for i in range(len(a.choices))
                if a.choices[i] and space.applies(i, a.choices) and not space.applies(i, b.choices)
            ]
            assert (a in space.neighbours(b)) == (not lost)

    @fast
    @given(any_space, seeds, seeds, seeds)
    def test_distance_is_a_metric(self, case: Any, s: int, t: int, u: int) -> None:
        space = make(case)
        a, b, c = sampled(space, s), sampled(space, t), sampled(space, u)
        near = space.mutate(a, np.random.default_rng(u))
        for x, y, z in ((a, b, c), (a, near, b), (near, a, c)):
            assert (space.distance(x, y) == 0) == (x == y)
            assert space.distance(x, y) == space.distance(y, x)
            assert space.distance(x, z) <= space.distance(x, y) + space.distance(y, z) + 1e-9

    @fast
    @given(any_space, seeds, seeds)
    def test_networks_are_equal_exactly_for_equal_architectures(self, case: Any, s: int, t: int) -> None:
        space = make(case)
        a = sampled(space, s)
        network = space.build(a)
        assert space.build(a) == network
        for b in (sampled(space, t), space.mutate(a, np.random.default_rng(t))):
            assert (space.build(b).fingerprint == network.fingerprint) == (a == b)

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(cases, seeds)
    def test_networks_run_as_modules(self, case: Any, seed: int) -> None:
        network = make(case).build(sampled(make(case), seed))
        assert network.input_shape == case[1]
        assert network.shapes[network.output] == (10,)
        module = to_module(network)
        logits = module(torch.zeros((2, *case[1])))
        assert logits.shape == (2, 10)
        assert sum(p.numel() for p in module.parameters()) == costs(network).parameters

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(cases, seeds, st.sampled_from([0.01, 0.25, 0.5, 0.75]), st.sampled_from([1, 5, 16, 33]))
    def test_width_and_resolution_are_honoured(
        self, case: Any, seed: int, width: float, resolution: int
    ) -> None:
        space = make(case)
        a = sampled(space, seed)
        full, narrow = space.build(a), space.build(a, width=width)
        assert narrow.input_shape == full.input_shape
        assert costs(narrow).parameters <= costs(full).parameters
        dense = [c for c in _convolutions(narrow) if c.groups == 1]
        assert all(c.channels >= 4 for c in dense)
        small = space.build(a, resolution=resolution)
        assert small.input_shape == (case[1][0], resolution, resolution)
        assert costs(small).parameters == costs(full).parameters

    @fast
    @given(any_space, seeds)
    def test_features_are_finite_and_repeat(self, case: Any, seed: int) -> None:
        space = make(case)
        features = space.features(sampled(space, seed))
        assert features.shape == space.features(sampled(space, seed + 1)).shape
        assert np.isfinite(features).all()
        assert np.array_equal(features, space.features(sampled(space, seed)))

    @every_space
    def test_architectures_of_other_spaces_are_refused(self, case: Any) -> None:
        space = make(case)
        stranger = Architecture("0" * 64, sampled(space, 0).choices)
        with pytest.raises(ArchitectureError, match="another space"):
            space.build(stranger)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_space_made_again_or_sent_elsewhere_is_the_same(self, name: str) -> None:
        space = make((name, SHAPES[0]))
        module = importlib.import_module(f"search.spaces.{name}")
        again = module.Space(input_shape=SHAPES[0], classes=10)
        sent = pickle.loads(pickle.dumps(space))
        assert space.fingerprint == again.fingerprint == sent.fingerprint
        others = [
            module.Space(input_shape=SHAPES[1], classes=10),
            module.Space(input_shape=SHAPES[0], classes=9),
        ]
        assert space.fingerprint not in [other.fingerprint for other in others]

    @pytest.mark.parametrize("name", NAMES)
    def test_unknown_options_are_refused(self, name: str) -> None:
        module = importlib.import_module(f"search.spaces.{name}")
        with pytest.raises(ConfigError, match="no_such_option"):
            module.Space(input_shape=SHAPES[0], classes=10, no_such_option=1)


def _convolutions(network: Network) -> list[Conv]:
    return [node.layer for node in network.nodes if isinstance(node.layer, Conv)]


class TestTree:
    """Exact figures on a space small enough to count by hand."""

    # depth 1: 2; depth 2: 2 * 2; depth 3: 2 * 2 * (1 for kernel3 = 3, else 2 modes)
    ALL = 2 + 4 + 12

    def test_every_architecture_is_listed_once_in_order(self) -> None:
        listed = list(TREE.architectures())
        assert len(listed) == len(set(listed)) == self.ALL
        assert [a.choices for a in listed] == sorted(a.choices for a in listed)
        for architecture in listed:
            TREE.check(architecture)
        assert TREE.size() == 3 * 2 * 2 * 2 * 2

    def test_large_spaces_are_listed_lazily(self) -> None:
        space = make(("chain", SHAPES[0]))
        listed = space.architectures()
        first = next(listed)
        assert first == space.architecture([0] * len(space.decisions))
        assert space.size() > 1e12
        assert isinstance(space.size(), int)
        assert next(listed) != first

    def test_what_does_not_apply_is_merged(self) -> None:
        assert TREE.architecture([0, 1, 1, 1, 1, 0]).choices == (0, 1, 0, 0, 0, 0)
        assert TREE.architecture([1, 1, 1, 1, 1, 0]).choices == (1, 1, 1, 0, 0, 0)
        assert TREE.architecture([2, 1, 1, 0, 1, 0]).choices == (2, 1, 1, 0, 0, 0)
        assert TREE.architecture([2, 1, 1, 1, 1, 0]).choices == (2, 1, 1, 1, 1, 0)
        assert TREE.applying((2, 0, 0, 1, 0, 0)) == [True] * 6
        assert TREE.applying((1, 0, 0)) == [True] * 3
        assert not TREE.applies(4, (1, 0, 0, 1))

    def test_encoding_by_hand(self) -> None:
        shallow = TREE.architecture([0, 1, 0, 0, 0, 0])
        deep = TREE.architecture([2, 0, 1, 1, 1, 0])
        assert TREE.encode(shallow).tolist() == [1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1]
        assert TREE.encode(deep).tolist() == [1, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1]

    def test_distance_by_hand(self) -> None:
        a = TREE.architecture([0, 1, 0, 0, 0, 0])
        b = TREE.architecture([1, 1, 0, 0, 0, 0])
        c = TREE.architecture([2, 0, 1, 1, 1, 0])
        assert TREE.distance(a, b) == 0.5 + 1  # half the scale of depths; kernel2 in one only
        assert TREE.distance(b, c) == 0.5 + 1 + 1 + 1 + 1
        assert TREE.distance(a, c) == 1 + 1 + 1 + 1 + 1

    def test_the_triangle_inequality_holds_for_all_triples(self) -> None:
        listed = list(TREE.architectures())
        d = np.asarray([[TREE.distance(a, b) for b in listed] for a in listed])
        assert (d[:, None, :] <= d[:, :, None] + d[None, :, :] + 1e-12).all()
        assert ((d == 0) == np.eye(self.ALL, dtype=bool)).all()
        assert (d == d.T).all()

    def test_mutation_reaches_everything(self) -> None:
        rng = np.random.default_rng(0)
        current = TREE.sample(rng)
        seen = {current}
        # Each of the 18 is left out of 2,000 steps with probability < (1 - 1/100) ** 2000 = 2e-9.
        for _ in range(2000):
            current = TREE.mutate(current, rng)
            seen.add(current)
        assert len(seen) == self.ALL

    def test_mutation_draws_decisions_and_options_evenly(self) -> None:
        rng = np.random.default_rng(0)
        start = TREE.architecture([2, 0, 0, 1, 0, 0])
        draws = 6000
        counts = Counter(
            (i := shared_differences(TREE, start, mutant)[0], mutant.choices[i])
            for mutant in (TREE.mutate(start, rng) for _ in range(draws))
        )
        # Five decisions with a choice; depth has two other options.  A count of n draws of probability p
        # is farther than 5 standard deviations off with probability 6e-7, so any of six with 4e-6.
        shares = {(0, 0): 0.1, (0, 1): 0.1, (1, 1): 0.2, (2, 1): 0.2, (3, 0): 0.2, (4, 1): 0.2}
        assert counts.keys() == shares.keys()
        for key, share in shares.items():
            assert abs(counts[key] - draws * share) < 5 * np.sqrt(draws * share * (1 - share))

    def test_mutation_gives_what_it_switches_on_a_random_option(self) -> None:
        rng = np.random.default_rng(0)
        start = TREE.architecture([0, 0, 0, 0, 0, 0])
        # depth becomes 3 in a quarter of the draws: four values of (kernel2, kernel3), each missed by
        # 400 draws with probability (1 - 1/16) ** 400 < 1e-11.
        mutants = {TREE.mutate(start, rng) for _ in range(400)}
        assert {m.choices[2:4] for m in mutants if m.choices[0] == 2} == {(0, 0), (0, 1), (1, 0), (1, 1)}

    def test_samples_draw_options_evenly(self) -> None:
        rng = np.random.default_rng(0)
        draws = 6000
        counts = Counter(TREE.sample(rng).choices[0] for _ in range(draws))
        # 5 standard deviations: any of the three is farther off with probability 2e-6.
        assert all(abs(counts[i] - draws / 3) < 5 * np.sqrt(draws * (1 / 3) * (2 / 3)) for i in range(3))

    def test_neighbours_in_order(self) -> None:
        a = TREE.architecture([1, 0, 1, 0, 0, 0])
        assert [b.choices for b in TREE.neighbours(a)] == [
            (0, 0, 0, 0, 0, 0),
            (2, 0, 1, 0, 0, 0),
            (1, 1, 1, 0, 0, 0),
            (1, 0, 0, 0, 0, 0),
        ]

    def test_crossover_asks_the_parent_that_has_the_decision(self) -> None:
        rng = np.random.default_rng(0)
        shallow = TREE.architecture([0, 0, 0, 0, 0, 0])
        deep = TREE.architecture([2, 1, 1, 1, 1, 0])
        children = [TREE.crossover(shallow, deep, rng) for _ in range(60)]
        # Both depths come up but for 2 * 2 ** -60.
        assert {c.choices[0] for c in children} == {0, 2}
        assert {c.choices[2:] for c in children if c.choices[0] == 2} == {(1, 1, 1, 0)}

    def test_a_space_of_one_architecture_stays_there(self) -> None:
        class Single(Tree):
            def __init__(self) -> None:
                SearchSpace.__init__(self, "single", [Decision("only", (1,))])

        space = Single()
        (a,) = space.architectures()
        assert space.mutate(a, np.random.default_rng(0)) == a
        assert list(space.neighbours(a)) == []
        assert space.distance(a, a) == 0

    @pytest.mark.parametrize("choices", [(0,) * 5, (0,) * 7, (3, 0, 0, 0, 0, 0), (-1, 0, 0, 0, 0, 0)])
    def test_choices_that_are_none_are_refused(self, choices: tuple[int, ...]) -> None:
        with pytest.raises(ArchitectureError, match="tree"):
            TREE.architecture(choices)

    def test_encodings_that_are_not_canonical_are_refused(self) -> None:
        with pytest.raises(ArchitectureError, match="canonical"):
            TREE.check(Architecture(TREE.fingerprint, (0, 0, 1, 0, 0, 0)))

    def test_unknown_decisions_and_options_are_refused_with_what_is_known(self) -> None:
        with pytest.raises(ArchitectureError, match=r"unknown decision 'kernel'; did you mean .*'kernel1'"):
            TREE.from_options({"kernel": 3})
        with pytest.raises(ArchitectureError, match=r"depth has no option 7; known: \(1, 2, 3\)"):
            TREE.from_options({"depth": 7})
        assert TREE.from_options({}).choices == (0,) * 6

    @pytest.mark.parametrize(
        ("decisions", "message"),
        [
            ([], "needs decisions"),
            ([Decision("a", (1,)), Decision("a", (2,))], "different names"),
            ([Decision("a", (1,), (("b", (1,)),)), Decision("b", (1,))], "'a' depends on 'b'"),
            ([Decision("a", (1,), (("a", (1,)),))], "'a' depends on 'a'"),
            ([Decision("a", (1,)), Decision("b", (1,), (("a", (2,)),))], "options that 'a' has not"),
            ([Decision("a", (1,)), Decision("b", (1,), (("a", ()),))], "options that 'a' has not"),
        ],
    )
    def test_decisions_that_do_not_join_up_are_refused(self, decisions: list[Decision], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            type(
                "Wrong", (Tree,), {"__init__": lambda self: SearchSpace.__init__(self, "wrong", decisions)}
            )()

    @pytest.mark.parametrize("options", [(), (1, 1), (1, True)])
    def test_options_must_differ(self, options: tuple[Any, ...]) -> None:
        with pytest.raises(ConfigError, match="all different"):
            Decision("a", options)

    def test_fingerprints_tell_names_decisions_and_settings_apart(self) -> None:
        def fingerprint(name: str, option: int, settings: dict[str, Any] | None = None) -> str:
            space = Tree.__new__(Tree)
            SearchSpace.__init__(space, name, [Decision("a", (1, option))], settings)
            return space.fingerprint

        known = {
            fingerprint("x", 2),
            fingerprint("x", 3),
            fingerprint("y", 2),
            fingerprint("x", 2, {"classes": 2}),
            fingerprint("x", 2, {"classes": 3}),
        }
        assert len(known) == 5
        assert fingerprint("x", 2, {"classes": 3}) in known
