"""Rows in ten groups of unlike size, one empty, some rows without weight: what strategies that work by subtrees are tested on."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LOSSES
from tasks.rows.partition import Group
from tasks.strategies.schedules import InverseScaling

Float64 = NDArray[np.float64]
RANDOM = np.random.default_rng(0)
SIZES = (13, 1, 40, 0, 22, 7, 30, 5, 9, 16)
N, P, T, N_ROUNDS = sum(SIZES), 3, 5, 4
X = RANDOM.normal(size=(N, P))
Y = (RANDOM.random(N) < expit(X @ [1.0, -2.0, 0.5] + 0.3)).astype(np.int64)
WEIGHT = np.where(RANDOM.random(N) < 0.2, 0.0, RANDOM.random(N) + 0.5)
OBJECTIVE = LinearObjective(LOSSES["logistic"], P, 1, True, np.arange(2))
STRENGTH = 0.05
RATE = InverseScaling(0.4)


def groups_of(y: Any = Y, weight: Any = WEIGHT, x: Any = X) -> list[Group]:
    """The groups; two of them make one of T subtrees."""
    bounds = np.concatenate([[0], np.cumsum(SIZES)]).tolist()
    return [
        Group(x[a:b], y[a:b], None if weight is None else weight[a:b], np.array([0, b - a]), number)
        for number, (a, b) in enumerate(pairwise(bounds))
    ]
