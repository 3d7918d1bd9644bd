"""What objectives have in common: the layout of parameters, sums that add up, and what an objective can be asked for.

Parameters are one flat vector a model, with a leading model axis: (k, n). All k models share one pass over the rows.
An objective returns *sums* and weights; they are divided once, at the root (`tasks.objectives.evaluation`), and the penalty is added there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from tasks.objectives.standardisation import Standardisation
from tasks.rows.partition import Group
from tasks.typing import Array, Design, Float64


class Sums(NamedTuple):
    """Sums over some rows for k models: they add up along the tree.

    loss_sum (k,), weight_sum (k,), for models may count rows differently, gradient_sum (k, n) in the dtype of the parameters, hessian_sum
    (k, n, n) or None. Of a Hessian-vector round, gradient_sum holds the products and loss_sum is zero. Other shapes of hessian_sum: see
    `GramSums` and `HessianBlockSums`.
    """

    loss_sum: Float64
    weight_sum: Float64
    gradient_sum: Array
    hessian_sum: Float64 | None = None


def add_sums(left: Sums, right: Sums) -> Sums:
    """left + right; the big arrays of `left` are used again for the sum."""
    np.add(left.gradient_sum, right.gradient_sum, out=left.gradient_sum)
    if left.hessian_sum is not None:
        assert right.hessian_sum is not None
        np.add(left.hessian_sum, right.hessian_sum, out=left.hessian_sum)
    return Sums(left.loss_sum + right.loss_sum, left.weight_sum + right.weight_sum, left.gradient_sum, left.hessian_sum)


@dataclass(frozen=True)
class Layout:
    """Names -> slices of the flat vector (n,): first the arrays of `coef`, which penalties see, then those of `free`, which they do not.

    coef, free: shapes by name, in order; dtype: of the vector, "float64" or "float32"; standard: how strategies see the columns, where the
    vector is coef (c, p) and perhaps free (c,) of a linear model; its shift is 0 where there is no free. tracked: the last of `free`, which
    are running statistics and no parameters, and the share of the way that each goes to a batch's: sums of gradients have these in
    their place, times the rows' weight.
    """

    coef: Mapping[str, tuple[int, ...]]
    free: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dtype: str = "float64"
    standard: Standardisation | None = None
    tracked: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def rates(self) -> Array | None:
        """The share of the way of each running statistic, in dtype; None without any."""
        if not self.tracked:
            return None
        found = [np.full(math.prod(self.free[name]), rate, self.dtype) for name, rate in self.tracked.items()]
        return np.concatenate(found)

    @cached_property
    def n_coef(self) -> int:
        return sum(math.prod(shape) for shape in self.coef.values())

    @cached_property
    def size(self) -> int:
        return self.n_coef + sum(math.prod(shape) for shape in self.free.values())

    @cached_property
    def _slices(self) -> list[tuple[str, slice, tuple[int, ...]]]:
        shapes = [*self.coef.items(), *self.free.items()]
        ends = np.cumsum([0, *(math.prod(shape) for _, shape in shapes)]).tolist()
        return [(name, slice(*of), shape) for (name, shape), of in zip(shapes, pairwise(ends), strict=True)]

    def slices(self) -> dict[str, slice]:
        """Where each array is in the flat vector, by name."""
        return {name: of for name, of, _ in self._slices}

    def split(self, parameters: Array) -> dict[str, Array]:
        """(..., n) -> views (..., *shape) by name."""
        models = parameters.shape[:-1]
        return {name: parameters[..., of].reshape((*models, *shape)) for name, of, shape in self._slices}

    def by_columns(self, parameters: Array) -> Array:
        """Parameters (k, n) as coefficients of the user's columns, which is what sums of gradients are by."""
        if self.standard is None:
            return parameters
        arrays = self.split(parameters)
        coef = arrays["coef"]
        assert self.free or not np.any(self.standard.shift)
        found = self.standard.in_units(coef, arrays.get("intercept", np.zeros(coef.shape[:-1])))
        return np.concatenate([array.reshape(len(parameters), -1) for array in found[: len(arrays)]], axis=1)

    def join(self, arrays: Mapping[str, Array]) -> Array:
        """The flat vector (n,) of one model, in the layout's dtype."""
        return np.concatenate([np.ravel(arrays[name]) for name in [*self.coef, *self.free]]).astype(self.dtype)


@runtime_checkable
class Objective(Protocol):
    """What every strategy may ask for."""

    @property
    def layout(self) -> Layout: ...

    def loss_and_gradient(self, group: Group, parameters: Array) -> Sums:
        """Sums over the group for parameters (k, n). Where the layout has `standard`, both are by the user's columns: see
        `Layout.by_columns`."""
        ...

    def predict(self, parameters: Array, X: Design) -> Array:
        """Raw predictions (rows, n_outputs) of one model, parameters (n,)."""
        ...


@runtime_checkable
class WeighsRows(Protocol):
    """A further oracle: how much rows weigh, without a pass over them."""

    def weight_sum(self, group: Group) -> float:
        """The weight of the group's rows, that of `Sums`, but for rounding; partition by partition along the fixed tree."""
        ...


@runtime_checkable
class HessianSums(Protocol):
    """A further oracle: the matrix of second derivatives."""

    def hessian(self, group: Group, parameters: Float64) -> Sums:
        """Sums of the loss, its gradient and its Hessian by the parameters (k, n) themselves, whatever the layout's `standard`."""
        ...


@runtime_checkable
class HessianBlockSums(Protocol):
    """A further oracle: each output's own second derivatives, as if outputs did not meet.

    The parameters of an output are its p coefficients and perhaps an intercept: q numbers.
    """

    def hessian_blocks(self, group: Group, parameters: Float64) -> Sums:
        """The sums of `hessian`, but for hessian_sum (k, c, q, q): the block of each output with itself."""
        ...


@runtime_checkable
class GramSums(Protocol):
    """A further oracle, of quadratic losses: outputs do not meet, and all have the same second derivatives, the Gram matrix of the rows.

    The parameters of an output are its p coefficients and perhaps an intercept: q numbers.
    """

    def gram(self, group: Group, parameters: Float64) -> Sums:
        """The sums of `hessian`, but for hessian_sum (1, q, q): the block of one output, which all outputs of all models share."""
        ...

    def gram_in_basis(self, group: Group, parameters: Float64, basis: Float64) -> Sums:
        """The sums of `gram` in the coordinates that basis (k, p, p) makes of the columns: hessian_sum (k, q, q + c) is the Gram matrix of
        rows [z @ basis, 1], and beside it the gradient of each output in these coordinates. gradient_sum is as ever."""
        ...


@runtime_checkable
class HessianVectorSums(Protocol):
    """A further oracle: the Hessian times a direction."""

    def hessian_vector(self, group: Group, parameters: Float64, direction: Float64) -> Sums:
        """The products for directions (k, n) at parameters (k, n), in gradient_sum; all three are by what `loss_and_gradient` is."""
        ...


@runtime_checkable
class ChecksTargets(Protocol):
    """A further oracle: a look at the targets of all rows before the first round."""

    def require_reachable(self, mean: Float64) -> None:
        """Raise ValueError where the objective cannot be fitted to targets of that weighted mean (t,)."""
        ...


@runtime_checkable
class Scored(Objective, Protocol):
    """A further oracle: what its predictions mean."""

    @property
    def classes(self) -> Array | None:
        """The labels in order; None for numbers."""
        ...
