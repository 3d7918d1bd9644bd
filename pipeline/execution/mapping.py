"""A function of each group of some rows on a cluster: by tasks that make the rows and keep none."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from operator import itemgetter
from typing import Any, Final

from dask.sizeof import sizeof
from dask.task_spec import TaskRef
from distributed import Client, Future

from pipeline.cluster.code.modules import dumps
from pipeline.cluster.task_threads import thread_given_back
from pipeline.execution.gathering import gather
from pipeline.execution.opaque import call
from pipeline.execution.residency.following import Follower
from pipeline.execution.residency.held import await_held
from pipeline.execution.residency.resident import Resident
from pipeline.execution.sending import Sender
from pipeline.sources.errors import locations_named
from pipeline.sources.rows import Rows
from tasks.loading.mapping import map_shard
from tasks.rows.partition import Group

AT_ONCE: Final = 16 << 20


def map_resident(client: Client, resident: Resident, subset: int, packed: bytes) -> list[tuple[tuple[int, ...], Future[Any]]]:
    """Begin the calls of a function on resident rows, as `Loader.map` does on others."""
    graph: dict[Any, Any] = {}
    token = uuid.uuid4().hex
    for numbers, future in zip(resident.numbers, resident.futures, strict=True):
        name = (f"map-{token}", numbers[0])
        graph[name] = call(name, map_shard, TaskRef(future.key), subset, packed, needs=set())
    futures = client.get(graph, list(graph), sync=False)
    return sorted(zip(resident.numbers, futures, strict=True), key=itemgetter(0))


def map_on_cluster(
    follower: Follower, sender: Sender, rows: Rows, function: Callable[[Group, Any], Any], broadcast: Any
) -> Iterator[tuple[int, Any]]:
    """See `Executor.map_groups`. Results wait on the workers, and come here `AT_ONCE` bytes at a time, or one piece for each worker thread.
    Raises ValueError, naming the collections, for persisted rows that are gone."""
    client, workers, source = sender.client, sender.workers, rows.source
    with thread_given_back(), follower.watched(rows):
        packed, needs = dumps((function, broadcast))
        sender.send_modules(needs)
        resident = follower.known(rows)
        if resident is None:
            asked = follower.loader.map(source, rows.subset, packed)
        else:
            asked = map_resident(client, resident, rows.subset, packed)
        n_threads = n_pieces = len(workers.threads())
    try:
        while asked:
            with thread_given_back(), follower.watched(rows), locations_named(source.location):
                futures = [future for _, future in asked[:n_pieces]]
                workers.wait(futures)
                found = gather(client, workers, futures)
            some = [numbers for numbers, _ in asked[:n_pieces]]
            del asked[:n_pieces], futures
            n_pieces = max(n_threads, AT_ONCE // max(map(sizeof, found)))
            for numbers in some:
                yield from zip(numbers, found.pop(0), strict=True)
    except BaseException as error:
        if client.status == "running":
            client.cancel([future for _, future in asked], force=True)
            if isinstance(error, CancelledError):
                await_held(client, workers, source.outside)
        raise
