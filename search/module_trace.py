"""What a user's module does with images, call by call.

The module runs on images while a mode of PyTorch's (:class:`torch.overrides.TorchFunctionMode`) sees each
function that it calls.  Modes belong to the thread, and nothing of :class:`torch.nn.Module` is replaced, so
that other threads may run, train or trace modules meanwhile (``torch.fx`` patches that class for the whole
process).
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from results.errors import ArchitectureError, OutOfMemory
from search.host_memory import require_room_for
from search.layers import Padding, output_shape
from search.module import NetworkModule
from search.module_sizes import elements_of
from search.module_steps import DROPOUTS, READERS, Step, unsupported
from search.network import Conv, Identity, Layer, Node, Shape

ELSEWHERE = "docs/formats.md lists what can be searched; 'boardwise bench' measures any module"

_SAME = ("clone", "contiguous", "to", "float", "view_as", "type_as")
"""Functions whose output is their input if type and shape are."""

_METADATA = (
    *("size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "is_floating_point"),
    *("is_complex", "element_size", "get_device", "type", "__len__", "__hash__", "__repr__", "__format__"),
)
"""Functions that tell something other than the values of a tensor, or tell them to people."""

_RANDOM = (
    *("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "multinomial"),
    *("bernoulli", "normal", "uniform", "random", "exponential", "poisson", "geometric", "rrelu"),
    *("kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal", "trunc_normal"),
    *("gumbel_softmax", "dropout1d", "dropout3d", "feature_dropout", "fractional_max_pool2d"),
)
"""Functions that draw from the process's generator; they are not run."""

_LARGE = 10**6
"""Elements of a tensor from which on it is asked whether this machine has the memory."""

_COPY_BYTES = 8
"""Of each element: float32 in the module, and in the graph that is compared with it."""

_UNLEARNED = "gradients switched off (supported: what can be trained)"


@dataclass
class Trace:
    """What was seen.

    Attributes:
        nodes: Layers in the order of their calls, those that the output depends on.
        sources: Name of the module's own tensor for each tensor of the nodes' weights.
        output: What forward() returned.
    """

    nodes: list[Node] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    output: Any = None


@dataclass(frozen=True, eq=False)
class _Value:
    """A tensor that comes of the images.

    Attributes:
        tensor: Itself, kept so that no other gets its identity.
        version: PyTorch's count of what was written into it and its views.
        name: Node that made it.
        padding: Zeros around it that are in no node yet.
        refusal: Why no layer made it; empty where one did.
    """

    tensor: Tensor
    version: int
    name: str = ""
    padding: Padding = (0, 0, 0, 0)
    refusal: str = ""


@dataclass(frozen=True, eq=False)
class _Call:
    """One call: the function's name, where it is, what it read and what it gave.

    Attributes:
        name: Of the function, without the underscore of those that work in place.
        where: Path of the module that calls it.
        what: What the user calls it: the class of one of PyTorch's modules, or the function.
        is_leaf: Whether one of PyTorch's own modules calls it.
        known: Values that it read, by the identity of their tensors, as they were before.
        made: What it gave.
    """

    name: str
    where: str
    what: str
    is_leaf: bool
    known: dict[int, _Value]
    made: Any = None

    def refusal(self, why: str = "") -> ArchitectureError:
        """The error that tells that this is no layer."""
        settings = f" with {why}" if why else ""
        return ArchitectureError(f"{self.where}: {self.what}{settings} is none of the layers; {ELSEWHERE}")


def trace(module: nn.Module, images: Tensor) -> Trace:
    """The layers that a module computes of images, in the mode (training or not) that it is in.

    Dropout is noted and does nothing, so that nothing is drawn.  What the module's own code raises is raised.

    Raises:
        ArchitectureError: If the output is not made by known layers alone.
    """
    mode = _Mode(module, images)
    with _undrawn() if module.training else nullcontext(), mode.identities(module), mode:
        try:
            output = module(images)
        except ArchitectureError:
            raise
        except Exception:  # whatever the user's own code raises
            if mode.refusal:  # there is that to mend in any case
                raise ArchitectureError(mode.refusal) from None
            raise
    found = mode.found
    if not isinstance(output, Tensor) or output is images:
        raise ArchitectureError(
            "forward() is to return the output of its last layer, a single tensor, in training and evaluation"
        )
    last = mode.name_of(output, "forward()", mode.known([output]))
    found.output = output
    live = {last}
    for node in reversed(found.nodes):
        if node.name in live:
            live.update(node.inputs)
    found.nodes = [node for node in found.nodes if node.name in live]
    found.sources = {k: v for k, v in found.sources.items() if k.rpartition(".")[0] in live}
    return found


