"""A. Douillard et al., *DiLoCo: distributed low-communication training of language models*, 2023: mean moves as outer gradients.

Not as there, step sizes stay as they are, and the network is a small one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.benchmarks.data import Clusters
from pipeline.benchmarks.report import Report, Table, Target
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset
from pipeline.execution.threads import ThreadExecutor
from pipeline.training.loop import train
from pipeline.training.sampling import Batches, batches_of
from tasks.objectives.losses import MultinomialLoss
from tasks.objectives.networks import NetworkObjective
from tasks.objectives.penalties import L2
from tasks.rounds.fitting import Fit
from tasks.strategies.base import Strategy
from tasks.strategies.local_sgd import LocalSGD, LocalUpdates
from tasks.strategies.optimizers import AdamW, Nesterov
from tasks.strategies.schedules import Constant
from tasks.strategies.stochastic_gradient import StochasticGradient
from tasks.typing import Array, Float64, Int64

PAPER: Final = "DiLoCo 2023"
WORKERS: Final = 8
BATCH: Final = 16
"""Rows of an update of each worker; of all together in a synchronous one."""
TRAIN_ROWS: Final = 16_384
EPOCHS: Final = 4
STEPS: Final = (0.003, 0.01)
"""Step sizes of AdamW. The targets are about the first one, though synchronous updates like the other better; the last target has both."""
COUNTS: Final = (16, 64)
AS_GOOD: Final = 1.05


@dataclass(frozen=True, eq=False)
class Contest:
    """What all train on, and are judged by: the rows that the first `TRAIN_ROWS` of X and y leave."""

    X: Array
    y: Int64
    objective: NetworkObjective

    def rows(self, n_workers: int = WORKERS) -> Dataset:
        """The rows of so many workers."""
        n_rows = n_workers * TRAIN_ROWS // WORKERS
        return Dataset.from_arrays(self.X[:n_rows], self.y[:n_rows], n_partitions=n_workers)

    def ended(self, data: Dataset, strategy: Strategy) -> tuple[int, Array]:
        """The rounds of a fit, and its parameters."""
        fit = Fit(self.objective, (L2(0.0),), strategy)
        result = train(ThreadExecutor(), data, fit, fit.init(self.objective.start(0)[None]))
        return len(result.history), result.parameters[0]

    def loss(self, parameters: Array) -> float:
        """The mean cross-entropy of the rows that nobody trains on, by NumPy."""
        raw: Float64 = self.objective.predict(parameters, self.X[TRAIN_ROWS:]).astype(np.float64)
        raw -= raw.max(axis=1, keepdims=True)
        own = raw[np.arange(len(raw)), self.y[TRAIN_ROWS:]]
        return float(np.mean(np.log(np.exp(raw).sum(axis=1)) - own))


def plain(batches: Batches, step: float) -> StochasticGradient:
    """AdamW without decay of weights, for all epochs."""
    return StochasticGradient(batches.sampling, AdamW(weight_decay=0.0), Constant(step), max_epochs=EPOCHS, tol=-np.inf)


def ways(contest: Contest, step: float, counts: Sequence[int]) -> dict[str, tuple[Dataset, Strategy]]:
    """All ways, with as many updates each."""
    data, alone = contest.rows(), contest.rows(1)
    together = batches_of(data.schema, data.source.n_groups, BATCH * WORKERS)
    apart = batches_of(data.schema, data.source.n_groups, BATCH, take_turns=True).apart
    assert apart.n_apart == WORKERS, "each partition updates by itself"
    local = plain(apart, step)
    diloco = {f"DiLoCo, H = {n}": LocalUpdates(n, outer=Nesterov(0.9), outer_step=0.7) for n in counts}
    return {
        "one worker by itself": (alone, plain(batches_of(alone.schema, alone.source.n_groups, BATCH), step)),
        "synchronous": (data, plain(together, step)),
        **{f"plain mean, H = {n}": (data, LocalSGD.of(local, LocalUpdates(n))) for n in counts},
        **{name: (data, LocalSGD.of(local, updates)) for name, updates in diloco.items()},
    }


def outer_steps(report: Report, settings: Settings) -> None:
    """Train in all ways, and compare the losses of rows that nobody trains on."""
    problem = Clusters(n_rows=TRAIN_ROWS + 2_000, n_columns=32, n_dimensions=8)
    objective = NetworkObjective(MultinomialLoss(), (problem.n_columns, 32, problem.n_classes), classes=np.arange(problem.n_classes))
    contest = Contest(*problem.arrays(), objective)
    found: dict[tuple[str, float], tuple[int, float]] = {}
    for step in STEPS[:1] if settings.quick else STEPS:
        for name, (data, strategy) in ways(contest, step, COUNTS[:1] if settings.quick else COUNTS).items():
            n_rounds, parameters = contest.ended(data, strategy)
            found[name, step] = n_rounds, contest.loss(parameters)
    rows = [(*key, n_rounds, loss, loss / found["synchronous", key[1]][1]) for key, (n_rounds, loss) in found.items()]
    columns = ("way", "step size", "rounds", "loss of rows not trained on", "over the synchronous one")
    report.tables.append(Table(f"{PAPER}: a network of {objective.layout.size:,} parameters, {WORKERS} workers", columns, rows))
    report.targets += targets(found)


def targets(found: dict[tuple[str, float], tuple[int, float]]) -> list[Target]:
    """What the paper says: at one step size for all; and where each way has its best one."""

    def over(way: str) -> float:
        return found["DiLoCo, H = 16", STEPS[0]][1] / found[way, STEPS[0]][1]

    def best(way: str) -> float:
        return min(loss for (name, _), (_, loss) in found.items() if name == way)

    rounds = found["DiLoCo, H = 16", STEPS[0]][0] / found["synchronous", STEPS[0]][0]
    promises = [
        Target(
            f"{PAPER}, table 2: outer Nesterov, H = 16: its loss over the synchronous one, step {STEPS[0]:g}",
            "at most",
            AS_GOOD,
            over("synchronous"),
        ),
        Target(f"{PAPER}, table 2: its rounds over the synchronous ones", "at most", 1 / 16, rounds),
        Target(
            f"{PAPER}, figure 2: its loss over that of one worker by itself, step {STEPS[0]:g}",
            "at most",
            1.0,
            over("one worker by itself"),
        ),
        Target(f"{PAPER}, figure 6: its loss over that by plain means, step {STEPS[0]:g}", "at most", 1.0, over("plain mean, H = 16")),
    ]
    if len({step for _, step in found}) > 1:
        tuned = best("DiLoCo, H = 16") / best("synchronous")
        promises.append(Target(f"{PAPER}: its loss over the synchronous one, each at its best step", "at most", AS_GOOD, tuned))
    return promises
