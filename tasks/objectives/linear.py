"""Linear models as the workers see them: a layout of coefficients and intercepts, sums of loss and derivatives over a group, predictions.

Parameters are one flat vector a model, with a leading model axis: (k, n). All k models share one pass over the rows.
An objective returns *sums* and weights; they are divided once, at the root (`evaluate`), where the penalty is added, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import scipy.sparse as sp

from tasks import kernels
from tasks.kernels import array_api
from tasks.machine.namespaces import beside, namespace_of
from tasks.objectives.base import Layout, Sums, add_sums
from tasks.objectives.encoding import add_weights, beside_X, encode, encoded_target, float_target, one_hot, row_weight
from tasks.objectives.losses import Loss
from tasks.objectives.standardisation import Standardisation
from tasks.reductions.tree import tree_sum
from tasks.rows.partition import Group
from tasks.typing import Array, Design, Float64, Int64


@dataclass(frozen=True, eq=False)
class LinearObjective:
    """Σ_i s_i loss(y_i, coef @ x_i + intercept), the loss being any of tasks.objectives.losses.

    classes       the labels in order, for classification: y is encoded against them where it lives
    class_weight  (n_classes,) factor of each row's weight by its class, or None; in one-vs-rest it is the factor of the rows of class a
                  in the problem of class a alone, where all others keep their weight, as in scikit-learn's SGDClassifier
    standard      parameters are coefficients of the columns standardised by this; None: of the user's
    targets       parameters are those for y standardised by this; None: for y as it is
    compiled      whether compiled passes go over the rows, or NumPy's (see `tasks.kernels.worth_compiling`), which make CSR rows dense
    `loss_and_gradient` and `hessian_vector` take and give what is by the coefficients of the user's columns all the same: parameters are
    converted once a round (`Layout.by_columns`), sums once, at the root (`evaluate`), so that no cut of groups shows in the bits. `hessian`
    and `gram` go by the parameters, because their rows are standardised before they are squared.
    """

    loss: Loss
    n_columns: int
    n_outputs: int
    fit_intercept: bool
    classes: Array | None = None
    class_weight: Float64 | None = None
    standard: Standardisation | None = None
    targets: Standardisation | None = None
    compiled: bool = True

    @cached_property
    def layout(self) -> Layout:
        free: dict[str, tuple[int, ...]] = {"intercept": (self.n_outputs,)} if self.fit_intercept else {}
        return Layout({"coef": (self.n_outputs, self.n_columns)}, free, standard=self.standard)

    def split(self, parameters: Float64) -> tuple[Float64, Float64]:
        """(..., n) -> coef (..., n_outputs, n_columns), intercept (..., n_outputs), zeros when none is fitted."""
        arrays = self.layout.split(parameters)
        free = arrays["intercept"] if self.fit_intercept else np.zeros((*parameters.shape[:-1], self.n_outputs))
        return arrays["coef"], free

    def join(self, coef: Array, intercept: Array) -> Float64:
        """The flat vector (n,) of one model."""
        return self.layout.join({"coef": coef, "intercept": intercept})

    @cached_property
    def _labels(self) -> tuple[Any, ...]:
        return () if self.classes is None else tuple(self.classes.tolist())

    @property
    def one_vs_rest(self) -> bool:
        """Whether each output is a binary problem: one class against all others."""
        return self.loss.classification and not self.loss.coupled and self.n_outputs > 1

    @property
    def _positive_weight(self) -> Float64 | None:
        return self.class_weight if self.one_vs_rest else None

    def target(self, group: Group) -> Array:
        """y as the loss wants it, where X lives: see `encoded_target`; (n, n_outputs) of 0.0 and 1.0 for one-vs-rest."""
        if self.targets is not None:
            shift, factor = self.targets
            shape = group.n_rows, self.n_outputs  # of a group without rows, y may be anything
            key = ("standardised", *shift.tolist(), *factor.tolist())
            return beside_X(group, key, lambda: (float_target(group).reshape(shape) - shift) * factor)
        if self.one_vs_rest:
            return beside_X(group, ("one-vs-rest", self._labels), lambda: one_hot(encode(group.y, self.classes), self.n_outputs))
        return encoded_target(group, self.loss, self.classes, self._labels, self.n_outputs)

    def require_reachable(self, mean: Float64) -> None:
        """Raise ValueError for a weighted mean (t,) of all y that the loss cannot predict."""
        if self.classes is None and not np.all(self.loss.reaches(mean)):
            raise ValueError(f"the {self.loss.name} loss has no minimum where y has mean {np.min(mean)}; use another loss, or other rows")

    def weight(self, group: Group) -> Float64 | None:
        """Row weights (n,) with the class weights in (without them for one-vs-rest), where X lives, or None for ones."""
        weight: Any = row_weight(group)
        if self.class_weight is None or self.one_vs_rest:
            return weight
        target = self.target(group)
        xp = namespace_of(target)
        by_class: Any = xp.take(beside(target, self.class_weight), xp.astype(target, xp.int64), axis=0)
        return by_class if weight is None else by_class * weight

    def weight_sum(self, group: Group) -> float:
        """The sum of the row weights, which Hessian-vector passes do not form; once per group, not once per round. See `WeighsRows`."""
        by_class = () if self.class_weight is None or self.one_vs_rest else tuple(self.class_weight.tolist())
        return float(group.derived(("weight sum", self._labels, by_class), lambda g: add_weights(self.weight(g), g.offsets)))

    def _rows(self, group: Group) -> tuple[Loss, Design, Array, Float64 | None, Int64]:
        """What every pass over the rows of a group is about: the loss, X, y, weights, and where partitions begin."""
        X: Any = group.X
        if not self.compiled and isinstance(X, sp.csr_array):
            X = group.derived("dense", lambda _: X.toarray())
        return self.loss, X, self.target(group), self.weight(group), group.offsets

    @property
    def _passes(self) -> ModuleType:
        return kernels if self.compiled else array_api

    def loss_and_gradient(self, group: Group, parameters: Float64) -> Sums:
        k, stacked = len(parameters), self._stacked(*self.split(parameters))
        return self._sums(k, *self._passes.loss_and_gradient(*self._rows(group), *stacked, k, self._positive_weight))

    def loss_and_gradient_of(self, groups: Sequence[Group], parameters: Float64) -> Sums:
        """The sums of groups that are a subtree of the fixed tree; of compiled passes without those of each group by itself."""
        if not self.compiled or not all(isinstance(group.X, np.ndarray | sp.csr_array) for group in groups):
            return tree_sum([self.loss_and_gradient(group, parameters) for group in groups], add_sums)
        k, stacked = len(parameters), self._stacked(*self.split(parameters))
        rows = [self._rows(group)[1:] for group in groups]
        return self._sums(k, *kernels.gradient_of_groups(self.loss, rows, *stacked, k, self._positive_weight))

    def _sums(self, k: int, loss: Float64, weight: float, coef: Float64, intercept: Float64) -> Sums:
        return Sums(loss, np.full(k, weight), self._flat(coef, intercept, k))

    def hessian(self, group: Group, parameters: Float64) -> Sums:
        return self._hessian(group, parameters, shared=False)

    def hessian_blocks(self, group: Group, parameters: Float64) -> Sums:
        return self._hessian(group, parameters, shared=False, apart=True)

    def gram(self, group: Group, parameters: Float64) -> Sums:
        self._require_gram()
        return self._hessian(group, parameters, shared=True)

    def gram_in_basis(self, group: Group, parameters: Float64, basis: Float64) -> Sums:
        self._require_gram()
        standard = self.standard or Standardisation(np.zeros(self.n_columns), np.ones(self.n_columns))
        coef, intercept = self.split(parameters)
        found = [
            kernels.gram_in_basis(*self._rows(group), coef[i], intercept[i], self.fit_intercept, standard, basis[i])
            for i in range(len(parameters))
        ]
        losses, weights, coef_sums, intercept_sums, grams = zip(*found, strict=True)
        flat = self._flat(np.stack(coef_sums), np.stack(intercept_sums), len(parameters))
        return Sums(np.concatenate(losses), np.array(weights), flat, np.stack(grams))

    def _require_gram(self) -> None:
        if not self.loss.constant_curvature:
            raise TypeError(f"the {self.loss.name} loss has no Gram matrix, because its curvature is not constant; use Newton")

    def _hessian(self, group: Group, parameters: Float64, *, shared: bool, apart: bool = False) -> Sums:
        coef, intercept = self._stacked(*self.split(parameters))
        *sums, hessian = self._passes.hessian(
            *self._rows(group),
            coef,
            intercept,
            len(parameters),
            self.fit_intercept,
            self._positive_weight,
            self.standard,
            shared,
            apart,
        )
        return self._sums(len(parameters), *sums)._replace(hessian_sum=hessian)

    def hessian_vector(self, group: Group, parameters: Float64, direction: Float64) -> Sums:
        k = len(parameters)
        coef_sum, intercept_sum = self._passes.hessian_vector(
            *self._rows(group),
            *self._stacked(*self.split(parameters)),
            k,
            *self._stacked(*self.split(direction)),
            self._positive_weight,
        )
        return Sums(np.zeros(k), np.full(k, self.weight_sum(group)), self._flat(coef_sum, intercept_sum, k))

    def predict(self, parameters: Float64, X: Design) -> Float64:
        coef, intercept = self.in_units(parameters)
        return kernels.raw_prediction(X, coef, intercept)

    def in_units(self, parameters: Float64) -> tuple[Float64, Float64]:
        """coef (n_outputs, n_columns) and intercept (n_outputs,) in the units of the user's columns and targets, from parameters (n,)."""
        coef, intercept = self.split(parameters)
        if self.standard is not None:
            coef, intercept = self.standard.in_units(coef, intercept)
        if self.targets is None:
            return coef, intercept
        return coef / self.targets.factor[:, None], intercept / self.targets.factor + self.targets.shift

    def from_units(self, coef: Float64, intercept: Float64) -> Float64:
        """The inverse of `in_units`."""
        if self.targets is not None:
            coef, intercept = coef * self.targets.factor[:, None], (intercept - self.targets.shift) * self.targets.factor
        return self.join(coef, intercept) if self.standard is None else self.join(*self.standard.from_units(coef, intercept))

    def centred(self, intercept: Float64) -> Float64:
        """The intercepts (n_outputs,) that are reported, of all that predict the same: those of softmax add up to zero."""
        return intercept - intercept.mean() if self.loss.coupled and self.fit_intercept else intercept

    def _stacked(self, coef: Float64, intercept: Float64) -> tuple[Float64, Float64]:
        """coef (k, c, p), intercept (k, c) -> (k c, p), (k c,): the rows of all models one below the other."""
        return coef.reshape(-1, self.n_columns), intercept.reshape(-1)

    def _flat(self, coef: Float64, intercept: Float64, k: int) -> Float64:
        return kernels.flat_gradient(coef, intercept, k) if self.fit_intercept else coef.reshape(k, -1)
