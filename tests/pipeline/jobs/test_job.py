"""Job files: what is read, what is refused and how, and that a job written out is the job again."""

from __future__ import annotations

import inspect
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from dask.callbacks import Callback
from hypothesis import given
from hypothesis import strategies as st

from pipeline.estimators.registry import ESTIMATORS
from pipeline.jobs.cluster import InProcess, Local, Queue, Scheduler
from pipeline.jobs.data import BundledData, FileData, GeneratedData
from pipeline.jobs.job import DATA, Estimator, Job, Split, bundled_jobs, read_job
from pipeline.sections import ConfigError, plain_value, to_toml
from tasks.loading.synthetic import LinearRows
from tests.data import breast_cancer

MINIMAL: dict[str, Any] = {"data": {"kind": "bundled", "name": "iris"}, "estimator": {"name": "LogisticRegression"}}


def job(**sections: Any) -> Job:
    return Job.read({**MINIMAL, **sections}, "mine")


@pytest.mark.parametrize("name", bundled_jobs())
def test_bundled_jobs_are_right_and_survive_being_written(name: str) -> None:
    read = read_job(name)
    assert read.name == name and read.description
    assert Job.read(tomllib.loads(read.toml()), "another name") == read


def test_defaults() -> None:
    read = job()
    assert read.split == Split(test_size=0.25, seed=0)
    assert read.cluster == Local()
    assert read.output.directory == "runs/mine"


@pytest.mark.parametrize("kind", [kind for kind, section in DATA.items() if issubclass(section, FileData)])
def test_sections_of_files_have_the_names_and_defaults_of_their_reader(kind: str) -> None:
    section: Any = DATA[kind]
    parameters = inspect.signature(section.reader).parameters
    own = {"urlpath" if f.name == "path" else f.name: f.default for f in fields(section) if f.name not in ("options", "made_by")}
    assert own.keys() <= parameters.keys()
    assert {name: parameters[name].default for name, default in own.items() if default is not MISSING} == {
        name: default for name, default in own.items() if default is not MISSING
    }


def test_a_job_file_with_everything_survives_being_written() -> None:
    read = job(
        name="every-key.2",
        description='quotes " and \\ and\nlines, snow ☃',
        data={"kind": "csv", "path": ["a.csv", "b*.csv"], "target": "y", "columns": ["u", "v"], "options": {"sep": ";"}, "made_by": "make"},
        estimator={"name": "LogisticRegression", "C": float("inf"), "class_weight": {"0": 1.0, "1": 2.5}, "fit_intercept": False},
        cluster={"kind": "scheduler", "address": "tcp://host:8786"},
    )
    assert Job.read(tomllib.loads(read.toml()), "") == read
    assert read.estimator.build().get_params()["class_weight"] == {0: 1.0, 1: 2.5}


def test_none_in_a_job_file() -> None:
    """TOML has no null."""
    read = job(estimator={"name": "SGDClassifier", "solver": "async", "staleness": "none", "tol": "None"})
    found = read.estimator.build().get_params()
    assert (found["staleness"], found["tol"], found["solver"]) == (None, None, "async")
    assert Job.read(tomllib.loads(read.toml()), "") == read
    with pytest.raises(ConfigError, match="max_iter"):
        job(estimator={"name": "SGDClassifier", "max_iter": "none"})
    assert job(estimator={"name": "Ridge", "random_state": "none"}).estimator.build().random_state is None
    with pytest.raises(ConfigError, match="penalty"):  # what scikit-learn does not check the type of
        job(estimator={"name": "LogisticRegression", "penalty": "none"})


values = st.recursive(
    st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), values, max_size=5))
