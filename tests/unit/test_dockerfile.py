from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rendering import ROOT, dockerfile, rendered, stages

from torchkiln.dockerfile import installer_requirement
from torchkiln.errors import LockError


def test_a_dockerfile_needs_no_front_end_of_a_registry() -> None:
    assert "syntax=" not in dockerfile()


def test_a_dockerfile_locks_each_wheel_by_its_hash_in_the_folder_of_its_layer() -> None:
    numpy, torch = (hashlib.sha256(name).hexdigest() for name in (b"numpy", b"torch"))

    assert (
        "COPY <<'EOF' /requirements/torch-2.13.0-cpu\n"
        "--find-links https://download.pytorch.org/whl/cpu/torch/\n"
        f"torch==2.13.0+cpu \\\n    --hash=sha256:{torch}\nEOF\n\n"
        "COPY <<'EOF' /requirements/wheels\n"
        f"numpy==2.4.6 \\\n    --hash=sha256:{numpy}\nEOF\n"
    ) in dockerfile()


def test_both_engines_install_with_one_version_of_installer() -> None:
    locked = (ROOT / "envs/kiln/requirements.txt").read_text()
    (requirement,) = re.findall(r"^installer==.+\n(?:    --hash=.+\n)+", locked, re.MULTILINE)

    assert f"COPY <<'EOF' /tools.txt\n{requirement.rstrip()}\nEOF\n" in dockerfile()


def test_an_installer_that_is_not_locked_is_an_error() -> None:
    with pytest.raises(LockError, match="`installer` is not locked"):
        installer_requirement("invoke==3 \\\n    --hash=sha256:0\n")


def test_both_engines_compile_with_one_program() -> None:
    assert (ROOT / "torchkiln/compile_modules.py").read_text() in dockerfile()


def test_only_the_base_and_the_wheelhouse_use_a_network() -> None:
    """In the place of these two, `build --engine docker` puts what it has."""
    runs = {
        (name, "--network=none" in words.split("\n    ")[0])
        for name, body in stages(dockerfile()).items()
        for words in re.findall(r"^RUN (.+)$", body, re.MULTILINE)
    }

    assert {
        ("base", False),
        ("wheelhouse", False),
        ("venv", True),
        ("venv-torch-2.13.0-cpu", True),
        ("venv-wheels", True),
        ("torchkiln", True),
    } == runs


def test_each_group_of_wheels_is_a_stage_and_a_layer_of_its_own() -> None:
    last = stages(dockerfile())[""].splitlines()

    assert [
        "COPY --link --from=venv-torch-2.13.0-cpu /opt /opt",
        "COPY --link --from=venv-wheels /opt /opt",
        "COPY --link --from=torchkiln /layer/ /",
    ] == [line for line in last if line.startswith("COPY")]


def test_a_value_reaches_the_image_as_it_is() -> None:
    assert r'GREETING="say \"\$HOME\" \\o/"' in dockerfile()


def test_a_line_of_a_file_does_not_end_its_heredoc() -> None:
    expected = "<<'EOF_' /layer/opt/torchkiln/constraints.txt\ntorch==1\nEOF\nEOF_\n"

    assert f"COPY --chmod=644 {expected}" in dockerfile()


def test_a_program_of_the_image_can_be_run() -> None:
    expected = "COPY --chmod=755 <<'EOF' /layer/opt/torchkiln/bin/entry\nexec \"$@\"\nEOF\n"

    assert expected in dockerfile()


def test_the_environment_and_the_rest_are_made_in_stages_of_their_own() -> None:
    parts = stages(dockerfile())

    assert "COPY --chmod=644 <<'EOF' /opt/venv/pyvenv.cfg\n" in parts["venv"]
    assert "ln -s /usr/bin/python3.11 /opt/venv/bin/python\n" in parts["venv"]
    assert "install --directory --mode=1777 /layer/workspace" in parts["torchkiln"]
    assert "pyvenv.cfg" not in parts["torchkiln"]


def test_the_bake_file_builds_one_base_for_all_variants() -> None:
    bake = json.loads(rendered()["images/docker-bake.json"])

    assert ["cpu", "cu117"] == bake["group"]["default"]["targets"]
    assert {"context": "images/cpu", "target": "base"} == bake["target"]["base"]
    for variant in ("cpu", "cu117"):
        assert f"images/{variant}" == bake["target"][variant]["context"]
        assert "target:base" == bake["target"][variant]["contexts"]["base"]
        assert [f"torchkiln:{variant}"] == bake["target"][variant]["tags"]


@pytest.mark.parametrize("variant", ["cpu", "cu117"])
def test_hadolint_finds_nothing(variant: str, tmp_path: Path) -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(rendered()[f"images/{variant}/Dockerfile"])
    # An empty configuration, so that no ignore of the machine's counts.
    (tmp_path / "hadolint.yaml").write_text("{}\n")
    command = [hadolint, "--config", str(tmp_path / "hadolint.yaml"), str(dockerfile)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)

    assert (0, "") == (result.returncode, result.stdout + result.stderr)
