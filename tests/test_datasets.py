"""A user's own data: what is understood, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from results.errors import DataError
from search.datasets import load_task, located
from search.tasks import SPLIT_NAMES, Normalisation
from tests.fixtures_training import task_file

RNG = np.random.default_rng(0)


def noise(n: int, *shape: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, (n, *shape), np.uint8)


def distinct(images: NDArray[Any]) -> set[bytes]:
    return {image.tobytes() for image in images}


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_missing_splits_are_taken_off_the_training_data(tmp_path: Path) -> None:
    labels = np.repeat([0, 1, 2], [100, 60, 40])
    path = save(tmp_path / "own.npz", x_train=noise(200, 6, 5), y_train=labels)
    splits = load_task(path, {"validation": 0.2, "test": 0.1}).splits()
    assert np.bincount(splits.validation.labels).tolist() == [20, 12, 8]
    assert np.bincount(splits.test.labels).tolist() == [10, 6, 4]
    assert np.bincount(splits.train.labels).tolist() == [70, 42, 28]
    assert splits.train.pixels.shape[1:] == (1, 6, 5)


def test_copies_of_an_image_stay_in_one_split(tmp_path: Path) -> None:
    images = np.tile(noise(40, 4, 4), (3, 1, 1))
    path = save(tmp_path / "own.npz", x_train=images, y_train=np.tile(np.arange(40) % 2, 3))
    splits = load_task(path).splits()
    sets = [distinct(splits[split].pixels) for split in SPLIT_NAMES]
    assert sum(len(s) for s in sets) == 40
    assert sum(len(splits[split].pixels) for split in SPLIT_NAMES) == 120


def test_given_splits_are_kept(tmp_path: Path) -> None:
    arrays = {}
    for split, n in zip(SPLIT_NAMES, (20, 10, 6), strict=True):
        arrays |= {f"x_{split}": noise(n, 3, 4, 4), f"y_{split}": np.arange(n) % 2}
    task = load_task(save(tmp_path / "own.npz", **arrays))
    for split in SPLIT_NAMES:
        np.testing.assert_array_equal(task.splits()[split].pixels, arrays[f"x_{split}"])
        np.testing.assert_array_equal(task.splits()[split].labels, arrays[f"y_{split}"])
    assert task.name == "own.npz"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((6, 5), (1, 6, 5)),
        ((6, 5, 3), (3, 6, 5)),
        ((3, 6, 5), (3, 6, 5)),
        ((1, 6, 3), (1, 6, 3)),
        ((6, 1, 64), (6, 1, 64)),
    ],
)
def test_layouts_of_images(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    path = save(tmp_path / "own.npz", x_train=noise(20, *shape), y_train=np.arange(20) % 2)
    assert load_task(path).input_shape == expected


def test_floats_are_taken_as_they_are(tmp_path: Path) -> None:
    images = RNG.normal(3, 2, (30, 1, 4, 4))
    task = load_task(save(tmp_path / "own.npz", x_train=images, y_train=np.arange(30) % 2))
    train = task.splits().train
    assert train.normalisation == Normalisation((0.0,), (1.0,))
    assert train.images.dtype == np.float32
    assert distinct(train.images) <= distinct(images.astype(np.float32))


GOOD = {"x_train": noise(20, 4, 4), "y_train": np.arange(20) % 2}


def nan_at_one_place() -> NDArray[np.float64]:
    images = np.zeros((20, 4, 4))
    images[3, 2, 1] = np.nan
    return images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": None}, "x_train is missing"),
        ({"y_train": None}, "x_train has no y_train"),
        ({"x_tets": noise(2, 4, 4)}, "unknown array 'x_tets'; did you mean 'x_test'"),
        ({"x_train": noise(20, 4)}, r"got shape \(20, 4\)"),
        ({"x_train": noise(0, 4, 4), "y_train": np.arange(0)}, "x_train is empty"),
        ({"x_train": nan_at_one_place()}, "x_train has 1 values that are not finite"),
        ({"x_train": np.full((20, 4, 4), 256)}, "integers outside 0..255"),
        ({"x_train": np.full((20, 4, 4), "a")}, "bytes or floats"),
        ({"y_train": np.arange(19) % 2}, "x_train has 20 rows, y_train has 19"),
        ({"y_train": np.zeros(20, int)}, "one class only"),
        ({"y_train": np.arange(20) % 2 - 1}, "negative"),
        ({"y_train": np.arange(20) % 2 + 0.5}, "broken"),
        ({"y_train": np.where(np.arange(20) == 0, np.nan, 1)}, "missing"),
        ({"y_train": np.arange(20) % 2 * 2}, r"classes are to be 0\.\.1; y_train has no 1"),
        ({"y_train": np.eye(20)}, r"got float64 of shape \(20, 20\)"),
        ({"y_train": np.array(["a", "b"] * 10)}, "integers 0, 1"),
        ({"y_train": np.arange(20) < 2}, "integers 0, 1"),
        ({"y_train": (np.arange(20) < 2).astype(int)}, "class 1 has 2 different images"),
        ({"x_test": noise(3, 4, 5), "y_test": np.array([0, 1, 1])}, "x_test has images uint8"),
        ({"x_test": noise(3, 4, 4), "y_test": np.array([0, 1, 2])}, "y_test has class 2"),
        ({"x_test": GOOD["x_train"][:3], "y_test": np.array([0, 1, 1])}, "allow_duplicates"),
    ],
)
def test_unfit_arrays_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arrays = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    with pytest.raises(DataError, match=message) as caught:
        load_task(save(tmp_path / "own.npz", **arrays))
    assert "own.npz" in str(caught.value)


def test_duplicates_can_be_allowed(tmp_path: Path) -> None:
    path = save(tmp_path / "own.npz", **GOOD, x_test=GOOD["x_train"][:4], y_test=np.arange(4) % 2)
    assert load_task(path, {"allow_duplicates": True}).splits().test.examples == 4


def test_pickled_arrays_are_not_loaded(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}] * 20, dtype=object)
    with pytest.raises(DataError, match=r"cannot be read as an \.npz file"):
        load_task(save(tmp_path / "own.npz", x_train=objects, y_train=GOOD["y_train"]))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY"])
def test_a_broken_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"own\.npz: cannot be read"):
        load_task(tmp_path / "own.npz")


def test_a_single_array_is_not_an_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", GOOD["x_train"])
    (tmp_path / "own.npy").rename(tmp_path / "own.npz")
    with pytest.raises(DataError, match="holds a single array"):
        load_task(tmp_path / "own.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validaton": 0.1}, "unknown task option 'validaton'; did you mean 'validation'"),
        ({"size": 32}, "unknown task option 'size'"),
        ({"validation": 0.6, "test": 0.5}, "leave nothing to train on"),
        ({"validation": 0}, "a share between 0 and 1, got 0"),
        ({"test": "a"}, "a share between 0 and 1, got 'a'"),
        ({"shift": -1}, "pixels >= 0"),
        ({"flip": 1}, "true or false"),
        ({"allow_duplicates": "yes"}, "true or false"),
    ],
)
def test_unfit_options_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_task(save(tmp_path / "own.npz", **GOOD), options)


def test_options_reach_the_task(tmp_path: Path) -> None:
    task = load_task(save(tmp_path / "own.npz", **GOOD), {"shift": 2, "flip": True})
    assert (task.augmentation.shift, task.augmentation.flip) == (2, True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "unknown task 'digit'; did you mean 'digits'"),
        ("nowhere/data.npz", "nowhere/data.npz: no such file or folder"),
        ("data.npz", "no such file or folder"),
    ],
)
def test_unknown_tasks(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        load_task(name)


def test_other_files_are_no_tasks(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"an \.npz file or a \.py file"):
        load_task(tmp_path / "data.csv")


def test_built_in_tasks_take_no_options() -> None:
    with pytest.raises(DataError, match="digits: unknown task option 'size'; known: none"):
        load_task("digits", {"size": 8})


def test_paths_are_absolute_for_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert located("digits") == "digits"
    assert located("own/data.npz") == str(tmp_path / "own/data.npz")


# --------------------------------------------------------------------------- folders of images


def paint(path: Path, shape: tuple[int, ...] = (10, 12, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(1, *shape)[0]).save(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "pictures"


def test_a_folder_with_a_subfolder_per_class(folder: Path) -> None:
    for name in ("cat", "dog"):
        for i in range(6):
            paint(folder / name / f"{i}.png")
    (folder / "cat" / "notes.txt").write_text("not an image")
    task = load_task(folder)
    splits = task.splits()
    assert (task.name, task.classes, task.input_shape) == ("pictures", 2, (3, 10, 12))
    assert [splits[s].examples for s in SPLIT_NAMES] == [8, 2, 2]
    with Image.open(folder / "dog" / "3.png") as image:
        stored = np.asarray(image).transpose(2, 0, 1).tobytes()
    where = [
        label
        for s in SPLIT_NAMES
        for p, label in zip(splits[s].pixels, splits[s].labels, strict=True)
        if p.tobytes() == stored
    ]
    assert where == [1]


def test_a_folder_with_given_splits_resized_and_grey(folder: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            for i in range(4):
                paint(folder / split / name / f"{i}.jpg", (9 + i, 8, 3))
    task = load_task(folder, {"size": [6, 7], "channels": 1, "validation": 0.25})
    assert task.input_shape == (1, 6, 7)
    assert [task.splits()[s].examples for s in SPLIT_NAMES] == [6, 2, 8]


def test_a_changed_folder_is_read_again(folder: Path) -> None:
    for name in ("a", "b"):
        for i in range(4):
            paint(folder / name / f"{i}.png")
    before = load_task(folder).splits()
    paint(folder / "a" / "9.png")
    after = load_task(folder).splits()
    assert sum(before[s].examples for s in SPLIT_NAMES) == 8
    assert sum(after[s].examples for s in SPLIT_NAMES) == 9


def test_unfit_folders_are_refused(folder: Path) -> None:
    folder.mkdir()
    with pytest.raises(DataError, match="needs a subfolder per class"):
        load_task(folder)
    paint(folder / "a" / "0.png")
    (folder / "b").mkdir()
    with pytest.raises(DataError, match="b: holds no images"):
        load_task(folder)
    paint(folder / "b" / "0.png", (5, 5, 3))
    with pytest.raises(DataError, match="size = 32"):
        load_task(folder)
    with pytest.raises(DataError, match="too few for 3 splits"):
        load_task(folder, {"size": 5})
    (folder / "b" / "1.png").write_bytes(b"\x89PNG but not really")
    with pytest.raises(DataError, match=r"1\.png: cannot be read as an image"):
        load_task(folder, {"size": 5})
    with pytest.raises(DataError, match="'size' is an edge in pixels"):
        load_task(folder, {"size": 0})
    with pytest.raises(DataError, match="'channels' is 1"):
        load_task(folder, {"channels": 2})


def test_a_class_that_training_does_not_know(folder: Path) -> None:
    for path in ("train/a", "train/b", "test/c"):
        paint(folder / path / "0.png")
    with pytest.raises(DataError, match="have no such class"):
        load_task(folder)


# --------------------------------------------------------------------------- task files


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", r"(?s)cannot be executed:.*ZeroDivisionError"),
        ("data = 3", "data is to be a function, it is a int"),
        ("del data", r"defines no function data\(\)"),
        ("loss = 'mse'", "loss is to be a function"),
        ("OUTPUTS = 2", r"define loss\(\) and metric\(\) too"),
        ("OUTPUTS = 0", "number of outputs"),
        ("MAXIMISE = 'yes'", "MAXIMISE is 'yes', of the wrong type"),
        ("def data(): return [1]", "returned a list"),
        ("def data(): raise ValueError('empty disk')", r"(?s)data\(\) raised:.*ValueError: empty disk"),
        ("def data(): return {'x_train': np.zeros((4, 3, 3))}", "x_train has no y_train"),
        ("def (", r"(?s)cannot be executed.*SyntaxError"),
    ],
)
def test_unfit_task_files_are_refused(tmp_path: Path, code: str, message: str) -> None:
    path = task_file(tmp_path, code)
    with pytest.raises(DataError, match=message) as caught:
        load_task(path)
    assert "task.py" in str(caught.value)


def test_options_that_data_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unexpected keyword argument 'n'"):
        load_task(task_file(tmp_path), {"n": 3})


def test_a_task_file_with_data_alone_is_a_classification(tmp_path: Path) -> None:
    task = load_task(task_file(tmp_path))
    assert (task.name, task.classes, task.metric, task.maximise) == ("task", 2, "accuracy", True)
    assert task.measure is None
    assert task.trainer is None


@pytest.mark.parametrize("name", ["", "  ", None])
def test_a_metric_without_a_name_is_called_metric(tmp_path: Path, name: str | None) -> None:
    code = f"METRIC = {name!r}\ndef metric(outputs, targets):\n    return 1.0\n"
    assert load_task(task_file(tmp_path, code)).metric == "metric"
