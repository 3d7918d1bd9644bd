"""Compressed fits against plain ones, against what no feedback does, and against sums of all that was sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline import Dataset, Minimum, mini_batches, minimise
from tasks.objectives.base import Layout, Sums
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LOSSES
from tasks.objectives.networks import NetworkObjective
from tasks.objectives.penalties import L2
from tasks.reductions.reduction import Reduction, reduce_groups
from tasks.reductions.stages.codecs import CODECS, EightBit, LowRank, RandomK, TopK
from tasks.reductions.stages.compression import Coding, Packet, compressed
from tasks.rounds.fitting import Fit
from tasks.rounds.oracles import Broadcast, reduction_of
from tasks.rows.partition import Group
from tasks.strategies.asynchronous import Asynchronous, Overlap
from tasks.strategies.compressed import COMPRESSIONS, Compressed, Compression
from tasks.strategies.local_sgd import LocalSGD, LocalUpdates
from tasks.strategies.optimizers import SGD, Momentum
from tasks.strategies.schedules import Constant, InverseScaling
from tasks.strategies.stochastic_gradient import StochasticGradient

RANDOM = np.random.default_rng(0)
N, P = 3000, 40
X = RANDOM.normal(size=(N, P))
Y = (X @ (RANDOM.normal(size=P) * (RANDOM.random(P) < 0.3)) + RANDOM.normal(size=N) > 0).astype(np.int64)
DATA = Dataset.from_arrays(X, Y, n_partitions=11)
LOGISTIC = LinearObjective(LOSSES["logistic"], P, 1, True, np.arange(2))
NETWORK = NetworkObjective(LOSSES["logistic"], (P, 8, 1), "tanh", np.arange(2))
MOMENTUM = Momentum(0.5)
WHOLE = TopK(1.0)
"""Loses nothing of float32."""


def fit(
    compression: Compression | None,
    *,
    objective: Any = LOGISTIC,
    solver: str = "sync",
    epochs: int = 10,
    schedule: Any = None,
    n_subtrees: int = 4,
    data: Dataset = DATA,
    optimizer: Any = MOMENTUM,
) -> Minimum:
    """A fit by one of three solvers, over at most so many subtrees."""
    sampling = mini_batches(data, 200, seed=1, take_turns=solver == "async", most_subtrees=n_subtrees)
    strategy: Any = StochasticGradient(sampling, optimizer, schedule or Constant(0.1), max_epochs=epochs, tol=-np.inf)
    if solver == "local":
        strategy = LocalSGD.of(strategy, LocalUpdates(3))
    if solver == "async":
        strategy = Asynchronous(strategy, Overlap(2))
    if compression is not None:
        strategy = Compressed(strategy, compression, objective.layout)
    start = objective.start(0) if objective is NETWORK else np.zeros(objective.layout.size)
    return minimise(objective, data, strategy, start, penalty=L2(1e-3))


def loss(found: Minimum) -> float:
    return float(np.mean([row["objective"] for row in found.history[-15:]]))


@pytest.mark.parametrize("solver", ["sync", "local", "async"])
def test_what_loses_nothing_changes_no_bit(solver: str) -> None:
    """Of a network in float32: subtrees return their whole gradients, and these add up as ever."""
    plain = fit(None, objective=NETWORK, solver=solver, epochs=3)
    assert fit(Compression(WHOLE), objective=NETWORK, solver=solver, epochs=3).parameters_sha256 == plain.parameters_sha256
    assert fit(Compression(TopK(0.5)), objective=NETWORK, solver=solver, epochs=3).parameters_sha256 != plain.parameters_sha256


@pytest.mark.parametrize("solver", ["sync", "local", "async"])
@pytest.mark.parametrize("name", [name for name in CODECS if name != "low-rank"])
def test_every_codec_reaches_the_loss_of_whole_gradients(name: str, solver: str) -> None:
    sparse = name in ("top-k", "random-k")
    compression = Compression(
        TopK(0.1) if name == "top-k" else RandomK(0.25) if sparse else CODECS[name], TopK(0.3) if sparse else CODECS[name]
    )
    schedule = InverseScaling(0.1, 0.5)
    plain, found = (loss(fit(how, solver=solver, epochs=20, schedule=schedule)) for how in (None, compression))
    assert found == pytest.approx(plain, rel=0.06 if sparse else 0.003)


def test_low_rank_trains_networks() -> None:
    compression = Compression(LowRank(2), LowRank(2))
    plain, found = (loss(fit(how, objective=NETWORK, epochs=20)) for how in (None, compression))
    assert found == pytest.approx(plain, rel=0.1)


def test_top_k_without_feedback_stays_behind() -> None:
    """S. Stich, J.-B. Cordonnier and M. Jaggi, *Sparsified SGD with memory*, figure 2: with memory as full gradients, without it not. A few
    columns have by far the largest gradients, and say little."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(N, P)) * np.repeat([2.0, 0.5], [4, P - 4])
    rows[:, :4] += 2 * random.normal(size=(N, 1))
    y = (rows[:, 4:] @ random.normal(size=P - 4) + random.normal(size=N) > 0).astype(np.int64)
    data = Dataset.from_arrays(rows, y, n_partitions=11)
    ways = None, Compression(TopK(0.02)), Compression(TopK(0.02), feedback=False)
    plain, fed, lossy = (loss(fit(how, data=data, epochs=30, schedule=InverseScaling(0.4, 0.3), optimizer=SGD())) for how in ways)
    assert fed < 1.03 * plain
    assert lossy > 1.5 * plain


