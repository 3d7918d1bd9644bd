"""The batch script, line by line, and what it must not contain."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.submission.resources import Resources
from pipeline.submission.script import BODY, BatchJob, sbatch_quoted, slurm_script

JOB = BatchJob(
    name="clicks",
    directory=Path("/home/me/runs/clicks"),
    working_directory=Path("/home/me"),
    python="/opt/python",
    resources=Resources(jobs=8, cores=3, memory=16 * 2**30),
)
TLS = [
    "export DASK_DISTRIBUTED__COMM__TLS__CA_FILE=/home/me/runs/clicks/tls/ca.pem",
    "export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True",
    *(
        f"export DASK_DISTRIBUTED__COMM__TLS__{role.upper()}__{what}=/home/me/runs/clicks/tls/{role}{file}.pem"
        for role in ("scheduler", "worker", "client")
        for what, file in (("CERT", ""), ("KEY", "-key"))
    ),
]
SCHEDULER = '"$python" -m dask scheduler --port 0 --dashboard-address 127.0.0.1:0 --scheduler-file "$run/scheduler.json"'
RUN = "/home/me/runs/clicks"
LEFT = f"{RUN}/checkpoints/*-????????????????-?????????.safetensors {RUN}/logs/{{scheduler,workers,train}}.log"
ANEW = f'[ "${{SLURM_RESTART_COUNT:-0}}" != 0 ] || rm -f {LEFT}'
CHAIN = [
    "first=${1:-$SLURM_JOB_ID} number=${2:-1} # of a chain of jobs: the one submitted by hand, and which of them this is",
    "set -- # a file that the prologue sources would see them",
]
HEADER = 'echo "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), on $(hostname), $(date)"'


def head(job: BatchJob) -> list[str]:
    """The lines before those that all scripts have."""
    script = slurm_script(job)
    assert script.endswith(BODY)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    return script.removesuffix(BODY).splitlines()


def test_every_line_of_a_plain_job() -> None:
    assert head(JOB) == [
        "#!/usr/bin/env bash",
        "#SBATCH --job-name=clicks",
        "#SBATCH --output=/home/me/runs/clicks/logs/batch.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        "#SBATCH --ntasks=8",
        "#SBATCH --cpus-per-task=3",
        "#SBATCH --mem-per-cpu=5462M",  # rounded up
        "# The scheduler, the workers and the training, all inside this allocation. Started again, it goes on from the checkpoint.",
        HEADER,
        *CHAIN,
        ANEW,
        *TLS,
        "export DASK_DISTRIBUTED__SCHEDULER__NO_WORKERS_TIMEOUT=600s",
        "export DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL=15s",
        "run=/home/me/runs/clicks",
        "here=/home/me",
        "python=/opt/python",
        "max_jobs=0",
        f"scheduler=({SCHEDULER})",
        "workers=(srun --ntasks=8 --cpus-per-task=3 --kill-on-bad-exit=0 --export=ALL --label"
        ' "$python" -m dask worker --nanny --scheduler-file "$run/scheduler.json" --dashboard-address 127.0.0.1:0'
        " --nthreads 3 --memory-limit 14745MiB --death-timeout 60)",
    ]


def test_what_is_asked_for_is_in_its_lines() -> None:
    asked = replace(
        JOB.resources, gpus=2, walltime=26 * 3600, account="ab12", partition="long,short", directives=("--constraint=ib", "-q high")
    )
    lines = head(
        replace(JOB, resources=asked, prologue=("module load x", "export A='1 2'"), local_directory="/scratch/my dir", interface="ib0")
    )
    assert lines[8:14] == [
        "#SBATCH --gpus-per-task=2",
        "#SBATCH --time=26:00:00",
        "#SBATCH --account=ab12",
        "#SBATCH --partition=long,short",
        "#SBATCH --constraint=ib",
        "#SBATCH -q high",
    ]
    assert lines[15:21] == [HEADER, *CHAIN, ANEW, "module load x", "export A='1 2'"]
    assert lines[-2] == f"scheduler=({SCHEDULER} --interface ib0)"
    assert "--gpus-per-task=2" in lines[-1]
    assert lines[-1].endswith("--death-timeout 60 --local-directory '/scratch/my dir' --interface ib0)")


def test_a_run_that_goes_on_keeps_what_is_there_and_knows_how_many_jobs_it_may_take() -> None:
    plain, lines = head(JOB), head(replace(JOB, resume=True, max_jobs=7))
    assert [line for line in plain if line not in lines] == [ANEW, "max_jobs=0"]
    assert [line for line in lines if line not in plain] == ["max_jobs=7"]
    assert "max_jobs=50" in head(replace(JOB, resume=True))
    with pytest.raises(ValueError, match="--max-jobs must be at least 1, got 0"):
        replace(JOB, resume=True, max_jobs=0)


def test_odd_paths_are_words_of_the_shell() -> None:
    odd = """/tmp/a b'c"d$(touch x)%j\\é"""
    lines = head(replace(JOB, directory=Path(odd), working_directory=Path(odd), python=odd, local_directory=odd))
    assignments = "\n".join(line for line in lines if line.startswith(("run=", "here=", "python=")))
    echo = subprocess.run(
        ["bash", "-c", f'{assignments}\nprintf "%s\\n" "$run" "$here" "$python"'], capture_output=True, text=True, check=True
    )
    assert echo.stdout.splitlines() == [odd] * 3
    assert lines[2] == """#SBATCH --output="/tmp/a b'c\\"d$(touch x)%%j\\\\é/logs/batch.log\""""
    assert sbatch_quoted("plain-1.0") == "plain-1.0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"jobs": 0}, "--jobs must be at least 1, got 0"),
        ({"cores": -1}, "--cores must be at least 1"),
        ({"gpus": -1}, "--gpus must be at least 0"),
        ({"memory": 4}, "--memory is each worker's, 4GiB"),
        ({"directives": ("constraint=ib",)}, "--directive takes an option of sbatch"),
        ({"directives": ("--a\nrm -rf /",)}, "a line break"),
        ({"account": "a\nb"}, "a line break"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Resources(**change)


def test_a_path_with_a_line_break_is_refused() -> None:
    with pytest.raises(ValueError, match="a line break"):
        slurm_script(replace(JOB, directory=Path("/a\nb")))
