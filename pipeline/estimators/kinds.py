"""Classifiers and regressors: which targets they take, what they predict, how they score."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, column_or_1d

from pipeline.estimators.base import GradientModel
from tasks.lazy import Lazy
from tasks.loading.checking import MAX_CLASSES
from tasks.machine.namespaces import is_elsewhere, namespace_of
from tasks.objectives.scoring import accuracy, r2
from tasks.rows.targets import as_target
from tasks.typing import Array, Float64

if TYPE_CHECKING:
    from pipeline.data.schema import Schema
    from pipeline.estimators import rows
else:
    rows = Lazy("pipeline.estimators.rows")


class Regressor(RegressorMixin, GradientModel):
    """Predicts numbers, (n,) or (n, t)."""

    def _check_target(self, y: Any) -> Any:
        return check_array(y, ensure_2d=False, dtype="numeric", ensure_all_finite=False, input_name="y", estimator=self)

    def predict(self, X: Any) -> Any:
        """Predicted numbers (n,) or (n, t); lazy for Dask input."""
        return self._predict(X, "raw")

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """R², averaged over targets; computed where the data lives for Dask input, datasets and arrays on a device."""
        if rows.scored_in_place(X):
            return r2(rows.summed_score(self, X, y, sample_weight))
        return float(super().score(*rows.in_memory(X, y, sample_weight)))


class Classifier(ClassifierMixin, GradientModel):
    """Predicts one of classes_ for each row."""

    classes_: Any

    _flattens_target = True

    @property
    def _classes(self) -> Array:
        """A copy of classes_ as an array, whoever set it, as a list perhaps."""
        return np.array(self.classes_)

    def _check_fitted(self) -> None:
        super()._check_fitted()
        if self._classes.ndim != 1 or len(self._classes) < 2:
            raise ValueError(f"classes_ must hold at least 2 labels, in an array of shape (n_classes,), got {self.classes_!r}")

    def _check_target(self, y: Any) -> Any:
        if isinstance(y, list | tuple):
            y = as_target(y)  # NumPy would make text of numbers among strings
        y = column_or_1d(y, warn=True)
        if y.dtype.kind == "O":
            return as_target(y)
        if y.dtype.kind not in "biufU":
            check_classification_targets(y)
        return y

    def predict(self, X: Any) -> Any:
        """Labels (n,); lazy for Dask input."""
        return self._predict(X, "label")

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Accuracy; computed where the data lives for Dask input, datasets and arrays on a device."""
        if rows.scored_in_place(X):
            return accuracy(rows.summed_score(self, X, y, sample_weight))
        X, y, sample_weight = rows.in_memory(X, y, sample_weight)
        return float(super().score(X, as_target(y) if isinstance(y, np.ndarray) and y.dtype.kind == "O" else y, sample_weight))


class ProbabilisticClassifier(Classifier):
    """Predicts probabilities, too."""

    def predict_proba(self, X: Any) -> Any:
        """Probabilities (n, n_classes), in the order of classes_; lazy for Dask input."""
        return self._predict(X, "mean")

    def predict_log_proba(self, X: Any) -> Any:
        """log of predict_proba."""
        found = self.predict_proba(X)
        return namespace_of(found).log(found) if is_elsewhere(found) else np.log(found)


def require_numbers(schema: Schema) -> None:
    """Raise ValueError for targets that a regressor cannot take."""
    if schema.target_kind == "none":
        raise ValueError("the dataset has no y; name its target= when it is read")
    if schema.target_is_text:
        raise ValueError("y holds labels, not numbers; use LogisticRegression, or encode them")


def require_labels(schema: Schema) -> Array:
    """The labels in y, perhaps of one class alone. Raises ValueError for targets that a classifier cannot take."""
    if schema.target_kind == "none":
        raise ValueError("the dataset has no y; name its target= when it is read")
    if schema.too_many_classes:
        raise ValueError(f"y has more than {MAX_CLASSES} different labels, too many for a classifier; group them, or regress on numbers")
    if schema.n_targets > 1:
        raise ValueError(
            f"Unknown label type: multioutput: y has shape (rows, {schema.n_targets}) but a classifier needs (rows,); y[:, 0]?"
        )
    if schema.classes is None:
        raise ValueError(
            f"Unknown label type: {schema.target_kind}. Maybe you are trying to fit a classifier, which expects discrete classes"
        )
    return schema.classes


def require_classes(schema: Schema) -> Array:
    """The classes of y. Raises ValueError for targets that a classifier cannot take."""
    classes = require_labels(schema)
    counting = classes[schema.class_weights > 0]
    if len(counting) < 2:
        raise ValueError(
            "This solver needs samples of at least 2 classes in the data, but the data contains only one class"
            f" of positive weight: {counting[0].item()!r}"
        )
    return classes


def class_weights(class_weight: Any, schema: Schema) -> Float64 | None:
    """The factor of each class, (n_classes,): "balanced" is n_rows / (n_classes rows of the class), weighted rows where there are weights.

    Raises ValueError for labels that the data does not have while labels that it has are missing.
    """
    classes = schema.classes
    assert classes is not None
    if class_weight is None:
        return None
    if class_weight == "balanced":
        counts = schema.class_weights > 0  # a class without weight needs no factor
        return np.where(counts, schema.class_weights.sum() / (counts.sum() * np.where(counts, schema.class_weights, 1.0)), 0.0)
    assert isinstance(class_weight, Mapping)
    unknown = [label for label in class_weight if label not in classes.tolist()]
    if unknown and any(label not in class_weight for label in classes.tolist()):  # as scikit-learn: a fold may lack a class
        shown = ", ".join(map(repr, classes[:8].tolist())) + ", ..." * (len(classes) > 8)
        raise ValueError(f"class_weight has factors for {unknown}, but y has no such classes: they are {shown}")
    return np.array([float(class_weight.get(label, 1.0)) for label in classes.tolist()])


def require_class_weight(class_weight: Any) -> None:
    """Raise ValueError or TypeError for factors that are not positive numbers, and for keys that cannot all be classes of one y."""
    if not isinstance(class_weight, Mapping):
        return
    for label, factor in class_weight.items():
        if not isinstance(factor, Real):
            raise TypeError(f"class_weight must hold numbers, got {factor!r} for class {label!r}")
        if not 0 <= float(factor) < np.inf:
            raise ValueError(f"class_weight must hold finite factors that are not negative, got {factor!r} for class {label!r}")
    try:
        as_target(np.array(list(class_weight), dtype=object))
    except (TypeError, ValueError) as error:
        raise TypeError(f"the keys of class_weight must be classes as y has them, got {list(class_weight)}: {error}") from error
