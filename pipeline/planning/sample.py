"""A few whole groups of a lazy dataset, in this process, and what they say of all of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import dask
import numpy as np

from pipeline.data.dataset import Dataset
from pipeline.data.schema import Schema, make_schema
from pipeline.execution.base import Executor
from pipeline.sources.errors import locations_named
from pipeline.sources.sources import Source
from tasks.loading.checking import CHECK
from tasks.loading.shards import ShardLoad, load_on_worker
from tasks.machine.threads import single_blas_thread
from tasks.rows.draws import spread
from tasks.rows.partition import Group, Shard, join_shards
from tasks.typing import Int64

SAMPLE_BYTES: Final = 128 << 20
"""The bytes of a sample: far more than a processor's caches hold, so that rounds on the sample read memory as rounds on all rows do."""
SAMPLE_SECONDS: Final = 3.0


@dataclass(frozen=True, eq=False)
class Sample:
    """A sample of a dataset. dataset: the train part of all of it; sampled: that of the sampled groups alone, resident in this process;
    shard: all parts of them.

    numbers: of the groups.
    """

    dataset: Dataset
    sampled: Dataset
    shard: Shard
    numbers: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """Whether the sample is all there is."""
        return len(self.numbers) == self.dataset.source.n_groups

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of the train part."""
        return self.shard.groups(self.dataset.part)

    @property
    def n_partitions(self) -> int:
        return sum(len(group.offsets) - 1 for group in self.groups)

    @property
    def n_train_rows(self) -> int:
        return sum(group.n_rows for group in self.groups)

    @property
    def n_rows(self) -> int:
        """The rows of all parts."""
        return sum(group.n_rows for group in self.shard.all_groups)

    @property
    def row_bytes(self) -> float:
        """Bytes that a row of any part holds: X, y and its weight."""
        return self.shard.__sizeof__() / max(self.n_rows, 1)

    def group_rows(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Rows of each group of the whole dataset, all parts together: known, or as many as the sampled partitions have on average."""
        source = self.dataset.source
        sizes = np.asarray(source.group_sizes, np.float64)
        return sizes if source.partition_rows is not None else sizes * (self.n_rows / self.n_partitions)

    def partition_rows(self, sampled: Int64) -> Int64:
        """The rows to train on of each partition of the whole dataset, beside these of the sampled ones: known, or as many as these have on
        average."""
        source, share = self.dataset.source, self.n_train_rows / max(self.n_rows, 1)
        known = source.partition_rows
        each = np.full(source.n_partitions, sampled.mean()) if known is None else np.asarray(known) * share
        rows: Int64 = np.round(each).astype(np.int64)
        rows[[group.first_partition + i for group in self.groups for i in range(len(group.offsets) - 1)]] = sampled
        return rows

    def schema(self, executor: Executor) -> Schema:
        """The schema of the whole dataset, as far as the sample tells: with the rows of each class scaled up. Raises ValueError for the
        first thing that is wrong in the sampled rows."""
        dataset = self.sampled
        summary = executor.map_reduce(dataset.rows, CHECK, dataset.n_partitions)
        found = make_schema(summary, dataset.columns, dataset.dtype, dataset.location_of_row)
        factor = 1.0 if self.whole else float(self.group_rows().sum()) / self.n_rows
        return replace(
            found,
            n_rows=round(found.n_rows * factor),
            partition_rows=self.partition_rows(found.partition_rows),
            weight_sum=found.weight_sum * factor,
            class_rows=np.round(found.class_rows * factor).astype(np.int64),
            class_weights=found.class_weights * factor,
            n_bytes=round(found.n_bytes * factor),
        )


def take_sample(dataset: Dataset, n_threads: int) -> Sample:
    """Groups from all over the dataset, one after the other, until there are enough bytes, or it took long; at least one for each thread
    if there are so many. Raises what reading them does."""
    source = dataset.source
    shards: dict[int, Shard] = {}
    n_bytes, start = 0, time.perf_counter()
    for number in spread(source.n_groups):
        load, values = plan_load(source, number)
        with locations_named(source.location):
            shards[number] = load_on_worker(load, *values)
        n_bytes += shards[number].__sizeof__()
        enough = n_bytes >= SAMPLE_BYTES or time.perf_counter() - start > SAMPLE_SECONDS
        if enough and len(shards) >= n_threads:
            break
    numbers = tuple(sorted(shards))
    shard = join_shards([shards[number] for number in numbers])
    resident = replace(source, resident={"threads": shard})
    resident.group_starts = [*(source.group_starts[number] for number in numbers), source.n_partitions]
    return Sample(dataset, dataset._of(resident, dataset.part), shard, numbers)


def plan_load(source: Source, number: int) -> tuple[ShardLoad, Sequence[Any]]:
    """The plan to make one group, and the values of what a cluster would make first, made here as far as this group needs it."""
    first: dict[Any, Any] = {}
    (load,) = source.load_plans([(number,)], lambda graph, keys: first.update(graph))
    keys: list[Any] = list(load.keys)
    with single_blas_thread():
        return load, dask.get(first, keys) if keys else ()
