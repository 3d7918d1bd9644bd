"""`python -m pipeline bench NAME`: this library, scikit-learn and others side by side in one run."""

from __future__ import annotations

import argparse
import shlex
from importlib import import_module
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.benchmarks.report import Report
from pipeline.benchmarks.settings import Settings
from pipeline.estimators.solvers import SOLVERS


class Case(NamedTuple):
    """A benchmark: what it measures, and the module of this package and the function there that measures it. A module is imported when its
    case is run: that takes seconds, and needs the bench extra."""

    title: str
    module: str
    function: str

    def measure(self, report: Report, settings: Settings) -> None:
        """Fill the report. Raises ValueError without the bench extra."""
        try:
            getattr(import_module(f"{__name__}.{self.module}"), self.function)(report, settings)
        except ModuleNotFoundError as error:
            raise ValueError(f"{error}; benchmarks need the bench extra: pip install 'dask-descent[bench]'") from error


CASES: Final = {
    "logistic-28": Case("logistic regression, 1,000,000 x 28, in process and on two workers", "fits", "logistic_28"),
    "logistic-200": Case("logistic regression, 300,000 x 200, in process and on two workers", "fits", "logistic_200"),
    "logistic-15": Case("logistic regression, 8,000,000 x 15, in process", "fits", "logistic_15"),
    "multinomial": Case("multinomial regression, 200,000 x 100, 10 classes, in process", "fits", "multinomial"),
    "sparse-logistic": Case("logistic regression on CSR, 400,000 x 2000, in process, and one pass over it", "sparse", "sparse_logistic"),
    "wide": Case("logistic regression on CSR, 100,000 x 1,000,000, in process, in few partitions and in many", "wide", "wide"),
    "least-squares": Case(
        "Ridge and LinearRegression, 1,000,000 x 28 and 300,000 x 200, in process and on two workers", "least_squares", "least_squares"
    ),
    "sgd": Case("log loss by stochastic gradient descent, 1,000,000 x 28, in process and on two workers", "sgd", "sgd"),
    "epoch": Case("an epoch of a multi-layer perceptron, 100,000 x 784, in process and on two workers", "epoch", "epoch"),
    "module": Case("the same network as a PyTorch module, beside PyTorch's loop and its two processes", "modules", "modules"),
    "overhead": Case("one round over the same rows in 16, 128 and 1024 partitions", "rounds", "overhead"),
    "chunks": Case("a fit, predictions and a score of the same persisted rows in 16, 128 and 1024 chunks", "chunks", "chunks"),
    "resident": Case("a round that the workers run by themselves, beside a call of an actor", "resident", "resident"),
    "memory": Case("workers' peak memory while 2 GB are loaded and fitted", "memory", "memory"),
    "slow-worker": Case("rounds on four workers of which one is held back to a quarter of the others' speed", "slow_worker", "slow_worker"),
    "asynchronous": Case(
        "synchronous, asynchronous and local updates on four workers, of which one may be slow", "asynchronous", "asynchronous"
    ),
    "admm": Case("ADMM of this library and of dask-ml, 1,000,000 x 28, on two workers", "admm", "admm"),
    "compression": Case("the loss of fits, and the bytes that they sent and received, whole and compressed", "compression", "compression"),
    "papers": Case("the shapes of published results, in process", "papers.case", "papers"),
    "checkpoint": Case("rounds after which a large state is offered to a checkpoint, beside rounds without", "checkpoints", "checkpoint"),
    "bandwidth": Case("one gradient pass as share of the memory's read bandwidth, in process and on two workers", "bandwidth", "bandwidth"),
    "threads": Case("fits of all estimators on one thread and on all, on one worker and on two", "scaling", "scaling"),
    "startup": Case("imports, the command line and a first training in fresh processes", "startup", "startup"),
    "soak": Case("many fits on one cluster whose workers are killed at random: what hangs, and what grows", "soak", "soak"),
    "plan": Case("what plans of three jobs predict, beside what two workers take", "planning", "plan"),
}


DEFAULTS: Final = Settings()


def parser() -> argparse.ArgumentParser:
    """The options of every case."""
    options = argparse.ArgumentParser(prog="python -m pipeline bench NAME", description=__doc__)
    options.add_argument("--quick", action="store_true", help="small tables and fewer solvers: seconds, and figures that mean nothing")
    options.add_argument("--repeats", type=int, default=DEFAULTS.repeats, help="timed runs of each (default %(default)s)")
    options.add_argument(
        "--limit", type=float, default=DEFAULTS.limit, help="seconds a solver may search its tolerance (default %(default)s)"
    )
    options.add_argument("--solvers", nargs="+", choices=SOLVERS, default=DEFAULTS.solvers, help="which of ours; the first stands for us")
    options.add_argument("--fits", type=int, default=DEFAULTS.fits, help="of the soak (default %(default)s)")
    options.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for NAME.json and NAME.md (default %(default)s)")
    return options


def bench(arguments: argparse.Namespace) -> int:
    """The command: see `run`."""
    return run(arguments.name, arguments.args)


def run(name: str | None, arguments: list[str]) -> int:
    """Run a case, print its tables and store them; without a name list the cases. Returns the exit status."""
    if name is None or name not in CASES:
        for known, (title, _, _) in CASES.items():
            print(f"{known:17}{title}")
        if name is not None:
            print(f"\nThere is no benchmark {name!r}; use one of the above.")
        return 0 if name is None else 2
    reader = parser()
    options = reader.parse_args(arguments)
    for option in ("repeats", "fits"):
        if getattr(options, option) < 1:
            reader.error(f"--{option} must be at least 1, got {getattr(options, option)}")
    case, command = CASES[name], shlex.join(["python", "-m", "pipeline", "bench", name, *arguments])
    report = Report(name, case.title, command)
    settings = Settings(
        quick=options.quick, repeats=options.repeats, limit=options.limit, solvers=tuple(options.solvers), fits=options.fits
    )
    case.measure(report, settings)
    paths = report.store(options.out)
    print(report.markdown())
    print("Stored: " + ", ".join(map(str, paths)))
    return 0
