"""Running out of memory in a round, by name: at which partitions, how big they are, and what would fit."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import psutil

from tasks.machine.namespaces import is_elsewhere
from tasks.rows.partition import Group

Merged = TypeVar("Merged")


class OutOfMemoryError(MemoryError):
    """A round asked for more memory than there was; the message names it, and the partitions that it was at, if not at sums."""


def mapped(name: str, map_subtree: Callable[[Sequence[Group], Any], Any], subtree: Sequence[Group], broadcast: Any) -> Any:
    """map_subtree(subtree, broadcast), of the reduction of that name. Raises OutOfMemoryError where memory runs out, on a device too."""
    try:
        return map_subtree(subtree, broadcast)
    except Exception as error:
        if isinstance(error, OutOfMemoryError) or not ran_out(error):
            raise
        raise OutOfMemoryError(explained(name, subtree, error)) from error


def ran_out(error: Exception) -> bool:
    """Whether an error says that memory ran out, that of a device too: PyTorch's is no MemoryError."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def merged(name: str, merge: Callable[[Sequence[Merged]], Merged], parts: Sequence[Merged]) -> Merged:
    """The sums of a round's tasks as one. Raises OutOfMemoryError instead of MemoryError."""
    try:
        return merge(parts)
    except MemoryError as error:
        free = psutil.virtual_memory().available / 1e6
        raise OutOfMemoryError(
            f"the round {name!r} ran out of memory where the sums of {len(parts)} tasks were added up, with {free:.3g} MB free: {error};"
            " sums are as large as the parameters, Hessians as their square: more memory would do, or a solver without Hessians"
        ) from error


def explained(name: str, subtree: Sequence[Group], error: Exception) -> str:
    """What a round was at, and what would help: temporary arrays are proportional to a partition's rows."""
    first, last = subtree[0].first_partition, subtree[-1].first_partition + len(subtree[-1].offsets) - 2
    where = f"partition {first}" if first == last else f"partitions {first} to {last}"
    rows, n_bytes = sum(group.n_rows for group in subtree), sum(map(sys.getsizeof, subtree))
    free, asked = psutil.virtual_memory().available, bytes_asked(error)
    largest = max(int(np.diff(group.offsets).max(initial=0)) for group in subtree)
    left = "on a device" if any(is_elsewhere(group.X) for group in subtree) else f"with {free / 1e6:.3g} MB free"
    fitting = "smaller ones need less"
    if asked > free > 0 and largest:
        fitting = f"partitions of at most {max(1, math.floor(largest * free / asked))} rows would fit"
    return (
        f"the round {name!r} ran out of memory at {where} ({rows} rows, {n_bytes / 1e6:.3g} MB, at most {largest} rows a partition)"
        f" {left}: {error}; {fitting} (n_partitions=, or smaller chunks), and so would workers with more memory"
    )


def bytes_asked(error: Exception) -> int:
    """What NumPy says that it wanted; 0 for others, which do not."""
    shape, dtype = getattr(error, "shape", None), getattr(error, "dtype", None)
    return 0 if shape is None or dtype is None else math.prod(shape) * np.dtype(dtype).itemsize
