"""Wall time of the training pool against the trainings one after the other.

``python -m benchmarks.pool --json FILE``, on a machine with nothing else to do.

The same trainings are done one after the other in this process, then by a pool of one worker per core whose
workers are started and have loaded the data.  ``speedup`` is the first wall time over the second;
``sum_over_wall`` is the sum of the trainings' CPU seconds in the pool over its wall time: how many cores it
kept busy.  The results are compared to the bit.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np

from benchmarks.figures import print_and_write
from results.records import Fidelity
from search.datasets import load_task
from search.network import Network
from search.spaces.chain import Space
from search.training import TrainingJob, TrainingResult, train
from search.training_pool import TrainingPool

TASK = "digits_in_photos"


def networks(count: int) -> list[Network]:
    """Chains of the demo's size: the same for every run."""
    space = Space(input_shape=(3, 32, 32), classes=10, stem_strides=[2], widths=[8], blocks=["plain"])
    rng = np.random.default_rng(0)
    return [space.build(space.sample(rng)) for _ in range(count)]


def same(a: TrainingResult, b: TrainingResult) -> bool:
    """Whether two trainings gave the same bytes."""
    return a.curve == b.curve and all(a.weights[k].tobytes() == b.weights[k].tobytes() for k in a.weights)


def measure(count: int, epochs: int, workers: int) -> dict[str, float | bool]:
    """Both, and what they give."""
    jobs = [TrainingJob(n, TASK, {}, Fidelity(epochs), seed) for seed, n in enumerate(networks(count))]
    load_task(TASK)
    began = time.monotonic()
    alone = [train(job) for job in jobs]
    alone_s = time.monotonic() - began
    with TrainingPool(workers, coming=(TASK, {})) as pool:
        for future in [pool.submit(job) for job in jobs[:workers]]:
            future.result()  # every worker has trained once
        began = time.monotonic()
        together = [future.result() for future in [pool.submit(job) for job in jobs]]
        together_s = time.monotonic() - began
    return {
        "workers": workers,
        "trainings": count,
        "one_after_the_other_s": alone_s,
        "pool_s": together_s,
        "speedup": alone_s / together_s,
        "sum_over_wall": sum(result.training_s for result in together) / together_s,
        "same_bytes": all(same(a, b) for a, b in zip(alone, together, strict=True)),
    }


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--trainings", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    figures = measure(arguments.trainings, arguments.epochs, arguments.workers)
    print_and_write(figures, arguments.json)


if __name__ == "__main__":
    main()
