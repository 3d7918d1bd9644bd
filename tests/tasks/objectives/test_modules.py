"""Modules of PyTorch as objectives: derivatives, random numbers, running statistics, and what is refused."""

from __future__ import annotations

import pickle
import random
import threading
from typing import Any

import cloudpickle
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import approx_fprime

torch = pytest.importorskip("torch")

from torch.nn.utils.prune import l1_unstructured  # noqa: E402

from tasks.objectives.criteria import ClassCriterion, NumberCriterion  # noqa: E402
from tasks.objectives.losses import LogisticLoss, MultinomialLoss, SquaredLoss  # noqa: E402
from tasks.objectives.modules import TorchObjective  # noqa: E402
from tasks.objectives.networks import NetworkObjective  # noqa: E402
from tasks.rows.partition import Group  # noqa: E402
from tests.nets import MLP, ConvNet, Transformer  # noqa: E402

pytestmark = pytest.mark.torch

P, N = 5, 40
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(N, P))
LABELS = RANDOM.integers(3, size=N)
DRAW = (1, 0, 3, 0)


def group(X: Any = X, y: Any = LABELS, weight: Any = None, cuts: tuple[int, ...] = (0, 13, N), draw: tuple[int, ...] = ()) -> Group:
    return Group(X, y, weight, np.array(cuts), 0, draw)


def objective(module: Any = None, loss: Any = None, **options: Any) -> TorchObjective:
    torch.manual_seed(0)
    module = MLP(P, 4, 3) if module is None else module
    return TorchObjective(module, loss or MultinomialLoss(), P, **{"classes": np.arange(3), "dtype": "float64"} | options)


def gradient_at(model: TorchObjective, rows: Group, parameters: Any) -> Any:
    return model.loss_and_gradient(rows, parameters[None]).gradient_sum[0]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smooth", [torch.nn.Tanh, torch.nn.Softplus])
