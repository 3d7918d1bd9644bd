"""Copies of a PyTorch module that compute: parameters in, raw predictions and gradients out. Each is used by one thread at a time."""

from __future__ import annotations

import copy
import copyreg
import random
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.machine.namespaces import namespace_of
from tasks.objectives.base import Layout
from tasks.objectives.losses import Loss
from tasks.rows.draws import generator
from tasks.typing import Array

ALIGNMENT: Final = 64
"""The bytes to whose multiples PyTorch aligns its own memory: products of rows that begin elsewhere can have other bits."""
STATISTICS: Final = ("running_mean", "running_var")
TOO_FEW: Final = "Expected more than 1 "
"""How PyTorch's errors begin for batches of which statistics cannot be computed."""


class Form(NamedTuple):
    """How a module computes. shape: of a row as the module takes it, () for (columns,); input_dtype: of the rows; dtype: of parameters;
    autocast: the dtype of products in mixed precision, or none; frozen: names of parameters that do not move."""

    shape: tuple[int, ...]
    input_dtype: str
    dtype: str
    autocast: str | None
    frozen: frozenset[str]


class Replica:
    """A copy of a module on one device, whose parameters and running statistics are those that `load` says."""

    def __init__(self, module: torch.nn.Module, layout: Layout, form: Form, device: torch.device) -> None:
        dtype = getattr(torch, form.dtype)
        self.module = copy.deepcopy(module).to(device)
        self.form, self.device, self.layout = form, device, layout
        named: dict[str, torch.Tensor] = dict(self.module.named_parameters())
        for name, parameter in named.items():
            parameter.requires_grad_(name not in form.frozen)
        shapes = {**layout.coef, **layout.free}
        for name in shapes.keys() & named.keys():
            named[name].data = torch.zeros(shapes[name], dtype=dtype, device=device)
        self._norms = dict(norms(self.module))
        for name, layer in self._norms.items():
            for statistic in STATISTICS:
                if f"{name}{statistic}" in layout.tracked:
                    named[f"{name}{statistic}"] = torch.zeros(shapes[f"{name}{statistic}"], dtype=dtype, device=device)
                    layer._buffers[statistic] = named[f"{name}{statistic}"]
                    layer.momentum = 1.0  # so that what it keeps are the last rows' own
        self._frozen_norms = [layer for name, layer in self._norms.items() if f"{name}{STATISTICS[0]}" not in layout.tracked]
        self._tensors = {name: named[name].detach() for name in shapes}
        self._trainable = [named[name] for name in shapes if name not in layout.tracked]
        self._mode: tuple[bool, bool] | None = None
        self._draws: bool | None = None
        self._went_back = False
        self._others = {name: buffer.clone() for name, buffer in self._unknown_buffers()}

    def load(self, parameters: Array) -> None:
        """Take these parameters (n,)."""
        for name, array in self.layout.split(parameters).items():
            tensor = self._tensors[name]
            if tensor.device.type == "cpu":
                np.copyto(tensor.numpy(), array)
            else:
                tensor.copy_(torch.from_numpy(np.array(array)))

    def predictions(self, pieces: Sequence[Any], X: Any, n_outputs: int) -> Any:
        """Raw predictions (n, c) of the pieces of X, in its namespace and where it lives."""
        self._train(False, 0)
        with torch.no_grad():
            found = [self._forward(self.inputs(rows), None) for rows in pieces if rows.shape[0]]
        raw = torch.cat(found) if found else torch.empty((0, n_outputs), dtype=getattr(torch, self.form.dtype), device=self.device)
        return raw.numpy() if isinstance(X, np.ndarray | sp.csr_array) else namespace_of(X).from_dlpack(raw)

    def differentiate(self, loss: Loss, rows: Any, y: Array, weight: Array | None, draw: Sequence[int], out: Mapping[str, Array]) -> float:
        """The sum of the losses; the sums of the gradients go into the arrays of `out`, by name, and where the rows are a batch those of
        running statistics times the rows' weight. draw: counters that key random numbers, of a batch."""
        self._train(bool(draw), int(y.shape[0]))
        with torch.enable_grad():
            raw = self._forward(self.inputs(rows), draw)
            value, slope = loss.of_rows(namespace_of(raw), self._beside(y), raw.detach())
            if weight is not None:
                w = self._beside(weight)
                counts = w != 0.0  # a row without weight counts nothing, even where its loss is too large a number
                value = torch.where(counts, value.double() * w, 0.0)
                slope = torch.where(counts[:, None], slope * w.to(slope.dtype)[:, None], torch.zeros_like(slope))
            gradients = self._gradients(raw, slope)
        names = [name for name in out if name not in self.layout.tracked]
        for name, gradient in zip(names, gradients, strict=True):
            out[name][...] = 0.0 if gradient is None else gradient.cpu().numpy()
        total = float(len(raw) if weight is None else weight.sum())
        for name in self.layout.tracked:
            out[name][...] = self._tensors[name].cpu().numpy() * out[name].dtype.type(total) if draw else 0.0
        return float(torch.sum(value, dtype=torch.float64))

    def _gradients(self, raw: torch.Tensor, slope: torch.Tensor) -> Sequence[torch.Tensor | None]:
        """The gradients of Σ slope raw. Raises ValueError for predictions that hang on no parameter, and for numbers drawn anew."""
        if not raw.requires_grad:
            raise ValueError(
                f"the predictions of {type(self.module).__name__} hang on no parameter that may move; leave some out of frozen="
            )
        if not self._draws or self._went_back:
            return torch.autograd.grad(raw, self._trainable, slope, allow_unused=True)
        with Draws(self.device):  # once: a module that draws again on its way back mostly does so always
            found = torch.autograd.grad(raw, self._trainable, slope, allow_unused=True)
        self._went_back = True
        return found

    def inputs(self, rows: Any) -> torch.Tensor:
        """Rows (n, p) as the module takes them."""
        dense = rows.toarray() if isinstance(rows, sp.csr_array) else rows
        given = tensor_of(dense).to(self.device, getattr(torch, self.form.input_dtype))
        given = given.reshape(len(given), *self.form.shape) if self.form.shape else given.contiguous()
        return given if given.data_ptr() % ALIGNMENT == 0 else given.clone()

    def _beside(self, array: Array) -> torch.Tensor:
        return tensor_of(array).to(self.device)

    def _forward(self, inputs: torch.Tensor, draw: Sequence[int] | None) -> torch.Tensor:
        """Raw predictions (n, c). Raises ValueError for what is no prediction a row."""
        precision: AbstractContextManager[Any] = nullcontext()
        if self.form.autocast is not None:
            precision = torch.autocast(self.device.type, dtype=getattr(torch, self.form.autocast))
        try:
            with precision:
                raw = self._drawing(inputs, draw) if draw else self.module(inputs)
        except IndexError as error:
            if inputs.is_floating_point() or not len(inputs):
                raise
            raise ValueError(
                f"{type(self.module).__name__} cannot take whole numbers from {int(inputs.min())} to {int(inputs.max())}: {error}; an"
                " embedding of n numbers takes 0 to n - 1"
            ) from error
        except ValueError as error:
            if not str(error).startswith(TOO_FEW):
                raise
            raise ValueError(
                f"{type(self.module).__name__} cannot normalise a piece of {len(inputs)} row: {error}; a batch has less rows of some"
                " partitions than others: repartition the data, take a larger batch_size or micro_batch_size, or nn.LayerNorm"
            ) from error
        if not isinstance(raw, torch.Tensor) or raw.ndim not in (1, 2) or len(raw) != len(inputs):
            found = f"shape {tuple(raw.shape)}" if isinstance(raw, torch.Tensor) else type(raw).__name__
            raise ValueError(
                f"{type(self.module).__name__} must return a tensor (rows, outputs), or (rows,), for rows of shape {tuple(inputs.shape)},"
                f" got {found}"
            )
        if draw and self._others:
            self._require_unchanged()
        return raw.reshape(len(raw), -1).to(getattr(torch, self.form.dtype))

    def _drawing(self, inputs: torch.Tensor, draw: Sequence[int]) -> Any:
        """The module's output while it trains. The first pass shows whether it draws random numbers: most do not, and to see to it that
        they come from a stream of their own takes time. One that begins to later is noticed by the process's own stream. Raises ValueError
        for one that draws by Python or NumPy."""
        if self._draws is False:
            before = streams(self.device)
            raw = self.module(inputs)
            if all(map(torch.equal, before, streams(self.device))):
                return raw
        for _ in range(3):  # other threads may draw by Python while the first pass looks, but hardly each time
            others = elsewhere() if self._draws is None else None
            with Draws(self.device, draw) as draws:
                raw = self.module(inputs)
            if self._draws is not None or others == elsewhere():
                break
        else:
            raise ValueError(
                f"{type(self.module).__name__} draws random numbers by Python's random or numpy.random, so that no two fits would be the"
                " same; draw them by PyTorch, torch.rand(()) for instance"
            )
        self._draws = bool(self._draws is False or draws.drew)
        return raw

    def _train(self, training: bool, n_rows: int) -> None:
        """Set the mode of all layers, which dropout and statistics go by. Frozen statistics stay, and all of them where there is a single
        row, which has no variance."""
        mode = (training, training and n_rows == 1)
        if mode != self._mode:
            self.module.train(training)
            for layer in self._norms.values() if n_rows == 1 else self._frozen_norms:
                layer.eval()
            self._mode = mode

    def _unknown_buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Buffers that are not those of the layout, nor counts of batches, which nothing hangs on."""
        for name, buffer in self.module.named_buffers():
            if name not in self._tensors and not name.endswith("num_batches_tracked"):
                yield name, buffer

    def _require_unchanged(self) -> None:
        """Raise ValueError where a training pass has changed a buffer that is no running statistic; looked at once."""
        changed = [name for name, buffer in self._unknown_buffers() if not same(buffer, self._others[name])]
        if changed:
            raise ValueError(
                f"{type(self.module).__name__} changes its buffer {changed[0]!r} while it trains; only the running statistics of batch"
                " normalisation are kept from round to round: make it a parameter, or leave it as it is"
            )
        self._others = {}


class Draws(TorchDispatchMode):
    """All random numbers that PyTorch draws here, by one stream of the counters: the same on whichever thread. Without counters there must
    be none. drew: whether there were some."""

    def __init__(self, device: torch.device, counters: Sequence[int] = ()) -> None:
        super().__init__()
        self._counters, self._device = counters, device
        self._generator: torch.Generator | None = None
        self.drew = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or not may_drop(func, args, kwargs):
            return func(*args, **kwargs)
        if not self._counters:
            raise ValueError(
                "the module draws random numbers again on its way back, as torch.utils.checkpoint does around dropout, and these would be"
                " others than before; leave that out: micro_batch_size saves memory, too"
            )
        self.drew = True
        if func is torch.ops.aten.native_dropout.default:
            return self._dropout(*args, **kwargs)
        return with_generator(func)(*args, **{**kwargs, "generator": self._stream})

    @property
    def _stream(self) -> torch.Generator:
        if self._generator is None:
            seed, *counters = self._counters
            self._generator = torch.Generator(self._device)
            self._generator.manual_seed(int(generator(seed, "module", *counters).integers(2**63 - 1)))
        return self._generator

    def _dropout(self, rows: torch.Tensor, p: float, train: bool | None = True) -> tuple[torch.Tensor, torch.Tensor]:
        """What native_dropout computes on devices, which takes no stream: the rows that are left, and which those are."""
        kept = torch.empty_like(rows, dtype=torch.float32).uniform_(generator=self._stream) >= (p if train else 0.0)
        return rows * kept * (1.0 / (1.0 - p) if train and p < 1.0 else 1.0), kept


def may_drop(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation draws random numbers: attention does so with dropout alone."""
    names = [argument.name for argument in func._schema.arguments]
    if "dropout_p" not in names:
        return True
    place = names.index("dropout_p")
    return bool(args[place] if place < len(args) else kwargs.get("dropout_p", 0.0))


