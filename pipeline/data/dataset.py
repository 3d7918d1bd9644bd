"""A dataset: partitions in a fixed order, what is in them, and the one pass that checks it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
from dask.delayed import delayed

from pipeline.cluster.task_threads import exclusive
from pipeline.data import collections, readers
from pipeline.data.inputs import LAZY, as_rows
from pipeline.data.overview import overview
from pipeline.data.schema import Description, Schema, column_names, fault_text, make_description, make_schema
from pipeline.data.tables import facts_html
from pipeline.execution.base import Executor
from pipeline.execution.current import current_executor
from pipeline.sources.errors import Quarantined, warn_of_quarantine
from pipeline.sources.rows import Rows
from pipeline.sources.sources import ArraySource, GraphSource, Source
from tasks.loading.blocks import BlockSpec, Split, make_block, subset_X, subset_y
from tasks.loading.checking import CHECK, CONTENTS, Fault
from tasks.loading.quarantine import Screen
from tasks.loading.residence import require_dense, require_device
from tasks.loading.statistics import MOMENTS
from tasks.rows.partition import Block, nbytes
from tasks.typing import UInt64

OnError: TypeAlias = Literal["raise", "quarantine"]
PARTITION_BYTES = 4 << 20
MAX_PARTITION_BYTES = 64 << 20
SUMS_A_PARTITION = 2
"""A partition has the bytes of so many gradients at least: adding up those of wide sparse rows would take longer than the rows do."""
TEST_SIZE = 0.25


class Dataset:
    """Rows in partitions. Made by one of the constructors below; nothing is read until a fit, `schema` or `describe()` needs it.

    The partition count comes from the data (its chunks, its files, its size) or from `n_partitions`, never from the cluster, and with it
    the order of every sum: the same partitions give the same bits wherever they are. The first use reads the source once and keeps the
    rows where they were read; a shard that is lost with its worker is made again from its source. Rows that are others then end the fit
    with SourceChangedError.

    A partition that cannot be read ends a fit with PartitionError, one with values that no fit can use (NaN, infinity, negative weights)
    with ValueError. on_error="quarantine", of the constructors that read lazily, leaves such partitions out instead, with a
    QuarantineWarning; `quarantined` has them. What else the fit does is what it would do if they were empty. What tells of all
    partitions (the first CSV file, the footers of Parquet files) must be readable all the same.

    device=, of all constructors: where X lives from the first round of a fit on, "cuda" (CuPy) or a library of the array API and one of its
    devices, "torch:cuda:0"; None for the device that its arrays come from, the host for all others; "numpy" for the host. Rows are read and
    checked on the host all the same, and labels and weights stay there (docs/devices.md).

    dtype: of the rows where they live, float32 where that holds every value of X exactly (float32, float16, booleans, integers of 8 and 16
    bits), else float64; parameter_dtype: of coef_, float32 for float32 X, else float64.
    """

    def __init__(
        self,
        source: Source,
        *,
        columns: Sequence[str] | None,
        dtype: str,
        n_columns: int,
        part: int = 0,
        parameter_dtype: str | None = None,
    ) -> None:
        self.source = source
        self.columns = None if columns is None else tuple(columns)
        self.dtype = dtype
        self.parameter_dtype = dtype if parameter_dtype is None else parameter_dtype
        self.n_columns = n_columns
        self.part = part
        self._schema: Schema | None = None
        self._version = 0  # of the source, when it was checked
        self._contents: UInt64 | None = None

    @classmethod
    def from_arrays(
        cls,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        columns: Sequence[str] | None = None,
        n_partitions: int | None = None,
        partition_rows: Sequence[int] | None = None,
        device: str | None = None,
    ) -> Dataset:
        """Make a dataset of NumPy arrays, arrays on a device, SciPy sparse matrices, or frames (pandas, polars, Arrow) in memory.

        X (n, p) lives as float32 where that holds its dtype exactly, else as float64; y (n,) or (n, t); sample_weight (n,). columns: names
        of the columns, by default those of a frame. n_partitions: equal cuts; by default a power of two of them, of 4 to 8 MiB, at most 256
        up to 128 MiB each. partition_rows: rows of each partition, in order.
        Arrays and CSR that have their final dtype and order are not copied, and must not be changed while the dataset lives.
        Raises ValueError or TypeError for what is not a numeric table, for column names that are there twice, for lengths that differ, and
        for both ways of cutting at once.
        """
        require_device(device)
        X, y, sample_weight = map(as_rows, collections.NAMES, (X, y, sample_weight))
        require_dense(X, device)
        if any(isinstance(a, LAZY) for a in (X, y, sample_weight)):
            raise TypeError("from_arrays takes rows in memory; use Dataset.from_dask for Dask collections, or .compute() all of them")
        if columns is not None:
            columns = collections.feature_names(pd.Index(columns))
        elif isinstance(X, pd.DataFrame):
            columns = collections.feature_names(X.columns)
        dtype = collections.design_dtype(X)
        block = make_block(None, BlockSpec(dtype), X, y, sample_weight)
        if columns is not None and len(columns) != block.X.shape[1]:
            raise ValueError(f"columns names {len(columns)} columns but X has {block.X.shape[1]}")
        sizes = partition_sizes(block, n_partitions, partition_rows)
        rows = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        source = ArraySource(len(sizes), home=device or block.home, X=block.X, y=block.y, sample_weight=block.sample_weight, rows=rows)
        return cls(source, columns=columns, dtype=dtype, n_columns=block.X.shape[1], parameter_dtype=collections.parameter_dtype(X))

    @classmethod
    def from_dask(
        cls,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        n_partitions: int | None = None,
        on_error: OnError = "raise",
        device: str | None = None,
    ) -> Dataset:
        """Make a dataset of Dask arrays (any chunks; y and sample_weight follow X's) or Dask data frames and series; stays lazy.

        n_partitions rechunks arrays and repartitions frames. Chunks of unknown length that have to be cut anew, to n_partitions or to match
        others, are counted here, which reads them once. Raises ValueError for lengths that are known to differ.
        """
        return cls._from_table(collections.from_dask(X, y, sample_weight, n_partitions), on_error, device)

    @classmethod
    def from_dataframe(
        cls,
        frame: Any,
        *,
        target: Any,
        sample_weight: Any = None,
        columns: Sequence[Any] | None = None,
        n_partitions: int | None = None,
        on_error: OnError = "raise",
        device: str | None = None,
    ) -> Dataset:
        """Make a dataset of one data frame that holds everything, Dask's or one in memory (pandas, polars, Arrow); columns: the features,
        by default all others.

        Raises TypeError for what is no data frame, ValueError for columns that are missing, there twice, or not numbers, and for
        on_error="quarantine" with a frame in memory.
        """
        frame = as_rows("frame", frame)
        if not isinstance(frame, pd.DataFrame | dd.DataFrame):
            cure = "for arrays use Dataset.from_arrays(X, y), for those of Dask Dataset.from_dask(X, y)"
            raise TypeError(f"frame must be a data frame of pandas or Dask, or one that narwhals knows, got {type(frame).__name__}; {cure}")
        if isinstance(frame, dd.DataFrame):
            return cls._from_table(collections.from_frame(frame, target, sample_weight, columns, n_partitions), on_error, device)
        if on_error != "raise":
            raise ValueError(
                f"on_error={on_error!r} is for data that is read partition by partition; drop bad rows of a pandas frame before"
            )
        features, _ = collections.choose_columns(frame.columns, target, sample_weight, columns)
        weight = None if sample_weight is None else frame[sample_weight]
        return cls.from_arrays(frame[list(features)], frame[target], weight, n_partitions=n_partitions, device=device)

    @classmethod
    def read_csv(
        cls,
        urlpath: Any,
        *,
        target: str,
        sample_weight: str | None = None,
        columns: Sequence[str] | None = None,
        n_partitions: int | None = None,
        on_error: OnError = "raise",
        device: str | None = None,
        **options: Any,
    ) -> Dataset:
        """Make a dataset of CSV files (a path, a list or a glob, any fsspec address), cut every 32 MiB; options: dask.dataframe.read_csv's.

        Raises FileNotFoundError for no file, ValueError for columns that are missing, there twice, or not numbers.
        """
        table = collections.from_frame(readers.read_csv(urlpath, **options), target, sample_weight, columns, n_partitions)
        return cls._from_table(table, on_error, device)

    @classmethod
    def read_parquet(
        cls,
        urlpath: Any,
        *,
        target: str,
        sample_weight: str | None = None,
        columns: Sequence[str] | None = None,
        n_partitions: int | None = None,
        on_error: OnError = "raise",
        device: str | None = None,
        **options: Any,
    ) -> Dataset:
        """Make a dataset of Parquet files (a directory, a path, a list or a glob), a partition a row group; options:
        dask.dataframe.read_parquet's.

        Raises FileNotFoundError for no file, ValueError for what is no Parquet and for columns that are missing, there twice, or not
        numbers.
        """
        table = collections.from_frame(readers.read_parquet(urlpath, **options), target, sample_weight, columns, n_partitions)
        return cls._from_table(table, on_error, device)

    @classmethod
    def read_npy(
        cls,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        n_partitions: int | None = None,
        on_error: OnError = "raise",
        device: str | None = None,
    ) -> Dataset:
        """Make a dataset of `.npy` files (a path, a list or a glob each; several are one below the other) or directories of dask's
        `to_npy_stack`.

        Raises FileNotFoundError for no file, ValueError for what is no `.npy` file, for shapes that differ and for lengths that do.
        """
        return cls._from_table(readers.read_npy(X, y, sample_weight, n_partitions), on_error, device)

    @classmethod
    def read_zarr(
        cls,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        n_partitions: int | None = None,
        on_error: OnError = "raise",
        device: str | None = None,
        **options: Any,
    ) -> Dataset:
        """Make a dataset of Zarr arrays, one each; options: dask.array.from_zarr's (`component=` for arrays in a group goes into the path).

        Raises FileNotFoundError for no array, ValueError for what is no Zarr array and for lengths that differ.
        """
        return cls._from_table(readers.read_zarr(X, y, sample_weight, n_partitions, **options), on_error, device)

    @classmethod
    def read_hdf5(
        cls,
        urlpath: Any,
        *,
        X: str,
        y: str | None = None,
        sample_weight: str | None = None,
        n_partitions: int | None = None,
        on_error: OnError = "raise",
        device: str | None = None,
    ) -> Dataset:
        """Make a dataset of HDF5 files (a path, a list or a glob); X, y, sample_weight: names of the datasets inside each.

        Raises FileNotFoundError for no file, ValueError for what is no HDF5 file, for a dataset that is not in it, for shapes that differ
        and for lengths that do.
        """
        return cls._from_table(readers.read_hdf5(urlpath, X, y, sample_weight, n_partitions), on_error, device)

    @classmethod
    def from_function(
        cls,
        make: Any,
        *,
        n_partitions: int,
        n_columns: int,
        dtype: str = "float64",
        on_error: OnError = "raise",
        device: str | None = None,
    ) -> Dataset:
        """Make a dataset whose partition i is make(i) = (X, y) or (X, y, sample_weight), called where the partition will live; `make` must
        be pure.

        dtype: of the X that it returns. Raises ValueError for n_partitions below 1 and for a dtype that is not of real numbers; the first
        use does, naming the partition, for rows that are not n_columns wide.
        """
        return cls._from_table(collections.from_function(make, n_partitions, n_columns, dtype), on_error, device)

    @classmethod
    def _from_table(cls, table: collections.Table, on_error: OnError, device: str | None) -> Dataset:
        require_device(device)
        if on_error not in get_args(OnError):
            raise ValueError(f"on_error must be one of {', '.join(map(repr, get_args(OnError)))}, got {on_error!r}")
        source = GraphSource(
            len(table.blocks),
            screen=Screen(table.n_columns, table.dtype) if on_error == "quarantine" else None,
            home=device,
            blocks=table.blocks,
            given=table.given,
            sizes=table.sizes,
            row_bytes=table.n_columns * np.dtype(table.dtype).itemsize,
            locations=table.locations,
        )
        return cls(source, columns=table.columns, dtype=table.dtype, n_columns=table.n_columns, parameter_dtype=table.parameter_dtype)

    @property
    def n_partitions(self) -> int:
        return self.source.n_partitions

    def described(self) -> str:
        """The facts that a fit on these rows depends on, in words; reads the dataset if its schema is not known yet."""
        cut = f"{self.n_partitions} partitions, {self.source.n_groups} groups"
        digest = hashlib.sha256(self.contents.tobytes()).hexdigest()[:16]
        return f"{self.schema.n_rows} rows of {self.n_columns} columns in {cut}, digest {digest}"

    def executor(self) -> Executor:
        """The executor that rounds on this dataset run on now: see `current_executor`."""
        return current_executor(in_memory=self.source.in_client)

    def release(self) -> None:
        """Free the rows of this dataset, and of the other part of its split, wherever they are resident; the next use reads them again."""
        self.source.release()

    @property
    def schema(self) -> Schema:
        """Rows, classes, weights; reads the source if it is not resident yet.

        Raises ValueError, naming partition, row and column, for values that are not finite or too large, and for negative, missing or
        all-zero weights.
        """
        schema = self._known
        if schema is None:
            executor = self.executor()
            with executor.waiting(), exclusive(self.source.lock):
                schema = self._known
                if schema is None:
                    version = self.source.version
                    summary = executor.map_reduce(self.rows, CHECK, self.n_partitions)
                    warn_of_quarantine(self._quarantined(summary.quarantined), self.n_partitions)
                    schema = make_schema(summary, self.columns, self.dtype, self.location_of_row)
                    self._schema, self._version = schema, version
        return schema

    @property
    def _known(self) -> Schema | None:
        """The schema, if the rows have been checked and not found changed since."""
        return self._schema if self._version == self.source.version else None

    @property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """The partitions that are left out, by on_error="quarantine"; the check has run if it had not."""
        return self._quarantined(self.schema.quarantined)

    def _quarantined(self, quarantined: Sequence[tuple[int, Any]]) -> tuple[Quarantined, ...]:
        if not quarantined:
            return ()
        names = column_names(self.columns, self.n_columns)

        def reason(why: str | Fault) -> str:
            return why if isinstance(why, str) else fault_text(why, names, f"row {why.row}")

        return tuple(Quarantined(partition, self.source.location(partition), reason(why)) for partition, why in quarantined)

    @property
    def rows(self) -> Rows:
        """The rows that executors work on, with the digests of the check, if that has run."""
        schema = self._known
        contents = None if schema is None or self.source.in_client else schema.content
        return Rows(self.source, self.part, self.n_columns, contents)

    @property
    def contents(self) -> UInt64:
        """The digest of each partition; the check has run if it had not."""
        schema = self.schema
        if not self.source.in_client:
            return schema.content
        contents = self._contents
        if contents is None:
            contents = self._contents = self.executor().map_reduce(self.rows, CONTENTS, None)
        return contents

    def location_of_row(self, partition: int, row: int) -> str:
        """The location that a row of a partition comes from: the location of the partition, where rows are counted after a split."""
        return self.source.location(partition, row if self.source.split is None else None)

    def describe(self) -> Description:
        """Means, variances, covariance and class balance, computed where the rows are."""
        schema = self.schema
        return make_description(schema, self.executor().map_reduce(self.rows, MOMENTS, None))

    def split(self, test_size: float = TEST_SIZE, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Split into (train, test): rows drawn by seed inside each partition, so that none crosses the network; one read serves both.

        Raises ValueError for a test_size outside (0, 1) and for a dataset that is one part of a split already.
        """
        if self.source.split is not None:
            raise ValueError("this dataset is one part of a split already; split the whole dataset once")
        source = self.source.with_split(Split(test_size, seed))
        train, test = self._of(source, 0), self._of(source, 1)
        return train, test

    def _of(self, source: Source, part: int) -> Dataset:
        """A dataset of rows like these from another source."""
        return Dataset(
            source,
            columns=self.columns,
            dtype=self.dtype,
            n_columns=self.n_columns,
            part=part,
            parameter_dtype=self.parameter_dtype,
        )

    @property
    def X(self) -> da.Array:
        """The rows as a lazy Dask array of parameter_dtype, a chunk a partition; made from the source whenever it is computed."""
        sizes, dtype = self._chunk_sizes(), self.parameter_dtype
        meta = np.empty((0, 0), dtype)
        chunks = [
            da.from_delayed(delayed(subset_X)(block, i, self.source.split, self.part, dtype), (n, self.n_columns), meta=meta)
            for i, (block, n) in enumerate(zip(self.source.delayed_blocks(), sizes, strict=True))
        ]
        return da.concatenate(chunks, allow_unknown_chunksizes=True)

    @property
    def y(self) -> da.Array:
        """The targets as a lazy Dask array, chunked as X; the check has run if it had not (its dtype is not known before).

        Raises ValueError for a dataset without targets.
        """
        schema = self.schema
        if schema.target_kind == "none":
            raise ValueError("this dataset has no y")
        dtype = schema.target_dtype
        shape: tuple[int, ...] = (schema.n_targets,) if schema.target_kind == "multioutput" else ()
        chunks = [
            da.from_delayed(delayed(subset_y)(block, i, self.source.split, self.part, dtype), (int(n), *shape), dtype=dtype)
            for i, (block, n) in enumerate(zip(self.source.delayed_blocks(), schema.partition_rows, strict=True))
        ]
        return da.concatenate(chunks)

    def _chunk_sizes(self) -> Sequence[float]:
        schema = self._known
        if schema is not None:
            return [int(n) for n in schema.partition_rows]
        rows = self.source.partition_rows
        as_read = self.source.split is None and self.source.screen is None
        return list(rows) if rows is not None and as_read else [np.nan] * self.n_partitions

    def __repr__(self) -> str:
        n_rows = self._n_rows
        rows = "rows not counted yet" if n_rows is None else f"{n_rows} rows"
        return f"Dataset({rows}, {self.n_columns} columns, {self.n_partitions} partitions, {self.dtype})"

    def _repr_html_(self) -> str:
        facts = overview(self.rows, self._n_rows, self.columns, (self.dtype, self.parameter_dtype), self._known)
        return facts_html("Dataset", facts)

    @property
    def _n_rows(self) -> int | None:
        """None while they are not counted."""
        n_rows = sum(self._chunk_sizes())
        return None if np.isnan(n_rows) else int(n_rows)


def partition_sizes(block: Block, n_partitions: int | None, partition_rows: Sequence[int] | None) -> Sequence[int]:
    """Rows of each partition."""
    n_rows = block.X.shape[0]
    if partition_rows is not None:
        if n_partitions is not None:
            raise ValueError("give n_partitions or partition_rows, not both")
        if sum(partition_rows) != n_rows or min(partition_rows, default=-1) < 0:
            raise ValueError(f"partition_rows must be counts that add up to the {n_rows} rows of X, got a sum of {sum(partition_rows)}")
        return list(partition_rows)
    if n_partitions is None:
        size, sums = nbytes(block.X), 8 * block.X.shape[1]
        least, most = max(PARTITION_BYTES, SUMS_A_PARTITION * sums), max(MAX_PARTITION_BYTES, 2 * SUMS_A_PARTITION * sums)
        n_partitions = max(min(size // least, 256), -(-size // most), 1)
        n_partitions = 1 << (n_partitions.bit_length() - 1)  # whole subtrees, of equal size
        n_partitions = min(n_partitions, max(n_rows, 1))
    collections.require_count(n_partitions)
    return [int(n) for n in np.diff(np.arange(n_partitions + 1) * n_rows // n_partitions)]
