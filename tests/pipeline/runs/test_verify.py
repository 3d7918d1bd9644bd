"""`python -m pipeline verify`: runs that come out again, and those that do not."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client
from sklearn.exceptions import ConvergenceWarning

from pipeline.cli import main
from pipeline.data.dataset import Dataset
from pipeline.jobs.job import read_job
from pipeline.runs.records import RECORD_FILE, UNFINISHED, RoundRecord
from pipeline.runs.run import ROUNDS_FILE, run_job
from pipeline.training.history import History, Row
from tasks.reductions.stages.marks import Marks
from tasks.rounds.fitting import Report
from tests.data import breast_cancer
from tests.rounds import AfterRounds

HERE = {"cluster": {"kind": "in-process"}}
MODELS = {
    "newton": 'name = "LogisticRegression"\nsolver = "newton"\nmax_iter = 3',
    "lbfgs": 'name = "LogisticRegression"\nsolver = "lbfgs"\nmax_iter = 5',
    "sgd": 'name = "SGDClassifier"\nloss = "log_loss"\nmax_iter = 3',
    "async": 'name = "SGDClassifier"\nloss = "log_loss"\nmax_iter = 3\nsolver = "async"\nstaleness = 2',
    "local": 'name = "SGDClassifier"\nloss = "log_loss"\nmax_iter = 3\nsolver = "local-sgd"\nlocal_epochs = 1',
    "as they come": 'name = "MLPClassifier"\nhidden_layer_sizes = [5]\nmax_iter = 3\nsolver = "async"\norder = "as-they-come"',
    "served": 'name = "SGDClassifier"\nloss = "log_loss"\nmax_iter = 3\nsolver = "parameter-server"\nstaleness = 2',
    "mlp": 'name = "MLPClassifier"\nhidden_layer_sizes = [5]\nmax_iter = 3\nearly_stopping = true',
}


@pytest.fixture(autouse=True)
def _few_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def trained(model: str, *overrides: str) -> Path:
    """A run in files of 5 partitions, without a seed of its own."""
    X, y = breast_cancer()
    for i, rows in enumerate(np.array_split(np.arange(len(X)), 5)):
        np.save(f"X-{i}.npy", X[rows])
        np.save(f"y-{i}.npy", y[rows])
    Path("job.toml").write_text(
        f'[data]\nkind = "npy"\nX = "X-*.npy"\ny = "y-*.npy"\n[split]\ntest_size = 0\n[estimator]\n{MODELS[model]}\n'
    )
    return run_job(read_job("job.toml", overrides, HERE)).directory


def verified(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capfd.readouterr()
    status = main(["verify", "job", "--quiet", *(arguments or ("--in-process",))])
    out, err = capfd.readouterr()
    return status, (out + err).strip()


def metrics_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "metrics.json").read_text())
    return found


def changed_metrics(directory: Path, **values: Any) -> None:
    (directory / "metrics.json").write_text(json.dumps(metrics_of(directory) | values))


def changed_record(directory: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    path = directory / RECORD_FILE
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.long
def test_a_run_comes_out_again_in_process_and_on_workers(model: str, client: Client, capfd: pytest.CaptureFixture[str]) -> None:
    directory = trained(model)
    n_rounds = json.loads((directory / "metrics.json").read_text())["rounds"]
    record = (directory / RECORD_FILE).read_text()
    digest = json.loads((directory / "metrics.json").read_text())["parameters_sha256"]
    for where in (("--in-process",), ("--scheduler", client.scheduler_info()["address"])):
        assert verified(capfd, *where) == (0, f"the same: {n_rounds} rounds, digest {digest}")
    assert (directory / RECORD_FILE).read_text() == record


@pytest.mark.long
def test_the_first_round_and_group_that_differ_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    directory = trained("lbfgs")

    def change(lines: list[dict[str, Any]]) -> None:
        lines[4]["marks"][3] = "0" * 16
        lines[6]["marks"][1] = "0" * 16

    changed_record(directory, change)
    status, words = verified(capfd)
    assert status == 1
    assert words.startswith("different: round 4, group 3: partition 3 (")
    assert "X-3.npy, rows 0 to 113" in words
    assert words.endswith("; 3 rounds before it are the same")


@pytest.mark.long
def test_subtrees_are_named_as_groups(capfd: pytest.CaptureFixture[str]) -> None:
    directory = trained("sgd")

    def change(lines: list[dict[str, Any]]) -> None:
        batch = next(line for line in lines[1:] if line["level"])
        batch["marks"][0] = "0" * 16

    changed_record(directory, change)
    status, words = verified(capfd)
    assert status == 1
    assert ", groups 0 to " in words
    assert ": partitions 0 to " in words


@pytest.mark.long
def test_other_rows_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    trained("newton")
    X = np.load("X-2.npy")
    X[7, 3] += 1e-9
    np.save("X-2.npy", X)
    status, words = verified(capfd)
    assert status == 1
    assert words.startswith("different: the rows of partition 2 (")
    assert "X-2.npy" in words
    np.save("X-4.npy", X[:3])
    np.save("y-4.npy", np.load("y-4.npy")[:3])
    assert verified(capfd)[0] == 1


@pytest.mark.long
def test_other_partitions_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    trained("newton")
    np.save("X-5.npy", np.load("X-4.npy"))
    np.save("y-5.npy", np.load("y-4.npy"))
    assert verified(capfd) == (1, "different: 6 partitions here, 5 then")


@pytest.mark.long
def test_other_parameters_after_the_same_rounds_are_a_difference(capfd: pytest.CaptureFixture[str]) -> None:
    directory = trained("newton")
    metrics = json.loads((directory / "metrics.json").read_text())
    (directory / "metrics.json").write_text(json.dumps(metrics | {"parameters_sha256": "0" * 64}))
    status, words = verified(capfd)
    assert status == 1
    assert words.startswith(f"different: the parameters after round {metrics['rounds']}, whose digest is {metrics['parameters_sha256']}")


@pytest.mark.long
def test_the_model_belongs_to_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    directory = trained("newton")
    model = (directory / "model.safetensors").read_bytes()
    trained("lbfgs")
    (directory / "model.safetensors").rename("other")
    assert "there is no model" in verified(capfd)[1]
    (directory / "model.safetensors").write_bytes(model)
    status, words = verified(capfd)
    assert status == 2
    assert "they are of two runs" in words


@pytest.mark.long
def test_versions_that_changed_are_a_hint(capfd: pytest.CaptureFixture[str]) -> None:
    directory = trained("newton")
    metrics = json.loads((directory / "metrics.json").read_text())
    metrics["versions"]["numpy"] = "1.0"
    (directory / "metrics.json").write_text(json.dumps(metrics))
    changed_record(directory, lambda lines: lines[1]["marks"].__setitem__(0, "0" * 16))
    status, words = verified(capfd)
    assert status == 1
    assert words.endswith(f"the run had numpy 1.0, here is {np.__version__}")


@pytest.mark.long
def test_rounds_that_the_run_lacks_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    directory = trained("lbfgs")
    changed_record(directory, lambda lines: lines.__delitem__(slice(3, None)))
    changed_metrics(directory, rounds=2)
    assert verified(capfd) == (1, "different: round 3, which the run did not have; 2 rounds before it are the same")


@pytest.mark.long
def test_rounds_that_the_fit_lacks_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    directory = trained("newton")
    changed_record(directory, lambda lines: lines.append({**lines[-1], "round": len(lines)}))
    changed_metrics(directory, rounds=metrics_of(directory)["rounds"] + 1)
    status, words = verified(capfd)
    assert status == 1
    assert words.startswith("different: the fit ends after round")
    assert "and the run's record has 1 more" in words


@pytest.mark.long
def test_a_run_without_a_record_is_told_the_cure(capfd: pytest.CaptureFixture[str]) -> None:
    directory = trained("lbfgs")
    (directory / RECORD_FILE).unlink()
    status, words = verified(capfd)
    assert status == 2
    assert f"{directory / RECORD_FILE} is not there" in words
    assert "train the job again, without --resume" in words


@pytest.mark.parametrize("lost", [slice(1, 2), slice(3, 4), slice(-1, None), slice(1, None)])
@pytest.mark.long
def test_a_record_without_some_rounds_is_no_difference(lost: slice, capfd: pytest.CaptureFixture[str]) -> None:
    directory = trained("lbfgs")
    n_rounds = metrics_of(directory)["rounds"]
    changed_record(directory, lambda lines: lines.__delitem__(lost))
    n_left = len((directory / RECORD_FILE).read_text().splitlines()) - 1
    status, words = verified(capfd)
    assert status == 2
    assert f"{directory / RECORD_FILE} is incomplete: it has {n_left} of the run's {n_rounds} rounds" in words


@pytest.mark.parametrize("line", ['{"round": 1, "marks": []}', '{"round": 1, "level": 0, "marks": 5}', '{"seed": -5, "content": []}', "{"])
@pytest.mark.long
def test_damaged_records_are_named(line: str, capfd: pytest.CaptureFixture[str]) -> None:
    directory = trained("newton")
    lines = (directory / RECORD_FILE).read_text().splitlines()
    lines["seed" not in line] = line
    (directory / RECORD_FILE).write_text("\n".join(lines))
    status, words = verified(capfd)
    assert status == 2
    assert f"{directory / RECORD_FILE} is no record of a run" in words


def test_a_later_attempt_leaves_a_whole_run_as_it_is(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    directory = trained("lbfgs")
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.runs.run.write_run", lambda *arguments: stop())
        with pytest.raises(StoppedError):
            run_job(read_job("job.toml", (), HERE))
    assert {name: (directory / name).read_bytes() for name in before} == before
    assert verified(capfd)[0] == 0
    rounds = json.loads(before["metrics.json"])["rounds"]
    assert run_job(read_job("job.toml", (), HERE), resume=True).metrics["resumed_from"] == rounds  # what was fitted was not lost
    assert not (directory / "checkpoints").exists()
    assert verified(capfd)[0] == 0


class StoppedError(Exception):
    """What ends a fit in the middle."""


def stop() -> None:
    raise StoppedError


def interrupt() -> None:
    raise KeyboardInterrupt


@contextmanager
def ended_after(n_rounds: int, end: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs in the block are ended after so many rounds."""

    class Ending(AfterRounds):
        def __init__(self, *arguments: Any) -> None:
            super().__init__((n_rounds,), end)

        def __enter__(self) -> Ending:
            return self

        def __exit__(self, *error: object) -> None:
            pass

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.runs.run.RoundLog", Ending)
        yield


