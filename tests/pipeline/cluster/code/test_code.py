"""Workers without this library get it, and what the user wrote; differences that matter are an error."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import h5py
import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

import tasks
from pipeline import Dataset, LinearRegression, LogisticRegression, MLPClassifier, connect
from pipeline.cluster.code.code import usable_workers
from pipeline.cluster.code.library import VersionMismatchError
from pipeline.cluster.code.modules import dumps, imported, packages_of_modules, users_modules
from pipeline.cluster.code.shipping import Look, digest_of, look, sources_of
from pipeline.cluster.code.shipping import folder as place
from pipeline.cluster.code.versions import differences
from pipeline.cluster.security import make_certificates, tls_environment
from tests.data import breast_cancer
from tests.pipeline.cluster.bare import command_line_cluster, environment, make_bare_python

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bare_python(tmp_path_factory.mktemp("bare") / "venv")


@pytest.fixture(scope="module")
def module_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cache(module_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where workers put what is sent, empty before the first test of this module: compiling takes long."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(module_cache))
    return module_cache / "dask-descent"


def fit(dataset: Dataset) -> str:
    return str(LogisticRegression(solver="newton").fit(dataset).parameters_sha256_)


def here(make: Any) -> str:
    with dask.config.set(scheduler="threads"):
        return fit(make())


def from_arrays() -> Dataset:
    X, y = breast_cancer()
    return Dataset.from_arrays(X, y, n_partitions=12)


def from_dask() -> Dataset:
    X, y = breast_cancer()
    return Dataset.from_dask(da.from_array(X, chunks=(50, -1)), da.from_array(y, chunks=50))


@pytest.mark.parametrize(
    "encrypted", [pytest.param(False, marks=pytest.mark.long, id="tcp"), pytest.param(True, marks=pytest.mark.slow, id="tls")]
)
def test_workers_without_this_library(bare_python: Path, cache: Path, tmp_path: Path, encrypted: bool) -> None:
    """From the command line; by address and by scheduler file; workers that join, machine code that stays."""
    tls = make_certificates(tmp_path / "certificates") if encrypted else None
    variables = {} if tls is None else tls_environment(tls)
    options = () if tls is None else ("--protocol", "tls")
    X, y = breast_cancer()
    with command_line_cluster(bare_python, directory=tmp_path, options=options, variables=variables) as file:
        with connect(scheduler_file=str(file), tls=tls, require_tls=encrypted) as connection:
            assert connection.client is not None
            connection.client.wait_for_workers(2, timeout=30)
            assert fit(from_arrays()) == here(from_arrays)
            assert fit(from_dask()) == here(from_dask)
            (folder,) = cache.iterdir()
            assert folder.stat().st_mode & 0o777 == 0o700
            machine_code = sorted(path.name for path in folder.rglob("*.nbc"))
            assert machine_code  # numba found a place for it
            connection.client.restart()  # new processes: they find code and machine code again
            assert fit(from_dask()) == here(from_dask)
            assert sorted(path.name for path in folder.rglob("*.nbc")) == machine_code
            model = LogisticRegression().fit(from_dask())
            np.testing.assert_array_equal(model.predict(da.from_array(X, chunks=(50, -1))).compute(), model.predict(X))
            assert model.score(from_dask()) == model.score(X, y)
            assert from_dask().X.sum().compute() == pytest.approx(X.sum())
        with connect(json.loads(file.read_text())["address"], tls=tls) as connection:
            assert connection.encrypted == encrypted
            assert fit(from_dask()) == here(from_dask)


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A user's module beside the notebook, with another that it imports."""
    folder = tmp_path / "notebook"
    folder.mkdir()
    (folder / "my_paths.py").write_text("FACTOR = 3.0\n")
    (folder / "my_losses.py").write_text(
        "import numpy as np\nimport my_paths\nfrom tasks.objectives.linear import LinearObjective\n"
        "class Scaled(LinearObjective):\n"
        "    def loss_and_gradient(self, group, parameters):\n"
        "        found = super().loss_and_gradient(group, parameters)\n"
        "        return found._replace(loss_sum=my_paths.FACTOR * found.loss_sum, gradient_sum=my_paths.FACTOR * found.gradient_sum)\n"
        "def make(i):\n"
        "    random = np.random.default_rng(i)\n"
        "    X = random.normal(size=(100, 3))\n"
        "    return X, (my_paths.FACTOR * X[:, 0] + random.normal(size=100) > 0).astype(int)\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module("my_losses")
    for name in ("my_losses", "my_paths"):
        sys.modules.pop(name, None)


@pytest.mark.long
def test_a_users_own_module_travels(bare_python: Path, cache: Path, tmp_path: Path, own_module: Any) -> None:
    class ScaledRegression(LogisticRegression):
        """Fits the user's objective."""

        def _objective(self, schema: Any) -> Any:
            found = super()._objective(schema)
            return own_module.Scaled(found.loss, found.n_columns, found.n_outputs, found.fit_intercept, found.classes, found.class_weight)

    def make() -> Dataset:
        return Dataset.from_function(own_module.make, n_partitions=6, n_columns=3)

    def digest() -> str:
        return str(ScaledRegression(solver="lbfgs", tol=1e-6).fit(make()).parameters_sha256_)

    with dask.config.set(scheduler="threads"):
        expected = digest()
    assert expected != here(make)
    with command_line_cluster(bare_python, directory=tmp_path) as file, connect(scheduler_file=str(file)) as connection:
        assert connection.client is not None
        connection.client.wait_for_workers(2, timeout=30)
        assert digest() == expected
        connection.client.restart()
        assert digest() == expected


def travelling(value: Any) -> set[str]:
    return set(users_modules(dumps(value)[1]))


@pytest.mark.long
def test_modules_that_travel(own_module: ModuleType) -> None:
    assert travelling(own_module.Scaled) == {"my_losses", "my_paths"}
    assert travelling([own_module.make, np.ones(3), fit]) >= {"my_losses", "my_paths"}
    assert travelling(LogisticRegression()) == set()
    assert travelling([np.ones(3), print, Path(), dask.delayed(sum)([1])]) == set()
    assert imported([b"import a.b, c\nfrom d.e import f\nfrom . import g\n", b"not python"]) == {"a", "c", "d"}


def test_sources_and_digests(tmp_path: Path) -> None:
    sources = sources_of("tasks")
    assert "tasks/kernels/dense.py" in sources
    assert set(sources_of("this")) == {"this.py"}
    assert sources_of("no_such_module") == sources_of("sys") == {}
    assert digest_of({"a": b"bc"}) != digest_of({"ab": b"c"}) != digest_of({})
    found = Look.of(look(["tasks", "no_such_module"])).modules
    assert found["tasks"] == (digest_of(sources), tasks.__file__, "")
    assert found["no_such_module"].digest is None


@pytest.fixture
def two_bare_workers(bare_python: Path, cache: Path, tmp_path: Path) -> Iterator[str]:
    with command_line_cluster(bare_python, directory=tmp_path) as file:
        with Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(2, timeout=30)
        yield json.loads(file.read_text())["address"]


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True, parents=True)
    (folder / name).write_text(text)


