"""Changes of form change no answers: fits end in the bits of before, in this process and on two workers."""

from __future__ import annotations

from collections.abc import Iterator

import dask
import pytest
from distributed import Client

from tests.golden.digests import expected
from tests.golden.fits import CASES, PARTITIONS, PASSES, choose, run

GOLDEN = expected()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not GOLDEN, reason="tests/golden/digests.json has no machine of this kind"),
]


@pytest.fixture(params=PASSES, scope="module")
def passes(request: pytest.FixtureRequest) -> Iterator[str]:
    """The passes that all rows are gone through by, in this process."""
    choose(request.param)
    yield request.param
    choose("NumPy")


@pytest.mark.parametrize("passes", PASSES)
def test_the_file_has_all_cases(passes: str) -> None:
    """Where it lacks some of them, `python -m tests.golden` adds those."""
    assert GOLDEN[passes].keys() == CASES.keys()


@pytest.mark.parametrize("n_partitions", PARTITIONS)
@pytest.mark.parametrize("case", CASES)
def test_in_process(passes: str, case: str, n_partitions: int) -> None:
    with dask.config.set(scheduler="threads"):
        assert run(case, n_partitions) == GOLDEN[passes][case][str(n_partitions)]


@pytest.mark.parametrize("n_partitions", PARTITIONS)
@pytest.mark.parametrize("case", CASES)
def test_on_two_workers(client: Client, passes: str, case: str, n_partitions: int) -> None:
    client.run(choose, passes)
    try:
        assert run(case, n_partitions) == GOLDEN[passes][case][str(n_partitions)]
    finally:
        client.run(choose, "NumPy")
