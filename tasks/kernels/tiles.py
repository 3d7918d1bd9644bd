"""Tiles of Gram matrices, whose sums stay in registers while the rows are gone through."""

from __future__ import annotations

from typing import Any, Final

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils

from tasks.kernels.lanes import F64, INDEX, LANES, ask_for, call, constant, first_lanes, in_every_lane, operation

TILE_ROWS: Final = 4
TILE_VECTORS: Final = 3 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 1
"""Vectors of a tile at most. With TILE_ROWS rows their sums fit the registers: 32 of eight float64, or 16 of four."""


@operation
def add_tile(context: Any, left: Any, right: Any, gram: Any, i: Any, j: Any, vectors: Any) -> Any:
    """add_tile(left, right, gram, i, j, vectors): gram[i : i + 4, j : j + 8 vectors] += left[:, i : i + 4].T @ right[:, j : j + 8 vectors],
    each sum in the order of the rows, of at least one; what lies outside of gram (p, p) is not touched.

    left and right are C-contiguous, padded as far as these columns go; vectors is at most TILE_VECTORS. How many there are does not show in
    the bits.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        left, right, gram = (context.make_array(kind)(context, builder, value) for kind, value in zip(sig.args[:3], args[:3], strict=True))
        i, j, vectors = args[3:]
        done = builder.append_basic_block("tile.done")
        switch = builder.switch(vectors, done)
        for width in range(1, TILE_VECTORS + 1):
            switch.add_case(width, builder.append_basic_block(f"tile.{width}"))
            builder.position_at_end(switch.cases[-1][1])
            _add_tile(builder, left, right, gram, i, j, width)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(left, right, gram, i, j, vectors), codegen


def _add_tile(builder: Any, left: Any, right: Any, gram: Any, i: Any, j: Any, width: int) -> None:
    """What `add_tile` does with `width` vectors: a loop over the rows with all sums in registers, then one addition to gram."""
    count, _ = cgutils.unpack_tuple(builder, left.shape)
    size, _ = cgutils.unpack_tuple(builder, gram.shape)
    (left_row, _), (right_row, _), (gram_row, _) = (cgutils.unpack_tuple(builder, array.strides) for array in (left, right, gram))

    def at(array: Any, row: Any, row_bytes: Any, column: Any, kind: Any) -> Any:
        start = cgutils.pointer_add(builder, array.data, builder.mul(row, row_bytes))
        return builder.bitcast(builder.gep(start, [column]), kind.as_pointer())

    for h in range(TILE_ROWS):  # they come from memory while the rows are gone through
        for w in range(width):
            place = at(gram, builder.add(i, INDEX(h)), gram_row, builder.add(j, INDEX(LANES * w)), ir.IntType(8))
            ask_for(builder, place, 3, to_write=True)
    before, loop, after = builder.block, builder.append_basic_block("tile.rows"), builder.append_basic_block("tile.sums")
    builder.branch(loop)
    builder.position_at_end(loop)
    row = builder.phi(INDEX)
    sums = [[builder.phi(F64) for _ in range(width)] for _ in range(TILE_ROWS)]
    row.add_incoming(INDEX(0), before)
    factors = at(left, row, left_row, i, ir.DoubleType())
    values = at(right, row, right_row, j, F64)
    x = [builder.load(builder.gep(values, [INDEX(w)]), align=8) for w in range(width)]
    for h, own in enumerate(sums):
        factor = in_every_lane(builder, builder.load(builder.gep(factors, [INDEX(h)])))
        for w, phi in enumerate(own):
            own[w] = call(builder, "llvm.fma.v8f64", F64, [factor, x[w], phi])
            phi.add_incoming(constant(F64, 0.0), before)
            phi.add_incoming(own[w], loop)
    following = builder.add(row, INDEX(1))
    row.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)
    for h, own in enumerate(sums):
        place = builder.add(i, INDEX(h))
        inside = builder.icmp_signed("<", place, size)
        for w, total in enumerate(own):
            column = builder.add(j, INDEX(LANES * w))
            mask = first_lanes(builder, builder.select(inside, builder.sub(size, column), INDEX(0)))
            address, alignment = at(gram, place, gram_row, column, F64), ir.IntType(32)(8)
            known = call(builder, "llvm.masked.load.v8f64.p0", F64, [address, alignment, mask, constant(F64, 0.0)])
            call(builder, "llvm.masked.store.v8f64.p0", ir.VoidType(), [builder.fadd(known, total), address, alignment, mask])
