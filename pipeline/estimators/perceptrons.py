"""What MLPClassifier and MLPRegressor share: from scikit-learn's parameters to a fit, and back to scikit-learn's attributes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY
from itertools import pairwise
from numbers import Integral, Real
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from sklearn.utils._param_validation import Interval, Options, StrOptions

from pipeline.estimators.base import parameter
from pipeline.estimators.networks import NetworkModel
from pipeline.estimators.parameters import (
    BelowOne,
    Compressing,
    Count,
    Flag,
    NotNegative,
    Only,
    Positive,
    RandomState,
    ResultOrder,
    Saving,
    Share,
    Verbose,
    Whole,
    with_parameters,
)
from pipeline.training.history import digest
from tasks.objectives.activations import ACTIVATIONS
from tasks.objectives.losses import Loss
from tasks.objectives.networks import NetworkObjective
from tasks.strategies.local_sgd import N_STEPS
from tasks.strategies.optimizers import OPTIMIZERS, Optimizer
from tasks.typing import Array

if TYPE_CHECKING:
    from pipeline.data.dataset import Dataset
    from pipeline.data.schema import Schema


@with_parameters
class NetworkParameters:
    """The parameters that MLPClassifier and MLPRegressor share."""

    hidden_layer_sizes: Annotated[Any, "array-like", Interval(Integral, 1, None, closed="left")] = (100,)
    activation: Annotated[Any, StrOptions(set(ACTIVATIONS))] = "relu"
    _: KW_ONLY
    solver: Any = "adam"
    alpha: NotNegative = 0.0001
    batch_size: Annotated[Any, StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")] = "auto"
    learning_rate: Any = "constant"
    learning_rate_init: Positive = 0.001
    power_t: NotNegative = 0.5
    max_iter: Count = 200
    shuffle: Flag = True
    random_state: RandomState = None
    tol: NotNegative | None = 1e-4
    verbose: Verbose = False
    warm_start: Flag = False
    momentum: Share = 0.9
    nesterovs_momentum: Flag = True
    early_stopping: Flag = False
    validation_fraction: BelowOne = 0.1
    beta_1: BelowOne = 0.9
    beta_2: BelowOne = 0.999
    epsilon: Positive = 1e-8
    n_iter_no_change: Annotated[float, Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})] = 10
    max_fun: Annotated[
        Count, Only((15000,), "max_iter bounds the steps, and a line search takes 30 evaluations at most; leave max_fun=15000")
    ] = 15000
    dropout: BelowOne = 0.0
    dtype: Annotated[str, StrOptions({"float32", "float64"})] = "float32"
    weight_decay: NotNegative = 0.0
    clip_norm: Positive | None = None
    accumulate: Count = 1
    warm_up: Whole = 0
    average: Annotated[bool | int, "boolean", Interval(Integral, 0, None, closed="left")] = False
    optimizer: Annotated[Any, StrOptions(set(OPTIMIZERS)), Optimizer] = "adam"  # of "async", "parameter-server" and "local-sgd"
    staleness: Whole | None = 4
    order: ResultOrder = "in-order"
    local_steps: Count | None = N_STEPS
    local_epochs: Count | None = None
    compression: Compressing = None
    checkpoint: Saving = None


class Network(NetworkParameters, NetworkModel):
    """coefs_ and intercepts_, layer by layer, found by a `solver`.

    solver              "adam", "sgd" (momentum and nesterovs_momentum as in scikit-learn), any other name of
                        tasks.strategies.optimizers.OPTIMIZERS, an Optimizer; "async", "parameter-server", or an Overlap: by `optimizer`,
                        with several rounds under way; "local-sgd", or LocalUpdates: by `optimizer`, in each subtree of groups by itself;
                        or in full passes "lbfgs", or a strategy that asks for gradients alone
    batch_size          rows of one round over all partitions; "auto" is min(200, rows)
    alpha               the penalty is ½ alpha Σ coef² divided by the weight of a batch, in full passes by that of all rows
    learning_rate       "constant"; "invscaling" and "adaptive", as in scikit-learn of no effect with "adam"; "step": halved ten times in
                        max_iter epochs; "cosine": to zero over max_iter epochs; or a Schedule, which learning_rate_init does not enter
    max_iter            epochs, or steps in full passes
    epsilon             of Adam as published and as in PyTorch, beside the corrected root: scikit-learn's is another in the first updates
    n_iter_no_change    with a loss, or a score, that is not better by tol for more epochs than this the fit has converged; tol=None: never
    dropout             share of the hidden units that each mini-batch drops; predictions use all
    dtype               of parameters and arithmetic, "float32" or "float64". Full passes are always in "float64": line searches compare
                        values closer than float32 tells apart
    weight_decay        decoupled, beside alpha; 0 means 0.01 for "adamw"
    clip_norm           gradients are shortened to this norm
    accumulate          rounds whose gradients make one update
    warm_up             updates over which the step size rises
    average             True: coefs_ are the mean of all iterates; a number: of those from that update on
    optimizer           of "async", "parameter-server" and "local-sgd": a name of OPTIMIZERS or an Optimizer
    staleness, order    of "async" and "parameter-server": see `tasks.strategies.asynchronous.Overlap`
    local_steps         of "local-sgd": updates between two means, None for all
    local_epochs        in place of local_steps: epochs between two means
    compression         what is sent is made small: a name of `tasks.strategies.compressed.COMPRESSIONS`, or a Compression

    Fitted besides what all models have: coefs_ [(n_in, n_out)], intercepts_ [(n_out,)], n_layers_, n_outputs_, out_activation_, loss_ (of
    the last epoch), best_loss_ (None with early_stopping), and what mini-batches leave.
    """

    @abstractmethod
    def _problem(self, schema: Schema) -> tuple[Loss, int, Array | None]:
        """The loss, outputs and classes for this data. Raises ValueError for targets that do not fit."""

    @abstractmethod
    def _predicts(self) -> tuple[Loss, Array | None]:
        """The loss and the classes of the fitted model."""

    # -- from parameters to a fit ------------------------------------------------------------------------------------------------------

    @property
    def _hidden(self) -> tuple[int, ...]:
        sizes = np.atleast_1d(np.asarray(self.hidden_layer_sizes))
        if sizes.ndim != 1 or (len(sizes) and sizes.dtype.kind not in "iu") or np.any(sizes <= 0):
            raise ValueError(f"hidden_layer_sizes must be > 0, whole numbers, one a hidden layer, got {self.hidden_layer_sizes!r}")
        return tuple(map(int, sizes))

    def _check_refused(self) -> None:
        """All that can be said before there is data."""
        _ = self._hidden
        super()._check_refused()
        if self.dropout and not self._by_epochs:
            raise ValueError(f"dropout={self.dropout!r} needs mini-batches; set dropout=0, or use solver='adam' for instance")

    def _objective(self, schema: Schema) -> NetworkObjective:
        loss, n_outputs, classes = self._problem(schema)
        sizes = (schema.n_columns, *self._hidden, n_outputs)
        if not self._by_epochs:
            return NetworkObjective(loss, sizes, self.activation, classes, dtype="float64")
        return NetworkObjective(loss, sizes, self.activation, classes, self.dropout, self.dtype)

    def _strength(self, batch_weight: float) -> float:
        return self.alpha / batch_weight

    @property
    def _state_follows(self) -> dict[str, Any]:
        return {"hidden_layer_sizes": self._hidden, "dtype": self.dtype, "solver": f"{type(self._optimizer).__name__}{self._means}"}

    def _start(self, objective: NetworkObjective) -> Array:
        return objective.start(self._seed)

    def _given(self, objective: NetworkObjective) -> Array:
        coefs = list(pairwise(objective.layer_sizes))
        arrays = {}
        for name, kind, shapes in (("coefs_", "weight", coefs), ("intercepts_", "bias", [(n_out,) for _, n_out in coefs])):
            found = vars(self).get(name)
            found = () if found is None else found
            if [np.shape(array) for array in found] != shapes:
                raise ValueError(
                    f"{name} has arrays of shapes {[np.shape(array) for array in found]}, but this data and"
                    f" hidden_layer_sizes={self.hidden_layer_sizes!r} need {shapes}; set arrays of these shapes, or begin anew: call"
                    " fit with warm_start=False"
                )
            for layer, (array, shape) in enumerate(zip(found, shapes, strict=True)):
                arrays[f"layers.{layer}.{kind}"] = parameter(f"{name}[{layer}]", array, shape)
        return objective.layout.join(arrays)

    @property
    def _n_columns(self) -> int:
        return len(self.coefs_[0])

    # -- what a fit leaves -------------------------------------------------------------------------------------------------------------

    def _set_parameters(self, parameters: Array, objective: NetworkObjective, dataset: Dataset) -> None:
        if objective.classes is not None:
            self.classes_ = objective.classes
        self._set_arrays({name: array.copy() for name, array in objective.layout.split(parameters).items()})
        self.parameters_sha256_ = digest(parameters)

    def _arrays(self) -> dict[str, Array]:
        weights = {f"layers.{layer}.weight": coef for layer, coef in enumerate(self.coefs_)}
        return weights | {f"layers.{layer}.bias": intercept for layer, intercept in enumerate(self.intercepts_)}

    def _set_arrays(self, arrays: Mapping[str, Array]) -> None:
        n_steps = sum(name.endswith(".weight") for name in arrays)
        self.coefs_ = [arrays[f"layers.{layer}.weight"] for layer in range(n_steps)]
        self.intercepts_ = [arrays[f"layers.{layer}.bias"] for layer in range(n_steps)]
        self.n_layers_ = n_steps + 1
        self.n_features_in_, self.n_outputs_ = len(self.coefs_[0]), self.coefs_[-1].shape[1]
        self.out_activation_ = self._predicts()[0].inverse_link

    def _fitted(self, dtype: str) -> tuple[NetworkObjective, Array]:
        loss, classes = self._predicts()
        sizes = (self._n_columns, *(np.shape(coef)[1] for coef in self.coefs_))
        objective = NetworkObjective(loss, sizes, self.activation, classes, dtype=dtype)
        return objective, self._given(objective)
