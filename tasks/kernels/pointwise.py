"""Losses and their derivatives over one block of rows: each loss compiled by itself, and called by address.

The passes are compiled once for all losses: what they get is the address of a block function, `pointwise` below, which numba compiles for
the arithmetic of one loss. Blocks are output-major: raw[a * count + i] is output a of row i. A raw prediction that is not finite makes the
loss, the residual and the curvature of its row not finite (`0 * raw` carries it through).
"""

from __future__ import annotations

import builtins
import dis
import hashlib
from collections.abc import Callable
from types import CodeType
from typing import Any, Final

import numpy as np
from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import models, overload, register_model

from tasks.kernels import elementary
from tasks.kernels.compiling import PART, compiled, compiled_block, compiled_leaf
from tasks.kernels.elementary import LANES, load_some, put_loss, splat, store_some, where_equal
from tasks.kernels.lanes import operation
from tasks.typing import Float64

_KERNELS: Final[dict[str, Callable[..., Any]]] = {}
"""The arithmetic of losses, by the name of its type."""


class LossType(types.Type):
    """The numba type that stands for the arithmetic of one loss."""

    def __init__(self, name: str, coupled: bool) -> None:
        super().__init__(name=name)
        self.coupled = coupled


@register_model(LossType)
class _LossModel(models.OpaqueModel):
    pass


def model_block(loss: Any, *arguments: Any) -> Any:
    """Compute the part of `pointwise` that is of one model: parameters, raw, target, weight, positive_weight, count, model, c, residual,
    curvature, losses."""


@overload(model_block, jit_options=PART, strict=False)
def _model_block(loss: Any, *arguments: Any) -> Any:
    kernel = compiled_leaf(_KERNELS[loss.name])

    def apart(loss: Any, *arguments: Any) -> None:
        parameters, raw, target, weight, positive_weight, count, model, c, residual, curvature, losses = arguments
        for a in range(c):
            at = (model * c + a) * count
            for i in range(0, count, LANES):
                n = min(LANES, count - i)
                w, y = load_some(weight, i, n), load_some(target, a * count + i, n)
                if len(positive_weight):
                    w = where_equal(y, splat(1.0), w * splat(positive_weight[a]), w)
                value, slope, second = kernel(elementary, parameters, w, y, load_some(raw, at + i, n))
                put_loss(losses, a > 0, model * count + i, value, n)
                store_some(residual, at + i, slope, n)
                if len(curvature):
                    store_some(curvature, at + i, second, n)

    return (lambda loss, *arguments: kernel(elementary, *arguments)) if loss.coupled else apart


@compiled_block
def block(
    loss: Any,
    parameters: Float64,
    raw: Float64,
    target: Float64,
    weight: Float64,
    positive_weight: Float64,
    count: int,
    k: int,
    c: int,
    residual: Float64,
    curvature: Float64,
    losses: Float64,
) -> None:
    """What `pointwise` does, for the loss of that type."""
    for model in range(k):
        model_block(loss, parameters, raw, target, weight, positive_weight, count, model, c, residual, curvature, losses)


def require_closed(kernel: Callable[..., Any]) -> None:
    """Raise ValueError for a kernel that refers to other than its arguments and Python's own names, which its code does not tell."""
    code = kernel.__code__
    others = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")} - vars(builtins).keys()
    inner = [each.co_name for each in code.co_consts if isinstance(each, CodeType)]
    if found := sorted({*others, *code.co_freevars, *inner}):
        raise ValueError(
            f"{kernel.__qualname__} refers to {', '.join(found)}, which its code does not tell; pass numbers as `parameters` of the loss"
        )


@global_compiler_lock
def address_of(kernel: Callable[..., Any], coupled: bool) -> int:
    """The address of `block` for a loss's arithmetic, compiled or read from the cache. It is good for this process, as long as it runs.

    The cache knows a kernel by its name and its code. Raises ValueError for one that refers to more than its arguments.
    """
    code = kernel.__code__
    require_closed(kernel)
    digest = hashlib.sha256(repr((code.co_code, code.co_consts, code.co_names)).encode()).hexdigest()[:12]
    name = f"Loss({kernel.__module__}.{kernel.__qualname__}-{digest})"
    _KERNELS[name] = kernel
    vector, constant = types.Array(types.float64, 1, "C"), types.Array(types.float64, 1, "C", readonly=True)
    arguments = (LossType(name, coupled), constant, *(vector,) * 3, constant, *(types.int64,) * 3, *(vector,) * 3)
    block.compile(arguments)
    found = block.overloads[arguments]
    address: int = found.library.get_pointer_to_function(found.fndesc.llvm_func_name)
    assert address
    return address


