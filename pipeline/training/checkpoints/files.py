"""One checkpoint as a file: a fit's states, its history, and of which problem it is."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import numpy as np
import scipy

from pipeline.files.tensors import Digests, Kind, read_tensors, write_tensors
from pipeline.training.checkpoints.trees import Flattened, restored
from pipeline.training.history import Row, told
from tasks import __version__
from tasks.machine.fingerprint import numeric_digest
from tasks.reductions.remembered import Memory
from tasks.typing import Array

CHECKPOINT: Final = Kind("dask-descent checkpoint", "checkpoint", version="7")
"""Version 2 had types in other modules, 3 fields of other names, 4 subtrees and staleness in the history, 5 bytes and memories, 6
memories of several parts; 7 has other names of what is known of these."""
SUFFIX: Final = ".safetensors"
NAME: Final = re.compile(rf"-[0-9a-f]{{16}}-\d{{9,}}{re.escape(SUFFIX)}$")
"""How the names of checkpoints end: see `FitKey.path`."""
COLUMNS: Final = {
    "row_step": np.float64,
    "iteration": np.int64,
    "objective": np.float64,
    "gradient_norm": np.float64,
    "seconds": np.float64,
    "subtree": np.int64,
    "staleness": np.int64,
    "bytes_sent": np.int64,
    "bytes_received": np.int64,
}
"""Of the history, as arrays: a long fit by mini-batches has a hundred thousand rows. Numbers that not all fits have come after them, NaN
where a row lacks one."""
HISTORY: Final = "history."


class CheckpointWarning(UserWarning):
    """A checkpoint that cannot be read or written, or is of another version: the fit goes on all the same."""


class Saved(NamedTuple):
    """Where a fit stands after a round: the strategy's states, a row for each round, the seed that random numbers hang on (None where
    there are none), `Result.bytes_per_round` so far, and what subtrees remember beside the rows: see `recalled`."""

    states: list[Any]
    history: list[Row]
    seed: int | None
    bytes_per_round: int
    memories: tuple[Memory, ...] = ()
    recall: Callable[[], Saved] | None = None

    def recalled(self) -> Saved:
        """The same with what subtrees remember, which `recall` asks them for; or what there was when they were last asked."""
        return self if self.recall is None else self.recall()


class FitKey(NamedTuple):
    """What is fitted, in words by name ("estimator", "parameters", "data" ...): only the same problem goes on from a checkpoint."""

    words: Mapping[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 of the words."""
        return hashlib.sha256(json.dumps(dict(self.words), sort_keys=True).encode()).hexdigest()

    @property
    def stem(self) -> str:
        """How the names of its files begin: several fits may keep theirs in one directory."""
        return f"{self.words['estimator']}-{self.digest[:16]}"

    def path(self, directory: Path, n_rounds: int) -> Path:
        """Where its checkpoint after so many rounds is."""
        return directory / f"{self.stem}-{n_rounds:09d}{SUFFIX}"

    def paths(self, directory: Path) -> list[Path]:
        """Its checkpoints, the latest first."""
        return sorted(directory.glob(f"{self.stem}-*{SUFFIX}"), reverse=True)

    def difference(self, other: Mapping[str, str]) -> str:
        """Which words of another problem differ, and how."""
        names = [name for name in sorted({*self.words, *other}) if self.words.get(name) != other.get(name)]
        return "; ".join(f"its {name} is {other.get(name, 'nothing')}, here {self.words.get(name, 'nothing')}" for name in names)


def write_checkpoint(path: Path, problem: FitKey, saved: Saved, digests: Digests | None = None, spare: Path | None = None) -> None:
    """Write it whole or not at all; digests: of the fit's earlier ones; spare: a file to write over. Raises OSError naming the path,
    TypeError for states that are no arrays and numbers."""
    tree = Flattened()
    states, memories = tree.flat(saved.states), tree.flat(saved.memories)
    columns = {HISTORY + name: np.array([row[name] for row in saved.history], dtype) for name, dtype in COLUMNS.items()}  # type: ignore[literal-required]
    columns |= {HISTORY + name: np.array([row.get(name, np.nan) for row in saved.history]) for name in told(saved.history)}
    oracles = sorted({row["oracle"] for row in saved.history})
    columns[HISTORY + "oracle"] = np.array([oracles.index(row["oracle"]) for row in saved.history], np.int64)
    text = {
        "problem": json.dumps(dict(problem.words)),
        "states": json.dumps(states, allow_nan=False),
        "memories": json.dumps(memories, allow_nan=False),
        "oracles": json.dumps(oracles),
        "seed": json.dumps(saved.seed),
        "bytes_per_round": json.dumps(saved.bytes_per_round),
        **arithmetic(),
    }
    write_tensors(path, CHECKPOINT, tree.arrays | columns, text, digests, spare)


def read_checkpoint(path: Path, problem: FitKey) -> Saved:
    """Read one back. Raises FileNotFoundError, and ValueError, naming the path, for one that is damaged, foreign, of another format
    version, or of another problem."""
    arrays, text = read_tensors(path, CHECKPOINT)
    differences = [
        f"{name} {text.get(name, 'unknown')} and this is {now}"
        for name, now in (("version", __version__), *arithmetic().items())
        if text.get(name) != now
    ]
    if differences:
        warnings.warn(
            f"{path} was written by {'; '.join(differences)}: what follows may differ in its last digits", CheckpointWarning, stacklevel=3
        )
    try:
        words = json.loads(text["problem"])
        if words != dict(problem.words):
            raise ValueError(f"it is of another problem: {problem.difference(words)}")
        states, memories = (restored(json.loads(text[name]), arrays) for name in ("states", "memories"))
        seed, n_bytes = json.loads(text["seed"]), json.loads(text["bytes_per_round"])
        return Saved(states, history_rows(arrays, json.loads(text["oracles"])), seed, n_bytes, memories)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error


@cache
def arithmetic() -> dict[str, str]:
    """What the bits of the client's own arithmetic hang on, beside this library."""
    return {"NumPy": np.__version__, "SciPy": scipy.__version__, "CPU and BLAS": numeric_digest()[:16]}


def history_rows(arrays: Mapping[str, Array], oracles: Sequence[str]) -> list[Row]:
    """A row for each round, from columns."""
    columns = {name: arrays[HISTORY + name].tolist() for name in COLUMNS}
    kinds = [oracles[code] for code in arrays[HISTORY + "oracle"].tolist()]
    rows = [
        cast("Row", {"round": i, "oracle": oracle, **dict(zip(columns, values, strict=True))})
        for i, (oracle, *values) in enumerate(zip(kinds, *columns.values(), strict=True), 1)
    ]
    for name in (name for name in Row.__annotations__ if name in Row.__optional_keys__ and HISTORY + name in arrays):
        for row, value in zip(rows, arrays[HISTORY + name].tolist(), strict=True):
            if not np.isnan(value):
                row[name] = value  # type: ignore[literal-required]
    return rows


def words_of(path: Path) -> Mapping[str, str]:
    """The problem of a checkpoint. Raises as `read_checkpoint`."""
    _, text = read_tensors(path, CHECKPOINT)
    words: Mapping[str, str] = json.loads(text["problem"])
    return words
