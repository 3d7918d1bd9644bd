"""Every notebook runs from a clean kernel, and is stored with the outputs of such a run."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from ipykernel.kernelspec import write_kernel_spec
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from matplotlib import font_manager  # noqa: F401  a first import of this fills a cache and says so: here, not in the notebook
from nbclient import NotebookClient

from tests.conftest import slurm_is_installed

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
EACH = [pytest.param(path, marks=pytest.mark.torch if "import torch" in path.read_text() else pytest.mark.long) for path in NOTEBOOKS]
LOCAL = re.compile(r"(?<![\w.])(/(home|root|work|tmp|usr|opt|mnt|var|Users)/|tcp://|https?://|127\.0\.0\.1|localhost)|0x[0-9a-f]{8,}")

PROGRAM = re.compile(r"<(style|script)\b.*?</\1>", re.DOTALL)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell: Any) -> set[str]:
    """The kinds of output of a cell: "stdout", "stderr", "error", or the MIME types of what it shows."""
    found: set[str] = set()
    for output in cell.outputs:
        found |= {output.name} if output.output_type == "stream" else set(output.get("data", {"error": None}))
    return found


def texts(cell: Any) -> list[str]:
    """All text in the outputs of a cell; images are left out, and style sheets and scripts, in which scikit-learn's diagram has links."""
    data = [(mime, str(text)) for output in cell.outputs for mime, text in output.get("data", {}).items()]
    shown = [PROGRAM.sub("", text) for mime, text in data if not mime.startswith("image/")]
    said = [output.get("text", "") + "\n".join(output.get("traceback", [])) for output in cell.outputs]
    return [*shown, *said]


def executed(path: Path, directory: Path) -> Any:
    """The notebook after a run in `directory`, by a new kernel of the interpreter that runs this; an error ends it."""
    write_kernel_spec(directory / "kernels" / "this")
    specs = KernelSpecManager(kernel_dirs=[str(directory / "kernels")])
    manager = AsyncKernelManager(kernel_name="this", kernel_spec_manager=specs)
    # the run is that of someone who sets none of these
    environment = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "PYTHONWARNINGS")}
    environment["IPYTHONDIR"] = str(directory / "ipython")
    working_directory = directory / "cwd"
    working_directory.mkdir()
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, km=manager, timeout=120, record_timing=False, coalesce_streams=True)
    return client.execute(cwd=str(working_directory), env=environment, cleanup_kc=True)


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", EACH, ids=lambda path: path.stem)
def test_runs_from_a_clean_kernel_as_stored(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if "SLURM" in path.read_text() and slurm_is_installed():
        request.getfixturevalue("slurm")  # without it the notebook says that there is none
    stored = code_cells(nbformat.read(path, as_version=4))
    found = code_cells(executed(path, tmp_path))
    for cell in found:
        assert not kinds(cell) & {"error", "stderr"}, texts(cell)
    assert [kinds(cell) for cell in stored] == [kinds(cell) for cell in found]


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_was_stored_after_a_clean_run(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(kinds(cell) & {"error", "stderr"} for cell in cells)
    for text in (text for cell in cells for text in texts(cell)):
        assert not LOCAL.search(text), text
