"""Training: repeatable to the bit, honest about fidelity, clear about what went wrong."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from results.errors import ArchitectureError, ConfigError, DataError, TrainingError
from results.records import Fidelity, Score
from search.arrays import nested_subset
from search.datasets import load_task
from search.module import to_module
from search.network import Dropout, Network, Node, initial_weights
from search.training import TrainingJob, TrainingResult, check_device, evaluate, predict, train
from search.training_checkpoint import Checkpoint
from search.training_run import Inputs
from tests.fixtures_training import small_network, task_file

DIGITS = TrainingJob(small_network(), "digits", {}, Fidelity(3), seed=1)


@pytest.fixture(scope="module")
def digits() -> TrainingResult:
    return train(DIGITS)


def same_bytes(a: TrainingResult, b: TrainingResult) -> bool:
    return a.weights.keys() == b.weights.keys() and all(
        a.weights[name].tobytes() == b.weights[name].tobytes() for name in a.weights
    )


def two_classes(task: str, epochs: int = 1, **changes: object) -> TrainingJob:
    job = TrainingJob(small_network(outputs=2, depth=1, width=4), task, {}, Fidelity(epochs), seed=0)
    return replace(job, **changes)  # type: ignore[arg-type]


def test_a_short_training_is_clearly_better_than_chance(digits: TrainingResult) -> None:
    assert digits.score.value > 0.5
    assert digits.score == Score(digits.curve[-1], 359)
    assert len(digits.curve) == 3
    assert digits.training_s > 0


def test_digits_in_photos_can_be_learnt() -> None:
    job = TrainingJob(
        small_network((3, 32, 32), depth=4, width=8), "digits_in_photos", {}, Fidelity(4), seed=0
    )
    result = train(job)
    # 500 independent digits at chance: 0.1 with a standard deviation of 0.013, so 0.2 is 7 of them away.
    assert result.score.value > 0.2
    assert result.score.examples == 500


def test_the_same_job_gives_the_same_bytes(digits: TrainingResult) -> None:
    assert same_bytes(digits, train(DIGITS))


def test_another_seed_gives_other_weights(digits: TrainingResult) -> None:
    assert not same_bytes(digits, train(replace(DIGITS, seed=2)))


def test_the_caller_keeps_its_threads_and_generators() -> None:
    torch.set_num_threads(2)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    train(replace(DIGITS, fidelity=Fidelity(1, subset=0.1)))
    assert torch.get_num_threads() == 2
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()
    assert torch.tensor(1e-40) * 1.0 > 0  # denormals exist again


def test_evaluation_gives_what_training_said(digits: TrainingResult) -> None:
    task = load_task("digits")
    assert evaluate(DIGITS.network, digits.weights, task, "validation") == digits.score
    test = evaluate(DIGITS.network, digits.weights, task, "test")
    assert test.value > 0.5
    assert test.examples == 359


def test_prediction_is_the_module_in_eval_mode(digits: TrainingResult) -> None:
    images = load_task("digits").splits().test.take(40)
    module = to_module(DIGITS.network, digits.weights).eval()
    with torch.inference_mode():
        expected = module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(predict(DIGITS.network, digits.weights, images), expected, atol=1e-4)


def test_prediction_refuses_images_of_another_size(digits: TrainingResult) -> None:
    with pytest.raises(ConfigError, match=r"\(1, 8, 8\), got \(1, 9, 9\)"):
        predict(DIGITS.network, digits.weights, np.zeros((1, 1, 9, 9), np.float32))


def test_every_epoch_is_told() -> None:
    told: list[tuple[int, float]] = []
    result = train(replace(DIGITS, fidelity=Fidelity(2)), lambda epoch, score: told.append((epoch, score)))
    assert told == [(1, result.curve[0]), (2, result.curve[1])]


def test_given_weights_are_the_start(digits: TrainingResult) -> None:
    again = train(replace(DIGITS, fidelity=Fidelity(1), weights=digits.weights))
    fresh = train(replace(DIGITS, fidelity=Fidelity(1)))
    assert again.curve[0] > fresh.curve[0]


def test_weights_of_another_network_are_refused() -> None:
    other = initial_weights(small_network(depth=2), 0)
    with pytest.raises(ArchitectureError, match="another network"):
        train(replace(DIGITS, weights=other))


# --------------------------------------------------------------------------- fidelity


def test_subsets_are_stratified_and_nested() -> None:
    labels = load_task("digits").splits().train.labels
    tenth, half, whole = (nested_subset(labels, share) for share in (0.1, 0.5, 1.0))
    assert set(tenth) < set(half) < set(whole) == set(range(len(labels)))
    counts = np.bincount(labels[half]) / np.bincount(labels)
    assert (np.abs(counts - 0.5) < 0.01).all()
    assert (np.bincount(labels[nested_subset(labels, 1e-9)]) == 1).all()


def test_a_smaller_subset_costs_fewer_steps(tmp_path: Path) -> None:
    seen = task_file(
        tmp_path,
        """
        METRIC = "seen"
        rows = []
        def train(module, run):
            rows.append(sum(len(targets) for _, targets in run.batches(16)))
        def metric(outputs, targets):
            return float(rows[-1])
    """,
    )
    whole = train(two_classes(seen)).score.value
    assert train(two_classes(seen, fidelity=Fidelity(1, subset=0.5))).score.value == pytest.approx(
        whole / 2, abs=1
    )


def test_resolution_resizes_the_images() -> None:
    job = replace(DIGITS, network=small_network((1, 6, 6)), fidelity=Fidelity(1, resolution=6))
    result = train(job)
    assert evaluate(job.network, result.weights, load_task("digits"), "validation") == result.score


def test_resizing_keeps_what_is_even() -> None:
    task = load_task("digits").splits().train
    flat = np.full((2, 1, 8, 8), 7, np.uint8)
    batch = Inputs(flat, task.normalisation, (5, 12)).batch(torch.arange(2))
    assert batch.shape == (2, 1, 5, 12)
    np.testing.assert_allclose(batch, task.normalisation(flat)[0, 0, 0, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("network", "fidelity", "message"),
    [
        (small_network((1, 16, 16)), Fidelity(1), "the network takes"),
        (small_network(), Fidelity(1, resolution=6), "resolution 6"),
        (small_network((1, 16, 16)), Fidelity(1, resolution=16), "more than task 'digits' has: .* 8x8"),
        (small_network((3, 8, 8)), Fidelity(1), "the network takes"),
        (small_network(outputs=7), Fidelity(1), "has 10 outputs"),
    ],
)
def test_a_network_that_does_not_fit_the_task(network: object, fidelity: Fidelity, message: str) -> None:
    kind = ConfigError if "more than" in message else ArchitectureError  # which ends its candidate alone
    with pytest.raises(kind, match=message):
        train(replace(DIGITS, network=network, fidelity=fidelity))  # type: ignore[arg-type]


def test_each_epoch_shows_another_variant_of_every_digit() -> None:
    split = load_task("digits_in_photos").splits().train
    assert (split.examples, split.variants, len(split.pixels)) == (3000, 4, 12000)
    inputs = Inputs(split.pixels, split.normalisation, (32, 32))
    first, second = (inputs.batch(torch.arange(5) + epoch * split.examples) for epoch in (0, 1))
    np.testing.assert_array_equal(first, split.normalisation(split.pixels[:5]))
    np.testing.assert_array_equal(second, split.normalisation(split.pixels[3000:3005]))


def test_shift_and_flip_move_pixels() -> None:
    from search.tasks import Augmentation, Normalisation

    pixels = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    inputs = Inputs(pixels, Normalisation((0.0,), (1.0,)), (4, 4))
    rng = np.random.default_rng(0)
    rows = torch.zeros(200, dtype=torch.long)
    seen = {tuple(image.ravel().tolist()) for image in inputs.augmented(rows, Augmentation(1, True), rng)}
    padded = np.pad(pixels[0, 0], 1, mode="edge")
    expected = set()
    for y in range(3):
        for x in range(3):
            # Flipped after the shift: columns are read in the opposite order.
            expected.add(tuple(padded[y : y + 4, x : x + 4].ravel()))
            expected.add(tuple(padded[y : y + 4, x : x + 4][:, ::-1].ravel()))
    assert seen == expected  # 200 draws of 18: one missing has a probability of 18 * (17/18)^200 = 2e-4


# --------------------------------------------------------------------------- taken over, ended early


def interrupted_after(epochs: int, path: Path) -> None:
    """A training whose process ends in the middle of the next epoch."""

    class Killed(KeyboardInterrupt):
        pass

    def on_epoch(epoch: int, score: float) -> None:
        if epoch > epochs:
            raise Killed

    kept = path.with_name("kept")

    def keep_a_copy(epoch: int, score: float) -> None:
        on_epoch(epoch, score)
        kept.write_bytes(path.read_bytes())

    with pytest.raises(Killed):
        train(DIGITS, keep_a_copy, checkpoint=Checkpoint(path, 0.0))
    kept.replace(path)


def test_a_training_that_is_taken_over_gives_the_same_bytes(digits: TrainingResult, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    interrupted_after(1, path)
    told: list[int] = []
    result = train(DIGITS, lambda epoch, score: told.append(epoch), checkpoint=Checkpoint(path))
    assert told == [2, 3]
    assert result.curve == digits.curve
    assert same_bytes(result, digits)


def test_dropout_is_trained_with_and_drawn_the_same_when_taken_over(tmp_path: Path) -> None:
    network = DIGITS.network
    drop = Node("drop", Dropout(0.5), ("pool",))
    nodes = (*network.nodes[:-1], drop, replace(network.nodes[-1], inputs=("drop",)))
    job = replace(
        DIGITS, network=Network(network.input_shape, nodes), fidelity=Fidelity(epochs=2, subset=0.2)
    )
    path, kept = tmp_path / "state.pt", tmp_path / "kept.pt"

    def keep_the_first(epoch: int, score: float) -> None:
        if epoch == 1:
            kept.write_bytes(path.read_bytes())

    whole = train(job, keep_the_first, checkpoint=Checkpoint(path, 0.0))
    kept.replace(path)
    assert same_bytes(train(job, checkpoint=Checkpoint(path)), whole)
    without = train(replace(job, network=network))
    assert any((whole.weights[name] != without.weights[name]).any() for name in without.weights)


@pytest.mark.parametrize("what", ["damaged", "another"])
def test_a_checkpoint_that_is_of_no_use_is_said_and_not_used(
    digits: TrainingResult, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(b"PK nothing")
    if what == "another":
        other = replace(DIGITS, network=small_network(depth=2), fidelity=Fidelity(2))
        train(other, checkpoint=Checkpoint(path, 0.0))
    assert same_bytes(train(DIGITS, checkpoint=Checkpoint(path)), digits)
    assert ("damaged" if what == "damaged" else "another training") in caplog.text


class Clock:
    """A part of a training: its steps are the file's writes."""

    def __init__(self) -> None:
        self.asked = 0

    def state_dict(self) -> dict[str, Any]:
        self.asked += 1
        return {}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        pass


