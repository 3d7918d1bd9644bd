"""The command: items in, lines or JSON out."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from pipeline.diagnosis.checks import all_checks
from pipeline.diagnosis.child import examine


def doctor(arguments: argparse.Namespace) -> int:
    """Make all checks, and say what they find; 1 when something that is needed is missing or broken."""
    items = []
    for item in examine(all_checks(arguments.address, arguments.scheduler_file, arguments.tls, arguments.timeout)):
        items.append(item)
        if not arguments.json:
            print(item, flush=True)
    wrong = [item.name for item in items if item.wrong]
    if arguments.json:
        print(json.dumps({"works": not wrong, "items": [asdict(item) for item in items]}, indent=2))
    else:
        print(f"missing or broken, and needed: {', '.join(wrong)}" if wrong else "all that is needed works")
    return 1 if wrong else 0