@operation
def pointwise(
    context: Any,
    address: Any,
    parameters: Any,
    raw: Any,
    target: Any,
    weight: Any,
    positive_weight: Any,
    count: Any,
    k: Any,
    c: Any,
    residual: Any,
    curvature: Any,
    losses: Any,
) -> Any:
    """Weighted losses of the rows of a block, (k, count) flat, and their derivatives with respect to raw, (k c, count) flat.

    address    of the loss, by `address_of`
    residual   weight * dloss/draw
    curvature  the class probabilities where outputs are coupled, weight * d²loss/draw² elsewhere; skipped if empty
    losses     skipped if empty
    """
    arguments = (parameters, raw, target, weight, positive_weight, types.int64, types.int64, types.int64, residual, curvature, losses)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        of_block = (types.voidptr, *arguments)  # its first argument, of a `LossType`, is a pointer to nothing
        function = context.call_conv.get_function_type(types.none, of_block)
        callee = builder.inttoptr(args[0], function.as_pointer())
        nothing = context.get_constant_null(types.voidptr)
        context.call_conv.call_function(builder, callee, types.none, of_block, [nothing, *args[1:]])  # it raises nothing
        return context.get_dummy_value()

    return types.void(types.int64, *arguments), codegen


@compiled
def curvature_times(coupled: bool, curvature: Float64, weight: Float64, k: int, c: int, direction: Float64, product: Float64) -> None:
    """Compute product = (d²loss/draw²) @ direction for each row, weight included; both (k c, count) flat."""
    count = len(weight)
    if not coupled:
        for i in range(k * c * count):
            product[i] = curvature[i] * direction[i]
        return
    mean = np.empty(count)
    for model in range(k):
        at = model * c * count
        mean[:] = 0.0
        for a in range(c):
            for i in range(count):
                mean[i] += curvature[at + a * count + i] * direction[at + a * count + i]
        for a in range(c):
            for i in range(count):
                j = at + a * count + i
                product[j] = weight[i] * curvature[j] * (direction[j] - mean[i])


@compiled_leaf
def curvature_pair(coupled: bool, curvature: Float64, weight: Float64, at: int, a: int, b: int, pair: Float64) -> None:
    """Compute pair = weight * d²loss/draw_a draw_b for each row, of the model whose curvature starts at `at`."""
    count = len(weight)
    for i in range(count):
        p = curvature[at + a * count + i]
        if coupled:
            q = curvature[at + b * count + i]
            pair[i] = weight[i] * (p - p * q if a == b else -p * q)
        else:
            pair[i] = p if a == b else 0.0


@compiled_leaf
def take_targets(codes: bool, y: Float64, weight: Float64, start: int, count: int, target: Float64, row_weight: Float64) -> None:
    """Targets (t, count) flat and weights (count,) of rows start:start + count; codes: y is class codes, as float64 bit patterns."""
    n_targets = y.shape[1]
    if codes:
        whole = y.view(np.int64)
        for i in range(count):
            target[i] = whole[start + i, 0]
    elif n_targets == 1:
        copy_some(y, start, count, target)
    else:
        for i in range(count):
            for t in range(n_targets):
                target[t * count + i] = y[start + i, t]
    if len(weight):
        copy_some(weight, start, count, row_weight)
    else:
        for i in range(0, count, LANES):
            store_some(row_weight, i, splat(1.0), count - i)


@compiled_leaf
def copy_some(source: Float64, start: int, count: int, target: Float64) -> None:
    """Copy target[:count] = source[start : start + count], counted over all axes."""
    for i in range(0, count, LANES):
        store_some(target, i, load_some(source, start + i, count - i), count - i)
