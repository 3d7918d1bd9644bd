"""TorchClassifier and TorchRegressor: against PyTorch's own loop, against themselves elsewhere, and what users do around a fit."""

from __future__ import annotations

import codecs
import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import ConvergenceWarning, NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

from pipeline import Checkpoint, Dataset, MLPClassifier, TorchClassifier, TorchRegressor  # noqa: E402
from pipeline.models.model_files import load_model, save_model  # noqa: E402
from pipeline.training.loop import INTERRUPTED  # noqa: E402
from tasks.strategies.asynchronous import Overlap  # noqa: E402
from tasks.strategies.local_sgd import LocalUpdates  # noqa: E402
from tasks.strategies.optimizers import AdamW, Momentum  # noqa: E402
from tests.data import breast_cancer, diabetes, digits  # noqa: E402
from tests.nets import MLP, ConvNet, Transformer  # noqa: E402
from tests.rounds import AfterRounds  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

LENGTH, N_CHARACTERS, N_KINDS = 12, 40, 7


def sequences() -> tuple[Any, Any]:
    """Characters of the Zen of Python, and the kind of the one that follows."""
    with redirect_stdout(io.StringIO()):
        import this
    text = codecs.decode(this.s, "rot13").lower()
    characters = sorted(set(text))
    codes = np.array([characters.index(each) for each in text])
    rows = np.lib.stride_tricks.sliding_window_view(codes, LENGTH + 1)
    return rows[:, :-1].astype(np.float64), rows[:, -1] % N_KINDS


def seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


CASES: dict[str, tuple[Callable[[], Any], Callable[[], tuple[Any, Any]], dict[str, Any]]] = {
    "mlp": (lambda: MLP(30, 16, 2), breast_cancer, {}),
    "convolutions": (ConvNet, digits, {"input_shape": (1, 8, 8)}),
    "transformer": (lambda: Transformer(N_CHARACTERS, LENGTH, N_KINDS), sequences, {"input_dtype": "int64"}),
}


def model_of(name: str, **options: Any) -> tuple[TorchClassifier, Any, Any]:
    make, data, own = CASES[name]
    X, y = data()
    module = seeded(make)
    return TorchClassifier(module, **{"batch_size": 64, "max_epochs": 2, "random_state": 0, **own, **options}), X, y


def dataset(X: Any, y: Any) -> Dataset:
    return Dataset.from_arrays(X, y, n_partitions=4)


def in_process(model: Any, X: Any, y: Any) -> Any:
    with dask.config.set(scheduler="threads"):
        return model.fit(dataset(X, y))


# -- against PyTorch's loop ----------------------------------------------------------------------------------------------------------

SEEN: list[Any] = []


def see_rows(module: Any, arguments: Any) -> None:
    if module.training:
        SEEN.append([arguments[0].clone()])


def see_targets(criterion: Any, arguments: Any) -> None:
    SEEN[-1].append(arguments[1].clone())


OPTIMIZERS: dict[str, tuple[Any, dict[str, Any], Callable[[Any], Any]]] = {
    "adam": ("adam", {"lr": 0.003}, lambda module: torch.optim.Adam(module.parameters(), lr=0.003)),
    "adamw": (AdamW(weight_decay=0.1), {"lr": 0.003}, lambda module: torch.optim.AdamW(decayed(module, 0.1), lr=0.003)),
    "sgd": (Momentum(0.9), {"lr": 0.01}, lambda module: torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)),
    "ridge": ("sgd", {"lr": 0.05, "momentum": 0.0, "alpha": 0.01}, lambda module: torch.optim.SGD(decayed(module, 0.01), lr=0.05)),
}


