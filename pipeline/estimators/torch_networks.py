"""PyTorch modules as estimators: TorchClassifier and TorchRegressor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from sklearn.base import MultiOutputMixin, _fit_context
from sklearn.utils.metaestimators import available_if

from pipeline.estimators.kinds import Regressor, require_numbers
from pipeline.estimators.mini_batches import MiniBatchClassifier
from pipeline.estimators.modules import TorchModel, TorchParameters, criterion_at
from pipeline.estimators.networks import makes_mini_batches
from pipeline.estimators.parameters import with_parameters
from tasks.objectives.criteria import ClassCriterion, NumberCriterion
from tasks.objectives.losses import LogisticLoss, Loss, MultinomialLoss, SquaredLoss
from tasks.typing import Array

if TYPE_CHECKING:
    from pipeline.data.schema import Schema


@with_parameters
class TorchClassifierParameters(TorchParameters):
    """The parameters of TorchClassifier."""


class TorchClassifier(TorchClassifierParameters, MiniBatchClassifier, TorchModel):
    """A PyTorch module that minimises the mean of a criterion over classes, plus a penalty: an output a class, or one for two classes.

    Parameters, by skorch's names where they fit, as `pipeline.estimators.modules.TorchModel` lists them.
    """

    @available_if(makes_mini_batches)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None, classes: Any = None) -> Self:
        """One epoch over these rows, in all partitions at once, from where the last fit, or partial fit, ended.

        classes: all labels that there will be; needed in the first call. Raises ValueError for labels that are not among them, and for
        another module, dtype or kind of optimizer than in the last fit. module_ may be changed before.
        """
        return self._partial_fit_classes(X, y, sample_weight, classes)

    def decision_function(self, X: Any) -> Any:
        """Raw predictions, (n,) of one output, or (n, n_classes); lazy for Dask input."""
        return self._predict(X, "raw")

    def _targets(self, schema: Schema) -> tuple[int, Array]:
        classes = self._labels(schema)
        return len(classes), classes

    def _chosen_loss(self, n_outputs: int) -> Loss:
        if self.criterion is not None:
            return ClassCriterion(criterion_at(self.criterion))
        return LogisticLoss() if n_outputs == 1 else MultinomialLoss()


@with_parameters
class TorchRegressorParameters(TorchParameters):
    """The parameters of TorchRegressor."""


class TorchRegressor(TorchRegressorParameters, MultiOutputMixin, Regressor, TorchModel):
    """A PyTorch module that minimises the mean of a criterion over numbers, summed over targets, plus a penalty: an output a target.

    Parameters, by skorch's names where they fit, as `pipeline.estimators.modules.TorchModel` lists them.
    """

    _flattens_target = True

    @available_if(makes_mini_batches)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """One epoch over these rows, in all partitions at once, from where the last fit, or partial fit, ended.

        Raises ValueError for another module, dtype, kind of optimizer or number of targets than in the last fit. module_ may be changed
        before.
        """
        return self._partial_fit(X, y, sample_weight)

    def _targets(self, schema: Schema) -> tuple[int, None]:
        require_numbers(schema)
        return schema.n_targets, None

    def _chosen_loss(self, n_outputs: int) -> Loss:
        return SquaredLoss() if self.criterion is None else NumberCriterion(criterion_at(self.criterion))