def mean_of(make: Any) -> float:
    dataset = Dataset.from_function(make, n_partitions=4, n_columns=2)
    return float(dataset.describe().mean.iloc[0])


MAKE = "import numpy as np\nVALUE = {}\ndef make(i):\n    return np.full((3, 2), VALUE), np.arange(3)\n"


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that this process imports from."""
    monkeypatch.syspath_prepend(str(tmp_path / "beside"))
    return tmp_path / "beside"


@pytest.fixture
def my_values(beside: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module of the user's that is going to be edited, faster than the clock of files ticks."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    write(beside, "my_values.py", MAKE.format(1.0))
    yield importlib.import_module("my_values")
    del sys.modules["my_values"]


@pytest.mark.long
def test_modules_that_are_edited_reloaded_and_put_back(two_bare_workers: str, beside: Path, my_values: Any) -> None:
    for value in (1.0, 2.0, 1.0):  # the last has the digest of the first
        write(beside, "my_values.py", MAKE.format(value))
        importlib.reload(my_values)
        with Client(two_bare_workers):
            assert mean_of(my_values.make) == value
    with Client(two_bare_workers):
        write(beside, "my_values.py", MAKE.format(3.0))
        assert mean_of(my_values.make) == 1.0  # what this process runs
        importlib.reload(my_values)
        assert mean_of(my_values.make) == 3.0  # and by the same client


@pytest.mark.long
def test_two_clients_with_different_modules(two_bare_workers: str, beside: Path, my_values: Any) -> None:
    with Client(two_bare_workers):
        assert mean_of(my_values.make) == 1.0
        write(beside, "my_values.py", MAKE.format(2.0))
        importlib.reload(my_values)
        with (
            Client(two_bare_workers),
            pytest.raises(VersionMismatchError, match=r"another client .* uses another version of my_values"),
        ):
            mean_of(my_values.make)
    with Client(two_bare_workers):
        assert mean_of(my_values.make) == 2.0


@pytest.mark.long
def test_modules_that_functions_name_or_import(two_bare_workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of the script itself, by value: what it refers to, what it imports when it runs, and a package with a data file."""
    folder = tmp_path / "beside"
    monkeypatch.syspath_prepend(str(folder))
    write(
        folder,
        "my_package/__init__.py",
        "from importlib import resources\nVALUE = float((resources.files(__name__) / 'value.txt').read_text())\n",
    )
    write(folder, "my_package/value.txt", "4.0")
    write(
        folder,
        "my_values.py",
        MAKE.format(1.0) + "def lazily(i):\n    import my_package\n    return np.full((3, 2), my_package.VALUE), None\n",
    )
    script: dict[str, Any] = {"__name__": "__main__"}
    exec(  # as a script's own functions are
        "import my_values\n"
        "def by_name(i):\n    return my_values.make(i)\n"
        "def by_import(i):\n    import my_values\n    return my_values.make(i)\n"
        "def by_package(i):\n    return my_values.lazily(i)\n",
        script,
    )
    try:
        with Client(two_bare_workers):
            assert [mean_of(script[name]) for name in ("by_package", "by_name", "by_import")] == [4.0, 1.0, 1.0]
    finally:
        for name in ("my_values", "my_package"):
            sys.modules.pop(name, None)


