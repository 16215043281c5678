"""A user's module means in its layer graph what it means in PyTorch, or is refused by place and setting."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations, prune

from harness.export import export
from results.errors import ArchitectureError
from search.module import load_weights, to_module
from search.module_graph import network_of
from search.network import Dropout, Network, costs, initial_weights

SHAPE = (4, 8, 8)


def tail(channels: int = 4) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]


def chain(*modules: nn.Module) -> nn.Sequential:
    """Layers between a convolution and the classifier."""
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), *modules, *tail())


class Own(nn.Module):
    """A convolution, a batch norm and a classifier around a function of the test's own."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self, self.norm(self.conv(x)))
        logits: Tensor = self.linear(x if x.dim() == 2 else x.mean((2, 3)))
        return logits


def twin(module: nn.Module, network: Network) -> nn.Module:
    """The graph's module with the weights of the user's; both have their tensors in order of use."""
    state = {k: v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    made = to_module(network)
    names = list(made.state_dict())
    assert [made.state_dict()[n].shape for n in names] == [v.shape for v in state.values()]
    load_weights(made, {name: v.numpy() for name, v in zip(names, state.values(), strict=True)})
    return made


HONOURED: dict[str, nn.Module] = {
    "convolution with a bias": chain(nn.Conv2d(4, 4, 3, bias=True)),
    "convolution without a bias": chain(nn.Conv2d(4, 4, 3, bias=False)),
    "stride, padding, dilation": chain(nn.Conv2d(4, 4, (3, 2), (2, 1), (2, 0), (2, 1))),
    "groups": chain(nn.Conv2d(4, 4, 3, groups=2)),
    "padding = 'same'": chain(nn.Conv2d(4, 4, 3, padding="same")),
    "padding = 'valid'": chain(nn.Conv2d(4, 4, 4, padding="valid")),
    "zeros on some sides": chain(nn.ZeroPad2d((0, 1, 2, 0)), nn.Conv2d(4, 4, 3, 2, padding=1)),
    "a convolution of a kind of its own": chain(type("Mine", (nn.Conv2d,), {})(4, 4, 3)),
    "batch norm: eps": chain(nn.BatchNorm2d(4, eps=0.1)),
    "batch norm: momentum": chain(nn.BatchNorm2d(4, momentum=0.01)),
    "linear without a bias": nn.Sequential(*tail()[:2], nn.Linear(4, 3, bias=False)),
    "linear after flattening": nn.Sequential(nn.MaxPool2d(4), nn.Flatten(), nn.Linear(16, 3)),
    "max pool: padding": chain(nn.MaxPool2d(3, 2, 1)),
    "max pool: a ceiling that adds nothing": chain(nn.MaxPool2d(2, ceil_mode=True)),
    "average pool without its padding": chain(nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    "average pool of 2 x 2": chain(nn.AdaptiveAvgPool2d((2, None))),
    "upsampling by a factor": chain(nn.Upsample(scale_factor=2)),
    "upsampling to a size": chain(nn.Upsample(size=(11, 5), mode="bilinear")),
    "relu in place": chain(nn.ReLU(inplace=True)),
    "hardtanh as relu6": chain(nn.Hardtanh(0, 6)),
    "dropout": chain(nn.Dropout(0.3)),
    "dropout of channels": chain(nn.Dropout2d(0.3)),
    "dropout of features": nn.Sequential(*tail()[:2], nn.Dropout(0.5, inplace=True), nn.Linear(4, 3)),
    "alpha dropout": chain(nn.AlphaDropout(0.3)),
    "alpha dropout of channels": chain(nn.FeatureAlphaDropout(0.3)),
    "identity": chain(nn.Identity()),
    "one relu at two places": (lambda r: chain(r, nn.Conv2d(4, 4, 1), r))(nn.ReLU()),
    "functions": Own(lambda self, x: F.relu(x) + torch.sigmoid(x)),
    "what is written in place is read in place": Own(lambda self, x: F.relu_(x) + x),
    "multiplied from either side": Own(lambda self, x: x.mean((2, 3), keepdim=True) * x),
    "zero": Own(lambda self, x: x + x * 0 + torch.zeros_like(x)),
    "shapes are no values": Own(lambda self, x: F.interpolate(x, (x.shape[2] * 2, x.size(3)))),
    "dropout of training alone": Own(lambda self, x: F.dropout(x, 0.2) if self.training else x),
}


@pytest.mark.parametrize("what", HONOURED)
def test_honoured_settings_train_as_in_pytorch(what: str) -> None:
    """Outputs, and all weights and statistics after three steps of training, from the same weights."""
    module = HONOURED[what].train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    network = network_of(module, SHAPE)
    assert module.training, "left as it was"
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in before.items())
    assert costs(network).parameters == sum(p.numel() for p in module.parameters())
    mine = twin(module, network)
    images = torch.randn((5, *SHAPE), generator=torch.Generator().manual_seed(7))
    if any(isinstance(node.layer, Dropout) for node in network.nodes):
        torch.manual_seed(3)
        expected = module(images)
        torch.manual_seed(3)
        assert torch.allclose(mine(images), expected, atol=1e-5), "dropped the same"
        assert (module.eval()(images) - mine.eval()(images)).abs().max() < 1e-5
        return
    for each in (module.train(), mine.train()):
        for _ in range(3):
            weights = list(each.parameters())
            gradients = torch.autograd.grad(each(images).square().sum(), weights)
            with torch.no_grad():
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight -= 0.1 * gradient
    state = [v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")]
    for theirs, ours in zip(state, mine.state_dict().values(), strict=True):
        assert torch.allclose(theirs, ours, rtol=1e-3, atol=1e-4)
    assert (module.eval()(images) - mine.eval()(images)).abs().max() < 1e-3


def test_dropout_is_kept_for_training_and_left_out_of_costs() -> None:
    network = network_of(chain(nn.Dropout2d(0.3), nn.Dropout(0.0)), SHAPE)
    assert [n.layer for n in network.nodes if isinstance(n.layer, Dropout)] == [Dropout(0.3, "channels")]


class Named(nn.Module):
    """Layers with names of all kinds, at several depths."""

    def __init__(self) -> None:
        super().__init__()
        self.bConv, self.norm2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(4, 4, 1), nn.Identity(), nn.ReLU())])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.blocks[0](x))
        return self.norm2(self.bConv(x)).relu() + x