def with_generator(func: Any) -> Any:
    """The overload of an operation that takes a stream of random numbers. Raises ValueError for one that has none."""
    overloads = [func, *(getattr(func.overloadpacket, name) for name in func.overloadpacket.overloads())]
    wanted = {argument.name for argument in func._schema.arguments}
    for overload in overloads:
        names = {argument.name for argument in overload._schema.arguments}
        if "generator" in names and wanted <= names:
            return overload
    raise ValueError(
        f"the module draws random numbers by {func}, which takes no stream of its own, so that no two fits would be the same; use"
        " torch.nn.Dropout or torch.bernoulli"
    )


def streams(device: torch.device) -> list[torch.Tensor]:
    """Where the process's own streams of random numbers are, on the CPU and on this device."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else ())]


def elsewhere() -> str:
    """Where Python's and NumPy's own streams of random numbers are."""
    return f"{random.getstate()} {np.random.get_state(legacy=False)}"  # noqa: NPY002  it is the one that users draw from


def same(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors hold the same numbers, also where these are NaN."""
    return torch.equal(tensor.isnan(), other.isnan()) and torch.equal(tensor.nan_to_num(), other.nan_to_num())


def norms(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers that keep running statistics, by the prefix of their names."""
    for name, layer in module.named_modules():
        if isinstance(layer, _NormBase) and layer.track_running_stats and layer.running_mean is not None:
            yield f"{name}." if name else "", layer


def tensor_of(array: Any) -> torch.Tensor:
    """An array of any namespace as a tensor of the same memory; a copy, where that must not be written to. Raises ValueError for one on a
    device that PyTorch cannot read."""
    if isinstance(array, torch.Tensor):
        return array
    if isinstance(array, np.ndarray):
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    try:
        return torch.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"PyTorch cannot read {type(array).__name__} rows where they are: {error}; leave device= out, or use 'torch:...'"
        ) from error


@contextmanager
def undisturbed(device: str = "cpu") -> Iterator[None]:
    """PyTorch as it is in a fresh thread, but on one thread: two give other bits, and others of ours have the other cores. What the user
    has set around a fit, `torch.inference_mode` or `torch.autocast`, would be in this thread alone."""
    with torch.inference_mode(False), torch.autocast(device, torch.bfloat16, enabled=False), single_torch_thread():
        yield


@contextmanager
def single_torch_thread() -> Iterator[None]:
    """PyTorch on one thread in this thread."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def copied(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of a module. Raises TypeError for one that cannot be copied."""
    try:
        with undisturbed():
            return copy.deepcopy(module)
    except (TypeError, RuntimeError) as error:
        raise TypeError(
            f"{type(module).__name__} cannot be copied, and each thread and worker has a copy: {error}; make locks, files and the like in"
            " forward, leave them out of __getstate__, or take torch.nn.utils.parametrizations in place of torch.nn.utils.weight_norm"
        ) from error


def as_dtype(module: torch.nn.Module, dtype: str) -> torch.nn.Module:
    """The module, its parameters and buffers of that dtype where they are no whole numbers."""
    return module.to(dtype=getattr(torch, dtype))


def device_beside(X: Any) -> torch.device:
    """The device that rows live on."""
    if isinstance(X, np.ndarray | sp.csr_array):
        return torch.device("cpu")
    return tensor_of(X).device


def is_uninitialised(parameter: Any) -> bool:
    """Whether a parameter's shape follows from the first rows, which have not come yet."""
    return isinstance(parameter, torch.nn.parameter.UninitializedTensorMixin)


def without(module: torch.nn.Module, names: Set[str]) -> torch.nn.Module:
    """A copy of a module, for workers, without the numbers of these parameters and statistics. Raises TypeError for what cannot travel."""
    found = copy.deepcopy(module)
    for layer in found.modules():
        if isinstance(layer, torch.jit.ScriptModule):
            raise TypeError(f"{type(module).__name__} is compiled by torch.jit and cannot travel to workers; give what it was made from")
        if parametrize.is_parametrized(layer):
            copyreg.pickle(type(layer), parametrized)
    for name, parameter in found.named_parameters():
        if name in names:
            parameter.data = torch.empty(0, dtype=parameter.dtype)
            parameter.grad = None
    for name, layer in norms(found):
        for statistic in STATISTICS:
            if f"{name}{statistic}" in names:
                layer._buffers[statistic] = torch.empty(0)
    return found


def parametrized(layer: Any) -> tuple[Any, ...]:
    """The pickle of a layer with parametrizations, which PyTorch copies, but does not pickle."""
    return with_parametrizations, (parametrize.type_before_parametrizations(layer), dict(vars(layer)))


def with_parametrizations(kind: Any, state: Mapping[str, Any]) -> Any:
    """The layer of such a pickle."""
    layer = kind.__new__(kind)
    vars(layer).update(state)
    parametrize._inject_new_class(layer)
    for name in layer.parametrizations:
        parametrize._inject_property(layer, name)
    return layer