def test_gradients_are_finite_differences(weighted: bool, smooth: Any) -> None:
    weight = RANDOM.uniform(size=N) if weighted else None
    model = objective(torch.nn.Sequential(torch.nn.Linear(P, 4), smooth(), torch.nn.Linear(4, 3)))
    at = model.start()
    numeric = approx_fprime(at, lambda w: model.loss_and_gradient(group(weight=weight), w[None]).loss_sum[0], 1e-7)
    np.testing.assert_allclose(gradient_at(model, group(weight=weight), at), numeric, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", [LogisticLoss(), MultinomialLoss(), SquaredLoss()], ids=str)
def test_the_sums_are_those_of_the_same_perceptron(loss: Any) -> None:
    """Against back-propagation by hand, weights that are zero included."""
    classes = {"logistic": np.arange(2), "multinomial": np.arange(3)}.get(loss.name)
    n_outputs = 1 if loss.name == "logistic" else 3
    y = X[:, :3] if classes is None else LABELS % len(classes)
    weight = np.where(np.arange(N) % 5 == 0, 0.0, RANDOM.uniform(size=N))
    module = torch.nn.Sequential(torch.nn.Linear(P, 4), torch.nn.ReLU(), torch.nn.Linear(4, n_outputs))
    ours = TorchObjective(module, loss, P, classes, dtype="float64")
    theirs = NetworkObjective(loss, (P, 4, n_outputs), classes=classes, dtype="float64")
    arrays = ours.layout.split(ours.start())
    same = theirs.layout.join({f"layers.{i}.{kind}": arrays[f"{2 * i}.{kind}"].T for i in (0, 1) for kind in ("weight", "bias")})
    rows = group(X, y, weight)
    found, expected = ours.loss_and_gradient(rows, ours.start()[None]), theirs.loss_and_gradient(rows, same[None])
    np.testing.assert_allclose(found.loss_sum, expected.loss_sum, rtol=1e-13)
    np.testing.assert_allclose(found.weight_sum, expected.weight_sum, rtol=1e-15)
    mine, other = ours.layout.split(found.gradient_sum[0]), theirs.layout.split(expected.gradient_sum[0])
    for i in (0, 1):
        np.testing.assert_allclose(mine[f"{2 * i}.weight"].T, other[f"layers.{i}.weight"], rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(mine[f"{2 * i}.bias"], other[f"layers.{i}.bias"], rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(ours.predict(ours.start(), X), theirs.predict(same, X), rtol=1e-12, atol=1e-13)


CRITERIA = {
    "cross-entropy": (torch.nn.CrossEntropyLoss(), MultinomialLoss(), np.arange(3)),
    "bce": (torch.nn.BCEWithLogitsLoss(), LogisticLoss(), np.arange(2)),
    "mse": (torch.nn.MSELoss(), SquaredLoss(), None),
    "a function": (lambda raw, y: ((raw - y) ** 2).sum(dim=1), SquaredLoss(), None),
}


@pytest.mark.parametrize("name", CRITERIA)
def test_criteria_are_our_losses(name: str) -> None:
    criterion, loss, classes = CRITERIA[name]
    wrapped: Any = NumberCriterion(criterion) if classes is None else ClassCriterion(criterion)
    n_outputs = 1 if name == "bce" else 3
    y = X[:, :3] if classes is None else LABELS % len(classes)
    torch.manual_seed(0)
    module = MLP(P, 4, n_outputs)
    by_criterion, by_loss = (TorchObjective(module, each, P, classes, dtype="float64") for each in (wrapped, loss))
    factor = 2.0 if classes is None else 1.0  # ours is half the squared error
    found, expected = (each.loss_and_gradient(group(X, y), each.start()[None]) for each in (by_criterion, by_loss))
    np.testing.assert_allclose(found.loss_sum, factor * expected.loss_sum, rtol=1e-12)
    np.testing.assert_allclose(found.gradient_sum, factor * expected.gradient_sum, rtol=1e-10, atol=1e-12)
    if classes is not None:
        raw = by_loss.predict(by_loss.start(), X)
        np.testing.assert_allclose(wrapped.mean(raw), loss.mean(raw), rtol=1e-12)


@pytest.mark.parametrize("form", ["csr", "f-order", "float32", "view"])
def test_rows_may_lie_anyhow(form: str) -> None:
    model = objective()
    exact = X.astype(np.float32).astype(np.float64)
    wide = np.zeros((N, P + 3))
    wide[:, 1 : P + 1] = exact
    others = {
        "csr": sp.csr_array(exact),
        "f-order": np.asfortranarray(exact),
        "float32": exact.astype(np.float32),
        "view": wide[:, 1 : P + 1],
    }
    found, expected = (gradient_at(model, group(rows), model.start()) for rows in (others[form], exact))
    assert found.tobytes() == expected.tobytes()


def test_pieces_partitions_and_models_share_a_pass() -> None:
    """Bits hang on the cuts of partitions alone; sums agree to rounding whatever these are."""
    whole = objective()
    at = np.stack([whole.start(), 0.5 * whole.start()])
    expected = whole.loss_and_gradient(group(cuts=(0, N)), at)
    for model, cuts in ((objective(micro_batch_size=7), (0, N)), (whole, (0, 13, 13, 14, N)), (objective(micro_batch_size=1), (0, N))):
        found = model.loss_and_gradient(group(cuts=cuts), at)
        np.testing.assert_allclose(found.loss_sum, expected.loss_sum, rtol=1e-13)
        np.testing.assert_allclose(found.gradient_sum, expected.gradient_sum, rtol=1e-11, atol=1e-12)
    alone = [whole.loss_and_gradient(group(cuts=(0, N)), each[None]) for each in at]
    assert expected.gradient_sum.tobytes() == np.concatenate([each.gradient_sum for each in alone]).tobytes()


@pytest.mark.parametrize("kind", ["layer", "function", "attention", "noise"])
def test_draws_are_those_of_the_batch(kind: str) -> None:
    """Whoever draws, however often, in whichever thread, and whatever the user's own stream is at, which stays there."""

    class Noisy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(P, 3)
            self.attention = torch.nn.MultiheadAttention(P, 1, dropout=0.5, batch_first=True)
            self.layer = torch.nn.Dropout(0.5)

        def forward(self, x: Any) -> Any:
            if kind == "layer":
                x = self.layer(x)
            elif kind == "function":
                x = torch.nn.functional.dropout(x, 0.5, self.training)
            elif kind == "attention":
                x = self.attention(x[:, None], x[:, None], x[:, None])[0][:, 0]
            elif self.training:
                x = x + torch.randn_like(x) + torch.rand(x.shape[1], dtype=x.dtype)
            return self.fc(x)

    model = objective(Noisy())
    at = model.start()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = gradient_at(model, group(draw=DRAW), at)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(gradient_at(model, group(draw=DRAW), at))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {
        each.tobytes() for each in [first, *found, gradient_at(pickle.loads(cloudpickle.dumps(objective(Noisy()))), group(draw=DRAW), at)]
    } == {first.tobytes()}
    assert gradient_at(model, group(draw=(1, 0, 4, 0)), at).tobytes() != first.tobytes()
    assert gradient_at(model, group(), at).tobytes() != first.tobytes()  # a full pass evaluates


def test_dropout_keeps_its_share() -> None:
    module = torch.nn.Sequential(torch.nn.Dropout(0.25), torch.nn.Linear(P, 3, bias=False))
    model = objective(module)
    ones = np.ones((20_000, P))
    target = np.zeros(len(ones), int)
    rows = Group(ones, target, None, np.array([0, len(ones)]), 0, DRAW)
    zero = np.zeros(model.layout.size)  # all probabilities are 1/3: the gradient counts what is left of each column
    kept = gradient_at(model, rows, zero).reshape(3, P)[1] * 3 / len(ones)
    np.testing.assert_allclose(kept, 1.0, atol=0.02)


def test_draws_on_the_way_back_are_refused() -> None:
    from torch.utils.checkpoint import checkpoint

    class Saving(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(torch.nn.Linear(P, 3), torch.nn.Dropout(0.5))

        def forward(self, x: Any) -> Any:
            return checkpoint(self.body, x, use_reentrant=False)

    with pytest.raises(ValueError, match="draws random numbers again on its way back"):
        gradient_at(objective(Saving()), group(draw=DRAW), objective(Saving()).start())


def test_running_statistics_are_those_of_pytorch() -> None:
    """Of one batch in one piece: the same gradient, and the same mean and variance."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(P, 4), torch.nn.BatchNorm1d(4, momentum=0.3), torch.nn.ReLU(), torch.nn.Linear(4, 3)
    ).double()
    model = objective(module)
    assert list(model.layout.tracked.values()) == [0.3, 0.3]
    found = model.layout.split(gradient_at(model, group(cuts=(0, N), draw=DRAW), model.start()))
    module.train()
    module[1].momentum = 1.0
    torch.nn.CrossEntropyLoss(reduction="sum")(module(torch.from_numpy(X)), torch.from_numpy(LABELS)).backward()
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(found[name], parameter.grad.numpy(), rtol=1e-10, atol=1e-12)
    for name in ("1.running_mean", "1.running_var"):
        np.testing.assert_allclose(found[name] / N, module.state_dict()[name].numpy(), rtol=1e-12)
    evaluated = gradient_at(model, group(), model.start())
    assert not model.layout.split(evaluated)["1.running_mean"].any()


def test_a_single_row_is_normalised_by_the_running_statistics() -> None:
    """PyTorch refuses to train on one, which a small last partition can draw."""
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(P), torch.nn.Linear(P, 3))
    module(torch.randn(50, P))
    model = objective(module)
    trained, evaluated = (gradient_at(model, group(X[:1], LABELS[:1], cuts=(0, 1), draw=draw), model.start()) for draw in (DRAW, ()))
    n_tracked = len(model.layout.rates)
    assert trained[:-n_tracked].tobytes() == evaluated[:-n_tracked].tobytes()
    assert trained[-n_tracked:].tobytes() == model.start()[-n_tracked:].tobytes()
    both = gradient_at(model, group(draw=DRAW), model.start())  # and the next batch trains
    assert both[:-n_tracked].tobytes() != gradient_at(model, group(), model.start())[:-n_tracked].tobytes()


def test_frozen_layers_may_be_of_other_dtypes() -> None:
    halved = torch.nn.Sequential(torch.nn.Linear(P, 4).to(torch.bfloat16), torch.nn.Linear(4, 3).double())
    whole = torch.nn.Sequential(torch.nn.Linear(P, 4).double(), torch.nn.Linear(4, 3).double())
    whole.load_state_dict(halved.state_dict())
    first, second = (objective(module, frozen=("0.*",)) for module in (halved, whole))
    assert gradient_at(first, group(), first.start()).tobytes() == gradient_at(second, group(), second.start()).tobytes()


def test_frozen_parameters_stay_out_of_the_vector() -> None:
    torch.manual_seed(0)
    module = MLP(P, 4, 3)
    module.head.bias.requires_grad_(False)
    model = objective(module, frozen=("body.*",))
    assert list(model.layout.coef) == ["head.weight"]
    assert list(model.layout.free) == []
    whole = objective(MLP(P, 4, 3))
    part = whole.layout.split(gradient_at(whole, group(), whole.start()))["head.weight"]
    np.testing.assert_array_equal(gradient_at(model, group(), model.start()).reshape(part.shape), part)
    norm = torch.nn.Sequential(torch.nn.BatchNorm1d(P), torch.nn.Linear(P, 3))
    still = objective(norm, frozen=("0.*",))
    assert not still.layout.tracked
    trained, evaluated = (gradient_at(still, group(draw=draw), still.start()) for draw in (DRAW, ()))
    assert trained.tobytes() == evaluated.tobytes()  # by the statistics that are there


def test_a_pickle_has_no_numbers_that_move() -> None:
    torch.manual_seed(0)
    big = torch.nn.Sequential(torch.nn.Linear(P, 5000), torch.nn.BatchNorm1d(5000), torch.nn.Linear(5000, 3))
    model = objective(big, dtype="float32")
    sent = pickle.dumps(model)
    assert len(sent) < 20_000
    assert len(pickle.dumps(objective(big, dtype="float32", frozen=("0.*",)))) > 5000 * P * 4
    at = model.start()
    assert gradient_at(pickle.loads(sent), group(draw=DRAW), at).tobytes() == gradient_at(model, group(draw=DRAW), at).tobytes()


def test_tied_parameters_are_one() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Linear(P, P, bias=False)
            self.b = torch.nn.Linear(P, P, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: Any) -> Any:
            return self.b(torch.tanh(self.a(x)))[:, :3]

    model = pickle.loads(cloudpickle.dumps(objective(Tied())))
    assert list(model.layout.coef) == ["a.weight"]
    at = objective(Tied()).start()
    numeric = approx_fprime(at, lambda w: model.loss_and_gradient(group(), w[None]).loss_sum[0], 1e-7)
    np.testing.assert_allclose(gradient_at(model, group(), at), numeric, rtol=1e-5, atol=1e-5)
    fitted = objective(Tied()).fitted(2 * at)
    assert fitted.a.weight is fitted.b.weight


def test_mixed_precision_rounds_products_alone() -> None:
    exact, mixed = objective(dtype="float32"), objective(dtype="float32", mixed_precision="bfloat16")
    a, b = (gradient_at(each, group(), each.start()) for each in (exact, mixed))
    assert b.dtype == np.float32
    assert a.tobytes() != b.tobytes()
    np.testing.assert_allclose(a, b, atol=0.05 * np.abs(a).max())


def test_the_users_module_and_threads_are_left_alone() -> None:
    torch.manual_seed(0)
    module = MLP(P, 4, 3, dropout=0.5)
    before = {name: each.clone() for name, each in module.state_dict().items()}
    threads = torch.get_num_threads()
    model = objective(module)
    gradient_at(model, group(draw=DRAW), 2 * model.start())
    assert module.training
    assert torch.get_num_threads() == threads
    assert all(torch.equal(each, before[name]) and each.grad is None for name, each in module.state_dict().items())


def test_images_and_sequences_have_their_shapes() -> None:
    images = TorchObjective(ConvNet(), MultinomialLoss(), 64, np.arange(10), input_shape=(1, 8, 8))
    assert images.predict(images.start(), np.zeros((3, 64))).shape == (3, 10)
    text = TorchObjective(Transformer(7, 5, 7), MultinomialLoss(), 5, np.arange(7), input_dtype="int64")
    assert text.predict(text.start(), np.ones((3, 5))).shape == (3, 7)
    assert images.predict(images.start(), np.zeros((0, 64))).shape == (0, 10)


class With(torch.nn.Module):
    """Has something, and may do something with it before its layer."""

    def __init__(self, what: Any, how: Any = None) -> None:
        super().__init__()
        self.what, self.how = what, how
        self.fc = torch.nn.Linear(P, 3)

    def forward(self, x: Any) -> Any:
        return self.fc(x if not self.training or self.how is None else self.how(x, self.what))


class Changing(torch.nn.Module):
    """Counts in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(P, 3)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Any) -> Any:
        self.seen += 1
        return self.fc(x)


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no module": (3, {}, "module must be a torch.nn.Module, got 3"),
    "lazy": (torch.nn.LazyLinear(3), {}, r"'weight' of LazyLinear has no shape yet; pass some rows through the module first"),
    "pattern": (None, {"frozen": ("neck.*",)}, r"frozen='neck\.\*' meets no parameter of MLP: those are body\.0\.weight"),
    "all frozen": (None, {"frozen": ("*",)}, "no parameter of MLP may move; leave some out of frozen="),
    "shape": (None, {"input_shape": (2, 3)}, r"input_shape=\(2, 3\) makes 6 numbers a row, and X has 5 columns"),
    "dtype": (None, {"dtype": "float16"}, "dtype must be 'float32' or 'float64', got 'float16'"),
    "momentum": (
        torch.nn.Sequential(torch.nn.BatchNorm1d(P, momentum=None), torch.nn.Linear(P, 3)),
        {},
        "is a mean over all batches; give the layer a momentum",
    ),
    "single rows": (
        torch.nn.Sequential(torch.nn.BatchNorm1d(P), torch.nn.Linear(P, 3)),
        {"micro_batch_size": 1},
        "micro_batch_size=1 leaves batch normalisation single rows",
    ),
    "meta": (torch.nn.Linear(P, 3, device="meta"), {}, "'weight' of Linear has no numbers; call to_empty"),
    "complex": (torch.nn.Linear(P, 3, dtype=torch.complex64), {}, "'weight' of Linear is complex; take two real parameters"),
    "a number": (None, {"input_shape": 5}, r"input_shape must be the sizes of a row, \(1, 8, 8\) for images say, got 5"),
    "negative": (None, {"input_shape": (-1, -5)}, r"input_shape must be the sizes of a row"),
    "a lock": (
        With(threading.Lock()),
        {},
        r"With cannot be copied, and each thread and worker has a copy: cannot pickle '_thread\.lock' object; make locks, files and",
    ),
    "pruned": (l1_unstructured(torch.nn.Linear(P, 3), "weight", 0.5), {}, r"take torch\.nn\.utils\.parametrizations in place of"),
    "always dropping": (
        torch.nn.Sequential(torch.nn.FractionalMaxPool2d(1, output_size=(1, P)), torch.nn.Flatten(), torch.nn.Linear(P, 3)),
        {"input_shape": (1, 1, P)},
        "Sequential draws random numbers in evaluation mode, too; draw them only where self.training is true",
    ),
    "one output": (torch.nn.Linear(P, 1), {"loss": ClassCriterion(torch.nn.CrossEntropyLoss())}, "must have an output a class"),
    "two outputs": (None, {"loss": ClassCriterion(torch.nn.BCEWithLogitsLoss())}, "must have one output, for two classes"),
    "a tuple": (
        torch.nn.LSTM(P, 3),
        {},
        r"LSTM must return a tensor \(rows, outputs\), or \(rows,\), for rows of shape \(2, 5\), got tuple",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_any_round(name: str) -> None:
    module, options, message = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=message):
        objective(module, **options)


@pytest.mark.parametrize("draws", [random.random, lambda: np.random.random()])  # noqa: NPY002  as users do
def test_draws_by_python_are_refused(draws: Any) -> None:
    model = objective(With(draws, lambda rows, draws: rows * draws()))
    with pytest.raises(ValueError, match=r"With draws random numbers by Python's random or numpy\.random, .*; draw them by PyTorch"):
        gradient_at(model, group(draw=DRAW), model.start())


def test_what_a_row_cannot_be() -> None:
    words = objective(torch.nn.Sequential(torch.nn.Embedding(4, 3), torch.nn.Flatten(), torch.nn.Linear(3 * P, 3)), input_dtype="int64")
    with pytest.raises(ValueError, match=r"Sequential cannot take whole numbers from 0 to 4: .*; an embedding of n numbers takes"):
        words.predict(words.start(), np.arange(2 * P).reshape(2, P) % 5)
    norms = objective(torch.nn.Sequential(torch.nn.BatchNorm1d(P, track_running_stats=False), torch.nn.Linear(P, 3)))
    with pytest.raises(ValueError, match=r"Sequential cannot normalise a piece of 1 row: .*; .* repartition the data"):
        gradient_at(norms, group(cuts=(0, 1, N), draw=DRAW), norms.start())


def test_what_is_set_around_a_pass_does_not_matter() -> None:
    """It would be in this thread alone."""
    model = objective(MLP(P, 4, 3, dropout=0.5), dtype="float32")
    expected = gradient_at(model, group(draw=DRAW), model.start())
    for around in (torch.inference_mode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16)):
        with around:
            other = objective(MLP(P, 4, 3, dropout=0.5), dtype="float32")
            np.testing.assert_array_equal(gradient_at(other, group(draw=DRAW), model.start()), expected)
            fitted = other.fitted(model.start())
        assert not any(each.is_inference() for each in fitted.parameters())
        with torch.inference_mode(False), torch.enable_grad():
            fitted(torch.zeros(2, P)).sum().backward()


def test_buffers_may_hold_anything() -> None:
    layer = With(None)
    for name, buffer in (("nan", torch.tensor([np.nan])), ("whole", torch.arange(P)), ("mask", torch.arange(P) < 3)):
        layer.register_buffer(name, buffer)
    model, plain = objective(layer), objective(torch.nn.Linear(P, 3))
    rows = group(draw=DRAW)
    np.testing.assert_array_equal(gradient_at(model, rows, plain.start()), gradient_at(plain, rows, plain.start()))
    halves = torch.nn.Linear(P, 3).bfloat16()
    np.testing.assert_array_equal(objective(halves).start()[:P], halves.weight[0].detach().double().numpy())


@pytest.mark.parametrize("kind", [torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.parametrizations.orthogonal])
def test_layers_with_parametrizations_travel(kind: Any) -> None:
    model = objective(torch.nn.Sequential(torch.nn.Linear(P, P), torch.nn.Tanh(), kind(torch.nn.Linear(P, 3))))
    rows = group(draw=DRAW)
    there = cloudpickle.loads(cloudpickle.dumps(model))
    np.testing.assert_array_equal(gradient_at(there, rows, model.start()), gradient_at(model, rows, model.start()))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_cannot_travel_says_so() -> None:
    model = objective(torch.jit.script(torch.nn.Linear(P, 3)), dtype="float32")
    with pytest.raises(TypeError, match=r"is compiled by torch\.jit and cannot travel to workers; give what it was made from"):
        pickle.dumps(model)


def test_refused_in_a_pass() -> None:
    with pytest.raises(ValueError, match="Changing changes its buffer 'seen' while it trains; only the running statistics"):
        gradient_at(objective(Changing()), group(draw=DRAW), objective(Changing()).start())


def test_criteria_that_are_none() -> None:
    with pytest.raises(TypeError, match=r"criterion must be an object such as torch\.nn\.CrossEntropyLoss\(\)"):
        ClassCriterion(torch.nn.CrossEntropyLoss)
    with pytest.raises(ValueError, match="BCELoss needs probabilities; use BCEWithLogitsLoss"):
        ClassCriterion(torch.nn.BCELoss())
    with pytest.raises(ValueError, match=r"CrossEntropyLoss\(weight=...\) divides by the weight of its classes; give sample_weight"):
        ClassCriterion(torch.nn.CrossEntropyLoss(weight=torch.ones(3)))
    with pytest.raises(ValueError, match=r"CrossEntropyLoss\(ignore_index=...\) divides by the other rows alone"):
        ClassCriterion(torch.nn.CrossEntropyLoss(ignore_index=1))
    with pytest.raises(ValueError, match=r"SoftMarginLoss needs labels -1 and 1, .*; use BCEWithLogitsLoss"):
        ClassCriterion(torch.nn.SoftMarginLoss())
    with pytest.raises(ValueError, match="MSELoss is for numbers; use CrossEntropyLoss or BCEWithLogitsLoss for classes"):
        ClassCriterion(torch.nn.MSELoss())
    with pytest.raises(ValueError, match="Linear has parameters, which no fit would move; put them into the module"):
        NumberCriterion(torch.nn.Linear(1, 1))
    constant = TorchObjective(MLP(P, 4, 1), NumberCriterion(lambda raw, y: y[:, 0]), P, dtype="float64")
    with pytest.raises(ValueError, match="criterion must return losses that hang on the raw predictions"):
        gradient_at(constant, group(y=X[:, 0]), constant.start())
    scalar = NumberCriterion(torch.nn.functional.mse_loss)
    model = TorchObjective(MLP(P, 4, 1), scalar, P, dtype="float64")
    with pytest.raises(ValueError, match=r"criterion must return a loss for each of 13 rows, got shape \(\); give it reduction='none'"):
        gradient_at(model, group(y=X[:, 0]), model.start())
