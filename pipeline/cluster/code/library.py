"""Whether the `tasks` imported here is this library's. Imports nothing that could fail before it can say so."""

from __future__ import annotations

import tasks


class VersionMismatchError(RuntimeError):
    """The `tasks` package here or on a worker is not this library's, or another version of it."""


def check_tasks_here() -> None:
    """Raise VersionMismatchError when `tasks` is somebody else's module, a tasks.py beside the notebook for instance."""
    if vars(tasks).get("DISTRIBUTION") != "dask-descent":
        place = vars(tasks).get("__file__", "somewhere")
        raise VersionMismatchError(
            f"`import tasks` found {place}, which is not dask-descent's package; rename that file, or start Python in another directory"
        )
