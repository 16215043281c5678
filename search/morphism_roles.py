"""Finds how a network can be grown into another: which tensor of the parent each node of the child makes.

The child's output is to be the parent's, so the search goes from the output back to the input.  To make a
tensor of the parent, a node of the child

- **matches** the parent's node if it is the same layer, or a wider one or one of a larger kernel (Wei, Wang,
  Rui, Chen 2016, "Network morphism", sections 3.4 and 3.5), and its inputs make that node's inputs;
- **passes** on what it reads, as an identity convolution or batch norm, or an activation that changes nothing
  (deeper networks: Chen, Goodfellow, Shlens 2016, "Net2Net", section 2.4);
- **adds zero** to it: a new branch or skip connection ends in a batch norm or convolution of zeros;
- **adds what a convolution takes off**: a skip connection without weights around a convolution that is made
  to subtract it;
- **gates** it by a half, for which the convolutions that read it make up (squeeze-excitation).

Alternatives are tried in an order that prefers nodes of the same name, and taken back where they lead
nowhere.  Nodes that nothing is asked of are free: whatever reads them does not use them yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal

from results.errors import ArchitectureError
from search.layers import Add, BatchNorm, Concat, Conv, Dropout, Identity, Multiply
from search.morphism_layers import fits, is_gate, keeps_zero, makes_zero, passes, takes_off
from search.network import Network, Node

BUDGET = 5_000
"""Steps after which a way to grow a network is taken not to exist; ways that exist take a few hundred."""

_MOST_TERMS = 6
"""Summands whose orders are all tried."""


@dataclass(frozen=True)
class Goal:
    """What a node of the child is to make.

    Attributes:
        kind: ``same`` as a tensor of the parent, that ``less`` what another node of the child makes,
            ``zero``, a ``half``, or a ``part`` of a sum.
        tensor: Name of the parent's tensor.
        without: Node of the child that is added to it later.
    """

    kind: Literal["same", "less", "zero", "half", "part"]
    tensor: str = ""
    without: str = ""


@dataclass(frozen=True)
class Role:
    """How a node of the child makes what it is to make.

    Attributes:
        goal: What it makes.
        how: ``match`` a node of the parent, ``pass`` on what it reads, make ``zero`` by its weights, or
            ``carry`` what its inputs make into a sum, product or zero.
        of: The node that is matched.
        inputs: Of a concatenation, which of what it reads stand for the inputs of that node.
    """

    goal: Goal
    how: Literal["match", "pass", "zero", "carry"]
    of: str = ""
    inputs: tuple[str, ...] = ()


_Demand = tuple[str, Goal]
_Way = tuple[list[tuple[str, Role]], list[_Demand]]
ZERO, HALF, PART = Goal("zero"), Goal("half"), Goal("part")


def roles(parent: Network, child: Network) -> dict[str, Role]:
    """How each node of the child takes part in computing what the parent computes; free nodes are left out.

    Raises:
        ArchitectureError: If no way is found; it names the layer at which the most promising one ended.
    """
    return _Search(parent, child).run()


class _Search:
    """Goes through the child's nodes from the last to the first, so that all readers of one have spoken."""

    def __init__(self, parent: Network, child: Network) -> None:
        self._parent = parent
        self._child = child
        self._of_parent = {node.name: node for node in parent.nodes}
        self._of_child = {node.name: node for node in child.nodes}
        self._readers: dict[str, list[Node]] = {}
        for node in child.nodes:
            for name in set(node.inputs):
                self._readers.setdefault(name, []).append(node)
        self._depths = _depths(parent), _depths(child)
        self._wanted: dict[str, Goal] = {}
        self._made: dict[str, Role] = {}
        self._trail: list[tuple[dict[str, Any], str]] = []
        self._choices: list[tuple[int, int, Iterator[_Way]]] = []
        self._steps = 0
        self._deepest = (-1, "")

    def run(self) -> dict[str, Role]:
        self._want(self._child.output, self._same(self._parent.output))
        names = [node.name for node in self._child.nodes]
        at: int | None = len(names) - 1
        while at is not None:
            while at >= 0 and (names[at] not in self._wanted or names[at] in self._made):
                at -= 1
            if at < 0:
                return self._made
            self._note(names[at], self._wanted[names[at]])
            ways = self._ways(names[at], self._wanted[names[at]])
            self._choices.append((len(self._trail), at, ways))
            at = self._next()
        raise ArchitectureError(f"the network cannot be grown into the other: {self._deepest[1]}")

    def _next(self) -> int | None:
        """Takes the next way at the last choice that has one; where to go on, None where no way is left."""
        while self._choices and self._steps < BUDGET:
            length, at, ways = self._choices[-1]
            while len(self._trail) > length:
                table, name = self._trail.pop()
                del table[name]
            way = next(ways, None)
            self._steps += 1
            if way is None:
                self._choices.pop()
            elif self._take(way):
                return at
        return None

    def _take(self, way: _Way) -> bool:
        given, demands = way
        for name, role in given:
            self._made[name] = role
            self._trail.append((self._made, name))
        return all([self._want(name, goal) for name, goal in demands])

    def _want(self, name: str, goal: Goal) -> bool:
        """Notes what a node is to make; False where it is to make something else already."""
        if name == "input":
            return goal == Goal("same", "input")
        if name in self._wanted:
            return self._wanted[name] == goal
        if name in self._made:
            return False
        self._wanted[name] = goal
        self._trail.append((self._wanted, name))
        return True

    def _note(self, name: str, goal: Goal) -> None:
        """Keeps the demand that was reached with the most nodes in place, for the error."""
        if len(self._made) > self._deepest[0]:
            what = type(self._of_child[name].layer).__name__
            wanted = f"what {goal.tensor} of the parent makes" if goal.tensor else "a constant"
            self._deepest = len(self._made), f"{name} ({what}) cannot make {wanted}"

    def _plain(self, tensor: str) -> str:
        """The parent's tensor without identities after it."""
        while tensor != "input" and isinstance(self._of_parent[tensor].layer, Identity | Dropout):
            tensor = self._of_parent[tensor].inputs[0]
        return tensor

    def _same(self, tensor: str) -> Goal:
        return Goal("same", self._plain(tensor))

    # ------------------------------------------------------------------ ways

    def _ways(self, name: str, goal: Goal) -> Iterator[_Way]:
        node = self._of_child[name]
        match goal.kind:
            case "zero":
                yield from self._ways_to_zero(node)
            case "half":
                if is_gate(node.layer):
                    yield [(name, Role(goal, "carry"))], [(node.inputs[0], ZERO)]
            case "less":
                yield from self._ways_to_less(node, goal)
            case "same":
                yield from self._ways_to_same(node, goal)
            case "part":
                return

    def _ways_to_zero(self, node: Node) -> Iterator[_Way]:
        if makes_zero(node.layer):
            yield [(node.name, Role(ZERO, "zero"))], []
        elif isinstance(node.layer, Multiply):
            yield [(node.name, Role(ZERO, "carry"))], [(node.inputs[0], ZERO)]
        elif keeps_zero(node.layer):
            yield [(node.name, Role(ZERO, "carry"))], [(name, ZERO) for name in node.inputs]

    def _ways_to_same(self, node: Node, goal: Goal) -> Iterator[_Way]:
        made, wanted = self._child.shapes[node.name], self._parent.shapes[goal.tensor]
        deep, enough = self._depths[0][goal.tensor], self._depths[1][node.name]
        if made[1:] != wanted[1:] or made[0] < wanted[0] or enough < deep:
            return
        matching = list(self._matching(node, goal))
        passing = list(self._passing(node, goal))
        known = goal.tensor != node.name and goal.tensor in self._of_child
        yield from (*passing, *matching) if known else (*matching, *passing)
        if isinstance(node.layer, Add):
            yield from self._sums(node, goal)

    def _passing(self, node: Node, goal: Goal) -> Iterator[_Way]:
        if isinstance(node.layer, Multiply):
            # The convolutions that read it make up for the factor.
            if all(isinstance(reader.layer, Conv) for reader in self._readers.get(node.name, [])):
                yield [(node.name, Role(goal, "carry"))], [(node.inputs[0], goal), (node.inputs[1], HALF)]
        elif passes(self._child, node, self._parent, goal.tensor):
            yield [(node.name, Role(goal, "pass"))], [(node.inputs[0], goal)]

    def _matching(self, node: Node, goal: Goal) -> Iterator[_Way]:
        other = self._of_parent.get(goal.tensor)
        if other is None or isinstance(node.layer, Add) or type(node.layer) is not type(other.layer):
            return
        role = [(node.name, Role(goal, "match", other.name))]
        if isinstance(node.layer, Concat):
            for names in _in_order(node.inputs, len(other.inputs)):
                role = [(node.name, Role(goal, "match", other.name, names))]
                yield role, [(n, self._same(p)) for n, p in zip(names, other.inputs, strict=True)]
        elif fits(self._child, node, self._parent, other):
            yield role, [(n, self._same(p)) for n, p in zip(node.inputs, other.inputs, strict=True)]

    # ------------------------------------------------------------------ sums

    def _sums(self, node: Node, goal: Goal) -> Iterator[_Way]:
        carried = [(node.name, Role(goal, "carry"))]
        whole = list(self._assignments(node.inputs, (goal.tensor,)))
        if goal.tensor in node.inputs:
            yield from ((carried, given) for given in whole)
        wanted, direct = self._parent_terms(goal.tensor), self._direct_terms(goal.tensor)
        inner, terms = self._child_terms(node)
        parts = [(name, Role(PART, "carry")) for name in inner]
        yield from ((carried + parts, given) for given in self._assignments(terms, wanted))
        if inner or direct != wanted:
            yield from ((carried, given) for given in self._assignments(node.inputs, direct))
        yield from ((carried, given) for given in whole)
        a, b = node.inputs
        for changed, added in ((a, b), (b, a)):
            yield carried, [(changed, Goal("less", goal.tensor, added))]

    def _assignments(self, terms: tuple[str, ...], wanted: tuple[str, ...]) -> Iterator[list[_Demand]]:
        """Every way to let some of the terms make what is wanted and the others zero, likely ones first."""
        if not len(wanted) <= len(terms) <= _MOST_TERMS:
            return
        orders = sorted(
            permutations(range(len(terms)), len(wanted)),
            key=lambda order: sum(terms[i] != p for i, p in zip(order, wanted, strict=True)),
        )
        for order in orders:
            goals = {i: self._same(p) for i, p in zip(order, wanted, strict=True)}
            yield [(term, goals.get(i, ZERO)) for i, term in enumerate(terms)]

    def _child_terms(self, node: Node) -> tuple[list[str], tuple[str, ...]]:
        """Sums inside a sum that nothing else reads, and what all of them add."""
        inner, terms = list[str](), list[str]()
        stack = list(reversed(node.inputs))
        while stack:
            name = stack.pop()
            below = self._of_child.get(name)
            alone = len(self._readers[name]) == 1 and name not in self._wanted
            if below is not None and isinstance(below.layer, Add) and alone and node.inputs.count(name) == 1:
                inner.append(name)
                stack += reversed(below.inputs)
            else:
                terms.append(name)
        return inner, tuple(terms)

    def _direct_terms(self, tensor: str) -> tuple[str, ...]:
        node = self._of_parent.get(tensor)
        return node.inputs if node is not None and isinstance(node.layer, Add) else (tensor,)

    def _parent_terms(self, tensor: str) -> tuple[str, ...]:
        terms = list[str]()
        stack = [tensor]
        while stack:
            name = self._plain(stack.pop())
            direct = self._direct_terms(name)
            if direct == (name,):
                terms.append(name)
            else:
                stack += reversed(direct)
        return tuple(terms)

    def _ways_to_less(self, node: Node, goal: Goal) -> Iterator[_Way]:
        """A tensor less what ``without`` makes, in the convolution that reads it; through norms and sums."""
        other = self._of_parent.get(goal.tensor)
        if other is None or type(node.layer) is not type(other.layer):
            return
        role = [(node.name, Role(goal, "match", other.name))]
        match node.layer:
            case Conv():
                reads = node.inputs == (goal.without,) and takes_off(self._child, node)
                if reads and fits(self._child, node, self._parent, other):
                    yield role, [(node.inputs[0], self._same(other.inputs[0]))]
            case BatchNorm():
                if isinstance(self._of_child[node.inputs[0]].layer, Conv):
                    yield role, [(node.inputs[0], Goal("less", other.inputs[0], goal.without))]
            case Add():
                yield from self._sums_less(node, goal, other)

    def _sums_less(self, node: Node, goal: Goal, other: Node) -> Iterator[_Way]:
        for given in self._assignments(node.inputs, other.inputs):
            for i, (name, part) in enumerate(given):
                if part.kind == "same":
                    less = (name, Goal("less", part.tensor, goal.without))
                    yield [(node.name, Role(goal, "carry"))], [*given[:i], less, *given[i + 1 :]]


def _depths(network: Network) -> dict[str, int]:
    """Layers on the longest way from the input to each tensor, those not counted that only join others.

    What makes a tensor of the parent takes at least as many, each for one of the parent's.
    """
    depths = {"input": 0}
    for node in network.nodes:
        joins = isinstance(node.layer, Add | Concat | Dropout | Identity | Multiply)
        depths[node.name] = max(depths[name] for name in node.inputs) + (not joins)
    return depths


def _in_order(names: tuple[str, ...], count: int) -> Iterator[tuple[str, ...]]:
    """All ways to leave out names until ``count`` are left; the first ones are kept first."""
    if count == 0:
        yield ()
        return
    for i in range(len(names) - count + 1):
        for rest in _in_order(names[i + 1 :], count - 1):
            yield (names[i], *rest)
