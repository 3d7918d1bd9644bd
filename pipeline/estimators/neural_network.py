"""Multi-layer perceptrons: MLPClassifier and MLPRegressor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.base import MultiOutputMixin, _fit_context
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if

from pipeline.estimators.kinds import Regressor, require_numbers
from pipeline.estimators.mini_batches import MiniBatchClassifier
from pipeline.estimators.networks import Network, makes_mini_batches
from tasks.objectives.losses import LogisticLoss, Loss, MultinomialLoss, SquaredLoss
from tasks.typing import Array

if TYPE_CHECKING:
    from pipeline.data.schema import Schema


class MLPClassifier(MiniBatchClassifier, Network):
    """A multi-layer perceptron that minimises the mean cross-entropy, logistic for two classes and softmax for more, plus a penalty.

    Parameters as `sklearn.neural_network.MLPClassifier`'s and, by keyword, those that `pipeline.estimators.networks.Network` lists. Several
    labels a row are an error.
    """

    @available_if(makes_mini_batches)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None, classes: Any = None) -> Self:
        """One epoch over these rows, in all partitions at once, from where the last fit, or partial fit, ended.

        classes: all labels that there will be; needed in the first call. Raises ValueError for labels that are not among them, and for
        other hidden_layer_sizes, dtype or kind of optimizer than in the last fit. coefs_ and intercepts_ may be set before: see
        `MiniBatchModel`.
        """
        return self._partial_fit_classes(X, y, sample_weight, classes)

    def _problem(self, schema: Schema) -> tuple[Loss, int, Array]:
        classes = self._labels(schema)
        if self.warm_start and not self._partial and "classes_" in vars(self) and not np.array_equal(classes, self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit."
                f" Previously got {self.classes_}, `y` has {classes}"
            )
        loss: Loss = LogisticLoss() if len(classes) == 2 else MultinomialLoss()
        return loss, loss.n_outputs(1, len(classes)), classes

    def _predicts(self) -> tuple[Loss, Array]:
        return LogisticLoss() if len(self.classes_) == 2 else MultinomialLoss(), self.classes_


class MLPRegressor(MultiOutputMixin, Regressor, Network):
    """A multi-layer perceptron that minimises the mean of half squared errors, summed over targets, plus a penalty.

    Parameters as `sklearn.neural_network.MLPRegressor`'s and, by keyword, those that `pipeline.estimators.networks.Network` lists.
    """

    _refused: ClassVar[dict[str, tuple[tuple[Any, ...], str]]] = {
        **Network._refused,
        "loss": (("squared_error",), "there is no other loss here; use loss='squared_error', or sklearn.neural_network.MLPRegressor"),
    }
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Network._parameter_constraints,
        "loss": [StrOptions({"squared_error", "poisson"})],
    }
    _flattens_target = True

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float | None = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: float = 0.0,
        dtype: str = "float32",
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        accumulate: int = 1,
        warm_up: int = 0,
        average: bool | int = False,
        checkpoint: Any = None,
    ) -> None:
        super().__init__(
            hidden_layer_sizes,
            activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            max_fun=max_fun,
            dropout=dropout,
            dtype=dtype,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            accumulate=accumulate,
            warm_up=warm_up,
            average=average,
            checkpoint=checkpoint,
        )
        self.loss = loss

    @available_if(makes_mini_batches)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """One epoch over these rows, in all partitions at once, from where the last fit, or partial fit, ended.

        Raises ValueError for other hidden_layer_sizes, dtype, kind of optimizer or number of targets than in the last fit. coefs_ and
        intercepts_ may be set before: see `MiniBatchModel`.
        """
        return self._partial_fit(X, y, sample_weight)

    def _problem(self, schema: Schema) -> tuple[Loss, int, None]:
        require_numbers(schema)
        return SquaredLoss(), schema.n_targets, None

    def _predicts(self) -> tuple[Loss, None]:
        return SquaredLoss(), None
