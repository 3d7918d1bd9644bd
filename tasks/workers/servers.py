"""A parameter server: the strategy on one slice of a fit's vectors.

It is the pump of `pipeline.execution` on a slice: it holds the strategy's state, cut to its slice (`tasks.workers.slices`), and asks, takes
and moves by the same pure functions. Optimizers, and the penalty's gradient and prox, are element by element, so that the slices together
have the bits of the whole. What goes to and fro is for whoever has it (`tasks.workers.serving`). M. Li et al., *Scaling distributed machine
learning with the parameter server*, OSDI 2014, with slices that are states in the place of keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import nan
from typing import Any

import numpy as np

from tasks.objectives.evaluation import Evaluation, quotient
from tasks.objectives.penalties import L2, ElasticNet
from tasks.rounds.fitting import Fit, gradient_norm
from tasks.strategies.asynchronous import Asynchronous, AsynchronousState
from tasks.strategies.compressed import Compressed, CompressedState
from tasks.typing import Array
from tasks.workers.said import Pull, Push, Want
from tasks.workers.slices import Cut, cut_penalty


class Server:
    """One slice. state: of the strategy, cut; pushed: gradients that are here, by the number of their round; gradient_norms: the largest
    |gradient| in the slice after each update since somebody has asked."""

    def __init__(self, fit: Fit, cut: Cut, rank: int, generation: int, state: AsynchronousState | CompressedState) -> None:
        strategy = fit.strategy
        assert isinstance(strategy, Asynchronous | Compressed)
        self.strategy = strategy.on_slice(cut.begin) if isinstance(strategy, Compressed) else strategy
        self.coding = fit.coding
        self.rank = rank
        self.generation = generation
        self.state = state
        self.n_coef = min(max(fit.objective.layout.n_coef - cut.begin, 0), cut.size)
        self.n_free = cut.size - self.n_coef
        (penalty,) = fit.penalties
        assert isinstance(penalty, L2 | ElasticNet)
        self.penalty = cut_penalty(penalty, Cut(cut.begin, cut.begin + self.n_coef))
        self.pushed: dict[int, Push] = {}
        self.gradient_norms: list[float] = []
        self._wanted: dict[int, Want] = {}  # by subtree
        self._sent: dict[int, Want] = {}  # by the number of the round that is under way

    @property
    def goes_on(self) -> bool:
        """Whether there is a round for workers: those about all rows are for the client."""
        return bool(self.state.asked) and self.state.asked[0].subtree is not None

    def want(self, want: Want) -> None:
        """Rows are ready for a round."""
        self._wanted[want.subtree] = want

    def pulls(self) -> Iterator[tuple[int, Pull]]:
        """What there is to send for rounds that the state asks for, and whose rows are ready, once for each, beside the rank of who has
        them."""
        for asked in self.state.asked:
            if asked.number in self._sent or asked.subtree is None or asked.subtree not in self._wanted:
                continue
            want, request, penalties = self._wanted[asked.subtree], asked.request, list[float]()
            self._sent[asked.number] = want
            if request.packet is not None:
                request = request._replace(parameters=request.parameters[:0])
            if want.positions is not None:
                del self._wanted[asked.subtree]
                penalties = self.penalty.values(request.parameters[: self.n_coef])
                request = request._replace(parameters=request.parameters[want.positions])
            yield want.rank, Pull(self.generation, self.rank, asked.number, request, penalties)

    def take(self, number: int) -> None:
        """Move the slice by the gradient of a round that is here. Raises ArithmeticError where it is no finite number any more: other
        slices do not know, and the client's next round says how the fit ends."""
        push, want = self.pushed.pop(number), self._sent.pop(number)
        gradient = self._gradient(number, want.positions, push)
        evaluation = Evaluation(push.value, gradient, None, self.n_free, push.weight, penalty=self.penalty)
        state: Any = self.state
        self.state = self.strategy.take(state, number, evaluation)
        if self.state.status.kind == "diverged":
            raise ArithmeticError(self.state.status.reason)
        self.gradient_norms.append(gradient_norm([self.state]))

    def _gradient(self, number: int, positions: Array | None, push: Push) -> Array:
        """The gradient of the slice. That of the loss alone comes where rows touch few parameters, which are at these positions, and where
        it is coded; the penalty's is added then, at the parameters of the round."""
        (request,) = (asked.request for asked in self.state.asked if asked.number == number)
        parameters = request.parameters
        if positions is not None:
            (values,) = push.gradient
            gradient = np.zeros_like(parameters)
            gradient[positions] = values
        elif request.packet is not None:
            assert self.coding is not None
            gradient = quotient(self.coding.up.decode(push.gradient, self.coding.shapes, parameters), push.weight or nan)
        else:
            (gradient,) = push.gradient
            return gradient
        gradient[: self.n_coef] += self.penalty.gradient(parameters[: self.n_coef])
        return gradient
