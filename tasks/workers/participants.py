"""Resident rounds: a fit's loop on the workers themselves, beside the rows.

The participants of a *session* are the workers that hold the rows. Participant 0, the root, runs the loop of `tasks.rounds.fitting.Fit`;
the input of a round goes down a binomial tree over the participants, in which the parent of r is r & (r - 1), and the partial sums come up;
those that do not add up (compressed ones, places that are to agree) do not become fewer on the way, and go to the root at once.
Sums are merged by their nodes in the fixed tree of `tasks.reductions.tree`, so the bits are those of every other way of running
rounds.

A session lives as long as its connections: whoever ends, or dies, closes its own, and so all do within milliseconds. The client's
connection to the root is one of them. What has failed is not told: the client repeats the round in another way, which raises
errors and makes lost rows again.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import chain, pairwise
from statistics import median
from typing import Any, Final, NamedTuple

import numpy as np

from tasks.loading.residence import at_home
from tasks.machine.threads import single_blas_thread
from tasks.objectives.linear import LinearObjective
from tasks.reductions.reduction import NodeSums, array_bytes, content_of, joined, prepare_shards, reduce_joined, reduce_shards
from tasks.reductions.tree import Node, Tree
from tasks.rounds.fitting import Fit, Report, Round, Traffic
from tasks.rounds.oracles import Broadcast, reduction_of
from tasks.rows.digests import MODULUS
from tasks.rows.partition import Shard
from tasks.workers.messages import Message, Wire, n_bytes, packed, unpacked
from tasks.workers.slices import Cut

OPERATION: Final = "dask_descent_session"
INLINE: Final = 0.5e-3
"""Seconds: what takes no longer in all is done in one thread, because further ones would take a tenth of that to begin and end."""
JOINED_BYTES: Final = 1 << 20
"""Rows of a thread that are copied together: calls for small groups take longer than their arithmetic."""
LOOK_EVERY: Final = 0.25
SILENCE: Final = 60.0
"""Seconds without a word from the client end a session: a client that hangs must not hold rows."""
ROUND_BYTES: Final = 64 << 20
"""What a participant may receive and return in a round; more goes from worker to worker by tasks."""

live: Final[set[Participant]] = set()
counted: Final[Counter[str]] = Counter()
"""Of this process: sessions that run, and rounds that ended here, for whoever wants to know whether there are any."""


class Duty(NamedTuple):
    """What a participant does: the address of its worker, and the number and the pieces of each of its threads."""

    worker: str
    threads: tuple[tuple[int, tuple[Any, ...]], ...]


class Plan(NamedTuple):
    """A session. subset: of the dataset; n_columns: of the rows; level: of the largest subtrees that threads have whole; duties: by rank;
    envelope: see `tasks.workers.messages.Link`; content: what the digests of all rows should add up to, None where that is not known; name:
    the session's; cuts: the slices that its first participants serve, where there are such (`tasks.workers.servers`)."""

    fit: Fit
    subset: int
    n_groups: int
    n_columns: int
    level: int
    duties: Sequence[Duty]
    envelope: Callable[[Message], Any]
    content: int | None = None
    name: str = ""
    cuts: tuple[Cut, ...] = ()

    def below(self, rank: int) -> list[int]:
        """The participants that are told of rounds by this one, and answer it. Where nobody could add their sums up on the way, all others
        are below the root."""
        n = len(self.duties)
        if self.fit.adds_up:
            return children(rank, n)
        return [] if rank else list(range(1, n))


class Exchanged(NamedTuple):
    """What a server has sent to other participants, and received from them, in a session so far: bytes; messages, sent; and how many of
    the bytes sent were slices of states, with which the client's orders begin and end, of parameters, and of gradients."""

    sent: int
    received: int
    messages: int
    of_states: int
    of_parameters: int
    of_gradients: int


class Order(NamedTuple):
    """What the client asks of the root: some rounds, at most n_rounds, and no further one after so many seconds. states: None for those
    that the last order left."""

    n_rounds: int
    seconds: float
    states: list[Any] | None


