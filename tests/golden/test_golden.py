"""Changes of form change no answers: fits end in the bits of before, in this process and on two workers."""

from __future__ import annotations

import dask
import pytest
from distributed import Client

from tests.golden.digests import expected
from tests.golden.fits import CASES, PARTITIONS, run

GOLDEN = expected()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not GOLDEN, reason="tests/golden/digests.json has no machine of this kind"),
]


def test_the_file_has_all_cases() -> None:
    assert GOLDEN.keys() == CASES.keys()


@pytest.mark.parametrize("n_partitions", PARTITIONS)
@pytest.mark.parametrize("case", CASES)
def test_in_process(case: str, n_partitions: int) -> None:
    with dask.config.set(scheduler="threads"):
        assert run(case, n_partitions) == GOLDEN[case][str(n_partitions)]


@pytest.mark.parametrize("n_partitions", PARTITIONS)
@pytest.mark.parametrize("case", CASES)
def test_on_two_workers(client: Client, case: str, n_partitions: int) -> None:
    assert run(case, n_partitions) == GOLDEN[case][str(n_partitions)]
