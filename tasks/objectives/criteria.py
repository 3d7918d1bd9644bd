"""Criteria of PyTorch, and the user's own, as losses."""

from __future__ import annotations

import copy
from abc import ABC
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from scipy.special import expit, softmax

from tasks.lazy import Lazy
from tasks.objectives.losses import Loss
from tasks.typing import Float64

if TYPE_CHECKING:
    import torch
else:
    torch = Lazy("torch")

OUTPUTS: Final[dict[str, tuple[int, float]]] = {"CrossEntropyLoss": (2, inf), "NLLLoss": (2, inf), "BCEWithLogitsLoss": (1, 1)}
"""The fewest and the most outputs, by criterion for classes: with others it has another meaning, or none."""
MEANS: Final[dict[str, Any]] = {"CrossEntropyLoss": softmax, "NLLLoss": np.exp, "BCEWithLogitsLoss": expit}
"""What makes probabilities of raw predictions, by criterion."""


@dataclass(frozen=True, eq=False)
class CriterionLoss(Loss, ABC):
    """A criterion of `torch.nn`, or a function (raw, y) -> losses (n,) or (n, ...), which is called with raw predictions (n, c), a tensor.

    y are int64 class codes (n,) for c > 1, else numbers of the shape of raw. A criterion's `reduction` does not matter: sums are divided
    once, by the weight of all rows. Raises TypeError for what cannot be called, ValueError for a criterion whose mean would be another one.
    """

    criterion: Any
    name: ClassVar[str] = "criterion"
    coupled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        kind = type(self.criterion).__name__
        if isinstance(self.criterion, type) or not callable(self.criterion):
            raise TypeError(f"criterion must be an object such as torch.nn.CrossEntropyLoss(), or a function, got {self.criterion!r}")
        if kind == "BCELoss":
            raise ValueError("BCELoss needs probabilities; use BCEWithLogitsLoss, and a module that ends without a sigmoid")
        if kind in ("CrossEntropyLoss", "NLLLoss") and self.criterion.weight is not None:
            raise ValueError(f"{kind}(weight=...) divides by the weight of its classes; give sample_weight, by which sums are divided here")
        if isinstance(self.criterion, torch.nn.modules.loss._Loss):
            own = copy.deepcopy(self.criterion)
            own.reduction = "none"
            object.__setattr__(self, "criterion", own)

    def of_rows(self, xp: Any, y: Any, raw: Any) -> tuple[Any, Any]:
        with torch.enable_grad():
            leaf = raw.detach().requires_grad_()
            losses = self.criterion(leaf, y if raw.shape[1] > 1 and self.classification else y.to(raw.dtype).reshape(raw.shape))
            if not isinstance(losses, torch.Tensor) or not losses.ndim or len(losses) != len(raw):
                found = f"shape {tuple(losses.shape)}" if isinstance(losses, torch.Tensor) else type(losses).__name__
                raise ValueError(f"criterion must return a loss for each of {len(raw)} rows, got {found}; give it reduction='none'")
            (slope,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach().reshape(len(raw), -1).sum(dim=1), slope

    def at(self, xp: Any, y: Any, raw: Any) -> tuple[Any, Any]:
        raise NotImplementedError("a criterion is asked row by row: of_rows")

    def curvature(self, xp: Any, y: Any, raw: Any) -> Any:
        raise NotImplementedError("nobody knows the second derivative of a criterion")

    @staticmethod
    def kernel(*arguments: Any, **named: Any) -> Any:
        """Nothing: it is not for linear models."""
        raise NotImplementedError("a criterion has no compiled form")


@dataclass(frozen=True, eq=False)
class ClassCriterion(CriterionLoss):
    """A criterion for classes: one output for two of them, or an output a class."""

    classification: ClassVar[bool] = True

    @property
    def outputs(self) -> tuple[int, float]:  # type: ignore[override]
        return OUTPUTS.get(type(self.criterion).__name__, (1, inf))

    def mean(self, raw: Float64) -> Float64:
        kind = type(self.criterion).__name__
        if kind not in MEANS:
            known = ", ".join(MEANS)
            raise ValueError(f"nobody knows which probabilities the criterion {kind} means; use one of {known}, or decision_function")
        return np.asarray(MEANS[kind](raw, axis=1) if kind == "CrossEntropyLoss" else MEANS[kind](raw))

    def n_outputs(self, n_targets: int, n_classes: int) -> int:
        return n_classes


@dataclass(frozen=True, eq=False)
class NumberCriterion(CriterionLoss):
    """A criterion for numbers, an output a target."""

    classification: ClassVar[bool] = False
    outputs: ClassVar[tuple[int, float]] = (1, inf)

    def mean(self, raw: Float64) -> Float64:
        return raw

    def n_outputs(self, n_targets: int, n_classes: int) -> int:
        return n_targets