def test_the_state_is_kept_no_more_often_than_said(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "state.pt"
    checkpoint = Checkpoint(path, 2.0)
    assert checkpoint.attach(torch.nn.Linear(1, 1), {"clock": clock}) is None
    for training_s in (0.5, 1.5):
        checkpoint.save([0.1], training_s)
    assert not path.exists()
    for training_s in (2.5, 3.0, 4.4, 4.6, 9.0):
        checkpoint.save([0.1, 0.2], training_s)
    assert clock.asked == 3  # at 2.5, 4.6 and 9.0
    later = Checkpoint(path, 2.0)
    assert later.attach(torch.nn.Linear(1, 1), {"clock": clock}) == {"curve": [0.1, 0.2], "training_s": 9.0}
    asked = clock.asked
    later.save([0.1, 0.2, 0.3], 10.9)
    assert clock.asked == asked
    later.save([0.1, 0.2, 0.3], 11.0)
    assert clock.asked == asked + 1


def test_a_watcher_may_end_a_training(digits: TrainingResult) -> None:
    result = train(DIGITS, lambda epoch, score: epoch == 2)
    assert result.stopped
    assert result.curve == digits.curve[:2]
    assert result.score.value == result.curve[-1]
    assert not train(replace(DIGITS, fidelity=Fidelity(1)), lambda epoch, score: True).stopped


# --------------------------------------------------------------------------- what goes wrong


def test_a_loss_that_is_not_a_number_ends_it(tmp_path: Path) -> None:
    task = task_file(
        tmp_path,
        """
        def loss(outputs, targets):
            return outputs.sum() * float("nan")
    """,
    )
    with pytest.raises(TrainingError, match="the loss is nan in epoch 1"):
        train(two_classes(task))


def test_weights_that_are_not_numbers_end_it(tmp_path: Path) -> None:
    task = task_file(
        tmp_path,
        """
        import torch
        def train(module, run):
            with torch.no_grad():
                next(module.parameters()).fill_(float("inf"))
    """,
    )
    with pytest.raises(TrainingError, match=r"c0\.weight has values that are not finite"):
        train(two_classes(task))


@pytest.mark.parametrize("end", ["raise ValueError('enough')", "run.check_finite(float('nan'))"])
def test_what_a_failed_training_took_is_said_with_the_error(tmp_path: Path, end: str) -> None:
    code = f"""
        def train(module, run):
            while run.training_s < 0.05:
                run.validate()
            {end}
    """
    with pytest.raises(TrainingError) as caught:
        train(two_classes(task_file(tmp_path, code)))
    assert caught.value.training_s > 0.05
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.training_s) == (str(caught.value), caught.value.training_s)


