"""Run the smoke suite inside an image: `python smoke [--image FILE] [--output DIR] [--json]`.

Exit code 0: every check passed or was skipped by name; 1: a check failed; 2: the suite itself could
not run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from image import ImageError, read_image
from report import curves_of, report, table
from suite import load_checks, run_checks, timed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from image import Image
    from suite import Outcome, Result

IMAGE: Final = Path("/opt/torchkiln/image.json")
OUTPUT: Final = "TORCHKILN_SMOKE_OUTPUT"
CANNOT_RUN: Final = 2


def main(arguments: Sequence[str]) -> int:
    """Run the suite and return its exit code."""
    options = parse(arguments)
    try:
        image = read_image(options.image)
        output = output_folder(options.output)
        with tempfile.TemporaryDirectory() as cache:
            prepare(cache)
            results = run(image, output)
        document = report(image, results, versions())
        text = json.dumps(document, indent=2)
        (output / "report.json").write_text(f"{text}\n", encoding="utf-8")
    except (ImageError, OSError) as error:
        print(f"error: the smoke suite cannot run\n  {error}", file=sys.stderr)
        return CANNOT_RUN
    print(text if options.json else f"{table(results)}\nreport: {output / 'report.json'}")
    return 0 if document["passed"] else 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options: `image`, `output` and `json`."""
    parser = argparse.ArgumentParser(prog="smoke", description="Check the image from inside")
    parser.add_argument("--image", type=Path, default=IMAGE, help=f"its description: {IMAGE}")
    parser.add_argument("--output", help=f"folder for the results: ${OUTPUT}, or a temporary one")
    parser.add_argument("--json", action="store_true", help="print the report, not the table")
    return parser.parse_args(arguments)


def output_folder(chosen: str | None) -> Path:
    """Return the folder for report.json and loss.png, made if it is not there."""
    name = chosen or os.environ.get(OUTPUT) or tempfile.mkdtemp(prefix="torchkiln-smoke-")
    folder = Path(name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def prepare(cache: str) -> None:
    """Set what must be set before matplotlib and CUDA start, for this process and its children."""
    # The home folder may be read-only or missing; matplotlib writes its list of fonts.
    os.environ["MPLCONFIGDIR"] = cache
    # cuBLAS gives the same bits on each run with this only
    # (https://docs.nvidia.com/cuda/cublas/#results-reproducibility).
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def run(image: Image, output: Path) -> list[Result]:
    """Run every check, then draw what the training checks left."""
    results = load_checks(Path(__file__).parent)
    results += run_checks(image, announce)
    announce("loss-curve")
    results.append(timed("loss-curve", lambda: loss_curve(image, results, output)))
    announce("")
    return results


def loss_curve(image: Image, results: Sequence[Result], output: Path) -> Outcome:
    """Draw the curves; matplotlib is imported here, so that a broken one is a failed check."""
    plot = importlib.import_module("plot")
    outcome: Outcome = plot.loss_curve(image.variant, curves_of(results), output / "loss.png")
    return outcome


def announce(name: str) -> None:
    """Show people on a terminal which check is running, in one line that is wiped in the end."""
    if sys.stderr.isatty():
        print(f"\r\033[K{name}", end="", file=sys.stderr, flush=True)


def versions() -> dict[str, str | None]:
    """Return the versions of torch, Python and NumPy (None: not imported), and the device."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("torch", "numpy"):
        module = sys.modules.get(name)
        found[name] = str(module.__version__) if module else None
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and torch.cuda.is_available()
    found["device"] = torch.cuda.get_device_name() if torch is not None and on_gpu else "cpu"
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
