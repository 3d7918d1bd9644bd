"""The one checking pass over resident rows: what is in X, y and sample_weight, and the first thing that is wrong."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp

from tasks.loading.residence import require_home
from tasks.loading.statistics import Spread, add_spreads, spread
from tasks.machine.namespaces import on_host
from tasks.reductions.reduction import Reduction, of_group
from tasks.reductions.tree import tree_sum
from tasks.rows.digests import partition_digests
from tasks.rows.partition import Group, nbytes
from tasks.rows.targets import NUMBERS, Form, form_of, require_same_form
from tasks.typing import Array, Float64, Int64, UInt64

KEPT: Final = "summary"
MAX_CLASSES: Final = 10_000
# Beyond this the square of a value, summed over rows, can leave float64.
LARGEST_VALUE: Final = 1e140


class Fault(NamedTuple):
    """The first bad value: where is "X", "y" or "sample_weight"; row counts from the start of the partition."""

    partition: int
    row: int
    where: Literal["X", "y", "sample_weight"]
    column: int
    value: float


class Summary(NamedTuple):
    """A summary of rows. partition_rows (partitions of the group or subtree, in order); spread: of the columns of X; target_spread: of
    those of y, None where they are no numbers; form: what the rows look like, None without rows; target_dtype: the one that holds every y,
    None without y; classes: sorted distinct targets, None for continuous or missing targets, several columns of them, or more than
    MAX_CLASSES; class_rows, class_weights: rows and summed weights of each class; first_partition: for messages; n_bytes: of X; content:
    the digest of each partition (see `tasks.rows.digests`) that is not from the client; quarantined: (partition, why) of those
    that are left out."""

    first_partition: int
    partition_rows: Int64
    weight_sum: float
    spread: Spread
    target_spread: Spread | None
    fault: Fault | None
    form: Form | None
    target_dtype: np.dtype[Any] | None
    classes: Array | None
    class_rows: Int64
    class_weights: Float64
    n_bytes: int
    content: UInt64
    quarantined: tuple[tuple[int, Any], ...]


def summary(group: Group, n_partitions: int) -> Summary:
    """The summary of one group: the one that is kept there, which is handed out once, for nobody needs it again, or a new one.
    n_partitions: of the data that it is of. Raises ValueError for rows that cannot live where they are to."""
    require_home(group)
    kept: Summary | None = group.pop(KEPT)
    return summarise(group, n_partitions) if kept is None else kept


def keep_summary(group: Group, n_partitions: int) -> None:
    """Make the summary of one group while the rows are fresh, for whoever asks for it first. Not of very wide rows, which have fewer bytes
    than their summary: some are made again, or are a part that nobody checks, and it would stay."""
    if 8 * len(Spread._fields[1:]) * group.X.shape[1] <= sys.getsizeof(group):
        group.keep(KEPT, summarise(group, n_partitions))


def summarise(group: Group, n_partitions: int | None = None) -> Summary:
    """The summary of one group, anew. n_partitions: of the data that it is of, by default its own."""
    columns = spread(on_host(group.X), group.sample_weight, group.offsets, n_partitions)
    classes, rows, weights = _classes(group)
    return Summary(
        first_partition=group.first_partition,
        partition_rows=np.diff(group.offsets),
        weight_sum=_weight_sum(group),
        spread=columns,
        target_spread=_target_spread(group, n_partitions),
        fault=_first_fault(group, columns.largest),
        form=form_of(group) if group.n_rows else None,
        target_dtype=group.y.dtype if group.n_rows and group.y is not None else None,
        classes=classes,
        class_rows=rows,
        class_weights=weights,
        n_bytes=nbytes(group.X),
        content=np.zeros(0, np.uint64) if group.from_client else partition_digests(group),
        quarantined=group.quarantined,
    )


def add_summaries(left: Summary, right: Summary) -> Summary:
    """The summary of neighbouring rows. Raises ValueError where the two are not in the same form."""
    if left.form is not None and right.form is not None:
        names = (f"partitions from {side.first_partition} on" for side in (left, right))
        require_same_form(left.form, right.form, *names)
    classes, rows, weights = _merge_classes(left, right)
    targets = [side.target_spread for side in (left, right) if side.target_spread is not None]
    dtypes = [side.target_dtype for side in (left, right) if side.target_dtype is not None]
    return Summary(
        left.first_partition,
        np.concatenate([left.partition_rows, right.partition_rows]),
        left.weight_sum + right.weight_sum,
        add_spreads(left.spread, right.spread),
        add_spreads(*targets) if len(targets) == 2 else next(iter(targets), None),
        left.fault or right.fault,
        left.form or right.form,
        np.result_type(*dtypes) if dtypes else None,
        classes,
        rows,
        weights,
        left.n_bytes + right.n_bytes,
        np.concatenate([left.content, right.content]),
        left.quarantined + right.quarantined,
    )


def contents(group: Group, broadcast: Any = None) -> UInt64:
    """The digest of each partition of one group; `broadcast` is not used."""
    return partition_digests(group)


def both_contents(left: UInt64, right: UInt64) -> UInt64:
    """The digests of neighbouring rows, put together."""
    return np.concatenate([left, right])


CHECK: Final = Reduction("check", of_group(summary), add_summaries, lambda broadcast, n_columns: 8 * n_columns)
CONTENTS: Final = Reduction("contents", of_group(contents), both_contents, lambda broadcast, n_columns: 8)


def _target_spread(group: Group, n_partitions: int | None) -> Spread | None:
    """The spread of y as numbers; None for labels that are text, and without y or rows."""
    y = group.y
    if y is None or not group.n_rows or y.dtype.kind not in NUMBERS:
        return None
    if y.dtype.kind != "f" or y.dtype.itemsize not in (4, 8):
        y = y.astype(np.float64)
    return spread(y.reshape(len(y), -1), group.sample_weight, group.offsets, n_partitions)


def first_fault(group: Group) -> Fault | None:
    """The first bad value of a group."""
    return _first_fault(group, spread(group.X, group.sample_weight, group.offsets).largest)


def _first_fault(group: Group, largest: Float64) -> Fault | None:
    if group.n_rows and not np.all(np.isfinite(largest)):
        return _fault(group, "X", *_first_not_finite(on_host(group.X)))
    y, weight = group.y, group.sample_weight
    if y is not None and y.dtype.kind == "f" and not np.all(np.isfinite(y)):
        return _fault(group, "y", *_first_not_finite(y.reshape(group.n_rows, -1)))
    if y is not None and y.dtype.kind == "O" and group.n_rows:
        missing = [value is None for value in y.ravel()]  # as tasks.rows.targets leaves them
        if any(missing):
            row, column = divmod(missing.index(True), y.size // group.n_rows)
            return _fault(group, "y", row, column, np.nan)
    if weight is not None and not np.all((weight >= 0) & np.isfinite(weight)):
        row = int(np.argmin((weight >= 0) & np.isfinite(weight)))
        return _fault(group, "sample_weight", row, 0, float(weight[row]))
    return None


def _first_not_finite(X: Any) -> tuple[int, int, float]:
    """The row, the column and the value of the first number that is not finite, row by row."""
    if isinstance(X, sp.csr_array):
        position = int(np.argmin(np.isfinite(X.data)))
        row = int(np.searchsorted(X.indptr, position, side="right")) - 1
        return row, int(X.indices[position]), float(X.data[position])
    row, column = divmod(int(np.argmin(np.isfinite(X))), X.shape[1])
    return row, column, float(X[row, column])


def _fault(group: Group, where: Literal["X", "y", "sample_weight"], row: int, column: int, value: float) -> Fault:
    partition = int(np.searchsorted(group.offsets, row, side="right")) - 1
    return Fault(group.first_partition + partition, row - int(group.offsets[partition]), where, column, value)


PART: Final = 1 << 13
"""Targets that are looked at together."""
NO_CLASSES: Final = (None, np.zeros(0, np.int64), np.zeros(0))


def _classes(group: Group) -> tuple[Array | None, Int64, Float64]:
    if group.y is None or group.y.shape[1:] not in ((), (1,)):
        return NO_CLASSES
    y = group.y.reshape(-1)
    if y.dtype.kind == "f" and not all(np.all(part == np.trunc(part)) for part in _parts(y)):
        return NO_CLASSES
    if y.dtype.kind == "O":  # some targets are missing, which is a fault, or there are none at all
        return NO_CLASSES
    values, code = _encoding(y)
    if len(values) > MAX_CLASSES + 1:  # more than a span gives: each of them is there
        return NO_CLASSES
    rows = sum((np.bincount(code(part), minlength=len(values)) for part in _parts(y)), np.zeros(len(values), np.int64))
    present = np.flatnonzero(rows)
    if len(present) > MAX_CLASSES:
        return NO_CLASSES
    classes, rows = values[present], rows[present]
    if group.sample_weight is None:
        return classes, rows, rows.astype(np.float64)
    weight = group.sample_weight
    sums = [np.bincount(code(y[a:b]), weights=weight[a:b], minlength=len(values)) for a, b in pairwise(group.offsets)]
    return classes, rows, tree_sum(sums, np.add)[present]


def _parts(y: Array) -> Iterator[Array]:
    """y (n,) in parts that stay in cache."""
    return (y[start : start + PART] for start in range(0, len(y), PART))


def _encoding(y: Array) -> tuple[Array, Callable[[Array], Int64]]:
    """Sorted values, every one of y among them, and what finds the position of each target; nothing is sorted where values span little."""
    if y.dtype.kind in "iuf" and y.dtype != np.uint64 and len(y):
        lowest = y.min()
        span = y.max().item() - lowest.item()
        if span <= MAX_CLASSES:
            wide = np.float64 if y.dtype.kind == "f" else np.int64  # wide enough for differences of narrow integers
            low = lowest.astype(wide)
            return (np.arange(int(span) + 1) + low).astype(y.dtype), lambda part: np.subtract(part, low, dtype=wide).astype(np.int64)
    if y.dtype.kind not in "iuf":
        values = np.unique(y)
    else:  # NumPy's own is by a hash table, which takes ten times as long where most values are distinct
        values = np.sort(y)
        values = values[np.append(np.ones(min(len(y), 1), np.bool_), values[1:] != values[:-1])]
    return values, lambda part: np.searchsorted(values, part)


def _weight_sum(group: Group) -> float:
    if group.sample_weight is None:
        return float(group.n_rows)
    return float(tree_sum([float(np.sum(group.sample_weight[a:b])) for a, b in pairwise(group.offsets)], operator.add))


def _merge_classes(left: Summary, right: Summary) -> tuple[Array | None, Int64, Float64]:
    if left.classes is None or right.classes is None:  # a side without rows does not count
        if left.partition_rows.sum() == 0:
            return right.classes, right.class_rows, right.class_weights
        if right.partition_rows.sum() == 0:
            return left.classes, left.class_rows, left.class_weights
        return NO_CLASSES
    if left.classes.dtype == right.classes.dtype and np.array_equal(left.classes, right.classes):
        return left.classes, left.class_rows + right.class_rows, left.class_weights + right.class_weights
    _require_common_dtype(left.classes, right.classes)
    classes = np.union1d(left.classes, right.classes)
    if len(classes) > MAX_CLASSES:
        return NO_CLASSES
    rows, weights = np.zeros(len(classes), np.int64), np.zeros(len(classes))
    for known, side in ((left.classes, left), (right.classes, right)):
        positions = np.searchsorted(classes, known)
        rows[positions] += side.class_rows
        weights[positions] += side.class_weights
    return classes, rows, weights


def _require_common_dtype(left: Array, right: Array) -> None:
    """Raise ValueError where labels of integers and other numbers meet in a dtype that does not hold them all: two could become one."""
    common = np.result_type(left, right)
    for known, others in ((left, right), (right, left)):
        whole = known.tolist() if common.kind == "f" and known.dtype.kind in "iu" else []
        rounded = [value for value in whole if int(float(value)) != value]
        if rounded:
            raise ValueError(
                f"y holds {rounded[0]} as {known.dtype} in some partitions and {others.dtype} labels in others; make them one dtype"
            )
