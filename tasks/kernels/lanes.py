"""Eight float64 lanes as a numba value: explicit SIMD whose results do not depend on the vector width of the CPU.

LLVM may not reorder a floating-point sum (we never allow fast-math), so it does not vectorise dot products by itself. Here the
order is ours: lane l of a sum takes the elements l, l + 8, l + 16, ... and `total` adds the lanes along a fixed tree. LLVM maps the
eight lanes to one AVX-512, two AVX or four SSE/NEON registers; all of them give the same bits. `fma` rounds once, everywhere.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES: Final = 8

F64 = ir.VectorType(ir.DoubleType(), LANES)
_f32 = ir.VectorType(ir.FloatType(), LANES)
_i64 = ir.VectorType(ir.IntType(64), LANES)
_i32 = ir.VectorType(ir.IntType(32), LANES)
INDEX = ir.IntType(64)

operation: Callable[[Callable[..., Any]], Any] = intrinsic
"""Makes an operation of compiled code from a function that builds it; typed, for the checker cannot see what numba makes of it."""


class Lanes(types.Type):
    """The numba type of eight float64 values."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


lanes: Final = Lanes()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, F64)


def _register_operator(function: Callable[..., Any], instruction: str) -> None:
    template = type("LanesOperator", (ConcreteTemplate,), {"cases": [signature(lanes, lanes, lanes)]})
    infer_global(function)(template)

    @lower_builtin(function, Lanes, Lanes)
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args)


for _function, _instruction in {
    operator.add: "fadd",
    operator.sub: "fsub",
    operator.mul: "fmul",
    operator.truediv: "fdiv",
}.items():
    _register_operator(_function, _instruction)


def constant(vector: ir.VectorType, value: Any) -> Any:
    """A vector of that value in every lane, known now."""
    return ir.Constant(vector, [value] * LANES)


def in_every_lane(builder: Any, scalar: Any) -> Any:
    """A vector of the scalar in every lane."""
    vector = ir.VectorType(scalar.type, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), ir.Constant(_i32, [0] * LANES))


