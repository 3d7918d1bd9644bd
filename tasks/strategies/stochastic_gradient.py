"""Mini-batch stochastic gradient descent, with any optimizer, averaging, early stopping and variance reduction."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite, nan
from typing import ClassVar, Final, NamedTuple

import numpy as np

from tasks.arguments import as_number, check_counts, check_tolerances
from tasks.objectives.evaluation import Evaluation, tracked
from tasks.rows.batches import HELD_OUT, TRAINING, Batch, Sampling, turns
from tasks.strategies.base import RUNNING, Iterate, Request, Status
from tasks.strategies.optimizers import SGD, Optimizer, OptimizerState, average, clip_by_norm, proximal_update, update_parts
from tasks.strategies.schedules import Constant, Schedule
from tasks.typing import Array

SMALLEST_SCALE: Final = 1e-6
"""Of the first step size: an adaptive fit that is down to that has converged."""


class Epoch(NamedTuple):
    """An epoch so far. number: from 0; rounds: done; loss_sum, weight_sum: over its batches, the penalty included."""

    number: int = 0
    rounds: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0

    def after(self, evaluation: Evaluation) -> Epoch:
        """One more round."""
        weight = float(evaluation.weight)
        loss = weight * evaluation.value if weight else 0.0
        return Epoch(self.number, self.rounds + 1, self.loss_sum + loss, self.weight_sum + weight)

    @property
    def mean_loss(self) -> float:
        """The mean loss of an epoch's batches, each before its update; NaN without weight."""
        return self.loss_sum / self.weight_sum if self.weight_sum else nan


class Anchor(NamedTuple):
    """The weight of all training rows, and of SVRG the parameters (n,) of its last full pass and the gradient (n,) there."""

    parameters: Array
    gradient: Array
    weight: float
    epoch: int


class Accumulated(NamedTuple):
    """Σ weight gradient (n,) of the rounds since the last update, and the weight."""

    gradient: Array
    weight: float
    rounds: int


class Best(NamedTuple):
    """The best epoch so far: its score (higher is better), its parameters (n,); since: epochs without improvement."""

    score: float
    parameters: Array
    since: int


class Remembered(NamedTuple):
    """What is known of subtrees that update by themselves, and of what they remember. version: how many rounds that has seen; n_results:
    the rounds of the fit so far, those of scores, too; control (n,): the mean of the subtrees' control variates, where they have some."""

    version: int = 0
    n_results: int = 0
    control: Array | None = None


class StochasticGradientState(NamedTuple):
    """parameters (n,): where the next batch's gradient is taken; optimizer: its state; iteration: updates so far; mean: of the iterates,
    over `averaged` updates; scale: of the step size; losses, scores: of the epochs since the fit began or was resumed; remembered: by
    subtrees, see `tasks.strategies.local_sgd`.

    iterate: the parameters that a fit which ended here would have (the mean, or the best epoch's), always finite; value and gradient of
    the last batch.
    """

    iterate: Iterate
    parameters: Array
    optimizer: OptimizerState
    epoch: Epoch
    best: Best
    accumulated: Accumulated | None = None
    anchor: Anchor | None = None
    mean: Array | None = None
    averaged: int = 0
    scale: float = 1.0
    losses: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    iteration: int = 0
    status: Status = RUNNING
    remembered: Remembered = Remembered()


