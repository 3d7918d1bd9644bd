"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_beside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` at once when the block ends, and goes when the block fails."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes | str) -> None:
    """Write content (text as UTF-8) to `path`, or leave what was there."""
    with write_beside(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
