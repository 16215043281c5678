"""What a study's ``[pretrain]`` table says."""

from __future__ import annotations

from dataclasses import dataclass, field

from results.settings import Settings
from search.supernet_sampling import SAMPLINGS, SMALLEST_BATCH, SupernetPlan


@dataclass(frozen=True)
class Pretraining:
    """Whether and how a supernet is trained before the search.

    Attributes:
        plan: How.
        correlate: Networks that are trained alone, too, to tell how well shared weights rank them.
    """

    plan: SupernetPlan = field(default_factory=SupernetPlan)
    correlate: int = 8


def pretraining_of(table: Settings) -> Pretraining:
    """The table, checked.

    Raises:
        ConfigError: Naming file, table, key, value and remedy.
    """
    plan = SupernetPlan(
        epochs=table.take_count("epochs", SupernetPlan.epochs),
        sampling=table.take_name("sampling", SAMPLINGS, SupernetPlan.sampling),  # type: ignore[arg-type]
        paths=table.take_count("paths", SupernetPlan.paths),
        batch_size=table.take_count("batch_size", SupernetPlan.batch_size, low=SMALLEST_BATCH),
        learning_rate=table.take_number("learning_rate", SupernetPlan.learning_rate, low=1e-6, high=1.0),
        subset=table.take_number("subset", SupernetPlan.subset, low=0.001, high=1.0),
    )
    made = Pretraining(plan, table.take_count("correlate", Pretraining.correlate, low=0))
    table.done()
    return made
