"""`python -m pipeline doctor`: what it says of this machine, of broken ones, of clusters and queues; it always comes to its end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import dask
import numpy as np
import psutil
import pytest
from dask.system import cpu_count
from distributed import Client, LocalCluster

import pipeline
import tasks
from pipeline.cli import main
from pipeline.cluster.queue import queue_jobs
from pipeline.cluster.queue import slurm as slurm_commands
from pipeline.cluster.security import make_certificates, read_certificates
from pipeline.diagnosis import cluster as clusters
from pipeline.diagnosis import gpus, queues
from pipeline.diagnosis.checks import all_checks
from pipeline.diagnosis.child import examine
from pipeline.diagnosis.findings import Check, Item
from pipeline.diagnosis.gpus import Driver
from pipeline.diagnosis.machine import cgroup_limit, cores, runs_directory
from pipeline.diagnosis.packages import extra, package, requirements
from tasks.machine.fingerprint import numeric_digest
from tests.pipeline.cluster.bare import command_line_cluster, make_bare_python
from tests.pipeline.diagnosis.misbehaving import crashes, exits, fails, fine, hangs, lacks

pytestmark = pytest.mark.timeout(120)

REPOSITORY = Path(pipeline.__file__).parents[1]


def run(directory: Path, *arguments: str, path: Sequence[Path] = (), status: int = 0) -> str:
    """What the command prints, in a process of its own with no more of this one's environment than it takes."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pipeline", "doctor", *arguments],
        cwd=directory,
        env={
            "PATH": os.defpath,
            "HOME": str(directory),
            "PYTHONPATH": os.pathsep.join(map(str, (*path, REPOSITORY))),
            "NUMBA_CACHE_DIR": str(directory / "code"),
        },
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (done.returncode, done.stderr) == (status, ""), done.stdout
    return done.stdout


def named(*names: str, address: str | None = None, file: str | None = None, tls: str | None = None, timeout: float = 0.3) -> list[Check]:
    """These of the checks."""
    return [check for check in all_checks(address, file, tls, timeout) if check.name in names]


