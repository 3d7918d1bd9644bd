"""A round on a cluster: sent, waited for, and sent again where workers are lost with its rows."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import Any, Final, NamedTuple, NoReturn

from distributed.comm import CommClosedError

from pipeline.cluster.asking import forget_frames
from pipeline.cluster.task_threads import thread_given_back
from pipeline.cluster.workers import STUCK, StuckError
from pipeline.execution.base import Pending
from pipeline.execution.residency.failures import Losses
from pipeline.execution.residency.following import Follower
from pipeline.execution.residency.loading_errors import failed_load, loading_error, packages_named
from pipeline.execution.residency.resident import Resident
from pipeline.execution.sending import Sender, Sent
from pipeline.sources.rows import Rows
from tasks.loading.checking import CONTENTS
from tasks.reductions.reduction import Reduction
from tasks.rounds.fitting import Traffic

MAX_RELOADS: Final = 10
"""Times that a round is sent, or a function of partitions begun."""
MAX_STUCK: Final = 2
MAX_DEATHS: Final = 3
"""Times in a row that workers may die with the same rows in one round."""


class Found(NamedTuple):
    """The finished sums of a round."""

    sums: Any


class ClusterRound(Pending):
    """A round that is sent at once, and again as often as it takes. Raises, when it is sent or when its sums are asked for, what rounds
    do: see `ClusterExecutor`."""

    def __init__(self, follower: Follower, sender: Sender, rows: Rows, reduction: Reduction, broadcast: Any) -> None:
        self.follower = follower
        self.sender = sender
        self.rows = rows
        self.reduction = reduction
        self.broadcast = broadcast
        self._sent: Sent | None = None
        self._found: Found | None = None
        self._attempts = 0
        self._stuck = 0
        self._losses = Losses()
        self._traffic = Traffic()
        self._attempt(wait=False)

    def result(self) -> Any:
        while self._found is None:
            self._attempt(wait=True)
        return self._found.sums

    @property
    def traffic(self) -> Traffic:
        return self._traffic

    def arrived(self) -> bool:
        """Whether the sums are there. What has come back without them is sent again, and nobody waits for it. Raises as `result`."""
        if self._found is None and (self._sent is None or self._sent.done):
            self._attempt(wait=False)
        return self._found is not None

    def cancel(self) -> None:
        sent, self._sent = self._sent, None
        if sent is not None:
            sent.cancel()

    def _attempt(self, *, wait: bool) -> None:
        """Send the round if it is not under way, and take its sums: wait for them, or see whether they have arrived. Where rows were lost
        they are made again first of all in the next attempt."""
        source = self.rows.source
        with thread_given_back(), self.follower.watched(self.rows):
            resident = self.follower.resident(source, mend=self._attempts > 0) if self._sent is None else self._sent.resident
            try:
                if self._sent is None:
                    self._sent = self._send(resident)
                if wait or self._sent.arrived():
                    self._found = self._checked(self._sent)
                return
            except (CancelledError, CommClosedError, KeyError) as error:  # rows were lost with their worker, or futures with a restart:
                if isinstance(error, KeyError) and not self._lacks(error):  # they are made again
                    self._raise_named(error, resident, self.reduction.name)
                waited = isinstance(error, StuckError)
                failed = failed_load(resident)
                if failed is not None:  # and the other pieces wait for workers that it killed
                    self._raise_named(failed, resident)
                forget_frames(error)
                if not self.reduction.mends:
                    self._found = Found(None)
                    return
                self._stuck += not self._losses.note(resident, set(self.sender.workers.threads())) and waited
            except BaseException as error:  # noqa: BLE001  raised again, with what is known of it
                self._raise_named(error, resident, self.reduction.name)
            if (waited or any(future.cancelled() for future in resident.futures)) and not source.in_client:
                self.follower.release(self.rows, resident)
        self._sent = None
        self._attempts += 1
        if self._stuck > MAX_STUCK:
            raise ConnectionError(STUCK)
        if self._losses.times > MAX_DEATHS or self._attempts == MAX_RELOADS:
            raise self._losses.error(self.reduction.name, source, resident)

    def _send(self, resident: Resident) -> Sent:
        self.follower.follow(resident, self.reduction.level(self.broadcast))
        return self.sender.send(resident, self.rows, self.reduction, self.broadcast)

    def _lacks(self, error: KeyError) -> bool:
        """Whether a task did not find a piece of the rows, which was taken from its worker meanwhile: rounds that are under way beside each
        other mend, and move, the same rows."""
        return self._sent is not None and any(error.args == (key,) for each in self._sent.work for key in each.keys)

    def _checked(self, sent: Sent) -> Found:
        """The finished sums of a round, of the rows that were checked. Raises SourceChangedError for others; a reduction that mends nothing
        leaves that to those that follow."""
        n_groups, sums = sent.resident.n_groups, sent.sums()
        self._traffic = sent.traffic
        if not self.reduction.mends or self.rows.content_of(sent.groups) in (None, sums.content):
            return Found(self.reduction.whole(sums.nodes, n_groups, self.broadcast))
        found = self.sender.send(sent.resident, self.rows, CONTENTS, None).sums()
        self.rows.require_contents(CONTENTS.whole(found.nodes, n_groups, None))
        raise CancelledError  # what was lost meanwhile has been made again, as it was at first

    def _raise_named(self, error: BaseException, resident: Resident, name: str = "") -> NoReturn:
        """What is known of an error. name: of the reduction that it came in."""
        known = loading_error(error, self.rows.source, resident, self.sender.workers.limits)
        if not name or any(future.status == "error" for future in resident.futures):
            self.follower.release(self.rows, resident)  # what could not be read now may be readable later
        with packages_named(self.sender.client, self.sender.workers):
            raise known from known.__cause__
