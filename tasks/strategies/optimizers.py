"""First-order updates for noisy gradients: pure functions over one flat vector of parameters, float32 or float64.

An optimizer is a frozen set of hyperparameters. `init` makes its state; `update` makes new parameters and a new state, in one pass over
memory, and writes to none of its inputs. Arithmetic is in the dtype of the parameters and element by element, so that the same inputs give
the same bits wherever a vector is cut. Below, θ are the parameters, g the gradient, η the step size, and t = 1, 2, ... counts updates.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import numpy as np

from tasks.arguments import as_number, check_counts
from tasks.lazy import Lazy
from tasks.objectives.evaluation import Evaluation
from tasks.typing import Array

if TYPE_CHECKING:
    from tasks.kernels import updates
else:
    updates = Lazy("tasks.kernels.updates")


class OptimizerState(NamedTuple):
    """count: updates so far; slots: what the optimizer remembers of each parameter, (n,) in the dtype of the parameters."""

    count: int  # type: ignore[assignment]  # hides tuple.count
    slots: tuple[Array, ...]


class Rule(NamedTuple):
    """One update as its compiled kernel, and the numbers that it takes after the decay."""

    kernel: Any
    numbers: tuple[float, ...]


@dataclass(frozen=True)
class Optimizer(ABC):
    """weight_decay: each update also takes η weight_decay θ from the parameters, outside of slots and roots (decoupled: I. Loshchilov and
    F. Hutter, Decoupled Weight Decay Regularization, ICLR 2019, algorithms 1 and 2).

    Raises ValueError for a weight_decay that is negative or not finite.
    """

    weight_decay: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        _check_amounts(weight_decay=self.weight_decay)

    @property
    @abstractmethod
    def first_slots(self) -> tuple[float, ...]:
        """The value that each slot starts from."""

    @abstractmethod
    def rule(self, count: int, step_size: float) -> Rule:
        """How update number `count`, from 1, is computed."""

    @final
    def init(self, parameters: Array) -> OptimizerState:
        """The state before the first update of parameters (n,). Raises TypeError or ValueError for what is no such vector."""
        parameters = _as_vector(parameters)
        return OptimizerState(0, tuple(np.full_like(parameters, value) for value in self.first_slots))

    @final
    def update(
        self, state: OptimizerState, gradient: Array, parameters: Array, step_size: float, n_free: int = 0
    ) -> tuple[Array, OptimizerState]:
        """New parameters (n,) and the state after the update; the last n_free parameters (intercepts) are never decayed.

        gradient (n,) in the dtype of the parameters; step_size η, a number of at least 0. What is returned shares one piece of memory.
        Raises TypeError or ValueError for arrays that do not fit each other, and for n_free outside 0 .. n.
        """
        parameters = _as_vector(parameters)
        inputs = (parameters, _like(parameters, gradient, "gradient"), *self._slots(state, parameters))
        if not 0 <= operator.index(n_free) <= len(parameters):
            raise ValueError(f"n_free must lie between 0 and the number of parameters, {len(parameters)}, got {n_free!r}")
        count, step_size = state.count + 1, float(step_size)
        kernel, numbers = self.rule(count, step_size)
        n_decayed, decay = len(parameters) - int(n_free), step_size * float(self.weight_decay)
        moved, *slots = updates.element_wise(kernel, inputs, 1 + len(state.slots), n_decayed, decay, *numbers)
        return moved, OptimizerState(count, tuple(slots))

    def _slots(self, state: OptimizerState, parameters: Array) -> list[Array]:
        if len(state.slots) != len(self.first_slots):
            needs = f"{type(self).__name__} needs a state with {len(self.first_slots)} slots, got {len(state.slots)}"
            raise ValueError(f"{needs}; call init of the optimizer that is used")
        return [_like(parameters, slot, "each slot of the state") for slot in state.slots]


def proximal_update(
    optimizer: Optimizer, state: OptimizerState, gradient: Array, parameters: Array, step_size: float, evaluation: Evaluation
) -> tuple[Array, OptimizerState]:
    """An update by this gradient, and the prox of the evaluation's kinks by the same step, which leaves free parameters alone."""
    moved, state = optimizer.update(state, gradient, parameters, step_size, evaluation.n_free)
    if evaluation.penalty.kinks:
        n_coef = len(moved) - evaluation.n_free
        moved[:n_coef] = evaluation.penalty.prox(moved[:n_coef], step_size)
    return moved, state


