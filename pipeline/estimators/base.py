"""What all estimators share: the fit, what it leaves, and what a subclass says of its model."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator, _fit_context, is_classifier
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.utils.validation import _check_feature_names, check_is_fitted

from pipeline.estimators.diagram import FitAttributes
from pipeline.estimators.parameters import Only
from pipeline.estimators.solvers import Choice
from pipeline.training.callbacks import RoundCallbacks
from pipeline.training.checkpoints.files import FitKey
from pipeline.training.checkpoints.keeper import Checkpoint, Keeper
from pipeline.training.history import Row
from pipeline.training.loop import INTERRUPTED, Result, train
from pipeline.training.observers import Record
from tasks.lazy import Lazy
from tasks.objectives.penalties import Penalty
from tasks.objectives.scoring import Predictor, ScoreInput
from tasks.rounds.fitting import Fit
from tasks.strategies.base import Strategy
from tasks.typing import Array, Float64

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.data.dataset import Dataset
    from pipeline.data.schema import Schema
    from pipeline.estimators import rows
    from pipeline.execution.base import Executor
    from pipeline.training.checkpoints import identity
else:  # what takes long to import waits for the first fit or prediction
    pd, rows, identity = Lazy("pandas"), Lazy("pipeline.estimators.rows"), Lazy("pipeline.training.checkpoints.identity")

PARAMETERS: Final = ("coef_", "intercept_", "coefs_", "intercepts_", "module_")
START: Final = ("parameters_sha256_", *PARAMETERS)
"""What a fit that starts from the last one's parameters hangs on."""
COLUMN_VECTOR: Final = "A column-vector y was passed when a 1d array was expected; change the shape of y to (n_samples,): y[:, 0]"


class SetUp(NamedTuple):
    """What a fit starts from."""

    objective: Predictor
    penalty: Penalty
    strategy: Strategy
    choice: Choice

    @property
    def fit(self) -> Fit:
        return Fit(self.objective, (self.penalty,), self.strategy)


