"""What models trained by mini-batches share: from scikit-learn's parameters to a strategy; epochs; `partial_fit`."""

from __future__ import annotations

from typing import Any, ClassVar, Final, Self

import numpy as np
from sklearn.utils import check_random_state

from pipeline.data.dataset import Dataset
from pipeline.data.schema import Schema
from pipeline.estimators.base import GradientModel
from pipeline.sampling import Batches, batches_of
from pipeline.training import Result
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
    _seed: int = 0  # of a model that no fit has drawn one for
    _partial: bool = False  # whether this fit is one epoch, from where the last one ended

    n_iter_: int
    random_state: Any
    max_iter: int
    early_stopping: bool
    validation_fraction: float
    shuffle: bool
    warm_start: bool
    loss_curve_: list[float]
    _state: StochasticGradientState

    def _batches(self, schema: Schema, n_groups: int, batch_size: int, **options: Any) -> Batches:
        """How rows are drawn. options: further ones of `pipeline.sampling.batches_of`. Raises ValueError for too few rows to hold out."""
        held_out = self.validation_fraction if self.early_stopping else 0.0
        if self.early_stopping and schema.n_rows * held_out < 2:
            raise ValueError(
                f"The validation set is too small: validation_fraction={self.validation_fraction!r} of {schema.n_rows} rows."
                " Increase validation_fraction, or fit on more rows"
            )
        return batches_of(schema, n_groups, batch_size, seed=self._seed, shuffle=self.shuffle, validation_fraction=held_out, **options)

    def _begin(self) -> None:
        """Draw a seed for this fit; a partial one goes on with the last."""
        if not (self._partial and "_seed" in vars(self)):
            self._seed = int(check_random_state(self.random_state).randint(LARGEST_SEED))

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
    def _by_epochs(self) -> bool:
        """Whether the solver works on mini-batches."""
        return True

    @property
    def _max_epochs(self) -> int:
        return 1 if self._partial else self.max_iter

    def _least_gain(self, tol: float | None) -> float:
        """tol as the strategy takes it."""
        return -np.inf if tol is None or self._partial else tol

    def _first_states(self, fit: Fit) -> list[Any]:
        """Of a partial fit: where the last one ended."""
        if self._goes_on:
            assert isinstance(fit.strategy, StochasticGradient)
            return [fit.strategy.resume(self._state)]
        self.t_ = 0.0
        return super()._first_states(fit)

    def _store(self, result: Result, objective: Any, dataset: Dataset) -> None:
        (state,) = result.states
        if isinstance(state, StochasticGradientState):
            self._store_epochs(state, result, dataset)
        super()._store(result, objective, dataset)

    def _store_epochs(self, state: StochasticGradientState, result: Result, dataset: Dataset) -> None:
        epochs = len(state.losses)
        self.loss_curve_ = [*(self.loss_curve_ if self._goes_on else ()), *state.losses]
        self.validation_scores_ = list(state.scores) if self.early_stopping else None
        self.best_validation_score_ = float(np.max(state.scores, initial=-np.inf)) if self.early_stopping else None
        self.n_iter_ = self.n_iter_ + epochs if self._partial and "n_iter_" in vars(self) else max(1, epochs)
        passes = sum(1 / row["row_step"] for row in result.history if row["power"] != "score")
        self.t_ += float(round(passes * dataset.schema.n_rows))
        self._state = state
