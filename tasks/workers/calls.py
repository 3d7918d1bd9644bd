"""A round asked of a worker by a call instead of a task: for rounds that are shorter than a task takes to be scheduled."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from typing import Any, Final

from tasks.kernels import passes, spread, updates, words  # noqa: F401  imported while a worker is made ready, not in its first round
from tasks.machine.fingerprint import numeric_digest
from tasks.reductions.reduction import reduce_on_worker
from tasks.workers.members import MEETING, meet, take_part
from tasks.workers.participants import OPERATION as SESSION
from tasks.workers.transport import Transport, WorkerTransport

OPERATION: Final = "dask_descent_reduce"


def prepare_worker(dask_worker: Any, transport: Transport | None = None) -> str:
    """Let a distributed.Worker answer calls of `OPERATION` and take part in sessions, and return its `numeric_digest`. transport: by
    default the worker's own."""

    async def reduce_here(keys: Sequence[Any], thread: int, subset: int, n_groups: int, packed: bytes) -> bytes | None:
        """reduce_on_worker, in the threads that also run tasks, as a pickle; None for a shard that is not here, and for an error, which
        the task that follows will raise."""
        try:
            shards = [dask_worker.data[key] for key in keys]
            run = dask_worker.executors["default"].submit(reduce_on_worker, shards, thread, subset, n_groups, packed)
            return pickle.dumps(await asyncio.wrap_future(run), protocol=5)
        except Exception:  # noqa: BLE001
            return None

    reached = WorkerTransport(dask_worker) if transport is None else transport

    async def session(comm: Any, plan: bytes, rank: int) -> None:
        await take_part(dask_worker, reached, comm, plan, rank)

    async def meeting(comm: Any, name: str) -> None:
        await meet(dask_worker, reached, comm, name)

    dask_worker.handlers[OPERATION] = reduce_here
    dask_worker.handlers[SESSION] = session
    dask_worker.handlers[MEETING] = meeting
    return numeric_digest()
