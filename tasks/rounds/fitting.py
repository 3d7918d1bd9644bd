"""One fit as pure functions of its states: what the next round asks, and what its sums do to the states.

The loop itself runs wherever rounds are cheapest to watch from: in the client (`pipeline/training/loop.py`) or on a worker
(`tasks/workers/participants.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from math import nan
from typing import Any, Final, NamedTuple, Protocol
from uuid import uuid4

import numpy as np

from tasks.objectives.base import HessianBlockSums, HessianSums, HessianVectorSums, Objective
from tasks.objectives.evaluation import Evaluation
from tasks.objectives.linear import LinearObjective
from tasks.objectives.penalties import L2, ElasticNet, Penalty
from tasks.reductions.reduction import Reduction, array_bytes
from tasks.reductions.stages.compression import Coding
from tasks.reductions.stages.marks import Marked, Marks
from tasks.rounds.oracles import ORACLES, Broadcast, reduction_of
from tasks.strategies.base import Agreeing, LocalSteps, Overlapping, Remembering, Request, Residuals, Strategy
from tasks.strategies.compressed import Compressed
from tasks.strategies.local_sgd import LocalSGD
from tasks.typing import Array


class Round(NamedTuple):
    """One round: the requests that its pass serves, by number of the model; and what the workers get. number: of the rounds that an
    `Overlapping` strategy has under way, which one it is; 0 of others."""

    requests: dict[int, Request]
    broadcast: Broadcast
    number: int = 0

    @property
    def row_step(self) -> float:
        """One of how many rows it reads."""
        batch, local = self.broadcast.batch, self.broadcast.local
        if batch is None or batch.number < 0:
            return float(self.broadcast.row_step)
        return batch.sampling.rounds_an_epoch / (len(local.step_sizes) if isinstance(local, LocalSteps) else 1)

    @property
    def reduction(self) -> Reduction:
        """What computes its sums."""
        return reduction_of(self.broadcast)


class Traffic(NamedTuple):
    """The bytes of a round between processes. sent: towards the workers; received: from them."""

    sent: int = 0
    received: int = 0


NO_TRAFFIC: Final = Traffic()


class Report(NamedTuple):
    """What there is to say of a round: see `pipeline.training.history.Row`. n_bytes: of numbers that one worker receives and returns;
    elapsed: seconds since whoever runs the rounds began; marks: of its sums, where the fit is marked; subtree: the only one that it is
    about; staleness: updates since its parameters; traffic: what went between processes; number: see `Round`; residuals: of subtrees
    that are to agree."""

    oracle: str
    row_step: float
    iteration: int
    objective: float
    gradient_norm: float
    n_bytes: int
    elapsed: float
    marks: Marks | None = None
    subtree: int | None = None
    staleness: int = 0
    traffic: Traffic = NO_TRAFFIC
    number: int = 0
    residuals: Residuals | None = None


@dataclass(frozen=True, eq=False)
class Fit:
    """k models, one penalty each. They run in lockstep and share each pass over the rows; a model that is done leaves. marked: whether
    reports have the marks of their rounds' sums; name: of no other fit, for what is remembered beside the rows."""

    objective: Objective
    penalties: tuple[Penalty, ...]
    strategy: Strategy
    marked: bool = False
    name: str = field(default_factory=lambda: uuid4().hex)

    def __post_init__(self) -> None:
        objective, strategy = type(self.objective).__name__, type(self.strategy).__name__
        unknown = [name for name in self.strategy.oracles if name not in ORACLES]
        if unknown:
            raise ValueError(f"{strategy} asks for {unknown[0]!r}, which is no oracle; those are {', '.join(ORACLES)}")
        lacking = [ORACLES[name].needs for name in self.strategy.oracles if not isinstance(self.objective, ORACLES[name].needs)]
        if lacking:
            missing = [name for name in dict.fromkeys(chain.from_iterable(map(members, lacking))) if name not in dir(self.objective)]
            raise TypeError(f"{objective} is not compatible with {strategy}: it must implement {', '.join(missing)}")
        curved = [name for name in self.strategy.oracles if ORACLES[name].needs in (HessianSums, HessianBlockSums, HessianVectorSums)]
        if curved and isinstance(self.objective, LinearObjective) and not self.objective.loss.smooth:
            raise ValueError(
                f"{strategy} cannot do the {self.objective.loss.name} loss: it has no curvature to go by (its second derivative is zero"
                " between kinks); use StochasticGradient, or a smooth loss"
            )
        if self.remembering is not None and len(self.penalties) > 1:
            raise ValueError(
                f"{strategy}, whose subtrees remember something, is for one model, got {len(self.penalties)} penalties; fit them one after"
                f" the other{', or with keep_slots=False and control_variates=False' * isinstance(self.strategy, LocalSGD)}"
            )
        if isinstance(self.strategy, Compressed) and self.strategy.layout != self.objective.layout:
            raise ValueError(f"{strategy} is for parameters of another layout; make it with the layout of this {objective}")
        self._check_tracked()
        kinks = [type(penalty).__name__ for penalty in self.penalties if penalty.kinks]
        if kinks and not self.strategy.takes_kinks:
            raise ValueError(
                f"{strategy} cannot do the penalty {kinks[0]}: it has kinks (an L1 part); use StochasticGradient, or a smooth penalty, L2"
            )
        others = [type(penalty).__name__ for penalty in self.penalties if type(penalty) not in (L2, ElasticNet)]
        if others and self.served:
            raise ValueError(
                f"workers that serve slices cannot cut the penalty {others[0]}: use L2, ElasticNet, or rounds that go through the client,"
                " Overlap(served=False)"
            )

    def _check_tracked(self) -> None:
        """Raise ValueError where running statistics would get lost."""
        names = list(self.objective.layout.tracked)
        asks = "gradient_difference" in self.strategy.oracles
        cannot = "compare gradients of two places" if asks else "compress what is sent" if self.coding is not None else ""
        if not cannot and self.served:
            cannot = "update slices of the parameters by themselves"
        if names and cannot:
            raise ValueError(
                f"{type(self.strategy).__name__}, whose rounds {cannot}, cannot keep running statistics ({names[0]}); use other rounds,"
                f" freeze these (frozen=[{names[0]!r}, ...]), or use layers without any, torch.nn.LayerNorm for instance"
            )

    def init(self, parameters: Array) -> list[Any]:
        """The states before the first round, from parameters (k, n)."""
        return [self.strategy.init(row) for row in parameters]

    @cached_property
    def overlapping(self) -> Overlapping | None:
        """The strategy, where it wants several rounds under way."""
        return self.strategy if isinstance(self.strategy, Overlapping) else None

    @cached_property
    def coding(self) -> Coding | None:
        """How what travels is made small; None: nothing is."""
        return self.strategy.coding if isinstance(self.strategy, Compressed) else None

    @cached_property
    def remembering(self) -> Remembering | None:
        """The strategy, where subtrees remember something from round to round."""
        return self.strategy if isinstance(self.strategy, Remembering) and self.strategy.n_remembered else None

    @property
    def overlaps(self) -> bool:
        """Whether several rounds may be under way at a time."""
        return self.overlapping is not None and self.overlapping.overlaps

    @cached_property
    def agreeing(self) -> Agreeing | None:
        """The strategy, where subtrees go their own ways and are to agree."""
        return self.strategy if isinstance(self.strategy, Agreeing) else None

    @property
    def adds_up(self) -> bool:
        """Whether what subtrees return in its rounds is added up on its way."""
        return self.coding is None and all(ORACLES[name].reduction.adds_up for name in self.strategy.oracles)

    @cached_property
    def served(self) -> bool:
        """Whether workers that hold the rows may make its updates slice by slice: those of a single model."""
        return self.overlapping is not None and self.overlapping.served and len(self.penalties) == 1

    def repeating(self, subtrees: Sequence[int]) -> Fit:
        """The same fit, which takes results in the order of one that took those of these subtrees first."""
        return self if self.overlapping is None else replace(self, strategy=self.overlapping.repeating(subtrees))

    def under_way(self, states: Sequence[Any]) -> list[int]:
        """The numbers of the rounds that are to be under way, oldest first; none when all models are done."""
        running = [state for state in states if state.status.kind == "running"]
        if self.overlapping is None:
            return [0] if running else []
        return sorted({asked.number for state in running for asked in state.asked})

    def candidates(self, states: Sequence[Any]) -> list[int]:
        """The numbers of the rounds of which the next result may be, oldest first. Models that share rounds take the same."""
        if self.overlapping is None:
            return [0]
        return self.overlapping.candidates(next(state for state in states if state.status.kind == "running"))

    def ask(self, states: Sequence[Any], number: int = 0) -> Round | None:
        """The round of that number which serves the first running model and all that ask for the same sums; None when all are done."""
        running = {model: state for model, state in enumerate(states) if state.status.kind == "running"}
        requests = {model: request for model, state in running.items() if (request := self._request(state, number)) is not None}
        if not requests:
            return None
        kinds = {model: (request.oracle, request.row_step, request.batch, request.local) for model, request in requests.items()}
        first = next(iter(kinds.values()))
        requests = {model: request for model, request in requests.items() if kinds[model] == first}
        return self.round_of(requests, number)

    def round_of(self, requests: dict[int, Request], number: int) -> Round:
        """The round that serves these requests for the same sums."""
        first = next(iter(requests.values()))
        parameters = stacked([request.parameters for request in requests.values()])
        directions = [request.direction for request in requests.values() if request.direction is not None]
        spec = ORACLES[first.oracle]
        penalties = tuple(self.penalties[model] for model in requests) if spec.penalised else ()
        along = stacked(directions) if directions else None
        if spec.without is not None and isinstance(self.objective, spec.without):
            parameters = parameters[:, :0]
        elif spec.by_columns:
            by_columns = self.objective.layout.by_columns
            parameters, along = by_columns(parameters), None if along is None else by_columns(along)
        broadcast = Broadcast(
            self.objective, first.oracle, parameters, along, first.row_step, penalties, first.batch, self.marked, first.local
        )
        if first.packet is not None:
            broadcast = broadcast._replace(parameters=parameters[:, :0], packet=first.packet, coding=self.coding)
        if first.remembers:
            broadcast = broadcast._replace(fit=self.name)
        return Round(requests, broadcast, number)

    def _request(self, state: Any, number: int) -> Request | None:
        """What a model asks for in the round of that number, if it takes part."""
        if self.overlapping is None:
            return self.strategy.request(state)
        return next((asked.request for asked in state.asked if asked.number == number), None)

    def update(self, states: Sequence[Any], this: Round, sums: Any) -> list[Any]:
        """The states after a round."""
        after = list(states)
        for model, evaluation in self.evaluations(this, sums):
            if self.overlapping is None:
                after[model] = self.strategy.update(states[model], evaluation)
            else:
                after[model] = self.overlapping.take(states[model], this.number, evaluation)
        return after

    def evaluations(self, this: Round, sums: Any) -> Iterator[tuple[int, Evaluation]]:
        """What each model learns from a round, beside its number."""
        sums = sums.sums if isinstance(sums, Marked) else sums
        evaluate = ORACLES[this.broadcast.oracle].evaluate
        for position, (model, request) in enumerate(this.requests.items()):
            yield model, evaluate(request, sums, position, self.objective, self.penalties[model])

    def staleness(self, states: Sequence[Any], this: Round) -> int:
        """The updates that a round's parameters have missed, by the states before its result is taken."""
        if self.overlapping is None:
            return 0
        return self.missed(states[next(iter(this.requests))], this.number)

    @staticmethod
    def missed(state: Any, number: int) -> int:
        """The updates that the parameters of a round under way have missed so far."""
        return int(state.n_taken - next(asked.version for asked in state.asked if asked.number == number))

    def residuals(self, states: Sequence[Any]) -> Residuals | None:
        """How far the models are from agreement, the worst of them; None where nobody is to agree, or nobody has met yet."""
        if self.agreeing is None:
            return None
        found = [each for state in states if (each := self.agreeing.residuals(state)) is not None]
        return Residuals(*np.max(found, axis=0).tolist()) if found else None

    def report(
        self, this: Round, sums: Any, states: Sequence[Any], elapsed: float, staleness: int = 0, traffic: Traffic = NO_TRAFFIC
    ) -> Report:
        """What there is to say of a round, from the states after it."""
        found = reported(about(this, sums), states, elapsed, staleness)
        return found._replace(traffic=traffic, residuals=self.residuals(states))


