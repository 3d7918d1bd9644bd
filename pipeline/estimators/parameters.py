"""The parameters of estimators, each declared once: a field with its type, what scikit-learn checks, and its default.

    @with_parameters
    class RidgeParameters:
        alpha: Annotated[Any, Interval(Real, 0, None, closed="left"), "array-like"] = 1.0
        _: KW_ONLY
        fit_intercept: Flag = True

    class Ridge(RidgeParameters, LeastSquares): ...

The constructor follows from the fields, and so do `_parameter_constraints`, which scikit-learn checks, and `_refused`. Type checkers and
editors see a dataclass. It is none: Dask takes those apart by their fields, and would forget what a model has learned. The fields stand in
a class of their own, because mypy lets a dataclass take any argument when it does not know all its bases, such as scikit-learn's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY
from inspect import get_annotations
from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias, TypeVar, dataclass_transform, get_args, get_origin

from sklearn.utils._param_validation import Interval, StrOptions

from pipeline.training.checkpoints.keeper import Checkpoint
from tasks.strategies.asynchronous import ORDERS
from tasks.strategies.compressed import COMPRESSIONS, Compression


class Only(NamedTuple):
    """The values that mean nothing special, of a parameter that is there for scikit-learn's signature, and the cure for all others."""

    values: tuple[Any, ...]
    cure: str


class Before(NamedTuple):
    """The place of a keyword in the signature: before another one, of a base class."""

    name: str


Flag: TypeAlias = Annotated[bool, "boolean"]
Whole: TypeAlias = Annotated[int, Interval(Integral, 0, None, closed="left")]
Count: TypeAlias = Annotated[int, Interval(Integral, 1, None, closed="left")]
NotNegative: TypeAlias = Annotated[float, Interval(Real, 0, None, closed="left")]
Positive: TypeAlias = Annotated[float, Interval(Real, 0, None, closed="neither")]
Share: TypeAlias = Annotated[float, Interval(Real, 0, 1, closed="both")]
BelowOne: TypeAlias = Annotated[float, Interval(Real, 0, 1, closed="left")]
RandomState: TypeAlias = Annotated[Any, "random_state"]
ClassWeight: TypeAlias = Annotated[Any, dict, StrOptions({"balanced"}), None]
Saving: TypeAlias = Annotated[Any, str, Path, Checkpoint, None]
"""Where a fit keeps its checkpoints: see `Checkpoint.of`."""
Compressing: TypeAlias = Annotated[Any, StrOptions(set(COMPRESSIONS)), Compression, None]
"""How what travels is made small: see `tasks.strategies.compressed`."""
ResultOrder: TypeAlias = Annotated[str, StrOptions(set(ORDERS))]
"""In which order asynchronous results are taken: see `tasks.strategies.asynchronous.Overlap`."""
Verbose: TypeAlias = Annotated[int, "verbose", Only((0, False), "use set_callbacks(sklearn.callback.ProgressBar())")]
Threads: TypeAlias = Annotated[
    int | None,
    None,
    Integral,
    Only(
        (None,),
        "leave it None; a fit in this process uses the threads that Dask would, limited by dask.config.set(num_workers=...),"
        " or by the environment variable DASK_NUM_WORKERS, which child processes, joblib's for instance, read, too;"
        " for processes connect(n_workers=...)",
    ),
]


class Parameter(NamedTuple):
    """A parameter as its field declares it. constraints: scikit-learn's, a list or "no_validation"."""

    annotation: Any
    default: Any
    positional: bool
    constraints: Any
    only: Only | None


AnyClass = TypeVar("AnyClass")


@dataclass_transform(eq_default=False)
def with_parameters(cls: type[AnyClass]) -> type[AnyClass]:
    """Make the constructor of a class NameParameters, as Name's, and what its parameters may be, from its fields and those of its bases, in
    the order of dataclasses.

    A field is what is annotated, a `ClassVar` apart; a type without constraints must be Any, and is not checked.
    """
    found: dict[str, Parameter] = {}
    for base in reversed(cls.__mro__[1:]):
        found |= vars(base).get("_parameters", {})
    for name, parameter, before in _own(cls):
        found = _placed(found, name, parameter, before)
    made: Any = cls
    made.__init__ = _constructor(cls, found)
    made._parameters = found
    made._parameter_constraints = {name: parameter.constraints for name, parameter in found.items()}
    made._refused = {name: parameter.only for name, parameter in found.items() if parameter.only is not None}
    return cls


def _own(cls: type) -> Iterator[tuple[str, Parameter, Before | None]]:
    """The parameters that the class itself declares, and their places; their defaults leave the class: they are the constructor's."""
    positional = True
    for name, hint in get_annotations(cls, eval_str=True).items():
        origin: Any = get_origin(hint)
        if hint is KW_ONLY:
            positional = False
        elif origin is not ClassVar:
            if name not in vars(cls):
                raise TypeError(f"{cls.__name__}.{name} is a parameter without a default; give it one, {name}: ... = None for instance")
            annotation, notes = _parts(hint)
            constraints = [note for note in notes if not isinstance(note, Only | Before)]
            if not constraints and annotation is not Any:
                raise TypeError(f"{cls.__name__}.{name} has no constraints; annotate it, {name}: NotNegative for instance, or with Any")
            only = next((note for note in notes if isinstance(note, Only)), None)
            parameter = Parameter(annotation, vars(cls)[name], positional, constraints or "no_validation", only)
            delattr(cls, name)
            yield name, parameter, next((note for note in notes if isinstance(note, Before)), None)


def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type, and what is noted beside it, of Annotated[type, ...], Annotated[type, ...] | None, or a type alone."""
    if get_origin(hint) is Annotated:
        annotation, *beside = get_args(hint)
        return annotation, tuple(beside)
    inner = [arg for arg in get_args(hint) if arg is not NoneType]
    if len(inner) == 1 and get_origin(inner[0]) is Annotated:
        annotation, notes = _parts(inner[0])
        return annotation | None, (*notes, None)
    return hint, ()


def _placed(found: Mapping[str, Parameter], name: str, parameter: Parameter, before: Before | None) -> dict[str, Parameter]:
    """All parameters with another one: last, where it was when a base class has it, or before the one that it names."""
    if before is None:
        return {**found, name: parameter}
    others = [item for item in found.items() if item[0] != name]
    place = [other for other, _ in others].index(before.name)
    return dict([*others[:place], (name, parameter), *others[place:]])


def _constructor(cls: type, found: Mapping[str, Parameter]) -> Callable[..., None]:
    """A function that keeps each parameter as it is given. Made from its text, as those of dataclasses are: so its errors, its speed and
    `help` are those of one that is written by hand."""
    positional = [name for name, parameter in found.items() if parameter.positional]
    keywords = [name for name, parameter in found.items() if not parameter.positional]
    arguments = ", ".join(["self", *positional, *(["*", *keywords] if keywords else [])])
    made: dict[str, Any] = {}
    exec(f"def __init__({arguments}):" + "".join(f"\n    self.{name} = {name}" for name in found), vars(sys.modules[cls.__module__]), made)
    constructor = made["__init__"]
    constructor.__defaults__ = tuple(found[name].default for name in positional)
    constructor.__kwdefaults__ = {name: found[name].default for name in keywords}
    constructor.__annotations__ = {name: found[name].annotation for name in (*positional, *keywords)} | {"return": None}
    constructor.__qualname__ = f"{cls.__qualname__.removesuffix('Parameters')}.__init__"  # which errors name
    init: Callable[..., None] = constructor
    return init
