"""A function of each partition of some rows on a cluster: of resident rows, or by tasks that make the rows and keep none."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from itertools import chain
from operator import itemgetter
from typing import Any, Final, NamedTuple, NoReturn

from dask.sizeof import sizeof
from dask.task_spec import DataNode, TaskRef
from distributed import Client, Future, KilledWorker

from pipeline.cluster.code.modules import dumps
from pipeline.cluster.task_threads import thread_given_back
from pipeline.cluster.workers import STUCK, StuckError
from pipeline.execution.attempts import MAX_RELOADS, MAX_STUCK
from pipeline.execution.gathering import gather
from pipeline.execution.graph import INLINE_BYTES
from pipeline.execution.opaque import begin, call
from pipeline.execution.residency.failures import killed, ranges
from pipeline.execution.residency.following import Follower
from pipeline.execution.residency.held import await_held
from pipeline.execution.residency.loading_errors import packages_named
from pipeline.execution.residency.resident import Resident
from pipeline.execution.sending import Sender
from pipeline.sources.errors import locations_named
from pipeline.sources.rows import Rows
from tasks.loading.mapping import PartitionMap, map_shard
from tasks.loading.shards import LoadError

AT_ONCE: Final = 16 << 20


class Asked(NamedTuple):
    """The task of some partitions, whose numbers these are, ascending."""

    numbers: tuple[int, ...]
    future: Future[Any]


def map_on_cluster(follower: Follower, sender: Sender, rows: Rows, partition_map: PartitionMap) -> Iterator[tuple[int, Any]]:
    """See `Executor.map_partitions`. Rows that go down with their workers, and what a restart of the cluster takes, are made again. Raises
    ValueError, naming the collections, for persisted rows that are gone; WorkersKilledError, naming the partitions, where worker after
    worker dies; ConnectionError where tasks wait and nobody works."""
    n_given, found, stuck = 0, dict[int, Any](), 0
    for attempt in range(MAX_RELOADS):
        resident = usable(follower, rows)
        try:
            for number, result in results(follower, sender, rows, resident, partition_map):
                if number >= n_given:
                    found[number] = result
                while n_given in found:
                    yield n_given, found.pop(n_given)
                    n_given += 1
            return
        except CancelledError as error:
            stuck += isinstance(error, StuckError)
            if stuck > MAX_STUCK:
                raise ConnectionError(STUCK) from error
            if attempt == MAX_RELOADS - 1 or sender.client.status != "running":
                raise
            follower.release(rows)


def usable(follower: Follower, rows: Rows) -> Resident | None:
    """What is resident of the rows' source, as far as this process knows; what has failed or was cancelled is forgotten."""
    resident = follower.known(rows)
    if resident is not None and any(future.status in ("cancelled", "error") for future in resident.futures):
        follower.release(rows)
        return None
    return resident


def results(
    follower: Follower, sender: Sender, rows: Rows, resident: Resident | None, partition_map: PartitionMap
) -> Iterator[tuple[int, Any]]:
    """The number of each partition and its result, task by task. Results wait on the workers, and come here `AT_ONCE` bytes at a time, or
    one piece for each worker thread."""
    client, workers, source = sender.client, sender.workers, rows.source
    with thread_given_back(), follower.watched(rows):
        asked = ask(follower, sender, rows, resident, partition_map)
        n_threads = n_pieces = len(workers.threads())
    try:
        while asked:
            some = asked[:n_pieces]
            futures = [each.future for each in some]
            with thread_given_back(), follower.watched(rows), locations_named(source.location), packages_named(client, workers):
                try:
                    workers.wait(futures)
                    found = gather(client, workers, futures)
                except Exception as error:  # noqa: BLE001  raised again, with what is known of it
                    raise_named(error, partition_map.name, rows, some)
            numbers = [each.numbers for each in some]
            del asked[:n_pieces], some, futures
            n_pieces = max(n_threads, AT_ONCE // max(map(sizeof, found)))
            for own in numbers:
                yield from zip(own, found.pop(0), strict=True)
    except BaseException as error:
        give_up(client, [each.future for each in asked])
        if isinstance(error, CancelledError) and client.status == "running":
            await_held(client, workers, source.outside)
        raise


def ask(follower: Follower, sender: Sender, rows: Rows, resident: Resident | None, partition_map: PartitionMap) -> list[Asked]:
    """Begin the tasks, in the order of their first partitions. What is large of the function and its broadcast goes to the cluster once."""
    packed, needs = dumps(partition_map)
    token = uuid.uuid4().hex
    graph: dict[Any, Any] = {}
    argument: Any = packed
    if len(packed) > INLINE_BYTES:
        held = f"{partition_map.name}-function-{token}"
        graph[held], argument = DataNode(held, packed), TaskRef(held)
    sender.send_modules(needs)
    name = f"{partition_map.name}-{token}"
    if resident is None:
        numbers = follower.loader.plan_maps(rows, graph, name, argument)
    else:
        numbers = [tuple(rows.source.partitions_of(groups)) for groups in resident.numbers]
        for own, future in zip(numbers, resident.futures, strict=True):
            key = (name, own[0])
            graph[key] = call(key, map_shard, TaskRef(future.key), rows.subset, argument, needs=set())
    futures = begin(sender.client, graph, [(name, own[0]) for own in numbers])
    return sorted(map(Asked, numbers, futures), key=itemgetter(0))


def raise_named(error: Exception, name: str, rows: Rows, asked: Sequence[Asked]) -> NoReturn:
    """Raise an error with the partitions that it is about, as far as they are known."""
    failed = [each.numbers for each in asked if each.future.status == "error"]
    if failed and isinstance(error, KilledWorker):
        partitions = sorted(chain.from_iterable(failed)) if any(error.task == each.future.key for each in asked) else []
        what = f"a task of {name!r} was tried again and again, and {error.allowed_failures + 1} workers"
        raise killed(what, partitions, rows.source) from error
    if failed and not isinstance(error, LoadError | MemoryError):
        error.add_note(f"while computing {name!r} of partitions {ranges(failed[0])} (from {rows.source.location(failed[0][0])} on)")
    raise error


def give_up(client: Client, futures: list[Future[Any]]) -> None:
    """Have tasks end that nobody waits for any more."""
    if client.status == "running":
        client.cancel(futures, force=True)
