"""The [data] sections of job files: one dataclass for each kind of source."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, TypeAlias, get_args

from pipeline.data.dataset import Dataset, OnError
from pipeline.jobs.bundled import BUNDLED, load_bundled
from pipeline.sections import ConfigError, Count, Counts, Paths, Section, Table, Text, Texts, Whole, one_of, unknown
from tasks.loading.synthetic import LinearRows, Model, Precision

OnErrorName: TypeAlias = Annotated[OnError, one_of(*get_args(OnError))]
"""What to do with partitions that cannot be used: see `Dataset`."""


@dataclass(frozen=True, kw_only=True)
class Data(Section):
    """The data of a job. Paths are relative to the directory that the command runs in. device: where X lives, see `Dataset`."""

    title: ClassVar[str] = "data"
    device: Text | None = None

    @abstractmethod
    def dataset(self) -> Dataset:
        """The rows, lazy. Raises FileNotFoundError, ValueError or TypeError for what is not there or cannot be a table."""


@dataclass(frozen=True, kw_only=True)
class BundledData(Data):
    """A table that scikit-learn brings along, cut into n_partitions equal ones or into those of partition_rows rows."""

    kind: ClassVar[str] = "bundled"
    name: Text
    n_partitions: Count | None = None
    partition_rows: Counts | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name not in BUNDLED:
            raise unknown(self.name, BUNDLED, "[data] name", "bundled tables")
        if self.n_partitions is not None and self.partition_rows is not None:
            raise ConfigError("[data] takes n_partitions or partition_rows, not both")

    def dataset(self) -> Dataset:
        X, y = load_bundled(self.name)
        return Dataset.from_arrays(X, y, n_partitions=self.n_partitions, partition_rows=self.partition_rows, device=self.device)


@dataclass(frozen=True, kw_only=True)
class FileData(Data):
    """Files that a constructor of `Dataset` reads: the section's fields are that one's parameters, by their names; path is urlpath."""

    reader: ClassVar[Callable[..., Dataset]]

    def dataset(self) -> Dataset:
        return self._read()

    def _read(self, *apart: str, **options: Any) -> Dataset:
        """Read, with the fields but those apart, and what is beside them."""
        arguments = {"urlpath" if key == "path" else key: value for key, value in vars(self).items() if key not in apart}
        return type(self).reader(**arguments, **options)


@dataclass(frozen=True, kw_only=True)
class PathData(FileData):
    """Files that hold all of a dataset."""

    path: Paths


@dataclass(frozen=True, kw_only=True)
class FrameData(PathData):
    """Files of named columns. columns: the features, by default all but target and sample_weight; options: Dask's own for the format;
    made_by: the command that makes the files, for the error when they are missing."""

    target: Text
    sample_weight: Text | None = None
    columns: Texts | None = None
    on_error: OnErrorName = "raise"
    options: Table = field(default_factory=dict)
    made_by: Text | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        own = {name: name for name in vars(self)} | {"urlpath": "path"}
        taken = next((name for name in self.options if name in own), None)
        if taken is not None:
            raise ConfigError(f"[data] options has {taken!r}, which is a key of [data] itself: write {own[taken]} = ... there")

    def dataset(self) -> Dataset:
        try:
            return self._read("options", "made_by", **self.options)
        except FileNotFoundError as error:
            cure = f"; make the files with: {self.made_by}" if self.made_by else ""
            raise FileNotFoundError(f"[data] path: {error}{cure}") from error


@dataclass(frozen=True, kw_only=True)
class CsvData(FrameData):
    """CSV files. options: dask.dataframe.read_csv's."""

    kind: ClassVar[str] = "csv"
    reader = Dataset.read_csv


@dataclass(frozen=True, kw_only=True)
class ParquetData(FrameData):
    """Parquet files. options: dask.dataframe.read_parquet's."""

    kind: ClassVar[str] = "parquet"
    reader = Dataset.read_parquet


@dataclass(frozen=True, kw_only=True)
class ArrayData(FileData):
    """Files of arrays."""

    X: Paths
    y: Paths
    sample_weight: Paths | None = None
    n_partitions: Count | None = None
    on_error: OnErrorName = "raise"


@dataclass(frozen=True, kw_only=True)
class NpyData(ArrayData):
    """NumPy files. X, y, sample_weight: `.npy` files, globs or lists of them, or directories of dask's `to_npy_stack`."""

    kind: ClassVar[str] = "npy"
    reader = Dataset.read_npy


@dataclass(frozen=True, kw_only=True)
class NamedArrayData(ArrayData):
    """Arrays that have a name each."""

    X: Text
    y: Text
    sample_weight: Text | None = None


@dataclass(frozen=True, kw_only=True)
class ZarrData(NamedArrayData):
    """Zarr arrays for each of X, y and sample_weight."""

    kind: ClassVar[str] = "zarr"
    reader = Dataset.read_zarr


@dataclass(frozen=True, kw_only=True)
class Hdf5Data(NamedArrayData, PathData):
    """HDF5 files. X, y, sample_weight: names of the datasets inside each file."""

    kind: ClassVar[str] = "hdf5"
    reader = Dataset.read_hdf5


@dataclass(frozen=True, kw_only=True)
class GeneratedData(Data):
    """Rows drawn where they will live, partition by partition: see `tasks.loading.synthetic.LinearRows`."""

    kind: ClassVar[str] = "generated"
    model: Annotated[Model, one_of(*get_args(Model))] = "logistic"
    n_partitions: Count
    rows_per_partition: Count
    n_columns: Count
    dtype: Annotated[Precision, one_of(*get_args(Precision))] = LinearRows.dtype
    seed: Whole = LinearRows.seed

    def dataset(self) -> Dataset:
        make = LinearRows(self.model, self.rows_per_partition, self.n_columns, self.dtype, self.seed)
        return Dataset.from_function(make, n_partitions=self.n_partitions, n_columns=self.n_columns, dtype=self.dtype, device=self.device)


DATA: Mapping[str, type[Data]] = {cls.kind: cls for cls in (BundledData, CsvData, ParquetData, NpyData, ZarrData, Hdf5Data, GeneratedData)}
