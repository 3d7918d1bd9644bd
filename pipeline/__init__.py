"""dask-descent: gradient-based models trained on data that lives in partitions.

A name is imported when it is first asked for: `from pipeline import LogisticRegression` loads what a model is, `Dataset` what reads rows,
`connect` what talks to clusters.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from pipeline.cluster.code.library import VersionMismatchError, check_tasks_here

check_tasks_here()

from tasks import __version__  # noqa: E402

if TYPE_CHECKING:
    from pipeline.cluster.connect import connect
    from pipeline.cluster.pulse import SchedulerLostError, SilentWorkerWarning
    from pipeline.cluster.workers import ThreadHeldError, WorkersUnavailableError
    from pipeline.data.dataset import Dataset
    from pipeline.estimators.linear import LinearRegression, Ridge
    from pipeline.estimators.logistic import LogisticRegression
    from pipeline.estimators.neural_network import MLPClassifier, MLPRegressor
    from pipeline.estimators.sgd import SGDClassifier, SGDRegressor
    from pipeline.estimators.torch_networks import TorchClassifier, TorchRegressor
    from pipeline.execution.residency.failures import WorkersKilledError
    from pipeline.sources.errors import FatalPartitionError, PartitionError, QuarantineWarning, SourceChangedError
    from pipeline.training.checkpoints.files import CheckpointWarning
    from pipeline.training.checkpoints.keeper import Checkpoint
    from pipeline.training.minimise import Minimum, mini_batches, minimise, subtrees
    from tasks.reductions.memory import OutOfMemoryError

__all__ = [
    "Checkpoint",
    "CheckpointWarning",
    "Dataset",
    "FatalPartitionError",
    "LinearRegression",
    "LogisticRegression",
    "MLPClassifier",
    "MLPRegressor",
    "Minimum",
    "OutOfMemoryError",
    "PartitionError",
    "QuarantineWarning",
    "Ridge",
    "SGDClassifier",
    "SGDRegressor",
    "SchedulerLostError",
    "SilentWorkerWarning",
    "SourceChangedError",
    "ThreadHeldError",
    "TorchClassifier",
    "TorchRegressor",
    "VersionMismatchError",
    "WorkersKilledError",
    "WorkersUnavailableError",
    "__version__",
    "connect",
    "mini_batches",
    "minimise",
    "subtrees",
]

_PLACES: Final = {
    name: module
    for module, names in {
        "pipeline.cluster.connect": ("connect",),
        "pipeline.cluster.pulse": ("SchedulerLostError", "SilentWorkerWarning"),
        "pipeline.cluster.workers": ("ThreadHeldError", "WorkersUnavailableError"),
        "pipeline.data.dataset": ("Dataset",),
        "pipeline.estimators.linear": ("LinearRegression", "Ridge"),
        "pipeline.estimators.logistic": ("LogisticRegression",),
        "pipeline.estimators.neural_network": ("MLPClassifier", "MLPRegressor"),
        "pipeline.estimators.sgd": ("SGDClassifier", "SGDRegressor"),
        "pipeline.estimators.torch_networks": ("TorchClassifier", "TorchRegressor"),
        "pipeline.execution.residency.failures": ("WorkersKilledError",),
        "pipeline.sources.errors": ("FatalPartitionError", "PartitionError", "QuarantineWarning", "SourceChangedError"),
        "pipeline.training.checkpoints.files": ("CheckpointWarning",),
        "pipeline.training.checkpoints.keeper": ("Checkpoint",),
        "pipeline.training.minimise": ("Minimum", "mini_batches", "minimise", "subtrees"),
        "tasks.reductions.memory": ("OutOfMemoryError",),
    }.items()
    for name in names
}
"""Where each name is from. The imports above say the same to type checkers and editors; a test holds the two together."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        known = ", ".join(__all__)
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}; it has {known}", name=name, obj=sys.modules[__name__])
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value  # the next time it is found without asking here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