def update_parts(
    optimizer: Optimizer,
    step_sizes: Sequence[tuple[slice, float]],
    before: tuple[Array, OptimizerState],
    gradient: Array,
    n_free: int,
    after: tuple[Array, OptimizerState],
) -> None:
    """Write over those parts of `after`, parameters and state, the update of `before` by step sizes of their own."""
    (parameters, state), (moved, new_state) = before, after
    for part, step_size in step_sizes:
        own = OptimizerState(state.count, tuple(slot[part] for slot in state.slots))
        n_free_here = max(0, part.stop - max(part.start, len(parameters) - n_free))
        moved[part], found = optimizer.update(own, gradient[part], parameters[part], step_size, n_free_here)
        for slot, new in zip(new_state.slots, found.slots, strict=True):
            slot[part] = new


@final
@dataclass(frozen=True)
class SGD(Optimizer):
    """θ <- θ - η g: H. Robbins and S. Monro, Ann. Math. Stat. 22 (1951)."""

    @property
    def first_slots(self) -> tuple[float, ...]:
        return ()

    def rule(self, count: int, step_size: float) -> Rule:
        return Rule(updates.descend, (step_size,))


@dataclass(frozen=True)
class _WithVelocity(Optimizer, ABC):
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shares(momentum=self.momentum)

    @property
    def first_slots(self) -> tuple[float, ...]:
        return (0.0,)


@final
@dataclass(frozen=True)
class Momentum(_WithVelocity):
    """v <- momentum v - η g; θ <- θ + v: B. Polyak, USSR Comput. Math. Math. Phys. 4 (1964), in scikit-learn's form (PyTorch's v has no η).

    Raises ValueError for momentum outside [0, 1) and for a weight_decay as Optimizer does.
    """

    def rule(self, count: int, step_size: float) -> Rule:
        return Rule(updates.descend_with_velocity, (step_size, float(self.momentum), 0))


@final
@dataclass(frozen=True)
class Nesterov(_WithVelocity):
    """v <- momentum v - η g; θ <- θ + momentum v - η g with the new v: Y. Nesterov (1983), in the form of I. Sutskever et al., On the
    importance of initialization and momentum in deep learning, ICML 2013, with gradients taken at the point ahead, as scikit-learn has it.

    Raises ValueError for momentum outside [0, 1) and for a weight_decay as Optimizer does.
    """

    def rule(self, count: int, step_size: float) -> Rule:
        return Rule(updates.descend_with_velocity, (step_size, float(self.momentum), 1))


@final
@dataclass(frozen=True)
class Adagrad(Optimizer):
    """s <- s + g², from initial_accumulator; θ <- θ - η g / (√s + epsilon): J. Duchi, E. Hazan and Y. Singer, J. Mach. Learn. Res. 12
    (2011), figure 1 with diagonal matrices.

    Raises ValueError for an epsilon below 1e-37, an initial_accumulator that is negative or not finite, and for a weight_decay as
    Optimizer does.
    """

    epsilon: float = 1e-10
    initial_accumulator: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_epsilon(self.epsilon)
        _check_amounts(initial_accumulator=self.initial_accumulator)

    @property
    def first_slots(self) -> tuple[float, ...]:
        return (self.initial_accumulator,)

    def rule(self, count: int, step_size: float) -> Rule:
        return Rule(updates.descend_by_root, (step_size, 1.0, 1.0, float(self.epsilon)))


@final
@dataclass(frozen=True)
class RMSProp(Optimizer):
    """s <- decay s + (1 - decay) g²; θ <- θ - η g / (√s + epsilon): T. Tieleman and G. Hinton, Neural Networks for Machine Learning,
    lecture 6.5 (2012), with epsilon outside of the root, as PyTorch has it.

    Raises ValueError for decay outside [0, 1), an epsilon below 1e-37, and for a weight_decay as Optimizer does.
    """

    decay: float = 0.9
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shares(decay=self.decay)
        _check_epsilon(self.epsilon)

    @property
    def first_slots(self) -> tuple[float, ...]:
        return (0.0,)

    def rule(self, count: int, step_size: float) -> Rule:
        return Rule(updates.descend_by_root, (step_size, float(self.decay), 1.0 - self.decay, float(self.epsilon)))


