"""Optimizers against their papers' formulas in plain NumPy, scikit-learn's, and themselves bit for bit."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from tasks.strategies.optimizers import (
    OPTIMIZERS,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Momentum,
    Nesterov,
    Optimizer,
    OptimizerState,
    RMSProp,
    average,
    clip_by_norm,
)
from tasks.typing import Array, Float64

DTYPES = ["float32", "float64"]
STEP_SIZES = [0.1, 0.03, 0.2, 0.1, 0.05]


def make(n: int, seed: int = 0, dtype: str = "float64") -> tuple[Array, list[Array]]:
    """Parameters and as many gradients as there are step sizes."""
    random = np.random.default_rng(seed)
    return random.normal(size=n).astype(dtype), [random.normal(size=n).astype(dtype) for _ in STEP_SIZES]


def run(optimizer: Optimizer, parameters: Array, gradients: list[Array], n_free: int = 0) -> tuple[Array, OptimizerState]:
    state = optimizer.init(parameters)
    for gradient, step_size in zip(gradients, STEP_SIZES, strict=True):
        parameters, state = optimizer.update(state, gradient, parameters, step_size, n_free)
    return parameters, state


# The change of one update: (number of the update from 1, gradient, step size, what the optimizer remembers, hyperparameters).


def sgd(t: int, g: Float64, step: float, memory: dict[str, Float64]) -> Float64:
    return -step * g


def momentum(t: int, g: Float64, step: float, memory: dict[str, Float64], momentum: float = 0.9) -> Float64:
    memory["v"] = momentum * memory.get("v", np.zeros_like(g)) - step * g
    return memory["v"]


def nesterov(t: int, g: Float64, step: float, memory: dict[str, Float64], momentum: float = 0.9) -> Float64:
    memory["v"] = momentum * memory.get("v", np.zeros_like(g)) - step * g
    return momentum * memory["v"] - step * g


def adagrad(
    t: int, g: Float64, step: float, memory: dict[str, Float64], epsilon: float = 1e-10, initial_accumulator: float = 0.0
) -> Float64:
    memory["s"] = memory.get("s", np.full_like(g, initial_accumulator)) + g**2
    return -step * g / (np.sqrt(memory["s"]) + epsilon)


def rmsprop(t: int, g: Float64, step: float, memory: dict[str, Float64], decay: float = 0.9, epsilon: float = 1e-8) -> Float64:
    memory["s"] = decay * memory.get("s", np.zeros_like(g)) + (1 - decay) * g**2
    return -step * g / (np.sqrt(memory["s"]) + epsilon)


def adam(
    t: int, g: Float64, step: float, memory: dict[str, Float64], beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8
) -> Float64:
    memory["m"] = beta_1 * memory.get("m", np.zeros_like(g)) + (1 - beta_1) * g
    memory["s"] = beta_2 * memory.get("s", np.zeros_like(g)) + (1 - beta_2) * g**2
    return -step * (memory["m"] / (1 - beta_1**t)) / (np.sqrt(memory["s"] / (1 - beta_2**t)) + epsilon)


FORMULAS: dict[type[Optimizer], Callable[..., Float64]] = {
    SGD: sgd,
    Momentum: momentum,
    Nesterov: nesterov,
    Adagrad: adagrad,
    RMSProp: rmsprop,
    Adam: adam,
    AdamW: adam,
}
HYPERPARAMETERS: list[tuple[type[Optimizer], dict[str, float]]] = [
    *((kind, {}) for kind in OPTIMIZERS.values()),
    (Momentum, {"momentum": 0.0}),
    (Momentum, {"momentum": 0.5}),
    (Nesterov, {"momentum": 0.5}),
    (Adagrad, {"epsilon": 0.3, "initial_accumulator": 0.7}),
    (RMSProp, {"decay": 0.6, "epsilon": 0.3}),
    (Adam, {"beta_1": 0.5, "beta_2": 0.8, "epsilon": 0.3}),
    (Adam, {"beta_1": 0.0, "beta_2": 0.0}),
    (AdamW, {"beta_1": 0.5, "beta_2": 0.8, "epsilon": 0.3}),
]


@pytest.mark.parametrize("weight_decay", [None, 0.0, 0.4])
@pytest.mark.parametrize(("kind", "hyperparameters"), HYPERPARAMETERS)
def test_formula(kind: type[Optimizer], hyperparameters: dict[str, float], weight_decay: float | None) -> None:
    start, gradients = make(37)
    decay = {} if weight_decay is None else {"weight_decay": weight_decay}
    found, state = run(kind(**hyperparameters, **decay), start, gradients, n_free=4)

    rate = np.full(37, (0.01 if kind is AdamW else 0.0) if weight_decay is None else weight_decay)
    rate[-4:] = 0.0
    memory: dict[str, Float64] = {}
    expected = start
    for i, (gradient, step) in enumerate(zip(gradients, STEP_SIZES, strict=True)):
        expected = expected - step * rate * expected + FORMULAS[kind](i + 1, gradient, step, memory, **hyperparameters)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    assert state.count == len(STEP_SIZES)
    for slot, value in zip(state.slots, memory.values(), strict=True):
        np.testing.assert_allclose(slot, value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("optimizer", "peer"),
    [
        (SGD(), lambda start: SGDOptimizer([start], momentum=0.0, nesterov=False)),
        (Momentum(0.8), lambda start: SGDOptimizer([start], momentum=0.8, nesterov=False)),
        (Nesterov(0.8), lambda start: SGDOptimizer([start], momentum=0.8, nesterov=True)),
        # the two place epsilon differently: here it does not matter
        (Adam(0.8, 0.99, 1e-37), lambda start: AdamOptimizer([start], beta_1=0.8, beta_2=0.99, epsilon=1e-37)),
    ],
    ids=["sgd", "momentum", "nesterov", "adam"],
)
def test_scikit_learn(optimizer: Optimizer, peer: Callable[[Array], Any]) -> None:
    start, gradients = make(50)
    expected = start.copy()
    other = peer(expected)
    for gradient, step_size in zip(gradients, STEP_SIZES, strict=True):
        other.learning_rate_init = other.learning_rate = step_size  # Adam takes the first, SGD the second
        other.update_params([expected], [gradient])
    np.testing.assert_allclose(run(optimizer, start, gradients)[0], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_float32_is_float64_rounded(kind: type[Optimizer]) -> None:
    """From parameters of 0, with gradients of one sign, nothing cancels: each step keeps float32's digits, and so does their sum."""
    _, gradients = make(999, dtype="float32")
    gradients = [np.abs(gradient) + np.float32(0.01) for gradient in gradients]
    narrow, state = run(kind(), np.zeros(999, np.float32), gradients)
    wide, wide_state = run(kind(), np.zeros(999), [gradient.astype(np.float64) for gradient in gradients])
    assert narrow.dtype == np.float32
    assert wide.dtype == np.float64
    np.testing.assert_allclose(narrow, wide, rtol=1e-6)
    for slot, wide_slot in zip(state.slots, wide_state.slots, strict=True):
        assert slot.dtype == np.float32
        np.testing.assert_allclose(slot, wide_slot, rtol=1e-6)


