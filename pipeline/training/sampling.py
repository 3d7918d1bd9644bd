"""How mini-batches are drawn from a dataset: rounds of an epoch, rows of a round, subtrees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from tasks.rows.batches import ROWS_A_SUBTREE, Sampling, subtree_level

if TYPE_CHECKING:
    from pipeline.data.schema import Schema


class Batches(NamedTuple):
    """sampling: which rows a round draws; n_rows: that an epoch visits, without those held out."""

    sampling: Sampling
    n_rows: int

    @property
    def batch_rows(self) -> float:
        """The rows of a round's batch, on average."""
        return self.n_rows / self.sampling.n_rounds


def batches_of(
    schema: Schema,
    n_groups: int,
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: bool = True,
    validation_fraction: float = 0.0,
    importance: Literal["uniform", "norm"] = "uniform",
    rows_a_subtree: int = ROWS_A_SUBTREE,
) -> Batches:
    """About batch_size rows a round, at least some rows_a_subtree in one call, so that an epoch visits every row once. The other arguments:
    see `tasks.rows.batches.Sampling`."""
    n_rows = max(1, round(schema.n_rows * (1.0 - validation_fraction)))
    level = subtree_level(n_groups, schema.n_bytes, batch_size, rows_a_subtree)
    return Batches(Sampling(seed, -(-n_rows // batch_size), level, shuffle, validation_fraction, importance), n_rows)
