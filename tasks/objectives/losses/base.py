"""What all losses have in common.

A loss is a function of the true target y and the raw prediction (x @ coef + intercept) of one row. It knows nothing of penalties,
of sums or of weights.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Final, TypeVar

import numpy as np

from tasks.kernels import PointwiseLoss
from tasks.typing import Array, Float64

__all__ = ["LOSSES", "Loss"]

LOSSES: Final[dict[str, Loss]] = {}
"""Every loss by name, with its usual parameters."""

Kind = TypeVar("Kind", bound="type[Loss]")


class Loss(PointwiseLoss):
    """A loss, and what it says of itself beside its arithmetic. Where there is a kink, its derivative is scikit-learn's choice among the
    subgradients.

    classification      y is classes
    probabilistic       `mean` gives probabilities
    smooth              there is a second derivative, except at isolated points, that is not zero everywhere: Newton's methods have
                        something to go by, and refuse other losses (`tasks.rounds.fitting`)
    largest_curvature   the largest second derivative, from which step sizes follow; inf where there is none; for losses with kinks 1, in
                        the place of what many rows' kinks make
    usual_curvature     the second derivative on average over the rows of a good fit
    outputs             the fewest and the most raw predictions of one problem
    inverse_link        the name of `mean`, as scikit-learn's networks name what they put out
    targets             the numbers y that the loss is defined for, in words
    """

    name: ClassVar[str]
    classification: ClassVar[bool]
    probabilistic: ClassVar[bool] = False
    smooth: ClassVar[bool] = True
    largest_curvature: ClassVar[float] = 1.0
    usual_curvature: ClassVar[float] = 1.0
    outputs: ClassVar[tuple[int, float]]
    inverse_link: ClassVar[str] = "identity"
    targets: ClassVar[str] = "numbers"

    @abstractmethod
    def mean(self, raw: Any) -> Any:
        """Inverse link: the predicted mean (a probability for classification), (n, c), where raw predictions live.

        Raises ValueError for classification losses that are not probabilistic.
        """

    @abstractmethod
    def n_outputs(self, n_targets: int, n_classes: int) -> int:
        """Raw predictions per row."""

    def takes(self, y: Float64) -> Any:
        """Whether the loss is defined for numbers y, for each (True for all)."""
        return True

    def reaches(self, mean: Float64) -> Any:
        """Whether raw predictions can give this mean of all y, for each target (True for all); else they would grow for ever."""
        return True

    def of_rows(self, xp: Any, y: Any, raw: Any) -> tuple[Any, Any]:
        """Loss of each row (n,), and derivative (n, c) by raw (n, c), in the dtype of raw."""
        if self.coupled:
            return self.at(xp, y, raw)
        value, slope = self.at(xp, xp.reshape(xp.astype(y, raw.dtype), raw.shape), raw)
        return xp.sum(value, axis=1), slope

    def value(self, y: Array, raw: Float64) -> Float64:
        """Loss of each row, (n,)."""
        return np.asarray(self.of_rows(np, y, raw)[0])

    def gradient(self, y: Array, raw: Float64) -> Float64:
        """Derivative with respect to each raw prediction, (n, c)."""
        return np.asarray(self.of_rows(np, y, raw)[1])


def registered(kind: Kind) -> Kind:
    """Enter a class into `LOSSES`."""
    LOSSES[kind.name] = kind()
    return kind