def decayed(module: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Groups as many write them: biases and the scales of layers are not decayed."""
    named = list(module.parameters())
    return [
        {"params": [each for each in named if each.ndim > 1], "weight_decay": weight_decay},
        {"params": [each for each in named if each.ndim < 2], "weight_decay": 0.0},
    ]


@pytest.mark.parametrize(
    ("name", "optimizer"), [*((name, "adam") for name in CASES), ("mlp", "adamw"), ("convolutions", "sgd"), ("mlp", "ridge")]
)
def test_fifty_steps_of_the_usual_loop(name: str, optimizer: str) -> None:
    """On the same batches, in float64: the same losses, parameters and running statistics."""
    SEEN.clear()
    chosen, options, make = OPTIMIZERS[optimizer]
    model, X, y = model_of(name, optimizer=chosen, dtype="float64", max_epochs=6 if name == "mlp" else 4, **options)
    plain = seeded(CASES[name][0]).double()
    model.module.register_forward_pre_hook(see_rows)
    model.criterion = torch.nn.CrossEntropyLoss()
    model.criterion.register_forward_pre_hook(see_targets)
    with dask.config.set(num_workers=1):
        in_process(model, X[:900], y[:900])
    assert len(SEEN) >= 50
    update, losses = make(plain), []
    for rows, target in SEEN:
        update.zero_grad()
        loss = torch.nn.functional.cross_entropy(plain(rows), target)
        loss.backward()
        matrices = [each.detach() for each in plain.parameters() if each.ndim > 1]
        losses.append(loss.item() + 0.5 * options.get("alpha", 0.0) * sum(float((each**2).sum()) for each in matrices))
        update.step()
    np.testing.assert_allclose([row["objective"] for row in model.history_], losses, rtol=1e-7)
    state = model.module_.state_dict()
    for key, expected in plain.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_allclose(state[key].numpy(), expected.numpy(), rtol=1e-5, atol=1e-7, err_msg=key)


# -- the same everywhere -------------------------------------------------------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "mini-batch": {},
    "large batches": {"batch_size": 256, "micro_batch_size": 50},
    "accumulated": {"accumulate": 3, "average": True, "clip_norm": 1.0},
    "stopping": {"early_stopping": True, "tol": 1e-4},
    "async": {"solver": "async"},
    "local-sgd": {"solver": "local-sgd", "local_steps": 2},
    "local with momentum": {"solver": LocalUpdates(n_steps=2, proximal=0.1, outer=Momentum(0.5))},
    "lbfgs": {"solver": "lbfgs", "max_epochs": 4, "tol": 1e-6, "dtype": "float64"},
    "groups": {"param_groups": [("*.bias", {"lr": 0.1}), ("*1*", {"lr": 0.01, "learning_rate": "cosine"})]},
    "without statistics": {"frozen": ["norm1.*", "norm2.*"]},
    "served": {"frozen": ["norm1.*", "norm2.*"], "solver": "parameter-server"},
    "compressed": {"frozen": ["norm1.*", "norm2.*"], "compression": "int8"},
}


@pytest.fixture(scope="module")
def two_workers() -> Any:
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster, Client(cluster) as client:
        yield client


@pytest.mark.parametrize("way", WAYS)
def test_every_way_has_the_same_bits_on_workers(way: str, two_workers: Client) -> None:
    model, X, y = model_of("convolutions", **WAYS[way])
    X, y = X[:600], y[:600]
    here = in_process(model, X, y).parameters_sha256_
    with dask.config.set(num_workers=1):
        assert in_process(model, X, y).parameters_sha256_ == here
    model.fit(dataset(X, y))
    assert model.parameters_sha256_ == here
    assert all(torch.isfinite(each).all() for each in model.module_.state_dict().values())
    running = model.module_.norm1.running_var
    assert bool((running == 1).all()) == ("norm1.*" in WAYS[way].get("frozen", []) or way == "lbfgs")  # full passes evaluate
    assert (running > 0).all()


@pytest.mark.parametrize("name", ["convolutions", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mlp", "transformer"))])
@pytest.mark.timeout(240)
def test_the_same_digest_on_any_cluster(name: str) -> None:
    """In process, on 1, 2 and 4 workers, with one that is killed, and with one fit that was stopped and goes on."""
    own = {"mlp": {"module": MLP, "module_params": {"dropout": 0.3}}, "transformer": {}, "convolutions": {}}[name]
    model, X, y = model_of(name, max_epochs=3)
    model.set_params(**own)
    X, y = X[:600], y[:600]
    expected = in_process(model, X, y).parameters_sha256_
    for n_workers in (1, 2, 4):
        with (
            LocalCluster(n_workers=n_workers, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            assert model.fit(dataset(X, y)).parameters_sha256_ == expected, n_workers
            if n_workers == 2:
                killed = []

                def kill(client: Client = client, cluster: LocalCluster = cluster, killed: list[int] = killed) -> None:
                    (victim, *_) = cluster.workers.values()
                    killed.append(victim.process.pid)
                    os.kill(victim.process.pid, signal.SIGKILL)

                again = clone(model).set_callbacks(AfterRounds((5,), kill))
                assert again.fit(dataset(X, y)).parameters_sha256_ == expected
                assert killed


@pytest.mark.parametrize("name", CASES)
def test_a_fit_goes_on_from_its_checkpoint(name: str, tmp_path: Path) -> None:
    model, X, y = model_of(name, max_epochs=3)
    X, y = X[:400], y[:400]
    expected = in_process(model, X, y).parameters_sha256_
    kept = clone(model).set_params(checkpoint=Checkpoint(directory=tmp_path, every_rounds=2))
    stopped = clone(kept).set_callbacks(AfterRounds((7,), lambda: True))
    in_process(stopped, X, y)
    assert stopped.status_.reason == INTERRUPTED or stopped.n_rounds_ < model.n_rounds_
    other = clone(kept).set_params(module=seeded(CASES[name][0]), checkpoint=Checkpoint(directory=tmp_path, shared=False))
    with torch.no_grad():
        next(other.module.parameters()).add_(1.0)
    with pytest.raises(ValueError, match="is of another problem: its module is"):
        in_process(other, X, y)
    in_process(kept, X, y)
    assert kept.resumed_from_ > 0
    assert kept.parameters_sha256_ == expected


def test_rows_may_live_on_a_device() -> None:
    """The CPU as PyTorch has it: the same bits, and predictions that are tensors there."""
    model, X, y = model_of("convolutions")
    X, y = X[:400], y[:400]
    expected = in_process(model, X, y).parameters_sha256_
    assert model.fit(Dataset.from_arrays(X, y, np.ones(400), n_partitions=4, device="torch:cpu")).parameters_sha256_ == expected
    assert model.fit(Dataset.from_arrays(torch.from_numpy(X), torch.from_numpy(y), n_partitions=4)).parameters_sha256_ == expected
    found = model.decision_function(torch.from_numpy(X[:9]))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), model.decision_function(X[:9]))
    elsewhere = Dataset.from_arrays(X, y, n_partitions=4, device="array_api_strict:device1")  # which tells PyTorch where its memory is
    assert model.fit(elsewhere).parameters_sha256_ == expected


UPDATES: dict[str, dict[str, Any]] = {
    "mini-batch": {},
    "accumulated": {"accumulate": 3},
    "async": {"solver": "async"},
    "damped": {"solver": Overlap(damped=True)},
    "local-sgd": {"solver": "local-sgd", "local_steps": 3},
}


@pytest.mark.parametrize("way", UPDATES)
@pytest.mark.parametrize("weighted", [False, True])
def test_running_means_follow_each_batch(way: str, weighted: bool) -> None:
    """Of a column that is 10 everywhere: 10 (1 - 0.9^n) after n batches, whatever subtrees and rows weigh."""
    rows, chunks = np.random.default_rng(0).normal(size=(500, 3)), (400, 100)
    rows[:, 0] = 10.0
    labels, weight = np.arange(500) % 2, np.linspace(0.1, 3.0, 500) if weighted else None
    arrays = [
        None if each is None else da.from_array(each, chunks=(chunks, *((n,) for n in each.shape[1:]))) for each in (rows, labels, weight)
    ]
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
    model = TorchClassifier(module, batch_size=50, max_epochs=4, dtype="float64", random_state=0, **UPDATES[way])
    with dask.config.set(scheduler="threads"):
        model.fit(Dataset.from_dask(*arrays))
    n_batches = 20 if way == "local-sgd" else 40  # its subtrees update side by side
    np.testing.assert_allclose(model.module_[0].running_mean[0], 10 * (1 - 0.9**n_batches), rtol=1e-12)


@pytest.mark.parametrize("solver", ["async", "local-sgd"])
def test_a_small_last_partition_may_draw_single_rows(solver: str) -> None:
    rows, chunks = np.random.default_rng(0).normal(size=(603, 3)), (200, 200, 200, 3)
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
    model = TorchClassifier(module, solver=solver, batch_size=50, max_epochs=2, random_state=0)
    with dask.config.set(scheduler="threads"):
        model.fit(Dataset.from_dask(da.from_array(rows, chunks=(chunks, (3,))), da.from_array(np.arange(603) % 2, chunks=(chunks,))))
    np.testing.assert_allclose(model.module_[0].running_var, 1.0, atol=0.3)


# -- what users do -------------------------------------------------------------------------------------------------------------------


def test_it_learns_as_the_perceptron_does() -> None:
    X, y = breast_cancer()
    model = TorchClassifier(MLP, max_epochs=30, lr=0.01, random_state=0).fit(X[100:], y[100:])
    other = MLPClassifier((16,), max_iter=30, learning_rate_init=0.01, batch_size=128, random_state=0).fit(X[100:], y[100:])
    assert model.score(X[:100], y[:100]) >= other.score(X[:100], y[:100]) - 0.03
    assert model.loss_ < 2 * other.loss_ + 0.05
    proba = model.predict_proba(X[:100])
    np.testing.assert_allclose(
        proba, torch.softmax(model.module_(torch.tensor(X[:100], dtype=torch.float32)), dim=1).detach(), rtol=1e-4, atol=1e-6
    )
    assert (model.classes_[proba.argmax(axis=1)] == model.predict(X[:100])).all()
    lazy = model.predict_proba(da.from_array(X[:100], chunks=(30, 30)))
    np.testing.assert_array_equal(lazy.compute(), proba)


@pytest.mark.parametrize("criterion", [None, torch.nn.L1Loss(), torch.nn.MSELoss(reduction="sum")], ids=str)
def test_numbers(criterion: Any) -> None:
    X, y = diabetes()
    y = (y - y.mean()) / y.std()
    model = TorchRegressor(MLP, criterion, module_params={"n_columns": 10, "n_outputs": 1}, lr=0.02, max_epochs=40, random_state=0).fit(
        X * 20, y
    )
    assert model.score(X * 20, y) > 0.5
    assert model.predict(X).shape == (len(X),)
    two = clone(model).set_params(module__n_outputs=2, max_epochs=2).fit(X, np.stack([y, -y], axis=1))
    assert two.predict(X).shape == (len(X), 2)
    assert two.n_outputs_ == 2


def test_one_output_is_for_two_classes() -> None:
    X, y = breast_cancer()
    labels = np.array(["no", "yes"])[y]
    for criterion in (None, torch.nn.BCEWithLogitsLoss()):
        model = TorchClassifier(MLP, criterion, module_params={"n_outputs": 1}, max_epochs=20, lr=0.01, random_state=0).fit(X, labels)
        assert model.score(X, labels) > 0.95
        assert model.predict_proba(X).shape == (len(X), 2)
        assert model.decision_function(X).shape == (len(X),)


def test_seeds_and_instances() -> None:
    """A class is made by random_state's numbers, and the user's own stream stays where it is; an instance begins with what it has."""
    X, y = breast_cancer()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    digests = {TorchClassifier(MLP, max_epochs=1, random_state=seed).fit(X, y).parameters_sha256_ for seed in (0, 0, 1)}
    assert len(digests) == 2
    assert torch.equal(before, torch.get_rng_state())
    module = MLP()
    first, second = (TorchClassifier(module, max_epochs=1, random_state=0).fit(X, y).parameters_sha256_ for _ in range(2))
    assert first == second
    assert TorchClassifier("tests.nets:MLP", max_epochs=1, random_state=0).fit(X, y).parameters_sha256_ in digests


def test_a_warm_start_from_another_module_is_another_fit(tmp_path: Path) -> None:
    """Also where only numbers that are frozen differ."""
    X, y = breast_cancer()
    model = TorchClassifier(MLP, max_epochs=2, frozen=["body.*"], random_state=0, warm_start=True).fit(X, y)
    first = pickle.loads(pickle.dumps(model)).set_params(checkpoint=Checkpoint(directory=tmp_path, every_rounds=1))
    in_process(first.set_callbacks(AfterRounds((3,), lambda: True)), X, y)
    second = pickle.loads(pickle.dumps(model)).set_params(checkpoint=Checkpoint(directory=tmp_path, every_rounds=1))
    third = pickle.loads(pickle.dumps(second))
    with torch.no_grad():
        third.module_.body[0].weight.add_(1.0)
    assert in_process(third, X, y).resumed_from_ == 0
    assert in_process(second, X, y).resumed_from_ > 0


def test_fits_side_by_side_keep_their_seeds() -> None:
    """PyTorch's own stream is one for all threads: each fit makes its module from its own seed, and leaves the stream where it is."""
    X, y = breast_cancer()

    def fitted(seed: int) -> str:
        model = TorchClassifier(MLP, module_params={"hidden": 200, "dropout": 0.1}, max_epochs=1, random_state=seed)
        return str(model.fit(X[:50], y[:50]).parameters_sha256_)

    with dask.config.set(scheduler="threads"):
        expected = [fitted(seed % 3) for seed in range(24)]
        before = torch.get_rng_state()
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(fitted, [seed % 3 for seed in range(24)])) == expected
    assert torch.equal(before, torch.get_rng_state())


