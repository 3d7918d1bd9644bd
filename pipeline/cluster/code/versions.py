"""Whether workers have the packages that results depend on, in versions that give the same."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from distributed.versions import get_package_info

from pipeline.cluster.code.library import VersionMismatchError

COMPARED: Final = ("python", "dask", "distributed", "numpy", "scipy", "numba")
"""A difference in the first two numbers is an error: what is sent does not arrive (python, dask, distributed), or gives other bits."""
NEEDED: Final = ("cloudpickle", "llvmlite", "psutil", "threadpoolctl")
"""Must be there, in any version: `tasks` imports them wherever it runs. What only some fits need, `require_packages` looks for."""

COMPARED_IN_USE: Final = ("torch",)
"""A difference in the first two numbers is an error for data and models that use these, and of no interest to all others."""

PACKAGES: Final = (*COMPARED[1:], *NEEDED)
"""The packages that workers are asked for; their answer has python's version, too."""

Packages = Mapping[str, str | None]


def compare_versions(there: Mapping[str, Packages]) -> None:
    """Compare what workers have, by address, with this process.

    Raises VersionMismatchError with the list of what differs or is missing; warns of differences beyond the second number.
    """
    here: Packages = get_package_info(PACKAGES)
    fatal, slight = differences(here, there)
    if fatal:
        raise VersionMismatchError(
            "workers have other packages than this process:\n  " + "\n  ".join(fatal) + "\ninstall the same versions on both"
        )
    if slight:
        warnings.warn(f"results may differ in their last digits: {'; '.join(slight)}", stacklevel=2)


def differences(here: Packages, there: Mapping[str, Packages]) -> tuple[list[str], list[str]]:
    """Lines about what cannot work, and about what may differ slightly; workers with the same version share one."""
    fatal, slight = [], []
    for package in (*COMPARED, *NEEDED):
        by_version: dict[str | None, list[str]] = defaultdict(list)
        for worker, packages in there.items():
            by_version[packages.get(package)].append(worker)
        for version, workers in by_version.items():
            line = f"{package} {short(here.get(package))} here, {short(version)} on {some(workers)}"
            if version is None or (package in COMPARED and release(version) != release(here.get(package))):
                fatal.append(line)
            elif package in COMPARED and version != here.get(package):
                slight.append(line)
    return fatal, slight


def release(version: str | None) -> list[str]:
    """The first two numbers of a version."""
    return (version or "").split(".")[:2]


def short(version: str | None) -> str:
    """A version as users know it: Python's comes with its release level."""
    return "missing" if version is None else version.replace(".final.0", "")


def some(workers: Sequence[str]) -> str:
    """A few addresses, and how many more."""
    return ", ".join(workers[:3]) + (f" and {len(workers) - 3} more" if len(workers) > 3 else "")
