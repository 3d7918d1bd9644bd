"""The rows of sources on one cluster: made resident, kept in sight, and moved to whom they are better with."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from distributed import Client

from pipeline.cluster.code.code import usable_workers
from pipeline.cluster.pulse import SchedulerLostError, watched
from pipeline.cluster.task_threads import exclusive
from pipeline.cluster.workers import Workers
from pipeline.execution.residency.loader import Loader
from pipeline.execution.residency.loading_errors import failed_load
from pipeline.execution.residency.moving import move
from pipeline.execution.residency.resident import Resident
from pipeline.sources.rows import Rows
from pipeline.sources.sources import Source

logger = logging.getLogger("dask-descent")

FOLLOW_EVERY: Final = 1.0
LOST: Final = 0.1
"""Seconds that rounds must have lost to slow workers before anything is moved for it."""
BYTES_PER_SECOND: Final = 500e6


class Follower:
    """Follows rows through one client. before_move: called before any move; nobody may hold on to the rows then."""

    def __init__(self, client: Client, workers: Workers, before_move: Callable[[], None]) -> None:
        self.client = client
        self.workers = workers
        self.loader = Loader(client, workers)
        self.before_move = before_move
        self._together: dict[Resident, int] = {}

    def known(self, rows: Rows) -> Resident | None:
        """What is resident of the rows' source."""
        found: Resident | None = rows.source.resident.get(self.client.id)
        return found

    def resident(self, source: Source, *, mend: bool) -> Resident:
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

    def release(self, rows: Rows, resident: Resident | None = None) -> None:
        """Forget what is resident of the rows' source. resident: only if it is still this: another round may have had them made again."""
        known = self.known(rows)
        if known is not None and resident in (None, known):
            rows.source.resident.pop(self.client.id, None)
            known.release()

    @contextmanager
    def watched(self, rows: Rows) -> Iterator[None]:
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

    def follow(self, resident: Resident, level: int) -> None:
        """Keep subtrees of this level together, and see after the pieces if it is time to."""
        self._keep_together(resident, level)
        if not resident.located:
            self.workers.wait(resident.futures)
            failed = failed_load(resident)
            if failed is not None:
                raise failed
        elif time.monotonic() < resident.follow_at:
            return
        self._look(resident)

    def release_level(self) -> None:
        """Subtrees need not be one thread's any more: the fit has ended."""
        for resident, level in self._together.items():
            with resident.lock:
                resident.release_level(level)
        self._together.clear()

    def _keep_together(self, resident: Resident, level: int) -> None:
        """Subtrees of this level are one thread's until the fit ends."""
        before = self._together.get(resident, 0)
        if level > before:
            with resident.lock:
                resident.keep_together(level, before)
            self._together[resident] = level

    def _look(self, resident: Resident) -> None:
        """See which workers there are and where the pieces are, and move some to whom they are better with."""
        start = time.monotonic()
        threads = usable_workers(self.client, self.workers.threads(), late=True)
        with resident.lock:
            now = time.monotonic()
            resident.follow_at = now + FOLLOW_EVERY * (1 + 50 * (now - start))  # of a thousand workers the scheduler has much to say
            if resident.moving:  # some other fit on these rows is at it
                return
            changed = resident.set_threads(threads) or (resident.uneven and resident.located)
            resident.uneven &= not changed
            misplaced = []
            if not resident.located and not any(future.status == "error" for future in resident.futures):
                holders = self.client.who_has(resident.futures)
                before = resident.assigned
                resident.adopt_holders(holders)
                resident.uneven |= resident.assigned != before and not all(resident.assigned)
                misplaced = resident.misplaced(holders)
            slow = resident.speeds.lost > LOST and resident.speeds.known(resident.workers)
            ours = resident.moving = bool(misplaced) or (resident.located and (changed or slow))
        if ours:
            try:
                if misplaced:
                    self._move(resident, misplaced)
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
        self.before_move()
        move(self.client, [(resident.futures[piece].key, source, target) for piece, source, target in moves])
        holders = self.client.who_has(resident.futures)
        with resident.lock:
            then()
            resident.speeds.moved(resident.workers)
            resident.adopt_holders(holders)
