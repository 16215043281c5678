"""Where a study trains: processes of this machine, or a Ray cluster."""

from __future__ import annotations

from harness.study import Study
from results.errors import ConfigError
from search.training import check_device
from search.training_pool import TrainingPool
from search.training_queue import TrainingQueue


def pool_of(study: Study) -> TrainingQueue:
    """The pool that a study names, its workers started.

    Raises:
        ConfigError: If Ray is named but not installed, or the device is not there.
    """
    coming = study.task.name, study.task.options
    if study.pool == "ray":
        if study.device != "cpu":
            raise ConfigError(
                "[training]: pool = 'ray' trains on CPUs alone; take device = 'cpu', or pool = 'processes'"
            )
        from search.ray_pool import RayPool  # Ray is not installed with Boardwise

        return RayPool(study.workers, coming=coming)
    check_device(study.device)
    return TrainingPool(study.workers, coming=coming)
