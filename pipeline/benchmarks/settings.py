"""The settings of a case, as the command line gives them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a case. quick: small tables and fewer solvers, seconds in all; repeats: timed fits; limit: seconds that a solver may
    search for its tolerance; solvers: which of ours take part, the first stands for us; fits: of the soak."""

    quick: bool = False
    repeats: int = 7
    limit: float = 120.0
    solvers: tuple[str, ...] = ("auto",)
    fits: int = 300
