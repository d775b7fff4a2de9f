"""Run the doctor: `python -m torchkiln.doctor [--python P] [--json] [--strict] [--verbose]`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from torchkiln.doctor import report
from torchkiln.doctor.checks import load_checks
from torchkiln.doctor.facts import Subject, gather
from torchkiln.doctor.guard import run_checks

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Examine this machine, print what is found and return the exit code."""
    options = parse(arguments)
    python = options.python or shutil.which("python3")
    subject = Subject(environ=os.environ, python=Path(python) if python else None)
    findings = run_checks(load_checks(), gather(subject), announce)
    announce("")
    if options.json:
        print(json.dumps(report.as_json(findings), indent=2))  # noqa: T201
    else:
        print(report.text(findings, verbose=options.verbose))  # noqa: T201
    return report.exit_code(findings, strict=options.strict)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="doctor", description="Say why PyTorch does not work")
    parser.add_argument("--python", help="the Python to examine (default: python3 on PATH)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--strict", action="store_true", help="take a warning for a problem")
    parser.add_argument("--verbose", action="store_true", help="show what is well too")
    return parser.parse_args(arguments)


def announce(name: str) -> None:
    """Show people on a terminal which check is running, in one line that is wiped in the end."""
    if sys.stderr.isatty():
        print(f"\r\033[K{name}", end="", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
