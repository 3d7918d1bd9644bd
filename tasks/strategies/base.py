"""The protocol of a strategy: state in, state out; it knows arrays and no Dask.

A strategy is a frozen set of hyperparameters. Its state is a NamedTuple of arrays, numbers and strings: what a checkpoint saves, while the
fit goes on, and without another look at arrays that were in the one before; so nothing may write to them. The training loop asks
`request(state)`, has the reduction computed where the data lives, and hands the evaluation to `update`. Line-search trials are ordinary
rounds of that loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from tasks.objectives.evaluation import Evaluation
from tasks.reductions.stages.compression import Packet
from tasks.rows.batches import Batch, Sampling
from tasks.strategies.optimizers import Optimizer
from tasks.typing import Array, Float64


class LocalSteps(NamedTuple):
    """The updates that each subtree of groups makes by itself in a round. step_sizes: one for each; optimizer: which moves the
    parameters; proximal: the strength of ½ |x - x_round|², which keeps them near where the round began; keep_slots: whether the optimizer
    begins where the last round left it; version: of what subtrees remember, None where that is nothing."""

    step_sizes: tuple[float, ...]
    optimizer: Optimizer
    proximal: float = 0.0
    keep_slots: bool = False
    version: int | None = None


class Subtrees(NamedTuple):
    """All subtrees of 2^level groups, by the first partition of each."""

    first_partitions: tuple[int, ...]
    level: int = 0


class Consensus(NamedTuple):
    """What subtrees do in a round of ADMM. rho: how firmly they are held together."""

    subtrees: Subtrees
    rho: float


class Request(NamedTuple):
    """What a strategy asks for: the sums of an oracle (`tasks.rounds.oracles`), at parameters (n,), along a direction (n,); row_step > 1:
    over a sample of the rows; batch: over its rows; weight: what sums are divided by, where that is not the weight of the rows; local: what
    subtrees do by themselves; packet: what they get to have these parameters, where those are not sent.

    "local_steps" gives as gradient how far these have moved the parameters on average, x - Σ w_t x_t / Σ w_t, and with control variates in
    the place of `direction` the mean of those of the subtrees beside it; "consensus", with the duals (t, n) of all subtrees in the place of
    `direction`, their places beside value and gradient.
    "local_hessian" asks for the quadratic models of `tasks.rounds.local_models`: their gradients and Hessians in place of those at
    `parameters`. "gradient_difference" for the gradient less that at `direction`. "gram_in_basis" for sums in the coordinates that a basis
    (p, p) of the columns makes, in the place of `direction`. "score" for accuracy or R² as the value.
    """

    oracle: str
    parameters: Array
    direction: Array | None = None
    row_step: int = 1
    batch: Batch | None = None
    weight: float | None = None
    local: LocalSteps | Consensus | None = None
    packet: Packet | None = None

    @property
    def remembers(self) -> bool:
        """Whether subtrees are to find what they remember."""
        return self.packet is not None or (isinstance(self.local, LocalSteps) and self.local.version is not None)


class Status(NamedTuple):
    """Where the algorithm stands, and why.

    "converged" has a certificate in fits by full passes: the gradient is at most tol, or a step by the objective's own Hessian would
    gain less than rounding does. By mini-batches it means what it does in scikit-learn: loss or score have not improved by tol for some
    epochs, or all epochs that were asked for are done. "stalled": no step was found that lowers the objective.
    """

    kind: Literal["running", "converged", "diverged", "stalled", "out of rounds"]
    reason: str = ""


RUNNING = Status("running")


class Iterate(NamedTuple):
    """The last accepted point: parameters (n,), and the objective's value and gradient (n,) as evaluated at these parameters, and how far
    rounding may have moved the value, see `Evaluation`. With mini-batches: the parameters that a fit which ended here would have, value
    and gradient of the last batch."""

    parameters: Array
    value: float
    gradient: Array
    noise: float = 0.0

    @property
    def rounding(self) -> float:
        """Differences from the value below this are rounding."""
        return rounding_level(self.value, self.noise)


@runtime_checkable
class Strategy(Protocol):
    """See the module's docstring. Every state has `iterate`, `iteration` (accepted steps) and `status`, and is all that the algorithm
    remembers: from a saved state a fit goes on to the same bits."""

    @property
    def oracles(self) -> tuple[str, ...]:
        """The oracles that it asks for, by their names in `tasks.rounds.oracles`."""
        ...

    @property
    def takes_kinks(self) -> bool:
        """Whether it can do a penalty with kinks, by the penalty's prox: others would take its smooth part alone."""
        ...

    def init(self, parameters: Array) -> Any:
        """The state before the first round, from parameters (n,)."""
        ...

    def request(self, state: Any) -> Request: ...

    def update(self, state: Any, evaluation: Evaluation) -> Any: ...


