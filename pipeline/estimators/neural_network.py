"""Multi-layer perceptrons: MLPClassifier and MLPRegressor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from sklearn.base import MultiOutputMixin, _fit_context
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if

from pipeline.estimators.kinds import Regressor, require_numbers
from pipeline.estimators.mini_batches import MiniBatchClassifier
from pipeline.estimators.networks import makes_mini_batches
from pipeline.estimators.parameters import Only, with_parameters
from pipeline.estimators.perceptrons import Network, NetworkParameters
from tasks.objectives.losses import LogisticLoss, Loss, MultinomialLoss, SquaredLoss
from tasks.typing import Array

if TYPE_CHECKING:
    from pipeline.data.schema import Schema


@with_parameters
class MLPClassifierParameters(NetworkParameters):
    """The parameters of MLPClassifier."""


class MLPClassifier(MLPClassifierParameters, MiniBatchClassifier, Network):
    """A multi-layer perceptron that minimises the mean cross-entropy, logistic for two classes and softmax for more, plus a penalty.

    Parameters as `sklearn.neural_network.MLPClassifier`'s and, by keyword, those that `pipeline.estimators.perceptrons.Network` lists.
    Several labels a row are an error.
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
        return LogisticLoss() if len(self._classes) == 2 else MultinomialLoss(), self._classes


@with_parameters
class RegressionLossParameters:
    """The first parameter of MLPRegressor, for scikit-learn's signature."""

    loss: Annotated[
        str,
        StrOptions({"squared_error", "poisson"}),
        Only(("squared_error",), "there is no other loss here; use loss='squared_error', or sklearn.neural_network.MLPRegressor"),
    ] = "squared_error"


@with_parameters
class MLPRegressorParameters(NetworkParameters, RegressionLossParameters):
    """The parameters of MLPRegressor."""


class MLPRegressor(MLPRegressorParameters, MultiOutputMixin, Regressor, Network):
    """A multi-layer perceptron that minimises the mean of half squared errors, summed over targets, plus a penalty.

    Parameters as `sklearn.neural_network.MLPRegressor`'s and, by keyword, those that `pipeline.estimators.perceptrons.Network` lists.
    """

    _flattens_target = True

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
