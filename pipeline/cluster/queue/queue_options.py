"""The options of a job in the queue: checked before anything is submitted, and put into the words of dask-jobqueue."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, TypeAlias

import dask
from dask.utils import parse_bytes, parse_timedelta

from pipeline.cluster.network import check_interface, free_port, scheduler_host
from pipeline.cluster.pulse import worker_ttl
from pipeline.cluster.queue.systems import Keywords, System, clock, hours_minutes
from pipeline.sections import ConfigError, Count, Rule, Section, Text, Texts, is_text

LEAST_MEMORY: Final = "64MiB"  # less than a worker takes to start
LOCALHOST: Final = "127.0.0.1:0"  # dashboards: a free port, reached by nobody on another machine


def _reads(read: Callable[[str], Any]) -> Callable[[Any], bool]:
    def holds(value: Any) -> bool:
        try:
            return is_text(value) and bool(read(value))
        except (ValueError, KeyError):
            return False

    return holds


def seconds(text: str) -> int:
    """The seconds of "HH:MM:SS", "D-HH:MM:SS", or what Dask reads as a time: "2h", "90 minutes". Raises ValueError for anything else."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", text)
    if found:
        days, hours, minutes, rest = (int(part or 0) for part in found.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if not re.search("[a-z]", text) or (given := parse_timedelta(text)) <= 0:
        raise ValueError(f"{text!r} is no time")
    return round(given)


def parse_memory(text: str) -> int:
    """Bytes of a size as Dask reads it, "16GB" or "512MiB". Raises ValueError for anything else."""
    try:
        if re.search("[A-Za-z]", text) and (found := int(parse_bytes(text))) > 0:
            return found
    except ValueError:
        pass
    raise ValueError(f"memory must be a size such as 4GB or 512MiB, got {text!r}")


def one_word(name: str, text: str | None) -> str:
    """The same text, "" for None. Raises ConfigError when it has spaces: jobs' commands and directives are joined without quotes."""
    if re.search(r"\s", text or ""):
        raise ConfigError(f"[cluster] {name} must not have spaces, which the queue would take for the ends of words, got {text!r}")
    return text or ""


def port_range(text: str) -> tuple[int, int]:
    """The two ends of a range of ports, "40000:40100". Raises ValueError when it holds fewer than five ports."""
    first, _, last = text.partition(":")
    ports = int(first), int(last)
    if not 0 < ports[0] <= ports[1] - 4 < ports[1] < 65536:
        raise ValueError(f"{text!r} is no range of at least five ports")
    return ports


Size: TypeAlias = Annotated[str, Rule('a size such as "16GB"', _reads(parse_memory))]
Time: TypeAlias = Annotated[str, Rule('a time such as "01:30:00" or "90 minutes"', _reads(seconds))]
Ports: TypeAlias = Annotated[str, Rule('a range of at least five ports, such as "40000:40100"', _reads(port_range))]


@dataclass(frozen=True, kw_only=True)
class QueueOptions(Section):
    """The options of each of `jobs` jobs; an option that is None is as the user's jobqueue.yaml has it.

    cores, memory, disk (HTCondor's), gpus: of a job. processes: how many it is cut into, by default dask-jobqueue's choice. walltime:
    "HH:MM:SS", or "2h". account, partition: who pays, and where it runs. prologue: lines of shell before the worker, directives: the
    queue's own ("key = value" for HTCondor); both come after those of jobqueue.yaml. local_directory: fast scratch of the node, where
    workers spill. ports: for scheduler, workers and nannies, where a firewall leaves only some. interface: the network's, as ib0.
    log_directory: the jobs' output, by default ./queue-logs. python: the interpreter on the nodes. min_workers: how many are waited for.
    """

    title: ClassVar[str] = "cluster"
    jobs: Count = 1
    cores: Count | None = None
    memory: Size | None = None
    processes: Count | None = None
    walltime: Time | None = None
    account: Text | None = None
    partition: Text | None = None
    gpus: Count | None = None
    disk: Size | None = None
    prologue: Texts | None = None
    local_directory: Text | None = None
    ports: Ports | None = None
    directives: Texts | None = None
    interface: Text | None = None
    log_directory: Text | None = None
    python: Text | None = None
    min_workers: Count = 1

    def check(self, system: System) -> None:
        """Raise ConfigError for what this system does not know."""
        if self.partition is not None and system.partition is None:
            raise ConfigError(f"{system.name} has no partitions; leave partition out, or say where with directives, as system.name has it")
        if self.disk is not None and system.disk is None:
            raise ConfigError(f"{system.name} is not asked for disk this way; leave disk out, or ask with directives")
        if self.memory is not None and parse_memory(self.memory) < parse_memory(LEAST_MEMORY):
            raise ConfigError(f"[cluster] memory, of each job, must be at least {LEAST_MEMORY}, got {self.memory!r}")
        for key in ("account", "partition", "interface", "prologue", "directives"):
            for text in [given] if isinstance(given := vars(self)[key], str) else given or ():
                if text.splitlines() != [text]:
                    raise ConfigError(f"[cluster] {key} must not have line breaks, got {text!r}")
        for key in ("log_directory", "local_directory", "python"):
            one_word(key, vars(self)[key])
        if system.name == "htcondor":
            for line in self.directives or ():
                if not re.fullmatch(r"\s*[\w.+]+\s*=.*", line):
                    raise ConfigError(f'[cluster] directives of htcondor are "key = value", got {line!r}')


@dataclass(frozen=True)
class JobPlan:
    """The plan of a job that dask-jobqueue is to submit. worker: keywords of its job class; scheduler: options of the scheduler. config:
    the system's section of jobqueue.yaml. gpu_workers: whether each process takes one GPU of the job."""

    system: System
    options: QueueOptions
    threads_per_worker: int | None
    gpu_workers: bool

    @property
    def config(self) -> Mapping[str, Any]:
        return dict(dask.config.get(f"jobqueue.{self.system.name}"))

    @property
    def gpus(self) -> int | None:
        return self.options.gpus or (1 if self.gpu_workers else None)

    @property
    def cores(self) -> int | None:
        return self.options.cores or self.config.get("cores")

    @property
    def walltime(self) -> int | None:
        """The walltime in seconds; None when jobqueue.yaml has it in words that only the queue reads."""
        text = self.options.walltime or str(self.config.get("walltime"))
        if re.fullmatch(r"\d+:\d\d", text) and self.system.name == "lsf":
            text += ":00"
        try:
            return seconds(text)
        except (ValueError, KeyError):
            return None

    def processes(self) -> int | None:
        """The number of processes that a job is cut into; None for dask-jobqueue's choice. Raises ConfigError when that cannot be."""
        given, cores = self.options.processes, self.cores
        if given is not None and (self.gpu_workers or self.threads_per_worker is not None):
            raise ConfigError("processes is what cores and threads_per_worker make, or gpus with gpu=True; leave it out, or them")
        if self.gpu_workers:
            given = self.gpus
        elif self.threads_per_worker is not None:
            if cores is None:
                raise ConfigError("threads_per_worker needs cores, of each job, which it divides into processes")
            given = max(1, cores // self.threads_per_worker)
        if given is not None and cores is not None and given > cores:
            raise ConfigError(f"cores={cores} is less than the {given} processes of a job; ask for a core a process at least")
        return given

    def worker(self) -> Keywords:
        """Keywords of the job class. Raises ConfigError for what the system does not know or cannot be."""
        options, system = self.options, self.system
        options.check(system)
        keywords: Keywords = {
            "cores": options.cores,
            "memory": options.memory,
            "processes": self.processes(),
            "interface": options.interface,
            "python": options.python,
            "local_directory": options.local_directory,
            "log_directory": self.log_directory(),
            "job_script_prologue": None if options.prologue is None else [*self.config["job-script-prologue"], *options.prologue],
            "worker_extra_args": self.worker_arguments(),
        }
        directives: list[str] = []
        for effect in self._effects():
            directives += effect.pop("directives", [])
            keywords |= effect
        keywords["job_extra_directives"] = self._directives([*directives, *(options.directives or ())])
        return {key: value for key, value in keywords.items() if value is not None}

    def _effects(self) -> list[Keywords]:
        options, system = self.options, self.system
        named = {option: vars(options)[option] for option in ("account", "partition", "disk")}
        effects = [system.told("logs", directory=self.log_directory())]
        effects += [system.told(option, **{option: given}) for option, given in named.items() if given is not None]
        if options.walltime is not None:
            time = seconds(options.walltime)
            effects.append(system.told("walltime", seconds=time, clock=clock(time), hours_minutes=hours_minutes(time)))
        if self.gpus is not None:
            memory = options.memory or self.config.get("memory")
            if self.cores is None or memory is None:
                raise ConfigError("gpus needs cores and memory, of each job")
            effects.append(system.told("gpus", gpus=self.gpus, cores=self.cores, mib=math.ceil(parse_bytes(memory) / 2**20)))
        return effects

    def _directives(self, own: list[str]) -> Any:
        configured = self.config["job-extra-directives"]
        if not own:
            return None
        if self.system.name != "htcondor":
            return [*configured, *own]
        return dict(configured) | {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in own)}

    def log_directory(self) -> str:
        """The directory for the jobs' output."""
        chosen = self.options.log_directory or self.config.get("log-directory") or "queue-logs"
        return one_word("log_directory", str(Path(chosen).expanduser().resolve()))

    def worker_arguments(self) -> list[str]:
        """The arguments of `dask worker`; those of jobqueue.yaml come last, and so win."""
        configured = self.config["worker-extra-args"]
        arguments = ["--dashboard-address", LOCALHOST]
        if self.options.ports is not None:
            low, high = port_range(self.options.ports)
            middle = (low + high) // 2
            arguments += ["--worker-port", f"{low}:{middle - 1}", "--nanny-port", f"{middle}:{high - 1}"]
        if (
            self.walltime is not None and "--lifetime" not in configured
        ):  # a worker that retires hands its rows over; one that is killed loses them
            margin = min(300, max(5, self.walltime // 12))
            arguments += ["--lifetime", f"{max(1, self.walltime - 2 * margin)}s", "--lifetime-stagger", f"{margin}s"]
        if self.gpu_workers:
            arguments += ["--preload", "tasks.machine.devices", "--nthreads", str(self.threads_per_worker or 1)]
        return [*arguments, *configured]

    def scheduler(self) -> Keywords:
        """Options of the scheduler, which runs in this process: where it listens, and how long it waits for silent workers. Raises
        ValueError for an interface that is not there."""
        configured = dict(self.config.get("scheduler-options") or {})
        interface = self.options.interface or self.config.get("interface")
        placed: Keywords = {"dashboard_address": LOCALHOST, "worker_ttl": worker_ttl()}
        if self.options.interface is not None:
            check_interface(self.options.interface)
        if interface is None and not {"host", "interface"} & configured.keys():
            placed["host"] = scheduler_host()
        if self.options.ports is not None:
            placed["port"] = free_port(str((placed | configured).get("host", "")), *port_range(self.options.ports))
        return placed | configured
