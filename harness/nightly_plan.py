"""A nightly plan as its TOML file says it: named sources x targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.export import Exported, export
from harness.sources import parse_shapes, source
from harness.study import NIGHTLY, plan_of, run_name, target_of
from results.errors import ConfigError
from results.records import Plan, Target
from results.settings import Settings

METRICS = ("latency_p50", "latency_p90", "latency_p99", "energy", "peak_memory", "size")
KINDS = ("model", "run", "space")
SEED = 0


@dataclass(frozen=True)
class Item:
    """A file with the name that its series are known by."""

    name: str
    file: Exported


@dataclass(frozen=True)
class NightlySource:
    """A named source of a plan.

    Attributes:
        name: Its name.
        model: Path of a file or ``module:function``; empty for another kind.
        run: Folder of a run whose winners are meant; empty for another kind.
        space: Space and options of an architecture; empty for another kind.
        shapes: Of inputs that a file leaves open, such as ``images=1,3,224,224``.
    """

    name: str
    model: str = ""
    run: str = ""
    space: Mapping[str, Any] | None = None
    shapes: tuple[str, ...] = ()

    def items(self, file_format: str) -> list[Item]:
        """The source's files of a format; none where it has only another one.

        Raises:
            ConfigError: If it cannot be read; the message says what and why.
        """
        if self.run:
            return [Item(f"{self.name}.{path.stem}", _file(path)) for path in self._winners(file_format)]
        if self.space is not None:
            return [Item(self.name, _architecture(self.space, file_format, self.name))]
        if Path(self.model).suffix.lower() in (".onnx", ".tflite") and not self.model.endswith(
            f".{file_format}"
        ):
            return []
        found = source(self.model, parse_shapes(self.shapes), file_format)
        return [Item(self.name, Exported(found.artifact, found.data))]

    def _winners(self, file_format: str) -> list[Path]:
        folder = Path(self.run) / "models"
        found = sorted(folder.glob(f"*.{file_format}"))
        if not found:
            raise ConfigError(
                f"source {self.name!r}: {folder} holds no .{file_format} file; has the run ended?"
            )
        return found


@dataclass(frozen=True)
class NightlyPlan:
    """Everything that a plan file says.

    Attributes:
        name: Name of the plan; its nights are kept under it.
        sources: What is measured.
        targets: Where.
        metrics: Which figures are watched.
        thresholds: Least shift that matters per metric, as a share, where it is not the default.
        plan: How much is measured.
        accept_noisy: Whether a busy board is measured too.
        give_up_after_s: How long a board may be away.
    """

    name: str
    sources: tuple[NightlySource, ...]
    targets: tuple[Target, ...]
    metrics: tuple[str, ...]
    thresholds: Mapping[str, float]
    plan: Plan
    accept_noisy: bool
    give_up_after_s: float


def read_plan(path: Path) -> NightlyPlan:
    """Reads and validates a plan file.

    Raises:
        ConfigError: Naming file, table, key, value and remedy.
    """
    top = Settings.read(path)
    name = run_name(top.take("name", str, path.stem), str(path))
    measurement = top.table("measurement")
    watched = top.table("thresholds")
    metrics = tuple(_texts(top, "metrics", ["latency_p50"]))
    for metric in metrics:
        if metric not in METRICS:
            raise top.error("metrics", f"knows {', '.join(METRICS)}; got {metric!r}")
    own = set(watched.keys()) & set(METRICS)
    thresholds = {m: watched.take_number(m, 0.02, low=1e-4, high=10.0) for m in sorted(own)}
    plan = NightlyPlan(
        name=name,
        sources=tuple(_source(table, path.parent) for table in top.tables("sources")),
        targets=tuple(_target(table) for table in top.tables("targets")),
        metrics=metrics,
        thresholds=thresholds,
        plan=replace(plan_of(measurement.table("nightly"), NIGHTLY, metrics), energy="energy" in metrics),
        accept_noisy=measurement.take("accept_noisy", bool, False),
        give_up_after_s=measurement.take_number("give_up_after_s", 600.0, low=0.0),
    )
    for settings in (top, measurement, watched):
        settings.done()
    _check(plan, path)
    return plan


def _check(plan: NightlyPlan, path: Path) -> None:
    if not plan.sources or not plan.targets:
        raise ConfigError(f"{path}: a plan needs [[sources]] and [[targets]]")
    names = [one.name for one in plan.sources]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path}: two sources are called {name!r}")


def _target(table: Settings) -> Target:
    target = target_of(table)
    table.done()
    return target


def _source(table: Settings, folder: Path) -> NightlySource:
    name = table.take("name", str)
    if not name or "/" in name or not name.isprintable():
        raise table.error("name", f"must be a printable text without '/', got {name!r}")
    given = sorted(set(table.keys()) & set(KINDS))
    if len(given) != 1:
        raise ConfigError(f"{table.where}: needs exactly one of {', '.join(KINDS)}, got {given}")
    found = NightlySource(
        name,
        model=_resolved(table, "model", folder),
        run=_resolved(table, "run", folder),
        space=table.table("space").rest() or None,
        shapes=tuple(_texts(table, "shapes", [])),
    )
    table.done()
    return found


def _resolved(table: Settings, key: str, folder: Path) -> str:
    """A path relative to the plan file; ``module:function`` stays as it is."""
    text = table.take(key, str, "")
    try:
        path = folder / Path(text).expanduser()
        return str(path.resolve()) if text and path.exists() else text
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a null character
        raise table.error(key, f"is no path: {text[:80]!r} ({error})") from error


def _texts(table: Settings, key: str, default: list[str]) -> list[str]:
    values = table.take(key, list, default)
    if not all(isinstance(value, str) for value in values):
        raise table.error(key, f"must be a list of texts, got {values!r}")
    return [str(value) for value in values]


def _file(path: Path) -> Exported:
    found = source(str(path))
    return Exported(found.artifact, found.data)


def _architecture(values: Mapping[str, Any], file_format: str, name: str) -> Exported:
    """A network of a space by its options, with initial weights."""
    from harness import plugins
    from search.network import initial_weights

    options = dict(values)
    wanted = "name, input_shape, classes and architecture (decision = option)"
    try:
        shape, classes = tuple(options.pop("input_shape")), int(options.pop("classes"))
        kind, choices = str(options.pop("name")), dict(options.pop("architecture"))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"source {name!r}: space needs {wanted}: {error!r}") from error
    made = plugins.load("spaces", kind).Space
    try:
        space = made(input_shape=shape, classes=classes, **options)
        network = space.build(space.from_options(choices))
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"source {name!r}: space {kind!r} takes no such options: {error}") from error
    return export(network, initial_weights(network, SEED), file_format)