@contextmanager
def _undrawn() -> Iterator[None]:
    """Raises ArchitectureError at the end if this thread drew from generators of Python or NumPy."""
    drawn: list[str] = []
    kinds = (random.Random, np.random.RandomState, np.random.Generator)

    def see(_: FrameType, event: str, called: Any) -> None:
        if event == "c_call" and isinstance(getattr(called, "__self__", None), kinds):
            drawn.append(called.__name__)

    if sys.getprofile() is not None:  # someone's profiler is at work, which could not be put back
        yield
        return
    sys.setprofile(see)
    try:
        yield
    finally:
        sys.setprofile(None)
    if drawn:
        raise _by_chance("forward()", drawn[0])


def _by_chance(where: str, name: str) -> ArchitectureError:
    return ArchitectureError(
        f"{where}: {name} draws random numbers: make layers in __init__, and take Dropout or Dropout2d for "
        f"what is random in trainings; {ELSEWHERE}"
    )


class _Mode(TorchFunctionMode):
    """Sees every call of a function of PyTorch's in this thread."""

    def __init__(self, module: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.found = Trace()
        self.refusal = ""  # the first
        self._elements = 0
        self._training, self._batch = module.training, len(images)
        self._paths = {id(each): path for path, each in module.named_modules()}
        self._parameters = {id(tensor): name for name, tensor in module.named_parameters()}
        self._own = self._parameters | {id(tensor): name for name, tensor in module.named_buffers()}
        self._used: set[str] = set()
        self._namespace = fx.Graph()  # stored weights have the names that torch.fx gives
        self._values: dict[int, _Value] = {}
        self._shapes: dict[str, Shape] = {"input": tuple(images.shape[1:])}
        self._note(images, name="input")

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors([args, kwargs]))
        call = self._call(func, self.known(tensors))
        if call.name in _RANDOM:
            raise _by_chance(call.where, call.name)
        if call.known and call.name in DROPOUTS:
            return self._drop(call, args, kwargs)
        if call.known and torch.is_inference_mode_enabled():
            raise call.refusal(_UNLEARNED)
        if call.known and not call.name.startswith("."):
            self._require_room(call, elements_of(func, args, kwargs))
        made = func(*args, **kwargs)
        results = list(_tensors(made))
        if tensors and not results and call.name not in _METADATA and not call.name.startswith("."):
            raise ArchitectureError(
                f"{call.where}: {call.name} reads values: what forward() does must not depend on the values "
                f"in a tensor; {ELSEWHERE}"
            )
        if call.known:
            self._take(replace(call, made=made), results, lambda: _read(call, func, args, kwargs))
        elif results:
            self._check_parameters(call, tensors)
        return made

    def _require_room(self, call: _Call, elements: int) -> None:
        """Raises ArchitectureError before a call makes what this machine cannot hold with all before it."""
        self._elements += elements
        if elements >= _LARGE:
            try:
                require_room_for({}, f"{call.where}: {call.what}", _COPY_BYTES * self._elements)
            except OutOfMemory as error:
                raise ArchitectureError(f"{call.where}: {call.what} {error.message}") from error

    def _check_parameters(self, call: _Call, tensors: list[Tensor]) -> None:
        for name in (self._parameters[id(each)] for each in tensors if id(each) in self._parameters):
            raise ArchitectureError(
                f"{name} is used by {call.name}: only layers may use parameters, and as they are (not so "
                f"weight_norm, spectral_norm, penalties and constraints); {ELSEWHERE}"
            )

    def _call(self, func: Callable[..., Any], known: dict[int, _Value]) -> _Call:
        name = getattr(func, "__name__", str(func))
        if name in ("__get__", "__set__"):
            name = f"{'' if name == '__get__' else 'set '}.{func.__self__.__name__}"  # type: ignore[attr-defined]
        elif not name.startswith("__"):
            name = name.rstrip("_")
        owner, is_own = _owner(self._paths)
        path = "" if owner is None else self._paths[id(owner)]
        is_leaf = is_own and type(owner).__module__.startswith("torch.nn")
        return _Call(name, path or "forward()", type(owner).__name__ if is_leaf else name, is_leaf, known)

    # ------------------------------------------------------------------ what is known of tensors

    def known(self, tensors: list[Tensor]) -> dict[int, _Value]:
        """Those of the tensors that come of the images, as they are now."""
        return {id(tensor): self._read(tensor) for tensor in tensors if id(tensor) in self._values}

    def _note(self, tensor: Tensor, **known: Any) -> None:
        self._values[id(tensor)] = _Value(tensor, tensor._version, **known)

    def _read(self, tensor: Tensor) -> _Value:
        value = self._values[id(tensor)]
        if value.version == tensor._version or value.refusal:
            return value
        return replace(
            value, refusal="a tensor is changed in place while another is a view of it: use a copy"
        )

    def name_of(self, tensor: Any, where: str, known: dict[int, _Value], *, padded: bool = False) -> str:
        """The node that made a tensor.

        Raises:
            ArchitectureError: If none did.
        """
        value = known.get(id(tensor))
        if value is None:
            what = repr(tensor)
            if id(tensor) in self._own:
                what = f"{self._own[id(tensor)]}, a tensor of the module's own,"
            elif isinstance(tensor, Tensor):
                what = "a constant, or what compiled code or an autograd.Function made,"
            raise ArchitectureError(f"{where}: {what} is no tensor that a layer before it made; {ELSEWHERE}")
        if value.refusal:
            raise ArchitectureError(value.refusal)
        if any(value.padding) and not padded:
            raise ArchitectureError(f"{where}: only convolutions read what has zeros padded; {ELSEWHERE}")
        return value.name

    # ------------------------------------------------------------------ calls

    @contextmanager
    def identities(self, module: nn.Module) -> Iterator[None]:
        """Notes identities meanwhile: they call nothing, and earlier versions have nodes of them."""
        thread = threading.get_ident()

        def see(each: nn.Module, _: Any, output: Any) -> Any:
            known = self.known([output])
            if threading.get_ident() != thread or not known:
                return output
            made = output.view_as(output)
            call = _Call("identity", self._paths[id(each)], "Identity", True, known, made)
            self._add(call, Step(Identity(), (output,)))
            return made

        hooks = [each.register_forward_hook(see) for each in module.modules() if type(each) is nn.Identity]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _take(self, call: _Call, results: list[Tensor], read: Callable[[], Step]) -> None:
        """Notes which layer made the results, or why none did: what is not used need be none."""
        if results and not self._is_same(call):
            try:
                self._add(call, read())
            except ArchitectureError as error:
                self.refusal = self.refusal or str(error)
                for result in results:
                    self._note(result, refusal=str(error))

    def _is_same(self, call: _Call) -> bool:
        """Whether a call gave what it read, the same tensor or a copy."""
        made = call.made
        value = call.known.get(id(made))
        if value is not None:
            return value.refusal != "" or value.version == made._version
        source = next(iter(call.known.values()))
        if call.name not in _SAME or not isinstance(made, Tensor):
            return False
        if (made.dtype, made.shape) != (source.tensor.dtype, source.tensor.shape):
            return False
        self._values[id(made)] = replace(source, tensor=made, version=made._version)
        return True

    def _drop(self, call: _Call, args: Any, kwargs: Any) -> Any:
        """Notes a dropout; what it is given is handed on."""
        step = _read(call, None, args, kwargs)
        (source,) = step.inputs
        if not step.training or step.layer.rate == 0:  # type: ignore[union-attr]
            return source
        made = source
        if kwargs.get("inplace", len(args) > 3 and args[3]):
            source.add_(0)  # so that views of it are known to have changed
        else:
            made = source.clone()
        self._add(replace(call, made=made), step)
        return made

    def _add(self, call: _Call, step: Step) -> None:
        """Notes the layer that a call is."""
        if step.training not in (None, self._training):
            raise call.refusal(str(unsupported("training", step.training, "that of the whole module")))
        if self._training and not torch.is_grad_enabled():
            raise call.refusal(_UNLEARNED)
        if step.layer is None:
            (source,) = (call.known[id(each)] for each in step.inputs)
            self.name_of(source.tensor, call.where, call.known, padded=True)
            around = _sum(source.padding, step.padding)
            self._note(call.made, name=source.name, padding=around)
            return
        names = [
            self.name_of(each, call.where, call.known, padded=isinstance(step.layer, Conv))
            for each in step.inputs
        ]
        layer = step.layer
        if isinstance(layer, Conv):
            layer = replace(layer, padding=_sum(layer.padding, call.known[id(step.inputs[0])].padding))
        shape = self._shape(call, layer, names)
        own = self._weights(call, step)
        name = self._fresh(call, own)
        self._shapes[name] = shape
        self.found.nodes.append(Node(name, layer, tuple(names)))
        self.found.sources.update({f"{name}.{part}": each for part, each in own.items()})
        self._note(call.made, name=name)

    def _shape(self, call: _Call, layer: Layer, names: list[str]) -> Shape:
        """Shape of a layer's output, which is that of the call's."""
        try:
            wanted = output_shape(layer, [self._shapes[name] for name in names])
        except ArchitectureError as error:
            raise ArchitectureError(f"{call.where}: {call.what}: {error}; {ELSEWHERE}") from error
        made = call.made
        if made.dtype != torch.float32:
            raise call.refusal(str(unsupported("dtype", made.dtype, "torch.float32")))
        if tuple(made.shape) != (self._batch, *wanted):
            hint = str(unsupported("ceil_mode", True, "False, or sizes at which both are the same"))
            raise call.refusal(hint if "pool" in call.name else f"an output of shape {tuple(made.shape)}")
        return wanted

    def _weights(self, call: _Call, step: Step) -> dict[str, str]:
        """Names of the module's own tensors that are a layer's weights."""
        own: dict[str, str] = {}
        for part, tensor in step.weights.items():
            learned = not part.startswith("running_")
            name = (self._parameters if learned else self._own).get(id(tensor))
            if name is None:
                raise call.refusal(
                    f"a {part} that is {'no parameter' if learned else 'no buffer'} of the module (it is "
                    "computed, constant, or of a layer in a plain list instead of an nn.ModuleList)"
                )
            if name in self._used:
                shared = name.rpartition(".")[0] or name
                raise ArchitectureError(
                    f"{shared} is used twice, by {call.where} the second time: layers that share weights "
                    f"({name}) are no graph's, give each its own; {ELSEWHERE}"
                )
            own[part] = name
        self._used.update(own.values())
        return own

    def _fresh(self, call: _Call, own: dict[str, str]) -> str:
        """A name for a node: of the layer whose weights it has, of PyTorch's module, or of the function."""
        path = own["weight"].rpartition(".")[0] if own else call.where if call.is_leaf else ""
        wanted = path or call.name
        if own and hasattr(NetworkModule, wanted.replace(".", "_")):
            wanted = f"{wanted}_layer"
        return self._namespace.create_node("call_module", wanted).name


def _read(call: _Call, func: Any, args: Any, kwargs: Any) -> Step:
    """The layer of a call by its reader."""
    if call.name not in READERS or func is torch.batch_norm:  # that one has other arguments than F.batch_norm
        raise call.refusal()
    try:
        return READERS[call.name](*args, **kwargs)
    except TypeError as error:  # the function has arguments that no layer has
        raise call.refusal(f"these arguments ({error})") from error
    except ArchitectureError as error:
        raise call.refusal(str(error)) from error


def _owner(paths: dict[int, str]) -> tuple[nn.Module | None, bool]:
    """The innermost module in this thread, and whether it is PyTorch's own code that runs there: no hook."""
    frame: FrameType | None = sys._getframe(3)
    while frame is not None:
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if id(first) in paths and isinstance(first, nn.Module):
            place = frame.f_globals.get("__name__", "")
            return first, place.startswith("torch.nn") and place != nn.Module.__module__
        frame = frame.f_back
    return None, False


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _sum(first: Padding, second: Padding) -> Padding:
    top, bottom, left, right = (a + b for a, b in zip(first, second, strict=True))
    return (top, bottom, left, right)