def test_nodes_are_those_of_earlier_versions() -> None:
    """Stored weights go by the names of nodes, stored hashes by their order; both were those of torch.fx."""
    module = nn.Sequential(nn.Conv2d(4, 4, 1), Named(), *tail())
    wanted = fx.symbolic_trace(module).graph.nodes
    names = [node.name for node in wanted if node.op not in ("placeholder", "output")]
    assert [node.name for node in network_of(module, SHAPE).nodes] == names


# --------------------------------------------------------------------------- refused


def tied() -> nn.Module:
    module = chain(nn.Conv2d(4, 4, 3, padding=1))
    module[1].weight = module[0].weight  # type: ignore[index]
    return module


def same_memory() -> nn.Module:
    module = chain(nn.Conv2d(4, 4, 3, padding=1))
    module[1].weight.data = module[0].weight.data  # type: ignore[index]
    return module


def shared() -> nn.Module:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    return nn.Sequential(conv, nn.ReLU(), conv, *tail())


def frozen(part: str) -> nn.Module:
    module = chain(nn.BatchNorm2d(4))
    module.get_parameter(part).requires_grad = False
    return module


def hooked(add: Callable[[Any], object]) -> nn.Module:
    module = chain(nn.ReLU())
    add(module)
    return module


class Held(nn.Module):
    """Tensors that are used by functions."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.linear, self.plain = nn.Linear(4, 3), [nn.Conv2d(4, 4, 3)]
        self.register_buffer("kernel", torch.ones(4, 4, 3, 3))
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self._forward(self, x).mean((2, 3)))
        return logits


class Frozen(Own):
    """A batch norm that stays in evaluation."""

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.norm.eval()
        return self


def clamped(module: nn.Module) -> None:
    module.register_forward_pre_hook(lambda module, _: module[0].weight.data.clamp_(-1, 1))  # type: ignore[index]


def without_gradient(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return F.relu(x)


def in_place_through_a_view(self: Any, x: Tensor) -> Tensor:
    view = x.view_as(x)
    x.relu_()
    return view


class Through(torch.autograd.Function):
    """Another gradient than that of what it computes."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * 2


