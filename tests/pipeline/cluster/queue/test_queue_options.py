"""What a job asks for, in the words of each queueing system; checked before anything is submitted."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest

from pipeline import connect
from pipeline.cluster.network import check_interface, free_port, interfaces, is_here, scheduler_host
from pipeline.cluster.queue.queue_jobs import is_listed
from pipeline.cluster.queue.queue_options import JobPlan, QueueOptions, seconds
from pipeline.cluster.queue.queues import checked, private_directory
from pipeline.cluster.queue.systems import SYSTEMS, dask_jobqueue, find_system
from pipeline.sections import ConfigError

pytestmark = pytest.mark.timeout(60)

SITE = {
    "jobqueue.lsf.lsf-units": "mb",  # else from the queue's own files, which are not here
    "jobqueue.oar.memory-per-core-property-name": "not_applicable",
    "jobqueue.htcondor.disk": "1GB",
}
HEADERS = {
    "slurm": ["-p long", "-A me", "--cpus-per-task=4", "--mem=15G", "-t 02:00:00", "--gres=gpu:2", "--extra x"],
    "pbs": ["-q long", "-A me", "-l select=1:ncpus=4:ngpus=2:mem=15259MB", "-l walltime=02:00:00", "--extra x"],
    "moab": ["-q long", "-A me", "-l nodes=1:ppn=4:gpus=2,mem=15259MB", "-l walltime=02:00:00", "--extra x"],
    "lsf": ["-q long", '-P "me"', "-n 4", "-M 16000", "-W 2:00", '-gpu "num=2"', "--extra x"],
    "sge": ["-q long", "-P me", "-l h_rt=02:00:00", "-l gpu=2", "--extra x"],
    "oar": ["-q long", "--project me", "-l /nodes=1/gpu=2,walltime=02:00:00", "-O LOGS/%jobname%-%jobid%.out", "--extra x"],
    "htcondor": [
        "accounting_group = me",
        "allowed_job_duration = 7200",
        "request_gpus = 2",
        "MY.DaskWorkerCores = 4",
        "MY.DaskWorkerMemory = 16000000000",
        "+Project = mine",
    ],
}
WORKER = (
    "module load x|/opt/python -m distributed.cli.dask_worker tcp://s:1 --name X-0 --nthreads 2 --memory-limit 7.45GiB --nworkers 2 --nanny"
    " --death-timeout 60 --local-directory /scratch --dashboard-address 127.0.0.1:0 --worker-port 40000:40049 --nanny-port 40050:40099"
    " --lifetime 6600s --lifetime-stagger 300s"
)


@pytest.fixture(autouse=True)
def defaults() -> None:
    dask_jobqueue()


def job_class(system: str) -> Any:
    return vars(dask_jobqueue())[find_system(system).cluster].job_cls


def script(system: str, gpu: bool = False, threads: int | None = None, **options: Any) -> str:
    keywords = checked(JobPlan(find_system(system), QueueOptions.read(options), threads, gpu), job_class(system))
    text: str = job_class(system)("tcp://s:1", name="X-0", **keywords).job_script()
    return text


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_option_in_the_words_of_the_system(system: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "jobs": 2,
        "cores": 4,
        "memory": "16GB",
        "walltime": "2h",
        "account": "me",
        "gpus": 2,
        "processes": 2,
        "prologue": ["module load x"],
        "local_directory": "/scratch",
        "ports": "40000:40100",
        "directives": ["+Project = mine"] if system == "htcondor" else ["--extra x"],
        "log_directory": str(tmp_path),
        "python": "/opt/python",
    }
    if system != "htcondor":
        options["partition"] = "long"
    with dask.config.set(SITE):
        text = script(system, **options)
        lines = [line.split(" ", 1)[1] if line.startswith("#") and " " in line else line for line in text.splitlines()]
        for header in HEADERS[system]:
            assert header.replace("LOGS", str(tmp_path)) in lines
        command = WORKER.replace("|", "; " if system == "htcondor" else "\n")
        assert command in text
        assert "--preload tasks.machine.devices --nthreads 1" in script(
            system, gpu=True, **{k: v for k, v in options.items() if k != "processes"}
        )


def test_what_jobqueue_yaml_has_stays(tmp_path: Path) -> None:
    site = {
        "jobqueue.slurm.cores": 8,
        "jobqueue.slurm.memory": "4GB",
        "jobqueue.slurm.walltime": "01:00:00",
        "jobqueue.slurm.account": "theirs",
        "jobqueue.slurm.job-extra-directives": ["--constraint=fast"],
        "jobqueue.slurm.job-script-prologue": ["module load site"],
        "jobqueue.slurm.worker-extra-args": ["--resources", "a=1"],
        "jobqueue.slurm.log-directory": str(tmp_path / "logs"),
    }
    with dask.config.set(site):
        text = script("slurm", directives=["--exclusive"], prologue=["module load mine"], threads=4)
        for line in (
            "-A theirs",
            "--cpus-per-task=8",
            "--constraint=fast",
            "--exclusive",
            "-t 01:00:00",
            f"-o {tmp_path}/logs/dask-worker-%J.out",
        ):
            assert f"#SBATCH {line}\n" in text
        assert "module load site\nmodule load mine\n" in text
        assert "--nworkers 2 " in text and "--nthreads 4 " in text  # 8 cores in workers of 4 threads
        assert text.endswith("--lifetime 3000s --lifetime-stagger 300s --resources a=1\n")
        assert "--lifetime 5s\n" in script_with_lifetime()


def script_with_lifetime() -> str:
    with dask.config.set({"jobqueue.slurm.worker-extra-args": ["--lifetime", "5s"]}):
        text = script("slurm")
    assert text.count("--lifetime") == 1
    return text


def test_without_a_log_directory_it_is_queue_logs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"-o {tmp_path}/queue-logs/" in script("slurm", cores=1, memory="1GB")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"core": 4}, r"'core' is not known; did you mean 'cores'\?"),
        ({"cores": "4"}, r"cores must be a whole number of at least 1, got '4'"),
        ({"memory": "lots"}, r'memory must be a size such as "16GB", got \'lots\''),
        ({"memory": "16"}, "memory must be a size"),
        ({"walltime": "90"}, 'walltime must be a time such as "01:30:00"'),
        ({"walltime": "1:30"}, "walltime must be a time"),
        ({"ports": "5:1"}, r'ports must be a range of at least five ports, such as "40000:40100"'),
        ({"prologue": "module load x"}, r"prologue must be a list of strings, got 'module load x'"),
        ({"jobs": 0}, "jobs must be a whole number of at least 1"),
        ({"disk": "1GB"}, "slurm is not asked for disk this way"),
        ({"gpus": 1}, "gpus needs cores and memory, of each job"),
        ({}, "(?s)You must specify how much cores and memory per job.*Give connect cores= and memory=, a command --cores and --memory"),
        ({"cores": 1, "memory": "1GB", "processes": 2}, "cores=1 is less than the 2 processes of a job"),
        ({"memory": "10MB"}, "memory, of each job, must be at least 64MiB, got '10MB'"),
        ({"log_directory": "a b"}, r"log_directory must not have spaces, .*, got 'a b'"),
        ({"local_directory": "/scratch/a\tb"}, r"local_directory must not have spaces"),
        ({"python": "/my python"}, r"python must not have spaces"),
        ({"account": "me\n#SBATCH --exclusive"}, r"account must not have line breaks, got 'me\\n#SBATCH --exclusive'"),
        ({"partition": "long\r"}, r"partition must not have line breaks"),
        ({"interface": "ib0\n"}, r"interface must not have line breaks"),
        ({"prologue": ["true", "exit 1\ntrue"]}, r"prologue must not have line breaks, got 'exit 1\\ntrue'"),
        ({"directives": ["--exclusive\n"]}, r"directives must not have line breaks"),
        ({"cores": 1, "memory": "1GB", "min_workers": 2}, "min_workers=2, and 1 jobs have 1 workers"),
    ],
)
def test_what_cannot_be_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        script("slurm", **options)


def test_a_working_directory_with_spaces_is_no_place_for_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my work").mkdir()
    monkeypatch.chdir(tmp_path / "my work")
    with pytest.raises(ConfigError, match=r"log_directory must not have spaces, .*my work/queue-logs'"):
        script("slurm", cores=1, memory="1GB")


def test_without_dask_jobqueue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(ValueError, match=r"queue='slurm' needs dask-jobqueue .*: pip install 'dask-descent\[hpc\]'"):
        connect(queue="slurm", cores=1, memory="1GB")


def test_systems_that_do_not_know_an_option() -> None:
    with pytest.raises(ConfigError, match="htcondor has no partitions; leave partition out, or say where with directives"):
        script("htcondor", cores=1, memory="1GB", partition="long")
    with pytest.raises(ConfigError, match="directives of htcondor are \"key = value\", got '--extra'"):
        script("htcondor", cores=1, memory="1GB", directives=["--extra"])
    with pytest.raises(ConfigError, match="processes is what cores and threads_per_worker make"):
        script("slurm", cores=2, memory="1GB", processes=2, threads=1)
    with pytest.raises(ConfigError, match=r"queue: 'slrum' is not known; did you mean 'slurm'\?"):
        connect(queue="slrum")
    with pytest.raises(ValueError, match=r"connect: 'n_worker' is not known; did you mean 'n_workers'\?"):
        connect(n_worker=2)
    with pytest.raises(ValueError, match=r"those of jobs .*cores.* are for queue="):
        connect("tcp://127.0.0.1:1", cores=2)


@pytest.mark.parametrize(("text", "expected"), [("01:30:00", 5400), ("2-00:00:10", 172810), ("2h", 7200), ("90 minutes", 5400)])
def test_times(text: str, expected: int) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    ("job_id", "line"),
    [
        ("123", "123|PENDING|Resources"),
        ("123", "123.server      user     workq    dask-worker   5512   1   4   16gb 02:00 R 00:12"),
        ("123", "    123 0.55500 dask-worke user         r     11/21/2026 12:12:12 all.q@node1    4"),
        ("123", "123     user    PEND  normal     login1      -           dask-worker Nov 21 12:12"),
        ("123", "123       R user     dask-worker"),
        ("123", "Moab.123     user    Running     4     1:59:12  Sat Nov 21 12:12:12"),
        ("123.0", " 123.0   user           11/21 12:12   0+00:00:12 R  0    0.0 sh -c"),
    ],
)
def test_a_job_in_the_listing_of_its_queue(job_id: str, line: str) -> None:
    listing = f"Job id  User  Queue\n-------\n{line}\n"
    assert is_listed(job_id, listing)
    for other in ("12", "23", "1", "4", "02", "12.0", "23.0"):  # parts of it, and other columns
        assert not is_listed(other, listing)


# -- the directory of temporary keys --------------------------------------------------------------------------------------------------


def keys_in(place: Path) -> tempfile.TemporaryDirectory[str]:
    with dask.config.set({"jobqueue.slurm.shared-temp-directory": str(place)}):
        return private_directory(JobPlan(find_system("slurm"), QueueOptions(), None, False))


def test_keys_lie_where_nobody_else_can_put_theirs(tmp_path: Path) -> None:
    place = tmp_path / "shared"
    place.mkdir()
    for mode in (0o775, 0o757, 0o777):
        place.chmod(mode)
        with pytest.raises(ValueError, match=r"shared can be written by others, .*; chmod go-w it"):
            keys_in(place)
    for mode in (0o755, 0o1777):
        place.chmod(mode)
        with keys_in(place) as keys:
            assert stat.S_IMODE(Path(keys).stat().st_mode) == 0o700
    if os.getuid() == 0:
        os.chown(place, 12345, -1)
        with pytest.raises(ValueError, match="shared belongs to another user"):
            keys_in(place)
    with pytest.raises(ConfigError, match=r"shared-temp-directory of jobqueue\.yaml must not have spaces"):
        keys_in(tmp_path / "my keys")


def test_what_a_killed_client_left_goes_with_the_next(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = socket.gethostname()
    left = tmp_path / f"tls-{host}-{ended.pid}-abc"
    stay = [tmp_path / name for name in (f"tls-{host}-{os.getppid()}-abc", f"tls-{host}x-{ended.pid}-abc", f"tls-{host}-mine", "other")]
    for path in (left, *stay):
        path.mkdir()
        (path / "key.pem").write_text("")
    with keys_in(tmp_path) as keys, keys_in(tmp_path) as more:
        assert Path(keys).name.startswith(f"tls-{host}-{os.getpid()}-")
        assert sorted(tmp_path.iterdir()) == sorted([*stay, Path(keys), Path(more)])


# -- the network ---------------------------------------------------------------------------------------------------------------------


def test_the_scheduler_s_address_is_one_of_this_machine() -> None:
    host = scheduler_host()
    assert host in interfaces().values() and is_here(host) and not is_here("203.0.113.9")
    assert not host.startswith("127.") or all(address.startswith("127.") for address in interfaces().values())


def test_an_interface_that_is_not_there() -> None:
    check_interface("lo")
    down = [name for name, state in psutil.net_if_stats().items() if not state.isup]
    for name in ("ib9", *down):
        with pytest.raises(ValueError, match=rf"interface='{name}': this machine has no such network interface.*lo \(127\.0\.0\.1\)"):
            check_interface(name)


def test_a_free_port_of_the_range() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f'ports="{port}:{port}": none of them is free'):
            free_port("127.0.0.1", port, port)
        assert free_port("127.0.0.1", port - 1, port) == port - 1
    options = QueueOptions(cores=1, memory="1GB", ports="41000:41010")
    placed = JobPlan(find_system("slurm"), options, None, False).scheduler()
    assert 41000 <= placed["port"] <= 41010 and placed["dashboard_address"] == "127.0.0.1:0" and placed["host"] == scheduler_host()
