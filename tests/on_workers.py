"""What tests have workers run: by itself, so that they need not import what the tests do."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from tasks.loading.residence import home_of
from tasks.objectives.linear import LinearObjective
from tasks.rows.partition import Group, Shard


class Paced(LinearObjective):
    """Takes as long for each subtree as the process's environment says."""

    def loss_and_gradient(self, group: Any, parameters: Any) -> Any:
        time.sleep(float(os.environ.get("PACE", "0")))
        return super().loss_and_gradient(group, parameters)


def pace(seconds: float) -> None:
    """Have `Paced` take so long in this process."""
    os.environ["PACE"] = str(seconds)


def total(group: Group, factor: Any) -> tuple[int, float]:
    """The first partition of a group, and a multiple of the sum of its numbers."""
    return group.first_partition, float(np.max(factor)) * float(group.X.sum())


def homes(dask_worker: Any) -> set[str | None]:
    """Where X of all groups of a worker lives."""
    shards = [value for value in dask_worker.data.values() if isinstance(value, Shard)]
    return {home_of(group.X) for shard in shards for group in shard.all_groups}
