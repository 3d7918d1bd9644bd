"""What the checking pass says of a dataset, and the errors for what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from pipeline.data.tables import frames_html, frames_text
from tasks.kernels import worth_compiling
from tasks.loading.checking import LARGEST_VALUE, Fault, Summary
from tasks.loading.statistics import Moments, Spread
from tasks.typing import Array, Float64, Int64, UInt64

RowLocation: TypeAlias = Callable[[int, int], str]
"""(partition, row) -> where that comes from."""

TargetKind = Literal["none", "continuous", "classes", "text", "multioutput"]


@dataclass(frozen=True, eq=False)
class Schema:
    """What the checking pass found.

    partition_rows (n_partitions,); classes: the sorted labels, or None; class_rows, class_weights: rows and summed weights of each;
    spread: where the values of each column lie; target_spread: where those of each target do, None where y is no numbers; target_kind:
    "classes" also for whole numbers that may be meant as numbers, "text" for text of more than MAX_CLASSES different labels,
    "multioutput" for y of shape (n, t), t = 1 included; target_dtype: the one that holds every y, None without y; n_bytes: of X where it
    is resident, dense or CSR; content (n_partitions,): the digest of each partition, by which rows that are read again are known, or (0,)
    for rows that the client supplies; quarantined: (partition, why) of those that were left out.
    """

    n_rows: int
    n_columns: int
    columns: tuple[str, ...] | None
    dtype: str
    partition_rows: Int64
    weight_sum: float
    spread: Spread
    target_spread: Spread | None
    target_kind: TargetKind
    n_targets: int
    target_dtype: np.dtype[Any] | None
    classes: Array | None
    class_rows: Int64
    class_weights: Float64
    n_bytes: int
    content: UInt64
    quarantined: tuple[tuple[int, Any], ...]

    @property
    def worth_compiling(self) -> bool:
        """Whether compiled passes are worth their compiling: see `tasks.kernels.worth_compiling`."""
        return worth_compiling(self.n_rows, self.n_columns, len(self.partition_rows))

    @property
    def names(self) -> list[str]:
        """The names of the columns: their own, or x0, x1 ..."""
        return column_names(self.columns, self.n_columns)

    @property
    def target_is_text(self) -> bool:
        """Whether y holds labels that are text, however many, and so no numbers to regress on."""
        return self.target_dtype is not None and self.target_dtype.kind in "US"

    @property
    def too_many_classes(self) -> bool:
        """Whether y holds labels, text or integers, of more than MAX_CLASSES kinds: too many for a classifier."""
        labels = self.target_dtype is not None and self.target_dtype.kind in "USiu"
        return labels and self.classes is None and self.n_targets == 1

    @property
    def target_is_column(self) -> bool:
        """Whether y is (n, 1)."""
        return self.target_kind == "multioutput" and self.n_targets == 1


@dataclass(frozen=True, eq=False)
class Description:
    """Rows, and per column mean, variance (n - 1) and covariance (n_columns, n_columns); class balance where y has classes."""

    n_rows: int
    mean: pd.Series
    variance: pd.Series
    covariance: pd.DataFrame
    class_balance: pd.DataFrame | None

    def __repr__(self) -> str:
        return frames_text(self._title, self._frames)

    def _repr_html_(self) -> str:
        return frames_html(self._title, self._frames)

    @property
    def _title(self) -> str:
        return f"{self.n_rows} rows of {len(self.mean)} columns"

    @property
    def _frames(self) -> dict[str, pd.DataFrame]:
        """A row a column, and a row a class."""
        columns = pd.DataFrame({"mean": self.mean, "standard deviation": np.sqrt(self.variance)})
        return {"columns": columns} if self.class_balance is None else {"columns": columns, "classes": self.class_balance}


def column_names(columns: Sequence[str] | None, n_columns: int) -> list[str]:
    """The names, or x0, x1 ... for columns without."""
    return [f"x{i}" for i in range(n_columns)] if columns is None else list(columns)


def make_schema(summary: Summary, columns: tuple[str, ...] | None, dtype: str, location: RowLocation) -> Schema:
    """The schema of a summary. Raises ValueError for the first thing that is wrong in it; location: where it is then."""
    n_columns = len(summary.spread.largest)
    raise_faults(summary, columns, location)
    shape = None if summary.form is None else summary.form.target_shape
    text = summary.form is not None and summary.form.text
    kind: TargetKind
    if shape is None:
        kind = "none"
    elif shape:
        kind = "multioutput"
    elif summary.classes is not None:
        kind = "classes"
    else:
        kind = "text" if text else "continuous"
    return Schema(
        int(summary.partition_rows.sum()),
        n_columns,
        columns,
        dtype,
        summary.partition_rows,
        summary.weight_sum,
        summary.spread,
        summary.target_spread,
        kind,
        0 if shape is None else int(np.prod(shape, dtype=np.int64)),
        summary.target_dtype,
        summary.classes,
        summary.class_rows,
        summary.class_weights,
        summary.n_bytes,
        summary.content,
        summary.quarantined,
    )


def fault_text(fault: Fault, names: Sequence[str], row: str) -> str:
    """What is wrong in that row."""
    if fault.where == "sample_weight":
        return f"sample_weight is {fault.value} in {row}"
    what = "NaN" if np.isnan(fault.value) else "infinity"
    where = f"column {names[fault.column]!r} of X" if fault.where == "X" else "y"
    return f"Input {fault.where} contains {what}: {where}, {row}"


def raise_faults(summary: Summary, columns: Sequence[str] | None, location: RowLocation) -> None:
    """Raise ValueError for the first thing that is wrong."""
    fault, largest = summary.fault, summary.spread.largest
    if fault is not None:
        names = column_names(columns, len(largest))
        row = f"row {fault.row} of partition {fault.partition} ({location(fault.partition, fault.row)})"
        cure = "weights must be finite and not negative" if fault.where == "sample_weight" else "drop or impute such rows"
        raise ValueError(f"{fault_text(fault, names, row)}; {cure}")
    if summary.partition_rows.sum() == 0:
        left_out = f", {len(summary.quarantined)} of which are left out," if summary.quarantined else ""
        n = len(summary.partition_rows)
        raise ValueError(f"Found array with 0 sample(s) in {n} partition(s){left_out} while a minimum of 1 is required")
    if summary.weight_sum == 0:
        raise ValueError("all sample_weight are zero; at least one row must count")
    sizes = {"X": float(np.max(largest, initial=0.0)), "the sum of sample_weight": summary.weight_sum}
    if summary.target_spread is not None:
        sizes["y"] = float(np.max(summary.target_spread.largest, initial=0.0))
    what, value = max(sizes.items(), key=lambda item: item[1])
    if value > LARGEST_VALUE:
        if what == "X":
            what = f"column {column_names(columns, len(largest))[int(np.argmax(largest))]!r} of X"
        raise ValueError(f"{what} goes up to {value:.3g}, whose square overflows float64; scale it")


def make_description(schema: Schema, moments: Moments) -> Description:
    """What `Dataset.describe` gives."""
    names = schema.names
    covariance = pd.DataFrame(moments.scatter / max(moments.n_rows - 1, 1), index=names, columns=names)
    balance = None
    if schema.classes is not None:
        balance = pd.DataFrame(
            {"rows": schema.class_rows, "share": schema.class_rows / schema.n_rows, "weight": schema.class_weights},
            index=pd.Index(schema.classes, name="class"),
        )
    variance = pd.Series(np.diagonal(covariance), index=names)
    return Description(schema.n_rows, pd.Series(moments.mean, index=names), variance, covariance, balance)
