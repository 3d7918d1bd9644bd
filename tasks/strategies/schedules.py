"""Step sizes of successive updates: frozen, pure functions of how many updates came before."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sqrt
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tasks.arguments import as_number, check_counts


@runtime_checkable
class Schedule(Protocol):
    """schedule(count) is the step size of update number `count`, counted from 0."""

    def __call__(self, count: int) -> float: ...


@dataclass(frozen=True)
class Constant:
    """step_size, always. Raises ValueError unless it is a positive, finite number."""

    step_size: float

    def __post_init__(self) -> None:
        _check_positive(step_size=self.step_size)

    def __call__(self, count: int) -> float:
        return float(self.step_size)


@dataclass(frozen=True)
class StepDecay:
    """step_size factor^⌊count / every⌋: times `factor` after each `every` updates (PyTorch's StepLR).

    Raises ValueError for a step_size that is not positive, `every` below 1, or a factor outside (0, 1].
    """

    step_size: float
    every: int
    factor: float = 0.5

    def __post_init__(self) -> None:
        _check_positive(step_size=self.step_size)
        check_counts(every=self.every)
        if not 0 < as_number(self.factor) <= 1:
            raise ValueError(f"factor must lie in (0, 1], got {self.factor!r}")

    def __call__(self, count: int) -> float:
        return float(self.step_size * self.factor ** (count // self.every))


@dataclass(frozen=True)
class InverseScaling:
    """step_size / (1 + stride ⌊count / every⌋)^power: scikit-learn's "invscaling", eta0 / t^power_t with t from 1; with the updates of an
    epoch as `every` and its rows as `stride`, that of its networks. Powers in (½, 1] satisfy the conditions of H. Robbins and S. Monro,
    Ann. Math. Stat. 22 (1951).

    Raises ValueError for a step_size that is not positive, a power that is negative or not finite, `every` or `stride` below 1.
    """

    step_size: float
    power: float = 0.5
    every: int = 1
    stride: int = 1

    def __post_init__(self) -> None:
        _check_positive(step_size=self.step_size)
        if not 0 <= as_number(self.power) < np.inf:
            raise ValueError(f"power must be a finite number of at least 0, got {self.power!r}")
        check_counts(every=self.every, stride=self.stride)

    def __call__(self, count: int) -> float:
        try:
            return float(self.step_size / (1 + self.stride * (count // self.every)) ** self.power)
        except OverflowError:  # of the power
            return 0.0


@dataclass(frozen=True)
class Cosine:
    """final + ½ (step_size - final) (1 + cos(π count / n_updates)), and final from update number n_updates on: I. Loshchilov and F. Hutter,
    SGDR, ICLR 2017, equation 5, without restarts.

    Raises ValueError for a step_size that is not positive, n_updates below 1, or a final outside [0, step_size].
    """

    step_size: float
    n_updates: int
    final: float = 0.0

    def __post_init__(self) -> None:
        _check_positive(step_size=self.step_size)
        check_counts(n_updates=self.n_updates)
        if not 0 <= as_number(self.final) <= self.step_size:
            raise ValueError(f"final must lie between 0 and step_size={self.step_size!r}, got {self.final!r}")

    def __call__(self, count: int) -> float:
        if count >= self.n_updates:
            return float(self.final)
        return float(self.final + 0.5 * (self.step_size - self.final) * (1.0 + cos(pi * count / self.n_updates)))


@dataclass(frozen=True)
class Optimal:
    """1 / (alpha (t0 + count)): scikit-learn's "optimal", for a loss with the L2 penalty ½ alpha |coef|². t0 is L. Bottou's heuristic (the
    sgd package, 2012): a typical coefficient is typw = √(1/√alpha), and the first step size, typw / max(1, initial), should not
    move one beyond that: t0 = max(1, initial) / (typw alpha).

    initial: the loss's derivative at the raw prediction -typw of a row with target 1, or a bound on it. It counts beyond 1 only; for the
    losses of scikit-learn's SGDClassifier and SGDRegressor it is negative.

    Raises ValueError for an alpha that is not positive, or an initial that is no finite number.
    """

    alpha: float
    initial: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(alpha=self.alpha)
        if not np.isfinite(as_number(self.initial)):
            raise ValueError(f"initial must be a finite number, got {self.initial!r}")

    def __call__(self, count: int) -> float:
        typical = sqrt(1.0 / sqrt(self.alpha))
        first = typical / max(1.0, self.initial)
        return float(1.0 / (self.alpha * (1.0 / (first * self.alpha) + count)))


@dataclass(frozen=True)
class WarmUp:
    """schedule(count) min(1, (count + 1) / n_updates): rises in equal shares over the first n_updates (P. Goyal et al., Accurate, Large
    Minibatch SGD, 2017, section 2.2).

    Raises ValueError for n_updates below 1, TypeError for a schedule that cannot be called.
    """

    schedule: Schedule
    n_updates: int

    def __post_init__(self) -> None:
        check_counts(n_updates=self.n_updates)
        if not isinstance(self.schedule, Schedule):
            raise TypeError(f"schedule must be a schedule such as Constant(0.1), got {self.schedule!r}")

    def __call__(self, count: int) -> float:
        return self.schedule(count) * min(1.0, (count + 1) / self.n_updates)


@dataclass(frozen=True)
class OfRows:
    """min(largest, Σ_i schedule(n_rows count + i), i < n_rows), the sum being n_rows schedule(n_rows count): the step size of a batch of
    n_rows rows, by a schedule for updates of one row each (the linear scaling rule, P. Goyal et al., 2017, section 2.1), up to where it
    would be unstable.

    Raises ValueError for n_rows or largest that are not positive, TypeError for a schedule that cannot be called.
    """

    schedule: Schedule
    n_rows: float
    largest: float

    def __post_init__(self) -> None:
        _check_positive(n_rows=self.n_rows, largest=self.largest)
        if not isinstance(self.schedule, Schedule):
            raise TypeError(f"schedule must be a schedule such as Constant(0.1), got {self.schedule!r}")

    def __call__(self, count: int) -> float:
        return min(float(self.largest), self.n_rows * self.schedule(int(self.n_rows * count)))


def _check_positive(**values: Any) -> None:
    for name, value in values.items():
        if not 0 < as_number(value) < np.inf:
            raise ValueError(f"{name} must be a positive, finite number, got {value!r}")