@dataclass(frozen=True)
class StochasticGradient:
    """Each round every group draws its next rows (`tasks.rows.batches`), and the gradient of their mean loss moves the parameters once.

    sampling            which rows a round draws, rounds an epoch, the held-out share
    optimizer, schedule how a gradient moves the parameters; the step size by number of the update
    max_epochs          epochs of this fit
    tol, patience       converged after `patience` epochs in a row whose score is below the best so far plus tol
    early_stopping      the score is accuracy or R² on the rows held out, and the best epoch's parameters are restored; otherwise minus the
                        mean loss of the epoch's batches, each before its update
    adaptive            instead of converging, divide the step size by 5
    decay               after half of those epochs, each one more multiplies the step size by this: then the noise of batches is what
                        keeps the loss from falling, where smaller steps help; before, they would only be slower
    clip_norm           gradients are shortened to this norm: R. Pascanu, T. Mikolov and Y. Bengio, ICML 2013
    accumulate          rounds whose gradients make one update; the end of an epoch makes one, too
    average_from        parameters are the mean of the iterates from this update on (B. Polyak and A. Juditsky, SIAM J. Control Optim. 30
                        (1992)); 0: no averaging
    variance_reduction  SVRG: a full pass before every `anchor_every`-th epoch, and gradients less those at that point: R. Johnson and
                        T. Zhang, NIPS 2013
    parts               slices of the parameters that have a schedule of their own; their penalty is smooth

    After each update the prox of the penalty's kinks moves the penalised parameters by the step size (forward-backward splitting: J. Duchi
    and Y. Singer, J. Mach. Learn. Res. 10 (2009)). Batches in which no row has weight move nothing (of subtrees that take
    turns, by the penalty alone). Diverged when the loss of a batch, or
    a parameter after an update, is no finite number; the parameters before that update stay. Raises ValueError for numbers out of range.
    """

    takes_kinks: ClassVar[bool] = True

    sampling: Sampling
    optimizer: Optimizer = field(default_factory=SGD)
    schedule: Schedule = field(default_factory=lambda: Constant(0.01))
    max_epochs: int = 100
    tol: float = 1e-4
    patience: int = 5
    early_stopping: bool = False
    adaptive: bool = False
    decay: float = 1.0
    clip_norm: float | None = None
    accumulate: int = 1
    average_from: int = 0
    variance_reduction: bool = False
    anchor_every: int = 2
    parts: tuple[tuple[slice, Schedule], ...] = ()

    def __post_init__(self) -> None:
        sampling = self.sampling
        check_counts(max_epochs=self.max_epochs, patience=self.patience, accumulate=self.accumulate, anchor_every=self.anchor_every)
        check_counts(n_rounds=sampling.n_rounds)
        check_tolerances(average_from=self.average_from)
        if sampling.importance not in ("uniform", "norm"):
            raise ValueError(f"importance must be 'uniform' or 'norm', got {sampling.importance!r}")
        if not 0 <= as_number(sampling.validation_fraction) < 1:
            raise ValueError(f"validation_fraction must lie in [0, 1), got {sampling.validation_fraction!r}")
        if not 0 < as_number(self.decay) <= 1:
            raise ValueError(f"decay must lie in (0, 1], got {self.decay!r}")
        if np.isnan(as_number(self.tol)):
            raise ValueError(f"tol must be a number, -inf to go on for max_epochs, got {self.tol!r}")
        if self.clip_norm is not None and not as_number(self.clip_norm) > 0:
            raise ValueError(f"clip_norm must be a positive number or None, got {self.clip_norm!r}")
        if self.early_stopping and not sampling.validation_fraction:
            raise ValueError("early_stopping must have rows to score: validation_fraction must lie in (0, 1), got 0")

    @property
    def oracles(self) -> tuple[str, ...]:
        gradients = "gradient_difference" if self.variance_reduction else "loss_and_gradient"
        needed = {gradients: True, "weight": self._weighted and not self.variance_reduction, "score": self.early_stopping}
        return tuple(name for name, wanted in needed.items() if wanted)

    def init(self, parameters: Array) -> StochasticGradientState:
        start = np.array(parameters)
        iterate = Iterate(start, np.inf, np.zeros_like(start))
        return StochasticGradientState(iterate, start, self.optimizer.init(start), Epoch(), Best(-np.inf, start, 0))

    def resume(self, state: StochasticGradientState) -> StochasticGradientState:
        """From a fit that has ended, for max_epochs more, perhaps on other rows.

        What belongs to rows is made anew: SVRG's full pass, the best score, the epochs in a row without improvement. Everything else goes
        on, the number of the epoch too, so that on the same rows the same bits come as from one longer fit (with SVRG, if the first had a
        multiple of anchor_every epochs). An epoch that was cut off is not finished.
        """
        epoch = Epoch(state.epoch.number + (1 if state.epoch.rounds else 0))
        best = Best(-np.inf, state.parameters, 0)
        mean, averaged = (state.mean, state.averaged) if self.average_from else (None, 0)
        return state._replace(
            epoch=epoch, best=best, anchor=None, accumulated=None, mean=mean, averaged=averaged, losses=(), scores=(), status=RUNNING
        )

    def moved(self, state: StochasticGradientState, parameters: Array) -> StochasticGradientState:
        """The same fit at other parameters (n,), an average of several models, say.

        What belongs to the path that led elsewhere begins anew: the optimizer's slots and count, the mean of the iterates, the best score.
        Step sizes and epochs go on.
        """
        start = self.init(parameters)
        return state._replace(
            iterate=start.iterate, parameters=start.parameters, optimizer=start.optimizer, best=start.best, mean=None, averaged=0
        )

    def request(self, state: StochasticGradientState) -> Request:
        if self._wants_anchor(state):
            oracle = "loss_and_gradient" if self.variance_reduction else "weight"
            return Request(oracle, state.parameters, batch=self._batch(state, TRAINING))
        if state.epoch.rounds == self.sampling.rounds_an_epoch:
            return Request("score", self._candidate(state), batch=self._batch(state, HELD_OUT))
        batch, anchor = self._training_batch(state), state.anchor
        weight = self._round_weight(anchor.weight) if anchor is not None and self._weighted else None
        if self.variance_reduction:
            assert anchor is not None
            return Request("gradient_difference", state.parameters, anchor.parameters, 1, batch, weight)
        return Request("loss_and_gradient", state.parameters, None, 1, batch, weight)

    def update(self, state: StochasticGradientState, evaluation: Evaluation, factor: float = 1.0) -> StochasticGradientState:
        """See `Strategy`. factor: of the step size of the update that this gradient makes."""
        if state.epoch.rounds == self.sampling.rounds_an_epoch:
            return self._end_epoch(state, evaluation.value)
        if evaluation.weight and not isfinite(evaluation.value):
            return diverged(state, "the loss of a batch")
        if self._wants_anchor(state):
            return state._replace(anchor=Anchor(state.parameters, evaluation.gradient, evaluation.weight, state.epoch.number))
        state = self._learn(state, evaluation, factor)
        if state.epoch.rounds < self.sampling.rounds_an_epoch or self.early_stopping or state.status.kind != "running":
            return state
        return self._end_epoch(state, -state.epoch.mean_loss)

    # -- rounds ----------------------------------------------------------------------------------------------------------------------

    @property
    def _weighted(self) -> bool:
        """Whether batches count more or less than they weigh, so that only all rows' weight says what to divide by."""
        return self.sampling.importance != "uniform" or self.sampling.n_turns > 0

    def _round_weight(self, weight: float) -> float:
        """The weight of a round's sums on average, from that of all rows. By importance the rows of a batch stand for all."""
        return weight / (max(1, self.sampling.n_turns) if self.sampling.importance != "uniform" else self.sampling.rounds_an_epoch)

    def _wants_anchor(self, state: StochasticGradientState) -> bool:
        if state.epoch.rounds or not (self.variance_reduction or self._weighted):
            return False
        if state.anchor is None:
            return True
        return self.variance_reduction and state.epoch.number >= state.anchor.epoch + self.anchor_every

    def _batch(self, state: StochasticGradientState, number: int) -> Batch:
        return Batch(self.sampling, state.epoch.number, number)

    def _training_batch(self, state: StochasticGradientState) -> Batch:
        """The next one of an epoch."""
        if not self.sampling.n_turns:
            return self._batch(state, state.epoch.rounds)
        number, turn = divmod(state.epoch.rounds, self.sampling.n_turns)
        return self._batch(state, number)._replace(subtree=turns(self.sampling)[turn])

    def _learn(self, state: StochasticGradientState, evaluation: Evaluation, factor: float) -> StochasticGradientState:
        """A batch's loss and gradient have come: add them up, and move the parameters when they are enough."""
        epoch = state.epoch.after(evaluation)
        iterate, waiting, gradient = state.iterate, state.accumulated, None
        if evaluation.weight:  # else no row, or none that counts, was drawn
            gradient = evaluation.gradient
            if self.variance_reduction:
                assert state.anchor is not None
                gradient = gradient + state.anchor.gradient
            iterate = Iterate(iterate.parameters, evaluation.value, gradient)
        if self.accumulate > 1:
            if gradient is not None:
                waiting, gradient, factor = accumulated(waiting, factor * gradient, float(evaluation.weight)), None, 1.0
            if waiting is not None and (waiting.rounds == self.accumulate or epoch.rounds == self.sampling.rounds_an_epoch):
                gradient, waiting = waiting.gradient / waiting.weight, None
        if gradient is None:
            parameters = tracked(state.parameters, state.parameters, evaluation)
            return state._replace(iterate=iterate, parameters=parameters, epoch=epoch, accumulated=waiting)
        moved = self._step(state._replace(iterate=iterate, epoch=epoch), gradient, evaluation, factor)
        return diverged(state, "a parameter") if moved is None else moved

    def _step(
        self, state: StochasticGradientState, gradient: Array, evaluation: Evaluation, factor: float
    ) -> StochasticGradientState | None:
        """One update of the parameters; None where it would spoil them."""
        iterate = state.iterate
        if self.clip_norm is not None:
            gradient = clip_by_norm(gradient, self.clip_norm)
        step_size = state.scale * self.schedule(state.iteration) * factor
        moved, optimizer = proximal_update(self.optimizer, state.optimizer, gradient, state.parameters, step_size, evaluation)
        step_sizes = [(part, state.scale * schedule(state.iteration) * factor) for part, schedule in self.parts]
        update_parts(self.optimizer, step_sizes, (state.parameters, state.optimizer), gradient, evaluation.n_free, (moved, optimizer))
        parameters = tracked(moved, state.parameters, evaluation)
        if not np.isfinite(parameters).all():  # also when the gradient was not
            return None
        mean, averaged, iteration = state.mean, state.averaged, state.iteration + 1
        if self.average_from and iteration >= self.average_from:
            mean, averaged = parameters if mean is None else average(mean, parameters, averaged + 1), averaged + 1
        if not self.early_stopping or state.best.score == -np.inf:
            iterate = Iterate(parameters if mean is None else mean, iterate.value, iterate.gradient)
        return state._replace(
            iterate=iterate,
            parameters=parameters,
            optimizer=optimizer,
            accumulated=None,
            mean=mean,
            averaged=averaged,
            iteration=iteration,
        )

    @staticmethod
    def _candidate(state: StochasticGradientState) -> Array:
        """The parameters that are scored."""
        return state.parameters if state.mean is None else state.mean

    # -- epochs ----------------------------------------------------------------------------------------------------------------------

    def _end_epoch(self, state: StochasticGradientState, score: float) -> StochasticGradientState:
        """score: of the epoch, higher is better; NaN for the loss of an epoch without weight."""
        if self.early_stopping and not isfinite(score):
            return diverged(state, "the score of the rows held out")
        best, candidate = state.best, self._candidate(state)
        since = 0 if score >= best.score + self.tol else best.since + 1
        best = Best(score, candidate, since) if score > best.score else best._replace(since=since)
        chosen = best.parameters if self.early_stopping and best.score > -np.inf else candidate
        state = state._replace(
            iterate=state.iterate._replace(parameters=chosen),
            epoch=Epoch(state.epoch.number + 1),
            best=best,
            losses=(*state.losses, state.epoch.mean_loss),
            scores=(*state.scores, score) if self.early_stopping else (),
            scale=state.scale * self.decay if 2 * since >= self.patience else state.scale,
        )
        return self._judge(state)

    def _judge(self, state: StochasticGradientState) -> StochasticGradientState:
        """Whether to go on with another epoch."""
        if state.best.since >= self.patience:
            if self.adaptive and state.scale / 5 > SMALLEST_SCALE:
                return self._within_limit(state._replace(scale=state.scale / 5, best=state.best._replace(since=0)))
            if np.isnan(state.losses[-1]):
                return state._replace(status=Status("stalled", "no row of the last epoch has weight, so nothing moved; give rows weight"))
            what = "score of the rows held out" if self.early_stopping else "loss"
            return state._replace(status=Status("converged", f"the {what} has not improved by tol={self.tol:g} for {self.patience} epochs"))
        return self._within_limit(state)

    def _within_limit(self, state: StochasticGradientState) -> StochasticGradientState:
        if len(state.losses) < self.max_epochs:
            return state
        if self.tol == -np.inf:
            return state._replace(status=Status("converged", f"all {self.max_epochs} epochs are done"))
        cure = "while still improving; raise max_iter"
        if state.losses[-1] > state.losses[0]:
            cure = f"with a loss that rose from {state.losses[0]:.3g} to {state.losses[-1]:.3g}; lower the step size"
        return state._replace(status=Status("out of rounds", f"reached max_iter={self.max_epochs} epochs {cure}"))


def accumulated(waiting: Accumulated | None, gradient: Array, weight: float) -> Accumulated:
    """Add one more round's gradient to those that wait for an update."""
    if waiting is None:
        return Accumulated(gradient * weight, weight, 1)
    return Accumulated(waiting.gradient + gradient * weight, waiting.weight + weight, waiting.rounds + 1)


def diverged(state: StochasticGradientState, what: str) -> StochasticGradientState:
    """The end of a fit whose next update would spoil the parameters."""
    reason = f"{what} is no finite number after {state.iteration} updates; lower the step size, or scale the columns of X"
    return state._replace(status=Status("diverged", reason))
