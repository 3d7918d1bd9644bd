"""Where a strategy stands that begins on a sample of the rows and ends on all of them."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from tasks.strategies.base import RUNNING, Iterate, Status
from tasks.strategies.lbfgs import LBFGSState
from tasks.strategies.newton import NewtonState
from tasks.typing import Float64

OnSample = TypeVar("OnSample", NewtonState, LBFGSState)


class SampledState(NamedTuple, Generic[OnSample]):
    """sample: the state on the sample; full: the state on all rows, None while still on the sample."""

    start: Float64
    sample: OnSample
    full: LBFGSState | None

    @property
    def iterate(self) -> Iterate:
        """The sample's point, with its value on the sample, until the first evaluation on all rows."""
        return self.sample.iterate if self.full is None or self.full.unevaluated else self.full.iterate

    @property
    def iteration(self) -> int:
        return self.sample.iteration + (0 if self.full is None else self.full.iteration)

    @property
    def status(self) -> Status:
        return RUNNING if self.full is None else self.full.status
