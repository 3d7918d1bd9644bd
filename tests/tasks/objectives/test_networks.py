"""Networks against finite differences, scikit-learn, the linear objective and themselves in other dtypes, formats and cuts."""

from __future__ import annotations

from importlib import import_module
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import expit, log_softmax, softmax
from sklearn.neural_network import MLPClassifier, MLPRegressor

from tasks.machine.namespaces import on_host
from tasks.objectives import networks
from tasks.objectives.activations import Name
from tasks.objectives.base import Objective, Sums, add_sums
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LOSSES
from tasks.objectives.networks import NetworkObjective
from tasks.reductions.tree import Tree
from tasks.rows.partition import Group

ACTIVATIONS = get_args(Name)
OTHERS = [("modified_huber", 1), ("huber", 2), ("poisson", 2)]  # no estimator's
TASKS = [("logistic", 1), ("multinomial", 3), ("squared", 1), ("squared", 3)]
HIDDEN = [(4,), (5, 3, 4)]
DRAW = (7, 2, 3, 0)


def network(task: tuple[str, int], hidden: tuple[int, ...] = (4,), activation: Name = "tanh", **options: Any) -> NetworkObjective:
    loss, c = task
    classes = np.array([2, 4, 8]) if loss == "multinomial" else np.array(["no", "yes"]) if LOSSES[loss].classification else None
    options = {"dtype": "float64", **options}
    return NetworkObjective(LOSSES[loss], (6, *hidden, c), activation, classes, **options)


def rows(objective: NetworkObjective, sizes: tuple[int, ...] = (23,), draw: tuple[int, ...] = (), weighted: bool = True) -> Group:
    random = np.random.default_rng(3)
    n, c = sum(sizes), objective.n_outputs
    X = random.normal(size=(n, 6)) * (random.random((n, 6)) < 0.6)
    y = random.normal(size=(n, c)).squeeze() if objective.classes is None else random.choice(objective.classes, n)
    weight = random.random(n) + 0.5
    y = np.abs(y) if objective.loss.name == "poisson" else y
    return Group(X, y, weight if weighted else None, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), 0, draw)


def with_rows(group: Group, X: Any) -> Group:
    return Group(X, group.y, group.sample_weight, group.offsets, group.first_partition, group.draw)


def parameters(objective: NetworkObjective, k: int = 1) -> Any:
    return np.random.default_rng(5).normal(size=(k, objective.layout.size)).astype(objective.dtype)


def assert_near(found: Sums, expected: Sums, tolerance: float) -> None:
    np.testing.assert_allclose(found.loss_sum, expected.loss_sum, rtol=tolerance)
    assert found.weight_sum == pytest.approx(expected.weight_sum, rel=1e-14)
    scale = np.abs(expected.gradient_sum).max(initial=1.0)
    np.testing.assert_allclose(found.gradient_sum, expected.gradient_sum, rtol=tolerance, atol=tolerance * scale)


# -- derivatives ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [(), DRAW], ids=["whole", "dropout"])
@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
@pytest.mark.parametrize("task", [*TASKS, *OTHERS], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradient_is_that_of_the_loss(activation: Name, task: tuple[str, int], hidden: tuple[int, ...], draw: tuple[int, ...]) -> None:
    objective = network(task, hidden, activation, dropout=0.3)
    group = rows(objective, draw=draw)
    at = parameters(objective)
    found = objective.loss_and_gradient(group, at)
    steps = 1e-6 * np.eye(objective.layout.size)  # a model a step: all share the pass, and the masks
    ahead, behind = (objective.loss_and_gradient(group, at + sign * steps).loss_sum for sign in (1, -1))
    expected = objective.layout.split((ahead - behind) / 2e-6)
    sparse = objective.layout.split(objective.loss_and_gradient(with_rows(group, sp.csr_array(group.X)), at).gradient_sum[0])
    for name, gradient in objective.layout.split(found.gradient_sum[0]).items():
        scale = np.abs(expected[name]).max()
        assert scale > 0
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-6, atol=1e-6 * scale, err_msg=name)
        np.testing.assert_allclose(sparse[name], gradient, rtol=1e-11, atol=1e-12 * scale, err_msg=name)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("task", TASKS, ids=str)