def gone(pid: int) -> bool:
    """Whether the process ends soon."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.05)
                continue
        return True
    return False


def of_cluster(address: str | None = None, file: str | None = None) -> dict[str, Item]:
    """What is found of a scheduler, by name."""
    return {item.name: item for item in examine(named("scheduler", address=address, file=file, timeout=30.0))}


def test_this_machine(tmp_path: Path) -> None:
    told = json.loads(run(tmp_path, "--json"))
    assert told["works"]
    found = {item["name"]: item for item in told["items"]}
    for name in ("numpy", "scikit-learn", "dask", "array-api-compat"):
        assert found[name] == {"mark": "ok", "name": name, "found": version(name), "cure": "", "needed": True}
    assert found["fingerprint"]["found"].startswith(numeric_digest())
    assert found["cores"]["found"].startswith(f"{cpu_count()} of {os.cpu_count()}")
    assert found["Python"]["found"].startswith(".".join(map(str, sys.version_info[:3])))
    assert "openblas" in found["BLAS"]["found"] or "mkl" in found["BLAS"]["found"]
    assert found["machine code"]["found"].startswith(f"none yet, the first fits compile for some seconds, kept in {tmp_path}/code/")
    assert found["runs"]["found"].startswith(f"can be written to {tmp_path}")
    assert {"memory", "NVIDIA driver", "CuPy", "PyTorch", "TLS", "extra hpc"} <= found.keys()
    assert "scheduler" not in found
    assert not any(item["needed"] for item in told["items"] if item["mark"] != "ok")
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
def test_a_package_that_cannot_be_imported(tmp_path: Path) -> None:
    """The whole command; the parent, and whatever does not need that package, go on."""
    fake = tmp_path / "fake"
    (fake / "llvmlite").mkdir(parents=True)
    (fake / "llvmlite" / "__init__.py").write_text("print('hello')\nraise RuntimeError('no such processor')\n")
    told = json.loads(run(tmp_path, "--json", path=[fake], status=1))
    found = {item["name"]: item for item in told["items"]}
    assert not told["works"]
    assert found["numba"]["mark"] == "broken" and found["numba"]["found"] == "RuntimeError: no such processor"
    assert found["numba"]["cure"].startswith("python -m pip install --force-reinstall 'numba>=")
    assert f"finds {fake}/llvmlite/__init__.py" in found["llvmlite"]["found"]
    assert found["numpy"]["mark"] == found["fingerprint"]["mark"] == "ok"
    lines = run(tmp_path, path=[fake], status=1).splitlines()
    assert "broken   numba              RuntimeError: no such processor; python -m pip install --force-reinstall" in "\n".join(lines)
    assert [line.split()[0] for line in lines[:-1]] == [item["mark"] for item in told["items"]]
    assert lines[-1].startswith("missing or broken, and needed: ") and "numba" in lines[-1]


@pytest.mark.long
def test_the_command_itself_needs_no_package(tmp_path: Path) -> None:
    for name in ("dask", "numpy", "numba", "packaging", "distributed", "psutil", "scipy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(5)\n")
    told = json.loads(run(tmp_path, "--json", path=[tmp_path], status=1))
    assert {item["name"]: item["mark"] for item in told["items"]}["numpy"] == "broken"
    assert "it ended the process with exit status 5" in {item["found"] for item in told["items"]}


def test_lines_say_what_the_json_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    checks = [*named("Python", "dask-descent"), Check("no such thing", fails, (), "look elsewhere")]
    monkeypatch.setattr("pipeline.diagnosis.doctor.all_checks", lambda *_: checks)
    assert main(["doctor"]) == 1
    *lines, verdict = capsys.readouterr().out.splitlines()
    assert main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [str(Item(**item)) for item in told["items"]] == lines
    assert lines[-1] == "broken   no such thing      ValueError: none: of these, here; or there; look elsewhere"
    assert verdict == "missing or broken, and needed: no such thing" and told["works"] is False
    del checks[-1]
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines() == [*lines[:-1], "all that is needed works"]


def test_checks_that_fail_crash_exit_and_hang(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pid = tmp_path / "pid"
    start = time.monotonic()
    found = list(
        examine(
            [
                Check("first", fine, ("first",)),
                Check("fails", fails),
                Check("lacks", lacks, (), "look elsewhere"),
                Check("crashes", crashes, (), "reinstall it"),
                Check("exits", exits, needed=False),
                Check("hangs", hangs, (str(pid),), seconds=2.0),
                Check("last", fine, ("last",)),
            ]
        )
    )
    assert found == [
        Item("ok", "first", "well"),
        Item("broken", "fails", "ValueError: none: of these, here; or there"),
        Item("broken", "lacks", "ModuleNotFoundError: No module named 'no_such_module'", "install what has that module"),
        Item("ok", "before", "that"),
        Item("broken", "crashes", "it ended the process with SIGSEGV: no such instruction", "reinstall it"),
        Item("broken", "exits", "it ended the process with exit status 3", needed=False),
        Item("broken", "hangs", "no answer in 2 s"),
        Item("ok", "last", "well"),
    ]
    assert time.monotonic() - start < 60
    assert gone(int(pid.read_text()))
    assert capfd.readouterr() == ("", "")


@pytest.mark.long
def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "dask.py").write_text(f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)\n")
    command = [sys.executable, "-m", "pipeline", "doctor"]
    with subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, stderr=subprocess.PIPE) as process:
        # the first check that imports Dask gets this module, and stays there
        deadline = time.monotonic() + 60
        while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"interrupted\n")
    assert gone(int((tmp_path / "pid").read_text()))


def test_packages_that_are_not_what_they_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rich.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    checks = [
        *named("rich"),
        Check("new", package, ("numpy>=1000",)),
        Check("none", package, ("no-such-package>=1",)),
    ]
    mine, new, none = examine(checks)
    assert (mine.mark, mine.found) == ("broken", f"{version('rich')}, but `import rich` finds {tmp_path / 'rich.py'}")
    assert mine.cure.startswith("rename that")
    assert (new.mark, new.found) == ("broken", f"{version('numpy')}, and this library needs 'numpy>=1000'")
    assert new.cure == "python -m pip install 'numpy>=1000'"
    assert none == Item("missing", "no-such-package", "not installed", "python -m pip install 'no-such-package>=1'")


def test_extras() -> None:
    assert {"", "hpc", "test", "bench"} <= requirements().keys()
    assert any(line.startswith("numpy>=") for line in requirements()[""])
    (there,) = extra("test", ["pytest>=8; extra == 'test'", "winreg>=1; sys_platform == 'win32' and extra == 'test'"])
    assert there == Item("ok", "extra test", f"pytest {version('pytest')}")
    (lacking,) = extra("mine", ["pytest>=8000; extra == 'mine'", "no-such-package; extra == 'mine'"])
    assert lacking.mark == "missing"
    assert lacking.found == f"without pytest (there is {version('pytest')}), no-such-package"
    assert lacking.cure == "python -m pip install 'dask-descent[mine]' if you want it"


def test_memory_of_a_cgroup(tmp_path: Path) -> None:
    assert cgroup_limit(tmp_path) is None
    groups, first, second = (tmp_path / name for name in ("proc/self/cgroup", "sys/fs/cgroup/memory", "sys/fs/cgroup"))
    for place in (groups.parent, first / "job" / "step", second / "slice" / "job"):
        place.mkdir(parents=True)
    groups.write_text("0::/slice/job/task\n")
    assert cgroup_limit(tmp_path) is None
    (second / "slice" / "job" / "memory.max").write_text("max\n")
    (second / "slice" / "memory.max").write_text("3000\n")
    (second / "memory.max").write_text("5000\n")
    assert cgroup_limit(tmp_path) == 3000
    groups.write_text("4:cpu,cpuacct:/job/step\n3:memory:/job/step\n1:name=systemd:/job\n")
    (first / "job" / "memory.limit_in_bytes").write_text("2000\n")
    (first / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert cgroup_limit(tmp_path) == 2000


def test_cores_that_are_taken_away() -> None:
    allowed = os.sched_getaffinity(0)
    if len(allowed) == 1:
        pytest.skip("needs two cores")
    os.sched_setaffinity(0, sorted(allowed)[:1])
    try:
        (item,) = cores()
    finally:
        os.sched_setaffinity(0, allowed)
    assert item.found.startswith(f"1 of {os.cpu_count()}, affinity allows 1")


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (item,) = runs_directory()
    assert item.found.startswith(f"can be written to {tmp_path}, ")
    (tmp_path / "runs").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "runs" / "code"))
    monkeypatch.setenv("NUMBA_CACHE_LOCATOR_CLASSES", "UserProvidedCacheLocator")
    code, runs = examine(named("machine code", "runs"))
    assert runs.mark == code.mark == "broken"
    assert "Not a directory" in runs.found and runs.cure == "go to a directory that you can write, or give --out"
    assert "cannot cache function" in code.found and "NUMBA_CACHE_DIR" in code.cure


def test_no_scheduler_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:2")  # where Dask's configuration says
    file = str(tmp_path / "none.json")
    start = time.monotonic()
    given = (("tcp://127.0.0.1:1", None), (None, file), (None, None))
    by_address, by_file, configured = examine([named("scheduler", address=address, file=file)[0] for address, file in given])
    assert by_address.wrong and "tcp://127.0.0.1:1" in by_address.found and by_address.cure.startswith("start a scheduler")
    assert by_file.wrong and file in by_file.found
    assert configured.wrong and "tcp://127.0.0.1:2" in configured.found
    assert time.monotonic() - start < 60


def test_a_cluster(cluster: LocalCluster) -> None:
    with Client(cluster) as client:
        client.wait_for_workers(2, timeout=30)
        workers = client.scheduler_info()["workers"]
        found = of_cluster(cluster.scheduler_address)
    assert not any(item.wrong for item in found.values())
    assert found["scheduler"].found == f"{cluster.scheduler_address} (plain), 2 workers, 2 threads"
    assert found["workers' packages"].found == "the same versions as here"
    assert found["workers' code"].found == "2 have this process's, 0 have none and get it with the first fit"
    assert found["workers' bits"].found == "2 as this process's"
    memory = dask.utils.format_bytes(next(iter(workers.values()))["memory_limit"])
    assert found["workers"].found == f"2 with 1 thread, {memory}, 0 GPUs: {', '.join(workers)}"


@pytest.mark.long
def test_an_encrypted_cluster(tmp_path: Path) -> None:
    directory = make_certificates(tmp_path / "certificates")
    options: dict[str, Any] = {"security": read_certificates(directory), "dashboard_address": ":0"}
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=True, **options) as cluster:
        address = cluster.scheduler_address
        with Client(address, security=options["security"]) as client:
            client.wait_for_workers(1, timeout=30)
        checks = [named("scheduler", address=address, tls=tls, timeout=20.0)[0] for tls in (str(directory), None)]
        scheduler, *_, workers, refused = examine(checks)
    assert scheduler.found == f"{address} (encrypted), 1 worker, 2 threads" and workers.found.startswith("1 with 2 threads")
    assert refused.wrong and "takes TLS only, and there are no certificates here" in refused.found


@pytest.mark.slow
def test_a_cluster_without_workers_and_one_with_a_stopped_one() -> None:
    with LocalCluster(n_workers=0, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster, Client(cluster) as client:
        found = of_cluster(cluster.scheduler_address)
        assert found["workers"] == Item("missing", "workers", "none", f"start some: dask worker {cluster.scheduler_address}")
        cluster.scale(2)
        client.wait_for_workers(2, timeout=30)
        address, pid = min(client.run(os.getpid).items())
        os.kill(pid, signal.SIGSTOP)
        try:
            found = of_cluster(cluster.scheduler_address)
        finally:
            os.kill(pid, signal.SIGCONT)
    assert found["silent workers"].found == f"{address}: no answer in 10 s" and found["silent workers"].wrong
    assert found["workers' code"].found.startswith("1 have this process's, 0 have none")
    assert found["workers' bits"].found.startswith("1 as this")


@pytest.mark.slow
def test_workers_without_this_library_and_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with command_line_cluster(make_bare_python(tmp_path / "venv"), directory=tmp_path, n_workers=1) as file:
        with Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(1, timeout=60)
        found = of_cluster(file=str(file))
        assert not any(item.wrong for item in found.values())
        assert found["workers' code"].found == "0 have this process's, 1 have none and get it with the first fit"
        assert "workers' bits" not in found and "GPUs not asked for" in found["workers"].found
    assert not (tmp_path / "cache" / "dask-descent").exists()  # nothing was sent
    shutil.copytree(Path(tasks.__file__).parent, tmp_path / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "tasks" / "lazy.py").open("a") as source:
        source.write("\n# another version\n")
    file.unlink(missing_ok=True)
    with command_line_cluster(directory=tmp_path, n_workers=1, variables={"PYTHONPATH": str(tmp_path)}) as file:
        with Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(1, timeout=60)
        item = of_cluster(file=str(file))["workers' code"]
    assert item.wrong and "runs another version of dask-descent" in item.found and item.cure.startswith("install the same on both")


def test_workers_that_round_otherwise_or_are_full() -> None:
    assert clusters.bits(["tcp://a"], 3).mark == "broken" and not clusters.bits(["tcp://a"], 3).wrong
    worker = {"nthreads": 4, "memory_limit": 2**31, "status": "running"}
    workers = {"tcp://a": worker, "tcp://b": worker, "tcp://c": worker | {"status": "paused", "memory_limit": 0}}
    alike, paused = clusters.kinds(workers, {"tcp://a": ["0", "1"], "tcp://b": ["0", "1"]})
    assert alike.found == "2 with 4 threads, 2.00 GiB, 2 GPUs: tcp://a, tcp://b"
    assert paused.found == "1 with 4 threads, no memory limit, GPUs not asked for: tcp://c, paused" and paused.wrong
    old = clusters.versions({"tcp://a": {"python": "2.7.18.final.0", "numpy": None}})
    assert old.wrong and "python " in old.found and "2.7.18 on tcp://a" in old.found and old.cure == "install the same versions on both"


def test_certificates_of_dask_s_configuration(tmp_path: Path) -> None:
    ours = make_certificates(tmp_path / "ours")
    make_certificates(tmp_path / "ended", days=0)
    with dask.config.set({"distributed.comm.require-encryption": True}):
        (item,) = clusters.certificates()
        assert item.wrong and "names no certificates" in item.found
    (item,) = clusters.certificates()
    assert (item.mark, item.wrong) == ("missing", False)
    configured = {
        "distributed.comm.tls.ca-file": str(ours / "ca.pem"),
        "distributed.comm.tls.client.cert": str(ours / "client.pem"),
        "distributed.comm.tls.client.key": str(ours / "client-key.pem"),
    }
    with dask.config.set(configured):
        (item,) = clusters.certificates()
        assert item.mark == "ok" and item.found.startswith("certificates for client, valid until ") and item.cure == ""
        (ours / "client-key.pem").chmod(0o644)
        (item,) = clusters.certificates()
        assert item.mark == "ok" and item.cure.startswith(f"chmod 600 {ours / 'client-key.pem'}")
        with dask.config.set({"distributed.comm.tls.client.key": str(ours / "worker-key.pem")}):
            (check,) = named("TLS")
            (item,) = check.items()
            assert item.wrong and "the certificate of the client: " in item.found
        with dask.config.set({"distributed.comm.tls.worker.cert": str(ours / "none.pem")}):
            (item,) = check.items()
            assert item.wrong and str(ours / "none.pem") in item.found
    ending = {key: value.replace("/ours/", "/ended/") for key, value in configured.items()}
    with dask.config.set(ending):
        (item,) = clusters.certificates()
        assert item.wrong and item.found.startswith("certificates that ended on ")


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all of PATH but the shell's."""
    directory = tmp_path / "commands"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.defpath}")
    return directory


