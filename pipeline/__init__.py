"""dask-descent: gradient-based models trained on data that lives in partitions."""

from pipeline.cluster.code.identity import VersionMismatchError, check_tasks_here

check_tasks_here()

from pipeline.cluster.connect import connect  # noqa: E402
from pipeline.cluster.pulse import SchedulerLostError, SilentWorkerWarning  # noqa: E402
from pipeline.cluster.workers import ThreadHeldError, WorkersUnavailableError  # noqa: E402
from pipeline.data.dataset import Dataset  # noqa: E402
from pipeline.estimators.linear import LinearRegression, Ridge  # noqa: E402
from pipeline.estimators.logistic import LogisticRegression  # noqa: E402
from pipeline.estimators.neural_network import MLPClassifier, MLPRegressor  # noqa: E402
from pipeline.estimators.sgd import SGDClassifier, SGDRegressor  # noqa: E402
from pipeline.execution.residency.failures import WorkersKilledError  # noqa: E402
from pipeline.sources.errors import FatalPartitionError, PartitionError, QuarantineWarning, SourceChangedError  # noqa: E402
from pipeline.training.checkpoints.files import CheckpointWarning  # noqa: E402
from pipeline.training.checkpoints.keeper import Checkpoint  # noqa: E402
from pipeline.training.minimise import Minimum, mini_batches, minimise  # noqa: E402
from tasks import __version__  # noqa: E402
from tasks.reductions.memory import OutOfMemoryError  # noqa: E402

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
    "VersionMismatchError",
    "WorkersKilledError",
    "WorkersUnavailableError",
    "__version__",
    "connect",
    "mini_batches",
    "minimise",
]
