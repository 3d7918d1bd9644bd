"""The queueing systems of dask-jobqueue: how each spells what a job asks for, and which of its commands say how jobs are."""

from __future__ import annotations

import getpass
import importlib
import math
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pipeline.cluster.queue.slurm import NEVER
from pipeline.sections import unknown
from tasks.lazy import Lazy

if TYPE_CHECKING:
    import dask
else:
    dask = Lazy("dask")

Keywords = dict[str, Any]
"""What an option becomes: keywords of the dask-jobqueue class, and "directives", which are gathered."""
Phrase: TypeAlias = Mapping[str, str | Sequence[str]]
"""The same, as text with places for what is asked for."""


def clock(seconds: int) -> str:
    """The seconds as HH:MM:SS."""
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def hours_minutes(seconds: int) -> str:
    """The seconds as H:MM, rounded up, as LSF wants it."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02}"


@dataclass(frozen=True, kw_only=True)
class System:
    """A queueing system. cluster: its class in dask_jobqueue. account, partition, walltime, disk, gpus, logs: how it is told; None where it
    knows no such thing. listing: the command that lists the user's own jobs, an id in each line; nothing: what it says, with an error, when
    there are none. status: the command that says how one job is. never: words of the listing for jobs that were taken and can never run."""

    name: str
    cluster: str
    account: Phrase
    gpus: Phrase
    listing: str
    status: str
    partition: Phrase | None = field(default_factory=lambda: {"queue": "{partition}"})
    walltime: Phrase = field(default_factory=lambda: {"walltime": "{clock}"})
    disk: Phrase | None = None
    logs: Phrase = field(default_factory=dict)
    nothing: str | None = None
    never: frozenset[str] = frozenset()

    def classes(self) -> tuple[Any, Any]:
        """The cluster and job class of dask-jobqueue. Raises ValueError without dask-jobqueue, FileNotFoundError without the queue's
        command."""
        try:
            cluster = vars(dask_jobqueue())[self.cluster]
        except ModuleNotFoundError as error:
            raise ValueError(f"queue={self.name!r} needs dask-jobqueue ({error}): pip install 'dask-descent[hpc]'") from error
        command = cluster.job_cls.submit_command.split()[0]
        if shutil.which(command) is None:
            raise FileNotFoundError(
                f"queue={self.name!r}: there is no {command} on this machine; connect from a login node, or choose another queue="
            )
        return cluster, cluster.job_cls

    def told(self, option: str, **asked: Any) -> Keywords:
        """What an option of this system becomes; asked: values for its places. Empty where it knows no such thing."""
        phrase: Phrase = vars(self)[option] or {}
        return {
            key: text.format(**asked) if isinstance(text, str) else [each.format(**asked) for each in text] for key, text in phrase.items()
        }

    def list_command(self) -> list[str]:
        """The words of `listing`."""
        return self.listing.format(user=getpass.getuser()).split(" ")

    def status_command(self, job_id: str) -> list[str]:
        """The words of `status`."""
        return self.status.format(id=job_id).split(" ")


def dask_jobqueue() -> ModuleType:
    """The dask_jobqueue package, with its defaults in Dask's configuration, also where a `with dask.config.set(...)` took them along.

    Where Ctrl-C was a KeyboardInterrupt it stays one: the import would have it end Python, or a notebook's kernel.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        package = importlib.import_module("dask_jobqueue")
    finally:
        if before is not None and signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)
    if any("job-directives-skip" not in dask.config.get(f"jobqueue.{name}", {}) for name in SYSTEMS):
        importlib.import_module("dask_jobqueue.config").reconfigure()
    return package


_SYSTEMS = (
    System(
        name="slurm",
        cluster="SLURMCluster",
        account={"account": "{account}"},
        gpus={"directives": ["--gres=gpu:{gpus}"]},
        listing="squeue -h -u {user} -o %i|%T|%r",
        status="squeue -h -j {id} -o %T:|%r",
        never=NEVER,
    ),
    System(
        name="pbs",
        cluster="PBSCluster",
        account={"account": "{account}"},
        gpus={"resource_spec": "select=1:ncpus={cores}:ngpus={gpus}:mem={mib}MB"},
        listing="qstat -u {user}",
        status="qstat -s {id}",
    ),
    System(
        name="moab",
        cluster="MoabCluster",
        account={"account": "{account}"},
        gpus={"resource_spec": "nodes=1:ppn={cores}:gpus={gpus},mem={mib}MB"},
        listing="showq -u {user}",
        status="checkjob {id}",
    ),
    System(
        name="lsf",
        cluster="LSFCluster",
        account={"project": "{account}"},
        walltime={"walltime": "{hours_minutes}"},
        gpus={"directives": ['-gpu "num={gpus}"']},
        listing="bjobs -w -u {user}",
        status="bjobs -p {id}",
        nothing="No unfinished job",
    ),
    System(
        name="sge",
        cluster="SGECluster",
        account={"project": "{account}"},
        gpus={"directives": ["-l gpu={gpus}"]},
        listing="qstat -u {user}",
        status="qstat -j {id}",
    ),
    System(
        name="oar",
        cluster="OARCluster",
        account={"project": "{account}"},
        gpus={"resource_spec": "/nodes=1/gpu={gpus}"},
        logs={"directives": ["-O {directory}/%jobname%-%jobid%.out", "-E {directory}/%jobname%-%jobid%.err"]},
        listing="oarstat -u {user}",
        status="oarstat -f -j {id}",
    ),
    System(
        name="htcondor",
        cluster="HTCondorCluster",
        account={"directives": ["accounting_group = {account}"]},
        partition=None,
        walltime={"directives": ["allowed_job_duration = {seconds}"]},
        gpus={"directives": ["request_gpus = {gpus}"]},
        disk={"disk": "{disk}"},
        listing="condor_q -nobatch {user}",
        status="condor_q -better-analyze {id}",
    ),
)
SYSTEMS: Final[Mapping[str, System]] = {system.name: system for system in sorted(_SYSTEMS, key=lambda system: system.name)}


def find_system(name: str) -> System:
    """The system of this name. Raises ConfigError, a ValueError, with the nearest right one."""
    if not isinstance(name, str) or name not in SYSTEMS:
        raise unknown(name, SYSTEMS, "queue", "queueing systems")
    return SYSTEMS[name]
