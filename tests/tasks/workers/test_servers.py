"""Slices served without processes: sent once, moved as the whole is, by whole gradients and by those of sparse rows."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LOSSES
from tasks.objectives.penalties import L2, ElasticNet
from tasks.reductions import blocks
from tasks.reductions.reduction import reduce_groups
from tasks.rounds.fitting import Fit
from tasks.rows.batches import TRAINING, Batch, Sampling
from tasks.rows.partition import Block, Group, make_group
from tasks.strategies.asynchronous import Asynchronous, Overlap
from tasks.strategies.optimizers import Momentum
from tasks.strategies.schedules import Constant
from tasks.strategies.stochastic_gradient import StochasticGradient
from tasks.workers.evaluating import evaluate_all
from tasks.workers.messages import Wire, packed, unpacked
from tasks.workers.said import Push, Want
from tasks.workers.servers import Server
from tasks.workers.slices import cut_state, cuts, join_states
from tasks.workers.touched import draw, evaluate_touched, is_sparse

N_COLUMNS = 80_000
N_GROUPS = 3
RANDOM = np.random.default_rng(3)


def groups_of(n_classes: int) -> list[Group]:
    made = []
    for number in range(N_GROUPS):
        X = sp.csr_array(sp.random(40, N_COLUMNS, 0.0005, format="csr", random_state=RANDOM, data_rvs=RANDOM.standard_normal))
        made.append(make_group([Block(X, RANDOM.integers(0, n_classes, 40))], number))
    return made


def fit_of(loss: str, n_classes: int, penalty: Any) -> Fit:
    objective = LinearObjective(LOSSES[loss], N_COLUMNS, 1 if n_classes == 2 else n_classes, True, np.arange(n_classes))
    one = StochasticGradient(Sampling(1, 4, n_turns=N_GROUPS), Momentum(0.5), Constant(0.5), max_epochs=2, tol=-np.inf)
    return Fit(objective, (penalty,), Asynchronous(one, Overlap(2, served=True)))


def started(fit: Fit, groups: list[Group]) -> Any:
    """The state after the pass over all rows, from parameters that are not zero."""
    state = fit.init(RANDOM.normal(size=(1, fit.objective.layout.size)))[0]
    this = fit.ask([state], state.asked[0].number)
    assert this is not None and this.broadcast.batch is not None and this.broadcast.batch.number == TRAINING
    nodes = reduce_groups(list(enumerate(groups)), N_GROUPS, this.reduction, this.broadcast)
    return fit.update([state], this, this.reduction.whole(nodes, N_GROUPS, this.broadcast))[0]


@pytest.mark.parametrize(("loss", "n_classes"), [("logistic", 2), ("multinomial", 3)])
@pytest.mark.parametrize("penalty", [L2(0.02), ElasticNet(0.01, np.linspace(0.0, 0.1, 3 * N_COLUMNS))])
def test_slices_of_sparse_rows_move_as_the_whole_does(loss: str, n_classes: int, penalty: Any) -> None:
    groups = groups_of(n_classes)
    if isinstance(penalty, ElasticNet) and n_classes == 2:
        penalty = ElasticNet(0.01, np.linspace(0.0, 0.1, N_COLUMNS))
    fit = fit_of(loss, n_classes, penalty)
    state = started(fit, groups)
    slices = cuts(fit.objective.layout.size, 3)
    assert len(slices) == 3 and is_sparse(fit, groups)
    servers = [Server(fit, cut, rank, 1, cut_state(state, cut)) for rank, cut in enumerate(slices)]
    strategy: Any = fit.strategy
    for _ in range(14):
        asked = state.asked[0]
        assert asked.subtree is not None
        rows = [(asked.subtree, groups[asked.subtree])]
        whole = evaluate_all(fit, rows, N_GROUPS, asked.number, asked.request).evaluation
        touched = draw(fit.objective, [groups[asked.subtree]], asked.request.batch)  # type: ignore[arg-type]
        parts = np.split(touched.positions, np.searchsorted(touched.positions, [cut.begin for cut in slices[1:]]))
        pulls = []
        for server, cut, positions in zip(servers, slices, parts, strict=True):
            assert not list(server.pulls())
            server.want(Want(1, 7, asked.subtree, positions - cut.begin))
            (pull,) = list(server.pulls())
            assert pull[0] == 7 and not list(server.pulls())
            pulls.append(pull[1])
        request = join_states([pull.request for pull in pulls])
        np.testing.assert_array_equal(request.parameters, asked.request.parameters[touched.positions])
        penalties = [value for pull in pulls for value in pull.penalties]
        found = evaluate_touched(touched, asked.number, request, penalties).evaluation
        assert found.value == whole.value and found.weight == whole.weight
        gradients = np.split(found.gradient, np.cumsum([len(each) for each in parts])[:-1])
        for server, gradient in zip(servers, gradients, strict=True):
            server.pushed[asked.number] = Push(1, asked.number, found.value, found.weight, (gradient,), None)
            server.take(asked.number)
        state = strategy.take(state, asked.number, whole)
        joined = join_states([server.state for server in servers])
        assert joined.inner.parameters.tobytes() == state.inner.parameters.tobytes()
        assert joined.inner.iterate.gradient.tobytes() == state.inner.iterate.gradient.tobytes()
        assert joined.inner.epoch == state.inner.epoch


@pytest.mark.parametrize("penalty", [L2(0.3), ElasticNet(0.1, 0.2), ElasticNet(np.linspace(0, 1, 80_000), 0.1)])
def test_penalties_are_sums_over_blocks(penalty: Any) -> None:
    coef = RANDOM.normal(size=80_000)
    values = penalty.values(coef)
    assert len(values) == 3
    assert penalty.value(coef) == (values[0] + values[1]) + values[2]
    l1, l2 = (0.0, penalty.strength) if isinstance(penalty, L2) else (penalty.l1, penalty.l2)
    np.testing.assert_allclose(penalty.value(coef), np.sum(l1 * np.abs(coef)) + 0.5 * np.sum(l2 * coef**2), rtol=1e-13)
    assert blocks.BLOCK == 32768


def test_batches_follow_one_another() -> None:
    batch = Batch(Sampling(0, 3, n_turns=2), 4, 1, 1)
    assert [(each.epoch, each.number, each.subtree) for each in (batch, batch.following, batch.following.following)] == [
        (4, 1, 1),
        (4, 2, 1),
        (5, 0, 1),
    ]


@pytest.mark.timeout(20)
def test_messages_may_be_sent_before_others_are_read() -> None:
    """Short ones that come at once, and long ones, of which one read has the end and the beginning of the next."""
    near, far = socket.socketpair()
    stream: Callable[[socket.socket], Any] = lambda end: type("", (), {"sendall": end.sendall, "recv_into": end.recv_into})()  # noqa: E731
    sender, receiver = Wire(stream(near)), Wire(stream(far))
    sent = [1, "two", np.arange(3.0), np.arange(9000.0), list(range(100)), np.arange(8500), None]
    for each in sent[:3]:
        sender.send(packed(each))
    received = [unpacked(receiver.receive()) for _ in sent[:3]]
    for each in sent[3:]:
        sender.send(packed(each))
        sender.send(packed("between"))
    for _ in sent[3:]:
        received.append(unpacked(receiver.receive()))
        assert unpacked(receiver.receive()) == "between"
    for one, other in zip(sent, received, strict=True):
        np.testing.assert_equal(other, one)
    assert sender.sent == receiver.received > 8 * 17_500
    near.close()
    far.close()