def test_written_toml_is_what_python_reads(table: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(table)) == table


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dat.kind=csv", r"the job: 'dat' is not known; did you mean 'data'\?"),
        ("data.n_partition=3", r"\[data\] with kind = \"bundled\": 'n_partition' is not known; did you mean 'n_partitions'\?"),
        ("data.n_partitions=three", r"\[data\] n_partitions must be a whole number of at least 1, got 'three'"),
        ("data.n_partitions=0", "whole number of at least 1, got 0"),
        ("data.n_partitions=2.0", "whole number of at least 1, got 2.0"),
        ("data.n_partitions=true", "whole number of at least 1, got True"),
        ("data.partition_rows=[1,-1]", r"partition_rows must be a list of whole numbers of at least 0, got \[1, -1\]"),
        ("data.name=iriss", "did you mean 'iris'"),
        ("data.name=", r"\[data\] with kind = \"bundled\" needs name, a string"),
        ("data.kind=cvs", r"\[data\] kind: 'cvs' is not known; did you mean 'csv'\?"),
        ("data.kind=", r"\[data\] needs kind, one of 'bundled', 'csv'"),
        ("data.kind=csv", r"\[data\] with kind = \"csv\": 'name' is not known"),
        ("split.test_size=1", "test_size must be a number of at least 0 and below 1, got 1"),
        ("split.test_size=nan", "test_size must be a number of at least 0 and below 1, got nan"),
        ("split.sed=1", "did you mean 'seed'"),
        ("estimator.name=LogisticRegresion", "did you mean 'LogisticRegression'"),
        ("estimator.name=", r"\[estimator\] needs name"),
        ("estimator.c=1", r"\[estimator\] LogisticRegression: 'c' is not known; did you mean 'C'\?"),
        ("estimator.C=-1", r"\[estimator\] The 'C' parameter of LogisticRegression must be a float in the range \(0.0, inf\]. Got -1"),
        ("estimator.solver=lbgfs", "did you mean 'lbfgs'"),
        ("estimator.dual=true", r"\[estimator\] LogisticRegression\(dual=True\) is not available: there is no dual solver here"),
        ("cluster.kind=locale", "did you mean 'local'"),
        ("cluster.workers=2", "did you mean 'n_workers'"),
        ("cluster.kind=scheduler", "needs address or scheduler_file"),
        ("cluster.gpu=1", r"\[cluster\] gpu must be true or false, got 1"),
        ("cluster.tls=2", r"\[cluster\] tls must be true, false, or a directory of certificates, got 2"),
        ("output.directory=3", r"\[output\] directory must be a string, got 3"),
        ("name=up/there", r"it names the run's directory; got 'up/there'"),
        ("nam=mine", "write it as section.key=value or name=value, data.n_partitions=8 or name=mine for instance"),
        ("split.seed=-1", r"\[split\] seed must be a whole number of at least 0, got -1"),
        ("split.test_size=a", r"\[split\] test_size must be a number of at least 0 and below 1, got 'a'"),
        ("estimator.class_weight.0=a", r"\[estimator\] class_weight must hold numbers, got 'a' for class 0"),
        ("estimator.class_weight.0=-1", r"\[estimator\] class_weight must hold finite factors that are not negative, got -1 for class 0"),
        ("data", "write it as section.key=value"),
        ("data.name.x=1", "name is no section"),
    ],
)
def test_what_is_wrong_is_named_with_the_nearest_right_name(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(MINIMAL))
    with pytest.raises(ConfigError, match=message):
        read_job(str(path), [override])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"estimator": MINIMAL["estimator"]}, r"the job has no \[data\] section"),
        ({**MINIMAL, "data": "iris"}, r"data must be a table of keys, \[data\], got 'iris'"),
        ({**MINIMAL, "name": 3}, "name must be a string, got 3"),
        ({**MINIMAL, "name": "../up"}, r"it names the run's directory; got '\.\./up'"),
    ],
)
def test_jobs_of_the_wrong_form_are_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Job.read(table, "mine")