class Named(torch.nn.Module):
    """Has a parameter by the name that labels have in files."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = torch.nn.Parameter(torch.zeros(30, 2))

    def forward(self, x: Any) -> Any:
        return x @ self.classes


def test_a_parameter_by_the_name_of_the_labels(tmp_path: Path) -> None:
    X, y = breast_cancer()
    model = TorchClassifier(Named, max_epochs=1, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="the module's 'classes' would be where a file has the labels; give the parameter another name"):
        save_model(model, tmp_path / "model")
    numbers = TorchRegressor(Named, max_epochs=1, random_state=0).fit(X, np.column_stack([y, y]))
    save_model(numbers, tmp_path / "model")
    np.testing.assert_array_equal(load_model(tmp_path / "model", module=Named).predict(X), numbers.predict(X))


def test_a_criterion_from_its_place() -> None:
    X, y = breast_cancer()
    by_place = TorchClassifier(MLP, "torch.nn:CrossEntropyLoss", max_epochs=1, random_state=0).fit(X, y)
    given = TorchClassifier(MLP, torch.nn.CrossEntropyLoss(), max_epochs=1, random_state=0).fit(X, y)
    assert by_place.parameters_sha256_ == given.parameters_sha256_


def test_frozen_then_fine_tuned() -> None:
    X, y = breast_cancer()
    module = seeded(MLP)
    model = TorchClassifier(module, max_epochs=5, frozen=["body.*"], lr=0.01, random_state=0, warm_start=True).fit(X, y)
    assert torch.equal(model.module_.body[0].weight, module.body[0].weight)
    assert not torch.equal(model.module_.head.weight, module.head.weight)
    loss, body, head = model.loss_, model.module_.body[0].weight, model.module_.head.weight
    tuned = model.set_params(frozen=[], lr=0.001).fit(X, y)
    assert not torch.equal(tuned.module_.body[0].weight, body)
    assert tuned.loss_curve_[0] < 1.1 * loss
    assert np.abs((tuned.module_.head.weight - head).detach().numpy()).max() < 0.1


def test_groups_have_their_own_step_sizes() -> None:
    X, y = breast_cancer()
    module = seeded(MLP)
    model = TorchClassifier(module, optimizer="sgd", momentum=0.0, lr=0.1, max_epochs=1, batch_size=len(X), random_state=0)
    plain = clone(model).fit(X, y).module_.state_dict()
    scaled = clone(model).set_params(param_groups=[("head.bias", {"lr": 0.0001}), ("head.*", {"lr": 0.3})]).fit(X, y).module_.state_dict()
    for name, factor in (("body.0.weight", 1.0), ("body.0.bias", 1.0), ("head.weight", 3.0), ("head.bias", 0.001)):
        start = module.state_dict()[name].numpy()
        np.testing.assert_allclose(scaled[name].numpy() - start, factor * (plain[name].numpy() - start), rtol=1e-3, atol=1e-7)


def test_partial_fits_are_one_long_fit() -> None:
    X, y = breast_cancer()
    whole = TorchClassifier(MLP, max_epochs=3, random_state=0, module_params={"dropout": 0.2}).fit(X, y)
    parts = clone(whole)
    for _ in range(3):
        parts.partial_fit(X, y, classes=[0, 1])
    assert parts.parameters_sha256_ == whole.parameters_sha256_
    parts = pickle.loads(
        cloudpickle.dumps(clone(parts).set_params(module=lambda dropout: MLP(dropout=dropout)).partial_fit(X, y, classes=[0, 1]))
    )
    parts.partial_fit(X, y)  # the function has another address now
    parts.set_params(optimizer="sgd")
    with pytest.raises(ValueError, match="goes on from the last fit, whose optimizer was 'Adam' and is 'Nesterov' now"):
        parts.partial_fit(X, y)


def test_files_have_the_state_dict(tmp_path: Path) -> None:
    model, X, y = model_of("convolutions", max_epochs=1)
    model.fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_model(model, tmp_path / "model.safetensors")
    saved = load_file(tmp_path / "model.safetensors")
    fresh = ConvNet()
    fresh.load_state_dict({name: each for name, each in saved.items() if name != "classes"})
    read = load_model(tmp_path / "model.safetensors", module=ConvNet)
    np.testing.assert_array_equal(read.predict_proba(X), model.predict_proba(X))
    assert read.parameters_sha256_ == model.parameters_sha256_
    with pytest.raises(ValueError, match=r"no code; give the module: load_model\(path, module=Net\(\)\)"):
        load_model(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="the numbers of the file are of another module than MLP"):
        load_model(tmp_path / "model.safetensors", module=MLP())
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_scikit_learns_tools() -> None:
    X, y = breast_cancer()
    search = GridSearchCV(TorchClassifier(MLP, max_epochs=3, random_state=0), {"module__hidden": [2, 8], "lr": [0.001, 0.01]}, cv=3).fit(
        X, y
    )
    assert search.best_params_["lr"] == 0.01
    assert search.best_estimator_.module_.head.in_features == search.best_params_["module__hidden"]
    assert make_pipeline(StandardScaler(), TorchClassifier(MLP, max_epochs=20, lr=0.01, random_state=0)).fit(X, y).score(X, y) > 0.95
    assert "module__hidden" in TorchClassifier(MLP, module_params={"hidden": 3}).get_params()
    assert clone(TorchClassifier(MLP, module_params={"hidden": 3})).module_params == {"hidden": 3}


JOB = """
[data]
kind = "bundled"
name = "digits"
partition_rows = [400, 500, 897]

