"""Which optimizer and which schedule of step sizes the parameters of an estimator mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tasks.strategies.optimizers import OPTIMIZERS, Adam, AdamW, Momentum, Nesterov, Optimizer
from tasks.strategies.schedules import Constant, Cosine, InverseScaling, Schedule, StepDecay, WarmUp

LEARNING_RATES: Final = ("constant", "invscaling", "adaptive", "step", "cosine")
OF_SGD: Final = ("invscaling", "adaptive")
DROPS: Final = 10
NUMBERS: Final[Mapping[type[Optimizer], tuple[str, ...]]] = {
    Momentum: ("momentum",),
    Nesterov: ("momentum",),
    Adam: ("beta_1", "beta_2", "epsilon"),
    AdamW: ("beta_1", "beta_2", "epsilon"),
}


class Epochs(NamedTuple):
    """What schedules count by: updates and rows of an epoch, and the most epochs that there may be."""

    updates: int
    rows: int
    most: int


def choose_optimizer(solver: Any, nesterov: bool, numbers: Mapping[str, float]) -> Optimizer:
    """solver: a name of OPTIMIZERS, or an Optimizer itself; nesterov: what "sgd" with momentum is; numbers: momentum, beta_1, beta_2,
    epsilon, weight_decay.

    Raises ValueError for numbers out of range, and for a weight_decay beside an Optimizer, which has its own.
    """
    weight_decay = numbers["weight_decay"]
    if isinstance(solver, Optimizer):
        if weight_decay:
            name = type(solver).__name__
            raise ValueError(f"weight_decay={weight_decay!r} beside solver={solver!r}: give it to the optimizer, {name}(weight_decay=...)")
        return solver
    if solver == "sgd" and numbers["momentum"]:
        solver = "nesterov" if nesterov else "momentum"
    return named_optimizer(solver, numbers)


def named_optimizer(name: str, numbers: Mapping[str, float]) -> Optimizer:
    """name: of OPTIMIZERS; numbers: an estimator's, of which each optimizer takes its own. A weight_decay of 0 means the optimizer's."""
    kind = OPTIMIZERS[name]
    own = {number: numbers[number] for number in NUMBERS.get(kind, ()) if number in numbers}
    return kind(**own, **({"weight_decay": numbers["weight_decay"]} if numbers["weight_decay"] else {}))


def choose_schedule(learning_rate: Any, step_size: float, power: float, warm_up: int, epochs: Epochs) -> Schedule:
    """learning_rate: one of LEARNING_RATES, or a Schedule. Raises ValueError for numbers out of range, TypeError for anything else."""
    if isinstance(learning_rate, str) and learning_rate not in LEARNING_RATES:
        known = ", ".join(map(repr, LEARNING_RATES))
        raise ValueError(f"learning_rate={learning_rate!r} is not available; use one of {known}, or pass a schedule such as Constant(0.1)")
    if not isinstance(learning_rate, str) and not isinstance(learning_rate, Schedule):
        raise TypeError(f"learning_rate must be a name or a schedule such as Constant(0.1), got {learning_rate!r}")
    schedules: dict[str, Schedule] = {
        "invscaling": InverseScaling(step_size, power, every=epochs.updates, stride=epochs.rows),
        "step": StepDecay(step_size, every=max(1, epochs.updates * epochs.most // DROPS)),
        "cosine": Cosine(step_size, epochs.updates * epochs.most),
    }
    schedule = schedules.get(learning_rate, Constant(step_size)) if isinstance(learning_rate, str) else learning_rate
    return WarmUp(schedule, warm_up) if warm_up else schedule