@pytest.mark.long
def test_this_process_stays_as_it_is(cache: Path, beside: Path, my_values: Any) -> None:
    """The scheduler of a LocalCluster lives in it."""
    path = list(sys.path)
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster):
        assert mean_of(my_values.make) == 1.0
        write(beside, "my_values.py", MAKE.format(2.0))
        with Client(cluster):
            assert mean_of(my_values.make) == 1.0  # as long as it is not reloaded here
    assert sys.path == path
    assert importlib.import_module("my_values") is my_values


def test_folders_of_modules_are_this_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = place("0" * 64, lambda: tmp_path / "scratch")
    assert root == tmp_path / "cache" / "dask-descent" / ("0" * 64)
    assert [path.stat().st_mode & 0o777 for path in (root, root.parent)] == [0o700, 0o700]
    root.parent.chmod(0o777)  # somebody else could put modules there
    (tmp_path / "scratch").mkdir()
    assert place("0" * 64, lambda: tmp_path / "scratch").is_relative_to(tmp_path / "scratch")


PACKAGES = {"python": "3.11.7.final.0", "numpy": "2.4.6", "scipy": "1.17.1", "numba": "0.68.1", "dask": "2026.8.0"}
NEEDED = ("cloudpickle", "llvmlite", "psutil", "threadpoolctl")


def test_versions_that_differ() -> None:
    same: dict[str, str | None] = {**PACKAGES, "distributed": "2026.8.0", **dict.fromkeys(NEEDED, "1.0")}
    assert differences(same, {"a": same, "b": {**same, "psutil": "9.9"}}) == ([], [])
    fatal, slight = differences(same, {w: {**same, "numpy": "2.3.6"} for w in "abcde"})
    assert (fatal, slight) == (["numpy 2.4.6 here, 2.3.6 on a, b, c and 2 more"], [])
    assert differences(same, {"a": {**same, "scipy": "1.17.2"}}) == ([], ["scipy 1.17.1 here, 1.17.2 on a"])
    assert differences(same, {"a": {**same, "python": "3.12.1.final.0"}})[0] == ["python 3.11.7 here, 3.12.1 on a"]
    assert differences(same, {"a": {**same, "llvmlite": None}})[0] == ["llvmlite 1.0 here, missing on a"]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:a worker that joined cannot be used")
