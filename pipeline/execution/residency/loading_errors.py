"""What the failure of a task says of the rows that it was about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from distributed import Client
from distributed.scheduler import KilledWorker

from pipeline.cluster.code.code import require_found
from pipeline.cluster.code.library import VersionMismatchError
from pipeline.cluster.workers import Workers
from pipeline.execution.residency.resident import Resident
from pipeline.sources.errors import FatalPartitionError, partition_error
from pipeline.sources.sources import Source
from tasks.loading.shards import LoadError


def loading_error(error: BaseException, source: Source, resident: Resident, limits: Mapping[str, float]) -> BaseException:
    """The error with the names and locations of the partitions that it is about, as far as they are known; else as it is. limits: of the
    workers, bytes."""
    if isinstance(error, LoadError):
        return partition_error(error, source.location)
    pieces = [piece for piece, future in enumerate(resident.futures) if future.status == "error"]
    if isinstance(error, KilledWorker) and pieces:
        return fatal(error, source, resident, pieces, limits)
    if isinstance(error, Exception) and pieces:
        error.add_note(f"while loading {described(source, resident.numbers[pieces[0]])}")
    return error


@contextmanager
def packages_named(client: Client, workers: Workers) -> Iterator[None]:
    """A block in which what fails for want of a package fails as VersionMismatchError, naming that and the workers that lack it."""
    try:
        yield
    except Exception as error:
        package = missing_package(error)
        if package is not None:
            try:
                require_found(client, workers.threads(), [package])
            except VersionMismatchError as lacking:
                raise lacking from error
        raise


def missing_package(error: BaseException | None) -> str | None:
    """The package that was not there, as it is imported, where that is what the error comes from."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.partition(".")[0]
        error = error.original if isinstance(error, LoadError) else error.__cause__
    return None


def failed_load(resident: Resident) -> BaseException | None:
    """What the first piece that could not be made failed of; None while there is none."""
    return next((future.exception() for future in resident.futures if future.status == "error"), None)


def fatal(
    error: KilledWorker, source: Source, resident: Resident, pieces: Sequence[int], limits: Mapping[str, float]
) -> FatalPartitionError:
    """Workers died of these pieces. Dask blames all that they had before them; they begin with the first."""
    numbers = resident.numbers[pieces[0]]
    partition = source.group_starts[numbers[0]]
    behind = ""
    if len(pieces) > 1:
        last = source.group_starts[resident.numbers[pieces[-1]][-1] + 1] - 1
        behind = f", or behind it, up to partition {last} ({source.location(last)})"
    died = f"{error.allowed_failures + 1} workers died, one after the other, at {described(source, numbers)}{behind}"
    why = "out of memory, or a crash of what reads it, as their logs say"
    text = f"{died}: {why}. {memory(source, numbers, resident.workers, limits)}"
    named = FatalPartitionError(text, partition, source.location(partition))
    named.__cause__ = error
    return named


def described(source: Source, numbers: Sequence[int]) -> str:
    """The partitions of these groups, and where they come from."""
    return source.locations_of(source.group_starts[numbers[0]], source.group_starts[numbers[-1] + 1] - 1)


def memory(source: Source, numbers: Sequence[int], threads: Sequence[str], limits: Mapping[str, float]) -> str:
    """How much there is, and what would fit: a thread that loads holds its share of all rows and, for a while, a group twice."""
    have = f"The workers may hold {megabytes(min(limits.values()))} each" if limits else "The workers have no limit of memory"
    cure = "Make the partitions smaller, or give the workers more memory"
    if not np.isfinite(source.n_bytes):
        return f"{have}; how much these rows take is not known. {cure}"
    sizes = source.group_sizes
    piece = source.n_bytes * sum(sizes[number] for number in numbers) / max(sum(sizes), 1)
    room = sum(limits.values()) - source.n_bytes
    if limits and room <= 0:
        n_workers = int(source.n_bytes / min(limits.values())) + 1
        cure = f"That is more than all of them may hold together: {n_workers} such workers could"
    elif limits:
        cure = f"Make the partitions smaller, of at most {megabytes(room / len(threads) / 2)}, or give the workers more memory"
    return f"{have}; X of these rows takes {megabytes(piece)}, of all rows {megabytes(source.n_bytes)}. {cure}"


def megabytes(n_bytes: float) -> str:
    """A number of bytes in megabytes, as people say it."""
    return f"{n_bytes / 1e6:.3g} MB"
