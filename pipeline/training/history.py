"""What a fit leaves behind about its rounds."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from tasks.rounds.fitting import Report
from tasks.rounds.oracles import ORACLES
from tasks.typing import Float64


class Row(TypedDict):
    """One round: its number, what was asked for, over every row_step-th row (a mini-batch: about), accepted iterations so far, the
    objective and the largest |gradient| at the last accepted point (of the worst model; on the sample, while a strategy works on one; of
    the batch; by the parameters that the strategy sees, see `tasks.objectives.standardisation`), seconds since the fit began."""

    round: int
    power: str
    row_step: int
    iteration: int
    objective: float
    gradient_norm: float
    seconds: float


def share_read(row: Row, held_out: float = 0.0) -> float:
    """Which share of all rows a round read. held_out: the share that scores read, and nothing else."""
    return held_out if ORACLES[row["power"]].subset == "held out" else (1.0 - held_out) / row["row_step"]


class History:
    """Rows of a running fit, after those of a fit that it goes on from."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows: list[Row] = list(rows)
        self._start = time.perf_counter() - (self.rows[-1]["seconds"] if self.rows else 0.0)

    def following(self, reports: Sequence[Report], began: float) -> list[Row]:
        """The rows to add for rounds that came after these. began: when those rounds did begin, by time.perf_counter."""
        return [
            Row(
                round=n_round,
                power=report.oracle,
                row_step=report.row_step,
                iteration=report.iteration,
                objective=report.objective,
                gradient_norm=report.gradient_norm,
                seconds=began + report.elapsed - self._start,
            )
            for n_round, report in enumerate(reports, len(self.rows) + 1)
        ]


def finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same with None for numbers that are not finite, which JSON does not have."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


def json_line(row: Mapping[str, Any]) -> str:
    """A round as a line of JSON."""
    return json.dumps(finite(row), allow_nan=False) + "\n"


def digest(parameters: Float64) -> str:
    """SHA-256 of the flat float64 parameters, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(parameters, dtype="<f8").tobytes()).hexdigest()
