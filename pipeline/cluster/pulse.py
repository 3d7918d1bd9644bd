"""The pulse of a cluster while a fit runs: whether the scheduler answers, and which workers have fallen silent. Nothing waits for ever."""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final
from weakref import WeakKeyDictionary

import dask
import numpy as np
from dask.utils import parse_timedelta
from distributed import Client

SCHEDULER_TIMEOUT: Final = "dask-descent.scheduler-timeout"
STALL_LIMIT: Final = "dask-descent.stall-limit"
WORKER_TTL: Final = "distributed.scheduler.worker-ttl"
LOOK_EVERY: Final = 0.2
ASK_EVERY: Final = 1.0
SHARE: Final = 20.0
"""How many times longer than an answer took (of a thousand workers, say) the next question waits."""
SILENT_AFTER: Final = 5.0
UNHEARD: Final = 3
"""The fewest answers in a row without a new heartbeat that count: it may be this process that was stopped for a while."""


class SchedulerLostError(ConnectionError):
    """The scheduler is gone, or does not answer any more, or the client was closed."""


class SilentWorkerWarning(UserWarning):
    """A worker that holds rows has stopped sending heartbeats, and this scheduler will wait for it for long."""


def seconds_of(key: str) -> float:
    """The seconds of one of our limits in Dask's configuration, by default 30 s. Raises ValueError, naming the key, for what is no time
    above 0."""
    given = dask.config.get(key, "30s")
    seconds = 0.0
    with suppress(LookupError, ValueError, TypeError, AttributeError, OverflowError):  # what Dask's parser raises for other values
        seconds = float(parse_timedelta(given))
    if not seconds > 0:
        raise ValueError(f"{key} in Dask's configuration must be a time above 0, such as 60, '60s' or '5 minutes', got {given!r}")
    return seconds


def worker_ttl() -> float:
    """Seconds for `distributed.scheduler.worker-ttl` of schedulers that are started here: half of `dask-descent.stall-limit` (Dask
    configuration, by default 30 s), because a scheduler looks no more often than that; less where Dask's own key has been set to less.
    Raises ValueError as `seconds_of`."""
    own = seconds_of(STALL_LIMIT) / 2
    theirs = dask.config.get(WORKER_TTL)
    return float(own if theirs is None else min(own, parse_timedelta(theirs)))


@contextmanager
def pulse(client: Client) -> Iterator[None]:
    """A block in which all questions to the scheduler end once that is gone, or has not answered for `dask-descent.scheduler-timeout` (Dask
    configuration, by default 30 s). Warns of silent workers. Raises ValueError as `seconds_of`."""
    found = pulse_of(client)
    found.enter(client)
    try:
        yield
    finally:
        found.leave(client)


@contextmanager
def watched(client: Client) -> Iterator[None]:
    """A block as that of `pulse`; what fails in it fails as SchedulerLostError when the client was closed, or lost its scheduler,
    meanwhile."""
    with pulse(client):
        try:
            yield
        except Exception as error:
            if client.status == "running" or isinstance(error, SchedulerLostError):
                raise
            raise lost(client) from error


def lost(client: Client) -> SchedulerLostError:
    """The error to raise of a client that is not running."""
    found = pulse_of(client)
    what = "the client was closed, or lost its scheduler, during the fit"
    if found.unanswered:
        what = f"the scheduler has not answered for {found.limit:g} s ({SCHEDULER_TIMEOUT})"
    return SchedulerLostError(f"{what}: {found.address}; connect again and repeat the fit: with checkpoint= it goes on where it was")


