"""A fit that was stopped and goes on ends in the bits of one that never stopped, wherever it goes on."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from pipeline import (
    Checkpoint,
    Dataset,
    LinearRegression,
    LogisticRegression,
    MLPClassifier,
    MLPRegressor,
    Ridge,
    SGDClassifier,
    SGDRegressor,
    mini_batches,
    minimise,
)
from pipeline.estimators.base import GradientModel
from pipeline.estimators.solvers import SOLVERS
from pipeline.execution.sessions import Sessions
from pipeline.training.loop import INTERRUPTED
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss
from tasks.strategies.lbfgs import LBFGS
from tasks.strategies.optimizers import Adam
from tasks.strategies.stochastic_gradient import StochasticGradient
from tests.data import breast_cancer, diabetes, uneven, weights
from tests.rounds import AfterRounds

Array = NDArray[Any]
MODELS: dict[str, tuple[GradientModel, Callable[[], tuple[Array, Array]]]] = {
    **{f"logistic {solver}": (LogisticRegression(solver=solver, tol=1e-6, max_iter=12), breast_cancer) for solver in SOLVERS},
    "logistic sampled": (LogisticRegression(solver="sampled-newton", tol=1e-8, class_weight="balanced"), breast_cancer),
    "linear": (LinearRegression(solver="lbfgs"), diabetes),
    "ridge": (Ridge(solver="newton-cg"), diabetes),
    "sgd": (SGDClassifier("log_loss", random_state=3, max_iter=6, tol=None), breast_cancer),
    "sgd svrg": (SGDClassifier("log_loss", random_state=3, max_iter=6, tol=None, variance_reduction="svrg", average=True), breast_cancer),
    "sgd norm": (SGDRegressor(random_state=3, max_iter=5, tol=None, importance="norm", penalty="l1", accumulate=3), diabetes),
    "mlp": (MLPClassifier((8,), random_state=0, max_iter=5, dropout=0.2, batch_size=64), breast_cancer),
    "mlp stopping": (MLPClassifier((8,), random_state=0, max_iter=6, early_stopping=True, batch_size=64), breast_cancer),
    "mlp adaptive": (
        MLPRegressor(hidden_layer_sizes=(8,), solver="sgd", learning_rate="adaptive", random_state=0, max_iter=6, batch_size=64),
        diabetes,
    ),
    "mlp lbfgs": (MLPClassifier((8,), solver="lbfgs", random_state=0, max_iter=8), breast_cancer),
}


class StoppedError(Exception):
    """What ends a fit in these tests."""


def stop() -> None:
    raise StoppedError


@pytest.fixture(autouse=True)
def _few_steps() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def rows(read: Callable[[], tuple[Array, Array]]) -> Dataset:
    X, y = read()
    return Dataset.from_arrays(X, y, weights(len(X)), partition_rows=uneven(len(X), 13))


def stopped_after(n_rounds: int, model: GradientModel, dataset: Dataset, **options: Any) -> None:
    """Fit, and fail after so many rounds."""
    stopped = clone(model).set_params(**options)
    stopped.set_callbacks(AfterRounds((n_rounds,), stop))
    with pytest.raises(StoppedError):
        stopped.fit(dataset)


def story(model: GradientModel) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in ("seconds", "bytes_sent", "bytes_received")} for row in model.history_]


def assert_same(model: GradientModel, whole: GradientModel) -> None:
    assert model.parameters_sha256_ == whole.parameters_sha256_
    assert json.dumps(story(model)) == json.dumps(story(whole))
    assert model.status_ == whole.status_
    assert np.all(model.n_iter_ == whole.n_iter_)
    for name in ("loss_curve_", "validation_scores_", "t_", "best_loss_"):
        assert vars(model).get(name) == vars(whole).get(name)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.long
def test_every_model_goes_on_to_the_same_bits(tmp_path: Path, name: str) -> None:
    model, read = MODELS[name]
    whole = clone(model).fit(rows(read))
    assert whole.resumed_from_ == 0
    for n_rounds in sorted({1, whole.n_rounds_ // 3, whole.n_rounds_ - 1} - {0}):
        stopped_after(n_rounds, model, rows(read), checkpoint=tmp_path)
        resumed = clone(model).set_params(checkpoint=tmp_path).fit(rows(read))
        assert resumed.resumed_from_ == n_rounds
        assert_same(resumed, whole)
        assert not tmp_path.exists()


@pytest.mark.parametrize("name", ["logistic lbfgs", "logistic newton", "sgd svrg", "mlp stopping"])
@pytest.mark.usefixtures("rounds_from_here")
@pytest.mark.long
def test_here_and_on_a_cluster(tmp_path: Path, client: Client, name: str) -> None:
    model, read = MODELS[name]
    with dask.config.set(scheduler="threads"):
        whole = clone(model).fit(rows(read))
        stopped_after(1, model, rows(read), checkpoint=tmp_path)
    stopped_after(1, model, rows(read), checkpoint=tmp_path)
    with dask.config.set(scheduler="synchronous"):
        stopped_after(1, model, rows(read), checkpoint=tmp_path)
    resumed = clone(model).set_params(checkpoint=tmp_path).fit(rows(read))
    assert resumed.resumed_from_ == 3
    assert_same(resumed, whole)


@pytest.mark.long
def test_resident_rounds_are_saved_when_the_client_hears_of_them(tmp_path: Path, client: Client) -> None:
    model = SGDClassifier("log_loss", random_state=3, max_iter=300, tol=None)
    dataset = rows(breast_cancer)
    whole = clone(model).fit(dataset)
    stopped_after(1500, model, dataset, checkpoint=Checkpoint(directory=tmp_path, every_rounds=1))
    resumed = clone(model).set_params(checkpoint=tmp_path).fit(dataset)
    assert resumed.resumed_from_ >= 1500
    assert_same(resumed, whole)


def test_a_seed_that_nobody_gave_is_that_of_the_fit_that_goes_on(tmp_path: Path) -> None:
    X, y = breast_cancer()
    model = MLPClassifier((5,), max_iter=4, checkpoint=tmp_path)
    stopped_after(3, model, Dataset.from_arrays(X, y))
    resumed = clone(model).fit(Dataset.from_arrays(X, y))
    assert resumed.resumed_from_ == 3
    assert (
        resumed.parameters_sha256_
        == MLPClassifier((5,), max_iter=4, random_state=0)
        .set_params(random_state=Seed(resumed._seed))
        .fit(Dataset.from_arrays(X, y))
        .parameters_sha256_
    )


class Seed(np.random.RandomState):
    """Draws one number."""

    def __init__(self, seed: int) -> None:
        super().__init__(0)
        self.seed_to_draw = seed

    def randint(self, *arguments: Any, **options: Any) -> Any:
        return self.seed_to_draw


def test_other_parameters_and_other_rows_begin_anew(tmp_path: Path) -> None:
    X, y = breast_cancer()
    model = LogisticRegression(solver="lbfgs", checkpoint=tmp_path)
    stopped_after(3, model, Dataset.from_arrays(X, y))
    others = [
        (model, Dataset.from_arrays(X * 2, y)),
        (model, Dataset.from_arrays(X[::-1], y)),
        (model, Dataset.from_arrays(X, y, n_partitions=3)),
        (model, Dataset.from_arrays(X, y, weights(len(X)))),
        (clone(model).set_params(C=2.0), Dataset.from_arrays(X, y)),
        (clone(model).set_params(solver=LBFGS(memory=3)), Dataset.from_arrays(X, y)),
    ]
    for other, dataset in others:
        assert clone(other).fit(dataset).resumed_from_ == 0
    assert clone(model).fit(Dataset.from_arrays(X, y)).resumed_from_ == 3


@pytest.mark.long
def test_a_search_that_shares_a_directory_finds_what_it_would_without(tmp_path: Path) -> None:
    X, y = breast_cancer()
    grid = {"C": [0.1, 1.0, 10.0]}
    plain = GridSearchCV(LogisticRegression(solver="lbfgs"), grid, cv=3).fit(X, y)
    kept = LogisticRegression(solver="lbfgs", checkpoint=Checkpoint(directory=tmp_path, every_rounds=1))
    found = GridSearchCV(kept, grid, cv=3, n_jobs=2).fit(X, y)
    np.testing.assert_array_equal(found.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"])
    assert found.best_estimator_.parameters_sha256_ == plain.best_estimator_.parameters_sha256_
    assert not tmp_path.exists()


def test_partial_fits_and_warm_starts_are_told_apart(tmp_path: Path) -> None:
    X, y = breast_cancer()
    dataset = Dataset.from_arrays(X, y)
    model = SGDClassifier("log_loss", random_state=0, checkpoint=tmp_path)
    plain = SGDClassifier("log_loss", random_state=0)
    for each in (model, plain):
        each.partial_fit(dataset, classes=[0, 1])
    model.set_callbacks(AfterRounds((2,), stop))
    with pytest.raises(StoppedError):
        model.partial_fit(dataset)
    model.set_callbacks()
    assert model.partial_fit(dataset).resumed_from_ == 2
    assert model.parameters_sha256_ == plain.partial_fit(dataset).parameters_sha256_
    assert model.partial_fit(dataset).resumed_from_ == 0
    assert model.parameters_sha256_ == plain.partial_fit(dataset).parameters_sha256_
    before = copy.deepcopy(model)
    for each in (model, plain):
        each.coef_ *= 0.5
    model.set_callbacks(AfterRounds((2,), stop))
    with pytest.raises(StoppedError):
        model.partial_fit(dataset)
    assert before.partial_fit(dataset).resumed_from_ == 0  # from other coefficients
    assert model.set_callbacks().partial_fit(dataset).resumed_from_ == 2
    assert model.parameters_sha256_ == plain.partial_fit(dataset).parameters_sha256_ != before.parameters_sha256_


def test_a_whole_fit_is_another_problem_than_a_partial_one(tmp_path: Path) -> None:
    X, y = breast_cancer()
    dataset = Dataset.from_arrays(X, y)

    def model(**options: Any) -> SGDClassifier:
        return SGDClassifier("log_loss", random_state=0, **options)

    stopped = model(checkpoint=tmp_path).set_callbacks(AfterRounds((5,), stop))
    with pytest.raises(StoppedError):
        stopped.fit(dataset)
    for classes in ([0, 1], [0, 1, 2]):
        partial = model(checkpoint=tmp_path).partial_fit(dataset, classes=classes)
        assert partial.resumed_from_ == 0
        assert partial.parameters_sha256_ == model().partial_fit(dataset, classes=classes).parameters_sha256_
    assert model(checkpoint=tmp_path, alpha=np.float64(1e-4)).fit(dataset).resumed_from_ == 5  # the default, as a search would give it


def test_another_start_is_another_problem(tmp_path: Path) -> None:
    """Of a warm start whose coefficients somebody has set, and of a partial fit after one that kept no state."""
    X, y = breast_cancer()

    def warm(value: float) -> LogisticRegression:
        model = LogisticRegression(solver="lbfgs", warm_start=True, max_iter=3, checkpoint=tmp_path)
        model.set_params(checkpoint=None).fit(X, y).set_params(checkpoint=tmp_path, max_iter=100)
        model.coef_[:] = value
        return model

    stopped = warm(0.5).set_callbacks(AfterRounds((4,), stop))
    with pytest.raises(StoppedError):
        stopped.fit(X, y)
    assert warm(0.25).fit(X, y).resumed_from_ == 0
    assert warm(0.5).fit(X, y).resumed_from_ == 4

    def network(max_iter: int) -> MLPClassifier:
        model = MLPClassifier((3,), solver="lbfgs", max_iter=max_iter, random_state=0).fit(X, y)
        return model.set_params(solver="adam", max_iter=10, checkpoint=tmp_path)

    stopped_network = network(2).set_callbacks(AfterRounds((2,), stop))
    with pytest.raises(StoppedError):
        stopped_network.partial_fit(X, y, classes=[0, 1])
    assert network(5).partial_fit(X, y, classes=[0, 1]).resumed_from_ == 0
    assert network(2).partial_fit(X, y, classes=[0, 1]).resumed_from_ == 2


@pytest.mark.parametrize("strategy", ["lbfgs", "mini-batches"])
def test_models_of_your_own_go_on(tmp_path: Path, strategy: str) -> None:
    X, y = breast_cancer()
    dataset = Dataset.from_arrays(X, y, n_partitions=5)
    objective = LinearObjective(LogisticLoss(), X.shape[1], 1, True, np.arange(2))
    chosen: Any = LBFGS(tol=1e-6)
    if strategy == "mini-batches":
        chosen = StochasticGradient(mini_batches(dataset, 100), Adam(), max_epochs=4, tol=-np.inf)
    start = np.zeros(X.shape[1] + 1)
    whole = minimise(objective, dataset, chosen, start)

    def third(row: Any) -> bool:
        return bool(row["round"] == 3)

    cut = minimise(objective, dataset, chosen, start, on_round=third, checkpoint=tmp_path)
    assert cut.status.kind == "out of rounds"
    rounds: list[int] = []
    found = minimise(objective, dataset, chosen, start, on_round=lambda row: bool(rounds.append(row["round"])), checkpoint=tmp_path)
    assert rounds[0] == 4
    assert found.parameters_sha256 == whole.parameters_sha256


def test_an_interrupt_leaves_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sessions, "due", lambda self: False)
    X, y = breast_cancer()
    model = MLPClassifier((5,), random_state=0, max_iter=4, checkpoint=tmp_path)
    whole = clone(model).fit(X, y)
    stopped = clone(model)
    stopped.set_callbacks(AfterRounds((2,), lambda: os.kill(os.getpid(), signal.SIGINT)))
    stopped.fit(X, y)
    assert stopped.status_.reason == INTERRUPTED
    resumed = clone(model).fit(X, y)
    assert resumed.resumed_from_ == stopped.n_rounds_
    assert resumed.parameters_sha256_ == whole.parameters_sha256_


# -- runs of the command line ----------------------------------------------------------------------------------------------------------

JOB = """
[data]
kind = "bundled"
name = "digits"
n_partitions = 7
[estimator]
name = "MLPClassifier"
hidden_layer_sizes = [16]
max_iter = 400
n_iter_no_change = 400
random_state = 0
[cluster]
kind = "in-process"
"""


def begin(directory: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    (directory / "job.toml").write_text(JOB)
    command = [sys.executable, "-m", "pipeline", "train", "job.toml", "--quiet", "--set", "checkpoint.every_rounds=50", *arguments]
    return subprocess.Popen(
        command, cwd=directory, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def wait_for_checkpoint(directory: Path) -> None:
    end = time.monotonic() + 50
    while not list(directory.glob("runs/job/checkpoints/*.safetensors")):
        assert time.monotonic() < end
        time.sleep(0.02)


def digest_of(directory: Path) -> str:
    return str(json.loads((directory / "runs" / "job" / "metrics.json").read_text())["parameters_sha256"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("undisturbed")
    code, errors = ended(begin(directory))
    assert code == 0, errors
    assert not (directory / "runs" / "job" / "checkpoints").exists()
    return digest_of(directory)


@pytest.mark.long
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.faults), pytest.param(signal.SIGINT, marks=pytest.mark.faults)],
)
def test_a_run_that_is_ended_goes_on(tmp_path: Path, undisturbed: str, number: signal.Signals) -> None:
    process = begin(tmp_path)
    wait_for_checkpoint(tmp_path)
    process.send_signal(number)
    code, errors = ended(process)
    assert code == {signal.SIGTERM: 143, signal.SIGKILL: -9, signal.SIGINT: 130}[number]
    assert ("ended by SIGTERM" in errors) == (number == signal.SIGTERM)
    assert ("--resume goes on from there" in errors) == (number != signal.SIGKILL)
    code, errors = ended(begin(tmp_path, "--resume"))
    assert code == 0, errors
    assert digest_of(tmp_path) == undisturbed
    metrics = json.loads((tmp_path / "runs" / "job" / "metrics.json").read_text())
    assert metrics["resumed_from"] >= 50
    assert not (tmp_path / "runs" / "job" / "checkpoints").exists()


@pytest.mark.faults
@pytest.mark.timeout(60)
def test_a_run_whose_walltime_nears_its_end_stops_in_time(tmp_path: Path) -> None:
    endless = [f"--set=estimator.{name}=100000" for name in ("max_iter", "n_iter_no_change")]
    code, errors = ended(begin(tmp_path, *endless, SLURM_JOB_END_TIME=str(int(time.time()) + 25)))
    assert code == 75, errors
    assert "the walltime is nearly over" in errors
    assert list(tmp_path.glob("runs/job/checkpoints/*.safetensors"))


@pytest.mark.timeout(60)
@pytest.mark.long
def test_a_changed_job_does_not_go_on(tmp_path: Path) -> None:
    process = begin(tmp_path)
    wait_for_checkpoint(tmp_path)
    process.kill()
    ended(process)
    code, errors = ended(begin(tmp_path, "--resume", "--set", "estimator.alpha=0.5"))
    assert code == 2
    assert "is of another problem: its alpha is 0.0001, here 0.5" in errors
    assert "goes on from there" not in errors


def test_elsewhere_than_in_the_main_thread_signals_stay_as_they_are(tmp_path: Path) -> None:
    X, y = breast_cancer()
    model = LogisticRegression(checkpoint=tmp_path)
    handlers: list[Any] = []
    model.set_callbacks(AfterRounds((1,), lambda: handlers.append(signal.getsignal(signal.SIGTERM))))
    thread = threading.Thread(target=model.fit, args=(X, y))
    thread.start()
    thread.join()
    model.fit(X, y)
    assert handlers == [signal.SIG_DFL]  # the second fit counts on
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
