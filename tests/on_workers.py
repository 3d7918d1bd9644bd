"""What tests have workers run: by itself, so that they need not import what the tests do."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from tasks.objectives.linear import LinearObjective
from tasks.rows.partition import Group


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
