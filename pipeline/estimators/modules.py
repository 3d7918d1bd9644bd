"""What TorchClassifier and TorchRegressor share: from a PyTorch module and parameters to a fit, and back to a module."""

from __future__ import annotations

import copy
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, replace
from fnmatch import fnmatchcase
from importlib import import_module
from numbers import Integral, Real
from types import FunctionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Self

import numpy as np
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted

from pipeline.estimators.networks import Epochs, NetworkModel
from pipeline.estimators.optimizer_choice import ASYNC, LOCAL, SERVED
from pipeline.estimators.parameters import (
    BelowOne,
    Compressing,
    Count,
    Flag,
    NotNegative,
    Positive,
    RandomState,
    ResultOrder,
    Saving,
    Share,
    Verbose,
    Whole,
    with_parameters,
)
from pipeline.training.history import digest
from tasks.objectives.base import Layout
from tasks.objectives.losses import Loss, SquaredLoss
from tasks.objectives.modules import TorchObjective
from tasks.strategies.local_sgd import N_STEPS
from tasks.strategies.optimizers import OPTIMIZERS, Optimizer
from tasks.strategies.schedules import Schedule
from tasks.typing import Array

if TYPE_CHECKING:
    from torch import nn

    from pipeline.data.dataset import Dataset
    from pipeline.data.schema import Schema

MINI_BATCH: Final = "mini-batch"
SEEDING: Final = threading.RLock()
"""Whoever seeds PyTorch's own stream, which all threads share."""
INSTALL: Final = 'PyTorch is not installed here: pip install "dask-descent[torch]"'


@with_parameters
class TorchParameters:
    """The parameters that TorchClassifier and TorchRegressor share."""

    module: Any = None
    criterion: Any = None
    optimizer: Annotated[Any, StrOptions(set(OPTIMIZERS)), Optimizer] = "adam"
    _: KW_ONLY
    module_params: Annotated[Any, dict, None] = None
    lr: Positive = 0.001
    max_epochs: Count = 10
    batch_size: Count = 128
    solver: Any = MINI_BATCH
    learning_rate: Any = "constant"
    input_shape: Any = None
    input_dtype: Annotated[str, StrOptions({"float32", "float64", "int32", "int64"})] | None = None
    dtype: Annotated[str, StrOptions({"float32", "float64"})] = "float32"
    mixed_precision: Annotated[str, StrOptions({"bfloat16"})] | None = None
    micro_batch_size: Count = 1024
    frozen: Any = ()
    param_groups: Any = ()
    alpha: NotNegative = 0.0
    weight_decay: NotNegative = 0.0
    momentum: Share = 0.9
    nesterovs_momentum: Flag = True
    beta_1: BelowOne = 0.9
    beta_2: BelowOne = 0.999
    epsilon: Positive = 1e-8
    clip_norm: Positive | None = None
    accumulate: Count = 1
    warm_up: Whole = 0
    average: Annotated[bool | int, "boolean", Interval(Integral, 0, None, closed="left")] = False
    shuffle: Flag = True
    random_state: RandomState = None
    tol: NotNegative | None = None
    n_iter_no_change: Annotated[float, Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})] = 10
    early_stopping: Flag = False
    validation_fraction: BelowOne = 0.1
    verbose: Verbose = False
    warm_start: Flag = False
    staleness: Whole | None = 4
    order: ResultOrder = "in-order"
    local_steps: Count | None = N_STEPS
    local_epochs: Count | None = None
    compression: Compressing = None
    checkpoint: Saving = None