class Done(NamedTuple):
    """The root's answer. elapsed: seconds until the last round was over; round_seconds: of a round, the median; seconds: of the last round,
    by the number of the thread; messages, hops: of the last round, as counted on the way; traffic: of each participant that serves, or is
    served."""

    states: list[Any]
    reports: list[Report]
    elapsed: float
    round_seconds: float
    seconds: dict[int, float]
    messages: int
    hops: int
    traffic: tuple[Exchanged, ...] = ()


class Answer(NamedTuple):
    """What goes up the tree: the sums of a participant and of those below it; how many messages these took, and the longest way; content:
    what the digests of these rows add up to, see `tasks.reductions.reduction.NodeSums`; traffic: of those below, and with them."""

    nodes: dict[Node, Any]
    seconds: dict[int, float]
    messages: int
    hops: int
    content: int = 0
    traffic: Traffic = Traffic()


class OtherRowsError(Exception):
    """The rows here are not those that the client knows. The round that follows the session says where."""


def children(rank: int, n: int) -> list[int]:
    """In the binomial tree over n participants, largest subtrees first."""
    steps = [1 << k for k in range(n.bit_length()) if not rank or 1 << k < rank & -rank]
    return [rank + step for step in reversed(steps) if rank + step < n]


def round_too_large(this: Round, n_columns: int, n_groups: int, n_workers: int, n_sums: float) -> bool:
    """Whether a round moves more than participants should. n_sums: that one of them returns, where sums add up. Where they do not, the root
    hears of each subtree, and tells each worker."""
    n_messages = 1
    if not this.reduction.adds_up:
        n_sums, n_messages = this.reduction.n_subtrees(this.broadcast, n_groups), n_workers
    return this.reduction.n_bytes(this.broadcast, n_columns) * n_sums + array_bytes(tuple(this.broadcast)) * n_messages > ROUND_BYTES


