"""Files that a running fit adds lines to."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from pipeline.files.whole import replace_file


class LineFile:
    """A file of the given text, and of lines that are there as soon as they are added.

    No fit ends for it: a file that cannot be written, on a full disk for instance, goes, with one warning that says what is lost.
    """

    def __init__(self, path: Path, text: str, lost: str) -> None:
        self._path, self._lost = path, lost
        self._file: TextIO | None = None
        try:
            replace_file(path, text)
            self._file = path.open("a", buffering=1)
        except OSError as error:
            self._give_up(error)

    def add(self, line: str) -> None:
        """Add a line, given with its end."""
        if self._file is not None:
            try:
                self._file.write(line)
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        """Close the file; the lines that were added stay."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # closing writes again what could not be written
                file.close()

    def _give_up(self, error: OSError) -> None:
        self.close()
        with suppress(OSError):
            self._path.unlink()
        warnings.warn(f"{self._lost}: {self._path} cannot be written: {error.strerror or error}", stacklevel=3)