def test_files_that_are_no_jobs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        read_job("digts")
    with pytest.raises(ConfigError, match="there is no job file"):
        read_job(str(tmp_path / "none.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("[data\n")
    with pytest.raises(ConfigError, match=r"broken\.toml: "):
        read_job(str(broken))


def test_sections_are_checked_however_they_are_built() -> None:
    with pytest.raises(ConfigError, match="not both"):
        BundledData(name="iris", n_partitions=2, partition_rows=(100, 50))
    with pytest.raises(ConfigError, match="not both"):
        Scheduler(address="tcp://host:1", scheduler_file="s.json")
    with pytest.raises(ConfigError, match="must be one of 'float32', 'float64', got 'float16'"):
        GeneratedData(n_partitions=1, rows_per_partition=1, n_columns=1, dtype="float16")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="parameters must be a table"):
        Estimator(name="Ridge", parameters=[1])  # type: ignore[arg-type]


def test_every_estimator_can_be_asked_for() -> None:
    for name in ESTIMATORS:
        assert type(Estimator(name=name).build()).__name__ == name


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("1e-3", 1e-3),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ("lbfgs", "lbfgs"),
        ('"8"', "8"),
        ("a/*.csv", "a/*.csv"),
        ("1979-05-27", "1979-05-27"),
    ],
)
def test_values_on_the_command_line(text: str, value: Any) -> None:
    assert plain_value(text) == value and type(plain_value(text)) is type(value)


def test_overrides_change_add_and_take_out_keys(tmp_path: Path) -> None:
    read = read_job("digits", ["data.partition_rows=", "data.n_partitions=5", "estimator.C = 0.5"], {"cluster": {"kind": "in-process"}})
    assert read.data == BundledData(name="digits", n_partitions=5)
    assert read.estimator.parameters == {"C": 0.5}
    assert read.cluster == InProcess()


def test_the_name_can_be_overridden() -> None:
    for text, name in (("mine", "mine"), ("2024", "2024"), ("1e3", "1e3"), ('"a-b"', "a-b")):
        read = read_job("digits", [f"name={text}", "description=of mine"])
        assert (read.name, read.description, read.output.directory) == (name, "of mine", f"runs/{name}")


def test_class_weights_of_keys_of_several_types_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"the keys of class_weight must be classes as y has them, got .* mixes labels"):
        Estimator(name="LogisticRegression", parameters={"class_weight": {"0": 1.0, "yes": 2.0}})


def test_digits_comes_in_37_uneven_partitions() -> None:
    data = read_job("digits").data
    assert isinstance(data, BundledData) and data.partition_rows is not None
    assert len(data.partition_rows) == 37 and sum(data.partition_rows) == 1797
    assert max(data.partition_rows) > 100 * min(data.partition_rows)


def test_each_kind_of_data_gives_the_rows_of_its_files(tmp_path: Path) -> None:
    X, y = breast_cancer()
    frame = pd.DataFrame(X, columns=[f"c{i}" for i in range(30)]).assign(label=y)
    frame.to_csv(tmp_path / "rows.csv", index=False, sep=";")
    frame.to_parquet(tmp_path / "rows.parquet")
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    zarr.save(tmp_path / "X.zarr", X)
    zarr.save(tmp_path / "y.zarr", y)
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["X"], file["y"] = X, y
    files: dict[str, dict[str, Any]] = {
        "csv": {"path": str(tmp_path / "*.csv"), "target": "label", "options": {"sep": ";"}},
        "parquet": {"path": str(tmp_path / "rows.parquet"), "target": "label"},
        "npy": {"X": str(tmp_path / "X.npy"), "y": str(tmp_path / "y.npy"), "n_partitions": 3},
        "zarr": {"X": str(tmp_path / "X.zarr"), "y": str(tmp_path / "y.zarr"), "n_partitions": 3},
        "hdf5": {"path": str(tmp_path / "rows.h5"), "X": "X", "y": "y", "n_partitions": 3},
    }
    assert set(files) == set(DATA) - {"bundled", "generated"}
    computed: list[Any] = []
    for kind, keys in files.items():
        with Callback(start=computed.append):
            dataset = job(data={"kind": kind, **keys}).data.dataset()
        assert not computed, f"{kind} is not lazy"
        np.testing.assert_array_equal(dataset.X.compute(), X, err_msg=kind)
        np.testing.assert_array_equal(dataset.y.compute(), y, err_msg=kind)


