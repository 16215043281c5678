"""The layer graph of a user's own ``torch.nn.Module``, traced and proved.

The module is run in evaluation and in training (:mod:`search.module_trace`); what it calls must be layers
of :mod:`search.layers`, the same in both.  The graph is then given the module's own weights and must compute
the same outputs, running statistics and gradients, so that a difference in meaning is found here and not on
a board.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from results.errors import ArchitectureError
from search.module import to_module
from search.module_trace import ELSEWHERE, Trace, trace
from search.network import Dropout, Network, Node, Shape
from search.user_code import blamed

TOLERANCE = 1e-4
"""Largest difference of an output that is rounding, as a share of the largest output."""

GRADIENT_TOLERANCE = 1e-3
"""The same of a gradient, and of what a batch leaves in running statistics."""

_IMAGES = {False: 1, True: 3}
"""Images in evaluation and in training: other numbers, so that what depends on them is found."""


def network_of(module: nn.Module, input_shape: Shape) -> Network:
    """The layer graph of a module; the module is left as it was.

    Args:
        module: Takes images ``(n, c, h, w)`` and gives ``(n, classes)``.
        input_shape: ``(c, h, w)``.

    Raises:
        ArchitectureError: If an operation is none of the known layers, layers share weights or do not learn,
            or the graph computes something else than the module; the message names place and setting.
    """
    _check(module)
    with _left_as_it_was(module) as before:
        evaluated = _traced(module, input_shape, training=False)
        trained = _traced(module, input_shape, training=True)
        network = Network(input_shape, tuple(trained.nodes))
        _check_modes(network, Network(input_shape, tuple(evaluated.nodes)))
        _check_used(module, trained)
        weights = {name: before[own].numpy() for name, own in trained.sources.items()}
        _prove(module, network, weights, trained, evaluated)
    return network


# --------------------------------------------------------------------------- before


def _check(module: nn.Module) -> None:
    """Raises ArchitectureError for what a layer graph cannot say of a module, whatever its forward() does."""
    for path, each in module.named_modules():
        where = f"{path or 'the module'} ({type(each).__name__})"
        if isinstance(each, torch.jit.ScriptModule) or hasattr(each, "_orig_mod"):
            raise ArchitectureError(f"{where} is compiled: give the module itself")
        if each._backward_hooks or each._backward_pre_hooks:
            raise ArchitectureError(f"{where} has hooks that change gradients: no layer has; {ELSEWHERE}")
        if isinstance(each, nn.BatchNorm2d) and each.momentum is None:
            raise ArchitectureError(f"{where} has momentum=None: give it a number (PyTorch's is 0.1)")
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        _check_tensor(name, tensor)
    _check_storage(module)


def _check_tensor(name: str, tensor: Tensor) -> None:
    learned = isinstance(tensor, nn.Parameter)
    if is_lazy(tensor):
        raise ArchitectureError(f"{name} has no shape yet: use layers that say their input channels")
    if tensor.is_floating_point() and tensor.dtype != torch.float32:
        raise ArchitectureError(
            f"{name} is {tensor.dtype}: networks are trained in float32, precision is an option of targets; "
            "call module.float()"
        )
    if tensor.device.type != "cpu":
        raise ArchitectureError(f"{name} is on {tensor.device}: build the module on the CPU")
    if learned and not tensor.requires_grad:
        raise ArchitectureError(
            f"{name} is frozen (requires_grad=False): a search trains all layers from fresh weights; do not "
            "freeze it"
        )
    if learned and (tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None)):
        raise ArchitectureError(f"{name} has hooks that change its gradient: no layer has; {ELSEWHERE}")


def _check_storage(module: nn.Module) -> None:
    """Raises ArchitectureError if a step of training would change two tensors at once."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    places = sorted((t.data_ptr(), t.data_ptr() + t.nbytes, name) for name, t in tensors if t.numel())
    for (_, end, name), (begin, _, other) in pairwise(places):
        if begin < end:
            raise ArchitectureError(f"{name} and {other} share their memory: give each its own")