def call(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    """The result, of that type, of a function that LLVM knows by its name."""
    function_type = ir.FunctionType(result, [a.type for a in args])
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    return builder.call(function, args)


def ask_for(builder: Any, place: Any, locality: int, to_write: bool = False) -> None:
    """Have memory bring the line of an address (of bytes), into the nearest cache where locality is 3, into the second where it is 2."""
    call(builder, "llvm.prefetch.p0", ir.VoidType(), [place, *map(ir.IntType(32), (int(to_write), locality, 1))])


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _addresses(context: Any, builder: Any, sig: Any, args: Any) -> list[Any]:
    """The addresses of elements indices[index .. index + 7] of an array: args are (array, indices, index, ...)."""
    data, indices = (context.make_array(sig.args[i])(context, builder, args[i]).data for i in (0, 1))
    positions = (builder.add(args[2], ir.IntType(64)(lane)) for lane in range(LANES))
    return [builder.gep(data, [builder.sext(builder.load(builder.gep(indices, [at])), ir.IntType(64))]) for at in positions]


def first_lanes(builder: Any, count: Any) -> Any:
    """A mask of the first `count` lanes, none if count <= 0."""
    return builder.icmp_signed("<", ir.Constant(_i64, list(range(LANES))), in_every_lane(builder, count))


def _vector_of(array: Any) -> tuple[Any, str]:
    return (F64, "v8f64") if array.dtype == types.float64 else (_f32, "v8f32")


def _extend(builder: Any, vector: Any) -> Any:
    return vector if vector.type == F64 else builder.fpext(vector, F64)


@operation
def read_only(context: Any, array: Any) -> Any:
    """read_only(array): the same array, typed as one that is only read, so that what is compiled for such arrays takes it."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return impl_ret_borrowed(context, builder, sig.return_type, args[0])

    return array.copy(readonly=True)(array), codegen


@operation
def splat(context: Any, scalar: Any) -> Any:
    """splat(scalar): the scalar in every lane."""
    return lanes(types.float64), lambda context, builder, sig, args: in_every_lane(builder, args[0])


@operation
def load(context: Any, array: Any, index: Any) -> Any:
    """load(array, index): elements index .. index + 7 of a C-contiguous float32 or float64 array, counted over all its axes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector, _ = _vector_of(array)
        address = _address(context, builder, array, args[0], args[1], vector)
        return _extend(builder, builder.load(address, align=array.dtype.bitwidth // 8))

    return lanes(array, types.int64), codegen


@operation
def load_part(context: Any, array: Any, index: Any, count: Any) -> Any:
    """load_part(array, index, count): like `load`, but only the first `count` elements are touched, none if
    count <= 0; 0.0 in the other lanes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector, name = _vector_of(array)
        address = _address(context, builder, array, args[0], args[1], vector)
        alignment = ir.IntType(32)(array.dtype.bitwidth // 8)
        parts = [address, alignment, first_lanes(builder, args[2]), constant(vector, 0.0)]
        return _extend(builder, call(builder, f"llvm.masked.load.{name}.p0", vector, parts))

    return lanes(array, types.int64, types.int64), codegen


@operation
def gather(context: Any, array: Any, indices: Any, index: Any) -> Any:
    """gather(array, indices, index): elements indices[index .. index + 7], none negative, of a float64 array, by eight loads: some CPUs are
    slower with their one instruction for it."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = ir.Constant(F64, ir.Undefined)
        for lane, address in enumerate(_addresses(context, builder, sig, args)):
            value = builder.insert_element(value, builder.load(address), ir.IntType(32)(lane))
        return value

    return lanes(array, indices, types.int64), codegen


@operation
def add_at(context: Any, array: Any, indices: Any, index: Any, value: Any) -> Any:
    """add_at(array, indices, index, value): add the lanes to elements indices[index .. index + 7], none negative, of a float64 array, one
    after the other."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for lane, address in enumerate(_addresses(context, builder, sig, args)):
            each = builder.extract_element(args[3], ir.IntType(32)(lane))
            builder.store(builder.fadd(builder.load(address), each), address)
        return context.get_dummy_value()

    return types.void(array, indices, types.int64, lanes), codegen


def _prefetch(array: Any, locality: int) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = builder.gep(context.make_array(array)(context, builder, args[0]).data, [args[1]])
        ask_for(builder, builder.bitcast(place, ir.IntType(8).as_pointer()), locality)
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


@operation
def prefetch(context: Any, array: Any, index: Any) -> Any:
    """prefetch(array, index): bring the line of memory of array[index], which need not exist, near the CPU."""
    return _prefetch(array, 2)


@operation
def prefetch_near(context: Any, array: Any, index: Any) -> Any:
    """prefetch_near(array, index): the same into the nearest cache, for what is read very soon."""
    return _prefetch(array, 3)


@operation
def store(context: Any, array: Any, index: Any, value: Any) -> Any:
    """store(array, index, value): the lanes to elements index .. index + 7 of a float64 array, faster than a masked store."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, array, args[0], args[1], F64), align=8)
        return context.get_dummy_value()

    return types.void(array, types.int64, lanes), codegen


@operation
def store_part(context: Any, array: Any, index: Any, value: Any, count: Any) -> Any:
    """store_part(array, index, value, count): the first `count` lanes to elements index .. index + count - 1 of a float64 array."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = _address(context, builder, array, args[0], args[1], F64)
        parts = [args[2], address, ir.IntType(32)(8), first_lanes(builder, args[3])]
        call(builder, "llvm.masked.store.v8f64.p0", ir.VoidType(), parts)

    return types.void(array, types.int64, lanes, types.int64), codegen


@operation
def fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    """fma(a, b, c) = a b + c, rounded once."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call(builder, "llvm.fma.v8f64", F64, list(args))

    return lanes(lanes, lanes, lanes), codegen


@operation
def total(context: Any, value: Any) -> Any:
    """total(value): the sum of the lanes, ((0+4)+(2+6)) + ((1+5)+(3+7))."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value, half = args[0], LANES // 2
        while half:
            picks = [ir.Constant(ir.VectorType(ir.IntType(32), half), list(range(low, low + half))) for low in (0, half)]
            value = builder.fadd(*(builder.shuffle_vector(value, value, pick) for pick in picks))
            half //= 2
        return builder.extract_element(value, ir.IntType(32)(0))

    return types.float64(lanes), codegen


def _shuffled(builder: Any, left: Any, right: Any, lanes: list[int]) -> Any:
    """The lanes with these numbers, those of `right` from eight on."""
    return builder.shuffle_vector(left, right, ir.Constant(_i32, lanes))


@operation
def totals(context: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> Any:
    """totals(a, ..., h): the total of each, in its lane; each added up as by `total`."""
    steps = (
        ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]),
        ([0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 14, 15]),
        ([0, 2, 4, 6, 8, 10, 12, 14], [1, 3, 5, 7, 9, 11, 13, 15]),
    )

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        values = list(args)
        for low, high in steps:
            pairs = zip(values[::2], values[1::2], strict=True)
            values = [builder.fadd(_shuffled(builder, *pair, low), _shuffled(builder, *pair, high)) for pair in pairs]
        return values[0]

    return lanes(*(lanes,) * 8), codegen


@operation
def upper_half(context: Any, value: Any) -> Any:
    """upper_half(value): lanes 4 to 7, twice."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _shuffled(builder, args[0], args[0], [4, 5, 6, 7, 4, 5, 6, 7])

    return lanes(lanes), codegen


@operation
def where_less(context: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    """where_less(a, b, yes, no): `yes` in lanes with a < b, `no` elsewhere, also where a or b is NaN."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[2], args[3])

    return lanes(lanes, lanes, lanes, lanes), codegen


@operation
def larger(context: Any, value: Any, most: Any) -> Any:
    """larger(value, most): |value| in lanes where that is more, `most` elsewhere, also where value is NaN."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        size = call(builder, "llvm.fabs.v8f64", F64, [args[0]])
        return builder.select(builder.fcmp_ordered(">", size, args[1]), size, args[1])

    return lanes(lanes, lanes), codegen


@operation
def where_equal(context: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    """where_equal(a, b, yes, no): `yes` in lanes with a == b, `no` elsewhere."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("==", args[0], args[1]), args[2], args[3])

    return lanes(lanes, lanes, lanes, lanes), codegen


@operation
def shifted_power_of_two(context: Any, value: Any) -> Any:
    """shifted_power_of_two(n + 1.5 2^52) = 2^n for whole n in -1022 .. 1023: n stands in the low mantissa bits."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.shl(builder.bitcast(args[0], _i64), constant(_i64, 52))
        return builder.bitcast(builder.add(bits, constant(_i64, 1023 << 52)), F64)

    return lanes(lanes), codegen


@operation
def lowest_bit(context: Any, word: Any) -> Any:
    """lowest_bit(word): the place of the lowest bit that is set, of a word that is not 0."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.uint64), codegen


@operation
def exponent(context: Any, value: Any) -> Any:
    """exponent(u): the whole number k for which u / 2^k lies in about [√½, √2), for positive normal u."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.add(builder.bitcast(args[0], _i64), constant(_i64, (0x3FF00000 - 0x3FE6A09E) << 32))
        bits = builder.lshr(bits, constant(_i64, 52))
        biased = builder.bitcast(builder.or_(bits, constant(_i64, 0x433 << 52)), F64)  # 2^52 + k + 1023
        return builder.fsub(biased, constant(F64, 2.0**52 + 1023.0))

    return lanes(lanes), codegen
