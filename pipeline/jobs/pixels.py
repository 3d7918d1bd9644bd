"""The pixels of the two photographs that scikit-learn brings along, as a directory of files: which photograph is a pixel from?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from sklearn.datasets import load_sample_image

from pipeline.files.whole import write_beside
from pipeline.jobs import Format
from tasks.typing import Array

PHOTOGRAPHS: Final = ("china", "flower")
ROWS: Final = ("above", "level", "below")
COLUMNS: Final = ("left", "centre", "right")
COLOURS: Final = ("red", "green", "blue")
MAX_PARTS: Final = 25


def make_pixels(directory: Path, file_format: Format = "parquet", every: int = 1) -> tuple[int, int]:
    """Write part-000.parquet (or .csv) and so on, about 25 files a photograph, and return (files, rows).

    A row is a pixel: column `photograph`, then red, green and blue (0 to 255) of the 3 x 3 pixels around it, 27 columns. Each file holds
    pixels of one photograph only, so no file has both labels. every: only each such line of pixels; 1 makes 542,300 rows.
    Raises ValueError for every < 1, and for a directory that has files of another make, which the new ones would mix with.
    """
    if every < 1:
        raise ValueError(f"--every must be at least 1, got {every}")
    frames = list(pixel_frames(every))
    paths = [directory / f"part-{i:03}.{file_format}" for i in range(len(frames))]
    others = {path for path in directory.glob("[!.]*") if path not in paths}
    if others:
        raise ValueError(
            f"{directory} has other files in it, {min(others).name} for one; give a directory of its own with --out, or empty it"
        )
    directory.mkdir(parents=True, exist_ok=True)
    for path, frame in zip(paths, frames, strict=True):
        with write_beside(path) as beside:
            frame.to_parquet(beside, index=False) if file_format == "parquet" else frame.to_csv(beside, index=False)
    return len(paths), sum(map(len, frames))


def pixel_frames(every: int) -> Iterator[pd.DataFrame]:
    """The rows of each file."""
    names = [f"{row}_{column}_{colour}" for row in ROWS for column in COLUMNS for colour in COLOURS]
    for photograph in PHOTOGRAPHS:
        image = load_sample_image(f"{photograph}.jpg")
        lines = np.arange(1, image.shape[0] - 1, every)
        for part in np.array_split(lines, min(MAX_PARTS, len(lines))):
            frame = pd.DataFrame(neighbourhoods(image, part), columns=names)
            frame.insert(0, "photograph", photograph)
            yield frame


def neighbourhoods(image: Array, lines: Array) -> Array:
    """The 3 x 3 pixels around every inner pixel of these lines of an image (height, width, 3): (pixels, 27) uint8."""
    width = image.shape[1]
    shifted = [image[lines + down, 1 + right : width - 1 + right] for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return np.concatenate(shifted, axis=2).reshape(-1, 27)
