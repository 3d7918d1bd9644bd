"""Which strategy a `solver=` means, and which one "auto" picks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from tasks.objectives.losses import Loss
from tasks.strategies.admm import ADMM
from tasks.strategies.base import Strategy, Subtrees
from tasks.strategies.gradient_descent import GradientDescent
from tasks.strategies.lbfgs import LBFGS
from tasks.strategies.newton import Newton
from tasks.strategies.newton_cg import NewtonCG
from tasks.strategies.quadratic_newton import QuadraticNewton
from tasks.strategies.sampled_lbfgs import SampledLBFGS
from tasks.strategies.sampled_newton import SampledNewton
from tasks.typing import Float64

# A Hessian of more parameters than this, or of more multiplications over all rows, costs more than the rounds it saves.
MAX_HESSIAN: Final = 2000
MAX_LEAST_SQUARES_HESSIAN: Final = 3500  # one Hessian is all that least squares needs
MAX_BLOCK_NUMBERS: Final = MAX_LEAST_SQUARES_HESSIAN**2  # of all outputs' own Hessians together: 100 MB, several times over in a round
MAX_HESSIAN_WORK: Final = 2e8
SAMPLE_ROWS_PER_PARAMETER: Final = 50
MOST_ROW_STEP: Final = 20
FEW_OUTPUTS: Final = 3  # of more, the parts of a Hessian where two of them meet cost more than they are worth
LEAST_ROW_STEP: Final = 4  # the sample is a copy: not of more than a quarter of the rows


class Choice(NamedTuple):
    """The strategy that a fit used, by name, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


@dataclass(frozen=True)
class Problem:
    """What decides: the loss, parameters of one Hessian (of one model, or of one of its outputs where all have the same) and the outputs
    that these are of, rows, and the subtrees of groups that may go their own ways."""

    loss: Loss
    n_parameters: int
    n_outputs: int
    n_rows: int
    subtrees: Subtrees

    @property
    def of_an_output(self) -> int:
        """The parameters of one output."""
        return self.n_parameters // self.n_outputs


class Precision(NamedTuple):
    """How near a fit has to come.

    gradient  the tolerance about gradients by standardised columns
    gain      that about Newton's step where it solves the objective: the root of twice what it may still lower the mean loss by
    shares    (n,) of `gradient`, for each parameter; None: all of it
    rounding  (p,) see `QuadraticNewton`
    """

    gradient: float
    gain: float
    shares: Float64 | None
    rounding: Float64


SOLVERS: Final = ("auto", "gradient-descent", "nesterov", "lbfgs", "newton", "newton-cg", "sampled-newton", "sampled-lbfgs", "admm")
OF_MINI_BATCHES: Final = ("async", "parameter-server", "local-sgd")
SCIKIT_LEARN_NAMES: Final = {"newton-cholesky": "newton", "cholesky": "newton", "svd": "newton"}


def choose(solver: str | Any, problem: Problem, precision: Precision, max_iter: int | None) -> tuple[Strategy, Choice]:
    """The strategy for `solver`: a name, a scikit-learn name of the same method, or a strategy itself.

    Raises ValueError for a name that means nothing here.
    """
    if not isinstance(solver, str):
        if not isinstance(solver, Strategy):
            raise TypeError(f"solver must be a name or a strategy (oracles, takes_kinks, init, request, update), got {solver!r}")
        return solver, Choice(type(solver).__name__, "given as a strategy")
    name, reason = resolved(solver, problem)
    return make(name, problem, precision, max_iter), Choice(name, reason)


def takes_common_units(solver: str | Any, problem: Problem) -> bool:
    """Whether `solver` means conjugate gradients, which from zero find the solution of least norm in the units that they see."""
    return isinstance(solver, NewtonCG) if not isinstance(solver, str) else resolved(solver, problem)[0] == "newton-cg"


