"""One pass over flat vectors: how the optimizers of tasks.strategies.optimizers move parameters, running means, norms.

Every update is element-wise, in the dtype of the parameters (float32 or float64), and rounds after each operation, so its bits depend
neither on the vector width nor on where a vector is cut. Numbers are cast to that dtype on the way in: numba would promote float32 times
float64. Weight decay is a part of the step, parameters - (step + decay parameters): float32 keeps but two digits of the 1e-5 in 1 - 1e-5.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from numba import types

from tasks.kernels.compiling import compiled_leaf, compiled_pass
from tasks.kernels.lanes import LANES, fma, load_part, splat, total
from tasks.machine import buffers
from tasks.typing import Array

_TYPES: Final[dict[str, Any]] = {"f": types.float32, "d": types.float64}


def element_wise(kernel: Any, inputs: Sequence[Array], n_outputs: int, *numbers: float) -> Array:
    """The outputs that kernel(*inputs, *outputs, *numbers) writes: (n_outputs, n) in the dtype of the inputs.

    inputs   contiguous, aligned, of one length n and one dtype, float32 or float64
    numbers  int as int64, float in the dtype of the inputs

    The outputs are one piece of memory: the C library gives several large ones back at every update, and their pages cost more than
    the update itself.
    """
    dtype = inputs[0].dtype
    outputs = buffers.empty((n_outputs, len(inputs[0])), dtype)
    _machine_code(kernel, dtype.char, len(inputs), n_outputs, tuple(map(type, numbers)))(*inputs, *outputs, *numbers)
    return outputs


def norm(values: Array) -> float:
    """Euclidean norm of values (n,), contiguous and aligned, summed in float64 in an order that depends on n alone."""
    return float(np.sqrt(squared_norm(values)))


def squared_norm(values: Array) -> float:
    """The square of `norm`."""
    return float(_machine_code(sum_of_squares, values.dtype.char, 1, 0, ())(values))


@cache
def _machine_code(kernel: Any, dtype: str, n_inputs: int, n_outputs: int, numbers: tuple[type, ...]) -> Any:
    """The machine code of a kernel, compiled or read from the cache on first use. Inputs are typed read-only, which takes writable arrays
    too."""
    real = _TYPES[dtype]
    inputs = (types.Array(real, 1, "C", readonly=True),) * n_inputs
    outputs = (types.Array(real, 1, "C"),) * n_outputs
    return kernel.compile((*inputs, *outputs, *(types.int64 if number is int else real for number in numbers)))


@compiled_leaf
def decay_of(i: int, n_decayed: int, decay: float) -> float:
    """The share that parameter i loses: only the first n_decayed lose any."""
    return decay if i < n_decayed else type(decay)(0)


@compiled_pass
def descend(parameters: Array, gradient: Array, moved: Array, n_decayed: int, decay: float, step: float) -> None:
    """Compute moved = parameters - step gradient."""
    for i in range(len(parameters)):
        moved[i] = parameters[i] - (step * gradient[i] + decay_of(i, n_decayed, decay) * parameters[i])


@compiled_pass
def descend_with_velocity(
    parameters: Array,
    gradient: Array,
    velocity: Array,
    moved: Array,
    new_velocity: Array,
    n_decayed: int,
    decay: float,
    step: float,
    momentum: float,
    ahead: int,
) -> None:
    """Compute moved = parameters + new velocity, or with `ahead` + momentum new velocity - step gradient."""
    for i in range(len(parameters)):
        speed = momentum * velocity[i] - step * gradient[i]
        change = momentum * speed - step * gradient[i] if ahead else speed
        moved[i] = parameters[i] - (decay_of(i, n_decayed, decay) * parameters[i] - change)
        new_velocity[i] = speed


@compiled_pass
def descend_by_root(
    parameters: Array,
    gradient: Array,
    square: Array,
    moved: Array,
    new_square: Array,
    n_decayed: int,
    decay: float,
    step: float,
    keep: float,
    take: float,
    epsilon: float,
) -> None:
    """Compute moved = parameters - step gradient / (√new_square + epsilon), new_square = keep square + take gradient²."""
    for i in range(len(parameters)):
        s = keep * square[i] + take * gradient[i] * gradient[i]
        change = step * gradient[i] / (np.sqrt(s) + epsilon)
        moved[i] = parameters[i] - (change + decay_of(i, n_decayed, decay) * parameters[i])
        new_square[i] = s


@compiled_pass
def descend_by_moments(
    parameters: Array,
    gradient: Array,
    mean: Array,
    square: Array,
    moved: Array,
    new_mean: Array,
    new_square: Array,
    n_decayed: int,
    decay: float,
    step: float,
    keep_mean: float,
    take_mean: float,
    keep_square: float,
    take_square: float,
    correction: float,
    epsilon: float,
) -> None:
    """Compute moved = parameters - step new_mean / (correction √new_square + epsilon), both new moments as in `descend_by_root`."""
    for i in range(len(parameters)):
        m = keep_mean * mean[i] + take_mean * gradient[i]
        s = keep_square * square[i] + take_square * gradient[i] * gradient[i]
        change = step * m / (correction * np.sqrt(s) + epsilon)
        moved[i] = parameters[i] - (change + decay_of(i, n_decayed, decay) * parameters[i])
        new_mean[i] = m
        new_square[i] = s


@compiled_pass
def running_mean(mean: Array, values: Array, new_mean: Array, count: float) -> None:
    """Compute new_mean = mean + (values - mean) / count."""
    for i in range(len(mean)):
        new_mean[i] = mean[i] + (values[i] - mean[i]) / count


@compiled_pass
def sum_of_squares(values: Array) -> float:
    """The sum of values², lane by lane."""
    s = splat(0.0)
    for i in range(0, len(values), LANES):
        x = load_part(values, i, min(LANES, len(values) - i))
        s = fma(x, x, s)
    return total(s)
