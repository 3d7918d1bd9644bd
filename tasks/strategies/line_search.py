"""A strong Wolfe line search as a state machine: every trial is a round.

Source: J. Nocedal and S. Wright, Numerical Optimization, 2nd edition, algorithms 3.5 (bracketing) and 3.6 (zoom); near the
optimum, where values differ by rounding only, the approximate Wolfe conditions of W. Hager and H. Zhang, SIAM J. Optim. 16 (2005),
section 4, which need derivatives alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tasks.strategies.base import Iterate


class Point(NamedTuple):
    """A trial: step length, value, directional derivative."""

    step: float
    value: float
    slope: float


class Search(NamedTuple):
    """start: the point at step 0; low/high: the bracket (high is None while still bracketing); step: the trial to evaluate next; rounding:
    differences from the start's value below this are rounding."""

    start: Point
    low: Point
    high: Point | None
    step: float
    trials: int
    outcome: str  # "", "accepted", "failed"
    rounding: float


SUFFICIENT_DECREASE = 1e-4
CURVATURE = 0.9
MAX_TRIALS = 30


def begin(here: Iterate, slope: float, step: float) -> Search:
    """A search from a point with that (negative) slope, whose first trial is `step`."""
    start = Point(0.0, here.value, slope)
    return Search(start, start, None, step, 0, "", here.rounding)


def advance(search: Search, value: float, slope: float) -> Search:
    """The search after the evaluation of its trial step."""
    trial = Point(search.step, value, slope)
    search = search._replace(trials=search.trials + 1)
    if acceptable(search.start, trial, search.rounding):
        return search._replace(outcome="accepted")
    if search.trials >= MAX_TRIALS:
        return search._replace(outcome="failed")
    search = _zoom(search, trial) if search.high is not None else _bracket(search, trial)
    if search.high is not None and abs(search.high.step - search.low.step) <= 1e-14 * max(search.high.step, search.low.step):
        return search._replace(outcome="failed")
    return search


def acceptable(start: Point, trial: Point, rounding: float) -> bool:
    """Strong Wolfe, or approximate Wolfe where values cannot tell: where they differ by no more than `rounding`."""
    if not (np.isfinite(trial.value) and np.isfinite(trial.slope)):
        return False
    if _decreases(start, trial):
        return abs(trial.slope) <= CURVATURE * abs(start.slope)
    if trial.value <= start.value + rounding:
        return CURVATURE * start.slope <= trial.slope <= (2 * SUFFICIENT_DECREASE - 1) * start.slope
    return False


def _decreases(start: Point, trial: Point) -> bool:
    return trial.value <= start.value + SUFFICIENT_DECREASE * trial.step * start.slope


def _level(search: Search, *points: Point) -> bool:
    """Whether the values of these points, beside that of the start, are rounding."""
    return all(abs(point.value - search.start.value) <= search.rounding for point in points)


def _bracket(search: Search, trial: Point) -> Search:
    low = search.low
    if not np.isfinite(trial.value) or not np.isfinite(trial.slope):  # overstepped the domain: come back a long way
        return search._replace(step=low.step + 0.1 * (trial.step - low.step))
    if _level(search, low, trial):  # slopes tell on which side of the minimum they are
        return _interpolate(search._replace(high=trial)) if trial.slope >= 0 else _farther(search, trial)
    if not _decreases(search.start, trial) or (trial.value >= low.value and search.trials > 1):
        return _interpolate(search._replace(low=low, high=trial))
    if trial.slope >= 0:
        return _interpolate(search._replace(low=trial, high=low))
    return _farther(search, trial)


def _farther(search: Search, trial: Point) -> Search:
    """The next trial beyond one that is not far enough: ever farther, for the units of the first one may have been far too small."""
    return search._replace(low=trial, step=4.0**search.trials * trial.step)


def _zoom(search: Search, trial: Point) -> Search:
    low, high = search.low, search.high
    assert high is not None
    if _level(search, low, trial) and np.isfinite(trial.slope):
        beyond = trial.slope * (high.step - low.step) >= 0
        return _interpolate(search._replace(high=trial) if beyond else search._replace(low=trial))
    if not np.isfinite(trial.value) or not _decreases(search.start, trial) or trial.value >= low.value:
        return _interpolate(search._replace(high=trial))
    if trial.slope * (high.step - low.step) >= 0:
        high = low
    return _interpolate(search._replace(low=trial, high=high))


def _interpolate(search: Search) -> Search:
    """The minimum of the cubic through the bracket (Nocedal and Wright, eq. 3.59), or the zero of the line through its slopes where values
    are rounding, kept 10 % off its ends."""
    low, high = search.low, search.high
    assert high is not None
    width = high.step - low.step
    step = low.step + 0.5 * width
    if _level(search, low, high):
        if np.isfinite(high.slope) and high.slope != low.slope:
            step = low.step - low.slope * width / (high.slope - low.slope)
    elif np.isfinite(high.value) and np.isfinite(high.slope):
        d1 = low.slope + high.slope - 3 * (low.value - high.value) / (low.step - high.step)
        square = d1 * d1 - low.slope * high.slope
        if square >= 0:
            d2 = np.sign(width) * np.sqrt(square)
            denominator = high.slope - low.slope + 2 * d2
            if denominator != 0:
                step = high.step - width * (high.slope + d2 - d1) / denominator
    margin = 0.1 * abs(width)
    inside = min(max(step, min(low.step, high.step) + margin), max(low.step, high.step) - margin)
    return search._replace(step=float(inside) if np.isfinite(inside) else low.step + 0.5 * width)
