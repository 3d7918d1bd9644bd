"""Job files: TOML read into frozen dataclasses that are checked when they are built. A job file names things; it never runs code."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from pipeline.data.dataset import TEST_SIZE, Dataset
from pipeline.estimators.base import GradientModel
from pipeline.estimators.registry import ESTIMATORS
from pipeline.jobs.cluster import CLUSTERS, Cluster
from pipeline.jobs.data import DATA, Data
from pipeline.sections import (
    ConfigError,
    Count,
    Flag,
    Seconds,
    Section,
    Share,
    Table,
    Text,
    Whole,
    plain_value,
    read_kind,
    to_toml,
    unknown,
)
from pipeline.training.checkpoints.keeper import EVERY_SECONDS

# -- [split], [estimator], [output] --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Split(Section):
    """A split into training and test rows. test_size: the share of the rows kept back for the test score, 0 for none; drawn by seed inside
    each partition."""

    title: ClassVar[str] = "split"
    test_size: Share = TEST_SIZE
    seed: Whole = 0

    def parts(self, dataset: Dataset) -> tuple[Dataset, Dataset | None]:
        """The parts of a dataset: (train, test), or (all rows, None)."""
        return dataset.split(self.test_size, self.seed) if self.test_size else (dataset, None)


@dataclass(frozen=True, kw_only=True)
class Estimator(Section):
    """An estimator with its parameters. name: an estimator of this library; parameters: those of its constructor, written beside the name
    in a job file."""

    title: ClassVar[str] = "estimator"
    name: Text
    parameters: Table = field(default_factory=dict)

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> Self:
        if "name" not in table:
            raise ConfigError(f"[estimator] needs name, one of {', '.join(map(repr, ESTIMATORS))}")
        return cls(name=table["name"], parameters={key: value for key, value in table.items() if key != "name"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name not in ESTIMATORS:
            raise unknown(self.name, ESTIMATORS, "[estimator] name", "estimators")
        known = list(inspect.signature(ESTIMATORS[self.name]).parameters)
        for key in self.parameters:
            if key not in known:
                raise unknown(key, known, f"[estimator] {self.name}", "parameters")
        if "checkpoint" in self.parameters:
            raise ConfigError("[estimator] checkpoint: a run keeps its checkpoints in its own directory; [checkpoint] says how often")
        solvers = ESTIMATORS[self.name]._solvers
        if "solver" in self.parameters and self.parameters["solver"] not in solvers:
            raise unknown(self.parameters["solver"], solvers, "[estimator] solver", "solvers")
        try:
            model = self.build()
            model._validate_params()
            model._check_refused()
        except (ValueError, TypeError) as error:
            raise ConfigError(f"[estimator] {error}") from error

    def build(self) -> GradientModel:
        """The estimator, not fitted. TOML has no null: where a parameter may be None, "none" is. Its keys are strings: those of
        class_weight that read as numbers or booleans become them."""
        constraints = ESTIMATORS[self.name]._parameter_constraints
        absent = {key for key, value in self.parameters.items() if str(value).lower() == "none" and may_be_none(constraints.get(key, ()))}
        parameters = {key: None if key in absent else value for key, value in self.parameters.items()}
        if isinstance(weights := parameters.get("class_weight"), Mapping):
            parameters["class_weight"] = {plain_value(label): weight for label, weight in weights.items()}
        return ESTIMATORS[self.name](**parameters)

    def table(self) -> dict[str, Any]:
        return {"name": self.name, **self.parameters}


@dataclass(frozen=True, kw_only=True)
class Checkpoints(Section):
    """The times at which a fit is saved in the run's directory, as `pipeline.Checkpoint` has them: every so many seconds, and every so many
    rounds."""

    title: ClassVar[str] = "checkpoint"
    every_seconds: Seconds = EVERY_SECONDS
    every_rounds: Count | None = None


@dataclass(frozen=True, kw_only=True)
class Output(Section):
    """The files that a run leaves. directory: where they go, runs/NAME by default; record: whether `digests.jsonl`, which `verify` compares
    with, is one of them. Digests cost a few hundredths of a fit, or a tenth where rounds take less than a millisecond."""

    title: ClassVar[str] = "output"
    directory: Text
    record: Flag = True


# -- the job -------------------------------------------------------------------------------------------------------------------------


TEXTS: Final = ("name", "description")  # the keys of a job that are in no section


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job: what `python -m pipeline train` runs."""

    name: str
    data: Data
    estimator: Estimator
    split: Split
    cluster: Cluster
    checkpoint: Checkpoints
    output: Output
    description: str = ""

    @classmethod
    def read(cls, table: Mapping[str, Any], name: str) -> Job:
        """The job of a job file's table; name: the job's when the table gives none. Raises ConfigError."""
        sections = ("data", "split", "estimator", "cluster", "checkpoint", "output")
        for key, value in table.items():
            if key not in (*sections, *TEXTS):
                raise unknown(key, [*sections, *TEXTS], "the job", "keys")
            if key in sections and not isinstance(value, dict):
                raise ConfigError(f"{key} must be a table of keys, [{key}], got {value!r}")
            if key not in sections and not isinstance(value, str):
                raise ConfigError(f"{key} must be a string, got {value!r}")
        for key in ("data", "estimator"):
            if key not in table:
                raise ConfigError(f"the job has no [{key}] section")
        name = table.get("name", name)
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ConfigError(f"name must be letters, digits, '-', '_' and '.', for it names the run's directory; got {name!r}")
        return cls(
            name=name,
            description=table.get("description", ""),
            data=read_kind("data", DATA, table["data"]),
            split=Split.read(table.get("split", {})),
            estimator=Estimator.read(table["estimator"]),
            cluster=read_kind("cluster", CLUSTERS, {"kind": "local", **table.get("cluster", {})}),
            checkpoint=Checkpoints.read(table.get("checkpoint", {})),
            output=Output.read({"directory": f"runs/{name}", **table.get("output", {})}),
        )

    @property
    def sections(self) -> tuple[Section, ...]:
        """The sections of the job, in the order of a job file."""
        return self.data, self.split, self.estimator, self.cluster, self.checkpoint, self.output

    def table(self) -> dict[str, Any]:
        """The table that `read` takes: every key, those at their defaults too."""
        text = {"name": self.name, "description": self.description}
        return text | {section.title: section.table() for section in self.sections}

    def toml(self) -> str:
        """The job as a job file."""
        return to_toml(self.table())


