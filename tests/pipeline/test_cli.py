"""The commands, most through a process of their own in which warnings are errors."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from distributed import LocalCluster
from rich.console import Console
from sklearn import linear_model
from sklearn.datasets import load_sample_image

import pipeline
from pipeline import Dataset, LogisticRegression, benchmarks
from pipeline.cli import main
from pipeline.jobs.data import BundledData
from pipeline.jobs.job import read_job
from pipeline.jobs.pixels import make_pixels
from pipeline.models.model_files import save_model
from pipeline.sources.errors import PartitionError, SourceChangedError
from pipeline.training.checkpoints.termination import Terminated
from pipeline.training.progress import RoundProgress
from tests.data import digits
from tests.rounds import AfterRounds

REPOSITORY = Path(pipeline.__file__).parents[1]
LOOSE = ["--set", "estimator.tol=1e-3"]


# Dask's reader of Parquet uses what pandas 3.1 deprecates.
WARNINGS = ["-W", "error", "-W", "ignore:The inplace keyword"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, *WARNINGS, "-m", "pipeline", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def alive(group: int) -> list[int]:
    """Processes of a process group that have not ended."""
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except ProcessLookupError:
            continue
    return found


def run(directory: Path, *arguments: str, status: int = 0) -> tuple[str, str]:
    """stdout and stderr of a command in a process of its own."""
    done = subprocess.run(command(*arguments), cwd=directory, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


@pytest.mark.long
def test_digits_has_the_same_bits_on_a_local_cluster_as_in_process(tmp_path: Path) -> None:
    out, err = run(tmp_path, "train", "digits", "--n-workers", "2", *LOOSE)
    X, y = digits()
    data = read_job("digits").data
    assert isinstance(data, BundledData)
    train, test = Dataset.from_arrays(X, y, partition_rows=data.partition_rows).split(0.25, 0)
    model = LogisticRegression(tol=1e-3).fit(train)
    metrics = json.loads((tmp_path / "runs/digits/metrics.json").read_text())
    assert metrics["parameters_sha256"] == model.parameters_sha256_
    assert metrics["test_score"] == model.score(test)
    assert metrics["tasks_per_round"] == 2 and metrics["cluster"] == "local"
    assert "warning:" not in err  # the log of a worker that is just closing may be there under load
    for shown in (
        f"test score       {model.score(test):.6f}",
        f"rounds           {model.n_rounds_} ",
        model.parameters_sha256_,
        "runs/digits",
    ):
        assert shown in out
    assert "rows per second" in out and f"bytes per round  {model.bytes_per_round_:,}" in out


@pytest.mark.long
def test_compiling_is_told_apart_from_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an installation: there is no machine code on disk yet."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "machine-code"))
    found = []
    for name in ("first", "second"):
        out, _ = run(tmp_path, "train", "breast_cancer", "--n-workers", "1", "--out", name)
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        parts = [metrics[f"{part}_seconds"] for part in ("load", "fit", "score", "compile")]
        assert sum(parts) == pytest.approx(metrics["seconds"]) and min(parts) >= 0
        found.append(metrics["compile_seconds"])
        assert ("s of compiling" in out) == (metrics["compile_seconds"] > 0)
        assert metrics["fit_seconds"] < found[0]
    assert found[0] > 1 and found[1] == 0


@pytest.mark.long
def test_files_are_made_trained_on_and_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["make-data", "pixels", "--every", "25", "--out", str(tmp_path / "data/pixels")]) == 0
    assert "21692 rows in 34 files" in capsys.readouterr().out
    run(tmp_path, "train", "pixels", "--in-process", *LOOSE)
    run(tmp_path, "predict", "pixels", "data/pixels", "--out", "predicted.parquet", "--keep", "photograph")
    found = pd.read_parquet(tmp_path / "predicted.parquet")
    metrics = json.loads((tmp_path / "runs/pixels/metrics.json").read_text())
    correct = metrics["n_train_rows"] * metrics["train_score"] + metrics["n_test_rows"] * metrics["test_score"]
    assert len(found) == 21692
    assert (found["prediction"] == found["photograph"]).sum() == round(correct)
    rows = pd.concat([pd.read_parquet(path) for path in sorted(tmp_path.glob("data/pixels/*"))])
    X, y = rows.drop(columns="photograph"), rows["photograph"]
    reference = linear_model.LogisticRegression(solver="newton-cholesky").fit(X, y).score(X, y)
    assert abs(correct / 21692 - reference) < 0.01


@pytest.mark.long
def test_missing_files_end_with_2_and_the_command_that_makes_them(tmp_path: Path) -> None:
    out, err = run(tmp_path, "train", "pixels", "--in-process", status=2)
    assert out == "" and err.startswith("error: [data] path: no file matches") and err.count("\n") == 1
    assert err.endswith("make the files with: python -m pipeline make-data pixels\n")
    assert not list(tmp_path.glob("runs/*"))


SMALL = ["--set", "data.n_partitions=4", "--set", "data.rows_per_partition=500"]


@pytest.mark.long
def test_a_plan_is_printed(tmp_path: Path) -> None:
    out, err = run(tmp_path, "plan", "generated", "--jobs", "2", "--memory", "4GB", *SMALL)
    assert err == "" and not list(tmp_path.iterdir())
    assert out.startswith("job              generated: LogisticRegression, 28 columns, 29 parameters\n")
    for shown in ("2,000 (known)", "4 in 4 groups, a tree of 2 levels", "2 x 1 thread, 4GB each", "scales to "):
        assert shown in out


@pytest.mark.long
def test_a_plan_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "generated", "--jobs", "1", "--cores", "2", "--memory", "4GiB", "--json", *SMALL]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["jobs"], plan["cores"], plan["limit"], plan["n_partitions"], plan["n_rows"]) == (1, 2, 4 << 30, 4, 2_000)
    assert plan["memory"]["needed"] < 4 << 30 and plan["kinds"][0]["count"] >= 1


@pytest.mark.long
def test_a_plan_that_does_not_fit_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "generated", "--jobs", "1", "--memory", "70MB", *SMALL]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: generated does not fit 1 job of 70MB: each needs ") and "use --memory " in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generated", "--jobs", "0", "--memory", "4GB"], "jobs must be at least 1, got 0"),
        (["generated", "--jobs", "1", "--memory", "much"], "memory must be a size such as 4GB or 512MiB, got 'much'"),
        (["generated", "--jobs", "1", "--memory", "1MB"], "memory, of each job, must be at least 64MiB, got 1MB"),
        (["generate", "--jobs", "1", "--memory", "4GB"], "generated"),
        (["pixels", "--jobs", "1", "--memory", "4GB"], "make the files with: python -m pipeline make-data pixels"),
    ],
)
def test_mistakes_in_a_plan_end_with_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.long
def test_ctrl_c_ends_with_130_and_no_worker_stays(tmp_path: Path) -> None:
    # gradient descent on classes that can be told apart has no end within minutes
    endless = ["--set", "estimator.solver=gradient-descent", "--set", "estimator.C=1e6"]
    endless += ["--set", "estimator.tol=0", "--set", "estimator.max_iter=100_000_000", "--n-workers", "1"]
    # the run's directory is made when the job starts; in a session of its own the signal reaches the workers too, as in a terminal
    with subprocess.Popen(
        command("train", "digits", *endless),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "runs/digits").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(4)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "interrupted\n" in err
    left_there = {path.name for path in (tmp_path / "runs").rglob("*.*") if path.is_file()}  # a checkpoint, if a round had been done
    assert left_there <= {".digests.jsonl.part", *(name for name in left_there if name.endswith(".safetensors"))}
    assert bool(left_there) == ("--resume goes on from there" in err)
    while (left := alive(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def test_ctrl_c_during_the_imports_is_quiet(tmp_path: Path) -> None:
    """In the middle of importing dask, for which a module stands that takes its time."""
    (tmp_path / "dask.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        command("jobs"), cwd=tmp_path, env=environment() | {"PYTHONPATH": path}, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted\n")


def test_predictions_that_cannot_be_written_name_their_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pd.DataFrame({"a": [0.0, 1.0, 2.0], "b": [1.0, 0.0, 1.0]})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    save_model(LogisticRegression().fit(rows, [0, 1, 1]), tmp_path / "model.safetensors")
    (tmp_path / "taken.csv").mkdir()
    (tmp_path / "file").touch()
    for out in ("taken.csv", "file/out.csv", "x" * 245 + ".csv", "y" * 245 + ".parquet"):
        assert main(["predict", str(tmp_path), str(tmp_path / "rows.csv"), "--out", str(tmp_path / out), "--quiet"]) == 2
        _, err = capsys.readouterr()
        assert str(tmp_path / out) in err and ".tmp" not in err and err.count("\n") == 1
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.tmp"))


@pytest.mark.long
def test_a_running_scheduler_by_address_and_by_file(cluster: LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": cluster.scheduler_address}))
    digests = set()
    for i, where in enumerate((["--scheduler", cluster.scheduler_address], ["--scheduler-file", str(file)], ["--in-process"])):
        assert main(["train", "breast_cancer", *where, "--out", str(tmp_path / str(i)), "--quiet"]) == 0
        digests.add(json.loads((tmp_path / str(i) / "metrics.json").read_text())["parameters_sha256"])
    assert len(digests) == 1
    assert capsys.readouterr().out.count(digests.pop()) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digit"], "did you mean 'digits'?"),
        (["train", "digits", "--set", "data.n_partition=2"], "did you mean 'n_partitions'?"),
        (["train", "digits", "--scheduler", "tcp://127.0.0.1:1", "--set", "cluster.timeout=0.2"], "tcp://127.0.0.1:1"),
        (["train", "digits", "--scheduler-file", "none.json", "--set", "cluster.timeout=0.2"], "none.json"),
        (["predict", "none", "x.csv", "--out", "y.csv"], "there is no model"),
        (["make-data", "pixels", "--every", "0"], "--every must be at least 1"),
    ],
)
def test_a_users_mistake_ends_with_2_and_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and message in err and err.count("\n") == 1
    with pytest.raises((ValueError, OSError)):
        main([*arguments, "--traceback"])
    assert list(tmp_path.glob("**/*.json")) == []


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (KeyboardInterrupt(), True),
        (Terminated(143), True),
        (ConnectionError("no scheduler"), True),
        (MemoryError(), True),
        (PartitionError("unreadable", 3, "X-3.npy"), True),
        (ValueError("checkpoints of another problem"), False),
        (SourceChangedError("other rows", (3,), ("X-3.npy",)), False),
        (TypeError("no numbers"), False),
    ],
)
def test_that_a_run_goes_on_is_said_where_it_does(
    error: BaseException, goes_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = [f"Ridge-0123456789abcdef-{n_rounds:09d}.safetensors" for n_rounds in (2, 3)]

    def fail(*arguments: Any, **options: Any) -> None:
        (tmp_path / "checkpoints").mkdir()
        for name in (*saved, "mine-4.safetensors"):
            (tmp_path / "checkpoints" / name).touch()
        raise error

    monkeypatch.setattr("pipeline.commands.run_job", fail)
    with pytest.raises(type(error)) if isinstance(error, Terminated | MemoryError) else nullcontext():
        main(["train", "digits", "--out", str(tmp_path), "--resume"])
    said = f"{saved[-1]}; the same command with --resume goes on from there"
    assert (said in capsys.readouterr().err) == goes_on


def test_wrong_arguments_end_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["trai"], ["train"], ["train", "digits", "--in-process", "--n-workers", "2"], ["train", "digits", "--inprocess"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_jobs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["breast_cancer", "digits", "generated", "pixels"]


def test_bench_passes_its_arguments_and_status_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[Any] = []

    def record(name: str | None, arguments: list[str]) -> int:
        calls.append((name, arguments))
        return 3

    monkeypatch.setattr(benchmarks, "run", record)
    assert main(["bench"]) == 3
    assert main(["bench", "memory", "--quick", "--out", "there"]) == 3
    assert calls == [(None, []), ("memory", ["--quick", "--out", "there"])]

    def lacking(module: str) -> None:
        raise ModuleNotFoundError("No module named 'dask_ml'")

    monkeypatch.undo()
    monkeypatch.setattr(benchmarks, "import_module", lacking)
    assert main(["bench", "memory"]) == 2
    assert "pip install 'dask-descent[bench]'" in capsys.readouterr().err


@pytest.mark.long
def test_warnings_are_lines_for_users(tmp_path: Path) -> None:
    arguments = ["train", "breast_cancer", "--in-process", "--set", "estimator.max_iter=1"]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr.startswith("warning: LogisticRegression ended out of rounds") and done.stderr.count("\n") == 1
    assert "status           out of rounds (reached max_iter=1" in done.stdout


def test_pixels_are_those_of_the_photographs(tmp_path: Path) -> None:
    assert make_pixels(tmp_path / "csv", "csv", 60) == (16, 16 * 638)
    frames = [pd.read_csv(path) for path in sorted((tmp_path / "csv").iterdir())]
    assert [frame["photograph"].unique().tolist() for frame in frames] == [["china"]] * 8 + [["flower"]] * 8
    line = frames[9]  # the second line taken of the second photograph
    image = load_sample_image("flower.jpg")
    np.testing.assert_array_equal(line[["level_centre_red", "level_centre_green", "level_centre_blue"]], image[61, 1:-1])
    np.testing.assert_array_equal(line["above_left_red"], image[60, :-2, 0])
    np.testing.assert_array_equal(line["below_right_blue"], image[62, 2:, 2])
    assert make_pixels(tmp_path / "csv", "csv", 60)[0] == 16
    with pytest.raises(ValueError, match=r"has other files in it, part-000\.csv for one"):
        make_pixels(tmp_path / "csv", "parquet", 60)


def test_the_bar_goes_forward_to_its_end() -> None:
    X, y = digits()
    with RoundProgress(console=Console(file=io.StringIO(), force_terminal=True)) as progress:
        seen: list[float] = []

        watch = AfterRounds(tuple(range(1, 1000)), lambda: seen.append(progress.completed))
        LogisticRegression(solver="lbfgs", tol=1e-3).set_callbacks(progress, watch).fit(X, y)
    assert seen == sorted(seen) and seen[0] == 0.0 and seen[-1] == 1.0 and len(set(seen)) > 5