class GradientModel(CallbackSupportMixin, BaseEstimator):
    """A model trained on partitions by rounds.

    Fitted attributes: n_features_in_, feature_names_in_, n_iter_, solver_ (name and reason), status_ (kind and reason), history_ (a row per
    round: see `pipeline.training.history.Rounds`), n_rounds_, resumed_from_ (the round of the checkpoint that the fit went on from, 0
    without), bytes_per_round_ (numbers to and from one worker), tasks_per_round_ (tasks, or calls of
    workers), and parameters_sha256_, the digest of the flat parameters as float64.
    """

    # of parameters that exist for scikit-learn's signature, by name; `with_parameters` fills it
    _refused: ClassVar[Mapping[str, Only]] = {}
    # of parameters that a model's file does not have: they are of the machine that fitted it, or code
    _unsaved: ClassVar[tuple[str, ...]] = ("checkpoint",)
    # what `solver` may be by name, where there is one
    _solvers: ClassVar[tuple[str, ...]] = ()
    # whether y of shape (n, 1) is taken as (n,), with scikit-learn's warning
    _flattens_target: ClassVar[bool] = False
    # whether Ctrl-C ends a fit where it is, with a warning, as scikit-learn's networks do
    _keep_on_interrupt: ClassVar[bool] = False

    # who is told of the sums of each round
    _record: Record | None = None
    # of the fit, see `Checkpoint.of`
    checkpoint: Any

    @property
    def _keeps_features(self) -> bool:
        """Whether this fit must be on rows with the features of the last one."""
        return False

    @property
    def _warm_starts(self) -> bool:
        """Whether this fit starts from the parameters that the fitted attributes have, if there are any."""
        return bool(self.get_params().get("warm_start"))

    @property
    def _held_out(self) -> float:
        """The share of the rows that only scores read."""
        return 0.0

    def _begin(self) -> None:
        """What a fit draws, once and before anything else."""

    @property
    def _drawn_seed(self) -> int | None:
        """The seed that `_begin` drew, if there is one."""
        return None

    def _share_of_epochs(self, row: Row) -> float | None:
        """Which share of the epochs that a fit makes at most a round was; None where there are no epochs."""
        return None

    def _take_seed(self, seed: int | None) -> None:
        """Take that of a fit which this one repeats, or goes on from, in place of the drawn one; None: keep that."""

    def _survey(self, executor: Executor, dataset: Dataset) -> None:
        """Look at the rows for what `_set_up` has to know beside their schema."""

    @abstractmethod
    def _set_up(self, schema: Schema, n_groups: int) -> SetUp:
        """The set-up of a fit on data of this schema in so many groups. Raises ValueError for targets that do not fit."""

    @abstractmethod
    def _start(self, objective: Any) -> Array:
        """The parameters (n,) to start from, where none are there or wanted."""

    @abstractmethod
    def _given(self, objective: Any) -> Array:
        """The parameters (n,) that the fitted attributes have now, whoever set them.

        Raises ValueError, naming the attribute, for those that are missing, of other shapes than the objective needs, or not finite."""

    @property
    @abstractmethod
    def _n_columns(self) -> int:
        """The columns that the fitted attributes are for."""

    @abstractmethod
    def _set_parameters(self, parameters: Array, objective: Any, dataset: Dataset) -> None:
        """Store parameters (n,) as fitted attributes in scikit-learn's shapes."""

    @abstractmethod
    def _arrays(self) -> dict[str, Array]:
        """The fitted parameters by the names that they have in a model's file."""

    @abstractmethod
    def _set_arrays(self, arrays: Mapping[str, Array]) -> None:
        """Store what `_arrays` gave, and what follows from it: a model's file has been read."""

    @abstractmethod
    def _fitted(self, dtype: str) -> tuple[Predictor, Array]:
        """The objective of the fitted model, for predictions, and its parameters (n,); dtype: of the arithmetic, if there is a choice."""

    @abstractmethod
    def _check_target(self, y: Any) -> Any:
        """A target in memory, checked as scikit-learn does."""

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit on X (n, p), y (n,) or (n, t), sample_weight (n,), or on a `Dataset` alone.

        Takes NumPy, SciPy sparse and frames (pandas, polars, Arrow) in memory, Dask arrays and data frames of any chunking, or a Dataset.
        Runs on the current `distributed.Client`'s cluster, else on threads here. Raises ValueError or TypeError for data that cannot be
        fitted, before any round; warns with ConvergenceWarning when the fit ended without converging.
        """
        return self._fit(X, y, sample_weight)

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> Self:
        self._check_refused()
        options = Checkpoint.of(self.checkpoint)
        dataset = rows.dataset_of(self, X, y, sample_weight)
        self._begin()
        executor = dataset.executor()
        with nullcontext() if options is None else options.prepared(), executor.span(f"fit-{type(self).__name__}"):
            try:
                with nullcontext() if options is None else self._keeper(options, dataset) as keeper:
                    setup, result, callbacks = self._train(executor, dataset, keeper, X, y)
            finally:
                if dataset is not X:
                    executor.release(dataset.rows)
        if not result.history and result.statuses[0].reason == INTERRUPTED:
            raise KeyboardInterrupt  # there is nothing to keep
        self.solver_ = setup.choice
        self.resumed_from_ = 0 if keeper is None else keeper.resumed_from
        self._store(result, setup.objective, dataset)
        callbacks.close()
        return self

    def _train(self, executor: Executor, dataset: Dataset, keeper: Keeper | None, X: Any, y: Any) -> tuple[SetUp, Result, RoundCallbacks]:
        """From the rows to the last states. X, y: for callbacks."""
        record = self._record
        if record is not None:
            self._take_seed(record.begin(dataset, self._drawn_seed, 0 if keeper is None else keeper.resumed_from))
        self._survey(executor, dataset)
        if self._flattens_target and dataset.schema.target_is_column:
            warnings.warn(COLUMN_VECTOR, DataConversionWarning, stacklevel=4)
        setup = self._set_up(dataset.schema, dataset.source.n_groups)
        callbacks = RoundCallbacks(self, self._init_callback_context(max_subtasks=None), X, y)
        fit = replace(setup.fit, marked=record is not None)
        observers = [observer for observer in (record, callbacks, keeper) if observer is not None]
        saved = None if keeper is None else keeper.saved
        result = train(executor, dataset, fit, self._first_states(fit), observers, saved=saved, keep_on_interrupt=self._keep_on_interrupt)
        return setup, result, callbacks

    def _keeper(self, options: Checkpoint, dataset: Dataset) -> Keeper:
        """The keeper of this fit's checkpoints, with the one that it goes on from."""
        words = {"estimator": type(self).__name__, **self._described(), "data": dataset.described()}
        if self._warm_starts:
            words["start"] = described([vars(self).get(name) for name in START])
        if identity.is_own(type(self).__module__):
            words["code"] = described(type(self))
        keeper = Keeper(options, FitKey(words))
        keeper.load()
        self._take_seed(keeper.seed)
        keeper.seed = self._drawn_seed
        return keeper

    def _described(self) -> dict[str, str]:
        """The constructor's parameters that a fit hangs on, each in words."""
        parameters = self.get_params(deep=False)
        return {name: described(value) for name, value in parameters.items() if name not in ("checkpoint", "verbose", "n_jobs", "copy_X")}

    def _first_states(self, fit: Fit) -> list[Any]:
        """What the first round follows from."""
        begin = self._given if self._warm_starts and self.__sklearn_is_fitted__() else self._start
        return fit.init(begin(fit.objective)[None])

    def _check_refused(self) -> None:
        for name, (accepted, cure) in self._refused.items():
            value = getattr(self, name)
            if not any(value is a or value == a for a in accepted):
                raise ValueError(f"{type(self).__name__}({name}={value!r}) is not available: {cure}")

    def _set_features(self, dataset: Dataset) -> None:
        if self._keeps_features:
            self._check_features(dataset.n_columns, dataset.columns)
            return
        self.n_features_in_ = dataset.n_columns
        self.__dict__.pop("feature_names_in_", None)
        if dataset.columns is not None:
            self.feature_names_in_ = np.asarray(dataset.columns, dtype=object)

    def _store(self, result: Result, objective: Predictor, dataset: Dataset) -> None:
        (self.status_,) = result.statuses
        (parameters,) = result.parameters
        if not np.all(np.isfinite(parameters)):
            raise ValueError(f"the fit diverged: {self.status_.reason}")
        self._set_parameters(parameters, objective, dataset)
        self.history_ = result.history
        self.n_rounds_ = len(result.history)
        self.bytes_per_round_ = result.bytes_per_round
        self.tasks_per_round_ = result.tasks_per_round
        if self.status_.kind != "converged":
            message = f"{type(self).__name__} ended {self.status_.kind} after {self.n_rounds_} rounds: {self.status_.reason}"
            warnings.warn(message, ConvergenceWarning, stacklevel=3)

    # -- predictions -----------------------------------------------------------------------------------------------------------------

    def __sklearn_is_fitted__(self) -> bool:
        return any(name in vars(self) for name in PARAMETERS)

    def _check_fitted(self) -> None:
        """Raise NotFittedError without fitted attributes, ValueError where somebody has set some of those and left out others."""
        check_is_fitted(self)
        first, second = ("coefs_", "intercepts_") if {"coefs_", "intercepts_"} & vars(self).keys() else ("coef_", "intercept_")
        needed = (first, second, "classes_") if is_classifier(self) else (first, second)
        for name in needed:
            if name not in vars(self):
                raise ValueError(f"{type(self).__name__} has fitted attributes, but no {name}; set it, too, or call fit")

    def _model(self, dtype: str) -> ScoreInput:
        """The fitted model for rows of that dtype, as the user gave them."""
        self._check_fitted()
        if self._n_columns != self._n_features:
            name = "coefs_[0]" if "coefs_" in vars(self) else "coef_"
            raise ValueError(f"{name} is for {self._n_columns} columns, but {type(self).__name__} was fitted on {self._n_features}")
        names = vars(self).get("feature_names_in_")
        model = ScoreInput(*self._fitted(dtype), None if names is None else tuple(names))
        classes, n_outputs = model.objective.classes, model.objective.n_outputs
        if classes is not None and n_outputs != len(classes) and (n_outputs, len(classes)) != (1, 2):
            raise ValueError(f"classes_ has {len(classes)} labels, but the fitted parameters are of {max(2, n_outputs)} classes; set both")
        return model

    def _predict(self, X: Any, kind: str) -> Any:
        """Predictions of `kind`: lazy for Dask input and datasets, NumPy otherwise."""
        self._check_fitted()
        return rows.predictions(self, X, kind)

    @property
    def _n_features(self) -> int:
        """The columns of the last fit, or those that attributes set by hand are for."""
        return int(vars(self).get("n_features_in_", self._n_columns))

    def _check_features(self, n_columns: int, columns: Sequence[str] | None) -> None:
        name = type(self).__name__
        if n_columns != self._n_features:
            raise ValueError(f"X has {n_columns} features, but {name} is expecting {self._n_features} features as input")
        if columns is not None and "feature_names_in_" in vars(self):
            _check_feature_names(self, pd.DataFrame(columns=list(columns)), reset=False)

    def _get_fitted_attr_html(self, doc_link: str = "") -> FitAttributes:
        """What scikit-learn's diagram shows of the fitted attributes."""
        return FitAttributes(super()._get_fitted_attr_html(doc_link))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def parameter(name: str, value: Any, *shapes: tuple[int, ...]) -> Float64:
    """A fitted attribute, or a member of one, that somebody may have set, as float64; shapes: those that it may have.

    Raises ValueError for another shape, and for what is no finite number."""
    try:
        if np.iscomplexobj(value):
            raise TypeError("it holds complex numbers")
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must hold numbers, an array of shape {shapes[0]}: {error}") from error
    if array.shape not in shapes:
        raise ValueError(
            f"{name} has shape {array.shape}, but this model needs {shapes[0]}; set it to an array of that shape, or begin anew: call fit"
            " with warm_start=False"
        )
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} holds NaN or infinity; set it to finite numbers")
    return array


def described(value: Any) -> str:
    """A parameter in words that are the same in every process: itself where it is short and plain, else a digest."""
    plain = value.item() if isinstance(value, np.generic) else value
    if plain is None or isinstance(plain, bool | int | float | str):
        return repr(plain)
    return f"{type(value).__name__} {identity.identity(value)}"