def test_a_worker_with_other_packages(tmp_path: Path, bare_python: Path) -> None:
    """Really another version: a distribution of that name comes before the installed one on the worker's path."""
    fake = tmp_path / "fake" / "numba-0.1.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: numba\nVersion: 0.1\n")
    with command_line_cluster(bare_python, directory=tmp_path, n_workers=1) as file, Client(scheduler_file=str(file)) as client:
        client.wait_for_workers(1, timeout=30)
        client.run(lambda folder: sys.path.insert(0, folder), str(tmp_path / "fake"))
        client.run(lambda: importlib.import_module("distributed.versions")._version_cached.cache_clear())
        workers = list(client.scheduler_info()["workers"])
        with pytest.raises(VersionMismatchError, match=r"numba .* here, 0\.1 on tcp://.*\ninstall the same versions on both"):
            usable_workers(client, workers)
        for _ in range(2):  # one that joins a fit whose other workers have died
            with pytest.raises(VersionMismatchError, match=r"no worker is left that can be used: .*\n.*numba .* here, 0\.1 on tcp://"):
                usable_workers(client, workers, late=True)


HIDE = """
import importlib.metadata, os, sys

HIDDEN = os.environ.get("HIDDEN", "").split()

class Hidden(importlib.metadata.DistributionFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    def find_distributions(self, context=importlib.metadata.DistributionFinder.Context()):
        return ()

find = importlib.metadata.distribution

def found(name):
    if name.replace("-", "_") in HIDDEN:
        raise importlib.metadata.PackageNotFoundError(name)
    return find(name)

sys.meta_path.insert(0, Hidden())
importlib.metadata.distribution = found
"""


@contextmanager
def workers_without(packages: Sequence[str], python: Path, directory: Path) -> Iterator[Client]:
    """One worker that has all, and one in whose environment these packages are not."""
    (directory / "hiding").mkdir()
    (directory / "hiding" / "sitecustomize.py").write_text(HIDE)
    with command_line_cluster(python, directory=directory, n_workers=1) as file:
        variables = environment(HIDDEN=" ".join(packages), PYTHONPATH=str(directory / "hiding"))
        start = [str(python), "-m", "dask", "worker", "--scheduler-file", str(file), "--nthreads", "1", "--name", "bare"]
        with (directory / "bare.log").open("w") as log:
            worker = subprocess.Popen([*start, "--dashboard-address", "127.0.0.1:0"], cwd=directory, env=variables, stdout=log, stderr=log)
        try:
            with Client(scheduler_file=str(file)) as client:
                client.wait_for_workers(2, timeout=60)
                for package in packages:
                    with pytest.raises(ModuleNotFoundError):
                        client.run(importlib.import_module, package, workers=[address_of_bare(client)])
                yield client
        finally:
            worker.terminate()
            worker.wait(20)


def address_of_bare(client: Client) -> str:
    found = client.scheduler_info(n_workers=-1)["workers"]
    return next(address for address in found if found[address]["id"] == "bare")


def write_hdf5(path: Path) -> None:
    X, y = breast_cancer()
    with h5py.File(path, "w") as file:
        file["X"], file["y"] = X, y