def may_be_none(constraints: Any) -> bool:
    """Whether a parameter may be None, by scikit-learn's constraints of it: a list, or a word for a well-known one."""
    return constraints == "random_state" if isinstance(constraints, str) else None in constraints or "random_state" in constraints


def bundled_jobs() -> list[str]:
    """Names of the jobs that come with the library."""
    return sorted(entry.name.removesuffix(".toml") for entry in resources.files("pipeline.jobs").iterdir() if entry.name.endswith(".toml"))


def read_job(job: str, overrides: Sequence[str] = (), replace: Mapping[str, Mapping[str, Any]] | None = None) -> Job:
    """A bundled job by name, or a job file by path (it ends in .toml), then overrides "section.key=value", in turn.

    replace: whole sections that take the place of the job's own. Raises ConfigError for a job that is not there or not right.
    """
    path = Path(job)
    if path.suffix == ".toml":
        if not path.is_file():
            raise ConfigError(f"there is no job file {job}")
        text, name = path.read_bytes().decode(errors="replace"), path.stem
    elif job in bundled_jobs():
        text, name = (resources.files("pipeline.jobs") / f"{job}.toml").read_text(), job
    else:
        raise unknown(job, bundled_jobs(), "job", "bundled jobs", "; a job file's name ends in .toml")
    try:
        table = {**tomllib.loads(text), **(replace or {})}
        for override in overrides:
            apply_override(table, override)
        return Job.read(table, name)
    except (tomllib.TOMLDecodeError, ConfigError) as error:
        raise ConfigError(f"{job}: {error}") from error


def apply_override(table: dict[str, Any], override: str) -> None:
    """Set section.key=value, or the job's name=value or description=value, in its table. The value is TOML where it reads as such (8, 0.5,
    true, [1, 2]), else a string; without a value, section.key=, the key is taken out."""
    place, equals, text = override.partition("=")
    *parents, key = [part.strip() for part in place.split(".")]
    if not equals or not all([*parents, key]) or not (parents or key in TEXTS):
        raise ConfigError(f"--set {override}: write it as section.key=value or name=value, data.n_partitions=8 or name=mine for instance")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: {parent} is no section")
    if text.strip():
        value = plain_value(text.strip())
        table[key] = value if parents or isinstance(value, str) else text.strip()  # a name may look like a number
    else:
        table.pop(key, None)
