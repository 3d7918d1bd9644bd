"""S. P. Karimireddy et al., *SCAFFOLD: stochastic controlled averaging for federated learning*, ICML 2020: control variates against drift.

As there, two quadratics whose gradients differ by 2 G at the optimum, whole gradients, both devices in every round, and one step size for
all ways. Not as there, the second one is not linear but has a little curvature.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from pipeline.benchmarks.papers.watched import values_by_round
from pipeline.benchmarks.report import Report, Table, Target
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import SquaredLoss
from tasks.objectives.penalties import L2
from tasks.rows.batches import Sampling
from tasks.strategies.local_sgd import LocalSGD, LocalUpdates
from tasks.strategies.schedules import Constant
from tasks.strategies.stochastic_gradient import StochasticGradient
from tasks.typing import Array

PAPER: Final = "SCAFFOLD 2020, figure 3"
CURVATURES: Final = (2.0, 0.25)
"""Of the two quadratics, a: f(x) = ½ a x² ± G x. Their mean has its optimum, 0, at 0."""
UNLIKE: Final = (1.0, 10.0, 100.0)
"""G."""
STEP: Final = 0.1
ROUNDS: Final = 20
"""Few enough that gaps are far above what rounding leaves."""
START: Final = 1.0


class Way(NamedTuple):
    """A way to train: so many updates between two means, with control variates or without."""

    n_steps: int
    controlled: bool = False

    def __str__(self) -> str:
        return "SGD" if self.n_steps == 1 else f"{'SCAFFOLD' if self.controlled else 'means'}, {self.n_steps} updates a round"


WAYS: Final = (Way(1), Way(2), Way(10), Way(2, controlled=True), Way(10, controlled=True))


def drift(report: Report, settings: Settings) -> None:
    """Train two devices that want other parameters, by plain means and with control variates."""
    found = {(way, unlike): gap(way, unlike) for way in WAYS for unlike in UNLIKE}
    rows = [(str(way), unlike, value) for (way, unlike), value in found.items()]
    columns = ("way", "unlike (G)", f"gap after {ROUNDS} rounds")
    report.tables.append(Table(f"{PAPER}: two quadratics", columns, rows))
    worst = max(UNLIKE)
    plain, means, controlled = (found[way, worst] for way in (Way(1), Way(10), Way(10, controlled=True)))
    report.targets += [
        Target(f"{PAPER}, G = {worst:g}: the gap of means of 10 updates over that of SGD: worse", "at least", 10.0, means / plain),
        Target(f"{PAPER}, G = {worst:g}: the gap of SCAFFOLD with 10 updates over that of SGD: better", "at most", 0.1, controlled / plain),
    ]


def gap(way: Way, unlike: float) -> float:
    """The objective after all rounds, whose smallest value is 0, over what it was at the start."""
    roots = np.sqrt(CURVATURES)
    y = np.array([-unlike, unlike]) / roots  # ½ (√a x - y)² = ½ a x² - √a y x + ...
    data = Dataset.from_arrays(roots[:, None], y, n_partitions=2)
    objective = LinearObjective(SquaredLoss(), 1, 1, fit_intercept=False)
    plain = StochasticGradient(Sampling(0, 1), schedule=Constant(STEP), max_epochs=ROUNDS * way.n_steps, tol=-np.inf)
    strategy = LocalSGD.of(plain, LocalUpdates(way.n_steps, control_variates=way.controlled))

    def value(x: Array) -> float:
        return float((x[0] / START) ** 2)

    return values_by_round(data, objective, L2(0.0), strategy, np.array([START]), value)[-1]