def with_halves(self: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return F.conv2d(x, self.conv.weight)


def in_inference_mode(self: Any, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return F.relu(x)


class Twofold(Own):
    """Another output in training."""

    def __init__(self) -> None:
        super().__init__(lambda self, x: x)

    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


class Both(nn.Module):
    """Two outputs."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning, match="deprecated"):
        return chain(nn.utils.weight_norm(nn.Conv2d(4, 4, 3)))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "tied weights": (tied, r"^0 is used twice, by 1 the second time.*\(0.weight\).*give each its own"),
    "weights of one memory": (same_memory, r"0.weight and 1.weight share their memory: give each its own"),
    "a layer at two places": (shared, "^0 is used twice"),
    "frozen weights": (lambda: frozen("0.weight"), r"0.weight is frozen \(requires_grad=False\).*do not"),
    "a frozen norm": (lambda: frozen("1.bias"), r"1.bias is frozen"),
    "half floats": (lambda: chain().half(), r"0.weight is torch.float16.*call module.float"),
    "doubles": (lambda: chain().double(), r"0.weight is torch.float64"),
    "another device": (lambda: chain().to("meta"), "0.weight is on meta: build the module on the CPU"),
    "lazy": (lambda: chain(nn.LazyConv2d(4, 3)), "1.weight has no shape yet"),
    "compiled": (lambda: chain(torch.jit.script(nn.ReLU())), "1 .* is compiled"),
    "circular padding": (
        lambda: chain(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")),
        r"^1: Conv2d with padding_mode='circular' \(supported: zeros\)",
    ),
    "constant padding": (lambda: chain(nn.ConstantPad2d(1, 2.0), nn.Conv2d(4, 4, 3)), "padding_mode=2.0"),
    "padding before a pool": (lambda: chain(nn.ZeroPad2d(1), nn.MaxPool2d(2)), "2: only convolutions read"),
    "affine": (lambda: chain(nn.BatchNorm2d(4, affine=False)), r"^1: BatchNorm2d with affine=False \(supp"),
    "statistics of the batch": (
        lambda: chain(nn.BatchNorm2d(4, track_running_stats=False)),
        "^1: BatchNorm2d with track_running_stats=False",
    ),
    "cumulative momentum": (
        lambda: chain(nn.BatchNorm2d(4, momentum=None)),
        r"1 \(BatchNorm2d\) has momentum=None",
    ),
    "norm of features": (
        lambda: nn.Sequential(*tail()[:2], nn.BatchNorm1d(4), nn.Linear(4, 3)),
        "^2: BatchNorm1d: needs an input of rank 3",
    ),
    "a norm in evaluation": (lambda: Frozen(lambda self, x: x), "norm: BatchNorm2d with training=False"),
    "ceiling": (lambda: chain(nn.MaxPool2d(3, ceil_mode=True)), r"^1: MaxPool2d with ceil_mode=True"),
    "dilated pool": (
        lambda: chain(nn.MaxPool2d(2, dilation=2)),
        r"^1: MaxPool2d with dilation=2 \(supported: 1",
    ),
    "indices": (lambda: chain(nn.MaxPool2d(2, return_indices=True)), "1: MaxPool2d with return_indices=True"),
    "divisor": (lambda: chain(nn.AvgPool2d(2, divisor_override=3)), "1: AvgPool2d with divisor_override=3"),
    "a pool of 3 x 3": (
        lambda: chain(nn.AdaptiveAvgPool2d(3)),
        r"1: AdaptiveAvgPool2d with output_size=3 \(supp",
    ),
    "corners": (
        lambda: chain(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)),
        "1: Upsample with align_corners=True",
    ),
    "bicubic": (
        lambda: chain(nn.Upsample(scale_factor=2, mode="bicubic")),
        "1: Upsample with mode='bicubic'",
    ),
    "broken factor": (
        lambda: chain(nn.Upsample(scale_factor=1.3)),
        "1: Upsample with scale_factor=1.3",
    ),
    "hardtanh": (
        lambda: chain(nn.Hardtanh()),
        r"1: Hardtanh with min_val, max_val=\(-1.0, 1.0\) \(supported: 0",
    ),
    "no such layer": (lambda: chain(nn.GELU()), "^1: GELU is none of the layers; docs/formats.md"),
    "no such dropout": (lambda: chain(nn.RReLU()), "^1: rrelu draws random numbers"),
    "weighted sum": (
        lambda: Own(lambda self, x: torch.add(x, x, alpha=2)),
        r"add with alpha=2 \(supported: 1",
    ),
    "old weight norm": (old_weight_norm, r"1.weight_[gv] is used by _?weight_norm.*only layers may use"),
    "weight norm": (lambda: chain(parametrizations.weight_norm(nn.Conv2d(4, 4, 3))), "1.param.* is used by"),
    "spectral norm": (
        lambda: chain(parametrizations.spectral_norm(nn.Conv2d(4, 4, 3))),
        "1.param.* is used by",
    ),
    "gradient hook": (
        lambda: hooked(lambda m: m[1].register_full_backward_hook(lambda *_: None)),
        r"1 \(ReLU\) has hooks that change gradients",
    ),
    "parameter hook": (
        lambda: hooked(lambda m: m[0].weight.register_hook(lambda g: 2 * g)),
        "0.weight has hooks",
    ),
    "forward hook": (
        lambda: hooked(lambda m: m[1].register_forward_hook(lambda m, i, o: o * 2)),
        "2 is no tensor",
    ),
    "input hook": (
        lambda: hooked(lambda m: m[1].register_forward_pre_hook(lambda m, i: (i[0] - 1,))),
        "sub is none of the layers",
    ),
    "constrained weights": (lambda: hooked(clamped), "0.weight is used by .data: only layers may use"),
    "parameter of its own": (
        lambda: Held(lambda self, x: x * self.scale),
        "scale, a tensor of the module's own",
    ),
    "a constant": (
        lambda: Own(lambda self, x: x * torch.ones(4, 1, 1)),
        "a constant, or what compiled code",
    ),
    "a function of its own": (
        lambda: Own(lambda self, x: Through.apply(x)),
        "in training: the gradients",
    ),
    "another type": (lambda: Own(with_halves), "dtype=torch.bfloat16 .supported: torch.float32"),
    "inference mode": (lambda: Own(in_inference_mode), "relu with gradients switched off"),
    "fixed kernel": (lambda: Held(lambda self, x: F.conv2d(x, self.kernel)), "a weight that is no parameter"),
    "plain list": (
        lambda: Held(lambda self, x: self.plain[0](x)),
        "in a plain list instead of an nn.ModuleList",
    ),
    "computed weight": (
        lambda: Held(lambda self, x: F.conv2d(x, self.scale.expand(4, 4, 1, 1))),
        "scale is used by expand",
    ),
    "unused parameter": (lambda: Held(lambda self, x: x), "scale is not used by forward"),
    "other things in training": (
        lambda: Own(lambda self, x: F.relu(x) if self.training else F.silu(x)),
        r"forward\(\) does other things in training .* than in evaluation .*relu.*silu.*if self.training",
    ),
    "more in training": (lambda: Own(lambda self, x: F.relu(x) if self.training else x), "does other things"),
    "dropout in evaluation": (lambda: Own(lambda self, x: F.dropout(x, 0.5)), "dropout with training=True"),
    "drop path": (
        lambda: Own(lambda self, x: x if self.training and torch.rand(1) < 0.5 else F.relu(x)),
        "rand draws random numbers.*Dropout",
    ),
    "drop path by Python": (
        lambda: Own(lambda self, x: x if self.training and random.random() < 1e-9 else F.relu(x)),
        "random draws random numbers",
    ),
    "drop path by NumPy": (
        lambda: Own(lambda self, x: x if self.training and np.random.rand() < 1e-9 else F.relu(x)),
        "rand draws random numbers",
    ),
    "more for many images": (
        lambda: Own(lambda self, x: F.relu(x) if len(x) > 1 else x),
        "of 3 images. than",
    ),
    "another output in training": (
        Twofold,
        "a single tensor, in training",
    ),
    "attention": (lambda: chain(nn.MultiheadAttention(4, 1)), "raised in evaluation"),
    "pruned": (
        lambda: chain(prune.l1_unstructured(nn.Conv2d(4, 4, 3), "weight", 0.3)),
        "1.weight_orig is used by mul",
    ),
    "noise": (lambda: Own(lambda self, x: x + torch.randn_like(x)), "randn_like draws random numbers"),
    "no gradient": (lambda: Own(without_gradient), "relu with gradients switched off"),
    "detached": (lambda: Own(lambda self, x: F.relu(x.detach())), "detach is none of the layers"),
    "values": (lambda: Own(lambda self, x: x if x.max() > 0 else -x), "must not depend on the values"),
    "an item": (lambda: Own(lambda self, x: x * x.max().item()), "item reads values"),
    "a value of its own": (
        lambda: Own(lambda self, x: x if self.norm.num_batches_tracked < 9 else F.relu(x)),
        "__bool__ reads values",
    ),
    "a value of its weights": (
        lambda: Own(lambda self, x: x * self.linear.bias.sum().item()),
        "linear.bias is used",
    ),
    "NumPy": (lambda: Own(lambda self, x: torch.from_numpy(x.numpy())), "numpy reads values"),
    "written through a view": (
        lambda: Own(in_place_through_a_view),
        "changed in place while another is a view",
    ),
    "a layer made in forward": (
        lambda: Own(lambda self, x: nn.Conv2d(4, 4, 1)(x)),
        "make layers in __init__",
    ),
    "an error of its own": (lambda: Own(lambda self, x: undefined), "raised in evaluation:(.|\n)*NameError"),  # type: ignore[name-defined] # noqa: F821
    "shapes that do not fit": (
        lambda: chain(nn.Conv2d(3, 4, 3)),
        "raised in evaluation:(.|\n)*to have 3 channels",
    ),
    "two outputs": (lambda: chain().append(nn.Linear(3, 3)).append(Both()), "a single tensor"),
    "nothing": (nn.Sequential, "is to return the output of its last layer"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
def test_what_a_graph_cannot_say_is_refused_by_name(what: str) -> None:
    build, message = REFUSED[what]
    with pytest.raises(ArchitectureError, match=message):
        network_of(build(), SHAPE)


# --------------------------------------------------------------------------- other threads


def test_tracing_leaves_other_threads_alone() -> None:
    """Modules run, train and are traced in many threads at once; none sees another."""
    errors: list[BaseException] = []
    stop = threading.Event()
    generator, threads = torch.get_rng_state(), torch.get_num_threads()

    def until_stopped(work: Callable[[], object]) -> None:
        while not stop.is_set():
            try:
                work()
            except Exception as error:  # noqa: BLE001  # whatever comes is what is looked for
                errors.append(error)

    running, trained = chain(nn.ReLU()), chain(nn.BatchNorm2d(4))
    images = torch.zeros(2, *SHAPE)
    works = [
        lambda: running(images),
        lambda: trained(images).sum().backward(),
        lambda: network_of(chain(nn.Dropout(0.5)), SHAPE),
    ]
    others = [threading.Thread(target=until_stopped, args=(work,)) for work in works]
    original = nn.Module.__call__
    for other in others:
        other.start()
    modules = [chain(nn.BatchNorm2d(4), nn.Dropout(0.3)) for _ in range(10)]
    networks = [network_of(module, SHAPE) for module in modules]
    assert nn.Module.__call__ is original
    stop.set()
    for other in others:
        other.join()
    assert not errors
    assert len({network.fingerprint for network in networks}) == 1
    torch.set_rng_state(generator)
    network_of(modules[0], SHAPE)
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.get_num_threads() == threads


# --------------------------------------------------------------------------- the documented list


class Plain(nn.Module):
    """A classifier behind a function without weights; its features are the image's channels unless given."""

    def __init__(self, body: Callable[[Tensor], Tensor], features: int = 4) -> None:
        super().__init__()
        self.linear, self.body = nn.Linear(features, 3), body

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        logits: Tensor = self.linear(x if x.dim() == 2 else x.mean((2, 3)))
        return logits


class Training(Plain):
    """The same behind a function that asks whether it is trained."""

    def __init__(self, body: Callable[[Tensor, bool], Tensor]) -> None:
        super().__init__(lambda x: body(x, self.training))


def normalised(self: Any, x: Tensor) -> Tensor:
    norm = self.second
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, self.training, 0.2)


class Second(Own):
    """With another convolution and another norm, for functions."""

    def __init__(self, second: nn.Module, body: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__(body)
        self.second = second


FLAT = 4 * 8 * 8
LISTED: dict[str, nn.Module] = {
    "nn.Conv2d": chain(nn.Conv2d(4, 4, 3)),
    "nn.ZeroPad2d": chain(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(4, 4, 3)),
    "F.conv2d": Second(nn.Conv2d(4, 4, 3), lambda self, x: F.conv2d(x, self.second.weight, self.second.bias)),
    "F.pad": Second(nn.Conv2d(4, 4, 3), lambda self, x: self.second(F.pad(x, (1, 0, 1, 0)))),
    "nn.BatchNorm2d": chain(nn.BatchNorm2d(4)),
    "F.batch_norm": Second(nn.BatchNorm2d(4), normalised),
    **{f"nn.{kind.__name__}": chain(kind()) for kind in (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Sigmoid)},
    **{f"nn.{kind.__name__}": chain(kind()) for kind in (nn.Hardsigmoid, nn.SiLU, nn.Identity)},
    "nn.Hardtanh(0, 6)": chain(nn.Hardtanh(0, 6)),
    **{f"F.{f.__name__}": Plain(f) for f in (F.relu, F.relu6, F.hardswish, F.hardsigmoid, F.silu)},
    "F.hardtanh(x, 0, 6)": Plain(lambda x: F.hardtanh(x, 0, 6)),
    "torch.clamp(x, 0, 6)": Plain(lambda x: torch.clamp(x, 0, 6)),
    "x.clamp(min=0)": Plain(lambda x: x.clamp(min=0)),
    "torch.sigmoid": Plain(torch.sigmoid),
    "x + y": Plain(lambda x: x + x.relu()),
    "torch.add": Plain(lambda x: torch.add(x, x.relu())),
    "x * y": Plain(lambda x: x * x.sigmoid()),
    "torch.mul": Plain(lambda x: torch.mul(x, x.relu())),
    "torch.cat": Plain(lambda x: torch.cat((x, x.relu()), dim=1), 8),
    "nn.MaxPool2d": chain(nn.MaxPool2d(2)),
    "nn.AvgPool2d": chain(nn.AvgPool2d(2)),
    "nn.AdaptiveAvgPool2d": chain(nn.AdaptiveAvgPool2d(4)),
    "nn.AdaptiveAvgPool2d(1)": chain(),
    "F.max_pool2d": Plain(lambda x: F.max_pool2d(x, 3, 2, 1)),
    "F.avg_pool2d": Plain(lambda x: F.avg_pool2d(x, 3, stride=2, padding=1)),
    "F.adaptive_avg_pool2d": Plain(lambda x: F.adaptive_avg_pool2d(x, (4, 2))),
    "F.adaptive_avg_pool2d(x, 1)": Plain(lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1)),
    "x.mean((2, 3))": Plain(lambda x: x.mean((2, 3))),
    "torch.mean(x, (2, 3))": Plain(lambda x: torch.mean(x, (2, 3))),
    "nn.Upsample(size=)": chain(nn.Upsample(size=(5, 7), mode="bilinear")),
    "nn.Upsample(scale_factor=)": chain(nn.Upsample(scale_factor=2)),
    "F.interpolate": Plain(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    "nn.Flatten": nn.Sequential(nn.Flatten(), nn.Linear(FLAT, 3)),
    "nn.Linear": chain(),
    "nn.Linear(bias=False)": nn.Sequential(nn.Flatten(), nn.Linear(FLAT, 3, bias=False)),
    "nn.Softmax": chain().append(nn.Softmax(dim=1)),
    "torch.flatten(x, 1)": Plain(lambda x: torch.flatten(x, 1), FLAT),
    "x.view(x.size(0), -1)": Plain(lambda x: x.view(x.size(0), -1), FLAT),
    "x.reshape(len(x), -1)": Plain(lambda x: x.reshape(len(x), -1), FLAT),
    "F.linear": Second(
        nn.Linear(4, 4), lambda self, x: F.linear(x.mean((2, 3)), self.second.weight, self.second.bias)
    ),
    "F.softmax": Plain(lambda x: F.softmax(x.flatten(1), dim=-1), FLAT),
    "x.clone": Plain(lambda x: x.clone()),
    "x.contiguous": Plain(lambda x: x.contiguous()),
    "torch.zeros_like": Plain(lambda x: x + torch.zeros_like(x)),
    "x * 0": Plain(lambda x: x + x * 0),
    **{f"nn.{kind.__name__}": chain(kind(0.2)) for kind in (nn.Dropout, nn.Dropout2d, nn.AlphaDropout)},
    "nn.FeatureAlphaDropout": chain(nn.FeatureAlphaDropout(0.2)),
    "F.dropout(x, p, self.training)": Training(lambda x, training: F.dropout(x, 0.2, training)),
    "F.dropout2d": Training(lambda x, training: F.dropout2d(x, 0.2, training)),
    "F.alpha_dropout": Training(lambda x, training: F.alpha_dropout(x, 0.2, training)),
}


def test_everything_that_is_documented_works() -> None:
    """The table of docs/formats.md is the list of examples above, name by name, and each can be exported."""
    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text()
    table = page.partition("### What they are in a module of your own")[2].partition("\n## ")[0]
    cells = [cell for line in table.splitlines() if line.startswith("|") for cell in line.split("|")[2:-1]]
    assert set(re.findall(r"`([^`]+)`", " ".join(cells))) == LISTED.keys()
    for name, module in LISTED.items():
        network = network_of(module, SHAPE)
        assert network.shapes[network.output] == (3,), name
        for file_format in ("onnx", "tflite"):
            assert export(network, initial_weights(network, 0), file_format).artifact.size_bytes > 0, name