def test_scikit_learn_predicts_the_same_and_takes_the_same_step(task: tuple[str, int], activation: Name) -> None:
    """One step of plain gradient descent on all rows moves scikit-learn's parameters by the mean gradient."""
    objective = network(task, (5, 3), activation)
    group = rows(objective, (40,), weighted=False)
    X, y = group.X, group.y
    options: dict[str, Any] = {
        "hidden_layer_sizes": (5, 3),
        "activation": activation,
        "solver": "sgd",
        "alpha": 0.0,
        "batch_size": 40,
        "learning_rate_init": 1.0,
        "momentum": 0.0,
        "nesterovs_momentum": False,
    }
    classifier = objective.classes is not None
    peer = MLPClassifier(**options) if classifier else MLPRegressor(**options)
    peer.partial_fit(X, y, **({"classes": objective.classes} if classifier else {}))
    at = parameters(objective)
    arrays = [array.copy() for array in objective.layout.split(0.5 * at[0]).values()]
    peer.coefs_, peer.intercepts_ = [a.copy() for a in arrays[:3]], [a.copy() for a in arrays[3:]]

    raw = objective.predict(0.5 * at[0], X)
    if task[0] == "logistic":
        np.testing.assert_allclose(expit(raw[:, 0]), peer.predict_proba(X)[:, 1], rtol=1e-10)
    elif task[0] == "multinomial":
        np.testing.assert_allclose(np.exp(log_softmax(raw, axis=1)), peer.predict_proba(X), rtol=1e-10)
    else:
        np.testing.assert_allclose(raw.squeeze(), peer.predict(X), rtol=1e-10, atol=1e-12)

    found = objective.loss_and_gradient(group, 0.5 * at)
    peer.partial_fit(X, y)
    moved = np.concatenate([(before - after).ravel() for before, after in zip(arrays, [*peer.coefs_, *peer.intercepts_], strict=True)])
    np.testing.assert_allclose(found.gradient_sum[0] / 40, moved, rtol=1e-9, atol=1e-12)
    if classifier:
        assert found.loss_sum[0] / 40 == pytest.approx(peer.loss_, rel=1e-10)


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_without_hidden_layers_it_is_the_linear_objective(task: tuple[str, int]) -> None:
    objective = network(task, ())
    linear = LinearObjective(objective.loss, 6, task[1], True, objective.classes)
    group = rows(objective, (9, 0, 14, 30))
    at = parameters(objective, 2)
    arrays = [objective.layout.split(row) for row in at]
    of_linear = np.stack([linear.join(a["layers.0.weight"].T, a["layers.0.bias"]) for a in arrays])
    expected = linear.loss_and_gradient(group, of_linear)
    found = objective.loss_and_gradient(group, at)
    split = [objective.layout.split(row) for row in found.gradient_sum]
    gradient = np.stack([linear.join(a["layers.0.weight"].T, a["layers.0.bias"]) for a in split])
    assert_near(found._replace(gradient_sum=gradient), expected, 1e-12)


@pytest.mark.parametrize("name", ["squared", "logistic", "multinomial"])
def test_losses_of_extreme_predictions_are_those_of_the_formulas(name: str) -> None:
    raw = np.array([[-800.0, 0.0, 800.0], [30.0, -30.0, 0.1], [1e-9, 2.0, -90.0]])
    y: Any = np.array([0, 2, 1])
    if name == "multinomial":
        raw[0, 1] = -np.inf
        expected = -log_softmax(raw, axis=1)[np.arange(3), y], softmax(raw, axis=1) - np.eye(3)[y]
    else:
        raw, y = raw.reshape(-1, 1), np.tile([0.0, 1.0, 1.0], 3)
        error = raw - y[:, None]
        of_logistic = (np.logaddexp(0.0, raw[:, 0]) - y * raw[:, 0], expit(raw) - y[:, None])
        expected = (0.5 * error[:, 0] ** 2, error) if name == "squared" else of_logistic
    for found, wanted in zip(LOSSES[name].of_rows(np, y, raw), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-15)


# -- dtypes, formats, namespaces -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("task", TASKS, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_float32_is_float64_rounded(activation: Name, task: tuple[str, int], sparse: bool) -> None:
    double, single = (network(task, (5, 3), activation, dtype=dtype) for dtype in ("float64", "float32"))
    group = rows(double, (300,))
    at = parameters(single)
    expected = double.loss_and_gradient(group, at)
    for dtype in (np.float32, np.float64):  # of the rows
        X: Any = group.X.astype(dtype)
        found = single.loss_and_gradient(with_rows(group, sp.csr_array(X) if sparse else X), at)
        assert found.gradient_sum.dtype == np.float32
        assert found.loss_sum.dtype == np.float64
        assert_near(found, expected, 3e-5)