def about(this: Round, sums: Any) -> Report:
    """What there is to say of a round by itself, before it has moved anything."""
    marks: Marks | None = None
    if isinstance(sums, Marked):
        sums, marks = sums
    batch = this.broadcast.batch
    subtree = None if batch is None else batch.subtree
    n_bytes = round_bytes(this.broadcast, sums)
    return Report(this.broadcast.oracle, this.row_step, 0, nan, nan, n_bytes, 0.0, marks, subtree, number=this.number)


def reported(round_alone: Report, states: Sequence[Any], elapsed: float, staleness: int) -> Report:
    """The same with what the states after it say."""
    iterates = [state.iterate for state in states]
    return round_alone._replace(
        iteration=max(state.iteration for state in states),
        objective=float(np.max([a.value for a in iterates])),  # unlike max, NaN wins
        gradient_norm=gradient_norm(states),
        elapsed=elapsed,
        staleness=staleness,
    )


def gradient_norm(states: Sequence[Any]) -> float:
    """The largest |gradient| of all; NaN wins."""
    gradients = [state.iterate.gradient for state in states]
    return float(np.max([max(float(np.max(each, initial=0.0)), -float(np.min(each, initial=0.0))) for each in gradients]))


def members(protocol: type) -> list[str]:
    """The public names that a protocol asks for."""
    own = [base for base in protocol.__mro__ if getattr(base, "_is_protocol", False) and base is not Protocol]
    return [name for base in own for name in (*vars(base), *vars(base).get("__annotations__", ())) if not name.startswith("_")]


def stacked(vectors: Sequence[Array]) -> Array:
    """(k, n) from k vectors; one is not copied."""
    return np.stack(vectors) if len(vectors) > 1 else vectors[0][None]


def round_bytes(broadcast: Broadcast, sums: Any) -> int:
    """Bytes of numbers that one worker receives and returns in a round; about those of compressed ones."""
    returned = array_bytes(tuple(sums)) if broadcast.coding is None else reduction_of(broadcast).n_bytes(broadcast, 0)
    return array_bytes((broadcast.parameters, broadcast.direction, broadcast.local, broadcast.packet)) + returned
