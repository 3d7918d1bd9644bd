"""Schedules against their formulas, and against what scikit-learn's SGD does with the same names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import SGDClassifier, SGDRegressor

from tasks.strategies.schedules import Constant, Cosine, InverseScaling, Optimal, Schedule, StepDecay, WarmUp
from tasks.typing import Float64


def values(schedule: Schedule, n: int) -> list[float]:
    return [schedule(count) for count in range(n)]


def test_constant() -> None:
    assert values(Constant(0.3), 4) == [0.3, 0.3, 0.3, 0.3]


def test_step_decay() -> None:
    assert values(StepDecay(0.8, 3), 8) == pytest.approx([0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2], rel=1e-15)
    assert values(StepDecay(1.0, 1, 0.1), 4) == pytest.approx([1.0, 0.1, 0.01, 0.001], rel=1e-14)


def test_inverse_scaling() -> None:
    assert values(InverseScaling(0.6), 9) == pytest.approx(0.6 / np.sqrt(np.arange(1, 10)), rel=1e-15)
    assert values(InverseScaling(0.6, 1.0), 4) == pytest.approx([0.6, 0.3, 0.2, 0.15], rel=1e-15)


def test_cosine() -> None:
    assert values(Cosine(1.0, 4), 7) == pytest.approx([1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0.0, 0.0, 0.0], abs=1e-15)
    schedule = Cosine(0.5, 100, final=0.1)
    assert schedule(0) == 0.5
    assert schedule(50) == pytest.approx(0.3, rel=1e-15)
    assert schedule(100) == schedule(10_000) == 0.1
    assert np.all(np.diff(values(schedule, 101)) < 0)


def test_warm_up() -> None:
    assert values(WarmUp(Constant(0.4), 4), 6) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4], rel=1e-15)
    assert WarmUp(Constant(0.4), 1)(0) == 0.4
    inner = Cosine(0.4, 20)
    found = values(WarmUp(inner, 5), 25)
    assert found[4:] == values(inner, 25)[4:]
    assert found[:4] == pytest.approx([inner(count) * (count + 1) / 5 for count in range(4)], rel=1e-15)


def rows() -> tuple[Float64, Any]:
    random = np.random.default_rng(0)
    X = random.normal(size=(40, 3))
    return X, np.where(X @ [1.0, -2.0, 0.5] + random.normal(size=40) > 0, 1, -1)


@pytest.mark.parametrize("alpha", [1e-4, 0.02, 3.0])
def test_optimal_is_scikit_learns(alpha: float) -> None:
    """Its updates for the hinge loss, replayed; "optimal" takes alpha for the schedule also without a penalty."""
    X, y = rows()
    peer = SGDClassifier(
        loss="hinge", penalty=None, alpha=alpha, learning_rate="optimal", fit_intercept=False, shuffle=False, max_iter=1, tol=None
    ).fit(X, y)
    coef, schedule = np.zeros(3), Optimal(alpha)
    for count, (x, label) in enumerate(zip(X, y, strict=True)):
        if label * (coef @ x) <= 1:
            coef = coef + schedule(count) * label * x
    np.testing.assert_allclose(peer.coef_[0], coef, rtol=1e-12)


def test_inverse_scaling_is_scikit_learns() -> None:
    X, y = rows()
    peer = SGDRegressor(
        penalty=None, learning_rate="invscaling", eta0=0.05, power_t=0.4, fit_intercept=False, shuffle=False, max_iter=1, tol=None
    ).fit(X, y.astype(np.float64))
    coef, schedule = np.zeros(3), InverseScaling(0.05, 0.4)
    for count, (x, target) in enumerate(zip(X, y, strict=True)):
        coef = coef - schedule(count) * (coef @ x - target) * x
    np.testing.assert_allclose(peer.coef_, coef, rtol=1e-12)


def test_optimal_with_steep_losses() -> None:
    """A first step size of typw / initial, then 1 / step grows by alpha at each update."""
    schedule = Optimal(1e-4, initial=5.0)
    assert schedule(0) == pytest.approx(10.0 / 5.0, rel=1e-14)
    assert np.diff(1.0 / np.array(values(schedule, 10))) == pytest.approx(1e-4, rel=1e-9)
    assert Optimal(1e-4, initial=-3.0) != Optimal(1e-4)
    assert values(Optimal(1e-4, initial=-3.0), 3) == values(Optimal(1e-4, initial=0.5), 3) == values(Optimal(1e-4), 3)


ALL = [
    Constant(0.1),
    StepDecay(0.1, 2),
    InverseScaling(0.1),
    Cosine(np.float32(0.1), 5),  # type: ignore[arg-type]
    Optimal(0.1),
    WarmUp(Constant(np.float64(0.1)), 3),
]


@pytest.mark.parametrize("schedule", ALL, ids=lambda schedule: type(schedule).__name__)
def test_every_schedule_gives_plain_floats_and_the_same_again(schedule: Schedule) -> None:
    assert isinstance(schedule, Schedule)
    assert hash(schedule) == hash(schedule)
    assert all(type(value) is float for value in values(schedule, 8))
    assert values(schedule, 8) == values(schedule, 8)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Constant(0.0), ValueError, "step_size must be a positive, finite number, got 0.0"),
        (lambda: Constant(np.nan), ValueError, "step_size"),
        (lambda: Constant("0.1"), ValueError, "step_size"),  # type: ignore[arg-type]
        (lambda: StepDecay(-1.0, 2), ValueError, "step_size"),
        (lambda: StepDecay(0.1, 0), ValueError, "every must be an integer of at least 1"),
        (lambda: StepDecay(0.1, 2, 1.5), ValueError, r"factor must lie in \(0, 1\], got 1.5"),
        (lambda: StepDecay(0.1, 2, 0.0), ValueError, "factor"),
        (lambda: InverseScaling(np.inf), ValueError, "step_size"),
        (lambda: InverseScaling(0.1, -0.5), ValueError, "power must be a finite number of at least 0"),
        (lambda: InverseScaling(0.1, np.inf), ValueError, "power"),
        (lambda: Cosine(0.0, 5), ValueError, "step_size"),
        (lambda: Cosine(0.1, 2.5), ValueError, "n_updates must be an integer"),  # type: ignore[arg-type]
        (lambda: Cosine(0.1, 5, final=0.2), ValueError, "final must lie between 0 and step_size=0.1, got 0.2"),
        (lambda: Cosine(0.1, 5, final=-0.1), ValueError, "final"),
        (lambda: Optimal(0.0), ValueError, "alpha must be a positive, finite number"),
        (lambda: Optimal(0.1, initial=np.nan), ValueError, "initial must be a finite number"),
        (lambda: WarmUp(Constant(0.1), 0), ValueError, "n_updates"),
        (lambda: WarmUp(0.1, 5), TypeError, "schedule must be a schedule such as"),  # type: ignore[arg-type]
    ],
)
def test_bad_hyperparameters(make: Callable[[], Schedule], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
