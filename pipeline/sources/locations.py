"""Locations that the rows of partitions come from, in words: for errors, long after the source was made."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import dask.array as da
from dask.dataframe.dask_expr._expr import Blockwise
from dask.dataframe.dask_expr.io import FromMap, ReadParquet

from tasks.loading.file_rows import CsvRows

Locations: TypeAlias = Callable[[int, int | None], str]
"""A function (partition, row) -> the location of the partition, or of one of its rows where that is known better; row None for the
partition."""


def rows_between(start: int, stop: int) -> str:
    """Rows start to stop, which is not among them."""
    return "no rows" if stop <= start else f"row {start}" if stop == start + 1 else f"rows {start} to {stop - 1}"


@dataclass(frozen=True, eq=False)
class RowLocations:
    """Partitions of so many rows each, of arrays one beside the other; each array is the (name, rows) of what it consists of, one below
    the other."""

    sizes: Sequence[int]
    arrays: Sequence[Sequence[tuple[str, int]]]

    def __call__(self, partition: int, row: int | None) -> str:
        """The location as text: "X-3.npy, rows 0 to 999; y.npy, rows 3000 to 3999", say."""
        start = sum(self.sizes[:partition])
        rows = (start, start + self.sizes[partition]) if row is None else (start + row, start + row + 1)
        return "; ".join(", and ".join(self._pieces(array, *rows)) for array in self.arrays)

    def _pieces(self, array: Sequence[tuple[str, int]], start: int, stop: int) -> list[str]:
        bounds = pairwise([0, *accumulate(n for _, n in array)])
        return [
            f"{name}, {rows_between(max(start - first, 0), min(stop, last) - first)}"
            for (name, _), (first, last) in zip(array, bounds, strict=True)
            if first < stop and start < last
        ] or [array[0][0]]


@dataclass(frozen=True)
class PieceLocations:
    """The locations of partitions that have a name each."""

    name: Callable[[int], str]

    def __call__(self, partition: int, row: int | None) -> str:
        return self.name(partition)


def call_locations() -> Locations:
    """The locations of partitions that a function makes."""
    return PieceLocations("make({})".format)


def array_locations(array: da.Array, cut: Any, sizes: Sequence[int] | None) -> Locations:
    """The locations of the partitions of a Dask array; cut: the same rows in the chunks of the partitions; sizes: their rows, if known."""
    if cut.chunks[0] == array.chunks[0] or sizes is None:
        columns = "0" if array.numblocks[1] == 1 else ":"
        return PieceLocations(lambda partition: f"chunk ({partition}, {columns}) of {array.name!r}")
    return RowLocations(sizes, [[(repr(array.name), sum(sizes))]])


def frame_locations(frame: Any, n_partitions: int | None) -> Locations:
    """The locations of the partitions of a Dask frame, in n_partitions if that is given: by files, where each partition
    is of one, else by the frame's own name."""
    if n_partitions is not None:
        return PieceLocations(lambda partition: f"partition {partition} of {n_partitions} cut from {frame._name!r}")
    files = file_pieces(frame)
    if files is not None:
        return PieceLocations(files.__getitem__)
    return PieceLocations(lambda partition: f"partition {partition} of {frame._name!r}")


def file_pieces(frame: Any) -> list[str] | None:
    """The file, and the piece of it, of each partition of a frame that is read from files and changed partition by partition at most; None
    for other frames, and where another version of Dask keeps it elsewhere."""
    try:
        steps = list(frame.expr.walk())
        reads = [step for step in steps if isinstance(step, ReadParquet | FromMap)]
        if len(reads) != 1 or not all(isinstance(step, Blockwise) for step in steps):
            return None
        (read,) = reads
        pieces = parquet_pieces(read) if isinstance(read, ReadParquet) else csv_pieces(read)
        chosen = read.operand("_partitions")
        pieces = pieces if chosen is None else [pieces[i] for i in chosen]
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        return None
    return pieces if len(pieces) == frame.npartitions else None


def parquet_pieces(read: Any) -> list[str]:
    """The file of each partition, and which row groups of it."""
    pieces = []
    for part in read._plan["parts"]:
        path, groups, *_ = part["piece"]
        pieces.append(os.fspath(path) if not groups else f"{path}, row group{'s' * (len(groups) > 1)} {', '.join(map(str, groups))}")
    return pieces


def csv_pieces(read: Any) -> list[str]:
    """The file of each partition, and from which byte on if it is in several pieces. Raises AttributeError for what is no CSV."""
    if not isinstance(read.operand("func"), CsvRows):
        raise AttributeError("no CSV files")
    found = read.operand("iterables")[2]
    pieces = Counter(path for path, _ in found)
    return [path if pieces[path] == 1 else f"{path} from byte {start} on" for path, start in found]
