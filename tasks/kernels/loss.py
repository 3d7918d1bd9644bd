"""What the kernels ask of a loss. The losses themselves are in `tasks.objectives.losses`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar


class PointwiseLoss(ABC):
    """A function of the target and the raw predictions of one row; hashable, and equal to those alone that compute the same.

    It says twice what it is: `at` and `curvature` are the definition, in any array namespace; `kernel` is the arithmetic of the hot loops,
    which the tests hold against the definition.

    coupled             the raw predictions of a row are one problem, for y of class codes (int64), and the matrix of second derivatives is
                        diag(p) - p pᵀ with `curvature` for p; elsewhere the losses of a row's outputs add up
    constant_curvature  all second derivatives are 1, whatever y and raw
    """

    coupled: ClassVar[bool] = False
    constant_curvature: ClassVar[bool] = False

    @property
    def parameters(self) -> tuple[float, ...]:
        """Numbers that `kernel` takes."""
        return ()

    @abstractmethod
    def at(self, xp: Any, y: Any, raw: Any) -> tuple[Any, Any]:
        """The loss and its derivative by raw (n, ..., c) in the array namespace xp, each of the shape of raw, to which y broadcasts.

        Where outputs are coupled, the loss is (n, ...), and y (n,).
        """

    @abstractmethod
    def curvature(self, xp: Any, y: Any, raw: Any) -> Any:
        """The second derivative by raw, of its shape."""

    @staticmethod
    @abstractmethod
    def kernel(*arguments: Any, **named: Any) -> Any:
        """The arithmetic of the hot loops, which numba compiles. It refers to nothing but its arguments, the first of which is the module
        `tasks.kernels.elementary`.

            (v, parameters, weight, y, raw) -> (loss, derivative, second derivative), all times weight

        for eight rows of one output. Where outputs are coupled, it goes through all rows of a block, for one of its models:

            (v, parameters, raw, target, weight, positive_weight, count, model, c, residual, curvature, losses) -> None

        with what `tasks.kernels.pointwise.pointwise` says of them.
        """
