"""Tables for notebooks and terminals: a few facts, or the first rows of frames. All text in HTML is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import pandas as pd

MOST_ROWS: Final = 20


def facts_html(title: str, facts: Mapping[str, str]) -> str:
    """A table with a line for each fact: its name, and what is so."""
    lines = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(fact)}</td></tr>" for name, fact in facts.items())
    return f"<table><caption>{html.escape(title)}</caption><tbody>{lines}</tbody></table>"


def frames_html(title: str, frames: Mapping[str, pd.DataFrame]) -> str:
    """The title, and the first rows of each frame. frames: by what their rows are, in the plural."""
    parts = [head.to_html(border=0) + (f"<p>{html.escape(rest)}</p>" if rest else "") for head, rest in heads(frames)]
    return f"<div><p>{html.escape(title)}</p>{''.join(parts)}</div>"


def frames_text(title: str, frames: Mapping[str, pd.DataFrame]) -> str:
    """What `frames_html` has, for a terminal."""
    return "\n\n".join([title, *("\n".join(filter(None, (head.to_string(), rest))) for head, rest in heads(frames))])


def heads(frames: Mapping[str, pd.DataFrame]) -> Iterator[tuple[pd.DataFrame, str]]:
    """The first rows of each frame, and how many more there are, in words; "" for none."""
    for name, frame in frames.items():
        more = len(frame) - MOST_ROWS
        yield frame.head(MOST_ROWS), f"... {more} more {name}" if more > 0 else ""


def few(names: Sequence[str], most: int = 6) -> str:
    """The names, or the first ones and the last one."""
    return ", ".join(names if len(names) <= most else [*names[: most - 1], "...", names[-1]])
