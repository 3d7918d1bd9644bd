"""What a run writes, how a model is read back, and predictions for files."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from distributed import Client
from matplotlib.image import imread
from safetensors.numpy import load_file, save_file
from scipy.special import expit, softmax
from sklearn import linear_model
from sklearn.datasets import load_linnerud
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from pipeline import Dataset, LinearRegression, LogisticRegression, Ridge, SGDClassifier
from pipeline.execution.cluster import ClusterExecutor
from pipeline.files.whole import HOST, remove_leftovers, replace_file, write_beside
from pipeline.jobs.cluster import Local
from pipeline.jobs.job import Job, read_job
from pipeline.models.model_files import load_model, save_model
from pipeline.models.predictions import predict_files
from pipeline.runs.metrics import rows_read
from pipeline.runs.plots import loss_plot
from pipeline.runs.records import UNFINISHED
from pipeline.runs.run import Run, run_job
from pipeline.training.history import digest, finite
from pipeline.training.progress import RoundLog
from tasks.loading.synthetic import LinearRows
from tasks.rows.draws import split_rows
from tasks.strategies.newton import Newton
from tests.data import breast_cancer, diabetes, digits
from tests.rounds import AfterRounds

IN_PROCESS = {"cluster": {"kind": "in-process"}}


def run_here(name: str, directory: Path, *overrides: str) -> Run:
    return run_job(read_job(name, overrides, {**IN_PROCESS, "output": {"directory": str(directory)}}))


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_here(
        "digits", tmp_path_factory.mktemp("runs") / "digits", "estimator.solver=lbfgs", "estimator.tol=1e-7", "estimator.max_iter=1000"
    )


# -- runs ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_scores_are_scikit_learns_on_the_same_split(digits_run: Run) -> None:
    X, y = digits()
    sizes = read_job("digits").data.partition_rows  # type: ignore[attr-defined]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    split = [split_rows(n, 0.25, 0, i) for i, n in enumerate(sizes)]
    train, test = (np.concatenate([starts[i] + rows[part] for i, rows in enumerate(split)]) for part in (0, 1))
    reference = linear_model.LogisticRegression(solver="newton-cholesky", tol=1e-10, max_iter=1000).fit(X[train], y[train])
    assert digits_run.metrics["test_score"] == reference.score(X[test], y[test])
    assert digits_run.metrics["train_score"] == reference.score(X[train], y[train])
    assert (digits_run.metrics["n_train_rows"], digits_run.metrics["n_test_rows"]) == (len(train), len(test))


def test_a_run_writes_its_files(digits_run: Run) -> None:
    assert {path.name for path in digits_run.directory.iterdir()} == {
        "job.toml",
        "model.safetensors",
        "metrics.json",
        "history.jsonl",
        "loss.png",
        "digests.jsonl",
    }
    metrics = json.loads((digits_run.directory / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert metrics == digits_run.metrics
    assert metrics["parameters_sha256"] == load_model(digits_run.directory).parameters_sha256_
    assert metrics["status"] == "converged" and metrics["solver"] == "lbfgs" and metrics["n_partitions"] == 37
    history = [json.loads(line) for line in (digits_run.directory / "history.jsonl").read_text().splitlines()]
    assert [row["round"] for row in history] == list(range(1, metrics["rounds"] + 1))
    assert metrics["rows_per_second"] == pytest.approx(metrics["rounds"] * metrics["n_train_rows"] / metrics["fit_seconds"])
    picture = imread(digits_run.directory / "loss.png")
    assert picture.shape[0] > 200 and picture.std() > 0.01


def test_the_rounds_so_far_are_in_a_file_while_a_fit_runs(tmp_path: Path) -> None:
    path = tmp_path / "rounds"
    seen: list[list[str]] = []
    with RoundLog(path) as log:
        watch = AfterRounds((1, 2, 3), lambda: seen.append(path.read_text().splitlines()))
        model = LogisticRegression(tol=1e-3).set_callbacks(log, watch).fit(*breast_cancer())
    assert [len(lines) for lines in seen] == [1, 2, 3]
    assert [json.loads(line) for line in seen[-1]] == model.history_[:3]
    assert not path.exists()


@pytest.mark.long
def test_the_job_as_run_runs_again_to_the_same_bits(digits_run: Run, tmp_path: Path) -> None:
    again = run_job(read_job(str(digits_run.directory / "job.toml"), [f"output.directory={tmp_path / 'again'}"]))
    assert again.metrics["name"] == "digits"
    assert again.metrics["parameters_sha256"] == digits_run.metrics["parameters_sha256"]


@pytest.mark.long
def test_generated_rows_are_fitted_to_their_coefficients(tmp_path: Path) -> None:
    small = ("data.n_partitions=5", "data.rows_per_partition=8000", "data.n_columns=6", "data.dtype=float32")
    run = run_here("generated", tmp_path / "new" / "run", *small, "estimator.C=inf")
    coef = LinearRows("logistic", 8000, 6, "float32").coef
    assert run.model.coef_.dtype == np.float32
    np.testing.assert_allclose(run.model.coef_[0], coef, atol=0.12)
    np.testing.assert_array_equal(load_model(run.directory).coef_, run.model.coef_)


def test_regression_without_a_test_part(tmp_path: Path) -> None:
    table = {"data": {"kind": "bundled", "name": "diabetes"}, "estimator": {"name": "Ridge", "alpha": 0.1}, "split": {"test_size": 0}}
    run = run_job(Job.read({**table, **IN_PROCESS, "output": {"directory": str(tmp_path)}}, "ridge"))
    X, y = diabetes()
    assert run.metrics["test_score"] is None and run.metrics["n_test_rows"] == 0 and run.metrics["score_name"] == "r2"
    assert run.metrics["train_score"] == pytest.approx(linear_model.Ridge(alpha=0.1).fit(X, y).score(X, y), rel=1e-9)


def test_files_of_the_user_beside_checkpoints_stay(tmp_path: Path) -> None:
    own = tmp_path / "checkpoints" / "epoch-9.safetensors"
    own.parent.mkdir()
    own.write_text("mine")
    run_here("breast_cancer", tmp_path, "checkpoint.every_rounds=1")
    assert own.read_text() == "mine"
    assert list(own.parent.iterdir()) == [own]
    assert not (tmp_path / UNFINISHED).exists()


def test_a_run_that_fails_leaves_nothing_and_one_before_it_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="add up to the 569 rows"):
        run_here("breast_cancer", tmp_path / "run", "data.n_partitions=", "data.partition_rows=[1]")
    assert not (tmp_path / "run").exists()
    with pytest.warns(ConvergenceWarning, match="out of rounds"):
        run = run_here("breast_cancer", tmp_path / "run", "estimator.max_iter=1")
    assert run.metrics["status"] == "out of rounds"
    before = {path.name: path.read_bytes() for path in run.directory.iterdir()}
    with pytest.raises(ValueError, match="add up"):
        run_here("breast_cancer", tmp_path / "run", "data.n_partitions=", "data.partition_rows=[1]")
    assert {path.name: path.read_bytes() for path in run.directory.iterdir()} == before


@pytest.mark.parametrize("name", ["LogisticRegression", "SGDClassifier"])
@pytest.mark.filterwarnings("ignore:SGDClassifier. columns of X are of unlike sizes")
@pytest.mark.long
def test_a_run_that_fails_after_its_fit_goes_on_without_another_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    estimator = {"name": name, "max_iter": 500} | ({"random_state": 0} if name == "SGDClassifier" else {})
    job = read_job("breast_cancer", replace={**IN_PROCESS, "estimator": estimator, "output": {"directory": str(tmp_path)}})
    whole = run_job(job)
    assert not (tmp_path / "checkpoints").exists()
    with monkeypatch.context() as broken:
        broken.setattr("pipeline.runs.run.write_run", no_space)
        with pytest.raises(OSError, match="No space left"):
            run_job(job)
    run = run_job(job, resume=True)
    assert run.metrics["resumed_from"] == run.metrics["rounds"] == whole.metrics["rounds"]
    for key in ("parameters_sha256", "test_score", "train_score", "status_reason"):
        assert run.metrics[key] == whole.metrics[key]
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.long
def test_no_file_of_a_run_says_that_it_is_whole_while_others_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_here("breast_cancer", tmp_path)
    monkeypatch.setattr("pipeline.runs.run.save_model", no_space)
    with pytest.raises(OSError, match="No space left"):
        run_here("breast_cancer", tmp_path, "estimator.C=2.0")
    assert "C = 2.0" in (tmp_path / "job.toml").read_text()
    assert not (tmp_path / "metrics.json").exists()


def no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [({"path": "nowhere.csv"}, FileNotFoundError, "no file matches"), ({"target": "z"}, ValueError, "column 'z' is not there")],
)
def test_data_are_looked_for_before_a_cluster_is_started(
    change: dict[str, str], error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Local, "connect", lambda cluster: pytest.fail("started"))
    pd.DataFrame({"x": [1.0, 2.0], "y": [0, 1]}).to_csv(tmp_path / "rows.csv", index=False)
    data = {"kind": "csv", "path": str(tmp_path / "rows.csv"), "target": "y", **change}
    job = Job.read({"data": data, "estimator": {"name": "Ridge"}, "output": {"directory": str(tmp_path / "run")}}, "job")
    with pytest.raises(error, match=message):
        run_job(job)


@pytest.mark.long
def test_an_in_process_job_leaves_the_current_client_alone(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClusterExecutor, "submit", lambda *_: pytest.fail("ran on the cluster"))
    assert run_here("breast_cancer", tmp_path / "run").metrics["cluster"] == "in-process"


def test_rows_read_counts_samples_as_samples() -> None:
    history: Any = [{"oracle": "loss_and_gradient", "row_step": step} for step in (20, 20, 1)]
    assert rows_read(history, 1000) == 50 + 50 + 1000


def test_rows_read_are_those_held_out_only_by_scores() -> None:
    """Each of two epochs reads every row once, in ten batches or in a score."""
    epoch = [{"oracle": "loss_and_gradient", "row_step": 10}] * 10 + [{"oracle": "score", "row_step": 1}]
    history: Any = epoch * 2
    assert rows_read(history, 49, 0.2) == 2 * 49
    assert rows_read(history[:10], 50, 0.2) == 40


def test_a_fit_that_ends_before_its_first_batch_has_a_plot(tmp_path: Path) -> None:
    model = SGDClassifier(variance_reduction="svrg", random_state=0).set_callbacks(AfterRounds((1,), lambda: True))
    with pytest.warns(ConvergenceWarning, match="after 1 rounds: a callback ended the fit"):
        model.fit(*breast_cancer())
    metrics: Any = {"name": "early", "estimator": "SGDClassifier", "solver": "sgd", "status": "out of rounds", "rounds": 1}
    assert loss_plot(model, metrics).startswith(b"\x89PNG")


def test_numbers_that_json_lacks_are_null() -> None:
    assert finite({"a": float("inf"), "b": float("nan"), "c": 1.5, "d": "nan"}) == {"a": None, "b": None, "c": 1.5, "d": "nan"}


def test_files_are_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_file(path, "old")

    def fail_half_way() -> None:
        with write_beside(path) as beside:
            beside.write_text("half of the ne")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail_half_way()
    assert path.read_text() == "old"
    replace_file(path, b"new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_nobody_writes_any_more_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(60)
    kept = [f".fit-1.{os.getpid()}-1@{HOST}.tmp", f".fit-1.{ended.pid}-1@elsewhere.tmp", f".other-1.{ended.pid}-1@{HOST}.tmp", "fit-1"]
    gone = [f".fit-1.{ended.pid}-1@{HOST}.tmp", ".fit-2.1-1@elsewhere.tmp"]
    for name in kept + gone:
        (tmp_path / name).write_text("half")
    os.utime(tmp_path / gone[1], (0, 0))
    remove_leftovers(tmp_path, "fit")
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


# -- models --------------------------------------------------------------------------------------------------------------------------

LABELS: dict[str, Any] = {
    "integers": np.array([-3, 40]),
    "booleans": np.array([False, True]),
    "floats": np.array([0.0, 2.0]),
    "strings": np.array(["benign", 'm"aligne ☃']),
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_classifiers_read_back_predict_the_same(tmp_path: Path, labels: str, dtype: str) -> None:
    X, y = breast_cancer()
    X, y = X.astype(dtype), LABELS[labels][y]
    model = LogisticRegression(C=float("inf") if labels == "floats" else 2.0, tol=1e-2).fit(pd.DataFrame(X).add_prefix("c"), y)
    save_model(model, tmp_path / "model.safetensors")
    again = load_model(tmp_path)
    assert isinstance(again, LogisticRegression)
    assert again.get_params() == model.get_params()
    assert again.parameters_sha256_ == model.parameters_sha256_
    assert again.classes_.tolist() == model.classes_.tolist() and again.classes_.dtype.kind == model.classes_.dtype.kind
    frame = pd.DataFrame(X).add_prefix("c")
    np.testing.assert_array_equal(again.predict(frame), model.predict(frame))
    np.testing.assert_array_equal(again.predict_proba(frame), model.predict_proba(frame))
    with pytest.raises(ValueError, match="feature names should match"):
        again.predict(frame[frame.columns[::-1]])


def test_the_digest_is_that_of_the_arrays_in_the_file(digits_run: Run) -> None:
    arrays = load_file(digits_run.directory / "model.safetensors")
    assert digest(np.concatenate([arrays["coef"].ravel(), arrays["intercept"]])) == digits_run.metrics["parameters_sha256"]
    assert arrays["classes"].tolist() == list(range(10))


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_regressions_read_back_predict_the_same(tmp_path: Path, fit_intercept: bool) -> None:
    X, Y = load_linnerud(return_X_y=True)
    for i, model in enumerate([LinearRegression(fit_intercept=fit_intercept), Ridge(alpha=[0.1, 1.0, 10.0], fit_intercept=fit_intercept)]):
        for y in (Y, Y[:, 0])[: 2 - i]:
            model.fit(X, y)
            save_model(model, tmp_path / "m.safetensors")
            again = load_model(tmp_path / "m.safetensors")
            assert np.shape(again.intercept_) == np.shape(model.intercept_)
            np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_strided_coefficients_are_saved_as_what_they_are(tmp_path: Path) -> None:
    X, y = digits()
    model = LogisticRegression(tol=1e-2).fit(X, y)
    model.coef_ = np.asfortranarray(model.coef_)[:, ::-1]
    save_model(model, tmp_path / "m.safetensors")
    np.testing.assert_array_equal(load_file(tmp_path / "m.safetensors")["coef"], model.coef_)
    np.testing.assert_array_equal(load_model(tmp_path / "m.safetensors").coef_, model.coef_)


def test_parameters_come_back_as_they_were(tmp_path: Path) -> None:
    X, y = breast_cancer()
    model = LogisticRegression(class_weight={0: 1.0, 1: 2.0}, tol=np.float64(1e-2), C=float("inf")).fit(X, y)
    save_model(model, tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors").get_params() == model.get_params()


def test_a_strategy_cannot_be_saved_and_says_so(tmp_path: Path) -> None:
    X, y = breast_cancer()
    model = LogisticRegression(solver=Newton(tol=1e-2)).fit(X, y)
    with pytest.warns(UserWarning, match="solver=Newton.* cannot be saved"):
        save_model(model, tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors").get_params()["solver"] == "auto"
    with pytest.raises(NotFittedError):
        save_model(LogisticRegression(), tmp_path / "none.safetensors")


def test_any_flipped_bit_is_noticed(digits_run: Run, tmp_path: Path) -> None:
    content = bytearray((digits_run.directory / "model.safetensors").read_bytes())
    random = np.random.default_rng(0)
    path = tmp_path / "m.safetensors"
    for place in [*range(8), *random.integers(8, len(content), 150)]:
        bit = 1 << int(random.integers(8))
        content[place] ^= bit
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged|no readable safetensors|no model that|format version"):
            load_model(path)
        content[place] ^= bit


def test_files_that_are_no_models_are_refused(digits_run: Run, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no model"):
        load_model(tmp_path)
    path = tmp_path / "m.safetensors"
    path.write_bytes((digits_run.directory / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ValueError, match="no readable safetensors file"):
        load_model(path)
    save_file({"coef": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="no model that dask-descent wrote"):
        load_model(path)
    save_file({"coef": np.zeros(3)}, path, {"format": "dask-descent model", "format_version": "2"})
    with pytest.raises(ValueError, match="has format version 2, this dask-descent reads 1"):
        load_model(path)


# -- predictions for files -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def named() -> tuple[LogisticRegression, pd.DataFrame]:
    """A model with strings as labels, and its rows shuffled in columns and with others among them."""
    X, y = digits()
    frame = pd.DataFrame(X).add_prefix("pixel_")
    model = LogisticRegression(tol=1e-3).fit(frame, np.array(list("abcdefghij"))[y])
    shuffled = frame[np.random.default_rng(1).permutation(frame.columns)]
    shuffled.insert(5, "who", [f"row {i}" for i in range(len(y))])
    return model, shuffled


@pytest.mark.parametrize("source", ["csv", "parquet"])
@pytest.mark.parametrize("target", ["csv", "parquet"])
@pytest.mark.long
def test_predictions_follow_the_formula_by_column_name(
    named: tuple[LogisticRegression, pd.DataFrame], tmp_path: Path, source: str, target: str
) -> None:
    model, frame = named
    data = tmp_path / "data"
    data.mkdir()
    for i, rows in enumerate([slice(0, 700), slice(700, 701), slice(701, 1797)]):
        piece = frame.iloc[rows]
        piece.to_csv(data / f"{i}.csv", index=False) if source == "csv" else piece.to_parquet(data / f"{i}.parquet", row_group_size=300)
    out = tmp_path / "deep" / f"out.{target}"
    assert predict_files(model, [str(data)], out, keep=["who"]) == 1797
    found = pd.read_csv(out) if target == "csv" else pd.read_parquet(out)
    X, _ = digits()
    expected = softmax(X @ model.coef_.T + model.intercept_, axis=1)
    assert found.columns.tolist() == ["who", "prediction", *(f"probability_{label}" for label in "abcdefghij")]
    assert found["who"].tolist() == frame["who"].tolist()
    np.testing.assert_allclose(found.iloc[:, 2:].to_numpy(), expected, atol=1e-14)
    assert found["prediction"].tolist() == [list("abcdefghij")[i] for i in expected.argmax(axis=1)]


def test_a_model_without_names_takes_the_columns_in_order(tmp_path: Path) -> None:
    X, y = breast_cancer()
    model = LogisticRegression(tol=1e-3).fit(X, y)
    frame = pd.DataFrame(X).add_prefix("c").assign(who=np.arange(len(y)))
    frame.to_parquet(tmp_path / "rows.parquet")
    predict_files(model, [str(tmp_path / "rows.parquet")], tmp_path / "out.parquet", keep=["who"])
    found = pd.read_parquet(tmp_path / "out.parquet")
    np.testing.assert_allclose(found["probability_1"], expit(X @ model.coef_[0] + model.intercept_[0]), atol=1e-14)
    with pytest.raises(ValueError, match="fitted on 30 columns without names, but the data has 31"):
        predict_files(model, [str(tmp_path / "rows.parquet")], tmp_path / "out.parquet")


def test_several_targets_have_a_column_each(tmp_path: Path) -> None:
    X, Y = load_linnerud(return_X_y=True, as_frame=True)
    model = Ridge().fit(Dataset.from_arrays(X, Y))
    X.to_csv(tmp_path / "rows.csv", index=False)
    predict_files(model, [str(tmp_path / "*.csv")], tmp_path / "out.csv")
    found = pd.read_csv(tmp_path / "out.csv")
    assert found.columns.tolist() == ["prediction_0", "prediction_1", "prediction_2"]
    np.testing.assert_allclose(found, linear_model.Ridge().fit(X, Y).predict(X), rtol=1e-8)


def test_data_that_does_not_fit_the_model_is_refused(named: tuple[LogisticRegression, pd.DataFrame], tmp_path: Path) -> None:
    model, frame = named
    path, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    out.write_text("of an earlier run")

    def refused(rows: pd.DataFrame, message: str, **options: Any) -> None:
        rows.to_csv(path, index=False)
        with pytest.raises(ValueError, match=message):
            predict_files(model, [str(path)], out, **options)

    refused(frame.drop(columns=["pixel_7", "pixel_20"]), r"lacks 2 column\(s\), 'pixel_7', 'pixel_20'; it has .* and 55 more")
    refused(frame, r"lacks 1 column\(s\), 'whom'", keep=["whom"])
    refused(frame.assign(pixel_3="dark"), "column 'pixel_3' has dtype .*, not numbers")
    broken = frame.copy()
    broken.loc[11, "pixel_9"] = np.nan
    refused(broken, "column 'pixel_9' is nan in row 11 of partition 0")
    refused(frame.assign(prediction=1), "'prediction' cannot be kept beside", keep=["prediction"])
    refused(frame.iloc[:0].astype({"who": str}), "no rows|not numbers")
    with pytest.raises(FileNotFoundError, match="no file matches"):
        predict_files(model, [str(tmp_path / "none*.csv")], out)
    with pytest.raises(ValueError, match="cannot tell its format"):
        predict_files(model, [str(path)], tmp_path / "out.txt")
    frame.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="one format at a time"):
        predict_files(model, [str(path), str(tmp_path / "rows.parquet")], out)
    assert out.read_text() == "of an earlier run"
    assert {p.name for p in tmp_path.iterdir()} == {"rows.csv", "rows.parquet", "out.csv"}