@pytest.mark.parametrize("model", [LogisticRegression(solver="newton"), MLPClassifier((4,), max_iter=2, random_state=0)])
@pytest.mark.long
def test_workers_without_packages_that_a_fit_does_not_use(bare_python: Path, cache: Path, tmp_path: Path, model: Any) -> None:
    def digests() -> list[str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return [clone(model).fit(make()).parameters_sha256_ for make in (from_arrays, from_dask)]

    with dask.config.set(scheduler="threads"):
        expected = digests()
    packages = ("array_api_compat", "h5py", "fsspec", "pandas", "pyarrow", "sklearn", "zarr")
    with workers_without(packages, bare_python, tmp_path):
        assert digests() == expected


@pytest.mark.long
def test_a_worker_without_a_package_that_a_fit_uses(bare_python: Path, cache: Path, tmp_path: Path) -> None:
    write_hdf5(tmp_path / "rows.h5")
    frame = dd.from_pandas(pd.DataFrame(breast_cancer()[0][:, :3], columns=["a", "b", "t"]), npartitions=6)

    labels = da.from_array(np.array(["malignant", "benign"])[breast_cancer()[1]], chunks=50)

    def lazily(i: int) -> Any:
        import zarr

        return np.full((20, 2), i % 2 + len(zarr.__version__) * 0.0), np.arange(20) % 2

    with workers_without(("h5py", "pandas", "zarr"), bare_python, tmp_path) as client:
        bare = address_of_bare(client)
        assert fit(from_arrays()) == here(from_arrays)
        with pytest.raises(VersionMismatchError, match=rf"h5py, missing on {bare}\ninstall .*pip install h5py"):
            fit(Dataset.read_hdf5(str(tmp_path / "rows.h5"), X="X", y="y", n_partitions=8))
        for on_error in ("raise", "quarantine"):
            with pytest.raises(VersionMismatchError, match=rf"zarr, missing on {bare}\ninstall .*pip install zarr") as raised:
                fit(Dataset.from_function(lazily, n_partitions=8, n_columns=2, on_error=on_error))
            assert "(make(" in str(raised.value.__cause__)
        model, unread = LogisticRegression().fit(from_arrays()), Dataset.from_function(lazily, n_partitions=8, n_columns=2)
        model.coef_ = model.coef_[:, :2]
        model.n_features_in_ = 2
        with pytest.raises(VersionMismatchError, match=rf"zarr, missing on {bare}\ninstall .*pip install zarr"):
            model.predict(unread).compute()
        with pytest.raises(VersionMismatchError, match=rf"pandas, missing on {bare}\ninstall"):
            LinearRegression().fit(Dataset.from_dataframe(frame, target="t"))
        with pytest.raises(VersionMismatchError, match=rf"pandas, missing on {bare}\ninstall"):
            fit(Dataset.from_dask(from_dask().X, labels))  # text is digested with it
        assert fit(from_dask()) == here(from_dask)


def test_what_modules_must_have() -> None:
    assert packages_of_modules(["tasks.loading.hdf5"]) == {"fsspec", "h5py", "numpy"}
    assert packages_of_modules(["tasks.loading.file_rows", "tasks.reductions.reduction"]) == {"fsspec", "numpy"}
    assert packages_of_modules(["pandas.core.frame", "json", "", "builtins", "__main__", "pipeline.data", "no_such"]) == {"pandas"}
    assert packages_of_modules(["dask.dataframe.io"]) == {"pandas", "pyarrow"}


def test_tasks_is_imported_with_few_packages() -> None:
    """Whatever a worker lacks that only some fits need."""
    code = (
        "import importlib, pkgutil, tasks\n"
        "for each in pkgutil.walk_packages(tasks.__path__, 'tasks.'):\n"
        "    if each.name not in ('tasks.loading.hdf5', 'tasks.loading.file_rows', 'tasks.objectives.replicas'):\n"
        "        importlib.import_module(each.name)\n"
    )
    hidden = "array_api_compat dask distributed fsspec h5py pandas pyarrow sklearn torch zarr"
    command = [sys.executable, "-c", HIDE + code]
    done = subprocess.run(command, env=os.environ | {"HIDDEN": hidden}, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_a_worker_whose_blas_rounds_differently(tmp_path: Path) -> None:
    """OpenBLAS picks its kernels by the CPU; here it is told another one."""
    X, y = breast_cancer()
    variables = {"OPENBLAS_CORETYPE": "Prescott"}
    with command_line_cluster(directory=tmp_path, n_workers=1, variables=variables) as file, Client(scheduler_file=str(file)) as client:
        client.wait_for_workers(1, timeout=30)
        with pytest.warns(UserWarning, match=r"tcp://.*: the CPU or BLAS there rounds differently from this process's"):
            LogisticRegression(solver="lbfgs").fit(X, y)
        LogisticRegression(solver="lbfgs").fit(X, y)  # said once
