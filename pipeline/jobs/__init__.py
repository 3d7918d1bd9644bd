"""Jobs that come with the library (NAME.toml), the tables they read (`bundled`), and makers of files (`pixels`)."""

from __future__ import annotations

from typing import Final, Literal

Made = Literal["pixels"]
"""Bundled jobs whose files are made first."""
Format = Literal["parquet", "csv"]
"""Of those files."""
OF_QUEUES: Final = {
    "jobs": (int, "N", "how many (default: 1)"),
    "cores": (int, "N", "of each job"),
    "memory": (str, "SIZE", "of each job, 16GB"),
    "walltime": (str, "TIME", "of each job, 01:00:00 or 2h"),
    "gpus": (int, "N", "of each job"),
    "account": (str, "NAME", "who pays"),
    "partition": (str, "NAME", "where it runs"),
}
"""What the command line may ask of jobs in a queue: type, name and help of each."""