def test_missing_files_name_the_command_that_makes_them(tmp_path: Path) -> None:
    data = job(data={"kind": "parquet", "path": str(tmp_path / "*.parquet"), "target": "y", "made_by": "make them"}).data
    with pytest.raises(FileNotFoundError, match=r"no file matches .*; make the files with: make them"):
        data.dataset()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_generated_partitions_are_the_same_whenever_they_are_made(dtype: Any) -> None:
    data = GeneratedData(n_partitions=3, rows_per_partition=50, n_columns=4, dtype=dtype, seed=7)
    X, y = data.dataset().X.compute(), data.dataset().y.compute()
    assert X.shape == (150, 4) and X.dtype == dtype
    make = LinearRows("logistic", 50, 4, dtype, 7)
    np.testing.assert_array_equal(X, np.concatenate([make(i)[0] for i in (2, 1, 0)][::-1]))
    np.testing.assert_array_equal(y, np.concatenate([make(i)[1] for i in range(3)]))
    assert len({make(i)[0].tobytes() for i in range(3)} | {LinearRows("logistic", 50, 4, dtype, 8)(0)[0].tobytes()}) == 4


def test_generated_rows_follow_their_model() -> None:
    logistic, linear = LinearRows("logistic", 100_000, 3), LinearRows("linear", 100_000, 3)
    X, y = logistic(0)
    raw = X @ logistic.coef
    for low, high in ((-3, -2), (-0.5, 0.5), (2, 3)):
        inside = (raw > low) & (raw < high)
        assert abs(y[inside].mean() - (1 / (1 + np.exp(-raw[inside]))).mean()) < 4 * np.sqrt(0.25 / inside.sum())
    X, y = linear(0)
    np.testing.assert_allclose(np.linalg.lstsq(X, y)[0], linear.coef, atol=4 / np.sqrt(100_000))


def test_a_job_for_a_queue() -> None:
    table = {
        "kind": "queue",
        "system": "slurm",
        "jobs": 8,
        "cores": 4,
        "memory": "16GB",
        "prologue": ["module load x"],
        "tls": "certificates",
    }
    read = read_job("digits", replace={"cluster": table})
    assert isinstance(read.cluster, Queue)
    assert read.cluster.options == {"jobs": 8, "cores": 4, "memory": "16GB", "prologue": ["module load x"]}
    assert Job.read(tomllib.loads(read.toml()), "digits") == read
    for key, value, message in (
        ("core", 4, r"\[cluster\] with kind = \"queue\": 'core' is not known; did you mean 'cores'"),
        ("timout", 4, "did you mean 'timeout'"),
        ("options", {"cores": 4}, "'options' is not known"),
        ("cores", "4", r"\[cluster\] cores must be a whole number of at least 1, got '4'"),
        ("system", "slrum", "did you mean 'slurm'"),
        ("disk", "1GB", "slurm is not asked for disk this way"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_job("digits", replace={"cluster": table | {key: value}})
    with pytest.raises(ConfigError, match=r"with kind = \"queue\" needs system"):
        read_job("digits", replace={"cluster": {"kind": "queue"}})


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(("name", "key"), [("target", "target"), ("columns", "columns"), ("made_by", "made_by"), ("urlpath", "path")])
def test_options_that_are_keys_of_the_section_are_refused(kind: str, name: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[data\] options has '{name}', .* write {key} = \.\.\. there"):
        DATA[kind](path="rows.x", target="t", options={name: "x"})
