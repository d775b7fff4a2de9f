from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from sandboxes import PYTHONPATH

from torchkiln import contents
from torchkiln.catalog import Base, Variant
from torchkiln.contents import constraints, description, image_contents, own_entries
from torchkiln.layer import Entry, complete
from torchkiln.lockfile import LockedWheel, VariantLock

BASE = Base(release="bookworm", python="3.11", packages=())
CPU = Variant(id="cpu", torch="2.13.0", cuda=None, index=None, packages=())
CUDA = Variant(id="cu117", torch="2.0.1", cuda="11.7", index=None, packages=())


def wheel(name: str, version: str) -> LockedWheel:
    file = f"{name}-{version}-py3-none-any.whl"
    return LockedWheel(name=name, version=version, file=file, size=1, sha256="0")


LOCK = VariantLock(
    variant="cpu",
    inputs="",
    python="3.11",
    wheels=(wheel("numpy", "2.4.6"), wheel("torch", "2.13.0+cpu")),
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Give a project with a smoke suite."""
    (tmp_path / "smoke/__pycache__").mkdir(parents=True)
    (tmp_path / "smoke/suite.py").write_text("print()\n")
    (tmp_path / "smoke/notes.txt").write_text("not for the image\n")
    (tmp_path / "smoke/__pycache__/suite.pyc").write_bytes(b"")
    return tmp_path


def layer(project: Path, variant: Variant = CPU) -> dict[str, Entry]:
    return {entry.path: entry for entry in complete(own_entries(project, BASE, variant, LOCK))}


def data(entry: Entry) -> str:
    assert entry.chunks
    return b"".join(entry.chunks()).decode()


def held(variant: Variant, *wheels: LockedWheel) -> list[str]:
    """Return the lines of the constraints of a lock that are no comments."""
    text = constraints(variant, replace(LOCK, wheels=wheels))
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_constraints_pin_every_wheel_of_the_lock() -> None:
    assert ["numpy==2.4.6", "torch==2.13.0+cpu"] == held(CPU, *LOCK.wheels)[:2]


def test_constraints_hold_companions_that_are_not_locked_to_the_build_of_torch() -> None:
    """Those of the default index are for CUDA, and fail to be imported beside this torch."""
    assert [
        "torchaudio==2.11.0+cpu",
        "torchcodec>=0.12,<0.14",
        "torchtext==0+none.fits.torch.2.13.0.cpu",
        "torchvision==0.28.0+cpu",
    ] == held(CPU, *LOCK.wheels)[2:]


def test_constraints_leave_a_locked_companion_as_it_is_locked() -> None:
    found = held(CUDA, wheel("torch", "2.0.1"), wheel("torchvision", "0.15.2"))

    assert ["torchvision==0.15.2"] == [line for line in found if line.startswith("torchvision")]


def test_constraints_of_an_unknown_torch_hold_no_companion() -> None:
    newer = replace(CUDA, torch="2.99.0", cuda="14.0")

    assert ["torch==2.99.0"] == held(newer, wheel("torch", "2.99.0"))


def test_constraints_say_how_they_are_lifted() -> None:
    text = constraints(CPU, LOCK)

    assert "PIP_CONSTRAINT=/dev/null pip install" in text
    assert "UV_CONSTRAINT=/dev/null uv pip install" in text


def test_description_says_what_the_lock_says() -> None:
    assert {
        "variant": "cu117",
        "torch": "2.0.1",
        "cuda": "11.7",
        "python": "3.11",
        "lock": {
            "wheels": [
                {"name": "numpy", "version": "2.4.6"},
                {"name": "torch", "version": "2.13.0+cpu"},
            ]
        },
    } == json.loads(description(BASE, CUDA, LOCK))


def test_prefix_is_a_virtual_environment_on_the_bases_python(project: Path) -> None:
    found = layer(project)
    lines = dict(line.split(" = ") for line in data(found["opt/venv/pyvenv.cfg"]).splitlines())

    assert ("/usr/bin", "false") == (lines["home"], lines["include-system-site-packages"])
    assert ["/usr/bin/python3.11", "python", "python"] == [
        found[f"opt/venv/bin/{name}"].target for name in ("python", "python3", "python3.11")
    ]


def test_python_takes_the_skeleton_for_a_virtual_environment(tmp_path: Path, project: Path) -> None:
    """Real Python, on a copy whose absolute links lead to the one that runs this test."""
    found = layer(project)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    prefix = tmp_path / "opt/venv"
    (prefix / "bin").mkdir(parents=True)
    (prefix / f"lib/python{version}/site-packages").mkdir(parents=True)
    home = Path(sys.executable).resolve().parent
    config = data(found["opt/venv/pyvenv.cfg"]).replace("/usr/bin", str(home))
    (prefix / "pyvenv.cfg").write_text(config.replace("3.11", version))
    (prefix / "bin/python").symlink_to(home / f"python{version}")
    code = "import sys, site; print(sys.prefix, site.ENABLE_USER_SITE)"
    said = subprocess.check_output([prefix / "bin/python", "-c", code], text=True)

    assert f"{prefix} False\n" == said


def test_smoke_suite_is_its_modules_and_nothing_else(project: Path) -> None:
    names = [name for name in layer(project) if name.startswith("opt/torchkiln/smoke/")]

    assert ["opt/torchkiln/smoke/suite.py"] == names


def test_programs_can_be_executed_and_texts_cannot(project: Path) -> None:
    found = layer(project)

    assert [0o755, 0o755, 0o644, 0o644] == [
        found[f"opt/torchkiln/{name}"].mode
        for name in ("bin/entrypoint", "bin/smoke", "constraints.txt", "image.json")
    ]


def test_program_is_executable_also_on_a_file_system_that_runs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A clone on a disk mounted noexec gives the same image."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    programs = [file.path for file in image_contents(BASE, CPU, LOCK).files if file.executable]

    names = ("check-machine", "doctor", "entrypoint", "smoke")
    assert [f"/opt/torchkiln/bin/{name}" for name in names] == programs


def test_texts_are_read_as_utf_8_whatever_the_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/motd").write_bytes("grüße\n".encode())
    monkeypatch.setattr(contents, "ROOTFS", tmp_path)
    monkeypatch.setattr("locale.getencoding", lambda: "latin-1", raising=False)

    assert "grüße\n" == next(
        file.text for file in image_contents(BASE, CPU, LOCK).files if file.path == "/etc/motd"
    )


def test_working_folder_is_for_any_user(project: Path) -> None:
    assert (True, 0o1777) == (
        layer(project)["workspace"].is_directory,
        layer(project)["workspace"].mode,
    )


def test_places_of_the_driver_are_in_cuda_images_only(project: Path) -> None:
    found = layer(project, CUDA)

    assert found["usr/local/nvidia/lib64"].is_directory
    assert "/usr/local/nvidia/lib64\n" in data(found["etc/ld.so.conf.d/nvidia.conf"])
    assert not [name for name in layer(project) if "nvidia" in name and "doctor" not in name]


def test_each_text_that_is_not_empty_ends_with_a_newline_and_is_unix() -> None:
    for file in image_contents(BASE, CUDA, LOCK).files:
        assert file.text.endswith("\n") or not file.text
        assert "\r" not in file.text
        assert file.path.startswith("/")


def test_layer_is_the_same_in_another_clone_under_another_umask(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
os.umask(int(sys.argv[2], 8))
sys.path.insert(0, sys.argv[1])
from test_contents import *
folder = Path(sys.argv[3])
(folder / "smoke").mkdir(parents=True)
(folder / "smoke/suite.py").write_text("x")
from torchkiln.layer import write_layer
print(write_layer(folder / "layer", "torchkiln", own_entries(folder, BASE, CUDA, LOCK)).digest)
"""
    said = set()
    for mask in ("022", "077"):
        arguments = [str(Path(__file__).parent), mask, str(tmp_path / mask)]
        environment = {"PYTHONPATH": PYTHONPATH, "PATH": os.environ["PATH"], "LC_ALL": "C"}
        said.add(subprocess.check_output([sys.executable, "-c", code, *arguments], env=environment))

    assert 1 == len(said)


def test_a_cuda_image_names_the_gpus_that_its_torch_has_no_code_for(project: Path) -> None:
    """The entry point reads the file; the CPU's torch needs no GPU and has none."""
    name = "opt/torchkiln/gpus-without-code"
    words = data(layer(project, CUDA)[name]).splitlines()

    assert {"H100", "B200", "RTX 50[5-9]0"} <= set(words)
    assert not {"V100", "A100", "T4", "L4"} & set(words)
    assert name not in layer(project, CPU)