@pytest.mark.long
def test_the_record_of_a_run_that_went_on_is_whole(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    directory = trained("sgd")
    record, digest = (directory / RECORD_FILE).read_text(), verified(capfd)[1]
    seed = json.loads(record.splitlines()[0])["seed"]

    job = read_job("job.toml", [f"estimator.random_state={seed}"], HERE)
    with ended_after(5, stop, monkeypatch), pytest.raises(StoppedError):
        run_job(job)
    with (directory / UNFINISHED).open("a") as file:
        file.write("{torn")
    assert run_job(job, resume=True).metrics["resumed_from"] == 5
    n_rounds = json.loads((directory / "metrics.json").read_text())["rounds"]
    assert len((directory / RECORD_FILE).read_text().splitlines()) == 1 + n_rounds
    assert digest.startswith(f"the same: {n_rounds} rounds")
    assert verified(capfd)[1].startswith(f"the same: {n_rounds} rounds")


@pytest.mark.parametrize("model", ["sgd", "mlp"])
@pytest.mark.long
def test_an_interrupted_run_is_compared_as_far_as_it_came_and_then_goes_on(
    model: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ended_after(5, interrupt, monkeypatch):
        directory = trained(model)
    digest = metrics_of(directory)["parameters_sha256"]
    assert verified(capfd) == (0, f"the same: 5 rounds, digest {digest}")
    changed_metrics(directory, parameters_sha256="0" * 64)
    assert verified(capfd) == (1, f"different: the parameters after round 5, whose digest is {digest}; 5 rounds before it are the same")
    metrics = run_job(read_job("job.toml", (), HERE), resume=True).metrics
    assert metrics["resumed_from"] == 5 < metrics["rounds"]
    assert verified(capfd) == (0, f"the same: {metrics['rounds']} rounds, digest {metrics['parameters_sha256']}")
    assert not (directory / UNFINISHED).exists()


def test_an_interrupt_while_a_round_is_recorded_leaves_no_checkpoint_of_it(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hear = RoundRecord.hear

    def hear_two(record: RoundRecord, row: Row, report: Report) -> None:
        if row["round"] > 2:
            raise StoppedError
        hear(record, row, report)

    with monkeypatch.context() as patch:
        patch.setattr(RoundRecord, "hear", hear_two)
        with pytest.raises(StoppedError):
            trained("lbfgs")
    assert run_job(read_job("job.toml", (), HERE), resume=True).metrics["resumed_from"] == 2
    assert verified(capfd)[0] == 0


def test_a_run_that_goes_on_from_rounds_without_a_record_keeps_none(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ended_after(2, stop, monkeypatch), pytest.raises(StoppedError):
        trained("lbfgs", "output.record=false")
    with pytest.warns(UserWarning, match="this run keeps no record, .* of the 2 rounds that it goes on from is not whole"):
        directory = run_job(read_job("job.toml", (), HERE), resume=True).directory
    status, words = verified(capfd)
    assert status == 2
    assert f"{directory / RECORD_FILE} is not there" in words


def test_a_run_without_a_record_does_not_publish_that_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with ended_after(4, stop, monkeypatch), pytest.raises(StoppedError):
        trained("lbfgs")
    directory = run_job(read_job("job.toml", ["output.record=false"], HERE), resume=True).directory
    assert not [path for path in directory.iterdir() if "digests" in path.name]


def test_a_record_is_never_shorter_than_what_it_goes_on_from(tmp_path: Path) -> None:
    dataset = Dataset.from_arrays(*breast_cancer())
    report = Report("hessian", 1, 1, 1.0, 1.0, 8, 0.1, Marks(0, np.arange(2, dtype=np.uint64)))
    rows = History().following([report] * 3, 0.0)
    with RoundRecord(tmp_path) as record:
        record.begin(dataset, None, 0)
        for row in rows:
            record.hear(row, report)
    before = (tmp_path / UNFINISHED).read_text().splitlines()
    (tmp_path / "same").hardlink_to(tmp_path / UNFINISHED)
    with RoundRecord(tmp_path) as record:
        record.begin(dataset, None, 2)
    assert (tmp_path / UNFINISHED).read_text().splitlines() == before[:3]
    assert (tmp_path / "same").read_text().splitlines() == before  # the file was replaced, not cut


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is full")
@pytest.mark.parametrize(
    ("name", "lost"), [(UNFINISHED, "this run keeps no record, and cannot be verified"), (ROUNDS_FILE, "the rounds so far are not shown")]
)
def test_a_full_disk_costs_the_lines_and_not_the_fit(
    name: str, lost: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_path = Path.open

    def open_full(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        return open_path(FULL if path.name == name and mode in ("w", "a") else path, mode, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_full)
        with pytest.warns(UserWarning, match=lost) as warned:
            directory = trained("lbfgs")
    (words,) = [str(each.message) for each in warned if not issubclass(each.category, ConvergenceWarning)]
    assert words == f"{lost}: {directory / name} cannot be written: No space left on device"
    assert not (directory / name).exists()
    assert (directory / RECORD_FILE).exists() == (name != UNFINISHED)
    assert verified(capfd)[0] == (2 if name == UNFINISHED else 0)


@pytest.mark.long
def test_certificates_are_those_of_the_runs_own_cluster(capfd: pytest.CaptureFixture[str]) -> None:
    directory = trained("newton")
    status, words = verified(capfd, "--tls", "certificates")
    assert status == 2
    assert "'tls' is not known" in words  # in process there are no connections
    job = (directory / "job.toml").read_text()
    assert job.count('kind = "in-process"') == 1
    (directory / "job.toml").write_text(job.replace('kind = "in-process"', 'kind = "scheduler"\naddress = "tls://127.0.0.1:1"'))
    status, words = verified(capfd, "--tls", "certificates")
    assert status == 2
    assert "tls='certificates': needs ca.pem" in words


def test_without_a_record(capfd: pytest.CaptureFixture[str]) -> None:
    directory = trained("newton", "output.record=false")
    assert not (directory / RECORD_FILE).exists()
    status, words = verified(capfd)
    assert status == 2
    assert f"{directory / RECORD_FILE} is not there" in words


def test_what_is_no_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, words = verified(capfd)
    assert status == 2
    assert "there is no run job" in words
    directory = trained("newton")
    (directory / RECORD_FILE).write_text("[1, 2]\n")
    status, words = verified(capfd)
    assert status == 2
    assert "is no record of a run" in words
    metrics = (directory / "metrics.json").read_text()
    for damaged in ("[]", metrics[:50], "{}"):
        (directory / "metrics.json").write_text(damaged)
        status, words = verified(capfd)
        assert status == 2
        assert str(directory / "metrics.json") in words
    (directory / "metrics.json").unlink()
    status, words = verified(capfd)
    assert status == 2
    assert "there is no whole run" in words
