"""The report of a benchmark run: tables and targets, printed, and stored as JSON and Markdown."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import psutil
from dask.system import cpu_count

from tasks import DISTRIBUTION

PACKAGES: Final = (
    DISTRIBUTION, "numpy", "scipy", "numba", "scikit-learn", "dask", "distributed", "dask-ml", "dask-glm", "scikit-learn-intelex", "glum",
    "skglm", "torch",
)  # fmt: skip
Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """Rows of cells under column names. None stands for what does not apply or is not known."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]


@dataclass(frozen=True)
class Target:
    """A promise and what was measured: met when value >= limit ("at least") or value <= limit ("at most")."""

    promise: str
    sense: str
    limit: float
    value: float | None

    @property
    def met(self) -> bool:
        if self.value is None:
            return False
        return self.value >= self.limit if self.sense == "at least" else self.value <= self.limit

    @property
    def verdict(self) -> str:
        """The verdict: met, MISSED, or not measured (nobody to compare with got there in time)."""
        return "not measured" if self.value is None else "met" if self.met else "MISSED"


@dataclass
class Report:
    """One run of one case. figure: a PNG, where there is one."""

    case: str
    title: str
    command: str
    machine: dict[str, str] = field(default_factory=lambda: machine_facts())
    tables: list[Table] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figure: bytes | None = None

    def markdown(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        lines = [f"# {self.case}: {self.title}", "", f"`{self.command}`", "", facts, ""]
        for table in self.tables:
            lines += [f"## {table.title}", "", *markdown_table(table.columns, table.rows), ""]
        if self.targets:
            rows = [(t.promise, f"{t.sense} {t.limit:g}", t.value, t.verdict) for t in self.targets]
            lines += ["## Targets", "", *markdown_table(("target", "wanted", "measured", ""), rows), ""]
        return "\n".join([*lines, *(f"- {note}" for note in self.notes), ""])

    def store(self, folder: Path) -> list[Path]:
        """Write NAME.json, NAME.md and, where there is a figure, NAME.png into the folder, which is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        content: dict[str, Any] = asdict(self)
        del content["figure"]
        content["targets"] = [{**asdict(target), "met": target.met} for target in self.targets]
        paths = [folder / f"{self.case}.json", folder / f"{self.case}.md"]
        paths[0].write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        paths[1].write_text(self.markdown(), encoding="utf-8")
        if self.figure is not None:
            paths.append(folder / f"{self.case}.png")
            paths[2].write_bytes(self.figure)
        return paths


def markdown_table(columns: Sequence[str], rows: Sequence[tuple[Cell, ...]]) -> list[str]:
    """Lines of a Markdown table whose columns line up as text too."""
    cells = [list(columns), *[[shown(cell) for cell in row] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def shown(cell: Cell) -> str:
    """A cell as text: three digits for numbers, a dash for None."""
    if cell is None:
        return "-"
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def machine_facts() -> dict[str, str]:
    """Cores, memory and versions."""
    facts = {
        "cores": str(cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "platform": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts
