"""Rounds on a `distributed` cluster: one task, or one call, a worker thread; partial sums combined in the fixed tree."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Final, NoReturn

import distributed
import numpy as np
from dask.task_spec import List, TaskRef
from distributed import Client
from distributed.comm import CommClosedError

from pipeline.cluster.asking import forget_frames
from pipeline.cluster.code.code import require_found, send_users_modules, usable_workers
from pipeline.cluster.code.identity import VersionMismatchError
from pipeline.cluster.code.modules import dumps
from pipeline.cluster.pulse import SchedulerLostError, pulse, watched
from pipeline.cluster.task_threads import exclusive, in_task, is_of_worker, thread_given_back
from pipeline.cluster.workers import STUCK, StuckError, Workers
from pipeline.execution.base import Advance, Executor, one_round
from pipeline.execution.calls import call_workers, can_call
from pipeline.execution.gathering import gather
from pipeline.execution.opaque import call, value
from pipeline.execution.residency.failures import Losses, killers_named
from pipeline.execution.residency.loader import Loader
from pipeline.execution.residency.loading_errors import failed_load, loading_error, missing_package
from pipeline.execution.residency.moving import move
from pipeline.execution.residency.resident import Resident, Work
from pipeline.execution.sessions import SessionRows, Sessions
from pipeline.sources.rows import Rows
from pipeline.sources.sources import Source
from tasks.loading.checking import CONTENTS
from tasks.machine.threads import single_blas_thread
from tasks.reductions.memory import merged
from tasks.reductions.reduction import Reduction, Sums, merge_sums, reduce_on_worker
from tasks.rounds.fitting import Fit
from tasks.workers.participants import round_too_large

logger = logging.getLogger("dask-descent")

INLINE_BYTES: Final = 8000
CLIENT_COMBINE_BYTES: Final = 1 << 20
FAN_IN: Final = 8
MAX_RELOADS: Final = 10
MAX_STUCK: Final = 2
MAX_DEATHS: Final = 3
"""Times in a row that workers may die with the same rows in one round."""
HELD_ROUNDS: Final = 16
SHORT_ROUND: Final = 0.05
CALLED_ROUND: Final = 0.2
CALLED_BYTES: Final = 4 << 20
SESSION_ROUND: Final = 0.5
FOLLOW_EVERY: Final = 1.0
LOST: Final = 0.1
"""Seconds that rounds must have lost to slow workers before anything is moved for it."""
BYTES_PER_SECOND: Final = 500e6


class ClusterExecutor(Executor):
    """The graph executor. Waits at most `dask-descent.wait-for-workers` (Dask configuration, by default 30 s) for a first worker,
    and as long again if all are lost. A worker that dies costs the recompute of its rows; rows move to workers that join, and from slow
    workers to fast ones.

    Raises SchedulerLostError when the scheduler is lost, ValueError for an asynchronous or closed client, WorkersUnavailableError when no
    worker comes.
    """

    def __init__(self, client: Client) -> None:
        if client.asynchronous:
            raise ValueError("the current distributed.Client is asynchronous; fit needs a synchronous one: Client(address)")
        if client.status in ("closing", "closed"):
            raise ValueError("the current distributed.Client is closed; connect again, or leave its with block to work in this process")
        self.client = client
        self.inside = in_task() or is_of_worker(client)
        self.workers = Workers(client)
        self.loader = Loader(client, self.workers)
        self.sessions = Sessions(client)
        self._tasks = 0
        self._held: list[Any] = []
        self._fits = 0
        self._sent: set[str] = set()
        self._together: dict[Resident, int] = {}

    @property
    def tasks_per_round(self) -> int:
        return self._tasks

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        with thread_given_back(), pulse(self.client), nullcontext() if self.inside else distributed.span(name):
            self._fits += 1
            try:
                yield
            finally:
                self._fits -= 1
                self._held.clear()
                self.workers.end_demand()
                self.sessions.close()
                for resident, level in self._together.items():
                    with resident.lock:
                        resident.let_apart(level)
                self._together.clear()

    def advance(self, rows: Rows, fit: Fit, states: list[Any], limit: int) -> Advance:
        done = self._in_session(rows, fit, states, limit) if limit > 1 else None
        return one_round(self, rows, fit, states) if done is None else done

    def map_reduce(self, rows: Rows, reduction: Reduction, broadcast: Any) -> Any:
        source = rows.source
        stuck, losses = 0, Losses()
        for attempt in range(MAX_RELOADS):
            with thread_given_back(), self._watched(rows):
                resident = self._resident(source, mend=attempt > 0)
                try:
                    return self._checked_round(resident, rows, reduction, broadcast)
                except (CancelledError, CommClosedError) as error:  # rows were lost with their worker, or futures with a restart: they
                    waited = isinstance(error, StuckError)  # are made again
                    failed = failed_load(resident)
                    if failed is not None:  # and the other pieces wait for workers that it killed
                        self._raise_named(failed, rows, resident)
                    forget_frames(error)
                    stuck += not losses.note(resident, set(self.workers.threads())) and waited
                except BaseException as error:  # noqa: BLE001  raised again, with what is known of it
                    self._raise_named(error, rows, resident, reduction.name)
                if (waited or any(future.cancelled() for future in resident.futures)) and not source.in_client:
                    self.release(rows)
                if stuck > MAX_STUCK or losses.times > MAX_DEATHS:
                    break
        if stuck > MAX_STUCK:
            raise ConnectionError(STUCK)
        raise losses.error(reduction.name, source, resident)

    def _checked_round(self, resident: Resident, rows: Rows, reduction: Reduction, broadcast: Any) -> Any:
        """The finished sums of a round, of the rows that were checked. Raises SourceChangedError for others."""
        self._keep_together(resident, reduction.level(broadcast))
        self._follow(resident)
        sums = self._round(resident, rows, reduction, broadcast)
        if rows.content in (None, sums.content):
            return reduction.whole(sums.nodes, resident.n_groups, broadcast)
        found = self._round(resident, rows, CONTENTS, None)
        rows.require_contents(CONTENTS.whole(found.nodes, resident.n_groups, None))
        raise CancelledError  # what was lost meanwhile has been made again, as it was at first

    def _raise_named(self, error: BaseException, rows: Rows, resident: Resident, name: str = "") -> NoReturn:
        """What is known of an error. name: of the reduction that it came in."""
        known = loading_error(error, rows.source, resident, self.workers.limits)
        if not name or any(future.status == "error" for future in resident.futures):
            self.release(rows)  # what could not be read now may be readable later
        if (package := missing_package(error)) is not None:
            try:
                require_found(self.client, self.workers.threads(), [package])
            except VersionMismatchError as lacking:
                raise lacking from known
        raise known from known.__cause__

    def waiting(self) -> AbstractContextManager[None]:
        return thread_given_back()

    def release(self, rows: Rows) -> None:
        resident: Resident | None = rows.source.resident.pop(self.client.id, None)
        if resident is not None:
            resident.release()

    @contextmanager
    def _watched(self, rows: Rows) -> Iterator[None]:
        """`watched`; rows that went down with their scheduler are forgotten: what stands for them here would keep the client. At the end
        nobody asks for a first worker any more."""
        try:
            with watched(self.client):
                yield
        except SchedulerLostError:
            self.release(rows)
            raise
        finally:
            self.workers.end_demand()

    # -- where the rows are ----------------------------------------------------------------------------------------------------------

    def _resident(self, source: Source, mend: bool) -> Resident:
        """The pieces, asked for, or mended where need be. One thread at a time: two fits on one dataset load it once."""
        resident: Resident | None = source.resident.get(self.client.id)
        if resident is not None and not mend:
            return resident
        with exclusive(source.lock):
            resident = source.resident.get(self.client.id)
            if resident is None:
                resident = source.resident[self.client.id] = self.loader.load(source, anywhere=mend)
            elif mend and source.in_client:
                self.loader.send_again(source, resident)
            return resident

    def _keep_together(self, resident: Resident, level: int) -> None:
        """Lanes of this level are one thread's until the fit ends."""
        before = self._together.get(resident, 0)
        if level > before:
            with resident.lock:
                resident.keep_together(level, before)
            self._together[resident] = level

    def _follow(self, resident: Resident) -> None:
        """Every now and then: see which workers there are and where the pieces are, and move some to whom they are better with."""
        if not resident.located:
            self.workers.wait(resident.futures)
            failed = failed_load(resident)
            if failed is not None:
                raise failed
        elif time.monotonic() < resident.follow_at:
            return
        start = time.monotonic()
        threads = usable_workers(self.client, self.workers.threads(), late=True)
        with resident.lock:
            now = time.monotonic()
            resident.follow_at = now + FOLLOW_EVERY * (1 + 50 * (now - start))  # of a thousand workers the scheduler has much to say
            if resident.moving:  # some other fit on these rows is at it
                return
            changed = resident.seat(threads) or (resident.uneven and resident.located)
            resident.uneven &= not changed
            astray = []
            if not resident.located and not any(future.status == "error" for future in resident.futures):
                holders = self.client.who_has(resident.futures)
                resident.settle(holders)
                astray = resident.astray(holders)
            slow = resident.speeds.lost > LOST and resident.speeds.known(resident.workers)
            ours = resident.moving = bool(astray) or (resident.located and (changed or slow))
        if ours:
            try:
                if astray:
                    self._move(resident, astray)
                else:
                    self._balance(resident, at_once=changed)
            finally:
                resident.moving = False

    def _balance(self, resident: Resident, at_once: bool) -> None:
        """Move pieces to new and to fast workers: at once, or when rounds have lost as much time as the move will take."""
        keys = [future.key for future in resident.futures]
        try:
            sizes = self.client.nbytes(keys, summary=False)
        except KeyError:  # some worker has just died
            return
        with resident.lock:
            before = resident.work
            better = resident.better([sizes[key] for key in keys], self.workers.limits)
            moves = resident.moves(better)
            if not moves:
                resident.speeds.lost = 0.0
                return
        n_bytes = sum(sizes[keys[piece]] for piece, _, _ in moves)
        if not at_once and resident.speeds.lost < LOST + n_bytes / BYTES_PER_SECOND:
            return
        logger.info("move %d of %d pieces (%.3g MB)", len(moves), len(keys), n_bytes / 1e6)
        self._move(resident, moves, lambda: resident.assign(better) if resident.work is before else None)

    def _move(self, resident: Resident, moves: list[tuple[int, str, str]], then: Callable[[], None] = lambda: None) -> None:
        """Move pieces, and see where they are after that; `then` changes what is assigned."""
        self.sessions.close()
        move(self.client, [(resident.futures[piece].key, source, target) for piece, source, target in moves])
        holders = self.client.who_has(resident.futures)
        with resident.lock:
            then()
            resident.speeds.moved(resident.workers)
            resident.settle(holders)

    # -- rounds ----------------------------------------------------------------------------------------------------------------------

    def _round(self, resident: Resident, rows: Rows, reduction: Reduction, broadcast: Any) -> Sums:
        start = time.monotonic()
        with resident.lock:
            work, n_partials = resident.work, resident.n_partials
        n_bytes = reduction.n_bytes(broadcast, rows.n_columns) * n_partials
        results = None
        if self._callable(resident, work, bytes_of(broadcast) * len(work) + n_bytes):
            packed, needs = dumps((reduction, broadcast))
            self._send_modules(needs)
            results = call_workers(self.client, work, rows.subset, resident.n_groups, packed)
            self._tasks = max(self._tasks, len(work))
            if results is None:
                with resident.lock:
                    resident.located = False
        if results is None:
            results = self._by_tasks(resident, work, rows, reduction, broadcast, n_bytes)
        with single_blas_thread():
            sums = merging(reduction, resident.n_groups)(results)
        resident.last_round = time.monotonic() - start
        with resident.lock:
            resident.measure(work, sums.seconds)
        return sums

    def _in_session(self, rows: Rows, fit: Fit, states: list[Any], limit: int) -> Advance | None:
        """Some rounds that the workers run by themselves; None if they cannot, or have failed to: a round from here will say why."""
        resident: Resident | None = rows.source.resident.get(self.client.id)
        if resident is None or not resident.located or self.inside or not self.sessions.due():
            return None
        this = fit.ask(states)
        assert this is not None
        with self._watched(rows):
            try:
                self._keep_together(resident, this.reduction.level(this.broadcast))
                self._follow(resident)
            except Exception as error:  # noqa: BLE001  the round from here will meet it, too, and knows what to do
                forget_frames(error)
                return None
            with resident.lock:
                work, n_partials, level = resident.work, resident.n_partials, resident.level
            short = resident.located and resident.last_round <= SESSION_ROUND
            if not short or round_too_large(this, rows.n_columns, n_partials / len(work)):
                return None
            try:
                pieces = SessionRows(work, rows.subset, resident.n_groups, rows.n_columns, level, rows.content)
                done = self.sessions.advance(pieces, fit, states, limit, self._send_modules)
            except TimeoutError as error:
                forget_frames(error)
                done, resident.last_round = None, np.inf  # a task waits as long as need be
        if done is None:
            with resident.lock:
                resident.located = False
            return None
        if not done.reports:
            return None
        self._tasks = max(self._tasks, len(work))
        resident.last_round = done.round_seconds
        with resident.lock:
            resident.measure(work, done.seconds)
        return Advance(done.states, done.reports)

    def _callable(self, resident: Resident, work: list[Work], n_bytes: int) -> bool:
        """Whether this round may be calls: the last one was short, little is sent, and it is known who holds what."""
        short = resident.last_round <= CALLED_ROUND and n_bytes <= CALLED_BYTES
        return short and resident.located and not self.inside and can_call(self.client)

    def _by_tasks(
        self, resident: Resident, work: list[Work], rows: Rows, reduction: Reduction, broadcast: Any, result_bytes: int
    ) -> list[Sums]:
        n_groups = rows.source.n_groups
        token = uuid.uuid4().hex
        graph: dict[Any, Any] = {}
        needs: set[str] = set()
        large = []
        if bytes_of(broadcast) > INLINE_BYTES:  # one copy to the cluster, from where each worker fetches it once
            graph[f"parameters-{token}"] = value(f"parameters-{token}", broadcast, needs=needs)
            large = [TaskRef(f"parameters-{token}")]
        packed, modules = dumps((reduction, None if large else broadcast))
        self._send_modules(needs | modules)
        names = []
        for slot, _, keys in work:
            name = (f"{reduction.name}-{token}", slot)
            pieces = List(*map(TaskRef, keys))
            graph[name] = call(name, reduce_on_worker, pieces, slot, rows.subset, n_groups, packed, *large, needs=needs)
            names.append(name)
        if len(names) > 1 and result_bytes > CLIENT_COMBINE_BYTES:
            names = self._combine_on_cluster(graph, names, n_groups, reduction, token)
        self._tasks = max(self._tasks, len(graph))
        with killers_named(reduction.name, graph, rows.source, resident):
            return self._gather(graph, names, held=1 if result_bytes > CLIENT_COMBINE_BYTES else HELD_ROUNDS)

    def _send_modules(self, names: Set[str]) -> None:
        """Send the user's modules of these names, each once more at its first use in a fit."""
        send_users_modules(self.client, names, anew=not names <= self._sent)
        self._sent |= names

    def _combine_on_cluster(self, graph: dict[Any, Any], names: list[Any], n_groups: int, reduction: Reduction, token: str) -> list[Any]:
        merge, level = merging(reduction, n_groups), 0
        while len(names) > 1:
            above = []
            for i in range(0, len(names), FAN_IN):
                name = (f"tree-reduce-{token}", level, i // FAN_IN)
                graph[name] = call(name, merge, List(*map(TaskRef, names[i : i + FAN_IN])), needs=set())
                above.append(name)
            names, level = above, level + 1
        return names

    def _gather(self, graph: dict[Any, Any], names: list[Any], held: int) -> list[Any]:
        """Results of the round; on any exception, Ctrl-C among them, no task of it stays behind.

        A client's messages leave a while apart, and letting go of a round's futures is a message, which the next round would have to
        wait behind. So the futures of up to `held` short rounds of a fit are let go together; of short ones only, because what is held
        is computed again when its worker dies.
        """
        start = time.monotonic()
        futures = self.client.get(graph, names, sync=False)
        try:
            self.workers.wait(futures)
            results = gather(self.client, self.workers, futures)
        except BaseException:
            if self.client.status == "running":
                self.client.cancel(futures, force=True)
            raise
        self._held.append(futures)
        if len(self._held) >= held or time.monotonic() - start > SHORT_ROUND or not self._fits:
            self._held.clear()
        return results


def merging(reduction: Reduction, n_groups: int) -> Callable[[Sequence[Sums]], Sums]:
    """What makes one of the sums of several tasks."""
    return partial(merged, reduction.name, partial(merge_sums, n_groups=n_groups, combine=reduction.combine))


def bytes_of(broadcast: Any) -> int:
    """About how many bytes a broadcast has."""
    arrays = [a for a in broadcast if isinstance(a, np.ndarray)] if isinstance(broadcast, tuple) else []
    return sum(a.nbytes for a in arrays)
