"""The layer graph: costs by hand and against PyTorch, weights, the module, graphs that do not join up."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from results.errors import ArchitectureError
from search.module import load_weights, to_module, weights_of
from search.network import (
    Activation,
    Add,
    BatchNorm,
    Conv,
    Costs,
    Dense,
    GlobalPool,
    Layer,
    Network,
    Node,
    costs,
    initial_weights,
    weight_shapes,
)

NO_PADDING = (0, 0, 0, 0)


def chain(input_shape: tuple[int, ...], *layers: Layer) -> Network:
    """A network without branches; its nodes are called n1, n2 ..."""
    names = ["input", *(f"n{i}" for i in range(1, len(layers) + 1))]
    nodes = tuple(
        Node(name, layer, (before,))
        for before, name, layer in zip(names[:-1], names[1:], layers, strict=True)
    )
    return Network(input_shape, nodes)


def separable() -> Network:
    return chain(
        (3, 8, 8),
        Conv(4, stride=(2, 2)),
        BatchNorm(),
        Activation("relu"),
        Conv(4, groups=4),
        BatchNorm(),
        Activation("relu6"),
        Conv(8, (1, 1), padding=NO_PADDING),
        BatchNorm(epsilon=1e-3),
        Activation("hard_swish"),
        GlobalPool(),
        Dense(10),
    )


def with_skips() -> Network:
    """Two nested skips, an unbalanced one among them, and an output of a node that nobody reads."""
    return Network(
        (2, 4, 4),
        (
            Node("a", Conv(2), ("input",)),
            Node("unread", Conv(7), ("a",)),
            Node("b", Conv(6), ("a",)),
            Node("c", BatchNorm(), ("b",)),
            Node("d", Activation("relu"), ("c",)),
            Node("e", Conv(2), ("d",)),
            Node("f", Add(), ("e", "a")),
            Node("g", Activation("hard_swish"), ("f",)),
            Node("h", Add(), ("g", "f")),
            Node("pool", GlobalPool(), ("h",)),
            Node("out", Dense(3), ("pool",)),
        ),
    )


def randomised(network: Network, seed: int = 1) -> dict[str, np.ndarray]:
    """Weights in which no tensor is trivial: batch norms scale, shift and normalise."""
    rng = np.random.default_rng(seed)
    return {
        name: (array + rng.uniform(0.1, 0.5, array.shape)).astype(np.float32)
        for name, array in initial_weights(network, seed).items()
    }


def images_for(network: Network, count: int = 4) -> torch.Tensor:
    return torch.randn((count, *network.input_shape), generator=torch.Generator().manual_seed(5))


def test_costs_of_a_small_network_are_those_computed_by_hand() -> None:
    macs = 4 * 4 * 4 * 3 * 9 + 4 * 4 * 4 * 9 + 8 * 4 * 4 * 4 + 8 * 10
    parameters = (4 * 3 * 9 + 8) + (4 * 9 + 8) + (8 * 4 + 16) + (8 * 10 + 10)
    largest = 3 * 8 * 8 + 4 * 4 * 4  # the first convolution's input and output; the last has 64 + 128
    assert costs(separable()) == Costs(macs, parameters, 4 * largest)


@pytest.mark.parametrize(
    ("layer", "macs", "parameters"),
    [
        (Conv(6, (3, 5), padding=(1, 1, 2, 2)), 6 * 7 * 9 * 4 * 15, 6 * 4 * 15),
        (Conv(6, (3, 3), (2, 3), (0, 1, 1, 0), bias=True), 6 * 3 * 3 * 4 * 9, 6 * 4 * 9 + 6),
        (Conv(6, (3, 3), padding=NO_PADDING, groups=2, dilation=(2, 3)), 6 * 3 * 3 * 2 * 9, 6 * 2 * 9),
        (Conv(8, (1, 1), padding=NO_PADDING, groups=4), 8 * 7 * 9, 8),
        (BatchNorm(), 0, 8),
        (Activation("relu"), 0, 0),
    ],
)
def test_macs_and_parameters_by_layer(layer: Layer, macs: int, parameters: int) -> None:
    got = costs(chain((4, 7, 9), layer))
    assert (got.macs, got.parameters) == (macs, parameters)


def test_peak_memory_follows_what_is_alive() -> None:
    # In elements: the input 32, a 32, unread 112, b 96 (c and d overwrite it), e 32.
    # Alive at unread: a + unread = 144.  At e: a + d + e = 160, the peak.  At g: f + g, f being read again.
    assert costs(with_skips()).activation_bytes == 4 * (32 + 96 + 32)


def test_an_activation_needs_room_of_its_own_where_its_input_is_read_again() -> None:
    def nodes(second: str) -> tuple[Node, ...]:
        return (
            Node("a", Conv(1, (1, 1), padding=NO_PADDING), ("input",)),
            Node("b", Activation("relu"), ("a",)),
            Node("c", Activation("relu"), ("b",)),
            Node("sum", Add(), ("c", second)),
        )

    # Reading b again keeps b beside c, and the sum needs a third tensor.
    assert costs(Network((1, 5, 5), nodes("b"))).activation_bytes == 4 * 3 * 25
    # The same tensor twice is one tensor.
    assert costs(Network((1, 5, 5), nodes("c"))).activation_bytes == 4 * 2 * 25


@pytest.mark.parametrize("make", [separable, with_skips])
def test_parameters_and_names_are_those_of_the_module(make: Callable[[], Network]) -> None:
    network = make()
    module = to_module(network)
    assert costs(network).parameters == sum(p.numel() for p in module.parameters())
    state = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert state == weight_shapes(network)
    assert list(initial_weights(network, 0)) == list(weight_shapes(network))


def test_initial_weights_depend_on_the_seed_alone() -> None:
    first, again, other = (initial_weights(separable(), seed) for seed in (3, 3, 4))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["n1.weight"], other["n1.weight"])
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in first.values())


def test_initial_weights_have_the_variance_of_he_et_al() -> None:
    network = chain(
        (64, 8, 8), Conv(128), BatchNorm(), Conv(128, groups=128), Conv(8, bias=True), GlobalPool(), Dense(4)
    )
    weights = initial_weights(network, 0)
    # The relative deviation of a sample variance of n normals is sqrt(2 / n); beyond six of them lies a
    # correct implementation with probability 2e-9.  The seed is fixed: it does so always or never.
    for name, fan_in in (("n1", 64 * 9), ("n3", 9), ("n4", 128 * 9)):
        array = weights[f"{name}.weight"]
        assert np.var(array) * fan_in / 2 == pytest.approx(1, abs=6 * np.sqrt(2 / array.size))
    assert np.var(weights["n6.weight"]) * 8 == pytest.approx(1, abs=6 * np.sqrt(2 / 32))
    for name in ("n2.weight", "n2.running_var"):
        assert np.all(weights[name] == 1)
    for name in ("n2.bias", "n2.running_mean", "n4.bias", "n6.bias"):
        assert not weights[name].any()


def test_untrained_weights_and_activations_are_far_from_denormal() -> None:
    layers: list[Layer] = []
    for _ in range(40):
        layers += [Conv(32, groups=32), BatchNorm(), Activation("relu6")]
        layers += [Conv(32, (1, 1), padding=NO_PADDING), BatchNorm(), Activation("relu6")]
    network = chain((32, 8, 8), *layers)
    for array in initial_weights(network, 0).values():
        assert np.all((array == 0) | (np.abs(array) > 1e-30))
    with torch.no_grad():
        out = to_module(network).eval()(images_for(network))
    # With fan-out in place of fan-in every depthwise layer would divide the variance by 32: 1e-60 here.
    assert 1e-6 < float(out.std()) < 1e3


def test_the_module_computes_what_the_layers_say() -> None:
    network = separable()
    weights = {name: torch.from_numpy(array) for name, array in randomised(network).items()}
    x = images_for(network)

    def norm(x: torch.Tensor, name: str, epsilon: float = 1e-5) -> torch.Tensor:
        mean, var, scale, shift = (
            weights[f"{name}.{t}"].view(1, -1, 1, 1)
            for t in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + epsilon) * scale + shift

    y = norm(F.conv2d(x, weights["n1.weight"], stride=2, padding=1), "n2").clamp(min=0)
    y = norm(F.conv2d(y, weights["n4.weight"], padding=1, groups=4), "n5").clamp(0, 6)
    y = norm(F.conv2d(y, weights["n7.weight"]), "n8", 1e-3)
    y = y * (y + 3).clamp(0, 6) / 6
    want = y.flatten(2).mean(2) @ weights["n11.weight"].T + weights["n11.bias"]

    module = to_module(network, randomised(network)).eval()
    torch.testing.assert_close(module(x), want)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(module(x.to(memory_format=torch.channels_last)), want)


def test_skips_add_and_gradients_reach_every_weight_that_counts() -> None:
    network = with_skips()
    weights = randomised(network)
    module = to_module(network, weights).eval()
    x = images_for(network)
    t = {name: torch.from_numpy(array) for name, array in weights.items()}
    a = F.conv2d(x, t["a.weight"], padding=1)
    b = F.conv2d(a, t["b.weight"], padding=1)
    c = F.batch_norm(b, t["c.running_mean"], t["c.running_var"], t["c.weight"], t["c.bias"])
    f = F.conv2d(F.relu(c), t["e.weight"], padding=1) + a
    want = F.linear((F.hardswish(f) + f).mean((2, 3)), t["out.weight"], t["out.bias"])
    torch.testing.assert_close(module(x), want)
    module.train()(x).sum().backward()
    idle = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == ["unread.weight"]


@pytest.mark.parametrize("padding", [(0, 1, 0, 1), (1, 0, 2, 1), (2, 2, 1, 1), (0, 0, 0, 0), (3, 0, 0, 3)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_padding_is_that_of_pad(
    padding: tuple[int, int, int, int], stride: tuple[int, int], channels_last: bool
) -> None:
    network = chain((3, 8, 9), Conv(4, (3, 3), stride, padding, dilation=(1, 2), bias=True))
    weights = randomised(network)
    x = images_for(network)
    top, bottom, left, right = padding
    want = F.conv2d(
        F.pad(x, (left, right, top, bottom)),
        torch.from_numpy(weights["n1.weight"]),
        torch.from_numpy(weights["n1.bias"]),
        stride=stride,
        dilation=(1, 2),
    )
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(to_module(network, weights)(x), want)
    assert tuple(want.shape[1:]) == network.shapes["n1"]


def test_values_that_nothing_reads_any_more_are_freed() -> None:
    module = to_module(chain((2, 6, 6), *[Conv(2)] * 8)).eval()
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def note(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        made.append(weakref.ref(output))
        alive.append(sum(ref() is not None for ref in made))

    for layer in module.children():
        layer.register_forward_hook(note)
    with torch.no_grad():
        module(torch.zeros(1, 2, 6, 6))
    assert alive == [1] + [2] * 7  # a layer's input and its output


def test_weights_go_in_and_come_out_unchanged() -> None:
    network = with_skips()
    weights = randomised(network)
    module = to_module(network)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    load_weights(module, weights)
    got = weights_of(module)
    assert got.keys() == weights.keys()
    assert all(np.array_equal(got[name], weights[name]) for name in got)
    assert all(array.flags.c_contiguous and array.dtype == np.float32 for array in got.values())
    got["a.weight"][:] = 0  # a copy: the module keeps its own
    assert np.array_equal(weights_of(module)["a.weight"], weights["a.weight"])


def test_a_module_can_be_sent_to_another_process_and_does_not_touch_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    module = to_module(separable()).eval()
    assert torch.equal(before, torch.random.get_rng_state())
    x = images_for(separable())
    torch.testing.assert_close(pickle.loads(pickle.dumps(module))(x), module(x))
    again = to_module(separable())
    again.load_state_dict(module.state_dict())


def test_weights_of_another_network_are_refused_and_nothing_is_copied() -> None:
    network = separable()
    module = to_module(network)
    before = weights_of(module)
    weights = randomised(network)
    with pytest.raises(ArchitectureError, match=r"'n8\.bias' first"):
        load_weights(module, {name: array for name, array in weights.items() if name != "n8.bias"})
    with pytest.raises(ArchitectureError, match=r"'extra\.weight'"):
        load_weights(module, weights | {"extra.weight": weights["n1.weight"]})
    with pytest.raises(ArchitectureError, match=r"n11\.bias has shape \(9,\), the network wants \(10,\)"):
        load_weights(module, weights | {"n11.bias": np.zeros(9, np.float32)})
    assert all(np.array_equal(array, before[name]) for name, array in weights_of(module).items())


def test_fingerprints_of_earlier_versions_still_hold() -> None:
    """Layers have got settings since (a dense layer's bias, a norm's momentum); hashes are stored."""
    network = chain((3, 8, 8), Conv(4), BatchNorm(1e-3), GlobalPool(), Dense(3))
    assert network.fingerprint == "37b3ed9cbe05449e849bed079daf904791827e4091c8465570f5aa96eb4dc116"
    others = [
        chain((3, 8, 8), Conv(4), BatchNorm(1e-3, 0.01), GlobalPool(), Dense(3)),
        chain((3, 8, 8), Conv(4), BatchNorm(1e-3), GlobalPool(), Dense(3, bias=False)),
    ]
    assert len({each.fingerprint for each in (network, *others)}) == 3


def test_fingerprints_are_of_the_structure() -> None:
    renamed = Network(
        (3, 8, 8),
        tuple(
            Node("x" + n.name, n.layer, tuple("x" + i if i != "input" else i for i in n.inputs))
            for n in separable().nodes
        ),
    )
    assert renamed.fingerprint == separable().fingerprint
    wider = chain((3, 8, 8), Conv(5), GlobalPool(), Dense(2))
    narrower = chain((3, 8, 8), Conv(4), GlobalPool(), Dense(2))
    larger = chain((3, 9, 8), Conv(4), GlobalPool(), Dense(2))
    assert len({n.fingerprint for n in (wider, narrower, larger, separable())}) == 4


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((), "needs nodes"),
        ((Node("a", Conv(2), ("input",)), Node("a", Conv(2), ("a",))), "different names"),
        ((Node("input", Conv(2), ("input",)),), "none of them 'input'"),
        ((Node("a.b", Conv(2), ("input",)),), "'a.b' is empty or contains a dot"),
        ((Node("", Conv(2), ("input",)),), "'' is empty or contains a dot"),
        ((Node("a", Conv(2), ("b",)), Node("b", Conv(2), ("input",))), "a reads 'b', which is not before it"),
        ((Node("a", Conv(2), ("input", "input")),), "a: Conv takes 1 inputs, got 2"),
        ((Node("a", Add(), ("input",)),), "a: Add takes 2 inputs, got 1"),
        ((Node("a", Conv(2), ("input",)), Node("b", Add(), ("a", "input"))), r"b: cannot add \(2, 4, 4\)"),
        ((Node("a", Conv(0), ("input",)),), "a: 3 to 0 channels"),
        ((Node("a", Conv(4, groups=2), ("input",)),), "a: 3 to 4 channels do not divide into 2"),
        ((Node("a", Conv(4, groups=3), ("input",)),), "do not divide into 3"),
        ((Node("a", Conv(4, (7, 7)), ("input",)),), "does not fit"),
        ((Node("a", Conv(4, stride=(0, 1)), ("input",)),), "start at 1"),
        ((Node("a", Conv(4, groups=0), ("input",)),), "start at 1"),
        ((Node("a", Conv(4, padding=(0, -1, 0, 0)), ("input",)),), "padding at 0"),
        ((Node("a", Dense(2), ("input",)),), "a: needs an input of rank 1"),
        ((Node("a", GlobalPool(), ("input",)), Node("b", Dense(0), ("a",))), "b: a dense layer needs units"),
        (
            (Node("a", GlobalPool(), ("input",)), Node("b", BatchNorm(), ("a",))),
            "b: needs an input of rank 3",
        ),
        ((Node("a", GlobalPool(), ("input",)), Node("b", Conv(2), ("a",))), "b: needs an input of rank 3"),
        (
            (Node("a", GlobalPool(), ("input",)), Node("b", GlobalPool(), ("a",))),
            "b: needs an input of rank 3",
        ),
    ],
)
def test_graphs_that_do_not_join_up_are_refused(nodes: tuple[Node, ...], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        Network((3, 4, 4), nodes)


@pytest.mark.parametrize("shape", [(3, 4), (3, 0, 4), (0, 4, 4), ()])
def test_an_input_that_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArchitectureError, match="channels, height and width"):
        Network(shape, (Node("a", Activation(), ("input",)),))


def test_names_that_pytorch_keeps_for_itself_are_refused() -> None:
    network = Network((3, 4, 4), (Node("forward", Conv(2), ("input",)),))
    with pytest.raises(ArchitectureError, match="'forward'"):
        to_module(network)
