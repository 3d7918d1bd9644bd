"""What the documentation shows runs, and says what it says."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client
from scipy.optimize import check_grad

import pipeline
from pipeline import Dataset, minimise
from tasks.rows.partition import Block, make_group
from tasks.strategies.newton import Newton

DOCS = Path(__file__).parents[1] / "docs"
ROOT = DOCS.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def test_map_is_the_tree() -> None:
    assert dict(mapped()) == dict(house())
    assert len(mapped()) == len(dict(mapped()))  # no folder twice


def house() -> Iterator[tuple[str, list[str]]]:
    """Each folder that holds modules, and their names."""
    for package in ("pipeline", "tasks"):
        for folder in sorted({path.parent for path in (ROOT / package).rglob("*.py")}):
            yield f"{folder.relative_to(ROOT)}/", sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def mapped() -> list[tuple[str, list[str]]]:
    """The same, as docs/map.md has it: a line for each folder, with its text, and indented lines of its modules."""
    (block,) = re.findall(r"^```\n(.*?)^```", (DOCS / "map.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith(" "):
            found[-1][1].extend(line.split())
        else:
            folder, text = line.split(maxsplit=1)  # a folder without a word on what it is fails here
            assert text
            found.append((folder, []))
    return found


@each_page
def test_lines_are_short(page: Path) -> None:
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    assert [number for number, line in lines if len(line) > 160 and not line.startswith("|")] == []


@each_page
def test_what_pages_point_at_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
        there = page.parent / target if target else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"
    for path in re.findall(r"`((?:pipeline|tasks|tests|docs)/[^`\s]*)`", text):
        assert (ROOT / path).exists(), path


def anchors(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_errors_that_are_named_can_be_imported() -> None:
    texts = [*DOCS.glob("*.md"), *(DOCS.parent / name for name in ("README.md", "CHANGELOG.md"))]
    named = {name for path in texts for name in re.findall(r"`(\w+(?:Error|Warning))`", path.read_text(encoding="utf-8"))}
    ours = {name for name in named if name not in vars(builtins)}
    assert {"SchedulerLostError", "WorkersKilledError", "OutOfMemoryError", "PartitionError"} <= ours
    assert ours <= set(pipeline.__all__)


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """The code of docs/own-models.md, run in this process."""
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "own-models.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) < 80
    names: dict[str, Any] = {"__name__": "__main__"}
    with dask.config.set(scheduler="threads"):
        exec(compile(code, "own-models.md", "exec"), names)
    return names


def test_own_model_learns(example: dict[str, Any]) -> None:
    X, y, machine = example["X"], example["y"], example["machine"]
    for found in (example["by_batches"], example["by_passes"]):
        assert np.mean((machine.predict(found.parameters, X)[:, 0] > 0) == y) > 0.85


def test_own_model_has_the_gradient_that_it_says(example: dict[str, Any]) -> None:
    X, y, machine = example["X"][:50], example["y"][:50], example["machine"]
    group = make_group([Block(X, y)], 0)

    def value(parameters: Any) -> float:
        return float(machine.loss_and_gradient(group, parameters[None]).loss_sum[0])

    def gradient(parameters: Any) -> Any:
        return machine.loss_and_gradient(group, parameters[None]).gradient_sum[0]

    assert check_grad(value, gradient, example["start"]) < 1e-4


def test_own_model_on_a_cluster(client: Client, example: dict[str, Any]) -> None:
    data = Dataset.from_arrays(example["X"], example["y"], n_partitions=16)
    for strategy, here in ((example["strategy"], example["by_batches"]), (example["LBFGS"](max_iter=200), example["by_passes"])):
        there = minimise(example["machine"], data, strategy, example["start"], penalty=example["L2"](1e-5))
        assert there.parameters_sha256 == here.parameters_sha256


def test_own_model_that_lacks_something(example: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="FactorisationMachine is not compatible with Newton: it must implement hessian"):
        minimise(example["machine"], example["data"], Newton(), example["start"])
    with pytest.raises(ValueError, match=r"start must be \(51,\), as the layout of FactorisationMachine says, got \(3,\)"):
        minimise(example["machine"], example["data"], example["strategy"], np.zeros(3))
