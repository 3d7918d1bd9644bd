"""How long a worker computes: what plans are made from."""

from __future__ import annotations

import time

from tasks.partition import Shard
from tasks.reductions import reduce_on_worker


def timed_reduce(shard: Shard, part: int, n_groups: int, packed: bytes) -> float:
    """Task: seconds that `reduce_on_worker` takes; its partials are dropped."""
    start = time.perf_counter()
    reduce_on_worker(shard, part, n_groups, packed)
    return time.perf_counter() - start
