"""What is known of a dataset without looking at its rows: for its repr in a notebook."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from dask.utils import format_bytes

from pipeline.data.schema import Schema
from pipeline.data.tables import few
from pipeline.execution.residency.resident import Resident
from pipeline.sources.rows import Rows
from pipeline.sources.sources import Source
from tasks.rows.partition import HERE as HOST

HERE = "in this process's memory"


def overview(
    rows: Rows, n_rows: int | None, columns: Sequence[str] | None, dtypes: tuple[str, str], schema: Schema | None
) -> dict[str, str]:
    """Facts by name. n_rows: None while they are not counted; dtypes: of the rows and of parameters; schema: None before the check."""
    source = rows.source
    n_bytes = schema.n_bytes if schema is not None else source.n_bytes if n_rows is not None else np.inf
    n_left_out = 0 if schema is None else len(schema.quarantined)
    facts = {
        "rows": "not counted yet" if n_rows is None else f"{n_rows:,}",
        "part": part(source, rows.subset),
        "columns": f"{rows.n_columns}{'' if columns is None else f': {few(columns)}'}",
        "dtype": dtypes[0] if len(set(dtypes)) == 1 else f"{dtypes[0]}, parameters {dtypes[1]}",
        "bytes": format_bytes(int(n_bytes)) if np.isfinite(n_bytes) else "not counted yet",
        "partitions": f"{source.n_partitions}, in {source.n_groups} groups",
        "left out": f"{n_left_out} of {source.n_partitions} partitions (see quarantined)" if n_left_out else "",
        "rows are": where(source),
        "X lives on": "" if source.home in (None, HOST) else f"device {source.home!r}, from the first round on",
        "first partition": source.location(0) if source.n_partitions else "",
        "last partition": source.location(source.n_partitions - 1) if source.n_partitions > 1 else "",
    }
    return {name: fact for name, fact in facts.items() if fact}


def part(source: Source, subset: int) -> str:
    """Which part of a split, or nothing."""
    split = source.split
    if split is None:
        return ""
    return f"{('train', 'test')[subset]}, of a split with test_size={split.test_size:g}, seed={split.seed}"


def where(source: Source) -> str:
    """Where the rows are, as far as this process knows: nobody is asked."""
    kept = list(source.resident.values())
    here = source.in_client or not all(isinstance(each, Resident) for each in kept)
    found = [HERE] if here else []
    found += [each.where for each in kept if isinstance(each, Resident)]
    return "; ".join(found) or "not read yet"
