"""The doctor runs where nothing can be installed: inside the images, in a broken environment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from torchkiln.contents import BESIDE_DOCTOR, own_entries
from torchkiln.pipeline import job, open_project

ROOT = Path(__file__).parents[2]
IMPORTED = """\
import json, sys
from torchkiln.doctor.checks import load_checks
import torchkiln.doctor.__main__
load_checks()
files = [module.__file__ for name, module in sys.modules.items() if name.startswith("torchkiln")]
print(json.dumps(files))
"""


def python(*words: str, cwd: Path = ROOT) -> str:
    """Run Python without site-packages, so that an import of anything installed fails."""
    command = [sys.executable, "-S", *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


def test_the_doctor_needs_the_standard_library_and_what_the_images_have_beside_it() -> None:
    package = ROOT / "torchkiln"
    imported = {str(Path(one).relative_to(package)) for one in json.loads(python("-c", IMPORTED))}
    assert {one for one in imported if not one.startswith("doctor/")} == set(BESIDE_DOCTOR)


def test_the_doctor_of_an_image_runs_from_the_files_that_the_image_has(tmp_path: Path) -> None:
    work = job(project := open_project(ROOT), project.catalog.variant("cpu"))
    for entry in own_entries(ROOT, work.base, work.variant, work.lock):
        if entry.path.startswith("opt/torchkiln/doctor/") and entry.chunks:
            file = tmp_path / entry.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"".join(entry.chunks()))
    words = ["-I", "opt/torchkiln/doctor", "--json", "--offline", "--python", sys.executable]
    found = json.loads(python(*words, cwd=tmp_path))
    assert found["schema_version"] == 1
    assert found["counts"]["crashed"] == 0
