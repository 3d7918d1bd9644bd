"""What models trained by mini-batches share: from scikit-learn's parameters to a strategy; epochs; `partial_fit`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import _check_partial_fit_first_call

from pipeline.estimators.base import GradientModel, described
from pipeline.estimators.kinds import ProbabilisticClassifier, require_classes, require_labels
from pipeline.estimators.optimizer_choice import chosen_local, chosen_overlap, solver_name
from pipeline.training.history import Row, share_read
from pipeline.training.loop import Result
from pipeline.training.sampling import Batches, batches_of
from tasks.machine.namespaces import brought_here
from tasks.objectives.base import Layout
from tasks.rounds.fitting import Fit
from tasks.rounds.oracles import ORACLES
from tasks.strategies.asynchronous import Asynchronous, AsynchronousState, Overlap
from tasks.strategies.compressed import COMPRESSIONS, Compressed, CompressedState, Compression, check_compressible, check_sliceable
from tasks.strategies.local_sgd import LocalSGD, LocalUpdates
from tasks.strategies.optimizers import Optimizer
from tasks.strategies.stochastic_gradient import StochasticGradient, StochasticGradientState
from tasks.typing import Array, Float64

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset
    from pipeline.data.schema import Schema

NOT_COMPRESSED: Final = {"variance_reduction": None}
NOT_LOCAL: Final = {
    "accumulate": 1,
    "average": False,
    "clip_norm": None,
    "variance_reduction": None,
    "importance": "uniform",
    "param_groups": (),
}
"""Parameters that say what compressed rounds and local updates cannot do, and the values that they may have."""
NOT_SERVED: Final = {"clip_norm": None, "param_groups": ()}
"""Likewise of what needs a whole gradient, of which each server has a slice."""
LARGEST_SEED: Final = 2**31 - 1


class MiniBatchModel(GradientModel):
    """A model trained by `tasks.strategies.stochastic_gradient`.

    Besides what all models have: n_iter_ (epochs), t_ (rows of batches, by all fits since the last that was not partial), loss_curve_ (mean
    loss and penalty of each epoch's batches), validation_scores_ and best_validation_score_ with early_stopping, else None; of an
    asynchronous fit, update_shares_: the share (T,) of the updates that came from each subtree of groups. Ctrl-C ends a
    fit where it is, with a warning; before the first round it is raised.

    coef_ and intercept_, or coefs_ and intercepts_, may be set, or changed in place, at any time, before the first fit, too, to the mean of
    several models', say: `predict`, `partial_fit` and a `fit` with warm_start=True take them as they are. They must have the shapes that a
    fit leaves, and finite numbers, else ValueError is raised. partial_fit then begins anew with what belongs to the parameters before: the
    optimizer's momentum and moments, and the mean that `average` asks for; step sizes, t_ and the order of the rows go on. Where nobody
    changed the attributes all goes on; if they are float32, from the float64 numbers behind them.
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
    solver: Any
    staleness: int | None
    order: str
    local_steps: int | None
    local_epochs: int | None
    compression: Any
    loss_curve_: list[float]
    update_shares_: Float64
    _state: StochasticGradientState
    _made_for: dict[str, Any]

    @property
    @abstractmethod
    def _optimizer(self) -> Optimizer:
        """What moves the parameters."""

    @property
    @abstractmethod
    def _state_follows(self) -> dict[str, Any]:
        """The parameters that the state of a fit hangs on, and what each makes: no fit with another one can go on from it."""

    @property
    def _overlap(self) -> Overlap | None:
        """How rounds overlap, in the order of the fit that this one repeats, if there is one; None: they do not."""
        chosen = chosen_overlap(self.solver, self.staleness, self.order)
        if chosen is None or chosen.order == "in-order" or self._record is None or not self._record.arrivals:
            return chosen
        return replace(chosen, arrivals=self._record.arrivals)

    @property
    def _local(self) -> LocalUpdates | None:
        """What subtrees of groups do by themselves; None: nothing."""
        return chosen_local(self.solver, self.local_steps, self.local_epochs)

    @property
    def _compression(self) -> Compression | None:
        """How what travels is made small; None: it is sent as it is."""
        return COMPRESSIONS[self.compression] if isinstance(self.compression, str) else self.compression

    @property
    def _solver_name(self) -> str:
        """The name of the solver, where rounds overlap, or subtrees update by themselves."""
        return solver_name(self.solver)

    @property
    def _further(self) -> list[str]:
        """What is to be said of the solver, beside the optimizer."""
        return [str(how) for how in (self._overlap, self._local, self._compression) if how is not None]

    @property
    def _means(self) -> str:
        """The optimizer of means, which has the state where there are some, in words behind that of updates: see `_state_follows`."""
        return "" if self._local is None else f", means by {type(self._local.outer).__name__}"

    def _composed(self, strategy: StochasticGradient, layout: Layout) -> StochasticGradient | Asynchronous | Compressed:
        """The strategy, with rounds that overlap, or local updates, and compressed, as it is to be."""
        composed: StochasticGradient | Asynchronous = strategy
        if self._local is not None:
            composed = LocalSGD.of(strategy, self._local)
        elif self._overlap is not None:
            composed = Asynchronous(strategy, self._overlap)
        return composed if self._compression is None else Compressed(composed, self._compression, layout)

    def _check_refused(self) -> None:
        super()._check_refused()
        _ = self._overlap  # which refuses what it cannot be
        if self._local is not None:
            self._refuse(NOT_LOCAL, "local updates", "or take another solver")
        elif self._overlap is not None and self._overlap.served:
            self._refuse(NOT_SERVED, "parameter servers", "or take another solver")
        if self._compression is not None:
            self._refuse(NOT_COMPRESSED, "compressed rounds", "or compression=None")
            if self._local is not None:
                check_compressible(self._local)
            if self._overlap is not None and self._overlap.served:
                check_sliceable(self._compression)

    def _refuse(self, accepted: Mapping[str, Any], what: str, cure: str) -> None:
        """Raise ValueError for a parameter that is not for these rounds. accepted: the value that each may have."""
        parameters = self.get_params(deep=False)
        for name, value in accepted.items():
            given = parameters.get(name, value)
            if given != value and not (isinstance(given, list) and tuple(given) == value):
                raise ValueError(f"{type(self).__name__}({name}={parameters[name]!r}) is not for {what}; set {name}={value!r}, {cure}")

    def _batches(self, schema: Schema, n_groups: int, batch_size: int, **options: Any) -> Batches:
        """How rows are drawn. options: further ones of `pipeline.training.sampling.batches_of`. Raises ValueError for too few rows to
        hold out."""
        held_out = schema.n_rows * self._held_out
        if self.early_stopping and (held_out < 2 or schema.n_rows - held_out < 1):
            raise ValueError(
                f"The validation set is too {'small' if held_out < 2 else 'large'}: validation_fraction={self.validation_fraction!r} of"
                f" {schema.n_rows} rows. {'Increase' if held_out < 2 else 'Decrease'} validation_fraction, or fit on more rows"
            )
        options |= {"seed": self._seed, "shuffle": self.shuffle, "validation_fraction": self._held_out}
        if self._compression is not None and self._overlap is None:  # all subtrees return something in a round
            options["most_subtrees"] = self._compression.n_subtrees
        if self._local is not None:
            return batches_of(schema, n_groups, batch_size, take_turns=True, **options).apart
        return batches_of(schema, n_groups, batch_size, take_turns=self._overlap is not None, **options)

    def _begin(self) -> None:
        """Draw a seed for this fit; a partial one goes on with the last. Raises ValueError when that one's state does not fit."""
        if self._resumes:
            self._check_state()
        if not (self._partial and "_seed" in vars(self)):
            self._seed = int(check_random_state(self.random_state).randint(LARGEST_SEED))

    @property
    def _drawn_seed(self) -> int | None:
        return self._seed

    def _take_seed(self, seed: int | None) -> None:
        if seed is not None:
            self._seed = seed

    def _check_state(self) -> None:
        now = self._state_follows
        for name, before in self._made_for.items():
            if before != now[name]:
                raise ValueError(
                    f"{type(self).__name__}.partial_fit goes on from the last fit, whose {name} was {before!r} and is {now[name]!r} now;"
                    f" put {name} back, or call fit"
                )

    def _described(self) -> dict[str, str]:
        """A partial fit is another problem than a whole one, and hangs on the classes of its first call."""
        words = super()._described()
        return {**words, "call": f"partial_fit {described(vars(self).get('classes_'))}"} if self._partial else words

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
    def _resumes(self) -> bool:
        """Whether this fit goes on from the state of the last one."""
        return self._partial and "_state" in vars(self)

    @property
    def _keeps_features(self) -> bool:
        return self._partial and "parameters_sha256_" in vars(self)

    @property
    def _warm_starts(self) -> bool:
        return self._partial or self.warm_start

    @property
    def _by_epochs(self) -> bool:
        """Whether the solver works on mini-batches."""
        return True

    @property
    def _held_out(self) -> float:
        return self.validation_fraction if self.early_stopping and self._by_epochs else 0.0

    def _is_batch(self, row: Row) -> bool:
        """Whether a round of a fit by epochs was about a batch, and not about all rows or those held out."""
        return ORACLES[row["oracle"]].subset == "training" and (self._overlap is None or row["subtree"] >= 0)

    def _share_of_epochs(self, row: Row) -> float | None:
        if not self._by_epochs:
            return None
        return 1.0 / (row["row_step"] * self._max_epochs) if self._is_batch(row) else 0.0

    @property
    def _max_epochs(self) -> int:
        return 1 if self._partial else self.max_iter

    def _least_gain(self, tol: float | None) -> float:
        """tol as the strategy takes it."""
        return -np.inf if tol is None or self._partial else tol

    def _first_states(self, fit: Fit) -> list[Any]:
        """The states that a partial fit starts from: where the last one ended, or what the fitted attributes were set to since."""
        if self._resumes:
            assert isinstance(fit.strategy, StochasticGradient | Asynchronous | Compressed)
            if fit.objective.layout.size != len(self._state.parameters):  # what rows can still change, once `_check_state` is content
                raise ValueError(f"{type(self).__name__}.partial_fit: y has another number of targets than in the last fit; call fit")
            state: Any = fit.strategy.resume(self._state)
            given = self._given(fit.objective)
            return [state if is_of(given, self._state.iterate.parameters) else fit.strategy.moved(state, given)]
        self.t_ = 0.0
        return super()._first_states(fit)

    def _store(self, result: Result, objective: Any, dataset: Dataset) -> None:
        (state,) = result.states
        self.__dict__.pop("update_shares_", None)
        if isinstance(state, CompressedState):
            state = state.inner
        if isinstance(state, AsynchronousState):
            self.update_shares_ = state.shares
            state = state.inner
        if isinstance(state, StochasticGradientState):
            self._store_epochs(state, result, dataset)
        super()._store(result, objective, dataset)

    def _store_epochs(self, state: StochasticGradientState, result: Result, dataset: Dataset) -> None:
        epochs = len(state.losses)
        self.loss_curve_ = [*(self.loss_curve_ if self._resumes else ()), *state.losses]
        self.validation_scores_ = list(state.scores) if self.early_stopping else None
        self.best_validation_score_ = float(np.max(state.scores, initial=-np.inf)) if self.early_stopping else None
        self.n_iter_ = self.n_iter_ + epochs if self._partial and "n_iter_" in vars(self) else max(1, epochs)
        passes = sum(share_read(row, self._held_out) for row in result.history if self._is_batch(row))
        self.t_ += float(round(passes * dataset.schema.n_rows))
        self._state, self._made_for = state, self._state_follows


def is_of(given: Array, parameters: Array) -> bool:
    """Whether these are the parameters (n,) of a fit, as they are or rounded to float32."""
    with np.errstate(over="ignore"):
        return bool(np.all((given == parameters) | (given == parameters.astype(np.float32))))


class MiniBatchClassifier(ProbabilisticClassifier, MiniBatchModel):
    """Partial fits on rows that may lack some of the classes."""

    def _partial_fit_classes(self, X: Any, y: Any, sample_weight: Any, classes: Any) -> Self:
        """One epoch. classes: all labels that any call will bring, needed in the first, which leaves none when it fails."""
        first = _check_partial_fit_first_call(self, brought_here(classes))
        try:
            return self._partial_fit(X, y, sample_weight)
        except BaseException:
            if first and "parameters_sha256_" not in vars(self):
                del self.classes_
            raise

    def _labels(self, schema: Schema) -> Array:
        """All classes of a fit: those of its rows, or of a partial one those of its first call, of which these rows may lack some.

        Raises ValueError for targets that do not fit, and for fewer than two classes."""
        if not self._partial:
            return require_classes(schema)
        known: list[Any] = self._classes.tolist()
        unknown = [label for label in require_labels(schema).tolist() if label not in known]
        if unknown:
            raise ValueError(f"y has labels {unknown[:8]} that are not among the classes of the first call to partial_fit: {known[:8]}")
        if len(known) < 2:
            raise ValueError(f"classes must name at least 2 classes, got one class: {known[0]!r}")
        return self._classes
