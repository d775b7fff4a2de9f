"""Run the doctor: `python -m torchkiln.doctor [--python P] [--json] [--strict] [--verbose]`.

Exit code 0: no problem; 1: a problem was found; 2: a check of the doctor's own failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from torchkiln.doctor.checks import load_checks
from torchkiln.doctor.facts import Subject, gather
from torchkiln.doctor.guard import run_checks
from torchkiln.doctor.pythons import find
from torchkiln.doctor.report import FAILED, as_json, listed, report, text

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Examine this machine, print what is found and return the exit code."""
    options = parse(arguments)
    checks = [one for one in load_checks() if one.area != "network" or not options.offline]
    if options.list:
        print("\n".join(f"{name:<22}  {area:<11}  {words}" for name, area, words in listed(checks)))
        return 0
    python = find(options.python, os.environ)
    if options.python and python is None:
        print(f"error: there is no Python at `{options.python}`", file=sys.stderr)
        print(f"\nhint: ./kiln doctor --python {sys.executable}", file=sys.stderr)
        return FAILED
    subject = Subject(environ=os.environ, python=python, image=options.image)
    announce("the machine, Python and torch")
    facts = gather(subject)
    made = report(facts, run_checks(checks, facts, announce), strict=options.strict)
    announce("")
    shown = json.dumps(as_json(made), indent=2) if options.json else None
    print(shown or text(made, verbose=options.verbose))
    return made.exit_code


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="doctor", description="Say why PyTorch does not work")
    words = "what to examine: a Python, a venv or a conda prefix (default: the one in use)"
    parser.add_argument("--python", default="", help=words)
    words = "an image that is to be pulled: ask its registry for it"
    parser.add_argument("--image", default="", help=words)
    parser.add_argument("--offline", action="store_true", help="ask nothing of any network")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--strict", action="store_true", help="take a warning for a problem")
    parser.add_argument("--verbose", action="store_true", help="show what is well too")
    parser.add_argument("--list", action="store_true", help="show the checks, and run none")
    return parser.parse_args(arguments)


def announce(name: str) -> None:
    """Show people on a terminal what is asked, in one line that is wiped in the end."""
    if sys.stderr.isatty():
        print(f"\r\033[K{name}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