[estimator]
name = "TorchClassifier"
module = "nets:ConvNet"
input_shape = [1, 8, 8]
max_epochs = 2
random_state = 3
param_groups = [["fc.*", {lr = 0.01}]]
"""


def test_a_job_of_a_module(tmp_path: Path) -> None:
    """Trained, compared with its record, and asked for predictions, by commands."""
    (tmp_path / "job.toml").write_text(JOB)
    shutil.copy(Path(__file__).parents[2] / "nets.py", tmp_path / "nets.py")
    X, _ = digits()
    frame = pd.DataFrame(16 * X[:20], columns=[f"pixel_{i}_{j}" for i in range(8) for j in range(8)])
    frame.to_csv(tmp_path / "rows.csv", index=False)
    root = str(Path(__file__).parents[3])

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{root}"}
        run = [sys.executable, "-m", "pipeline", *words]
        return subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)

    trained = command("train", "job.toml", "--quiet")
    assert trained.returncode == 0, trained.stderr
    verified = command("verify", "runs/job", "--n-workers", "1")
    assert verified.stdout.startswith("the same: "), verified.stdout + verified.stderr
    refused = command("predict", "runs/job", "rows.csv", "--out", "found.csv", "--quiet")
    assert "no code; give the module" in refused.stderr
    predicted = command("predict", "runs/job", "rows.csv", "--module", "nets:ConvNet", "--out", "found.csv", "--quiet")
    assert predicted.returncode == 0, predicted.stderr
    model = load_model(tmp_path / "runs" / "job", module=ConvNet)
    np.testing.assert_array_equal(pd.read_csv(tmp_path / "found.csv").iloc[:, 0], model.predict(frame))


X, Y = np.random.default_rng(0).normal(size=(60, 30)), np.arange(60) % 3
REFUSED: dict[str, tuple[Any, Any, str]] = {
    "no module": (TorchClassifier(), TypeError, "module must be a torch.nn.Module, or a class or function that makes one, got None"),
    "parameters": (
        TorchClassifier(MLP(), module_params={"hidden": 3}),
        ValueError,
        "beside a module; give the class that makes it: module=MLP",
    ),
    "outputs": (TorchClassifier(MLP), ValueError, "y has 3 classes, but MLP has 2 outputs; it must have one for each"),
    "solver": (TorchClassifier(MLP, solver="newton"), ValueError, "solver='newton' is not available; use one of 'mini-batch'"),
    "frozen": (TorchClassifier(MLP, frozen="body"), TypeError, r"frozen must be a list of patterns, \['encoder\.\*'\] say, got 'body'"),
    "patterns": (TorchClassifier(MLP, frozen=[3]), TypeError, r"frozen must be a list of patterns, \['encoder\.\*'\] say, got \[3\]"),
    "criterion": (TorchClassifier(MLP, torch.nn.CrossEntropyLoss), TypeError, "criterion must be an object such as"),
    "groups": (TorchClassifier(MLP, param_groups=[3]), TypeError, r"param_groups must be pairs \(pattern, options\)"),
    "options": (TorchClassifier(MLP, param_groups=[("*", {"betas": 1})]), ValueError, "a pattern has options lr and learning_rate"),
    "nobody": (
        TorchClassifier(MLP, module_params={"n_outputs": 3}, param_groups=[("neck", {"lr": 1.0})]),
        ValueError,
        "param_groups: 'neck' meets no parameter that moves",
    ),
    "group": (TorchClassifier(MLP, param_groups=3), TypeError, r"param_groups must be a list of pairs \(pattern, options\), got 3"),
    "place": (TorchClassifier(".nets:MLP"), ValueError, "'.nets:MLP' cannot be imported"),
    "local groups": (TorchClassifier(MLP, solver="local-sgd", param_groups=[("*", {})]), ValueError, "is not for local updates"),
    "width": (
        TorchClassifier(MLP, module_params={"n_columns": 7, "n_outputs": 3}),
        ValueError,
        r"MLP cannot take rows of shape \(2, 30\): .*shapes cannot be multiplied.*; X has 30 columns, see input_shape",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_any_round(name: str) -> None:
    model, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        clone(model).fit(X, Y)


def test_no_groups_are_no_groups_whatever_holds_them() -> None:
    """As files give them back."""
    for solver in ("local-sgd", "parameter-server"):
        model = TorchClassifier(MLP, solver=solver, module_params={"n_outputs": 3}, max_epochs=1, random_state=0)
        digests = {clone(model).set_params(param_groups=none).fit(X, Y).parameters_sha256_ for none in ((), [])}
        assert len(digests) == 1


def test_what_cannot_keep_statistics_says_so() -> None:
    for options, what in (({"compression": "int8"}, "compress what is sent"), ({"solver": "parameter-server"}, "update slices")):
        model, rows, y = model_of("convolutions", **options)
        with pytest.raises(ValueError, match=rf"{what}.*cannot keep running statistics \(norm1.running_mean\); use other rounds, freeze"):
            model.fit(rows, y)


def test_predictions_need_a_fit() -> None:
    with pytest.raises(NotFittedError):
        TorchClassifier(MLP).predict(X)


def test_a_fit_that_diverges_says_so() -> None:
    rows, y = diabetes()
    with pytest.warns(ConvergenceWarning, match="diverged"):
        model = TorchRegressor(
            MLP, module_params={"n_columns": 10, "n_outputs": 1}, optimizer="sgd", lr=1e6, max_epochs=3, random_state=0
        ).fit(rows, y)
    assert all(torch.isfinite(each).all() for each in model.module_.parameters())
