"""Activations of hidden layers, with derivatives from the activation itself; names as in scikit-learn.

In any array namespace `xp`, in place where it can: the arrays are intermediates that nobody else holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import numpy as np

Name = Literal["identity", "logistic", "tanh", "relu"]


class Activation(NamedTuple):
    """value: (xp, z) -> h = f(z); backward: (xp, h, delta) -> delta f'(z). Both may reuse the memory of their last argument."""

    value: Callable[[Any, Any], Any]
    backward: Callable[[Any, Any, Any], Any]


def in_place(function: Any, array: Any, *arguments: Any) -> Any:
    """function(array, *arguments), in the memory of `array` if it is NumPy's (the array API standard has no `out=`)."""
    return function(array, *arguments, out=array) if isinstance(array, np.ndarray) else function(array, *arguments)


def _logistic(xp: Any, z: Any) -> Any:
    z *= 0.5  # 1 / (1 + exp(-z)) = (1 + tanh(z / 2)) / 2, which cannot overflow
    z = in_place(xp.tanh, z)
    z += 1.0
    z *= 0.5
    return z


def _logistic_backward(xp: Any, h: Any, delta: Any) -> Any:
    delta *= h
    delta *= 1.0 - h
    return delta


def _tanh_backward(xp: Any, h: Any, delta: Any) -> Any:
    delta *= 1.0 - h * h
    return delta


def _relu_backward(xp: Any, h: Any, delta: Any) -> Any:
    delta *= xp.astype(h > 0.0, delta.dtype)
    return delta


ACTIVATIONS: Final[dict[Name, Activation]] = {
    "identity": Activation(lambda xp, z: z, lambda xp, h, delta: delta),
    "logistic": Activation(_logistic, _logistic_backward),
    "tanh": Activation(lambda xp, z: in_place(xp.tanh, z), _tanh_backward),
    "relu": Activation(lambda xp, z: in_place(xp.maximum, z, 0.0), _relu_backward),
}
