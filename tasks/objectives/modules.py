"""Any PyTorch module as an objective: sums of the loss, and of its gradient by autograd, on the device where the rows live.

A partition is worked through in pieces of about `micro_batch_size` rows, counted from its own first row, so that bits do not depend on
where groups are cut; a batch's rows of one subtree are one partition.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tasks.lazy import Lazy
from tasks.machine import buffers
from tasks.objectives.base import Layout, Sums, add_sums
from tasks.objectives.encoding import add_weights, encoded_target
from tasks.objectives.losses import Loss
from tasks.reductions.tree import Tree
from tasks.rows.partition import Group, row_slice
from tasks.typing import Array, Design

if TYPE_CHECKING:
    from torch import nn

    from tasks.objectives import replicas
    from tasks.objectives.replicas import Form, Replica
else:
    replicas = Lazy("tasks.objectives.replicas")

DTYPES: Final = ("float32", "float64")
MIXED: Final = (None, "bfloat16")


@dataclass(frozen=True, eq=False)
class TorchObjective:
    """Σ_i s_i loss(y_i, z_i), where z_i are the raw predictions that a `torch.nn.Module` makes of row i.

    module            takes rows (n, *input_shape) and returns (n, c), or (n,). It is copied: what happens to it later does not matter here
    loss              of tasks.objectives.losses, or a `tasks.objectives.criteria.CriterionLoss` of a PyTorch criterion
    n_columns         of X
    classes           the labels in order, for classification: y is encoded against them where it lives
    frozen            patterns, as of `fnmatch`, of names of parameters that stay what they are, "encoder.*" say, beside those that do not
                      require a gradient; running statistics of these names stay, too, and are used as in evaluation
    input_shape       of a row as the module takes it, (1, 8, 8) for images of 64 columns; None: (n_columns,)
    input_dtype       of the rows as the module takes them, "int64" for what is looked up in embeddings; None: dtype
    dtype             of parameters, gradients and the arithmetic: "float32" or "float64"
    mixed_precision   "bfloat16": products as `torch.autocast` makes them; parameters, gradients and sums stay in dtype
    micro_batch_size  about how many rows pass at a time, which is what activations need memory for

    The flat vector has, by the module's own names: parameters of two dimensions and more, which penalties see; then all others; then the
    running statistics of batch normalisation, which each update moves towards a batch's. In mini-batches (where `group.draw` is not empty)
    the module trains: dropout, and whatever else it draws, by streams of the batch's counters; batch normalisation by the rows of a piece
    (E. Hoffer, I. Hubara and D. Soudry, Train longer, generalize better, NIPS 2017, algorithm 1: ghost batches), which is a whole batch
    where that has fewer than 512 rows, and its running statistics by the mean over a batch's pieces; a piece of a single row by its running
    statistics, which that leaves as they are. Full passes and predictions evaluate.

    Raises TypeError for what is no module, ValueError for layers of which shapes are not known yet, for patterns that meet nothing, for
    shapes that do not have n_columns, for pieces of one row beside running statistics, and for numbers of outputs that the loss does not
    have.
    """

    module: nn.Module
    loss: Loss
    n_columns: int
    classes: Array | None = None
    frozen: tuple[str, ...] = ()
    input_shape: tuple[int, ...] | None = None
    input_dtype: str | None = None
    dtype: str = "float32"
    mixed_precision: str | None = None
    micro_batch_size: int = 1024
    layout: Layout = field(init=False, repr=False)
    n_outputs: int = field(init=False, repr=False)
    _form: Form = field(init=False, repr=False)
    _idle: dict[str, list[Replica]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._check()
        module = replicas.copied(self.module)
        layout, frozen = laid_out(module, self.frozen, self.dtype)
        module = replicas.as_dtype(module, self.dtype)
        shape = () if self.input_shape is None else tuple(self.input_shape)
        if layout.tracked and self.micro_batch_size == 1:
            raise ValueError("micro_batch_size=1 leaves batch normalisation single rows, which have no variance; set it to 2 or more")
        form = replicas.Form(shape, self.input_dtype or self.dtype, self.dtype, self.mixed_precision, frozen)
        for name, value in (("module", module), ("layout", layout), ("_form", form), ("n_outputs", 0)):
            object.__setattr__(self, name, value)
        try:
            rows = np.zeros((2, self.n_columns))
            with replicas.Draws(replicas.device_beside(rows), (0,)) as draws:
                raw = self.predict(self.start(), rows)
        except (RuntimeError, IndexError, TypeError) as error:
            taken = (2, *(shape or (self.n_columns,)))
            raise ValueError(
                f"{type(module).__name__} cannot take rows of shape {taken}: {error}; X has {self.n_columns} columns, see input_shape and"
                " input_dtype"
            ) from error
        if draws.drew:
            name = type(module).__name__
            raise ValueError(f"{name} draws random numbers in evaluation mode, too; draw them only where self.training is true")
        object.__setattr__(self, "n_outputs", raw.shape[1])
        fewest, most = self.loss.outputs
        if not fewest <= self.n_outputs <= most:
            wanted = (
                "one output, for two classes" if most == 1 else "an output a class, at least two" if fewest > 1 else "an output a target"
            )
            raise ValueError(f"the {self.loss.name} loss must have {wanted}; {type(module).__name__} has {self.n_outputs} outputs")

    def _check(self) -> None:
        from torch import nn

        if not isinstance(self.module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, got {self.module!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be 'float32' or 'float64', got {self.dtype!r}")
        if self.mixed_precision not in MIXED:
            raise ValueError(f"mixed_precision must be None or 'bfloat16', got {self.mixed_precision!r}")
        if self.micro_batch_size < 1:
            raise ValueError(f"micro_batch_size must be at least 1, got {self.micro_batch_size!r}")
        shape: Any = self.input_shape
        if shape is None:
            return
        if not isinstance(shape, Iterable) or not all(isinstance(each, Integral) and int(each) > 0 for each in shape):
            raise ValueError(f"input_shape must be the sizes of a row, (1, 8, 8) for images say, got {shape!r}")
        made = math.prod(shape)
        if made != self.n_columns:
            raise ValueError(f"input_shape={tuple(shape)} makes {made} numbers a row, and X has {self.n_columns} columns")

    @cached_property
    def _labels(self) -> tuple[Any, ...]:
        return () if self.classes is None else tuple(self.classes.tolist())

    def start(self) -> Array:
        """The parameters (n,) that the module has. Not on workers, where it is without them."""
        found = {name: tensor.detach().cpu().numpy() for name, tensor in self.module.state_dict().items()}
        return self.layout.join({name: found[name] for name in (*self.layout.coef, *self.layout.free)})

    def loss_and_gradient(self, group: Group, parameters: Array) -> Sums:
        """See `Objective`."""
        with self._replica(group.X) as replica:
            models = [self._sums(replica, group, row) for row in parameters]
        if len(models) == 1:
            return models[0]
        return Sums(*(np.concatenate(arrays) for arrays in zip(*(model[:3] for model in models), strict=True)))

    def _sums(self, replica: Replica, group: Group, parameters: Array) -> Sums:
        """The sums of one model."""
        replica.load(parameters)
        target, weight = encoded_target(group, self.loss, self.classes, self._labels, self.n_outputs), group.sample_weight

        def piece(start: int, stop: int) -> Sums:
            gradient = buffers.empty((1, self.layout.size), self.dtype)
            w = None if weight is None else weight[start:stop]
            weight_sum = float(stop - start if w is None else w.sum())
            if start == stop:
                gradient[...] = 0.0
                return Sums(np.zeros(1), np.zeros(1), gradient)
            draw = (*group.draw, start) if group.draw else ()
            out = self.layout.split(gradient[0])
            loss = replica.differentiate(self.loss, row_slice(group.X, start, stop), target[start:stop], w, draw, out)
            return Sums(np.array([loss]), np.array([weight_sum]), gradient)

        def partition(start: int, stop: int) -> Sums:
            n_pieces = max(1, -(-(stop - start) // self.micro_batch_size))
            cuts = [start + (stop - start) * number // n_pieces for number in range(n_pieces + 1)]
            return added([piece(*bounds) for bounds in pairwise(cuts)])

        return added([partition(*bounds) for bounds in pairwise(group.offsets.tolist())])

    def weight_sum(self, group: Group) -> float:
        """See `WeighsRows`."""
        return add_weights(group.sample_weight, group.offsets)

    def predict(self, parameters: Array, X: Design) -> Array:
        """Raw predictions (rows, n_outputs) for parameters (n,), in dtype, where X lives."""
        with self._replica(X) as replica:
            replica.load(parameters)
            cuts = [*range(0, X.shape[0], self.micro_batch_size), X.shape[0]]
            return replica.predictions([row_slice(X, start, stop) for start, stop in pairwise(cuts)], X, self.n_outputs)

    def fitted(self, parameters: Array) -> nn.Module:
        """The module with these parameters (n,), in dtype and evaluation mode: the user's, to do with as they like. Not on workers, as
        `start`."""
        with replicas.undisturbed():
            module = copy.deepcopy(self.module)
            state = module.state_dict()
            for name, array in self.layout.split(np.asarray(parameters)).items():
                state[name].copy_(replicas.tensor_of(np.array(array)))
        return module.eval()

    @contextmanager
    def _replica(self, X: Any) -> Iterator[Replica]:
        """A copy of the module where X lives, which nobody else uses meanwhile."""
        device = replicas.device_beside(X)
        idle = self._idle.setdefault(str(device), [])
        with replicas.undisturbed(device.type):
            try:
                replica = idle.pop()
            except IndexError:
                replica = replicas.Replica(self.module, self.layout, self._form, device)
            yield replica
            idle.append(replica)  # not after an error, which may have left it anyhow

    def __getstate__(self) -> dict[str, Any]:
        """Without the numbers that come with each round's parameters."""
        kept = {name: value for name, value in self.__dict__.items() if name != "_skeleton"}
        return {**kept, "_idle": {}, "module": self._skeleton}

    @cached_property
    def _skeleton(self) -> nn.Module:
        return replicas.without(self.module, {*self.layout.coef, *self.layout.free})