def test_a_device_that_is_not_there() -> None:
    job = two_classes("digits", device="cuda")
    if torch.cuda.is_available():
        check_device(job.device)
    else:
        with pytest.raises(ConfigError, match="PyTorch finds none here"):
            train(job)


def test_the_time_limit_says_so() -> None:
    with pytest.raises(TrainingError, match="time limit of 0 s of CPU time, after 0 of 3 epochs"):
        train(replace(DIGITS, time_limit_s=0.0))


def test_what_the_users_code_raises_is_quoted(tmp_path: Path) -> None:
    task = task_file(
        tmp_path,
        """
        def train(module, run):
            raise KeyError("no such thing")
    """,
    )
    with pytest.raises(TrainingError, match=r"(?s)task\.py.*KeyError: 'no such thing'"):
        train(two_classes(task))


def test_an_unknown_task_is_a_data_error() -> None:
    with pytest.raises(DataError, match="did you mean 'digits'"):
        train(replace(DIGITS, task_name="digit"))


def test_nearly_zero_weights_become_zero(tmp_path: Path) -> None:
    task = task_file(
        tmp_path,
        """
        def train(module, run):
            pass
    """,
    )
    job = two_classes(task)
    weights = initial_weights(job.network, 0)
    weights["head.weight"][0, :2] = (1e-35, 1e-29)
    result = train(replace(job, weights=weights))
    assert result.flushed == 1
    assert result.weights["head.weight"][0, 0] == 0
    assert result.weights["head.weight"][0, 1] == np.float32(1e-29)
    assert all(values.dtype == np.float32 for values in result.weights.values())
    assert result.curve == (result.score.value,)


