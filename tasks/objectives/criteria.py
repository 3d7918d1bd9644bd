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

MEANS: Final[dict[str, Any]] = {"CrossEntropyLoss": softmax, "NLLLoss": np.exp, "BCEWithLogitsLoss": expit}
"""What makes probabilities of raw predictions, by criterion."""

OUTPUT_A_CLASS: Final = ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss")
ONE_OUTPUT: Final = ("BCEWithLogitsLoss",)
OF_NUMBERS: Final = ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss")
"""Criteria whose predictions of classes 0 and 1 would lie on both sides of one half, and not of zero."""


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
        if isinstance(self.criterion, torch.nn.BCELoss):
            raise ValueError("BCELoss needs probabilities; use BCEWithLogitsLoss, and a module that ends without a sigmoid")
        if isinstance(self.criterion, torch.nn.SoftMarginLoss):
            raise ValueError("SoftMarginLoss needs labels -1 and 1, classes are 0 and 1; use BCEWithLogitsLoss, the same loss")
        of_classes = isinstance(self.criterion, torch.nn.CrossEntropyLoss | torch.nn.NLLLoss)
        if of_classes and self.criterion.weight is not None:
            raise ValueError(f"{kind}(weight=...) divides by the weight of its classes; give sample_weight, by which sums are divided here")
        if of_classes and self.criterion.ignore_index >= 0:
            raise ValueError(
                f"{kind}(ignore_index=...) divides by the other rows alone; leave these out, or give them a sample_weight of 0"
            )
        if isinstance(self.criterion, torch.nn.Module) and any(each.requires_grad for each in self.criterion.parameters()):
            raise ValueError(f"{kind} has parameters, which no fit would move; put them into the module, or call requires_grad_(False)")
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
            if not losses.requires_grad:
                raise ValueError("criterion must return losses that hang on the raw predictions, by operations of PyTorch")
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.criterion).__name__ in OF_NUMBERS:
            raise ValueError(f"{type(self.criterion).__name__} is for numbers; use CrossEntropyLoss or BCEWithLogitsLoss for classes")

    @property
    def name(self) -> str:  # type: ignore[override]
        return type(self.criterion).__name__

    @property
    def outputs(self) -> tuple[int, float]:  # type: ignore[override]
        name = type(self.criterion).__name__
        return (2, inf) if name in OUTPUT_A_CLASS else (1, 1) if name in ONE_OUTPUT else (1, inf)

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