def added(leaves: Sequence[Sums]) -> Sums:
    """The leaves added along the fixed tree."""
    tree = Tree(len(leaves), add_sums)
    for number, leaf in enumerate(leaves):
        tree.add((0, number), leaf)
    total: Sums = tree.result()
    return total


def laid_out(module: nn.Module, patterns: Sequence[str], dtype: str) -> tuple[Layout, frozenset[str]]:
    """The layout of a module's parameters, and the names of those that are frozen."""
    named = dict(module.named_parameters())
    statistics = {f"{name}{each}": layer for name, layer in replicas.norms(module) for each in replicas.STATISTICS}
    unknown = [name for name, parameter in named.items() if replicas.is_uninitialised(parameter)]
    if unknown:
        raise ValueError(
            f"{unknown[0]!r} of {type(module).__name__} has no shape yet; pass some rows through the module first: module(X[:2])"
        )
    for name, parameter in named.items():
        if parameter.is_meta or parameter.is_complex():
            what = "has no numbers; call to_empty() and set them" if parameter.is_meta else "is complex; take two real parameters"
            raise ValueError(f"{name!r} of {type(module).__name__} {what}")
    idle = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in (*named, *statistics))]
    if idle:
        raise ValueError(f"frozen={idle[0]!r} meets no parameter of {type(module).__name__}: those are {', '.join(named)}")
    frozen = frozenset(
        name for name, each in named.items() if not each.requires_grad or any(fnmatchcase(name, pattern) for pattern in patterns)
    )
    moving = {name: tuple(each.shape) for name, each in named.items() if name not in frozen}
    if not moving:
        raise ValueError(f"no parameter of {type(module).__name__} may move; leave some out of frozen=, or let them require a gradient")
    tracked = {}
    for name, layer in statistics.items():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            continue
        if layer.momentum is None:
            raise ValueError(f"{name} of {type(module).__name__} is a mean over all batches; give the layer a momentum, 0.1 for instance")
        tracked[name] = float(layer.momentum)
    coef = {name: shape for name, shape in moving.items() if len(shape) > 1}
    free = {name: shape for name, shape in moving.items() if len(shape) < 2}
    free |= {name: tuple(getattr(layer, name.rpartition(".")[2]).shape) for name, layer in statistics.items() if name in tracked}
    return Layout(coef, free, dtype, tracked=tracked), frozen
