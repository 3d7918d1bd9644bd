"""The packages that this library needs, and those of its extras."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.metadata import Distribution, PackageNotFoundError, distribution, requires
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import tasks
from pipeline.diagnosis.findings import Item

MODULES: Final = {"scikit-learn": "sklearn"}
"""What is imported where it has another name than its distribution."""


def requirements() -> Mapping[str, list[str]]:
    """What each extra requires, and "" what the library itself does, each as pip writes it; {} where it is not installed."""
    found: dict[str, list[str]] = defaultdict(list)
    if installed(tasks.DISTRIBUTION) is not None:
        for line in requires(tasks.DISTRIBUTION) or ():
            extra = re.search(r"""extra == ["']([\w-]+)""", line)
            found[extra[1] if extra else ""].append(line)
    return found


def installed(name: str) -> Distribution | None:
    """The distribution of this name; None where there is none."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def name_of(requirement: str) -> str:
    """The name of the distribution."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def spelled(requirement: str) -> str:
    """The requirement as pip takes it on a command line, without its marker."""
    return f"'{requirement.partition(';')[0].strip()}'"


def wanted(requirement: str) -> bool:
    """Whether the requirement is one on this platform."""
    from packaging.requirements import Requirement

    parsed = Requirement(requirement)
    extra = re.search(r"""extra == ["']([\w-]+)""", requirement)
    return parsed.marker is None or parsed.marker.evaluate({"extra": extra[1] if extra else ""})


def fits(requirement: str, version: str) -> bool:
    """Whether it is met by this version."""
    from packaging.requirements import Requirement

    return Requirement(requirement).specifier.contains(version, prereleases=True)


def library() -> Iterator[Item]:
    """This library."""
    place = Path(tasks.__file__).parents[1]
    found = f"{tasks.__version__} in {place}"
    if installed(tasks.DISTRIBUTION) is None:
        cure = f"python -m pip install -e {place}"
        yield Item("missing", tasks.DISTRIBUTION, f"{found}, but not installed: the packages that it needs are not known", cure)
    else:
        yield Item("ok", tasks.DISTRIBUTION, found)


def package(requirement: str) -> Iterator[Item]:
    """A package that is needed: its version, and whether it can be imported."""
    name, there = name_of(requirement), installed(name_of(requirement))
    cure = f"python -m pip install {spelled(requirement)}"
    if there is None:
        yield Item("missing", name, "not installed", cure)
        return
    module = MODULES.get(name, name.replace("-", "_"))
    if (other := in_its_place(there, module)) is not None:
        cure = "rename that, or take its folder out of PYTHONPATH, or start Python in another directory"
        yield Item("broken", name, f"{there.version}, but `import {module}` finds {other}", cure)
    elif not fits(requirement, there.version):
        yield Item("broken", name, f"{there.version}, and this library needs {spelled(requirement)}", cure)
    else:
        import_module(module)
        yield Item("ok", name, there.version)


def in_its_place(there: Distribution, module: str) -> Path | None:
    """The file that an import of the module finds in place of the distribution's; None for its own, and where that is not known."""
    own = (f"{module}/__init__.py", f"{module}.py")
    files = {Path(str(there.locate_file(file))).resolve() for file in there.files or () if str(file) in own}
    spec = find_spec(module)
    found = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
    return None if not files or found in files else found


def extra(name: str, needs: Sequence[str]) -> Iterator[Item]:
    """Whether an extra's packages are there."""
    there, lacking = [], []
    for requirement in filter(wanted, needs):
        package, found = name_of(requirement), installed(name_of(requirement))
        if found is not None and fits(requirement, found.version):
            there.append(f"{package} {found.version}")
        else:
            lacking.append(package if found is None else f"{package} (there is {found.version})")
    if lacking:
        cure = f"python -m pip install '{tasks.DISTRIBUTION}[{name}]' if you want it"
        yield Item("missing", f"extra {name}", f"without {', '.join(lacking)}", cure)
    else:
        yield Item("ok", f"extra {name}", ", ".join(there) or "nothing on this platform")