@pytest.mark.parametrize("namespace", ["array_api_strict", pytest.param("cupy", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("task", TASKS, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_any_array_namespace(activation: Name, task: tuple[str, int], dtype: str, namespace: str) -> None:
    objective = network(task, (5, 3), activation, dtype=dtype, dropout=0.2)
    group = rows(objective, (9, 14), DRAW)
    at = parameters(objective, 2)
    elsewhere = with_rows(group, import_module(namespace).asarray(group.X))
    found = objective.loss_and_gradient(elsewhere, at)
    assert isinstance(found.gradient_sum, np.ndarray)
    assert found.gradient_sum.dtype == dtype
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    assert_near(found, objective.loss_and_gradient(group, at), tolerance)
    raw = on_host(objective.predict(at[1], elsewhere.X))
    np.testing.assert_allclose(raw, objective.predict(at[1], group.X), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("task", [("logistic", 1), ("multinomial", 3)], ids=str)
def test_predictions_are_in_the_dtype_of_the_rows_and_of_each_row(task: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    objective = network(task, (5, 3), "relu", dtype="float32")
    X = rows(objective, (100,)).X
    at = parameters(objective)[0]
    whole = objective.predict(at, X)
    assert whole.dtype == np.float64
    assert whole.shape == (100, task[1])
    monkeypatch.setattr(networks, "PIECE", 7)
    np.testing.assert_allclose(objective.predict(at, X), whole, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(np.concatenate([objective.predict(at, X[i : i + 1]) for i in range(100)]), whole, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(objective.predict(at, sp.csr_array(X)), whole, rtol=1e-12, atol=1e-14)
    single = objective.predict(at, X.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, whole, rtol=1e-4, atol=1e-4)
    assert objective.predict(at, X[:0]).shape == (0, task[1])


def test_diverged_parameters_give_a_loss_that_shows_it_and_no_warning() -> None:
    objective = network(("multinomial", 3), (5,), "relu", dtype="float32")
    partial = objective.loss_and_gradient(rows(objective), np.full((1, objective.layout.size), 1e30, np.float32))
    assert not np.isfinite(partial.loss_sum[0])


# -- bits ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cuts_of_groups_leave_no_trace(dtype: str, sparse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "PIECE", 16)
    objective = network(("multinomial", 3), (5, 3), "relu", dtype=dtype)
    whole = rows(objective, (17, 0, 40, 3, 16, 33, 5, 8))
    at = parameters(objective, 2)
    X: Any = sp.csr_array(whole.X) if sparse else whole.X
    expected = objective.loss_and_gradient(with_rows(whole, X), at)
    for size in (1, 2, 4):
        tree = Tree(8 // size, add_sums)
        for j in range(0, 8, size):
            offsets = whole.offsets[j : j + size + 1]
            a, b = offsets[[0, -1]]
            group = Group(X[a:b].copy(), whole.y[a:b], whole.sample_weight[a:b], offsets - a, j)  # type: ignore[index]
            tree.add((0, j // size), objective.loss_and_gradient(group, at))
        found: Sums = tree.result()
        assert found.gradient_sum.tobytes() == expected.gradient_sum.tobytes()
        assert found.loss_sum.tobytes() == expected.loss_sum.tobytes()
        np.testing.assert_array_equal(found.weight_sum, expected.weight_sum)


def test_pieces_add_up() -> None:
    objective = network(("squared", 3), (5,))
    group = rows(objective, (networks.PIECE + 100, 50))
    assert group.y is not None and group.sample_weight is not None
    at = parameters(objective)
    parts = []
    for a, b in pairwise([0, 1000, 4100, group.n_rows]):
        part = Group(group.X[a:b], group.y[a:b], group.sample_weight[a:b], np.array([0, b - a]), 0)
        parts.append(objective.loss_and_gradient(part, at))
    assert_near(objective.loss_and_gradient(group, at), add_sums(add_sums(parts[0], parts[1]), parts[2]), 1e-11)


# -- dropout -------------------------------------------------------------------------------------------------------------------------


def test_dropout_is_of_batches_only_and_keyed_by_their_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, dropping = network(("squared", 1), (8, 8)), network(("squared", 1), (8, 8), dropout=0.5)
    at = parameters(plain, 2)

    def gradient(objective: NetworkObjective, draw: tuple[int, ...]) -> bytes:
        return objective.loss_and_gradient(rows(objective, draw=draw), at).gradient_sum.tobytes()

    assert gradient(dropping, ()) == gradient(plain, ()) == gradient(plain, DRAW)
    keyed = gradient(dropping, DRAW)
    assert keyed == gradient(dropping, DRAW)
    for place in range(4):
        other = [*DRAW]
        other[place] += 1
        assert gradient(dropping, tuple(other)) != keyed
    found = dropping.loss_and_gradient(rows(dropping, draw=DRAW), at)
    monkeypatch.setattr(networks, "PIECE", 5)  # the same masks, row by row
    assert_near(dropping.loss_and_gradient(rows(dropping, draw=DRAW), at), found, 1e-12)


def test_dropout_drops_its_share_of_each_layer_and_keeps_the_mean() -> None:
    """Of a linear network the expected prediction is that without dropout, and so is the sum of the residuals."""
    objective = network(("squared", 1), (20, 20), "identity", dropout=0.4)
    at = 0.3 * parameters(objective)
    group = rows(objective, (1,))
    residuals, dropped = [], []
    for epoch in range(1000):
        group.draw = (0, epoch, 0, 0)
        arrays = objective.layout.split(objective.loss_and_gradient(group, at).gradient_sum[0])
        residuals.append(arrays["layers.2.bias"][0])
        dropped.append([np.all(arrays[f"layers.{layer}.weight"] == 0.0, axis=1) for layer in (1, 2)])
    np.testing.assert_allclose(np.mean(dropped, axis=(0, 2)), 0.4, atol=4 * np.sqrt(0.24 / 20_000))
    first, second = np.array(dropped).transpose(1, 0, 2)
    assert np.mean(first & second) == pytest.approx(0.4**2, abs=0.01)  # each layer by itself
    group.draw = ()
    expected = objective.layout.split(objective.loss_and_gradient(group, at).gradient_sum[0])["layers.2.bias"][0]
    error = np.std(residuals) / np.sqrt(len(residuals))
    assert 0 < error < 0.1 * abs(expected)
    assert abs(np.mean(residuals) - expected) < 4 * error


# -- start and layout ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_start_is_uniform_within_scikit_learns_bounds(activation: Name) -> None:
    objective = NetworkObjective(LOSSES["squared"], (300, 200, 50), activation)
    start = objective.start(3)
    assert start.dtype == np.float32
    assert start.tobytes() == objective.start(3).tobytes() != objective.start(4).tobytes()
    peer = MLPRegressor(
        hidden_layer_sizes=(200,), activation=activation, random_state=0, max_iter=1, solver="sgd", learning_rate_init=1e-12
    )
    random = np.random.default_rng(0)
    peer.partial_fit(random.normal(size=(4, 300)), random.normal(size=(4, 50)))
    arrays = list(objective.layout.split(start).values())
    assert [a.shape for a in arrays] == [(300, 200), (200, 50), (200,), (50,)]
    for ours, theirs in zip(arrays, [*peer.coefs_, *peer.intercepts_], strict=True):
        bound, n = np.abs(theirs).max(), ours.size
        assert np.abs(ours).max() == pytest.approx(bound, rel=20 / n)  # largest of n draws
        assert ours.std() == pytest.approx(np.abs(ours).max() / np.sqrt(3), rel=4 / np.sqrt(n))
        assert abs(ours.mean()) < 4 * ours.std() / np.sqrt(n)


@pytest.mark.parametrize(
    ("loss", "sizes", "options", "message"),
    [
        ("hinge", (6, 3), {}, "HingeLoss must have one output, two classes; layer_sizes end in 3"),
        ("logistic", (6, 2), {}, "LogisticLoss must have one output, two classes; layer_sizes end in 2"),
        ("multinomial", (6, 4, 1), {}, "MultinomialLoss must have an output a class, at least two; layer_sizes end in 1"),
        ("squared", (6,), {}, "layer_sizes must be"),
        ("squared", (6, 0, 1), {}, "each at least 1, got"),
        ("squared", (6, 1), {"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ("squared", (6, 1), {"dropout": -0.1}, "dropout must lie in"),
        ("squared", (6, 1), {"dropout": np.nan}, "dropout must lie in"),
    ],
)
def test_what_is_no_network_is_refused(loss: str, sizes: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkObjective(LOSSES[loss], sizes, **options)


def test_it_is_an_objective_and_weights_are_penalised_but_not_biases() -> None:
    objective = network(("multinomial", 3), (5, 4))
    assert isinstance(objective, Objective)
    layout = objective.layout
    assert list(layout.coef) == ["layers.0.weight", "layers.1.weight", "layers.2.weight"]
    assert list(layout.free) == ["layers.0.bias", "layers.1.bias", "layers.2.bias"]
    assert layout.n_coef == 6 * 5 + 5 * 4 + 4 * 3
    assert layout.size == layout.n_coef + 5 + 4 + 3
    assert layout.dtype == "float64"