@contextmanager
def _left_as_it_was(module: nn.Module) -> Iterator[Mapping[str, Tensor]]:
    """Copies of the module's tensors; they and its modes are put back after."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    modes = [(each, each.training) for each in module.modules()]
    try:
        yield before
    finally:
        for each, training in modes:
            each.training = training
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(before[name])


# --------------------------------------------------------------------------- traces


def _images(input_shape: Shape, *, training: bool) -> Tensor:
    generator = torch.Generator().manual_seed(int(training))
    return torch.randn((_IMAGES[training], *input_shape), generator=generator)


def _traced(module: nn.Module, input_shape: Shape, *, training: bool) -> Trace:
    module.train(training)
    what = f"forward() of {type(module).__name__} raised in {'training' if training else 'evaluation'}"
    with blamed(what, ArchitectureError), torch.set_grad_enabled(training):
        return trace(module, _images(input_shape, training=training))


def _check_modes(training: Network, evaluation: Network) -> None:
    """Raises ArchitectureError unless a module has the same layers in both modes, dropout aside."""
    plain = _without_dropout(training)
    for node, other in zip(plain.nodes, evaluation.nodes, strict=False):
        if node.layer != other.layer:
            found = f"{node.name} ({node.layer}) in training, {other.name} ({other.layer}) in evaluation"
            break
    else:
        found = f"{len(plain.nodes)} layers in training, {len(evaluation.nodes)} in evaluation"
    if plain.fingerprint != evaluation.fingerprint:
        raise ArchitectureError(
            f"forward() does other things in training (of {_IMAGES[True]} images) than in evaluation (of "
            f"{_IMAGES[False]}): {found}; a graph has no 'if self.training', but Dropout; {ELSEWHERE}"
        )


def _without_dropout(network: Network) -> Network:
    same = {"input": "input"}
    nodes: list[Node] = []
    for node in network.nodes:
        inputs = tuple(same[name] for name in node.inputs)
        same[node.name] = inputs[0] if isinstance(node.layer, Dropout) else node.name
        if not isinstance(node.layer, Dropout):
            nodes.append(replace(node, inputs=inputs))
    return Network(network.input_shape, tuple(nodes))


def _check_used(module: nn.Module, found: Trace) -> None:
    used = set(found.sources.values())
    for name, parameter in module.named_parameters():
        if parameter.numel() and name not in used:
            raise ArchitectureError(
                f"{name} is not used by forward(), or nothing depends on it: it would count as a parameter; "
                "take it out of the module"
            )


# --------------------------------------------------------------------------- proof


def _prove(
    module: nn.Module,
    network: Network,
    weights: Mapping[str, NDArray[np.float32]],
    trained: Trace,
    evaluated: Trace,
) -> None:
    """Raises ArchitectureError unless the graph with the module's weights does what the module did."""
    still = [replace(n, layer=Dropout(0.0)) if isinstance(n.layer, Dropout) else n for n in network.nodes]
    rebuilt = to_module(Network(network.input_shape, tuple(still)), weights)
    with torch.no_grad():
        found = rebuilt.eval()(_images(network.input_shape, training=False))
    _check_equal({"outputs": evaluated.output}, {"outputs": found}, TOLERANCE, "in evaluation")
    found = rebuilt.train()(_images(network.input_shape, training=True))
    _check_equal({"outputs": trained.output}, {"outputs": found}, GRADIENT_TOLERANCE, "in training")
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    expected = {name: own[source] for name, source in trained.sources.items()}
    made = {**dict(rebuilt.named_parameters()), **dict(rebuilt.named_buffers())}
    learned = [name for name in expected if isinstance(expected[name], nn.Parameter)]
    statistics = expected.keys() - set(learned)
    for name in statistics:
        _check_equal(
            {name: expected[name]}, {name: made[name]}, GRADIENT_TOLERANCE, "after a step of training"
        )
    _check_equal(
        _gradients(trained.output, {name: expected[name] for name in learned}),
        _gradients(found, {name: made[name] for name in learned}),
        GRADIENT_TOLERANCE,
        "in training: the gradients",
    )


def _gradients(outputs: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a weighted sum of the outputs; zeros for what it does not depend on."""
    direction = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(2))
    if not parameters:
        return {}
    if not outputs.requires_grad:
        return {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    found = torch.autograd.grad(outputs, list(parameters.values()), direction, allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), found, strict=True)
    }


def _check_equal(expected: Mapping[str, Any], found: Mapping[str, Any], tolerance: float, when: str) -> None:
    """Raises ArchitectureError unless tensors differ by rounding only."""
    sizes = {name: float(tensor.detach().abs().max()) for name, tensor in expected.items()}
    for name, tensor in expected.items():
        difference = float((tensor - found[name]).detach().abs().max())
        allowed = tolerance * (sizes[name] + 1e-2 * max(sizes.values())) + 1e-6
        if not difference <= allowed:
            raise ArchitectureError(
                f"the graph computes something else than the module {when}: {name} by up to "
                f"{difference:.3g}; {ELSEWHERE}"
            )
