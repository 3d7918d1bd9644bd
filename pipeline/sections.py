"""The sections of a job file: dataclasses whose fields carry rules, and TOML in and out."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Annotated, Any, ClassVar, Self, TypeAlias, TypeVar, get_args, get_type_hints


class ConfigError(ValueError):
    """A job that cannot run as it is written: the message names the key, what it needs, and the nearest right name."""


@dataclass(frozen=True)
class Rule:
    """needs: what the value must be, for the message; holds: whether it is."""

    needs: str
    holds: Callable[[Any], bool]


def is_whole(value: Any) -> bool:
    """Whether it is an integer; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is an integer or a float."""
    return is_whole(value) or isinstance(value, float)


def is_text(value: Any) -> bool:
    """Whether it is a string with something in it."""
    return isinstance(value, str) and value != ""


def is_list(value: Any, each: Callable[[Any], bool]) -> bool:
    """Whether it is a list, read as a tuple, with something in it, and `each` holds for every item."""
    return isinstance(value, tuple) and len(value) > 0 and all(map(each, value))


def one_of(*names: str) -> Rule:
    """The rule that the value is one of these names."""
    return Rule(f"one of {', '.join(map(repr, names))}", lambda value: value in names)


Text: TypeAlias = Annotated[str, Rule("a string", is_text)]
Texts: TypeAlias = Annotated[tuple[str, ...], Rule("a list of strings", lambda value: is_list(value, is_text))]
Paths: TypeAlias = Annotated[
    str | tuple[str, ...], Rule("a path, a glob, or a list of them", lambda value: is_text(value) or is_list(value, is_text))
]
Whole: TypeAlias = Annotated[int, Rule("a whole number of at least 0", lambda value: is_whole(value) and value >= 0)]
Count: TypeAlias = Annotated[int, Rule("a whole number of at least 1", lambda value: is_whole(value) and value >= 1)]
Counts: TypeAlias = Annotated[
    tuple[int, ...],
    Rule("a list of whole numbers of at least 0", lambda value: is_list(value, lambda n: is_whole(n) and n >= 0)),
]
Flag: TypeAlias = Annotated[bool, Rule("true or false", lambda value: isinstance(value, bool))]
Share: TypeAlias = Annotated[float, Rule("a number of at least 0 and below 1", lambda value: is_number(value) and 0 <= value < 1)]
Seconds: TypeAlias = Annotated[float, Rule("a number of seconds above 0", lambda value: is_number(value) and value > 0)]
Table: TypeAlias = Annotated[Mapping[str, Any], Rule("a table of keys", lambda value: isinstance(value, Mapping))]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of a job: every field's annotation holds a `Rule`, which is checked when the section is built; lists become tuples.

    title: its name in the file; kind: which of the alternatives of that name it is, if there are several.
    """

    title: ClassVar[str]
    kind: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        for key, rule in rules(type(self)).items():
            value = vars(self)[key]
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, key, value)
            if value is None and _default(_field(self, key)) is None:
                continue
            if not rule.holds(value):
                shown = list(value) if isinstance(value, tuple) else value
                raise ConfigError(f"[{self.title}] {key} must be {rule.needs}, got {shown!r}")

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> Self:
        """From the section's table. Raises ConfigError for keys that are unknown, missing, or of the wrong type."""
        known = rules(cls)
        place = f"[{cls.title}]" + (f' with kind = "{cls.kind}"' if cls.kind else "")
        for key in table:
            if key not in known:
                raise unknown(key, known, place, "keys")
        for key, rule in known.items():
            if key not in table and _default(_field(cls, key)) is MISSING:
                raise ConfigError(f"{place} needs {key}, {rule.needs}")
        return cls(**table)

    def table(self) -> dict[str, Any]:
        """What `read` takes, with the kind; None is left out."""
        values = {key: value for key, value in ((f.name, vars(self)[f.name]) for f in fields(self)) if value is not None}
        return values if self.kind is None else {"kind": self.kind, **values}


AnySection = TypeVar("AnySection", bound=Section)


def rules(section: type[Section]) -> dict[str, Rule]:
    """The rule of each field."""
    hints = get_type_hints(section, include_extras=True)
    return {f.name: _rule(hints[f.name]) for f in fields(section)}


def _rule(hint: Any) -> Rule:
    """The rule inside Annotated[..., rule] or Annotated[..., rule] | None."""
    found = [arg for arg in (*get_args(hint), *(inner for arg in get_args(hint) for inner in get_args(arg))) if isinstance(arg, Rule)]
    assert len(found) == 1, hint
    return found[0]


def _field(section: Section | type[Section], name: str) -> Field[Any]:
    return next(f for f in fields(section) if f.name == name)


def _default(f: Field[Any]) -> Any:
    return f.default if f.default_factory is MISSING else f.default_factory()


def read_kind(title: str, kinds: Mapping[str, type[AnySection]], table: Mapping[str, Any]) -> AnySection:
    """The section of the table's `kind`."""
    if "kind" not in table:
        raise ConfigError(f"[{title}] needs kind, one of {', '.join(map(repr, kinds))}")
    kind = table["kind"]
    if not isinstance(kind, str) or kind not in kinds:
        raise unknown(kind, kinds, f"[{title}] kind", "kinds")
    return kinds[kind].read({key: value for key, value in table.items() if key != "kind"})


def unknown(name: Any, names: Iterable[str], place: str, what: str, addition: str = "") -> ConfigError:
    """The error for a name that is not one of `names`, with the nearest of them."""
    known = list(names)
    folded = {each.casefold(): each for each in known}
    nearest = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=0.5)
    guess = f"did you mean {folded[nearest[0]]!r}? " if nearest else ""
    return ConfigError(f"{place}: {name!r} is not known; {guess}the {what} are {', '.join(map(repr, known))}{addition}")


# -- TOML ----------------------------------------------------------------------------------------------------------------------------


def plain_value(text: str) -> Any:
    """Text that reads as a TOML number, boolean, list or quoted string as that, any other text as it is."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 and isinstance(table["value"], str | bool | int | float | list) else text


def to_toml(table: Mapping[str, Any]) -> str:
    """A table of values and of sections as TOML text; tables inside sections are written inline."""
    lines = [f"{_key(key)} = {_value(value)}" for key, value in table.items() if not isinstance(value, Mapping)]
    for key, section in table.items():
        if isinstance(section, Mapping):
            lines += ["", f"[{_key(key)}]", *(f"{_key(k)} = {_value(v)}" for k, v in section.items())]
    return "\n".join(lines) + "\n"


def _key(key: str) -> str:
    return key if key.isascii() and key.replace("_", "a").replace("-", "a").isalnum() else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str):  # TOML's basic strings are JSON's, but for DEL, and without surrogate pairs
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