def sums_of(groups: Any, broadcast: Any) -> Sums:
    """A gradient that the group and the round say."""
    (group,) = groups
    return Sums(np.ones(1), np.ones(1), np.sin(np.arange(50.0) * (1 + group.first_partition) + broadcast.parameters[0, 0])[None].copy())


def test_all_that_was_ever_sent_and_what_is_owed_are_all_gradients() -> None:
    plain = Reduction("test", sums_of, lambda a, b: Sums(*(x + y for x, y in zip(a[:3], b[:3], strict=True))), lambda b, n: 0)
    group = Group(np.zeros((1, 1)), None, None, np.array([0, 1]), 0)
    coding = Coding(TopK(0.1), EightBit(16), True, ((50,),), "float64", 0)
    place, sent, gradients = np.zeros(50), np.zeros(50), np.zeros(50)
    for version in range(30):
        if version:
            moved = np.random.default_rng(version).normal(size=50)
            payload = TopK(0.1).encode(moved, ((50,),), (0,), ())
            place = place + TopK(0.1).decode(payload, ((50,),), place)
        packet = Packet(version, payload if version else (place,), whole=not version)
        broadcast = Broadcast(None, "loss_and_gradient", np.zeros((1, 0)), None, 1, packet=packet, coding=coding, fit="fit")
        stage = compressed(coding, plain)
        found = stage.whole(reduce_groups([(0, group)], 1, stage, broadcast), 1, broadcast)
        sent += found.gradient_sum[0]
        gradients += sums_of([group], Broadcast(None, "", place[None], None, 1)).gradient_sum[0]
    at, owed, _ = group.memory["fit"][0].values
    np.testing.assert_array_equal(at, place)
    np.testing.assert_allclose(sent + owed, gradients, atol=1e-12)


def test_a_round_may_be_repeated() -> None:
    """Twice the same sums, and memory that has moved once."""
    group = Group(X[:50], Y[:50], None, np.array([0, 50]), 0)
    coding = Coding(None, TopK(0.1), True, ((P,), (1,)), "float64", 0)
    found = []
    for version in (0, 1, 1):
        packet = Packet(version, (np.full(P + 1, 0.1 * version),), whole=True)
        broadcast = Broadcast(LOGISTIC, "loss_and_gradient", np.zeros((1, 0)), None, 1, packet=packet, coding=coding, fit="fit")
        reduction = reduction_of(broadcast)
        found.append((reduction.whole(reduce_groups([(0, group)], 1, reduction, broadcast), 1, broadcast), group.memory["fit"]))
    np.testing.assert_array_equal(found[1][0].gradient_sum, found[2][0].gradient_sum)
    assert [memory.version for memory in found[2][1]] == [2, 1]
    np.testing.assert_array_equal(found[1][1][0].values[1], found[2][1][0].values[1])


def test_gradients_that_are_no_numbers_end_the_fit() -> None:
    found = minimise(
        LinearObjective(LOSSES["squared"], P, 1, True),
        Dataset.from_arrays(X, 1.0 * Y, n_partitions=4),
        Compressed(
            StochasticGradient(mini_batches(DATA, 200), schedule=Constant(1e200), tol=-np.inf),
            Compression(TopK(0.1)),
            Layout({"coef": (1, P)}, {"intercept": (1,)}),
        ),
        np.zeros(P + 1),
    )
    assert found.status.kind == "diverged"
    assert np.isfinite(found.parameters).all()


def test_nothing_is_left_behind() -> None:
    fit(COMPRESSIONS["top-k"], epochs=1)
    assert not any(group.memory for group in DATA.source.resident["threads"].all_groups)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Compression("top-k"), "up must be a codec"),
        (lambda: Compression(TopK(), "top-k"), "down must be a codec"),
        (lambda: Compression(TopK(), feedback=1), "feedback must be True or False"),
        (lambda: Compression(TopK(), n_subtrees=0), "n_subtrees must be an integer of at least 1"),
        (lambda: fit(Compression(LowRank(2))), r"LowRank\(rank=2\) makes none of the parameters' arrays smaller.*\(1, 40\).*'top-k'"),
        (lambda: Compressed(None, Compression(TopK()), LOGISTIC.layout), "strategy must be one by mini-batches"),
        (lambda: Compressed(StochasticGradient(mini_batches(DATA, 200)), None, LOGISTIC.layout), "compression must be a Compression"),
        (
            lambda: Compressed(StochasticGradient(mini_batches(DATA, 200), variance_reduction=True), Compression(TopK()), LOGISTIC.layout),
            "variance_reduction compares gradients of two places",
        ),
        (
            lambda: Fit(LOGISTIC, (L2(),), Compressed(StochasticGradient(mini_batches(DATA, 200)), Compression(TopK()), NETWORK.layout)),
            "is for parameters of another layout",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()