class Asked(NamedTuple):
    """A round under way. number: from 0, in the order of asking; version: updates that its parameters had seen."""

    number: int
    version: int
    request: Request

    @property
    def subtree(self) -> int | None:
        """The only subtree of groups that it is about; None for all rows."""
        return None if self.request.batch is None else self.request.batch.subtree


@runtime_checkable
class Overlapping(Strategy, Protocol):
    """A strategy with several rounds under way. Every state has `asked`: which they are, oldest first, with all that they were asked for;
    and `n_taken`, the updates so far. So the states say what is to be under way, and a fit goes on from any of them."""

    @property
    def overlaps(self) -> bool:
        """Whether several rounds may be under way at a time."""
        ...

    @property
    def served(self) -> bool:
        """Whether its updates are made slice by slice, by workers that serve the vectors to each other, where they can."""
        ...

    def repeating(self, subtrees: Sequence[int]) -> Strategy:
        """The same strategy, which takes results in the order of a fit that took those of these subtrees first."""
        ...

    def candidates(self, state: Any) -> list[int]:
        """The numbers of the rounds of which the next result may be, oldest first: of whichever is done first."""
        ...

    def take(self, state: Any, number: int, evaluation: Evaluation) -> Any:
        """The state after the result of that round."""
        ...


@runtime_checkable
class Remembering(Strategy, Protocol):
    """A strategy whose subtrees may remember something from round to round: see `tasks.reductions.remembered`."""

    @property
    def sampling(self) -> Sampling:
        """Which rows a round draws, and by which subtrees."""
        ...

    @property
    def n_remembered(self) -> int:
        """Vectors of as many numbers as there are parameters that a subtree remembers; 0: nothing at all."""
        ...

    def versions(self, state: Any) -> list[int]:
        """The version of the memory of each subtree, or of all of them, that the rounds under way are to find."""
        ...

    def n_results(self, state: Any) -> int:
        """The results that have led to a state, those of rounds without memory, too."""
        ...


class Residuals(NamedTuple):
    """How far a fit is from agreement. primal: sqrt(Σ w_i |x_i - z|² / Σ w_i), how far the subtrees are from where they meet, z, in units
    of parameters as the strategy sees them; dual: rho |z - z_before|, how far that has moved, in those of a gradient."""

    primal: float
    dual: float


@runtime_checkable
class Agreeing(Strategy, Protocol):
    """A strategy whose subtrees go their own ways, and are to agree."""

    def residuals(self, state: Any) -> Residuals | None:
        """The residuals of the last time that all have met; None before."""
        ...


def starting_point(parameters: Float64) -> Iterate:
    """An accepted point that has not been evaluated yet."""
    return Iterate(np.array(parameters, dtype=np.float64), np.inf, np.zeros_like(parameters, dtype=np.float64))


def finite(evaluation: Evaluation) -> bool:
    """Whether loss and gradient are numbers."""
    return bool(np.isfinite(evaluation.value) and np.all(np.isfinite(evaluation.gradient)))


def not_finite_at_start(parameters: Float64) -> Status:
    """The end of a fit whose first evaluation is no number."""
    return Status(
        "diverged",
        "the objective or its gradient is not finite at the starting parameters"
        f" (largest |parameter| {np.max(np.abs(parameters), initial=0.0):.3g}); scale the columns of X",
    )


def status_after(iteration: int, gradient: Float64, tol: float, max_iter: int) -> Status:
    """Converged when the largest absolute component of the gradient of the mean objective is at most tol, else out of rounds after
    max_iter steps."""
    largest = float(np.max(np.abs(gradient), initial=0.0))
    if largest <= tol:
        return Status("converged", f"largest |gradient| {largest:.3g} <= tol {tol:.3g}")
    if iteration >= max_iter:
        return Status(
            "out of rounds",
            f"reached max_iter={max_iter} before the gradient fell below tol; raise max_iter or tol, or take a solver of second order",
        )
    return RUNNING


def lost_in_rounding(slope: float) -> Status:
    """The end of a fit whose Newton step, along which the objective has that slope, would gain too little to be seen."""
    return Status("converged", f"a Newton step would lower the objective by {-0.5 * slope:.3g}, which is lost in rounding")


def stalled(what: str, gradient: Float64, tol: float) -> Status:
    """The end of a fit that can go no further, though its gradient is above tol."""
    cure = "raise tol, drop columns that others determine, or see that loss and gradient belong together"
    return Status("stalled", f"{what}, while max |gradient| is {np.max(np.abs(gradient), initial=0.0):.3g} > tol {tol:.3g}; {cure}")


def rounding_level(value: float, noise: float = 0.0) -> float:
    """Differences of the objective below this are rounding: 16 units in the last place, and the noise of an `Evaluation`."""
    return 16 * float(np.finfo(np.float64).eps) * max(abs(value), float(np.finfo(np.float64).tiny)) + noise
