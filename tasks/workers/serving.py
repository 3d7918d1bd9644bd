"""Participants that are parameter servers: an asynchronous fit on the workers themselves, each of which serves a slice of the vectors.

Which rounds are under way every server (`tasks.workers.servers`) knows by itself. A participant that holds the rows of one gets its
parameters, slice by slice, as soon as the servers ask for it, and pushes the slices of its gradient back to them. Which result is taken
next the root decides, rank 0; the others take the same, in the same order.

Each participant has one thread that does all this and shares it with nobody: what others say it finds in its inbox, where a thread for
each connection puts it, which does nothing else, so that two participants that send to one another never wait for each other. Gradients are
computed in the worker's own threads.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial, singledispatchmethod
from itertools import pairwise
from statistics import median
from typing import Any, Final

import numpy as np

from tasks.reductions.blocks import BLOCK
from tasks.reductions.reduction import in_order, subtrees
from tasks.reductions.stages.codecs import Blockwise, Payload
from tasks.rounds.fitting import Report, Traffic, reported
from tasks.rows.batches import Batch
from tasks.rows.digests import MODULUS
from tasks.strategies.asynchronous import Asynchronous, AsynchronousState
from tasks.strategies.compressed import Compressed, CompressedState
from tasks.typing import Array
from tasks.workers.evaluating import Found, NumberedGroups, evaluate_all
from tasks.workers.messages import Wire, packed, unpacked
from tasks.workers.participants import Done, Exchanged, Order, OtherRowsError, Participant, Plan, counted
from tasks.workers.said import Begin, Computed, Drawn, Next, Part, Pull, Push, Stop, Want
from tasks.workers.servers import Server
from tasks.workers.slices import Cut, cut_state, join_states
from tasks.workers.touched import Touched, draw, evaluate_touched, is_sparse
from tasks.workers.transport import Inbox

HOPS: Final = 2
"""The parameters of a round to its rows, and the gradient back."""


class ServingParticipant(Participant):
    """A participant that computes, and of the first ranks one that serves. incoming, outgoing: a connection for each way, of which one
    thread reads, and another writes."""

    def __init__(self, dask_worker: Any, plan: Plan, rank: int, inbox: Inbox) -> None:
        super().__init__(dask_worker, plan, rank)
        strategy = plan.fit.strategy.strategy if isinstance(plan.fit.strategy, Compressed) else plan.fit.strategy
        assert isinstance(strategy, Asynchronous)
        self.inbox = inbox
        self.strategy = strategy
        self.incoming: list[Wire] = []
        self.outgoing: dict[int, Wire] = {}
        self.n_messages = 0
        self.n_bytes = Counter[type]()  # sent, by what they were
        self.before = Exchanged(0, 0, 0, 0, 0, 0)  # of all, before this order
        self.server: Server
        self.rows = dict(self._rows())
        self.parts: dict[int, Part] = {}
        self.early: list[Any] = []
        self._forget(0)

    def _cut(self, rank: int) -> Cut:
        """The slice of a participant, an empty one where it serves none."""
        n = self.plan.fit.objective.layout.size
        return self.plan.cuts[rank] if rank < len(self.plan.cuts) else Cut(n, n)

    def _rows(self) -> Any:
        """The number of each subtree of groups that is here, and its groups."""
        for _, shards in self.threads:
            groups = in_order(shards, self.plan.subset)
            for (level, index), subtree in subtrees(groups, self.plan.n_groups, self.strategy.strategy.sampling.level):
                yield index, list(enumerate(subtree, index << level))

    def _forget(self, generation: int) -> None:
        """What belonged to the states before."""
        self.generation = generation
        self.pulled: dict[int, dict[int, Pull]] = {}  # by the number of the round, and the rank of the server
        self.touched: dict[int, Touched] = {}  # by subtree
        self.decided: deque[int] = deque()
        self.stopping = False

    @property
    def others(self) -> list[int]:
        return [rank for rank in range(len(self.plan.duties)) if rank != self.rank]

    @property
    def partners(self) -> list[int]:
        """The ranks to whom there is something to say."""
        n_servers = len(self.plan.cuts)
        return [rank for rank in self.others if rank < n_servers or self.rank < n_servers]

    def leave(self) -> None:
        super().leave()
        for wire in (*self.incoming, *self.outgoing.values()):
            wire.stream.end()
        self.rows.clear()
        self.inbox.put(None)

    # -- the threads of a session --------------------------------------------------------------------------------------------------------

    def listen(self, wire: Wire) -> None:
        """Put what another participant says into the inbox, until it is gone."""
        try:
            while True:
                self.inbox.put(unpacked(wire.receive()))
        finally:
            self.inbox.put(None)

    def follow(self) -> None:
        """Do what others say, until one is gone."""
        while True:
            self._hear(self._message())

    def advance(self, order: Order, states: list[Any]) -> Done:
        """Some rounds, led from here."""
        start = time.perf_counter()
        if order.states is not None:
            self._begin(*states)
        ends, reports = [0.0], list[Report]()
        while self.server.goes_on and len(reports) < order.n_rounds and ends[-1] < order.seconds:
            server = self.server
            number = next((number for number in self.plan.fit.candidates([server.state]) if number in server.pushed), None)
            if number is None:
                self._hear(self._message())
                continue
            for rank in range(1, len(self.plan.cuts)):
                self._send(rank, Next(self.generation, number))
            staleness, report = self.plan.fit.missed(server.state, number), server.pushed[number].report
            assert report is not None
            self._take(number)
            ends.append(time.perf_counter() - start)
            reports.append(reported(report, [server.state], ends[-1], staleness))
            counted["rounds"] += 1
        return self._done(reports, ends)

    @property
    def _codec(self) -> Blockwise | None:
        """That of packets."""
        coding = self.plan.fit.coding
        return coding.down if coding is not None and isinstance(coding.down, Blockwise) else None

    def _begin(self, state: AsynchronousState | CompressedState) -> None:
        """Have all go on from this state."""
        generation = self.generation + 1
        for rank in (*self.others, self.rank):
            self._send(rank, Begin(generation, cut_state(state, self._cut(rank), self._codec)))

    def _done(self, reports: list[Report], ends: list[float]) -> Done:
        """Have all stop, and put together what they have."""
        for rank in (*self.others, self.rank):
            self._send(rank, Stop(self.generation))
        while len(self.parts) < len(self.plan.duties):
            self._hear(self._message())
        parts = [self.parts.pop(rank) for rank in range(len(self.plan.duties))]
        if self.plan.content not in (None, sum(part.content for part in parts) % MODULUS):
            raise OtherRowsError
        servers = parts[: len(self.plan.cuts)]
        norms = np.max([part.gradient_norms for part in servers], axis=0).tolist()
        reports = [report._replace(gradient_norm=norm) for report, norm in zip(reports, norms, strict=True)]
        lengths = [after - before for before, after in pairwise(ends)]
        traffic = tuple(part.traffic for part in parts)
        so_far = Exchanged(*map(sum, zip(*traffic, strict=True)))
        of_round = Exchanged(*(round((now - then) / max(1, len(reports))) for now, then in zip(so_far, self.before, strict=True)))
        self.before = so_far
        reports = [report._replace(traffic=Traffic(of_round.of_parameters, of_round.of_gradients)) for report in reports]
        state = join_states([part.state for part in servers])
        return Done([state], reports, ends[-1], median(lengths or [0.0]), {}, of_round.messages, HOPS, traffic)

    # -- messages ------------------------------------------------------------------------------------------------------------------------

    def _message(self) -> Any:
        """The next one. Raises ConnectionError when the session is over."""
        message = self.inbox.get()
        if message is None:
            raise ConnectionError("another participant of the session is gone")
        return message

    def _send(self, rank: int, message: Any) -> None:
        if rank == self.rank:
            self._hear(message)
        else:
            wire = self.outgoing[rank]
            before = wire.sent
            wire.send(packed(message))
            self.n_messages += 1
            self.n_bytes[type(message)] += wire.sent - before

    def _hear(self, message: Any) -> None:
        """What is about older states is of no use any more, what is about newer ones has to wait for them."""
        if message.generation == self.generation or isinstance(message, Begin):
            self._heard(message)
        elif message.generation > self.generation:
            self.early.append(message)

    @singledispatchmethod
    def _heard(self, message: Any) -> None:
        raise TypeError(f"no message between participants: {type(message).__name__}")

    @_heard.register
    def _(self, message: Begin) -> None:
        self._forget(message.generation)
        self.heard = time.monotonic()
        self.server = Server(self.plan.fit, self._cut(self.rank), self.rank, message.generation, message.state)
        under_way = {asked.subtree: asked.request.batch for asked in message.state.asked}
        for subtree, rows in self.rows.items():
            if self._is_sparse(rows):
                assert isinstance(message.state, AsynchronousState)
                self._draw(subtree, under_way.get(subtree) or self.strategy.next_batch(message.state, subtree))
            else:
                for rank in range(len(self.plan.cuts)):
                    self._send(rank, Want(self.generation, self.rank, subtree))
        early, self.early = self.early, []
        for each in early:
            self._hear(each)

    @_heard.register
    def _(self, message: Want) -> None:
        self.server.want(message)
        self._serve()

    @_heard.register
    def _(self, message: Drawn) -> None:
        touched = self.touched[message.subtree] = message.result.result()
        for rank, positions in enumerate(self._split(touched.positions, touched.positions)):
            here = (positions - self.plan.cuts[rank].begin).astype(np.int32)
            self._send(rank, Want(self.generation, self.rank, message.subtree, here))

    @_heard.register
    def _(self, message: Pull) -> None:
        parts = self.pulled.setdefault(message.number, {})
        parts[message.rank] = message
        if len(parts) == len(self.plan.cuts):
            self._compute([parts[rank] for rank in sorted(parts)])
            del self.pulled[message.number]

    @_heard.register
    def _(self, message: Computed) -> None:
        evaluation, report, _ = found = message.result.result()
        touched = self.touched.pop(message.subtree, None)
        slices = self._sliced(found) if touched is None else [(each,) for each in self._split(touched.positions, evaluation.gradient)]
        for rank, gradient in enumerate(slices):
            said = None if rank else report
            self._send(rank, Push(self.generation, message.number, evaluation.value, evaluation.weight, gradient, said))
        if touched is not None:
            self._draw(message.subtree, touched.batch.following)

    @_heard.register
    def _(self, message: Push) -> None:
        self.server.pushed[message.number] = message
        self._take_decided()

    @_heard.register
    def _(self, message: Next) -> None:
        self.decided.append(message.number)
        self._take_decided()

    @_heard.register
    def _(self, message: Stop) -> None:
        self.heard = time.monotonic()
        self.stopping = True
        self._take_decided()

    @_heard.register
    def _(self, message: Part) -> None:
        self.parts[message.rank] = message

    # -- rounds --------------------------------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Send what rounds have to be sent."""
        for rank, pull in self.server.pulls():
            self._send(rank, pull)

    def _take(self, number: int) -> None:
        """Move the slice here."""
        self.server.take(number)
        self._serve()

    def _is_sparse(self, rows: NumberedGroups) -> bool:
        """Whether batches of these rows are to have but the parameters that they touch. Values of the penalty are of whole blocks."""
        return all(cut.begin % BLOCK == 0 for cut in self.plan.cuts) and is_sparse(self.plan.fit, [group for _, group in rows])

    def _split(self, positions: Array, values: Array) -> list[Array]:
        """The values at these positions, ascending, that are in the slice of each server."""
        return np.split(values, np.searchsorted(positions, [cut.begin for cut in self.plan.cuts[1:]]))

    def _sliced(self, found: Found) -> list[Payload]:
        """The slices of a gradient, or of its payload, for each server."""
        coding = self.plan.fit.coding
        if found.payload is None or coding is None:
            return [(cut.of(found.evaluation.gradient),) for cut in self.plan.cuts]
        assert isinstance(coding.up, Blockwise)
        return [coding.up.cut(found.payload, cut.begin, cut.end) for cut in self.plan.cuts]

    def _draw(self, subtree: int, batch: Batch) -> None:
        """Draw the next batch of CSR rows, in one of the worker's threads."""
        rows = [group for _, group in self.rows[subtree]]
        self._run(partial(Drawn, self.generation, subtree), draw, self.plan.fit.objective, rows, batch)

    def _compute(self, pulls: list[Pull]) -> None:
        """The gradient of a round, of which all slices are here, in one of the worker's threads."""
        number, request = pulls[0].number, join_states([pull.request for pull in pulls])
        subtree = request.batch.subtree
        then = partial(Computed, self.generation, number, subtree)
        if subtree in self.touched:
            penalties = [value for pull in pulls for value in pull.penalties]
            self._run(then, evaluate_touched, self.touched[subtree], number, request, penalties)
        else:
            self._run(then, evaluate_all, self.plan.fit, self.rows[subtree], self.plan.n_groups, number, request)

    def _run(self, then: Callable[[Any], Any], function: Callable[..., Any], *arguments: Any) -> None:
        """Call in a thread of the worker's, and put into the inbox what `then` makes of the result."""
        future = self.worker.executors["default"].submit(function, *arguments)
        future.add_done_callback(lambda done: self.inbox.put(then(done)))

    def _take_decided(self) -> None:
        """Take the results that are next, as far as they are here; when all are taken, and the root wants to know, say where that is."""
        while self.decided and self.decided[0] in self.server.pushed:
            self._take(self.decided.popleft())
        if self.stopping and not self.decided:
            self.stopping = False
            norms, self.server.gradient_norms = self.server.gradient_norms, []
            self._send(0, Part(self.generation, self.rank, self.server.state, norms, self.content, self._traffic))

    @property
    def _traffic(self) -> Exchanged:
        sent = sum(wire.sent for wire in self.outgoing.values())
        received, of = sum(wire.received for wire in self.incoming), self.n_bytes
        return Exchanged(sent, received, self.n_messages, of[Begin] + of[Part], of[Pull], of[Push])
