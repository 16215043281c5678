"""The numbers of Boardwise's own training recipe, which a study may set or have searched."""

from __future__ import annotations

from collections.abc import Mapping

from results.errors import ConfigError, unknown_name
from results.records import Option

RECIPE: Mapping[str, float] = {
    "learning_rate": 6e-3,
    "weight_decay": 0.02,
    "label_smoothing": 0.1,
    "batch_size": 64,
}
"""Settings with their defaults: the peak of the one-cycle learning rate, AdamW's decoupled weight decay, the
share of the target spread over all classes, and the images of a step."""


def check_recipe(settings: Mapping[str, Option]) -> dict[str, float]:
    """All settings of the recipe: as they were given, else their defaults.

    Raises:
        ConfigError: For an unknown setting, or a value that it cannot take.
    """
    for name, value in settings.items():
        if name not in RECIPE:
            raise ConfigError(unknown_name("setting of the training", name, RECIPE))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{name} is a number, got {value!r}")
    found = {**RECIPE, **{name: float(value) for name, value in settings.items()}}
    if not 0 < found["learning_rate"] <= 10:
        raise ConfigError(f"learning_rate lies above 0 and up to 10, got {found['learning_rate']:g}")
    if not 0 <= found["weight_decay"] <= 10:
        raise ConfigError(f"weight_decay lies between 0 and 10, got {found['weight_decay']:g}")
    if not 0 <= found["label_smoothing"] < 1:
        raise ConfigError(f"label_smoothing lies from 0 to below 1, got {found['label_smoothing']:g}")
    if not (found["batch_size"] >= 1 and found["batch_size"] == int(found["batch_size"])):
        raise ConfigError(f"batch_size is a whole number from 1 on, got {found['batch_size']:g}")
    return found
