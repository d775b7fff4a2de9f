"""The doctor runs where nothing can be installed: inside the images, in a broken environment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# -S: without site-packages, so that an import of anything installed fails.
COMMAND = [sys.executable, "-S", "-m", "torchkiln.doctor", "--json"]


def test_the_doctor_needs_the_standard_library_alone() -> None:
    done = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert json.loads(done.stdout)["schema_version"] == 1