def imported(value: Any) -> Any:
    """What stands at a place, "nets:Net" say; anything else as it is. Raises ValueError where nothing does."""
    if not isinstance(value, str):
        return value
    place, _, name = value.partition(":")
    try:
        return getattr(import_module(place), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{value!r} cannot be imported: {error}; give a place, as nets:Net is for the class Net of nets.py") from error


def criterion_at(value: Any) -> Any:
    """A criterion as it is, or from its place, where a class stands for what it makes: "torch.nn:CrossEntropyLoss"."""
    found = imported(value)
    return found() if isinstance(value, str) and isinstance(found, type) else found


class TorchModel(TorchParameters, NetworkModel):
    """module_, a `torch.nn.Module`, trained where the rows are.

    module              a module, whose numbers a fit starts from, and which it leaves alone; or a class, or a function, that makes one from
                        module_params, by random numbers that random_state decides; or where to import that from, "nets:Net" say
    criterion           None: half squared errors, or cross-entropy, logistic where the module has one output; or a criterion of torch.nn,
                        or a function (raw, y) -> losses: see `tasks.objectives.criteria.CriterionLoss`; or where to import that from
    optimizer           a name of tasks.strategies.optimizers.OPTIMIZERS or an Optimizer
    lr, max_epochs      the first step size; epochs, or steps in full passes
    batch_size          rows of one round over all partitions
    solver              "mini-batch"; "async", "parameter-server" or an Overlap, with several rounds under way; "local-sgd" or LocalUpdates,
                        in each subtree of groups by itself; or in full passes "lbfgs", or a strategy that asks for gradients alone
    learning_rate       "constant"; "step": halved ten times in max_epochs; "cosine": to zero over max_epochs; "adaptive", as in
                        scikit-learn of no effect with Adam; or a Schedule, which lr does not enter
    input_shape, input_dtype, dtype, mixed_precision, micro_batch_size, frozen
                        see `tasks.objectives.modules.TorchObjective`. Full passes are best in dtype="float64"
    param_groups        pairs (pattern, options): parameters of these names have their own lr, or learning_rate, [("head.*", {"lr": 0.01})]
                        say; the first pattern that meets a name counts
    alpha               the penalty is ½ alpha Σ θ² over the parameters of two dimensions and more, beside the mean loss, which is PyTorch's
                        SGD(weight_decay=alpha) of these
    weight_decay        decoupled, as PyTorch's AdamW has it, of the same parameters; 0 means 0.01 for "adamw"
    tol, n_iter_no_change
                        with a loss, or a score, that is not better by tol for more epochs than this the fit has converged; None: never
    warm_start          begin with module_, also the numbers that are frozen: other layers may be frozen than in the last fit

    The others are as `pipeline.estimators.perceptrons.Network` has them. Fitted besides what all models have, and mini-batches leave:
    module_, in evaluation mode (its `state_dict()` is PyTorch's), n_outputs_, loss_ and best_loss_. Needs PyTorch, here and on the workers.
    """

    _solvers: ClassVar[tuple[str, ...]] = (MINI_BATCH, ASYNC, SERVED, LOCAL, "lbfgs")
    _unsaved: ClassVar[tuple[str, ...]] = ("checkpoint", "module", "module_params")

    power_t = 0.5
    module_: nn.Module

    @property
    def max_iter(self) -> int:  # type: ignore[override]
        """The epochs, by the name that they have elsewhere."""
        return self.max_epochs

    @property
    def learning_rate_init(self) -> float:  # type: ignore[override]
        """The first step size, by the name that it has elsewhere."""
        return self.lr

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """scikit-learn's; with deep the parameters of the module, too, module__hidden=64 say."""
        found: dict[str, Any] = super().get_params(deep=deep)
        return found | {f"module__{name}": value for name, value in (self.module_params or {}).items()} if deep else found

    def set_params(self, **params: Any) -> Self:
        """scikit-learn's; module__hidden=64 say is a parameter of the module."""
        own = {name: params.pop(name) for name in list(params) if name.startswith("module__")}
        super().set_params(**params)
        if own:
            self.module_params = {**(self.module_params or {}), **{name.removeprefix("module__"): value for name, value in own.items()}}
        return self

    @abstractmethod
    def _chosen_loss(self, n_outputs: int) -> Loss:
        """The loss of a module with so many outputs."""

    @abstractmethod
    def _targets(self, schema: Schema) -> tuple[int, Array | None]:
        """How many targets, or classes, there are, and the classes. Raises ValueError for targets that do not fit."""

    # -- from parameters to a fit ------------------------------------------------------------------------------------------------------

    @property
    def _updates_by(self) -> Any:
        return self.optimizer

    @property
    def _by_epochs(self) -> bool:
        return (isinstance(self.solver, str) and self.solver == MINI_BATCH) or self._composes

    def _check_refused(self) -> None:
        super()._check_refused()
        if isinstance(self.frozen, str) or not isinstance(self.frozen, Sequence) or not all(isinstance(each, str) for each in self.frozen):
            raise TypeError(f"frozen must be a list of patterns, ['encoder.*'] say, got {self.frozen!r}")
        _ = self._chosen_loss(1)
        self._require_groups()

    def _objective(self, schema: Schema) -> TorchObjective:
        n_outputs, classes = self._targets(schema)
        module = self.module_ if self._warm_starts and self.__sklearn_is_fitted__() else self._made()
        objective = self._with_loss(module, schema.n_columns, classes)
        one_for_two = classes is not None and (n_outputs, objective.n_outputs) == (2, 1)
        if objective.n_outputs != n_outputs and not one_for_two:
            what = f"{n_outputs} targets" if classes is None else f"{n_outputs} classes"
            raise ValueError(f"y has {what}, but {type(module).__name__} has {objective.n_outputs} outputs; it must have one for each")
        return objective

    def _with_loss(self, module: nn.Module, n_columns: int, classes: Array | None) -> TorchObjective:
        """The objective of a module."""
        unfitted = TorchObjective(
            module,
            SquaredLoss(),
            n_columns,
            classes,
            tuple(self.frozen),
            self.input_shape,
            self.input_dtype,
            self.dtype,
            self.mixed_precision,
            self.micro_batch_size,
        )
        return replace(unfitted, loss=self._chosen_loss(unfitted.n_outputs))

    def _made(self) -> nn.Module:
        """The module to start from. Raises TypeError for what is none and makes none, ValueError for parameters beside a module."""
        try:
            import torch
        except ImportError as error:
            raise ModuleNotFoundError(INSTALL) from error
        module = imported(self.module)
        if isinstance(module, torch.nn.Module):
            if self.module_params:
                raise ValueError(
                    f"module_params={self.module_params!r} beside a module; give the class that makes it: module={type(module).__name__}"
                )
            return module
        if callable(module):
            with SEEDING, torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._seed)
                module = module(**(self.module_params or {}))
        if not isinstance(module, torch.nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, or a class or function that makes one, got {self.module!r}")
        return module

    def _parts(self, layout: Layout, epochs: Epochs) -> tuple[tuple[slice, Schedule], ...]:
        found: dict[str, Schedule] = {}
        for pattern, options in self.param_groups:
            moving = [name for name in layout.slices() if name not in layout.tracked]
            names = [name for name in moving if fnmatchcase(name, pattern)]
            if not names:
                raise ValueError(f"param_groups: {pattern!r} meets no parameter that moves: those are {', '.join(moving)}")
            rate = self._effective(options.get("learning_rate", self.learning_rate))
            schedule = self._schedule(rate, epochs, options.get("lr", self.lr))
            found |= {name: schedule for name in names if name not in found}
        return tuple((layout.slices()[name], schedule) for name, schedule in found.items())

    def _require_groups(self) -> None:
        """Raise ValueError or TypeError for what are no groups of parameters."""
        if not isinstance(self.param_groups, Sequence):
            raise TypeError(f"param_groups must be a list of pairs (pattern, options), got {self.param_groups!r}")
        for group in self.param_groups:
            try:
                pattern, options = group
                known = isinstance(pattern, str) and set(options) <= {"lr", "learning_rate"}
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"param_groups must be pairs (pattern, options), [('head.*', {{'lr': 0.01}})] say, got {group!r}"
                ) from error
            if not known:
                raise ValueError(f"param_groups: a pattern has options lr and learning_rate, got {group!r}")

    def _strength(self, batch_weight: float) -> float:
        return self.alpha

    @property
    def _state_follows(self) -> dict[str, Any]:
        return {
            "module": f"{self.module.__qualname__ if isinstance(self.module, FunctionType) else repr(self.module)} {self.module_params!r}",
            "dtype": self.dtype,
            "frozen": tuple(self.frozen),
            "optimizer": f"{type(self._optimizer).__name__}{self._means}",
        }

    def _start(self, objective: TorchObjective) -> Array:
        return objective.start()

    def _given(self, objective: TorchObjective) -> Array:
        found = objective.start()
        if not np.all(np.isfinite(found)):
            raise ValueError("module_ holds NaN or infinity; set it to finite numbers, or call fit with warm_start=False")
        return found

    @property
    def _n_columns(self) -> int:
        return int(self.n_features_in_)

    # -- what a fit leaves -------------------------------------------------------------------------------------------------------------

    def _check_fitted(self) -> None:
        check_is_fitted(self)

    def _set_parameters(self, parameters: Array, objective: TorchObjective, dataset: Dataset) -> None:
        if objective.classes is not None:
            self.classes_ = objective.classes
        self.module_ = objective.fitted(parameters)
        self.n_outputs_ = objective.n_outputs
        self.parameters_sha256_ = digest(parameters)

    def _arrays(self) -> dict[str, Array]:
        state = self.module_.state_dict()
        if "classes" in state and "classes_" in vars(self):
            raise ValueError("the module's 'classes' would be where a file has the labels; give the parameter another name")
        return {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}

    def _set_arrays(self, arrays: Mapping[str, Array]) -> None:
        if self.module is None:
            raise ValueError("the file has the numbers of a PyTorch module, and no code; give the module: load_model(path, module=Net())")
        import torch

        module = copy.deepcopy(self._made()).to(getattr(torch, self.dtype))
        wanted = {name: torch.from_numpy(array) for name, array in arrays.items() if name != "classes" or "classes_" not in vars(self)}
        try:
            module.load_state_dict(wanted)
        except RuntimeError as error:
            raise ValueError(f"the numbers of the file are of another module than {type(module).__name__}: {error}") from error
        self.module_ = module.eval()

    def _fitted(self, dtype: str) -> tuple[TorchObjective, Array]:
        objective = self._with_loss(self.module_, self._n_features, self._classes if "classes_" in vars(self) else None)
        return objective, objective.start()
