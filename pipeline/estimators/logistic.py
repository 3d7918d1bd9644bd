"""Logistic regression, binary and multinomial."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, ClassVar

import dask.array as da
import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.exceptions import DataConversionWarning
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from pipeline.data.dataset import Dataset
from pipeline.data.schema import Schema
from pipeline.estimators.base import LinearModel, lives_in_partitions
from pipeline.estimators.linear import THREADS_CURE
from tasks.checking import MAX_CLASSES
from tasks.losses import LogisticLoss, Loss, MultinomialLoss
from tasks.objectives import LinearObjective
from tasks.penalties import L2
from tasks.scoring import accuracy
from tasks.targets import as_target
from tasks.typing import Array, Float64


class LogisticRegression(ClassifierMixin, LinearModel):
    """Minimise C Σ s_i loss(y_i, coef @ x_i + intercept) + ½ |coef|², the intercept unpenalised.

    The loss is log(1 + exp(raw)) - y raw for two classes (coef_ is (1, p)) and the symmetric softmax cross-entropy for more (coef_ is
    (n_classes, p)). C=inf fits without penalty. Parameters as `sklearn.linear_model.LogisticRegression`'s; solver: "auto", "lbfgs",
    "newton" (= scikit-learn's "newton-cholesky"), "newton-cg", "sampled-newton", "gradient-descent", "nesterov" or a strategy. Inside,
    the objective is divided by C Σ s_i: converged when the largest |gradient| of that is at most tol, or at rounding; max_iter counts
    steps.
    """

    _refused: ClassVar[dict[str, tuple[tuple[Any, ...], str]]] = {
        "penalty": (("deprecated",), "scikit-learn deprecates it; C=inf fits without penalty"),
        "l1_ratio": ((0, 0.0), "L1 penalties are not available yet; use l1_ratio=0"),
        "dual": ((False,), "there is no dual solver here; use dual=False"),
        "intercept_scaling": ((1, 1.0), "the intercept is not penalised here, so its scale means nothing"),
        "verbose": ((0, False), "use set_callbacks(sklearn.callback.ProgressBar())"),
        "n_jobs": ((None,), THREADS_CURE),
    }
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "penalty": "no_validation",
        "C": [Interval(Real, 0, None, closed="right")],
        "l1_ratio": [Interval(Real, 0, 1, closed="both"), None],
        "dual": ["boolean"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "fit_intercept": ["boolean"],
        "intercept_scaling": [Interval(Real, 0, None, closed="neither")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "random_state": ["random_state"],
        "solver": "no_validation",
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "n_jobs": [None, Integral],
    }

    def __init__(
        self,
        penalty: Any = "deprecated",
        *,
        C: float = 1.0,
        l1_ratio: float = 0.0,
        dual: bool = False,
        tol: float = 1e-4,
        fit_intercept: bool = True,
        intercept_scaling: float = 1,
        class_weight: Any = None,
        random_state: Any = None,
        solver: Any = "auto",
        max_iter: int = 100,
        verbose: int = 0,
        warm_start: bool = False,
        n_jobs: int | None = None,
    ) -> None:
        self.penalty = penalty
        self.C = C
        self.l1_ratio = l1_ratio
        self.dual = dual
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.random_state = random_state  # nothing here is drawn: every value gives the same fit
        self.solver = solver
        self.max_iter = max_iter
        self.verbose = verbose
        self.warm_start = warm_start
        self.n_jobs = n_jobs

    def _objective(self, schema: Schema) -> LinearObjective:
        if schema.target_kind == "none":
            raise ValueError("the dataset has no y; name its target= when it is read")
        if schema.too_many_classes:
            raise ValueError(
                f"y has more than {MAX_CLASSES} different labels, too many for a classifier; group them, or regress on numbers"
            )
        if schema.target_kind == "multioutput":
            raise ValueError(
                f"Unknown label type: multioutput: y has shape (rows, {schema.n_targets}) but a classifier needs (rows,); y[:, 0]?"
            )
        if schema.classes is None:
            raise ValueError(
                f"Unknown label type: {schema.target_kind}. Maybe you are trying to fit a classifier, which expects discrete classes"
            )
        classes = schema.classes
        counting = classes[schema.class_weights > 0]
        if len(counting) < 2:
            raise ValueError(
                "This solver needs samples of at least 2 classes in the data, but the data contains only one class"
                f" of positive weight: {counting[0]!r}"
            )
        loss: Loss = LogisticLoss() if len(classes) == 2 else MultinomialLoss()
        weight = class_weights(self.class_weight, schema)
        return LinearObjective(loss, schema.n_columns, loss.n_outputs(1, len(classes)), self.fit_intercept, classes, weight)

    def _penalty(self, schema: Schema, objective: LinearObjective) -> L2:
        factors = np.ones(len(schema.class_weights)) if objective.class_weight is None else objective.class_weight
        total = float(schema.class_weights @ factors)
        if total == 0:
            raise ValueError(f"class_weight={self.class_weight} leaves no row any weight; at least one class must count")
        return L2(1.0 / (self.C * total))

    def _check_target(self, y: Any) -> Any:
        if isinstance(y, list | tuple):
            y = as_target(y)  # NumPy would make text of numbers among strings
        y = column_or_1d(y, warn=True)
        if y.dtype.kind == "O":
            return as_target(y)
        if y.dtype.kind not in "biufU":
            check_classification_targets(y)
        return y

    def _lazy_target(self, y: Any) -> Any:
        if isinstance(y, da.Array | np.ndarray) and y.ndim == 2 and y.shape[1] == 1:
            message = "A column-vector y was passed when a 1d array was expected; change the shape of y to (n_samples,): y[:, 0]"
            warnings.warn(message, DataConversionWarning, stacklevel=4)
            return y[:, 0]
        return y

    def _check_refused(self) -> None:
        super()._check_refused()
        require_class_weight(self.class_weight)

    def _set_coef(self, coef: Array, intercept: Array, dataset: Dataset) -> None:
        assert dataset.schema.classes is not None
        self.classes_ = dataset.schema.classes
        self.coef_, self.intercept_ = coef, intercept

    def _store(self, result: Any, objective: LinearObjective, dataset: Dataset) -> None:
        super()._store(result, objective, dataset)
        self.n_iter_ = np.array([max(1, max(result.iterations))], dtype=np.int32)

    def _coef(self) -> tuple[Array, Array]:
        return self.coef_, self.intercept_

    def _predictor(self) -> LinearObjective:
        loss: Loss = LogisticLoss() if len(self.classes_) == 2 else MultinomialLoss()
        return LinearObjective(loss, self.coef_.shape[1], len(self.coef_), True, self.classes_)

    def decision_function(self, X: Any) -> Any:
        """Raw predictions: (n,) for two classes, (n, n_classes) for more; lazy for Dask input."""
        return self._predict(X, "raw")

    def predict(self, X: Any) -> Any:
        """Labels (n,); lazy for Dask input."""
        return self._predict(X, "label")

    def predict_proba(self, X: Any) -> Any:
        """Probabilities (n, n_classes), in the order of classes_; lazy for Dask input."""
        return self._predict(X, "mean")

    def predict_log_proba(self, X: Any) -> Any:
        """log of predict_proba."""
        return np.log(self.predict_proba(X))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Accuracy; computed where the data lives for Dask input and datasets."""
        if lives_in_partitions(X):
            return accuracy(self._score_sums(X, y, sample_weight))
        return float(super().score(X, y, sample_weight))


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
