"""Which optimizer and which schedule of step sizes the parameters of an estimator mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from tasks.strategies.asynchronous import Overlap
from tasks.strategies.local_sgd import LocalUpdates
from tasks.strategies.optimizers import OPTIMIZERS, Adam, AdamW, Momentum, Nesterov, Optimizer
from tasks.strategies.schedules import Constant, Cosine, Schedule, StepDecay, WarmUp

ASYNC: Final = "async"
SERVED: Final = "parameter-server"
LOCAL: Final = "local-sgd"

NUMBERS: Final[Mapping[type[Optimizer], tuple[str, ...]]] = {
    Momentum: ("momentum",),
    Nesterov: ("momentum",),
    Adam: ("beta_1", "beta_2", "epsilon"),
    AdamW: ("beta_1", "beta_2", "epsilon"),
}


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


def chosen_overlap(solver: Any, staleness: int | None, order: Any) -> Overlap | None:
    """How the rounds of a solver overlap: of "async" and "parameter-server" by these two; None of one whose rounds do not. Raises
    ValueError for one of them beside an Overlap, which has its own."""
    if isinstance(solver, Overlap):
        require_defaults(solver, {"staleness": ("staleness", staleness), "order": ("order", order)})
        return solver
    return Overlap(staleness, order, served=solver == SERVED) if isinstance(solver, str) and solver in (ASYNC, SERVED) else None


def chosen_local(solver: Any, n_steps: int | None, n_epochs: int | None) -> LocalUpdates | None:
    """What subtrees do by themselves: by "local-sgd" so many updates; None for a solver that has no local ones. Raises ValueError for a
    number of them beside a LocalUpdates, which has its own."""
    if isinstance(solver, LocalUpdates):
        require_defaults(solver, {"local_steps": ("n_steps", n_steps), "local_epochs": ("n_epochs", n_epochs)})
        return solver
    return LocalUpdates(n_steps, n_epochs) if isinstance(solver, str) and solver == LOCAL else None


def require_defaults(solver: Overlap | LocalUpdates, given: Mapping[str, tuple[str, Any]]) -> None:
    """Raise ValueError for an estimator's parameter that was set beside an object that has its own. given: by the estimator's name the
    object's name of it, and the value."""
    for name, (field, value) in given.items():
        if value != type(solver).__dataclass_fields__[field].default:
            raise ValueError(f"{name}={value!r} beside solver={solver!r}: give it to the solver, {type(solver).__name__}({field}=...)")


def solver_name(solver: Any) -> str:
    """The name of one of these solvers, whether it is given by name or as an object."""
    if isinstance(solver, str):
        return solver
    return LOCAL if not isinstance(solver, Overlap) else SERVED if solver.served else ASYNC


class Pace(NamedTuple):
    """What named learning rates fall by. first: the first step size; halved_every: updates between two halvings by "step"; updates: until
    "cosine" is at zero."""

    first: float
    halved_every: int
    updates: int


def choose_schedule(learning_rate: Any, pace: Pace, warm_up: int, others: Mapping[str, Callable[[], Schedule]]) -> Schedule:
    """The step sizes of a learning rate, a name or a Schedule, behind a warm-up of so many updates. others: what makes the schedules by the
    names that mean something else in each kind of model.

    Raises ValueError for names that are not known and for numbers out of range, TypeError for what is neither name nor Schedule.
    """
    named: dict[str, Callable[[], Schedule]] = {
        "constant": lambda: Constant(pace.first),
        **others,
        "adaptive": lambda: Constant(pace.first),
        "step": lambda: StepDecay(pace.first, pace.halved_every),
        "cosine": lambda: Cosine(pace.first, pace.updates),
    }
    if isinstance(learning_rate, str):
        if learning_rate not in named:
            known = ", ".join(map(repr, named))
            raise ValueError(
                f"learning_rate={learning_rate!r} is not available; use one of {known}, or pass a schedule such as Constant(0.1)"
            )
        schedule = named[learning_rate]()
    elif isinstance(learning_rate, Schedule):
        schedule = learning_rate
    else:
        raise TypeError(f"learning_rate must be a name or a schedule such as Constant(0.1), got {learning_rate!r}")
    return WarmUp(schedule, warm_up) if warm_up else schedule