def resolved(solver: str, problem: Problem) -> tuple[str, str]:
    """The name of the strategy that a name means here, and why. Raises ValueError for one that means nothing."""
    name = SCIKIT_LEARN_NAMES.get(solver, solver)
    reason = "asked for" if name == solver else f"asked for as {solver}"
    if name == "auto":
        name, reason = automatic(problem)
    elif name == "newton" and problem.n_parameters > MAX_LEAST_SQUARES_HESSIAN:
        name, reason = "newton-cg", f"newton with {problem.n_parameters} parameters: Hessian-vector products instead of a Hessian"
    if name == "admm" and problem.n_parameters > MAX_HESSIAN:
        raise ValueError(f"solver='admm' solves a system of {problem.n_parameters} parameters in each subtree; use 'lbfgs' or 'newton-cg'")
    if name in OF_MINI_BATCHES:
        raise ValueError(
            f"solver={solver!r} is of mini-batches; use SGDClassifier(loss='log_loss', solver={solver!r}), or SGDRegressor for numbers;"
            " their penalty is alpha"
        )
    if name not in SOLVERS:
        known = ", ".join(map(repr, [*SOLVERS, *SCIKIT_LEARN_NAMES]))
        raise ValueError(f"solver={solver!r} is not available; use one of {known}, or pass a strategy")
    return name, reason


def automatic(problem: Problem) -> tuple[str, str]:
    """The fewest passes over the rows for the money."""
    n, rows = problem.n_parameters, problem.n_rows
    if problem.loss.constant_curvature:
        if n <= MAX_LEAST_SQUARES_HESSIAN:
            return "newton", f"{problem.loss.name} loss and {n} parameters: one Hessian solves it"
        return "newton-cg", f"{problem.loss.name} loss and {n} parameters: conjugate gradients"
    enough = LEAST_ROW_STEP * SAMPLE_ROWS_PER_PARAMETER
    if problem.n_outputs <= FEW_OUTPUTS and rows >= enough * n and n <= MAX_HESSIAN // 2:
        return "sampled-newton", f"{rows} rows are many for {n} parameters: a sample's Hessian leaves few full passes"
    if n <= MAX_HESSIAN // 2 and rows * n * n <= MAX_HESSIAN_WORK:
        return "newton", f"{rows} rows and {n} parameters: a Hessian is cheap and saves rounds"
    q = problem.of_an_output
    small = q <= MAX_HESSIAN // 2 and problem.n_outputs * q * q <= MAX_BLOCK_NUMBERS
    if problem.n_outputs > 1 and rows >= enough * q and small:
        return "sampled-lbfgs", f"{rows} rows are many for {q} parameters an output: Hessians of a sample leave few full passes"
    return "lbfgs", f"{n} parameters, {rows} rows: gradients alone"


def make(name: str, problem: Problem, precision: Precision, max_iter: int | None) -> Strategy:
    """The strategy of that name, set up for the problem."""
    tol = precision.gradient
    if name == "gradient-descent":
        return GradientDescent(tol=tol, max_iter=max_iter or 1000)
    if name == "nesterov":
        return GradientDescent(nesterov=True, tol=tol, max_iter=max_iter or 1000)
    if name == "lbfgs":
        return LBFGS(tol=tol, max_iter=max_iter or 1000)
    if name == "newton-cg":
        return NewtonCG(tol=tol, max_iter=max_iter or 100, shares=precision.shares)
    if name == "sampled-newton":
        row_step, sample_rows = sample_of(problem.n_rows, problem.n_parameters)
        return SampledNewton(tol=tol, max_iter=max_iter or 100, row_step=row_step, sample_tol=0.5 * problem.n_parameters / sample_rows)
    if name == "sampled-lbfgs":
        row_step, sample_rows = sample_of(problem.n_rows, problem.of_an_output)
        sample_tol = max(tol, 0.3 / sample_rows**0.5)  # about what the gradient of that many rows differs by from that of all
        return SampledLBFGS(tol, max_iter or 1000, row_step, sample_tol, coupled=problem.loss.coupled)
    if name == "admm":
        return ADMM(problem.subtrees, tol=tol, max_iter=max_iter or 1000)
    assert name == "newton", f"{name} is in SOLVERS and has no strategy here"
    if problem.loss.constant_curvature:
        return QuadraticNewton(tol=precision.gain, max_iter=max_iter or 100, rounding=precision.rounding)
    return Newton(tol=tol, max_iter=max_iter or 100)


def sample_of(n_rows: int, n_parameters: int) -> tuple[int, int]:
    """The step from row to row of a sample that is large for so many parameters, and its size; all rows where they are not many times
    as many."""
    row_step = min(MOST_ROW_STEP, n_rows // (SAMPLE_ROWS_PER_PARAMETER * n_parameters))
    row_step = row_step if row_step >= LEAST_ROW_STEP else 1
    return row_step, max(1, n_rows // row_step)
