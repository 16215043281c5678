"""One set of weights for all networks of a space.

Guo et al. 2020 (ECCV), "Single path one-shot neural architecture search with uniform sampling": a network is
scored, or begins its training, with its part of weights that were trained for all networks at once.  Which
part: :mod:`search.supernet_names`; how they are trained: :mod:`search.supernet_training`.

Networks are computed by their own modules, with slices of the shared tensors put into them, so that every
space has a supernet without saying anything about it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from results.errors import ArchitectureError
from search.host_memory import require_room_for
from search.layers import Shape
from search.module import NetworkModule
from search.morphism_overlap import common
from search.network import BatchNorm, Network, initial_weights, weight_shapes
from search.space import SearchSpace
from search.supernet_names import STATISTICS, shared_names, shared_shapes

Weights = Mapping[str, NDArray[np.float32]]

RECALIBRATION = 256
"""Images of a batch from which batch norms take their statistics."""


class Supernet:
    """The shared weights of a space.

    Args:
        shapes: Of the shared tensors, see :func:`search.supernet_names.shared_shapes`.
        seed: Of the weights to begin with, and of those that a network needs and no other has shared.

    Attributes:
        tensors: The shared tensors by name, leaves that take gradients.
        seed: As given.
    """

    def __init__(self, shapes: Mapping[str, Shape], seed: int) -> None:
        self.seed = seed
        self.tensors: dict[str, nn.Parameter] = {}
        rng = np.random.default_rng((seed, 11))
        for name, shape in shapes.items():
            self.tensors[name] = nn.Parameter(torch.from_numpy(_initial(name, shape, rng)))

    @classmethod
    def of(cls, space: SearchSpace, seed: int) -> Supernet:
        """Untrained shared weights of a space.

        Raises:
            OutOfMemory: If this machine cannot hold them.
        """
        shapes = shared_shapes(space, seed)
        require_room_for(shapes, "supernet")
        return cls(shapes, seed)

    @classmethod
    def trained(cls, weights: Weights, seed: int) -> Supernet:
        """A supernet from what :meth:`weights` gave."""
        made = cls({}, seed)
        made.tensors = {n: nn.Parameter(torch.from_numpy(np.array(v))) for n, v in weights.items()}
        return made

    @property
    def weights(self) -> dict[str, NDArray[np.float32]]:
        """A copy of the shared tensors."""
        return {name: tensor.detach().numpy().copy() for name, tensor in self.tensors.items()}

    def path(self, network: Network) -> dict[str, Tensor]:
        """The learned tensors of one network: slices of the shared ones, through which gradients flow.

        What no network of the supernet has had, or not as large, is filled up with initial weights.

        Raises:
            ArchitectureError: If shared tensors are of another space.
        """
        found: dict[str, Tensor] = {}
        shapes = weight_shapes(network)
        for name, shared in shared_names(network).items():
            tensor, shape = self.tensors.get(shared), shapes[name]
            if tensor is not None and tensor.dim() != len(shape):
                raise ArchitectureError(f"the supernet is of another space: {shared} has {tensor.dim()} axes")
            if tensor is not None and all(a <= b for a, b in zip(shape, tensor.shape, strict=True)):
                found[name] = tensor[common(shape, tuple(tensor.shape))[1]]
            else:
                found[name] = self._filled_up(network, name, tensor)
        return found

    def _filled_up(self, network: Network, name: str, tensor: Tensor | None) -> Tensor:
        filled = torch.from_numpy(initial_weights(network, self.seed)[name])
        if tensor is not None:
            into, taken = common(tuple(filled.shape), tuple(tensor.shape))
            filled[into] = tensor[taken]
        return filled


class Path:
    """One network of a supernet, ready to be computed.

    Args:
        supernet: Its weights.
        network: The network.
    """

    def __init__(self, supernet: Supernet, network: Network) -> None:
        with torch.device("meta"):
            self._module = NetworkModule(network)
        self._network = network
        self._tensors = supernet.path(network)
        self._statistics = {
            name: torch.full(shape, float(name.endswith("var")))
            for name, shape in weight_shapes(network).items()
            if name.endswith(STATISTICS)
        }

    def __call__(self, images: Tensor) -> Tensor:
        """Outputs of inputs ``(n, c, h, w)``, batch norm with the statistics of these inputs."""
        outputs: Tensor = functional_call(self._module, {**self._tensors, **self._statistics}, (images,))
        return outputs

    def weights(self, images: Tensor) -> dict[str, NDArray[np.float32]]:
        """The network's own weights, with the batch norm statistics of these inputs.

        Statistics of a supernet's training would be those of a mixture of networks (Guo et al. 2020,
        section 3.4): they are computed anew, in batches whose means are averaged.

        Args:
            images: Inputs of the training split, ``(n, c, h, w)``.
        """
        norms = [node.name for node in self._network.nodes if isinstance(node.layer, BatchNorm)]
        for name in norms:
            self._module.get_submodule(name).momentum = 1.0  # type: ignore[assignment]
        totals: dict[str, NDArray[np.float64]] = {}
        batches = torch.split(images, RECALIBRATION)
        with torch.no_grad():
            for batch in batches:
                self(batch)
                for name, values in self._statistics.items():
                    totals[name] = totals.get(name, 0.0) + values.numpy().astype(np.float64) / len(batches)
        learned = {name: tensor.detach().numpy().copy() for name, tensor in self._tensors.items()}
        found = {name: values.astype(np.float32) for name, values in totals.items()}
        return {name: (learned | found)[name] for name in weight_shapes(self._network)}


def _initial(name: str, shape: Shape, rng: np.random.Generator) -> NDArray[np.float32]:
    """As :func:`search.network.initial_weights` does: variance 2 / fan-in, 1 / fan-in of the dense layer."""
    if len(shape) > 1:
        fan_in = int(np.prod(shape[1:]))
        deviation = np.float32(((2.0 if len(shape) == 4 else 1.0) / fan_in) ** 0.5)
        return rng.standard_normal(shape, dtype=np.float32) * deviation
    is_scale = "@norm" in name and name.endswith(".weight")
    return np.full(shape, 1.0 if is_scale else 0.0, np.float32)
