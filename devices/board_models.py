"""Board models: one TOML file each in ``devices/boards/``, named as the lab file names the model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from results.settings import Settings

_FOLDER = Path(__file__).parent / "boards"
GENERIC = "generic-linux"


@dataclass(frozen=True)
class MeterModel:
    """A power meter that a board model has.

    Attributes:
        name: Plug-in that reads it.
        coverage: What its figure includes: ``module``, ``package``, ``rails`` or ``wall``.
        source: Where it is read.
    """

    name: str
    coverage: str
    source: str


@dataclass(frozen=True)
class BoardModel:
    """What is known of a board model before asking a unit of it.

    Attributes:
        name: Name of the file.
        title: Name to show.
        models: Parts of the device tree's model text that tell the board.
        meters: Power meters that it has; empty: none.
        energy: How energy can be measured on it, and what the figure leaves out.
        throttle: What tells that it throttles.
        soft_limit_c: Temperature at which it starts to slow down, where it is known.
    """

    name: str
    title: str
    models: tuple[str, ...]
    meters: tuple[MeterModel, ...]
    energy: str
    throttle: str
    soft_limit_c: float | None


@cache
def board_models() -> dict[str, BoardModel]:
    """All board models by name.

    Raises:
        ConfigError: If a file cannot be used; the message names file, key and value.
    """
    return {path.stem: _read(path) for path in sorted(_FOLDER.glob("*.toml"))}


def identify(model: str) -> BoardModel:
    """The board model for a device tree's model text, the most specific one; else the generic one.

    Args:
        model: Such as ``Raspberry Pi 5 Model B Rev 1.0``.
    """
    models = board_models()
    hits = [(len(part), known) for known in models.values() for part in known.models if part in model]
    return max(hits, key=lambda hit: hit[0])[1] if hits else models[GENERIC]


def _read(path: Path) -> BoardModel:
    top = Settings.read(path)
    board = BoardModel(
        name=path.stem,
        title=top.take("title", str),
        models=tuple(str(part) for part in top.take("models", list)),
        meters=tuple(_meter(table) for table in top.tables("meters")),
        energy=top.take("energy", str),
        throttle=top.take("throttle", str),
        soft_limit_c=top.take_optional("soft_limit_c", float),
    )
    top.done()
    return board


def _meter(table: Settings) -> MeterModel:
    meter = MeterModel(*(table.take(key, str) for key in ("name", "coverage", "source")))
    table.done()
    return meter
