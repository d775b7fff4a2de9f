"""What others say of an image: skopeo, umoci, Podman, and Docker with either of its stores."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engines import Engine, docker, podman, require
from kiln_runs import Kiln, folder, output

from torchkiln.archive import open_gzip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUNS = [
    pytest.param((), id="as it is", marks=pytest.mark.slow),
    pytest.param(
        ("--read-only", "--tmpfs", "/tmp", "--user", "12345:0"),  # noqa: S108 - the container's own
        id="read-only, any user",
    ),
]


def test_skopeo_reads_the_layout(cpu: dict[str, Any]) -> None:
    require("skopeo")

    found = json.loads(output("skopeo", "inspect", f"oci:{cpu['layout']}:cpu"))

    assert cpu["digest"] == found["Digest"]
    assert [layer["digest"] for layer in cpu["layers"]] == found["Layers"]
    assert ("amd64", "linux") == (found["Architecture"], found["Os"])


def test_skopeo_copies_the_image_as_it_is(cpu: dict[str, Any], scratch: Path) -> None:
    require("skopeo")

    output("skopeo", "copy", f"oci:{cpu['layout']}:cpu", f"oci:{scratch}/copy:cpu")

    found = json.loads(output("skopeo", "inspect", f"oci:{scratch}/copy:cpu"))
    assert cpu["digest"] == found["Digest"]


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
def test_skopeo_reads_the_archive_as_either_kind(
    cpu: dict[str, Any], archive: Path, transport: str
) -> None:
    require("skopeo")

    found = json.loads(output("skopeo", "inspect", "--config", f"{transport}:{archive}"))

    assert [layer["diff_id"] for layer in cpu["layers"]] == found["rootfs"]["diff_ids"]


def test_umoci_unpacks_what_the_layers_say(cpu: dict[str, Any], scratch: Path) -> None:
    """Every path of every layer, with its kind, mode, time, size and target, and no other path."""
    require("umoci")
    rootless = () if os.geteuid() == 0 else ("--rootless",)

    output("umoci", "unpack", *rootless, "--image", f"{cpu['layout']}:cpu", str(scratch / "bundle"))

    expected: dict[str, tuple[Any, ...]] = {}
    for layer in cpu["layers"]:
        expected |= _members(Path(cpu["layout"]) / "blobs" / layer["digest"].replace(":", "/"))
    assert expected == _paths(scratch / "bundle/rootfs")


@pytest.fixture(
    scope="module",
    params=["running", "classic", pytest.param("containerd", marks=pytest.mark.slow)],
)
def docker_engine(request: pytest.FixtureRequest, archive: Path) -> Iterator[Engine]:
    """A Docker engine that has loaded the archive, and has no more of it afterwards."""
    with folder() as place, docker(request.param, place) as engine:
        engine("load", "--input", str(archive))
        yield engine
        engine("image", "rm", "--force", "torchkiln:cpu")


@pytest.fixture(scope="module")
def podman_engine(archive: Path) -> Iterator[Engine]:
    """Podman that has loaded the archive."""
    with folder() as place, podman(place) as engine:
        engine("load", "--input", str(archive))
        yield engine
        engine("image", "rm", "--force", "torchkiln:cpu")


def test_docker_knows_the_image_by_its_digest(docker_engine: Engine, cpu: dict[str, Any]) -> None:
    """Docker's new store names images by their manifest, its classic one by their config."""
    found = docker_engine("image", "inspect", "--format", "{{.Id}}", "torchkiln:cpu").strip()

    assert found in {cpu["digest"], _config_digest(cpu)}


@pytest.mark.parametrize("options", RUNS)
def test_the_suite_passes_under_docker(docker_engine: Engine, options: tuple[str, ...]) -> None:
    table = docker_engine.run("torchkiln:cpu", "smoke", options=options)

    assert " passed in " in table


@pytest.mark.slow
def test_the_cuda_image_streams_into_docker_and_passes_the_suite(
    kiln: Kiln, built: Callable[[str], dict[str, Any]]
) -> None:
    document = built("cu117")
    with folder() as place, docker("classic", place) as engine:
        with kiln.start("export", "--cuda", "117", "--output", "-") as export:
            load = subprocess.run([*engine.command, "load"], stdin=export.stdout, check=False)
        assert (0, 0) == (export.returncode, load.returncode)

        found = engine("image", "inspect", "--format", "{{.Id}}", "torchkiln:cu117").strip()
        assert _config_digest(document) == found
        assert " passed" in engine.run("torchkiln:cu117", "smoke")


def test_podman_knows_the_image_by_its_digest(podman_engine: Engine, cpu: dict[str, Any]) -> None:
    form = "sha256:{{.Id}} {{.Digest}}"
    found = podman_engine("image", "inspect", "--format", form, "torchkiln:cpu").split()

    assert [_config_digest(cpu), cpu["digest"]] == found


@pytest.mark.parametrize("options", RUNS)
def test_the_suite_passes_under_podman(podman_engine: Engine, options: tuple[str, ...]) -> None:
    table = podman_engine.run("torchkiln:cpu", "smoke", options=options)

    assert " passed in " in table


def test_a_failing_command_fails_under_podman(podman_engine: Engine) -> None:
    """The control: the entry point hands the command's own exit code on."""
    with pytest.raises(AssertionError, match="exit status of its own"):
        podman_engine.run("torchkiln:cpu", "sh", "-c", "echo exit status of its own; exit 3")


def _config_digest(document: dict[str, Any]) -> str:
    manifest = Path(document["layout"], "blobs", document["digest"].replace(":", "/"))
    digest: str = json.loads(manifest.read_text())["config"]["digest"]
    return digest


def _members(blob: Path) -> dict[str, tuple[Any, ...]]:
    with open_gzip(blob) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        return {
            member.name: (
                "file" if member.isfile() else "folder" if member.isdir() else "link",
                0o777 if member.issym() else member.mode,
                member.mtime,
                member.size,
                member.linkname,
            )
            for member in archive
        }


def _paths(root: Path) -> dict[str, tuple[Any, ...]]:
    found = {}
    for parent, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(parent, name)
            status = path.lstat()
            link = stat.S_ISLNK(status.st_mode)
            regular = stat.S_ISREG(status.st_mode)
            found[str(path.relative_to(root))] = (
                "file" if regular else "link" if link else "folder",
                stat.S_IMODE(status.st_mode),
                int(status.st_mtime),
                status.st_size if regular else 0,
                str(path.readlink()) if link else "",
            )
    return found