# --------------------------------------------------------------------------- a task of one's own


def test_a_task_with_targets_loss_and_metric_of_its_own(tmp_path: Path) -> None:
    task = task_file(
        tmp_path,
        """
        import torch.nn.functional as F
        OUTPUTS = 1
        METRIC = "mean absolute error"
        MAXIMISE = False
        CREDITS = ["made up"]

        def loss(outputs, targets):
            return F.mse_loss(outputs[:, 0], targets)

        def metric(outputs, targets):
            return float(np.abs(outputs[:, 0] - targets).mean())
        """,
        data="""
import numpy as np

def data(n=300):
    rng = np.random.default_rng(0)
    y = rng.uniform(-1, 1, n).astype(np.float32)
    x = rng.normal(size=(n, 1, 8, 8)) * 0.1 + y[:, None, None, None]
    return {"x_train": x.astype(np.float32), "y_train": y}
""",
    )
    loaded = load_task(task, {"n": 200})
    assert (loaded.metric, loaded.maximise, loaded.classes) == ("mean absolute error", False, 1)
    assert loaded.credits == ("made up",)
    assert loaded.splits().train.labels.dtype == np.float32
    job = TrainingJob(small_network(outputs=1, depth=1, width=8), task, {"n": 200}, Fidelity(15), seed=0)
    result = train(job)
    assert result.curve[-1] < result.curve[0] / 2
    assert not result.score.proportion


def test_a_training_function_of_ones_own(tmp_path: Path) -> None:
    task = task_file(
        tmp_path,
        """
        import torch
        def train(module, run):
            optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
            for _ in range(run.epochs):
                for images, targets in run.batches(batch_size=32):
                    loss = run.loss(module(images), targets)
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                run.end_epoch()
    """,
    )
    result = train(two_classes(task, epochs=20))
    assert len(result.curve) == 20
    assert result.score.value > 0.9  # two classes 50 grey levels apart
    assert same_bytes(result, train(two_classes(task, epochs=20)))