@dataclass(frozen=True)
class _WithMoments(Optimizer, ABC):
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shares(beta_1=self.beta_1, beta_2=self.beta_2)
        _check_epsilon(self.epsilon)

    @property
    def first_slots(self) -> tuple[float, ...]:
        return (0.0, 0.0)

    def rule(self, count: int, step_size: float) -> Rule:
        beta_1, beta_2 = float(self.beta_1), float(self.beta_2)
        corrected_step, root_correction = step_size / (1.0 - beta_1**count), 1.0 / sqrt(1.0 - beta_2**count)
        shares = (beta_1, 1.0 - beta_1, beta_2, 1.0 - beta_2)
        return Rule(updates.descend_by_moments, (corrected_step, *shares, root_correction, float(self.epsilon)))


@final
@dataclass(frozen=True)
class Adam(_WithMoments):
    """m <- beta_1 m + (1 - beta_1) g; s <- beta_2 s + (1 - beta_2) g²; θ <- θ - η m̂ / (√ŝ + epsilon), m̂ = m / (1 - beta_1^t),
    ŝ = s / (1 - beta_2^t): D. Kingma and J. Ba, Adam, ICLR 2015, algorithm 1.

    epsilon is added to the corrected root, as in the algorithm and in PyTorch; scikit-learn adds it to √s (the paper's ε̂, end of section
    2), which is another number in the first updates.

    Raises ValueError for beta_1 or beta_2 outside [0, 1), an epsilon below 1e-37, and for a weight_decay as Optimizer does.
    """


@final
@dataclass(frozen=True)
class AdamW(_WithMoments):
    """Adam with a weight_decay of 0.01 unless told otherwise: Loshchilov and Hutter (2019), algorithm 2, with PyTorch's default.

    Raises ValueError as Adam does.
    """

    weight_decay: float = field(default=1e-2, kw_only=True)


OPTIMIZERS: Final[dict[str, type[Optimizer]]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "adagrad": Adagrad,
    "rmsprop": RMSProp,
    "adam": Adam,
    "adamw": AdamW,
}


def clip_by_norm(gradient: Array, max_norm: float) -> Array:
    """gradient (n,) scaled to the Euclidean norm max_norm, or the gradient itself where its norm is not larger, or not finite: R. Pascanu,
    T. Mikolov and Y. Bengio, On the difficulty of training recurrent neural networks, ICML 2013, algorithm 1.

    The norm is accumulated in float64, in an order that depends on n alone. Raises ValueError for a max_norm that is not positive, and
    TypeError or ValueError for a gradient that is no vector of float32 or float64.
    """
    if not as_number(max_norm) > 0:
        raise ValueError(f"max_norm must be a positive number, got {max_norm!r}")
    norm = updates.norm(_as_vector(gradient, "gradient"))
    if norm <= max_norm or not np.isfinite(norm):
        return gradient
    return np.asarray(gradient * gradient.dtype.type(max_norm / norm))


def average(mean: Array, parameters: Array, count: int) -> Array:
    """mean + (parameters - mean) / count: the mean (n,) of `count` parameters (n,), of which these are the last; B. Polyak and A. Juditsky,
    SIAM J. Control Optim. 30 (1992).

    Raises ValueError for a count below 1, TypeError or ValueError for arrays that do not fit each other.
    """
    check_counts(count=count)
    parameters = _as_vector(parameters)
    (new,) = updates.element_wise(updates.running_mean, (_like(parameters, mean, "mean"), parameters), 1, float(count))
    return np.asarray(new)


def _as_vector(values: Array, name: str = "parameters") -> Array:
    """values, contiguous and aligned."""
    if values.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"{name} must be float32 or float64, got {values.dtype}; convert with .astype")
    if values.ndim != 1:
        raise ValueError(f"{name} must be one flat vector, got shape {values.shape}; flatten with .ravel()")
    return np.require(values, requirements=("C", "A"))


def _like(parameters: Array, values: Array, name: str) -> Array:
    """values, contiguous and aligned."""
    if values.shape != parameters.shape or values.dtype != parameters.dtype:
        needs = f"{parameters.shape} {parameters.dtype} as the parameters"
        raise ValueError(f"{name} must be {needs}, got {values.shape} {values.dtype}")
    return np.require(values, requirements=("C", "A"))


def _check_amounts(**amounts: Any) -> None:
    for name, value in amounts.items():
        if not 0 <= as_number(value) < np.inf:
            raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")


def _check_shares(**shares: Any) -> None:
    for name, value in shares.items():
        if not 0 <= as_number(value) < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {value!r}")


def _check_epsilon(epsilon: Any) -> None:
    """0, also what float32 rounds to 0, would divide 0 by 0 wherever a gradient has been 0 so far."""
    if not 1e-37 <= as_number(epsilon) < np.inf:
        raise ValueError(f"epsilon must be a finite number of at least 1e-37, got {epsilon!r}")
