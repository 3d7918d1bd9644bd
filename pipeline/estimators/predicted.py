"""Lazy predictions, chunk by chunk as their rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import dask.array as da
import numpy as np

from pipeline.data.dataset import Dataset
from pipeline.execution.current import executor_in_place_of_dask
from tasks.loading.mapping import PartitionMap
from tasks.machine.namespaces import beside, is_elsewhere
from tasks.objectives.scoring import ScoreInput, predict_partition


class Predicted(da.Array):
    """A Dask array of predictions. By itself it is computed by few tasks where the rows are (`Executor.map_partitions`): a task for each
    chunk would cost more than a small chunk's rows, and its error would not say which partition it was. Whatever else is done with it Dask
    does chunk by chunk."""

    dataset: Callable[[], Dataset]
    model: ScoreInput
    kind: str
    made_as: str  # the name that it has until p[...] = ... or out=p makes another array of it in place

    @classmethod
    def of(cls, chunks: da.Array, dataset: Callable[[], Dataset], model: ScoreInput, kind: str) -> Predicted:
        """The same predictions as `chunks`. dataset: of the rows, in the same chunks."""
        found: Predicted = cls(chunks.dask, chunks.name, chunks.chunks, meta=chunks._meta)
        found.dataset, found.model, found.kind, found.made_as = dataset, model, kind, chunks.name
        return found

    def compute(self, **options: Any) -> Any:
        """The predictions in memory; options: Dask's."""
        executor = None if options or self.name != self.made_as else executor_in_place_of_dask()
        if executor is None:
            return super().compute(**options)
        partition_map = PartitionMap("predictions", partial(predict_partition, kind=self.kind), self.model)
        found = np.concatenate([part for _, part in executor.map_partitions(self.dataset().rows, partition_map)])
        return beside(self._meta, found) if is_elsewhere(self._meta) else found