class Participant:
    """What one worker does in one session. Rounds have a thread of their own, which mostly waits."""

    def __init__(self, dask_worker: Any, plan: Plan, rank: int) -> None:
        self.worker = dask_worker
        self.plan = plan
        self.rank = rank
        self.threads: list[tuple[int, list[Shard]]] = [
            (thread, [dask_worker.data[key] for key in keys]) for thread, keys in plan.duties[rank].threads
        ]
        self.joined = {
            thread: joined([settled(shard, plan.subset) for shard in shards], plan.subset, plan.n_groups)
            for thread, shards in self.threads
            if type(plan.fit.objective) is LinearObjective
            and not (plan.fit.marked or plan.cuts)
            and sum(map(sys.getsizeof, shards)) <= JOINED_BYTES
        }
        self.parent: Wire | None = None
        self.children: list[Wire] = []
        self.took: dict[Any, float] = {}
        self.heard = time.monotonic()
        self.ended = False

    @cached_property
    def content(self) -> int:
        """The content of the rows here, which stay the same as long as the session lasts."""
        return 0 if self.plan.content is None else content_of(chain.from_iterable(shards for _, shards in self.threads), self.plan.subset)

    def leave(self) -> None:
        """Let go of the rows, and of whoever waits."""
        self.ended = True
        for wire in (self.parent, *self.children):
            if wire is not None:
                wire.stream.end()
        self.threads.clear()  # last: sums without them must reach nobody
        self.joined.clear()

    def follow(self) -> None:
        """Answer the parent, until it is gone."""
        assert self.parent is not None
        while not self.ended:
            message = self.parent.receive()
            self.heard = time.monotonic()
            broadcast = Broadcast(self.plan.fit.objective, *unpacked(message))
            self.parent.send(packed(tuple(self._round(message, broadcast, nothing))))
            if not self.children:
                self._prepare(broadcast)

    def advance(self, order: Order, states: list[Any]) -> Done:
        """Some rounds, led from here."""
        plan, fit = self.plan, self.plan.fit
        start = time.perf_counter()
        ends = [0.0]
        reports: list[Report] = []
        last = Answer({}, {}, 0, 0)
        tell = nothing
        with single_blas_thread():
            while len(ends) <= order.n_rounds and ends[-1] < order.seconds and not self.ended:
                this = fit.ask(states, fit.candidates(states)[0]) if fit.under_way(states) else None
                if this is None or round_too_large(this, plan.n_columns, plan.n_groups, len(plan.duties), 1 + len(last.nodes)):
                    break
                if this.reduction.level(this.broadcast) > plan.level:
                    break
                last = self._round(packed(tuple(this.broadcast)[1:]), this.broadcast, tell)
                if plan.content not in (None, last.content):
                    raise OtherRowsError
                whole = this.reduction.whole(last.nodes, plan.n_groups, this.broadcast)
                states = fit.update(states, this, whole)
                ends.append(time.perf_counter() - start)
                tell = partial(lambda *of_round: reports.append(fit.report(*of_round)), this, whole, states, ends[-1], 0, last.traffic)
                counted["rounds"] += 1
            tell()
        lengths = [after - before for before, after in pairwise(ends)]
        return Done(states, reports, time.perf_counter() - start, median(lengths or [0.0]), last.seconds, last.messages, last.hops)

    def _round(self, message: Message, broadcast: Broadcast, meanwhile: Callable[[], Any]) -> Answer:
        """The sums of this participant and of those below it; meanwhile: for the time that they take to arrive."""
        for child in self.children:
            child.send(message)
        kind = (broadcast.oracle, broadcast.row_step, broadcast.batch is None or broadcast.batch.number < 0, broadcast.parameters.shape)
        work = [self._work(thread, shards, broadcast) for thread, shards in self.threads]
        if len(work) > 1 and self.took.get(kind, np.inf) > INLINE:
            others = [self.worker.executors["default"].submit(each) for each in work[1:]]
            own = [work[0](), *(other.result() for other in others)]
        else:
            own = [each() for each in work]
        self.took[kind] = sum(seconds for sums in own for seconds in sums.seconds.values())
        meanwhile()
        if self.children:
            self._prepare(broadcast)
        answers = [child.receive() for child in self.children]
        traffic = Traffic(n_bytes(message) * len(answers), sum(map(n_bytes, answers)))
        return self._merged(own, [Answer(*unpacked(answer)) for answer in answers], reduction_of(broadcast).combine, traffic)

    def _prepare(self, broadcast: Broadcast) -> None:
        """The next round, while the others' sums or its input are awaited; what several threads compute is not for one to prepare."""
        if len(self.threads) == 1:
            ((_, shards),) = self.threads
            prepare_shards(shards, self.plan.subset, self.plan.n_groups, reduction_of(broadcast), broadcast)

    def _work(self, thread: int, shards: list[Shard], broadcast: Broadcast) -> Callable[[], NodeSums]:
        plan, reduction = self.plan, reduction_of(broadcast)
        if broadcast.batch is None and broadcast.local is None and thread in self.joined:
            return partial(reduce_joined, self.joined[thread], thread, plan.n_groups, reduction, broadcast)
        return partial(reduce_shards, shards, thread, plan.subset, plan.n_groups, reduction, broadcast)

    def _merged(self, own: list[NodeSums], below: list[Answer], combine: Callable[[Any, Any], Any], traffic: Traffic) -> Answer:
        """All these sums are new, of this round alone, and may be added in place."""
        tree = Tree(self.plan.n_groups, combine)
        seconds: dict[int, float] = {}
        for sums in [*own, *(NodeSums(each.nodes, each.seconds) for each in below)]:
            tree.merge(sums.nodes)
            seconds |= sums.seconds
        messages = len(self.children) + (self.rank > 0) + sum(each.messages for each in below)
        hops = max((each.hops + 2 for each in below), default=0)
        content = (self.content + sum(each.content for each in below)) % MODULUS
        traffic = Traffic(*(sum(of) for of in zip(traffic, *(each.traffic for each in below), strict=True)))
        return Answer(tree.nodes, seconds, messages, hops, content, traffic)


def settled(shard: Shard, subset: int) -> Shard:
    """The shard, whose groups are at home: neighbours on a device and on the host could not be put together."""
    at_home(shard.groups(subset))
    return shard


def nothing() -> None:
    """Before the first round there is nothing to do meanwhile."""
