from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from torchkiln.cdi import read_spec
from torchkiln.gpu import gpu_mounts

if TYPE_CHECKING:
    from pathlib import Path

LIB = "/usr/local/nvidia/lib64"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host as `nvidia-ctk cdi generate` finds it: two GPUs, libraries with their SONAMEs."""
    for name in ("dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/nvidia-uvm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    lib = tmp_path / "lib"
    lib.mkdir()
    for stem, soname in (("libcuda", "1"), ("libnvidia-nvvm", "4")):
        (lib / f"{stem}.so.550.54.15").touch()
        (lib / f"{stem}.so.{soname}").symlink_to(f"{stem}.so.550.54.15")
    (lib / "libcuda.so").symlink_to("libcuda.so.1")
    (tmp_path / "nvidia-smi").touch()
    (tmp_path / "cdi").mkdir()
    return tmp_path


def spec(host: Path, *, kind: str = "nvidia.com/gpu") -> dict[str, Any]:
    """Return a specification with the parts that nvidia-ctk 1.16 writes."""

    def device(name: str, *nodes: str) -> dict[str, Any]:
        found = [{"path": f"/dev/{node}", "hostPath": f"{host}/dev/{node}"} for node in nodes]
        return {"name": name, "containerEdits": {"deviceNodes": found}}

    def mount(path: str) -> dict[str, Any]:
        options = ["ro", "nosuid", "nodev", "bind"]
        return {"hostPath": f"{host}/{path}", "containerPath": f"/x/{path}", "options": options}

    return {
        "cdiVersion": "0.5.0",
        "kind": kind,
        "devices": [
            device("0", "nvidia0"),
            device("1", "nvidia1"),
            device("all", "nvidia0", "nvidia1"),
        ],
        "containerEdits": {
            "env": ["NVIDIA_VISIBLE_DEVICES=void"],
            **device("", "nvidiactl", "nvidia-uvm")["containerEdits"],
            "mounts": [
                mount("lib/libcuda.so.550.54.15"),
                mount("lib/libnvidia-nvvm.so.550.54.15"),
                mount("nvidia-smi"),
            ],
            "hooks": [{"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook"}],
        },
    }


def write(host: Path, body: object, name: str = "nvidia.yaml") -> None:
    text = json.dumps(body) if name.endswith(".json") else yaml.safe_dump(body)
    (host / "cdi" / name).write_text(text)


@pytest.mark.parametrize("name", ["nvidia.yaml", "nvidia.json"])
def test_nodes_and_libraries_are_those_of_the_specification(host: Path, name: str) -> None:
    write(host, spec(host), name)
    found = gpu_mounts(host / "nowhere", "", [host / "cdi"])

    assert {(one.source.name, one.target) for one in found if one.device} == {
        (name, f"/dev/{name}") for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm")
    }
    assert {(one.source.name, one.target) for one in found if not one.device} == {
        ("libcuda.so.550.54.15", f"{LIB}/{name}")
        for name in ("libcuda.so", "libcuda.so.1", "libcuda.so.550.54.15")
    } | {
        ("libnvidia-nvvm.so.550.54.15", f"{LIB}/{name}")
        for name in ("libnvidia-nvvm.so.4", "libnvidia-nvvm.so.550.54.15")
    }


def test_without_a_device_for_all_there_are_all_devices(host: Path) -> None:
    body = spec(host)
    body["devices"].pop()
    write(host, body)
    found = read_spec([host / "cdi"])

    assert found is not None
    assert {"/dev/nvidia0", "/dev/nvidia1"} < {target for _, target in found.nodes}


def test_the_later_folder_replaces_the_earlier(host: Path) -> None:
    write(host, spec(host))
    later = host / "run"
    later.mkdir()
    body = spec(host)
    body["containerEdits"]["mounts"] = []
    (later / "nvidia.yaml").write_text(yaml.safe_dump(body))
    found = read_spec([host / "cdi", later])

    assert found is not None
    assert found.libraries == ()


@pytest.mark.parametrize("body", ["no mapping", {"kind": "nvidia.com/gpu"}, [1, 2], "a: [b"])
def test_what_is_no_specification_is_warned_of(
    host: Path, body: object, capsys: pytest.CaptureFixture[str]
) -> None:
    (host / "cdi/nvidia.yaml").write_text(body if isinstance(body, str) else yaml.safe_dump(body))

    assert read_spec([host / "cdi"]) is None
    assert "nvidia.yaml" in capsys.readouterr().err


def test_the_specification_of_another_vendor_is_none_of_ours(host: Path) -> None:
    write(host, spec(host, kind="amd.com/gpu"))

    assert read_spec([host / "cdi"]) is None


def test_a_specification_of_an_older_driver_gives_way(
    host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(host, spec(host))
    (host / "lib/libcuda.so.550.54.15").unlink()
    found = gpu_mounts(host / "dev", "", [host / "cdi"])

    assert "out of date" in capsys.readouterr().err
    assert [one for one in found if not one.device] == []
    assert {one.target for one in found} >= {"/dev/nvidia0", "/dev/nvidia1"}