class Pulse:
    """The pulse of one client, on its event loop, as long as anybody needs it. unanswered: whether the scheduler was given up."""

    def __init__(self, client: Client) -> None:
        self.address = "its address is not known any more" if client.scheduler is None else str(client.scheduler.address)
        self.unanswered = False
        self.limit = 0.0
        self._users = 0
        self._lock = threading.Lock()
        self._task: asyncio.Task[None] | None = None
        self._told: set[str] = set()

    def enter(self, client: Client) -> None:
        """Count one more user. Raises ValueError for a `dask-descent.scheduler-timeout` that is no time, and nobody has entered."""
        limit = seconds_of(SCHEDULER_TIMEOUT)
        with self._lock:
            self._users += 1
            if self._users == 1:
                self.limit = limit
                with suppress(RuntimeError):  # a client that is closed
                    loop(client).add_callback(self._begin, client)

    def leave(self, client: Client) -> None:
        """Count one user less."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                with suppress(RuntimeError):
                    loop(client).add_callback(self._end)

    def _begin(self, client: Client) -> None:
        if self._users and self._task is None:
            self._task = asyncio.ensure_future(self._watch(client))

    def _end(self) -> None:
        if not self._users and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _watch(self, client: Client) -> None:
        silence = Silence()
        ask_at = time.monotonic() + ASK_EVERY
        ended = False
        while True:
            await asyncio.sleep(LOOK_EVERY)
            scheduler: Any = client.scheduler
            if client.status != "running" or scheduler is None:
                if not ended:
                    hang_up(client)  # calls that are under way would try for long to connect again
                ended = True
                continue
            ended = False
            began = time.monotonic()
            if began < ask_at:
                continue
            try:
                answer = await self._unless_lost(client, scheduler.identity(n_workers=-1))
            except OSError:
                continue
            self.unanswered = False
            now = time.monotonic()
            ask_at = now + max(ASK_EVERY, SHARE * (now - began))
            for worker, seconds in silence.update(answer["workers"], now).items():
                if worker not in self._told:
                    self._told.add(worker)
                    with suppress(SilentWorkerWarning):  # where warnings are errors, nobody here could catch it
                        await warn_of(client, worker, seconds)

    async def _unless_lost(self, client: Client, question: Any) -> Any:
        """The scheduler's answer. Raises OSError when the connection ends first, or has to be ended because none comes."""
        asked = asyncio.ensure_future(question)
        deadline = time.monotonic() + self.limit
        try:
            while not asked.done():
                await asyncio.wait({asked}, timeout=LOOK_EVERY)
                if client.status != "running":
                    raise ConnectionError
                if time.monotonic() > deadline and not asked.done():
                    self.unanswered = True
                    hang_up(client)
                    raise TimeoutError
            return asked.result()
        finally:
            asked.cancel()


_pulses: WeakKeyDictionary[Client, Pulse] = WeakKeyDictionary()


def pulse_of(client: Client) -> Pulse:
    """The one that this client has."""
    found = _pulses.get(client)
    return _pulses.setdefault(client, Pulse(client)) if found is None else found


class Silence:
    """The silence of workers since their last heartbeat, by the clock of this process: the scheduler's may be another."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[float, float, int]] = {}

    def update(self, workers: Mapping[str, Any], now: float) -> dict[str, float]:
        """Seconds of silence, by address, of the workers that work or hold something and have been silent for long. workers: as the
        scheduler tells of them."""
        heard: dict[str, tuple[float, float, int]] = {}
        for address, worker in workers.items():
            seen, since, times = self._heard.get(address, (np.nan, now, 0))
            heard[address] = (seen, since, times + 1) if worker["last_seen"] == seen else (worker["last_seen"], now, 0)
        self._heard = heard
        longest = SILENT_AFTER + len(workers) / 100  # the more there are, the more rarely each is heard of
        return {
            address: now - since
            for address, (_, since, times) in heard.items()
            if now - since > longest and times >= UNHEARD and in_use(workers[address])
        }


def in_use(worker: Mapping[str, Any]) -> bool:
    """Whether a worker held or did anything when it was last heard of."""
    metrics = worker.get("metrics", {})
    return bool(metrics.get("managed_bytes")) or any(metrics.get("task_counts", {}).values())


async def warn_of(client: Client, worker: str, seconds: float) -> None:
    """Warn of a silent worker, unless the scheduler is known to give it up soon."""
    ttl: Any = "unknown to this client"
    with suppress(Exception):  # a scheduler that runs no functions, or is gone
        found = await asyncio.wait_for(client._run_on_scheduler(lambda dask_scheduler: dask_scheduler.worker_ttl), ASK_EVERY)
        if found is not None and found <= seconds_of(STALL_LIMIT):
            return
        ttl = "null, for ever" if found is None else f"{found:g} s"
    since = time.strftime("%H:%M:%S", time.localtime(time.time() - seconds))
    warnings.warn(
        f"worker {worker} has not been heard of since {since}, {seconds:.0f} s ago, and the fit waits for it; what bounds that is"
        f" {WORKER_TTL} ({ttl}) in the configuration with which the scheduler is started; or end that worker: the fit goes on without it",
        SilentWorkerWarning,
        stacklevel=2,
    )


def hang_up(client: Client) -> None:
    """End all connections to the scheduler, and with them whatever waits for an answer; the client then tries to connect again."""
    if client.scheduler is None:
        return
    address = str(client.scheduler.address)
    for comms in (client.rpc.available, client.rpc.occupied):
        for comm in list(comms.get(address, ())):
            comm.abort()
    client.rpc.remove(address, reason="the scheduler does not answer")
    stream = client.scheduler_comm
    if client.status == "running" and stream is not None and stream.comm is not None:
        stream.comm.abort()


def loop(client: Client) -> Any:
    """The event loop of the client."""
    return client.loop
