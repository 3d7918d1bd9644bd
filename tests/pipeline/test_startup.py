"""What an import loads, in processes of their own; the names of the package."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pipeline

REPOSITORY = Path(pipeline.__file__).parents[1]
HEAVY = ("cryptography", "dask", "distributed", "fsspec", "h5py", "llvmlite", "matplotlib", "numba", "pandas", "pyarrow", "zarr")
"""What no import of an estimator loads; scikit-learn loads pandas and PyArrow itself, where they are."""
ESTIMATORS = ("LinearRegression", "LogisticRegression", "MLPClassifier", "MLPRegressor", "Ridge", "SGDClassifier", "SGDRegressor")
WITHOUT = "import sys\nfor name in {names}: sys.modules[name] = None\n"
"""As if these packages were not installed."""


def python(code: str, *arguments: str, status: int = 0) -> str:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == status, done.stderr
    return done.stdout


@pytest.mark.long
def test_estimators_load_nothing_heavy_beside_scikit_learn() -> None:
    code = (
        "import json, sys, sklearn.linear_model\nbefore = set(sys.modules)\n"
        f"from pipeline import {', '.join(ESTIMATORS)}\nprint(json.dumps(sorted(set(sys.modules) - before)))"
    )
    loaded = {name.partition(".")[0] for name in json.loads(python(code))}
    assert "pipeline" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.long
def test_estimators_are_made_without_the_packages_that_fits_need() -> None:
    code = WITHOUT.format(names=HEAVY) + (
        f"import pipeline\nfrom sklearn.base import clone\nfor name in {ESTIMATORS}:\n"
        "    model = clone(getattr(pipeline, name)())\n"
        "    print(type(model).__name__, model.get_params()['checkpoint'], repr(model))"
    )
    assert [line.split()[0] for line in python(code).splitlines()] == list(ESTIMATORS)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, "certificates"),
        (["train", "--help"], 0, "slurm"),
        (["submit", "--help"], 0, "--max-jobs"),
        (["make-data", "--help"], 0, "{parquet,csv}"),
        (["doctor", "--help"], 0, "--scheduler-file"),
        (["trai"], 2, ""),
        (["train", "digits", "--in-process", "--n-workers", "2"], 2, ""),
    ],
)
def test_help_and_wrong_arguments_load_nothing_heavy(arguments: list[str], status: int, said: str) -> None:
    names = (*HEAVY, "numpy", "psutil", "scipy", "sklearn", "narwhals", "rich")
    code = WITHOUT.format(names=names) + "from pipeline.cli import main\nraise SystemExit(main(sys.argv[1:]))"
    assert said in python(code, *arguments, status=status)


@pytest.mark.long
def test_first_fits_of_several_threads() -> None:
    """All at once in a process that has imported nothing of what a fit takes."""
    code = (
        "import threading, numpy as np\nfrom concurrent.futures import ThreadPoolExecutor\nfrom pipeline import LogisticRegression\n"
        "X = np.random.default_rng(0).normal(size=(200, 3))\nstart = threading.Barrier(8)\n"
        "def digest(_):\n    model = LogisticRegression()\n    start.wait()\n    return model.fit(X, X[:, 0] > 0).parameters_sha256_\n"
        "with ThreadPoolExecutor(8) as pool:\n    print(*pool.map(digest, range(8)))"
    )
    digests = python(code).split()
    assert len(digests) == 8 and len(set(digests)) == 1


def test_every_name_is_there() -> None:
    found: dict[str, Any] = {}
    exec("from pipeline import *", found)
    for name in pipeline.__all__:
        assert found[name] is getattr(pipeline, name)
    assert set(pipeline.__all__) <= set(dir(pipeline))
    assert pipeline.Dataset.__module__ == "pipeline.data.dataset"


def test_names_are_from_where_type_checkers_see_them() -> None:
    tree = ast.parse(Path(pipeline.__file__).read_text())
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == pipeline._PLACES
    assert {*seen, "VersionMismatchError", "__version__"} == set(pipeline.__all__)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match=r"module 'pipeline' has no attribute 'LogisticRegresion'; it has .*LogisticRegression"):
        pipeline.LogisticRegresion  # noqa: B018
    with pytest.raises(ImportError, match="LogisticRegresion"):
        exec("from pipeline import LogisticRegresion", {})
