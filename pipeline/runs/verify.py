"""`python -m pipeline verify RUN`: the recorded job trained again, here or elsewhere, and where it first differs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sklearn.exceptions import ConvergenceWarning

from pipeline.jobs.job import read_job
from pipeline.models.model_files import saved_digest
from pipeline.runs.metrics import METRICS_FILE, Metrics, versions
from pipeline.runs.records import Comparison, Difference, FoundDifference
from pipeline.training.loop import INTERRUPTED
from pipeline.training.progress import RoundLimit, RoundProgress


class Verdict(NamedTuple):
    """The verdict of a verification. difference: the first one, None where there is none; n_rounds: those compared before it;
    parameters_sha256: of the run; hints: what is not as it was in the run, and may be why."""

    difference: Difference | None
    n_rounds: int
    parameters_sha256: str
    hints: Sequence[str]

    def __str__(self) -> str:
        if self.difference is None:
            return f"the same: {self.n_rounds} rounds, digest {self.parameters_sha256}"
        rounds = "1 round before it is" if self.n_rounds == 1 else f"{self.n_rounds} rounds before it are"
        before = f"; {rounds} the same" if self.n_rounds else ""
        return "\n".join([f"different: {self.difference.what}{before}", *self.hints])


def verify(run: Path, cluster: Mapping[str, Any] | None, overrides: Sequence[str], progress: RoundProgress) -> Verdict:
    """Train a run's job again, on the [cluster] section given, or its own, with overrides as of `read_job`, and compare; nothing is
    written. One that was interrupted is trained as far as it came.

    Raises FileNotFoundError for what is no whole run, ValueError for a damaged one or files of two, and what training raises.
    """
    metrics = read_metrics(run / METRICS_FILE)
    saved = saved_digest(run)
    job = read_job(str(run / "job.toml"), overrides, None if cluster is None else {"cluster": cluster})
    interrupted = metrics["status_reason"] == INTERRUPTED
    comparison = Comparison(run, metrics["rounds"], interrupted=interrupted)
    model = job.estimator.build()
    model._record = comparison
    difference = None
    with progress as shown:
        train, _ = job.split.parts(job.data.dataset())
        shown.step(f"start {job.cluster.kind}")
        with job.cluster.connect(), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.set_callbacks(shown, *([RoundLimit(metrics["rounds"])] if interrupted else ()))
            try:
                model.fit(train)
            except FoundDifference as found:
                difference = found.difference
    expected = metrics["parameters_sha256"]
    if difference is None and comparison.n_left:
        difference = Difference(
            model.n_rounds_ + 1, f"the fit ends after round {model.n_rounds_}, and the run's record has {comparison.n_left} more"
        )
    if difference is None and model.parameters_sha256_ != expected:
        n_rounds = model.n_rounds_
        difference = Difference(n_rounds, f"the parameters after round {n_rounds}, whose digest is {model.parameters_sha256_}")
    if difference is None and saved != expected:
        raise ValueError(f"the model in {run} has the digest {saved}, and {METRICS_FILE} {expected}: they are of two runs")
    return Verdict(difference, comparison.n_compared, expected, changed(metrics["versions"]))


def read_metrics(path: Path) -> Metrics:
    """The metrics of a run, read from its file. Raises FileNotFoundError and ValueError, naming the file, where they are not whole."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no whole run in {path.parent}: {path.name} is not there")
    try:
        found: Metrics = json.loads(path.read_bytes())
        missing = sorted(Metrics.__required_keys__ - found.keys())
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: it is damaged, or of another version")
    return found


def changed(before: Mapping[str, str]) -> list[str]:
    """The versions that are not those of the run, in words."""
    now = versions()
    return [f"the run had {name} {version}, here is {now.get(name)}" for name, version in before.items() if now.get(name) != version]
