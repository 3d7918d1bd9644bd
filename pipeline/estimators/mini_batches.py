"""What models trained by mini-batches share: from scikit-learn's parameters to a strategy; epochs; `partial_fit`."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Final, Self

import numpy as np
from sklearn.utils import check_random_state

from pipeline.data.dataset import Dataset
from pipeline.data.schema import Schema
from pipeline.estimators.base import GradientModel
from pipeline.training import Result
from tasks.batches import ROWS_A_LANE, Sampling, lane_level
from tasks.fitting import Fit
from tasks.strategies.stochastic_gradient import StochasticGradient, StochasticGradientState

LARGEST_SEED: Final = 2**31 - 1


class MiniBatchModel(GradientModel):
    """A model trained by `tasks.strategies.stochastic_gradient`.

    Besides what all models have: n_iter_ (epochs), t_ (rows seen, by all fits since the last that was not partial), loss_curve_ (mean loss
    and penalty of each epoch's batches), validation_scores_ and best_validation_score_ with early_stopping, else None. Ctrl-C ends a fit
    where it is, with a warning.
    """

    _keep_on_interrupt: ClassVar[bool] = True
    _partial: bool = False  # whether this fit is one epoch, from where the last one ended

    n_iter_: int
    random_state: Any
    max_iter: int
    early_stopping: bool
    validation_fraction: float
    shuffle: bool
    warm_start: bool

    @abstractmethod
    def _mini_batches(self, schema: Schema, n_groups: int) -> StochasticGradient:
        """The strategy, with the parameters that scikit-learn's constructor has."""

    def _sampling(
        self, schema: Schema, n_groups: int, batch_size: int, importance: Any = "uniform", rows_a_lane: int = ROWS_A_LANE
    ) -> Sampling:
        """How rows are drawn: about batch_size of them a round, at least some rows_a_lane in one call."""
        if not (self._partial and "_seed" in vars(self)):
            self._seed = int(check_random_state(self.random_state).randint(LARGEST_SEED))
        fraction = self.validation_fraction if self.early_stopping else 0.0
        n_training = max(1, round(schema.n_rows * (1 - fraction)))
        n_rounds = max(1, -(-n_training // batch_size))
        n_bytes = schema.n_rows * schema.n_columns * np.dtype(schema.dtype).itemsize
        level = lane_level(n_groups, n_bytes, batch_size, rows_a_lane)
        return Sampling(self._seed, n_rounds, level, self.shuffle, fraction, importance)

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any) -> Self:
        """One epoch over these rows, in all partitions at once."""
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True: one epoch has no best one; use fit")
        self._partial = True
        try:
            return self._fit(X, y, sample_weight)
        finally:
            del self._partial

    @property
    def _goes_on(self) -> bool:
        return self._partial and "_state" in vars(self)

    @property
    def _max_epochs(self) -> int:
        return 1 if self._partial else self.max_iter

    def _least_gain(self, tol: float | None) -> float:
        """tol as the strategy takes it."""
        return -np.inf if tol is None or self._partial else tol

    def _first_states(self, fit: Fit) -> list[Any]:
        """Of a partial fit: where the last one ended."""
        strategy = fit.strategy
        assert isinstance(strategy, StochasticGradient)
        if self._goes_on:
            return [strategy.resume(self._state)]
        self.t_ = 0.0
        return super()._first_states(fit)

    def _store(self, result: Result, objective: Any, dataset: Dataset) -> None:
        state: StochasticGradientState = result.states[0]
        self._state = state
        epochs = len(state.losses)
        self.loss_curve_ = list(state.losses)
        self.validation_scores_ = list(state.scores) if self.early_stopping else None
        self.best_validation_score_ = float(np.max(state.scores, initial=-np.inf)) if self.early_stopping else None
        self.n_iter_ = self.n_iter_ + epochs if self._partial and "n_iter_" in vars(self) else max(1, epochs)
        self.t_ += round(sum(dataset.schema.n_rows / row["row_step"] for row in result.history if row["power"] != "score"))
        super()._store(result, objective, dataset)
