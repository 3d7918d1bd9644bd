"""A place from which runs are submitted to a real SLURM."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline
from pipeline.submission.run_directory import SUBMITTED_FILE
from tests.pipeline.submission.runs import ended, job_id

REPOSITORY = Path(pipeline.__file__).parents[1]


@pytest.fixture
def here(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a space and quotes, from which jobs are submitted; those that are left are cancelled."""
    place = tmp_path / "a b'c\"d"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")  # as inside another job
    yield place
    for path in place.glob(f"runs/*/{SUBMITTED_FILE}"):
        subprocess.run(["scancel", job_id(path.parent)], check=False, timeout=30)
        ended(path.parent)