@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_decay_is_exact_in_float32(kind: type[Optimizer]) -> None:
    """Rounded once. In float32 1 - 1e-5 is wrong by 0.1 % of the decay, to the same side at each step."""
    start = np.random.default_rng(0).uniform(1.0, 2.0, 500).astype(np.float32)
    optimizer = kind(weight_decay=1e-2)
    moved, _ = optimizer.update(optimizer.init(start), np.zeros_like(start), start, 1e-3)
    np.testing.assert_array_equal(moved, (start.astype(np.float64) * (1.0 - 1e-5)).astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_inputs_are_not_written_and_give_the_same_bits_again(kind: type[Optimizer], dtype: str) -> None:
    start, gradients = make(131, dtype=dtype)
    optimizer = kind(weight_decay=0.3)
    parameters, state = run(optimizer, start, gradients)
    inputs = [parameters, gradients[0], *state.slots]
    before = [array.copy() for array in inputs]
    first = optimizer.update(state, gradients[0], parameters, 0.1, 3)
    for array in inputs:
        assert not any(np.shares_memory(array, new) for new in (first[0], *first[1].slots))
        array.flags.writeable = False
    again = optimizer.update(state, gradients[0], parameters, 0.1, 3)
    for array, copy in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    for array, same in zip([first[0], *first[1].slots], [again[0], *again[1].slots], strict=True):
        assert array.tobytes() == same.tobytes()
    assert np.any(first[0] != parameters)
    assert state.count == len(STEP_SIZES)


@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
@given(st.integers(0, 70), st.data())
@settings(max_examples=40)
def test_where_the_vector_is_cut_leaves_no_trace(kind: type[Optimizer], n: int, data: st.DataObject) -> None:
    cut, free = data.draw(st.integers(0, n)), data.draw(st.integers(0, n))
    start, gradients = make(n, seed=data.draw(st.integers(0, 1000)), dtype=data.draw(st.sampled_from(DTYPES)))
    optimizer = kind(weight_decay=0.3)
    whole, state = run(optimizer, start, gradients, free)
    left, left_state = run(optimizer, start[:cut], [gradient[:cut] for gradient in gradients], max(0, cut - (n - free)))
    right, right_state = run(optimizer, start[cut:], [gradient[cut:] for gradient in gradients], min(free, n - cut))
    assert np.concatenate([left, right]).tobytes() == whole.tobytes()
    for slot, *parts in zip(state.slots, left_state.slots, right_state.slots, strict=True):
        assert np.concatenate(parts).tobytes() == slot.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_free_parameters_do_not_decay_and_zero_gradients_do_not_move(kind: type[Optimizer], dtype: str) -> None:
    start, _ = make(21, dtype=dtype)
    optimizer = kind(weight_decay=0.5)
    for n_free in (0, 1, 5, 21):
        moved, _ = optimizer.update(optimizer.init(start), np.zeros_like(start), start, 0.1, n_free)
        decayed = 21 - n_free
        np.testing.assert_allclose(moved[:decayed], 0.95 * start[:decayed], rtol=1e-6)
        np.testing.assert_array_equal(moved[decayed:], start[decayed:])


@pytest.mark.parametrize(
    ("whole", "same"),
    [
        (Momentum(0, weight_decay=1), Momentum(0.0, weight_decay=1.0)),
        (Nesterov(0), Nesterov(0.0)),
        (Adagrad(1, 1), Adagrad(1.0, 1.0)),
        (RMSProp(0, 1), RMSProp(0.0, 1.0)),
        (Adam(0, 0, 1), Adam(0.0, 0.0, 1.0)),
        (Adam(np.float32(0.5), np.float64(0.5)), Adam(0.5, 0.5)),  # type: ignore[arg-type]
    ],
)
def test_hyperparameters_of_any_number_type(whole: Optimizer, same: Optimizer) -> None:
    start, gradients = make(9, dtype="float32")
    assert run(whole, start, gradients)[0].tobytes() == run(same, start, gradients)[0].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_of_any_kind(dtype: str) -> None:
    """Every second element, and elements that are not aligned."""
    start, gradients = make(40, dtype=dtype)
    expected, _ = run(Adam(), start[::2].copy(), [gradient[::2].copy() for gradient in gradients])
    found, _ = run(Adam(), start[::2], [gradient[::2] for gradient in gradients])
    np.testing.assert_array_equal(found, expected)
    odd = [np.frombuffer(b"." + array[::2].tobytes(), dtype, offset=1) for array in (start, *gradients)]
    assert not odd[0].flags.aligned
    np.testing.assert_array_equal(run(Adam(), odd[0], odd[1:])[0], expected)
    np.testing.assert_array_equal(clip_by_norm(odd[0], 1e-3), clip_by_norm(odd[0].copy(), 1e-3))
    np.testing.assert_array_equal(average(start[::2], odd[1], 2), average(start[::2].copy(), odd[1].copy(), 2))


def test_a_saved_state_goes_on_to_the_same_bits() -> None:
    start, gradients = make(40)
    parameters, state = run(AdamW(), start, gradients)
    saved = pickle.loads(pickle.dumps((AdamW(), state, parameters)))
    np.testing.assert_array_equal(
        saved[0].update(saved[1], gradients[0], saved[2], 0.1)[0], AdamW().update(state, gradients[0], parameters, 0.1)[0]
    )


@pytest.mark.parametrize(
    ("make_optimizer", "message"),
    [
        (lambda: SGD(weight_decay=-1.0), "weight_decay must be a finite number of at least 0, got -1.0"),
        (lambda: AdamW(weight_decay=np.nan), "weight_decay"),
        (lambda: Adam(weight_decay=np.inf), "weight_decay"),
        (lambda: Momentum(1.0), r"momentum must lie in \[0, 1\), got 1.0"),
        (lambda: Nesterov(-0.1), "momentum"),
        (lambda: Momentum("0.9"), "momentum"),  # type: ignore[arg-type]
        (lambda: Momentum(weight_decay=-1.0), "weight_decay"),
        (lambda: Adagrad(epsilon=0.0), "epsilon must be a finite number of at least 1e-37, got 0.0"),
        (lambda: Adagrad(initial_accumulator=-1.0), "initial_accumulator"),
        (lambda: RMSProp(decay=1.0), r"decay must lie in \[0, 1\)"),
        (lambda: RMSProp(epsilon=np.nan), "epsilon"),
        (lambda: Adam(beta_1=1.0), "beta_1"),
        (lambda: Adam(beta_2=1.0), "beta_2"),
        (lambda: AdamW(epsilon=-1.0), "epsilon"),
    ],
)
def test_bad_hyperparameters(make_optimizer: Callable[[], Optimizer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_optimizer()


def test_bad_arrays() -> None:
    x = np.zeros(5)
    adam, state = Adam(), Adam().init(x)
    with pytest.raises(TypeError, match="parameters must be float32 or float64, got int64"):
        adam.init(np.zeros(5, np.int64))
    with pytest.raises(TypeError, match="parameters must be float32 or float64, got >f8"):
        adam.init(x.astype(">f8"))
    with pytest.raises(ValueError, match="parameters must be one flat vector"):
        adam.init(np.zeros((5, 1)))
    with pytest.raises(ValueError, match=r"gradient must be \(5,\) float64 as the parameters, got \(4,\) float64"):
        adam.update(state, np.zeros(4), x, 0.1)
    with pytest.raises(ValueError, match=r"gradient must be .* got .*float32"):
        adam.update(state, np.zeros(5, np.float32), x, 0.1)
    with pytest.raises(ValueError, match="each slot of the state"):
        adam.update(state, np.zeros(6), np.zeros(6), 0.1)
    with pytest.raises(ValueError, match="Momentum needs a state with 1 slots, got 2"):
        Momentum().update(state, x, x, 0.1)
    for n_free in (-1, 6):
        with pytest.raises(ValueError, match="n_free must lie between 0 and the number of parameters, 5"):
            adam.update(state, x, x, 0.1, n_free)
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        adam.update(state, x, x, 0.1, 1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 7, 8, 1001])
def test_clip_by_norm(n: int, dtype: str) -> None:
    gradient, _ = make(n, dtype=dtype)
    norm = float(np.linalg.norm(gradient.astype(np.float64)))
    assert clip_by_norm(gradient, norm * (1 + 1e-12)) is gradient
    assert clip_by_norm(gradient, np.inf) is gradient
    clipped = clip_by_norm(gradient, norm / 3)
    assert clipped.dtype == gradient.dtype
    np.testing.assert_allclose(clipped, gradient / 3, rtol=3e-7 if dtype == "float32" else 1e-14)
    assert clip_by_norm(gradient, norm * (1 - 1e-12)) is not gradient


def test_clip_by_norm_at_the_ends_of_the_numbers() -> None:
    large = np.full(4, 1e30, np.float32)  # the squares leave float32
    np.testing.assert_allclose(clip_by_norm(large, 2.0), 1.0, rtol=1e-6)
    for gradient in (np.zeros(3), np.zeros(0), np.array([1.0, np.nan]), np.array([1.0, np.inf])):
        assert clip_by_norm(gradient, 1.0) is gradient
    for bad in (0.0, -1.0, np.nan, "1"):
        with pytest.raises(ValueError, match="max_norm must be a positive number"):
            clip_by_norm(large, bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="gradient must be float32 or float64"):
        clip_by_norm(np.ones(3, np.int64), 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_norm_does_not_depend_on_the_address(dtype: str) -> None:
    gradient, _ = make(1003, dtype=dtype)
    results = set()
    for offset in range(17):
        moved = np.empty(1020, dtype)[offset : offset + 1003]
        moved[:] = gradient
        results.add(clip_by_norm(moved, 0.1).tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_average_is_the_mean_of_all(dtype: str) -> None:
    _, vectors = make(77, dtype=dtype)
    mean = np.zeros(77, dtype)
    for i, vector in enumerate(vectors):
        before = mean.copy()
        new = average(mean, vector, i + 1)
        np.testing.assert_array_equal(mean, before)
        assert new.dtype == dtype
        assert not np.shares_memory(new, mean)
        mean = new
        if i == 0:
            np.testing.assert_array_equal(mean, vector)
    np.testing.assert_allclose(mean, np.mean(vectors, axis=0, dtype=np.float64), atol=3e-7 if dtype == "float32" else 1e-15)


def test_average_refuses() -> None:
    with pytest.raises(ValueError, match="count must be an integer of at least 1, got 0"):
        average(np.zeros(3), np.zeros(3), 0)
    with pytest.raises(ValueError, match="mean must be"):
        average(np.zeros(4), np.zeros(3), 1)
