"""Sets the running statistics of batch norms to those of what they read, without changing what they make.

A batch norm that was put in as an identity, or whose convolution was changed, computes with its running
statistics what it should; in training it would normalise with those of the batch and compute something else.
With the statistics of real data, and scale and shift that make up for them, it computes nearly the same in
training too (Chen et al. 2016, "Net2Net", section 2.4: identity batch norms).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search.module import to_module
from search.network import BatchNorm, Network

Weights = Mapping[str, NDArray[np.float32]]


def settle(
    network: Network, weights: Weights, norms: Iterable[str], images: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """The weights with other statistics in some batch norms; the function stays the same.

    With (g, b, m, v) of a batch norm and the true mean and variance M, V of what it reads: scale
    g sqrt((V + e) / (v + e)), shift b + g (M - m) / sqrt(v + e).

    Args:
        network: What computes.
        weights: With which weights.
        norms: Names of the batch norms to change.
        images: Inputs ``(n, c, h, w)`` of the training split.
    """
    changed = {name: values.copy() for name, values in weights.items()}
    for name, (mean, variance) in _statistics(network, weights, set(norms), images).items():
        layer = next(node.layer for node in network.nodes if node.name == name)
        epsilon = np.float32(layer.epsilon if isinstance(layer, BatchNorm) else 0.0)
        scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
        old_mean, old = weights[f"{name}.running_mean"], weights[f"{name}.running_var"] + epsilon
        changed[f"{name}.weight"] = scale * np.sqrt((variance + epsilon) / old)
        changed[f"{name}.bias"] = shift + scale * (mean - old_mean) / np.sqrt(old)
        changed[f"{name}.running_mean"], changed[f"{name}.running_var"] = mean, variance
    return changed


def _statistics(
    network: Network, weights: Weights, norms: set[str], images: NDArray[np.float32]
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Mean and variance per channel ``(c,)`` of what each batch norm reads, computing as after training."""
    module = to_module(network, weights).eval()
    found: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def keep(name: str, read: Tensor) -> None:
        variance, mean = torch.var_mean(read, (0, 2, 3), correction=0)
        found[name] = mean.numpy().copy(), variance.numpy().copy()

    def hook(name: str) -> None:
        def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            keep(name, inputs[0])

        module.get_submodule(name).register_forward_pre_hook(before)

    for name in norms:
        hook(name)
    with torch.inference_mode():
        module(torch.from_numpy(images))
    return found
