"""What a fit leaves behind about its rounds."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypedDict

import numpy as np

from tasks.arguments import as_number
from tasks.lazy import Lazy
from tasks.rounds.fitting import Report
from tasks.rounds.oracles import ORACLES
from tasks.typing import Float64

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from pipeline.data import tables
else:
    pd = Lazy("pandas")
    tables = Lazy("pipeline.data.tables")

ENDS: Final = 5
"""Rounds that are shown of the beginning and of the end of a long fit."""


class RowOfAll(TypedDict):
    """One round: its number, what was asked for, over every row_step-th row (a mini-batch: about; local updates may read all rows several
    times), accepted iterations so far, the objective and the largest |gradient| at the last accepted point (of the worst model; on the
    sample, while a strategy works on one; of the batch; by the parameters that the strategy sees, see
    `tasks.objectives.standardisation`), seconds since the fit began. Of a round about one subtree of groups, which one that is, else -1;
    and staleness, the updates that its parameters had missed. bytes_sent, bytes_received: that went to the workers and came back, over
    all connections; none in process."""

    round: int
    oracle: str
    row_step: float
    iteration: int
    objective: float
    gradient_norm: float
    seconds: float
    subtree: int
    staleness: int
    bytes_sent: int
    bytes_received: int


class Row(RowOfAll, total=False):
    """The same; and of a fit whose subtrees are to agree, once they have met, how far from it the worst model is: see
    `tasks.strategies.base.Residuals`."""

    primal_residual: float
    dual_residual: float


def share_read(row: Row, held_out: float = 0.0) -> float:
    """Which share of all rows a round read. held_out: the share that scores read, and nothing else."""
    oracle = ORACLES[row["oracle"]]
    if not oracle.reduction.reads:
        return 0.0
    return held_out if oracle.subset == "held out" else (1.0 - held_out) / row["row_step"]


class Rounds(list[Row]):
    """The rounds of a fit, a row each: a list, with a frame, a plot, and reprs that stay short."""

    def to_frame(self) -> pd.DataFrame:
        """The rows as a data frame, by round."""
        return frame_of(self)

    def plot(self, axes: Any = None, *, tol: float | None = None) -> tuple[Axes, Axes]:
        """Draw objective and largest |gradient| by round with matplotlib, and return the two axes.

        axes: two of matplotlib's to draw into, by default those of a new figure; tol: what a line is drawn at beside the gradients. Raises
        TypeError for axes that are not two, and for a tol that is no number.
        """
        from matplotlib.axes import Axes

        if axes is None:
            import matplotlib.pyplot as plt

            _, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
        found = [] if isinstance(axes, str) else np.ravel(np.array(axes, dtype=object)).tolist()
        if len(found) != 2 or not all(isinstance(each, Axes) for each in found):
            raise TypeError(f"axes must be two, as of matplotlib's pyplot.subplots(1, 2)[1], got {axes!r}")
        if not (tol is None or np.isfinite(as_number(tol))):
            raise TypeError(f"tol must be a number, or None for no line, got {tol!r}")
        left, right = found
        rounds = [row["round"] for row in self]
        draw(left, rounds, [row["objective"] for row in self], xlabel="round", ylabel="objective (mean loss + penalty)")
        draw_gradients(right, rounds, self, xlabel="round", ylabel="largest |gradient|")
        if tol is not None:
            right.axhline(tol, color="grey", linestyle=":", label=f"tol {tol:g}")
            right.legend()
        return left, right

    def __repr__(self) -> str:
        return tables.frames_text(self._title, self._ends)

    def _repr_html_(self) -> str:
        return tables.frames_html(self._title, self._ends)

    @property
    def _is_long(self) -> bool:
        return len(self) > 2 * ENDS

    @property
    def _title(self) -> str:
        return f"{len(self)} round{'s' * (len(self) != 1)}{f', the first {ENDS} and the last {ENDS}' if self._is_long else ''}"

    @property
    def _ends(self) -> dict[str, pd.DataFrame]:
        """What is shown; not of all rows: a long fit by mini-batches has a hundred thousand."""
        return {"rounds": frame_of([*self[:ENDS], *self[-ENDS:]] if self._is_long else self)}


def frame_of(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a data frame, by round, with the columns that any of them has."""
    rows = list(rows)
    columns = [*RowOfAll.__annotations__, *told(rows)]
    return pd.DataFrame(rows, columns=columns).set_index("round")


def told(rows: Sequence[Row]) -> list[str]:
    """The numbers that not all fits have, and one of these rows does."""
    return [name for name in Row.__annotations__ if name in Row.__optional_keys__ and any(name in row for row in rows)]


def draw(axes: Axes, x: Sequence[int], y: Sequence[float], **words: str) -> None:
    """A line over whole numbers. words: what matplotlib's Axes.set takes."""
    from matplotlib.ticker import MaxNLocator

    axes.plot(x, y, marker=".")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.grid(alpha=0.3)
    axes.set(**words)


def draw_gradients(axes: Axes, x: Sequence[int], rows: Iterable[Row], **words: str) -> None:
    """The largest |gradient| of each row on a logarithmic scale, which has no place for zeros."""
    draw(axes, x, [row["gradient_norm"] if row["gradient_norm"] > 0 else math.nan for row in rows], **words, yscale="log")


class History:
    """Rows of a running fit, after those of a fit that it goes on from."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows = Rounds(rows)
        self._start = time.perf_counter() - (self.rows[-1]["seconds"] if self.rows else 0.0)

    def following(self, reports: Sequence[Report], began: float) -> list[Row]:
        """The rows to add for rounds that came after these. began: when those rounds did begin, by time.perf_counter."""
        earlier = began - self._start
        return [row_of(n_round, report, earlier + report.elapsed) for n_round, report in enumerate(reports, len(self.rows) + 1)]


def row_of(n_round: int, report: Report, seconds: float) -> Row:
    """The row of a round."""
    row = Row(
        round=n_round,
        oracle=report.oracle,
        row_step=report.row_step,
        iteration=report.iteration,
        objective=report.objective,
        gradient_norm=report.gradient_norm,
        seconds=seconds,
        subtree=-1 if report.subtree is None else report.subtree,
        staleness=report.staleness,
        bytes_sent=report.traffic.sent,
        bytes_received=report.traffic.received,
    )
    if report.residuals is not None:
        row["primal_residual"], row["dual_residual"] = report.residuals
    return row


def finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same with None for numbers that are not finite, which JSON does not have."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


def json_line(row: Mapping[str, Any]) -> str:
    """A round as a line of JSON."""
    return json.dumps(finite(row), allow_nan=False) + "\n"


def digest(parameters: Float64) -> str:
    """SHA-256 of the flat float64 parameters, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(parameters, dtype="<f8").tobytes()).hexdigest()