def write_command(directory: Path, name: str, text: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{text}\n")
    (directory / name).chmod(0o755)


def test_queues_that_answer_and_do_not(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: str(commands / name) if (commands / name).exists() else None)
    (none,) = queues.none_here()
    assert none.mark == "missing" and "squeue" in none.found
    for name in ("squeue", "qstat", "bjobs"):
        write_command(commands, name, "echo")
    assert not list(queues.none_here())
    write_command(commands, "sinfo", "echo 'a|idle'; echo 'a|idle'; echo 'b|mixed-'; echo 'c|down*'")
    (item,) = queues.queue("squeue", ["slurm"])
    assert (item.mark, item.found) == ("ok", f"{commands}/squeue, 2 of 3 nodes up (1 down*, 1 idle, 1 mixed-)")
    write_command(commands, "sinfo", "echo 'c|drained'")
    (item,) = queues.queue("squeue", ["slurm"])
    assert item.mark == "broken" and "0 of 1 nodes up (1 drained)" in item.found
    write_command(commands, "sinfo", "echo 'slurm_load_node: error: Unable to contact slurm controller' >&2; exit 1")
    (item,) = queues.queue("squeue", ["slurm"])
    assert item.mark == "broken" and item.found.endswith("the controller does not answer: Unable to contact slurm controller")
    (item,) = queues.queue("qstat", ["pbs", "sge"])
    assert item == Item("ok", "pbs or sge", f"{commands}/qstat, and it answers")
    write_command(commands, "bjobs", "echo 'No unfinished job found' >&2; exit 255")
    assert [each.mark for each in queues.queue("bjobs", ["lsf"])] == ["ok"]
    write_command(commands, "qstat", "exec sleep 60")
    write_command(commands, "sinfo", "exec sleep 60")
    monkeypatch.setattr(queue_jobs, "COMMAND_SECONDS", 0.2)
    monkeypatch.setattr(slurm_commands, "ANSWER_SECONDS", 0.2)
    (item,) = queues.queue("qstat", ["pbs", "sge"])
    assert item.mark == "broken" and "no answer in 0 s" in item.found
    (item,) = Check("slurm", queues.queue, ("squeue", ["slurm"])).items()
    assert item.mark == "broken" and "SLURM did not answer `sinfo" in item.found


@pytest.mark.long
def test_a_real_slurm(slurm: Path) -> None:
    items = list(examine(named("queueing systems", "slurm")))
    assert [(item.mark, item.name) for item in items] == [("ok", "slurm")]
    assert "1 of 1 nodes up (1 " in items[0].found


def fake_cupy(broken: bool) -> Any:
    """A CuPy of NumPy, with two devices, of which the second may be broken."""

    class Device:
        mem_info = (2**30, 2**34)

        def __init__(self, i: int) -> None:
            self.i = i

        def __enter__(self) -> Device:
            if broken and self.i == 1:
                raise RuntimeError("cudaErrorLaunchFailure: unspecified launch failure")
            return self

        def __exit__(self, *_: object) -> None: ...

    runtime = SimpleNamespace(
        getDeviceCount=lambda: 2,
        runtimeGetVersion=lambda: 12090,
        driverGetVersion=lambda: 13000,
        getDeviceProperties=lambda i: {"name": b"NVIDIA X"},
    )
    module: Any = ModuleType("cupy")
    vars(module).update(__version__="13.6", arange=np.arange, eye=np.eye, cuda=SimpleNamespace(Device=Device, runtime=runtime))
    return module


def test_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ways to fail, with a stand-in: there is no GPU here."""
    packages: dict[str, list[str]] = {}
    driver: list[Driver | None] = [None]
    monkeypatch.setattr(gpus, "packages_distributions", lambda: packages)
    monkeypatch.setattr(Driver, "find", lambda: driver[0])
    assert list(gpus.cupy()) == [Item("missing", "CuPy", "not installed")]
    for cuda, cure in ((13000, "gpu13]'"), (12040, "gpu12]'"), (11080, "update the driver to one for CUDA 12 or newer")):
        driver[0] = Driver(cuda, 0, 1)
        (item,) = gpus.cupy()
        assert item.mark == "missing" and item.cure.endswith(cure)
    packages["cupy"] = ["cupy-cuda12x", "cupy-cuda13x"]
    (item,) = gpus.cupy()
    assert item.mark == "broken" and item.cure.startswith("python -m pip uninstall cupy-cuda12x cupy-cuda13x, then ")
    packages["cupy"] = ["cupy-cuda12x"]
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(broken=True))
    driver[0] = None
    assert [(item.mark, item.found) for item in gpus.cupy()] == [("missing", "13.6 (cupy-cuda12x), and no GPU to compute on")]
    driver[0] = Driver(13000, 0, 2)
    first, good, bad = gpus.cupy()
    assert first.found == "13.6 (cupy-cuda12x), CUDA runtime 12.9, driver 13.0, 2 GPUs"
    assert good == Item("ok", "GPU 0", "NVIDIA X, 16.00 GiB, 1.00 GiB of it free; it computes")
    assert bad.mark == "broken" and bad.found == "RuntimeError: cudaErrorLaunchFailure: unspecified launch failure"


def test_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, mark in ((Driver(13000, 100, 0), "missing"), (Driver(13000, 999, 0), "broken"), (Driver(13000, 0, 1), "ok")):
        monkeypatch.setattr(Driver, "find", lambda found=found: found)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        item, *devices = gpus.driver()
        assert item.mark == mark and "for CUDA 13.0" in item.found
        assert [each.found for each in devices] == ["0"] * (mark == "ok")


@pytest.mark.gpu
def test_a_real_gpu() -> None:
    found = {item.name: item for item in examine(named("NVIDIA driver", "CuPy"))}
    assert {item.mark for item in found.values()} == {"ok"} and "GPU 0" in found
