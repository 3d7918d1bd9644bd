"""What networks share, perceptrons and PyTorch modules alike: from an estimator's parameters to a strategy, and back."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

import numpy as np

from pipeline.estimators.base import SetUp
from pipeline.estimators.mini_batches import MiniBatchModel
from pipeline.estimators.optimizer_choice import ASYNC, LOCAL, SERVED, Pace, choose_optimizer, choose_schedule
from pipeline.estimators.solvers import Choice
from pipeline.training.loop import Result
from tasks.objectives.base import Layout
from tasks.objectives.penalties import L2
from tasks.objectives.scoring import Predictor
from tasks.rows.batches import Sampling
from tasks.strategies.base import Overlapping, Strategy
from tasks.strategies.lbfgs import LBFGS
from tasks.strategies.optimizers import OPTIMIZERS, Adam, Optimizer
from tasks.strategies.schedules import InverseScaling, Schedule
from tasks.strategies.stochastic_gradient import StochasticGradient

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset
    from pipeline.data.schema import Schema

AUTO_BATCH: Final = 200
OF_SGD: Final = ("invscaling", "adaptive")
DROPS: Final = 10


class Epochs(NamedTuple):
    """What schedules count by: updates and rows of an epoch, and the most epochs that there may be."""

    updates: int
    rows: int
    most: int


ONE_EPOCH: Final = Epochs(1, 1, 1)


class NetworkModel(MiniBatchModel):
    """A network that any of OPTIMIZERS trains by mini-batches, or a strategy by full passes.

    Fitted besides what mini-batches leave: loss_ (of the last epoch) and best_loss_ (None with early_stopping).
    """

    _solvers: ClassVar[tuple[str, ...]] = (*OPTIMIZERS, ASYNC, SERVED, LOCAL, "lbfgs")

    batch_size: Any
    learning_rate: Any
    learning_rate_init: float
    power_t: float
    tol: float | None
    nesterovs_momentum: bool
    n_iter_no_change: float
    clip_norm: float | None
    accumulate: int
    warm_up: int
    average: bool | int
    optimizer: Any

    @abstractmethod
    def _objective(self, schema: Schema) -> Predictor:
        """The objective of a fit on this data. Raises ValueError for targets that do not fit."""

    @abstractmethod
    def _strength(self, batch_weight: float) -> float:
        """That of the L2 penalty, where the sums of a round are divided by so much."""

    def _parts(self, layout: Layout, epochs: Epochs) -> tuple[tuple[slice, Schedule], ...]:
        """The parameters that have step sizes of their own, and which."""
        return ()

    @property
    def _composes(self) -> bool:
        """Whether rounds overlap, or subtrees update by themselves: by the optimizer that `optimizer` says."""
        return self._overlap is not None or self._local is not None

    @property
    def _updates_by(self) -> Any:
        """What says which optimizer moves the parameters: its name, or itself."""
        return self.optimizer if self._composes else self.solver

    @property
    def _by_epochs(self) -> bool:
        by_name = isinstance(self.solver, str) and self.solver in OPTIMIZERS
        return by_name or isinstance(self.solver, Optimizer) or self._composes

    def _check_refused(self) -> None:
        """All that can be said before there is data."""
        super()._check_refused()
        if self._by_epochs:
            self._stochastic(Sampling(0, 1, validation_fraction=self.validation_fraction), ONE_EPOCH)
            return
        if self.compression is not None:
            raise ValueError(f"compression={self.compression!r} needs mini-batches; leave it out, or use solver={self._solvers[0]!r}")
        self._full_passes()

    def _set_up(self, schema: Schema, n_groups: int) -> SetUp:
        objective = self._objective(schema)
        if not self._by_epochs:
            self.__dict__.pop("_state", None)
            strategy, choice = self._full_passes()
            return SetUp(objective, L2(self._strength(schema.weight_sum)), strategy, choice)
        batches = self._batches(schema, n_groups, min(AUTO_BATCH, schema.n_rows) if isinstance(self.batch_size, str) else self.batch_size)
        n_rounds = batches.sampling.rounds_an_epoch
        batch_weight = schema.weight_sum * (batches.n_rows / schema.n_rows) / (n_rounds * batches.n_apart)
        epochs = Epochs(-(-n_rounds // self.accumulate), batches.n_rows, self.max_iter)
        stochastic = replace(self._stochastic(batches.sampling, epochs), parts=self._parts(objective.layout, epochs))
        return SetUp(objective, L2(self._strength(batch_weight)), self._composed(stochastic, objective.layout), self._choice())

    def _choice(self) -> Choice:
        if self._updates_by is not self.solver and self._by_epochs:
            name = self.optimizer if isinstance(self.optimizer, str) else type(self.optimizer).__name__
            return Choice(self._solver_name, "; ".join([name, *self._further]))
        if isinstance(self.solver, str):
            return Choice(self.solver, "; ".join(["asked for", *self._further]))
        given = "given as an optimizer" if self._by_epochs else "given as a strategy"
        return Choice(type(self.solver).__name__, "; ".join([given, *self._further]))

    def _full_passes(self) -> tuple[Strategy, Choice]:
        """Raises ValueError or TypeError for what is no solver of networks."""
        if isinstance(self.solver, str):
            if self.solver != "lbfgs":
                known = ", ".join(map(repr, self._solvers))
                raise ValueError(f"solver={self.solver!r} is not available; use one of {known}, or pass an optimizer or a strategy")
            if self.tol is None:
                raise ValueError("tol=None is for epochs of mini-batches; solver='lbfgs' needs a number, 0.0 for all steps")
            return LBFGS(tol=self.tol, max_iter=self.max_iter), self._choice()
        if not isinstance(self.solver, Strategy):
            raise TypeError(f"solver must be a name, an optimizer or a strategy, got {self.solver!r}")
        if self.solver.oracles != ("loss_and_gradient",) or isinstance(self.solver, StochasticGradient | Overlapping):
            name = type(self.solver).__name__
            raise TypeError(f"solver={name} is not for networks: use a strategy that asks for full gradients alone, such as LBFGS()")
        return self.solver, self._choice()

    @property
    def _optimizer(self) -> Optimizer:
        names = ("momentum", "beta_1", "beta_2", "epsilon", "weight_decay")
        return choose_optimizer(self._updates_by, self.nesterovs_momentum, {name: getattr(self, name) for name in names})

    def _stochastic(self, sampling: Sampling, epochs: Epochs) -> StochasticGradient:
        rate = self._effective(self.learning_rate)
        return StochasticGradient(
            sampling=sampling,
            optimizer=self._optimizer,
            schedule=self._schedule(rate, epochs),
            max_epochs=self._max_epochs,
            tol=self._least_gain(self.tol),
            patience=int(min(self.n_iter_no_change, self.max_iter)) + 1,
            early_stopping=self.early_stopping,
            adaptive=isinstance(rate, str) and rate == "adaptive",
            clip_norm=self.clip_norm,
            accumulate=self.accumulate,
            average_from=int(self.average),
        )

    def _effective(self, rate: Any) -> Any:
        """The learning rate that Adam makes of one: as in scikit-learn, those of "sgd" are constant."""
        without = isinstance(self._optimizer, Adam) and isinstance(self.solver, str) and isinstance(rate, str) and rate in OF_SGD
        return "constant" if without else rate

    def _schedule(self, rate: Any, epochs: Epochs, first: float | None = None) -> Schedule:
        """first: the first step size, where that is not the estimator's."""
        first, updates = self.learning_rate_init if first is None else first, epochs.updates * epochs.most
        others = {"invscaling": lambda: InverseScaling(first, self.power_t, every=epochs.updates, stride=epochs.rows)}
        return choose_schedule(rate, Pace(first, max(1, updates // DROPS), updates), self.warm_up, others)

    def _store(self, result: Result, objective: Any, dataset: Dataset) -> None:
        super()._store(result, objective, dataset)
        if not self._by_epochs:
            by_iteration = {row["iteration"]: row["objective"] for row in result.history}
            self.loss_curve_ = list(by_iteration.values())
            self.validation_scores_ = self.best_validation_score_ = None
            self.n_iter_ = max(1, *result.iterations)
        self.loss_ = self.loss_curve_[-1] if self.loss_curve_ else np.nan
        self.best_loss_ = None if self._held_out else float(np.min(self.loss_curve_, initial=np.inf))


def makes_mini_batches(model: NetworkModel) -> bool:
    """Whether there is a partial_fit. Raises AttributeError where there is none."""
    if not model._by_epochs:
        used = "adam" if "adam" in model._solvers else model._solvers[0]
        raise AttributeError(f"partial_fit is only available for mini-batches. solver={model.solver!r} makes full passes; use {used!r}")
    return True
