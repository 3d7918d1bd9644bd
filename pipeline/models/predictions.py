"""Predictions for the rows of CSV and Parquet files, in memory of a few partitions whatever the files' size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from dask.base import compute
from dask.delayed import delayed
from sklearn.base import ClassifierMixin

from pipeline.data import readers
from pipeline.data.collections import first_file
from pipeline.estimators.base import GradientModel
from pipeline.execution.threads import default_threads
from pipeline.files.whole import write_beside
from pipeline.sources.locations import frame_locations
from pipeline.training.progress import RoundProgress
from tasks.loading.blocks import as_design
from tasks.loading.quarantine import text_of
from tasks.rows.frames import holds_numbers

Format = Literal["csv", "parquet"]
SUFFIXES: Final[dict[str, Format]] = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}


def predict_files(
    model: GradientModel, data: Sequence[str], out: Path, keep: Sequence[str] = (), progress: RoundProgress | None = None
) -> int:
    """Predict the rows of `data` (paths, directories or globs, CSV or Parquet) into the file `out` (.csv or .parquet); returns how many.

    Columns: those of `keep`, copied from the data; prediction (prediction_0, ... for several targets); and for classifiers
    probability_LABEL for each class. Features are found by name, in any order and among others; a model that was fitted without names takes
    all columns but those of `keep`, in order. Partitions are read, predicted and written a few at a time, in order.

    Raises FileNotFoundError for data that is not there, ValueError for other formats, for columns that are missing or not numbers, and,
    naming partition, row and column, for values that are not finite.
    """
    out_format = file_format(out.name)
    frame = read_frame(data)
    features = feature_columns(model, frame, keep)
    pieces = frame[[*keep, *(name for name in features if name not in keep)]].to_delayed()
    held = delayed(model)
    predict = delayed(predict_partition)
    tasks = [predict(held, piece, i, features, list(keep)) for i, piece in enumerate(pieces)]
    progress = progress or RoundProgress(quiet=True)
    progress.step("predict", total=len(tasks))
    n_rows = 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {out}: {out.parent} cannot be made: {error.strerror}") from error
    with write_beside(out) as beside, WRITERS[out_format](beside) as write:
        for predictions in computed(tasks, frame):
            if predictions is not None:
                write(predictions)
                n_rows += len(predictions)
            progress.advance(f"{n_rows} rows")
        if n_rows == 0:
            raise ValueError(f"{', '.join(data)}: the data has no rows")
    return n_rows


def file_format(name: str) -> Format:
    """The format that a file name means."""
    suffix = Path(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{name}: cannot tell its format; file names end in {', '.join(SUFFIXES)}")
    return SUFFIXES[suffix]


def read_frame(data: Sequence[str]) -> Any:
    """The files as one lazy Dask frame."""
    paths: list[str] = []
    for item in data:
        directory = Path(item)
        inside = sorted(str(path) for path in directory.iterdir() if path.suffix in SUFFIXES) if directory.is_dir() else []
        paths += inside or readers.expand(item)
    formats = {file_format(path) for path in paths}
    if len(formats) > 1:
        raise ValueError(f"the data has CSV and Parquet files, {paths[0]} and {paths[-1]} among them; give one format at a time")
    return readers.read_csv(paths) if formats == {"csv"} else readers.read_parquet(paths)


def feature_columns(model: GradientModel, frame: Any, keep: Sequence[str]) -> list[str]:
    """The model's columns, in its order. Raises ValueError for those that are missing or not numbers."""
    there = list(map(str, frame.columns))
    named = vars(model).get("feature_names_in_")
    features = [name for name in there if name not in keep] if named is None else list(map(str, named))
    missing = [name for name in [*features, *keep] if name not in there]
    if missing:
        raise ValueError(f"the data lacks {len(missing)} column(s), {listed(missing)}; it has {listed(there)}")
    if len(features) != model.n_features_in_:
        raise ValueError(
            f"the model was fitted on {model.n_features_in_} columns without names, but the data has {len(features)}, {listed(features)}"
        )
    text = [name for name in features if not holds_numbers(frame.dtypes[name])]
    if text:
        file = first_file(frame)
        raise ValueError(f"{file}column {text[0]!r} has dtype {frame.dtypes[text[0]]}, not numbers; encode it as it was for the fit")
    return features


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(map(repr, names[:8]))
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def predict_partition(
    model: GradientModel, frame: pd.DataFrame, partition: int, features: Sequence[str], keep: Sequence[str]
) -> pd.DataFrame | None:
    """The predictions of one partition, as `predict_files` writes them; None for a partition without rows."""
    if not len(frame):
        return None
    X = as_design(frame[list(features)], "float64")
    assert isinstance(X, np.ndarray)
    if not np.all(np.isfinite(X)):
        row, column = np.argwhere(~np.isfinite(X))[0]
        raise ValueError(f"column {features[column]!r} is {X[row, column]} in row {row} of partition {partition}; drop or impute such rows")
    rows: Any = X if vars(model).get("feature_names_in_") is None else pd.DataFrame(X, columns=list(features))
    predicted = np.asarray(model.predict(rows))
    predicted = predicted[:, 0] if predicted.shape[1:] == (1,) else predicted
    columns: dict[str, Any] = {"prediction": predicted}
    if predicted.ndim == 2:
        columns = {f"prediction_{target}": column for target, column in enumerate(predicted.T)}
    if isinstance(model, ClassifierMixin):
        probabilities = model.predict_proba(rows).T
        columns |= {f"probability_{label}": column for label, column in zip(model.classes_, probabilities, strict=True)}
    if taken := [name for name in keep if name in columns]:
        raise ValueError(f"the data's column {taken[0]!r} cannot be kept beside the predictions of that name")
    return pd.DataFrame({name: frame[name].reset_index(drop=True) for name in keep} | columns)


def computed(tasks: Sequence[Any], frame: Any) -> Iterator[pd.DataFrame | None]:
    """The results in order, as many at once as there are threads; frame: of whose partitions they are.

    Raises ValueError, naming the location, for a partition that lacks a column of the first one."""
    n_threads, location = default_threads(), frame_locations(frame, None)
    for start in range(0, len(tasks), n_threads):
        some = tasks[start : start + n_threads]
        try:
            yield from compute(*some, scheduler="threads", num_workers=n_threads)
        except KeyError:
            for partition, task in enumerate(some, start):  # one by one, to find the partition that fails
                try:
                    compute(task, scheduler="threads", num_workers=1)
                except KeyError as error:
                    raise ValueError(f"partition {partition} ({location(partition, None)}): {text_of(error)}") from error
            raise


Write = Callable[[pd.DataFrame], None]


@contextmanager
def csv_writer(path: Path) -> Iterator[Write]:
    """Appends frames to one CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        yield lambda frame: frame.to_csv(file, index=False, header=file.tell() == 0)


@contextmanager
def parquet_writer(path: Path) -> Iterator[Write]:
    """Appends frames to one Parquet file, a row group each, in the first one's schema."""
    writers: list[pq.ParquetWriter] = []

    def write(frame: pd.DataFrame) -> None:
        table = pa.Table.from_pandas(frame, schema=writers[0].schema if writers else None, preserve_index=False)
        if not writers:
            writers.append(pq.ParquetWriter(path, table.schema))
        writers[0].write_table(table)

    try:
        yield write
    finally:
        for writer in writers:
            writer.close()


WRITERS: Final[dict[Format, Callable[[Path], AbstractContextManager[Write]]]] = {"csv": csv_writer, "parquet": parquet_writer}
