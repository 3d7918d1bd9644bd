"""How long a worker computes: what plans are made from."""

from __future__ import annotations

import time
from typing import Any

from tasks.loading.shards import ShardLoad, load_on_worker
from tasks.reductions.reduction import reduce_on_worker
from tasks.rows.partition import Shard


def timed_reduce(shard: Shard, subset: int, n_groups: int, packed: bytes) -> float:
    """Task: the processor's seconds that `reduce_on_worker` takes of its thread, whoever else keeps the machine busy; its sums are
    dropped. Waiting for memory counts, waiting for a core does not."""
    start = time.thread_time()
    reduce_on_worker([shard], 0, subset, n_groups, packed)
    return time.thread_time() - start


def timed_load(load: ShardLoad, *values: Any) -> float:
    """Task: seconds that `load_on_worker` takes; the rows are dropped."""
    start = time.perf_counter()
    load_on_worker(load, *values)
    return time.perf_counter() - start
