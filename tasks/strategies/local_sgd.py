"""Local SGD: each subtree of groups makes several updates by itself, then all take the mean of their parameters.

S. Stich, *Local SGD converges fast and communicates little*, ICLR 2019. With an outer optimizer that takes how far the mean has moved for a
gradient: A. Douillard et al., *DiLoCo*, 2023. With a proximal term: T. Li et al., *Federated optimization in heterogeneous networks*
(FedProx), MLSys 2020. With control variates: S. P. Karimireddy et al., *SCAFFOLD: stochastic controlled averaging for federated learning*,
ICML 2020, algorithm 1. In one round alone: M. Zinkevich, M. Weimer, A. Smola and L. Li, NIPS 2010.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from math import inf, isfinite
from typing import Final

import numpy as np

from tasks.arguments import as_number, check_counts
from tasks.objectives.evaluation import Evaluation, tracked
from tasks.rows.batches import Batch
from tasks.strategies.base import Iterate, LocalSteps, Request, Status
from tasks.strategies.optimizers import SGD, Optimizer
from tasks.strategies.stochastic_gradient import Epoch, Remembered, StochasticGradient, StochasticGradientState, diverged
from tasks.typing import Array

N_STEPS: Final = 8


@dataclass(frozen=True)
class LocalUpdates:
    """What subtrees of groups do by themselves between two means.

    n_steps     updates of each subtree in a round; None: all of the fit, which makes one round of it, the mean of independent models: all
                epochs are done then, whatever tol is
    n_epochs    in place of n_steps: the updates of so many epochs, in which each subtree visits its rows once
    growth      round r has growth^r times as many, rounded down: few while the parameters move far, more when they do not
    outer       the optimizer of the mean, by steps of outer_step: Nesterov(0.9) and 0.7 are DiLoCo's; SGD() and 1 take the mean as it is
    proximal    FedProx' strength: of ½ |x_t - x|² in each subtree's objective
    keep_slots  whether the optimizer of a subtree goes on in the next round with the momentum and moments that it has; otherwise, and
                where it has none, it begins anew
    control_variates
                SCAFFOLD's: each subtree adds c - c_t to its gradients, where c_t is the mean gradient of its last round, and c that of all,
                so that subtrees with unlike rows do not drift apart

    Raises ValueError for numbers out of range and for an n_steps beside n_epochs; TypeError for an outer that is no Optimizer and for a
    keep_slots or control_variates that is no boolean.
    """

    n_steps: int | None = N_STEPS
    n_epochs: int | None = None
    growth: float = 1.0
    outer: Optimizer = field(default_factory=SGD)
    outer_step: float = 1.0
    proximal: float = 0.0
    keep_slots: bool = True
    control_variates: bool = False

    def __post_init__(self) -> None:
        if self.n_steps is not None:
            check_counts(n_steps=self.n_steps)
        if self.n_epochs is not None:
            check_counts(n_epochs=self.n_epochs)
            if self.n_steps != N_STEPS:
                steps = "all steps" if self.n_steps is None else f"{self.n_steps} steps"
                raise ValueError(
                    f"local updates between two means cannot be both of {steps} and of {self.n_epochs} epochs; give one of them"
                )
        if not isinstance(self.outer, Optimizer):
            raise TypeError(f"outer must be an Optimizer such as Nesterov(0.9), got {self.outer!r}")
        for name in ("keep_slots", "control_variates"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if not 1 <= as_number(self.growth) < np.inf:
            raise ValueError(f"growth must be a number of at least 1, got {self.growth!r}")
        if not 0 < as_number(self.outer_step) < np.inf:
            raise ValueError(f"outer_step must be a positive number, got {self.outer_step!r}")
        if not 0 <= as_number(self.proximal) < np.inf:
            raise ValueError(f"proximal must be a number of at least 0, got {self.proximal!r}")

    @property
    def all_at_once(self) -> bool:
        """Whether all updates of the fit are one round."""
        return self.n_steps is None and self.n_epochs is None

    def steps(self, n_rounds: int, steps_an_epoch: int) -> float:
        """Updates of a round after so many."""
        first = self.n_steps if self.n_epochs is None else self.n_epochs * steps_an_epoch
        try:
            return np.inf if first is None else first * float(self.growth) ** n_rounds
        except OverflowError:
            return np.inf


@dataclass(frozen=True)
class LocalSGD(StochasticGradient):
    """x <- outer(x, x - Σ w_t x_t / Σ w_t), where subtree t comes from x to x_t by updates of `optimizer`, on batches of its own whose rows
    weigh w_t together.

    All else as `StochasticGradient`, whose step sizes and optimizer are those of the local updates, counted by these; the sampling has no
    turns, and n_rounds of it are the updates of each subtree in an epoch. A round that is longer than an epoch ends as many epochs as it
    has. With n_steps=1 and SGD() it is the synchronous fit, but for rounding. Which subtrees there are follows from the data, so the bits
    do not hang on workers. Raises ValueError for options that average or reduce over rounds, for parts with a schedule of their own, and
    for control variates in a fit of a single round, which would have none to go by.
    """

    local: LocalUpdates = field(default_factory=LocalUpdates)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("accumulate", "average_from", "clip_norm", "variance_reduction", "parts"):
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ValueError(f"{name}={getattr(self, name)!r} is not for local updates; leave it out")
        if self.sampling.importance != "uniform" or self.sampling.n_turns:
            raise ValueError("local updates draw uniformly, in all subtrees at once; use a sampling with importance='uniform' and no turns")
        an_epoch = self.sampling.n_rounds
        n_steps = min(self.local.steps(0, an_epoch), an_epoch if self.early_stopping else inf)
        if self.local.control_variates and n_steps >= self.max_epochs * an_epoch:
            raise ValueError(
                f"control_variates are of the round before, and this fit is one round: {self.max_epochs} epochs of {an_epoch} updates each;"
                " give fewer n_steps or n_epochs, or control_variates=False"
            )

    @classmethod
    def of(cls, strategy: StochasticGradient, local: LocalUpdates) -> LocalSGD:
        """That of another strategy's options."""
        return cls(**{each.name: getattr(strategy, each.name) for each in fields(strategy)}, local=local)

    @property
    def oracles(self) -> tuple[str, ...]:
        return ("local_steps", "score") if self.early_stopping else ("local_steps",)

    @property
    def n_remembered(self) -> int:
        if self.local.all_at_once and not self.early_stopping:  # in one round
            return 0
        return self.local.control_variates + (len(self.optimizer.first_slots) if self.local.keep_slots else 0)

    def versions(self, state: StochasticGradientState) -> list[int]:
        """See `Remembering`."""
        return [state.remembered.version]

    def n_results(self, state: StochasticGradientState) -> int:
        """See `Remembering`."""
        return state.remembered.n_results

    def init(self, parameters: Array) -> StochasticGradientState:
        state = super().init(parameters)
        return state._replace(optimizer=self.local.outer.init(state.parameters))

    def resume(self, state: StochasticGradientState) -> StochasticGradientState:
        """The state that `StochasticGradient.resume` makes; what subtrees remembered they have forgotten."""
        return super().resume(state)._replace(remembered=Remembered())

    def moved(self, state: StochasticGradientState, parameters: Array) -> StochasticGradientState:
        """The state that `StochasticGradient.moved` makes; what subtrees remembered is of elsewhere."""
        return super().moved(state, parameters)._replace(remembered=Remembered())

    def request(self, state: StochasticGradientState) -> Request:
        if self._scores(state):
            return super().request(state)
        done, n_steps = state.iteration, self._steps(state)
        step_sizes = tuple(state.scale * self.schedule(done + step) for step in range(n_steps))
        batch = Batch(self.sampling, state.epoch.number, state.epoch.rounds)
        control = state.remembered.control
        if self.local.control_variates and control is None:
            control = np.zeros_like(state.parameters)
        version = state.remembered.version if self.n_remembered else None
        steps = LocalSteps(step_sizes, self.optimizer, self.local.proximal, self.local.keep_slots, version)
        return Request("local_steps", state.parameters, control, batch=batch, local=steps)

    def update(self, state: StochasticGradientState, evaluation: Evaluation, factor: float = 1.0) -> StochasticGradientState:
        assert factor == 1.0, "rounds of local updates follow each other"
        state = state._replace(remembered=state.remembered._replace(n_results=state.remembered.n_results + 1))
        if self._scores(state):
            state = super().update(state, evaluation)
        elif evaluation.weight and not isfinite(evaluation.value):
            state = diverged(state, "the loss of a batch")
        else:
            state = self._moved(state, evaluation)
        if state.status.kind == "running":
            return state
        return state._replace(remembered=state.remembered._replace(control=None))  # nobody will ask for it

    def _scores(self, state: StochasticGradientState) -> bool:
        """Whether an epoch is over, and its parameters are to be scored."""
        return state.epoch.rounds == self.sampling.n_rounds

    def _steps(self, state: StochasticGradientState) -> int:
        """Updates of the next round: none beyond the last epoch, nor, where epochs are scored, beyond this one."""
        left = 1 if self.early_stopping else self.max_epochs - len(state.losses)
        n_rounds = self.sampling.n_rounds
        return int(min(self.local.steps(state.optimizer.count, n_rounds), left * n_rounds - state.epoch.rounds))

    def _moved(self, state: StochasticGradientState, evaluation: Evaluation) -> StochasticGradientState:
        """The outer update, and the epochs that are over with it."""
        n_steps, parameters, outer, iterate = self._steps(state), state.parameters, state.optimizer, state.iterate
        if evaluation.weight:
            moved, outer = self.local.outer.update(outer, evaluation.gradient, parameters, self.local.outer_step)
            parameters = tracked(moved, parameters, evaluation)
            if not np.isfinite(parameters).all():
                return diverged(state, "a parameter")
            keep = self.early_stopping and state.best.score > -np.inf
            iterate = Iterate(iterate.parameters if keep else parameters, evaluation.value, evaluation.gradient)
        remembered = state.remembered._replace(version=state.remembered.version + 1)
        if evaluation.weight:
            remembered = remembered._replace(control=evaluation.control)
        loss = evaluation.weight * evaluation.value if evaluation.weight else 0.0
        over, rounds = divmod(state.epoch.rounds + n_steps, self.sampling.n_rounds)
        done = Epoch(state.epoch.number, state.epoch.rounds, state.epoch.loss_sum + loss, state.epoch.weight_sum + evaluation.weight)
        state = state._replace(
            parameters=parameters, optimizer=outer, iterate=iterate, iteration=state.iteration + n_steps, remembered=remembered
        )
        if not over:
            return state._replace(epoch=done._replace(rounds=rounds))
        if self.early_stopping:
            return state._replace(epoch=done._replace(rounds=self.sampling.n_rounds))
        return self._end_epochs(state._replace(epoch=done), over, rounds)

    def _end_epochs(self, state: StochasticGradientState, over: int, rounds: int) -> StochasticGradientState:
        """The end of as many epochs as a round had, of one loss."""
        earlier = (state.epoch.mean_loss,) * (over - 1)
        epoch = state.epoch._replace(number=state.epoch.number + over - 1)
        ended = self._end_epoch(state._replace(losses=(*state.losses, *earlier), epoch=epoch), -state.epoch.mean_loss)
        if self.local.all_at_once and ended.status.kind == "out of rounds":  # nothing said whether more would help
            return ended._replace(status=Status("converged", f"all {self.max_epochs} epochs are done"))
        return ended._replace(epoch=ended.epoch._replace(rounds=rounds)) if rounds else ended
