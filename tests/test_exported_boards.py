"""Written files of every precision on emulated boards: another machine computes what this host computes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from devices.emulation.board import EmulatedBoard
from harness.board import Board
from harness.calibration import calibrate
from harness.config import board_of
from harness.export import export
from harness.host import Host
from harness.proof import Proof, Trained, prove
from harness.prove import compare_on_board
from results.records import FORMATS, Plan, Target
from search.blocks import Block, GraphBuilder
from search.network import Network, initial_weights
from tests.export_fuzz import pytorch_logits
from tests.fixtures_emulation import Start

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900), pytest.mark.usefixtures("image_cache")]

PLAN = Plan("test", sessions=(1, 1), load_limit_s=300)
KINDS = [(runtime, precision) for runtime in FORMATS for precision in ("fp32", "fp16", "int8")]


def mobile_network() -> Network:
    """Plain, depthwise and pointwise convolutions, a skip, three kinds of activation."""
    builder = GraphBuilder((3, 24, 24))
    builder.stem(8, 2, "hard_swish")
    builder.block(Block("b0", "inverted", 12, 3, 2, "relu6", expansion=2))
    builder.block(Block("b1", "inverted", 12, 5, 1, "relu", skip=True, expansion=2))
    return builder.network(10)


@pytest.fixture(scope="module")
def trained() -> Trained:
    network = mobile_network()
    weights = initial_weights(network, 0)
    images = np.random.default_rng(0).standard_normal((8, *network.input_shape)).astype(np.float32)
    return Trained(network, weights, images, pytorch_logits(network, weights, images))


def agrees(board: Board, trained: Trained, runtime: str, precision: str) -> Proof:
    """Proves a file on this host, and on the board against this host."""
    ranges = calibrate(trained.network, trained.weights, trained.images) if precision == "int8" else None
    file = export(trained.network, trained.weights, FORMATS[runtime], precision, calibration=ranges)
    proof = prove(file, trained, ranges)
    target = Target(board.name, runtime, precision)
    compare_on_board(board, target, file, PLAN, trained.images, tolerance=proof.tolerance)
    return proof


@pytest.fixture(scope="module")
def pi4(shared_pi4: EmulatedBoard) -> Iterator[Board]:
    board = board_of(shared_pi4.entry, "a test", Host(), give_up_after_s=120.0)
    yield board
    board.close()


@pytest.mark.parametrize(("runtime", "precision"), KINDS)
def test_a_64_bit_board_computes_what_this_host_computes(
    pi4: Board, trained: Trained, runtime: str, precision: str
) -> None:
    assert pi4.facts.machine == "aarch64"
    agrees(pi4, trained, runtime, precision)


def test_a_32_bit_board_computes_what_this_host_computes(emulated_board: Start, trained: Trained) -> None:
    """The one test that needs the image of 32-bit boards: its build and one boot, about two minutes."""
    board = board_of(emulated_board("armv7", "cold").entry, "a test", Host(), give_up_after_s=120.0)
    try:
        assert board.facts.machine == "armv7l"
        assert board.facts.runtimes.keys() == {"tflite"}
        for precision in ("fp32", "fp16", "int8"):
            agrees(board, trained, "tflite", precision)
    finally:
        board.close()
