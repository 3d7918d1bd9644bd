"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tasks.lazy import Lazy

if TYPE_CHECKING:
    import psutil
else:
    psutil = Lazy("psutil")

NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
HOST: Final = socket.gethostname()
LONG_AGO: Final = 86_400.0
"""The seconds after which a file is left over: nothing takes so long to write."""


@contextmanager
def write_beside(path: Path, spare: Path | None = None, size: int = 0) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` at once when the block ends, and goes when the block fails. spare: a
    file that nobody needs any more; what is written, of that size, goes over it, which costs less than new pages, if nothing speaks
    against that.

    Raises OSError, naming `path`, when it cannot be written.
    """
    beside = beside_name(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory", str(path))
        if spare is not None and can_be_written_over(spare, size):
            with suppress(FileNotFoundError):  # another fit of the same problem may have removed it
                spare.replace(beside)
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        if beside.name in str(error) or error.errno in NO_SPACE:
            reason = os.strerror(error.errno) if error.errno else str(error).replace(beside.name, path.name)
            raise type(error)(error.errno, f"cannot write {path}: {reason}") from error
        raise
    finally:
        with suppress(OSError):
            beside.unlink()


def beside_name(path: Path) -> Path:
    """A path beside this one, hidden, and this thread's alone."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}@{HOST}.tmp")


def can_be_written_over(path: Path, size: int) -> bool:
    """Whether writing over the file harms nobody: a file with another name, or what a link leads to, may be somebody's copy, and to cut one
    off ends a process that has it mapped to read it."""
    with suppress(FileNotFoundError):
        found = path.lstat()
        return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_size <= size and os.access(path, os.W_OK)
    return False


def remove_leftovers(directory: Path, stem: str) -> None:
    """Remove what processes that are no more had begun to write beside files whose names begin with stem: those of this machine, and what
    lies there since long ago, for the directory may be shared."""
    for path in directory.glob(f".{stem}*.tmp"):
        found = re.search(r"\.(\d+)-\d+@(.+)\.tmp$", path.name)
        with suppress(OSError):  # gone already, or in a directory where only its owner may remove it
            if found and (path.stat().st_mtime < time.time() - LONG_AGO if found[2] != HOST else not psutil.pid_exists(int(found[1]))):
                path.unlink()


def sync_directory(directory: Path) -> None:
    """Have the names in a directory, too, outlive a crash of the machine, where the system can do that."""
    with suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace_file(path: Path, content: bytes | str) -> None:
    """Write content (text as UTF-8) to `path`, or leave what was there."""
    with write_beside(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
