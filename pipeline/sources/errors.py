"""Errors of the source of a dataset, with the partition and the location that it comes from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from tasks.loading.shards import LoadError

NAMED: Final = 5


class PartitionError(ValueError):
    """A partition could not be loaded. partition: its number; location: where it comes from; what its source raised is the cause."""

    def __init__(self, message: str, partition: int, location: str) -> None:
        super().__init__(message, partition, location)
        self.partition = partition
        self.location = location

    def __str__(self) -> str:
        return str(self.args[0])


class PartitionTypeError(PartitionError, TypeError):
    """A partition is of a kind that cannot be rows."""


class FatalPartitionError(PartitionError):
    """A partition has ended one worker process after the other. partition, location: of the first that may have."""


class SourceChangedError(ValueError):
    """Rows were read again, after a worker had died or let go of them, and are others than before. partitions: that differ; locations: of
    each."""

    def __init__(self, message: str, partitions: tuple[int, ...], locations: tuple[str, ...]) -> None:
        super().__init__(message, partitions, locations)
        self.partitions = partitions
        self.locations = locations

    def __str__(self) -> str:
        return str(self.args[0])


class QuarantineWarning(UserWarning):
    """Partitions were left out of a dataset."""


class Quarantined(NamedTuple):
    """A partition that was left out: its number, where it comes from, and why."""

    partition: int
    location: str
    reason: str


def partition_error(error: LoadError, location: Callable[[int], str]) -> PartitionError:
    """The error of a worker, with the location, and with what the source raised as its cause."""
    where = location(error.partition)
    kind = PartitionTypeError if error.of_types else PartitionError
    named = kind(f"partition {error.partition} ({where}): {error.text}", error.partition, where)
    named.__cause__ = error.original
    return named


@contextmanager
def locations_named(location: Callable[[int], str]) -> Iterator[None]:
    """A block whose LoadError is raised as PartitionError."""
    try:
        yield
    except LoadError as error:
        raise partition_error(error, location) from error.original


def source_changed(partitions: Sequence[int], location: Callable[[int], str]) -> SourceChangedError:
    """The error for partitions, ascending, whose rows are not what they were."""
    locations = tuple(map(location, partitions))
    cure = "fit again to train on the rows as they are now, and leave the source as it is meanwhile: write new data to new files"
    found = listed(zip(partitions, locations, strict=True))
    return SourceChangedError(f"the source changed between reads: other rows than before in {found}; {cure}", tuple(partitions), locations)


def warn_of_quarantine(found: Sequence[Quarantined], n_partitions: int) -> None:
    """Say which partitions were left out, and why."""
    if found:
        text = f"{len(found)} of {n_partitions} partitions are left out (on_error='quarantine'; see Dataset.quarantined): {listed(found)}"
        warnings.warn(text, QuarantineWarning, stacklevel=3)


def listed(found: Iterable[tuple[Any, ...]]) -> str:
    """The first few partitions, given as number, location and perhaps what is said of it, and how many more there are."""
    texts = [f"partition {partition} ({location})" + "".join(f": {said}" for said in more) for partition, location, *more in found]
    rest = [f"and {len(texts) - NAMED} more"] if len(texts) > NAMED else []
    return "; ".join([*texts[:NAMED], *rest])
