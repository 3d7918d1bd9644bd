"""Codecs against what they promise: sizes, errors, the largest numbers, means, and the same bits from the same key."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks.reductions.blocks import BLOCK
from tasks.reductions.reduction import array_bytes
from tasks.reductions.stages.codecs import CODECS, Blockwise, Codec, EightBit, Floats, LowRank, RandomK, TopK
from tasks.typing import Array

KEY = (7, "test", 0, 3)
every_codec = pytest.mark.parametrize("codec", [*CODECS.values(), TopK(0.3), RandomK(0.5), EightBit(8), LowRank(1)], ids=repr)
vectors = hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32))


def through(codec: Codec, vector: Array, key: Any = KEY, shapes: Any = None, kept: Any = ()) -> Array:
    shapes = ((len(vector),),) if shapes is None else shapes
    return codec.decode(codec.encode(vector, shapes, key, kept), shapes, vector)


@every_codec
@given(vector=vectors, dtype=st.sampled_from(["float32", "float64"]))
def test_no_error_is_larger_than_the_vector(codec: Codec, vector: Array, dtype: str) -> None:
    """Which feedback lives on: |v - C(v)| <= |v|, but for rounding."""
    vector = vector.astype(dtype)
    before = vector.copy()
    found = through(codec, vector)
    assert found.shape == vector.shape and found.dtype == vector.dtype
    np.testing.assert_array_equal(vector, before)
    assert np.linalg.norm(vector - found) <= np.linalg.norm(vector) * (1 + 1e-6) + 1e-300


@every_codec
def test_the_same_key_gives_the_same_bits_and_zeros_stay(codec: Codec) -> None:
    vector = np.random.default_rng(0).normal(size=240)
    shapes = ((12, 15), (60,))
    first, second = (codec.encode(vector, shapes, KEY, ()) for _ in range(2))
    assert [a.tobytes() for a in first] == [a.tobytes() for a in second]
    assert not through(codec, np.zeros(240), shapes=shapes).any()


@pytest.mark.parametrize("codec", [Floats(), Floats("bfloat16"), EightBit(), TopK(), RandomK()], ids=repr)
def test_payloads_have_the_bytes_that_are_said(codec: Codec) -> None:
    for size in (1, 1000, 12345):
        payload = codec.encode(np.random.default_rng(0).normal(size=size), ((size,),), KEY, ())
        assert abs(array_bytes(payload) - codec.n_bytes(size)) <= 8


@given(vector=vectors, share=st.floats(0.01, 1.0))
def test_top_k_keeps_the_largest(vector: Array, share: float) -> None:
    found, wanted = through(TopK(share), vector), math.ceil(share * len(vector))
    kept = np.flatnonzero(found)
    assert len(kept) <= wanted
    np.testing.assert_array_equal(found[kept], vector[kept])
    expected = np.sort(np.abs(vector))[::-1][:wanted]
    np.testing.assert_array_equal(np.sort(np.abs(found[kept]))[::-1], expected[expected > 0])


def test_of_equal_numbers_top_k_takes_the_first() -> None:
    np.testing.assert_array_equal(through(TopK(0.5), np.array([1.0, -1.0, 1.0, 1.0, 2.0, -1.0])), [1, -1, 0, 0, 2, 0])


@every_codec
@pytest.mark.parametrize("size", [1e-30, 1e-50, 1e-300])
def test_numbers_that_float32_lacks_are_sent_as_zeros(codec: Codec, size: float) -> None:
    """Or as they are: never as what is no number."""
    vector = size * np.random.default_rng(0).normal(size=30)
    assert np.abs(through(codec, vector) - vector).max() <= 10 * size


@pytest.mark.parametrize("codec", [*CODECS.values()], ids=repr)
def test_what_is_owed_stays_a_number(codec: Codec) -> None:
    """Of a subtree whose gradients are zero from now on."""
    owed = np.random.default_rng(1).normal(size=30)
    for number in range(300):
        owed = owed - through(codec, owed, (0, "test", number))
        assert np.isfinite(owed).all()


def test_random_k_draws_all_places_alike() -> None:
    vector = np.ones(20)
    counts = sum(through(RandomK(0.25), vector, (0, "test", number)) for number in range(2000))
    assert np.abs(np.asarray(counts) - 500).max() < 5 * math.sqrt(500)


def test_eight_bits_have_the_right_mean() -> None:
    vector = np.random.default_rng(1).normal(size=50)
    found = np.array([through(EightBit(16), vector, (0, "test", number)) for number in range(4000)])
    step = np.abs(vector).max() / 127
    assert np.abs(found - vector).max() <= step * 1.001
    assert np.abs(found.mean(axis=0) - vector).max() < 5 * step / math.sqrt(4000)


@pytest.mark.parametrize(("codec", "error"), [(Floats(), 2.0**-11), (Floats("bfloat16"), 2.0**-8)])
def test_floats_are_rounded_to_the_nearest(codec: Codec, error: float) -> None:
    vector = np.random.default_rng(2).normal(size=1000)
    assert np.max(np.abs(through(codec, vector) - vector) / np.abs(vector)) <= error * 1.0001


def test_low_rank_finds_matrices_of_that_rank() -> None:
    """And with a start from the last vector the best approximation of one that stays: Eckart and Young's."""
    random = np.random.default_rng(3)
    shapes = ((20, 30), (7,))
    exact = np.concatenate([(random.normal(size=(20, 2)) @ random.normal(size=(2, 30))).ravel(), random.normal(size=7)])
    np.testing.assert_allclose(through(LowRank(2), exact, shapes=shapes), exact, atol=1e-12)
    matrix, kept = random.normal(size=(20, 30)), ()
    vector, codec = np.concatenate([matrix.ravel(), np.ones(7)]), LowRank(3)
    for _ in range(200):
        payload = codec.encode(vector, shapes, KEY, kept)
        kept = codec.keep(payload, shapes)
    u, s, v = np.linalg.svd(matrix)
    best = (u[:, :3] * s[:3]) @ v[:3]
    np.testing.assert_allclose(codec.decode(payload, shapes, vector)[:600].reshape(20, 30), best, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [lambda: TopK(0.0), lambda: RandomK(1.5), lambda: EightBit(0), lambda: LowRank(0), lambda: Floats("float8")],  # type: ignore[arg-type]
)
def test_numbers_out_of_range_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="must"):
        make()


@pytest.mark.parametrize("codec", [Floats(), Floats("bfloat16"), EightBit(), EightBit(64), EightBit(1 << 15)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [BLOCK, 2 * BLOCK + 7, 3 * BLOCK - 1])
def test_slices_of_whole_blocks_are_coded_as_the_whole_is(codec: Blockwise, dtype: Any, n: int) -> None:
    vector = np.random.default_rng(n).normal(size=n).astype(dtype) * np.repeat([1.0, 1e-6, 100.0], BLOCK)[:n].astype(dtype)
    key, shapes = (3, "a purpose", 5), ((n,),)
    payload = codec.encode(vector, shapes, key, ())
    decoded = codec.decode(payload, shapes, vector)
    parts = []
    for begin in range(0, n, BLOCK):
        end = min(begin + BLOCK, n)
        part = codec.of_slice(begin).encode(vector[begin:end], ((end - begin,),), key, ())
        for cut, own in zip(codec.cut(payload, begin, end), part, strict=True):
            assert cut.tobytes() == own.tobytes()
        assert codec.decode(part, (), vector[begin:end]).tobytes() == decoded[begin:end].tobytes()
        parts.append(part)
    for whole, *slices in zip(payload, *parts, strict=True):
        assert np.concatenate(slices).tobytes() == whole.tobytes()
