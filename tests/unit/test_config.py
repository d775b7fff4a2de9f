from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sandboxes import PYTHONPATH

from torchkiln.catalog import Base, Variant
from torchkiln.config import (
    CONSTRAINTS,
    ENTRYPOINT,
    HOME,
    USER,
    WORKDIR,
    environment,
    image_config,
    venv,
)
from torchkiln.lockfile import BaseLock, LockedWheel, VariantLock

BASE = Base(release="bookworm", python="3.11", packages=())
BASE_LOCK = BaseLock(release="bookworm", inputs="", date="2026-01-02T03:04:05Z", debs=())
CPU = Variant(id="cpu", torch="2.13.0", cuda=None, index=None, packages=())
TORCH = LockedWheel(
    name="torch", version="2.13.0+cpu", file="torch-2.13.0+cpu-py3-none-any.whl", size=1, sha256="0"
)
LOCK = VariantLock(variant="cpu", inputs="", python="3.11", wheels=(TORCH,))


def cuda(version: str) -> Variant:
    return Variant(
        id=f"cu{version.replace('.', '')}", torch="2.0.1", cuda=version, index=None, packages=()
    )


def test_path_finds_the_environment_first_and_the_images_own_commands() -> None:
    path = environment(CPU)["PATH"].split(":")

    assert ["/opt/venv/bin", f"/{HOME}/bin"] == path[:2]
    assert {"/usr/bin", "/bin", "/usr/sbin", "/sbin"} < set(path)
    assert all(folder.startswith("/") for folder in path)


def test_nothing_of_the_users_home_shadows_the_image() -> None:
    found = environment(CPU)

    assert ("1", "/tmp") == (found["PYTHONNOUSERSITE"], found["HOME"])  # noqa: S108


def test_everything_that_is_written_goes_where_any_user_may_write() -> None:
    found = environment(cuda("11.7"))
    caches = [
        value for name, value in found.items() if name.endswith(("_DIR", "CONFIGDIR", "_HOME"))
    ]

    assert caches
    assert all(value.startswith("/tmp/") for value in caches)  # noqa: S108


def test_later_installs_are_held_to_the_images_pins() -> None:
    """Twice, since uv reads none of pip's settings."""
    found = environment(CPU)

    assert [f"/{CONSTRAINTS}"] * 2 == [found["PIP_CONSTRAINT"], found["UV_CONSTRAINT"]]


def test_cpu_image_asks_for_no_gpu() -> None:
    assert not [name for name in environment(CPU) if "NVIDIA" in name or name == "LD_LIBRARY_PATH"]


@pytest.mark.parametrize(
    ("version", "floor"), [("11.7", "450.80.02"), ("12.8", "525.60.13"), ("13.0", "580")]
)
def test_cuda_image_asks_for_a_driver_that_runs_it(version: str, floor: str) -> None:
    found = environment(cuda(version))

    assert f"cuda>={version} driver>={floor}" == found["NVIDIA_REQUIRE_CUDA"]
    assert ("all", "compute,utility") == (
        found["NVIDIA_VISIBLE_DEVICES"],
        found["NVIDIA_DRIVER_CAPABILITIES"],
    )


def test_labels_are_oci_keys_of_the_lock_and_no_clock() -> None:
    found = image_config(BASE, CPU, LOCK, BASE_LOCK)

    assert {
        "org.opencontainers.image.title": "torchkiln cpu",
        "org.opencontainers.image.description": (
            "PyTorch 2.13.0 for CPU, Python 3.11, Debian bookworm"
        ),
        "org.opencontainers.image.version": "2.13.0+cpu",
        "org.opencontainers.image.created": BASE_LOCK.date,
    } == found.labels
    assert BASE_LOCK.date == found.created


def test_user_is_a_number_that_kubernetes_takes_and_group_0() -> None:
    assert "1000:0" == USER
    assert ("/workspace", "/opt/torchkiln/bin/entrypoint") == (WORKDIR, *ENTRYPOINT)


def test_environment_follows_the_python_of_the_base() -> None:
    assert "opt/venv/lib/python3.11/site-packages" == venv(BASE).site
    assert "/opt/venv/bin/python" == venv(BASE).interpreter


def test_config_is_the_same_whatever_the_builders_environment() -> None:
    code = """
import json, sys
sys.path.insert(0, sys.argv[1])
from test_config import *
config = image_config(BASE, cuda("11.7"), LOCK, BASE_LOCK)
print(json.dumps(vars(config)))
"""
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    said = {
        subprocess.check_output(
            command,
            env={"PYTHONPATH": PYTHONPATH, "PATH": os.environ["PATH"], "HOME": home, "TZ": zone},
        )
        for home, zone in (("/root", "UTC"), ("/home/alice", "Asia/Tokyo"))
    }

    assert 1 == len(said)
    assert "/home" not in json.loads(said.pop())["environment"].values()
