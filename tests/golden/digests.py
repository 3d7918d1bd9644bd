"""The file of digests: what each fit gave, by kind of machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from dask.config import set as configured

from tasks.machine.fingerprint import numeric_digest
from tests.golden.fits import CASES, PARTITIONS, PASSES, Outcome, choose, run

Table = dict[str, dict[str, dict[str, Outcome]]]

FILE: Final = Path(__file__).with_name("digests.json")


def machine() -> str:
    """What bits hang on beside the data: kernels of BLAS and NumPy."""
    return numeric_digest()[:16]


def write() -> None:
    """Run the fits that the file lacks in this process, and store what they gave for machines of this kind. Where bits are to change, take
    what changes out of the file first."""
    known: dict[str, Any] = json.loads(FILE.read_text())
    found: Table = known.get(machine(), {})
    with configured(scheduler="threads"):
        for passes in PASSES:
            choose(passes)
            there = found.get(passes, {})
            found[passes] = {case: there.get(case) or {str(n): run(case, n) for n in PARTITIONS} for case in CASES}
    FILE.write_text(json.dumps(known | {machine(): found}, indent=1) + "\n")


def expected() -> Table:
    """By passes, case and number of partitions; empty for machines of a kind that nobody has written."""
    found: Table = json.loads(FILE.read_text()).get(machine(), {})
    return found
