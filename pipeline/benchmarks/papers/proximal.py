"""T. Li et al., *Federated optimization in heterogeneous networks* (FedProx), MLSys 2020: a proximal term where devices have unlike rows.

Rows are made as the paper's Synthetic(a, b), section 5.1: a and b say how unlike the devices' models and columns are. Not as there, all
devices take part in every round, they have equally many rows of fewer columns and two classes, and there is a ridge penalty, so that
there is one optimum to be off from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.benchmarks.objective import Judge
from pipeline.benchmarks.papers.watched import values_by_round
from pipeline.benchmarks.report import Report, Table, Target
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset
from pipeline.training.sampling import batches_of
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss
from tasks.objectives.penalties import L2
from tasks.strategies.local_sgd import LocalSGD, LocalUpdates
from tasks.strategies.schedules import Constant
from tasks.strategies.stochastic_gradient import StochasticGradient
from tasks.typing import Float64, Int64

PAPER: Final = "FedProx 2020, figure 2"
DEVICES: Final = 8
ROWS: Final = 200
"""Of each device."""
BATCH: Final = 100
COLUMNS: Final = 10
RIDGE: Final = 0.01
STEP: Final = 0.2
ROUNDS: Final = 50
MANY: Final = 20
"""Local epochs between two means, as in the paper."""
STRENGTHS: Final = (0.0, 1.0)


@dataclass(frozen=True)
class Devices:
    """Rows of devices. unlike: a and b of Synthetic(a, b); None: all rows are of one model and one distribution."""

    unlike: tuple[float, float] | None
    seed: int = 0

    @property
    def name(self) -> str:
        return "Synthetic-IID" if self.unlike is None else f"Synthetic{self.unlike}"

    def arrays(self) -> tuple[Float64, Int64]:
        """X (rows, p) and y (rows,) in {0, 1}, device by device: y = argmax(x W + b), W ~ N(u, 1), b ~ N(u, 1), u ~ N(0, a); x ~ N(v, S)
        with S_jj = j^-1.2, v ~ N(B, 1), B ~ N(0, b)."""
        random = np.random.default_rng(self.seed)
        spread = np.arange(1, COLUMNS + 1) ** -0.6
        common = random.standard_normal((COLUMNS + 1, 2))
        rows, labels = [], []
        for _ in range(DEVICES):
            model, middle = common, np.zeros(COLUMNS)
            if self.unlike is not None:
                of_model, of_columns = np.sqrt(self.unlike) * random.standard_normal(2)
                model = of_model + random.standard_normal((COLUMNS + 1, 2))
                middle = of_columns + random.standard_normal(COLUMNS)
            x = middle + spread * random.standard_normal((ROWS, COLUMNS))
            rows.append(x)
            labels.append(np.argmax(x @ model[:-1] + model[-1], axis=1))
        return np.concatenate(rows), np.concatenate(labels)


def proximal(report: Report, settings: Settings) -> None:
    """Measure how far off the optimum the means of all devices are, with and without a proximal term."""
    found: dict[tuple[str, int, float], float] = {}
    for unlike in (None, (1, 1)) if settings.quick else (None, (0, 0), (1, 1)):
        devices = Devices(unlike)
        for n_epochs, strength in [(1, 0.0), *((MANY, strength) for strength in STRENGTHS)]:
            found[devices.name, n_epochs, strength] = gap(devices, n_epochs, strength)
    columns = ("rows", "local epochs", "strength (mu)", f"gap after {ROUNDS} rounds")
    report.tables.append(
        Table(f"{PAPER}: logistic regression, {DEVICES} devices", columns, [(*key, value) for key, value in found.items()])
    )
    most, alike = Devices((1, 1)).name, Devices(None).name
    report.targets += [
        Target(f"{PAPER}: {most}, {MANY} local epochs: the gap with mu = 1 over that without", "at most", 0.7, ratio(found, most)),
        Target(f"{PAPER}: {alike}, likewise: nothing to gain", "at least", 1.0, ratio(found, alike)),
        Target(
            f"{PAPER}: {most}, mu = 0: the gap of {MANY} local epochs over that of one",
            "at least",
            1.2,
            found[most, MANY, 0.0] / found[most, 1, 0.0],
        ),
    ]


def ratio(found: dict[tuple[str, int, float], float], name: str) -> float:
    """The gap with the proximal term over that without."""
    return found[name, MANY, 1.0] / found[name, MANY, 0.0]


def gap(devices: Devices, n_epochs: int, strength: float) -> float:
    """The gap of the objective of all rows over the smallest, relative, after all rounds of so many local epochs."""
    X, y = devices.arrays()
    judge = Judge.of_rows(X, y, 1 / (RIDGE * len(y)))
    data = Dataset.from_arrays(X, y, n_partitions=DEVICES)
    batches = batches_of(data.schema, data.source.n_groups, BATCH, take_turns=True).apart
    assert batches.n_apart == DEVICES, "each partition updates by itself"
    plain = StochasticGradient(batches.sampling, schedule=Constant(STEP), max_epochs=ROUNDS * n_epochs, tol=-np.inf)
    strategy = LocalSGD.of(plain, LocalUpdates(n_epochs * batches.sampling.n_rounds, proximal=strength))
    objective = LinearObjective(LogisticLoss(), COLUMNS, 1, fit_intercept=True, classes=np.arange(2))
    start = np.zeros(objective.layout.size)
    return values_by_round(data, objective, L2(RIDGE), strategy, start, lambda x: judge.gap(x[None, :-1], x[-1:]))[-1]
