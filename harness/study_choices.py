"""What a study lets its trials choose beside the network: ``[space.deployment]`` and ``[space.training]``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.quantities import PER_TARGET, parse_limit
from results.errors import ConfigError, unknown_name
from results.records import Limit, Metric, Option, Target
from results.settings import Settings
from search.recipe import RECIPE, check_recipe

Values = tuple[Option, ...]


@dataclass(frozen=True)
class Choices:
    """What is decided per trial beside the network.

    Attributes:
        devices: Devices on which each trial runs on one target of its choice.
        training: Values to choose from, by setting of the training.
    """

    devices: tuple[str, ...] = ()
    training: Mapping[str, Values] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.devices or self.training)

    def places(self, targets: tuple[Target, ...]) -> tuple[str, ...]:
        """What objectives are taken from: each target, or the device whose target is chosen."""
        names = (t.device if t.device in self.devices else t.name for t in targets)
        return tuple(dict.fromkeys(names))

    def measured_on(self, targets: tuple[Target, ...], device: str) -> int:
        """On how many targets of a device a candidate is measured."""
        return 1 if device in self.devices else sum(target.device == device for target in targets)

    def deployments(self, targets: tuple[Target, ...]) -> dict[str, list[Target]]:
        """The targets to choose from, by device."""
        return {device: [t for t in targets if t.device == device] for device in self.devices}


def choices_of(
    space: Settings, targets: tuple[Target, ...], limits: tuple[Limit, ...]
) -> tuple[Choices, tuple[Limit, ...]]:
    """Reads both tables out of ``[space]``, and the limits that hold for whichever target is chosen.

    Args:
        space: The table ``[space]``, of which both are taken.
        targets: The study's targets.
        limits: Limits that the study gives single targets.

    Raises:
        ConfigError: If a device is none of the study's, has nothing to choose from, or limits of its own on
            single targets; if a setting of the training is unknown or has a value that it cannot take.
    """
    deployment, training = space.table("deployment"), space.table("training")
    found: list[Limit] = []
    devices, names = tuple(deployment.keys()), training.keys()
    for device in devices:
        found += _device(deployment, device, targets, limits)
    return Choices(devices, {name: _values(training, name) for name in names}), tuple(found)


def _device(
    deployment: Settings, device: str, targets: tuple[Target, ...], limits: tuple[Limit, ...]
) -> list[Limit]:
    table = deployment.table(device)
    names = [target.name for target in targets if target.device == device]
    if not names:
        raise ConfigError(f"{table.where}: {unknown_name('device', device, {t.device for t in targets})}")
    if len(names) < 2:
        raise ConfigError(f"{table.where}: {device} has one target only; there is nothing to choose")
    for limit in limits:
        if limit.metric.targets and limit.metric.targets[0] in names:
            raise ConfigError(
                f"{table.where}: {limit.metric.targets[0]} has limits of its own; write them here, where "
                "they hold for whichever target is chosen"
            )
    texts = table.take("limits", list, [])
    table.done()
    return [_limit(text, device, table) for text in texts]


def _limit(text: object, device: str, table: Settings) -> Limit:
    if not isinstance(text, str):
        raise table.error("limits", f"must be a list of texts like 'latency_p90 <= 8 ms', got {text!r}")
    metric, upper = parse_limit(text, table.where)
    if metric not in PER_TARGET:
        raise ConfigError(
            f"{table.where}: {metric} belongs to no target; put {text!r} under limits at the top"
        )
    return Limit(Metric(metric, (device,)), upper)


def _values(training: Settings, name: str) -> Values:
    values = training.take(name, list)
    if not values or not all(isinstance(v, str | int | float) for v in values):
        raise training.error(name, f"must be a list of values to choose from, got {values!r}")
    if len(set(values)) != len(values):
        raise training.error(name, f"has a value twice: {values!r}")
    if name in RECIPE:  # others are for a training function of the user's own
        for value in values:
            try:
                check_recipe({name: value})
            except ConfigError as error:
                raise training.error(name, f"cannot be {value!r}: {error}") from error
    return tuple(values)
