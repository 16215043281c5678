"""How much a function of PyTorch's would make, before it makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only


def elements_of(function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> int:
    """Elements of the tensors that a call would give; 0 where PyTorch cannot say without making them.

    The call is made of tensors that have shapes and no memory (PyTorch's device ``meta``).
    """
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.detach().to("meta"), (args, dict(kwargs)))
    try:
        with torch.device("meta"):
            made = function(*args, **kwargs)
    except Exception:  # noqa: BLE001  whatever is wrong with it, the call itself will say
        return 0
    return sum(each.numel() for each in tree_leaves(made) if isinstance(each, Tensor))
