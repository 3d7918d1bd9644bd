"""Fits inside Dask tasks: whose thread this is, the worker's client, and threads that are given back while they wait."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import cloudpickle
import dask
import distributed
from dask.utils import parse_timedelta
from distributed import Client
from distributed.threadpoolexecutor import thread_state as pool_state
from distributed.utils import in_async_call
from distributed.utils import thread_state as task_state

from pipeline.cluster.asking import ask

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # other workers may lack this library

CONNECT_TIMEOUT: Final = "distributed.comm.timeouts.connect"
LOOK_EVERY: Final = 0.01
OF_WORKERS: Final = "Client-worker-"
"""The beginning of the names of clients that workers make for their tasks."""

_getting_client = threading.Lock()


def in_task() -> bool:
    """Whether this code runs inside a task of a distributed worker, or in a method of an actor."""
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def current_client() -> Client:
    """The current client; inside a task its worker's. Raises ValueError where there is none.

    Waits for a client that somebody else is starting just now, as other tasks do, or Dask when it unpickles futures.
    """
    if in_task():
        with _getting_client:  # otherwise each of several tasks at once would start a client
            client = distributed.get_client()
    else:
        client = distributed.default_client()
    deadline = time.monotonic() + parse_timedelta(dask.config.get(CONNECT_TIMEOUT))
    while is_starting(client) and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY)
    return client


def is_starting(client: Client) -> bool:
    """Whether a client has not been connected yet: one that has lost its connection is something else."""
    return client.status in ("newly-created", "connecting") and client._handle_report_task is None


def is_of_worker(client: Client) -> bool:
    """Whether a worker has made this client for its tasks."""
    return str(client.id).startswith(OF_WORKERS)


def check_no_coroutine() -> None:
    """Raise ValueError in a coroutine on a worker's event loop: what would wait there would wait for itself."""
    if in_task() and in_async_call(distributed.get_worker().loop):
        raise ValueError(
            "a fit of Dask data waits for its rounds, and this is the event loop of a Dask worker, which would stand still; make the task,"
            " or the actor's method, a plain function (def instead of async def)"
        )


@contextmanager
def thread_given_back() -> Iterator[None]:
    """A block in which other tasks, those of our own rounds among them, may use this Dask task's thread while it waits. Nothing happens
    where it has been given back already (`distributed.secede`, `worker_client`), and in an actor, whose calls come one after the other
    and take no task's thread."""
    if not holds_thread():
        yield
        return
    distributed.secede()
    try:
        yield
    finally:
        distributed.rejoin()


def holds_thread() -> bool:
    """Whether this is the thread of a task, one of those that its worker has for tasks."""
    task, pool = vars(task_state), vars(pool_state)
    return "key" in task and not task.get("actor") and bool(pool.get("proceed"))


@contextmanager
def exclusive(lock: Any) -> Iterator[None]:
    """A block that holds the lock (threading's). A task's thread that has to wait for it is given back: who has it may be waiting for a
    task."""
    if lock.acquire(blocking=False):
        try:
            yield
        finally:
            lock.release()
        return
    with thread_given_back(), lock:
        yield


class Hostages:
    """Tasks that hold the threads of this worker, as seen by a fit in a thread that one of them may have started: from there, the task's
    thread cannot be given back.

    Nobody can say which task it is, so the fit goes on while it makes any progress.
    """

    def __init__(self, client: Client, patience: float) -> None:
        self.client = client
        self.patience = patience
        self._before: set[Any] = set(executing(client)[0])
        self._pending: set[Any] = set()
        self._since = time.monotonic()

    @classmethod
    def of(cls, client: Client, patience: float) -> Hostages | None:
        """The hostages on the worker of this client's task; None where the task's thread can be given back, and outside of tasks."""
        inside = in_task() or is_of_worker(client)
        return cls(client, patience) if inside and "proceed" not in vars(pool_state) else None

    def in_the_way(self, futures: Sequence[Any]) -> list[str]:
        """The tasks that were there before the fit and hold all threads of this worker, once these futures have stood still for `patience`
        seconds; else none."""
        pending = {future.key for future in futures if future.status == "pending"}
        here, n_threads, everywhere = executing(self.client)
        held = self._before.intersection(here)
        now = time.monotonic()
        if pending != self._pending or pending & everywhere or len(held) < n_threads:
            self._pending, self._since = pending, now
        return sorted(map(str, held)) if now - self._since > self.patience else []


def executing(client: Client) -> tuple[list[Any], int, set[Any]]:
    """The keys of tasks that hold threads of this process's worker, how many threads it has, and the keys of those that run anywhere."""
    found = ask(client, executing_there, list(client.scheduler_info(n_workers=-1)["workers"])).values()
    here = process_here()
    keys = [key for process, _, keys in found for key in keys if process == here]
    return keys, sum(n_threads for process, n_threads, _ in found if process == here), {key for *_, keys in found for key in keys}


def executing_there(dask_worker: Any) -> tuple[tuple[str, int], int, list[Any]]:
    """One worker's answer: its process, its threads, and the keys of tasks that hold them."""
    state = dask_worker.state
    return process_here(), int(state.nthreads), [task.key for task in state.executing]


def process_here() -> tuple[str, int]:
    """The host and number of this process."""
    return socket.gethostname(), os.getpid()
