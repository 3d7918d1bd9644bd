"""Published results have here the shape that their papers say: fits in this process, the same on any machine but for its kernels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pipeline.benchmarks.papers.case import PARTS
from pipeline.benchmarks.papers.proximal import Devices
from pipeline.benchmarks.papers.watched import rounds_to
from pipeline.benchmarks.report import Report
from pipeline.benchmarks.settings import Settings


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_the_shape_of_the_paper(part: Callable[[Report, Settings], None]) -> None:
    report = Report("papers", "a title", "a command")
    part(report, Settings(quick=True))
    assert report.targets and report.tables[0].rows
    assert {target.promise: target.value for target in report.targets if not target.met} == {}


def test_the_first_round_that_is_near_enough() -> None:
    assert rounds_to([3.0, 1.0, 2.0, 0.5], 2.0) == 2
    assert rounds_to([3.0, 2.5], 2.0) is None


def test_devices_have_unlike_labels_where_they_should() -> None:
    """The spread of the devices' shares of labels, which independent draws from one model do not show."""
    spreads = []
    for unlike in (None, (1.0, 1.0)):
        X, y = Devices(unlike).arrays()
        assert X.shape == (1600, 10) and set(y.tolist()) == {0, 1}
        spreads.append(np.std(y.reshape(8, 200).mean(axis=1)))
    assert spreads[0] < 0.1 < 0.2 < spreads[1]
