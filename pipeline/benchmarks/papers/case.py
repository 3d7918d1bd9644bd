"""The case of published results whose figures do not hang on the machine: fits in this process, a module each."""

from __future__ import annotations

from typing import Final

from pipeline.benchmarks.papers.delay_bound import delay_bound
from pipeline.benchmarks.papers.drift import drift
from pipeline.benchmarks.papers.error_feedback import error_feedback
from pipeline.benchmarks.papers.local_updates import local_updates
from pipeline.benchmarks.papers.outer_steps import outer_steps
from pipeline.benchmarks.papers.proximal import proximal
from pipeline.benchmarks.report import Report
from pipeline.benchmarks.settings import Settings

PARTS: Final = (local_updates, outer_steps, proximal, drift, error_feedback, delay_bound)


def papers(report: Report, settings: Settings) -> None:
    """Compute all parts. Each adds a table, and targets that name the paper and the figure."""
    for part in PARTS:
        part(report, settings)
    report.notes.append(
        "A target that is met: the paper's shape came out. Rounds and losses are the same on any machine; nothing is timed."
    )
