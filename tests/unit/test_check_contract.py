"""The contract's points on images of others: each fails where it is broken and holds where not."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from layouts import ENTRY, ENVIRONMENT, SITE, Layout, entry, sound

from torchkiln.check_contract import as_json, check, shown
from torchkiln.image_reader import read_archive, read_layout
from torchkiln.points import POINTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torchkiln.check_contract import ContractReport

LINK = {"type": tarfile.SYMTYPE, "mode": 0o777}
HARD_LINK = {"type": tarfile.LNKTYPE, "linkname": "usr/bin/dash"}
FOLDER = {"type": tarfile.DIRTYPE}
CAPABILITY = {"pax_headers": {"SCHILY.xattr.security.capability": "x"}}
PYC = f"{SITE}/torch/__pycache__/version.cpython-311.pyc"
ENTRY_POINT = '#!/bin/bash\nset -e\nexec "$@"\n# vim: set ft=sh\n'


def verdicts(report: ContractReport) -> dict[str, str]:
    """Return what is no PASS, by the point's number."""
    return {one.point.id[:3]: one.verdict for one in report.findings if one.verdict != "PASS"}


def faults(report: ContractReport, number: str) -> list[str]:
    return [fault for one in report.findings if one.point.id[:3] == number for fault in one.faults]


def with_env(layout: Layout, **variables: str | None) -> None:
    merged = ENVIRONMENT | variables
    layout.runtime["Env"] = [f"{name}={one}" for name, one in merged.items() if one is not None]


def as_cpu(layout: Layout) -> None:
    """Make a CPU image of it that is sound but for NVIDIA's variables."""
    layout.put(f"{SITE}/torch/version.py", b"cuda = None\n")
    del layout.layers[1][f"{SITE}/nvidia/lib/libcudart.so.11.0"]


def without_nvidia(layout: Layout) -> None:
    as_cpu(layout)
    with_env(layout, **{name: None for name in ENVIRONMENT if name.startswith("NVIDIA_")})


def test_there_are_twelve_points_each_with_cause_and_fix() -> None:
    assert [f"C{number:02}" for number in range(1, 13)] == [point.id[:3] for point in POINTS]
    assert all(point.title and point.why and point.fix for point in POINTS)


def test_a_sound_cuda_image_passes_every_point(tmp_path: Path) -> None:
    report = check(sound().write(tmp_path))

    assert {} == verdicts(report)
    assert ("2.0.1", "11.7") == (report.found.torch, report.found.cuda)
    assert f"/{SITE}/torch/version.py" == report.found.source


MEMBERS: list[tuple[str, str, bytes, dict[str, Any]]] = [
    ("C01", "opt/app/secret", b"x", {"mode": 0o600}),
    ("C01", "opt/app", b"", FOLDER | {"mode": 0o700}),
    ("C01", "opt/app", b"", FOLDER | {"mode": 0o555}),
    ("C01", "opt/app/x", b"", {"uid": 100000}),
    ("C01", "", b"", FOLDER | {"mode": 0o700}),
    ("C02", "root/model.pt", b"x", {}),
    ("C02", "home/jovyan/app.py", b"x", {}),
    ("C03", PYC, b"\xa7\r\r\n" + bytes(12), {}),
    ("C09", ENTRY, b'#!/bin/sh\n"$@"\n', {"mode": 0o755}),
    ("C09", ENTRY, b'#!/bin/sh\nexec "$@"\n', {"mode": 0o644}),
    ("C09", ENTRY, b"\x7fELF", {"mode": 0o755}),
    ("C10", "usr/bin/su", b"", {"mode": 0o4755}),
    ("C10", "usr/bin/ping", b"", {"mode": 0o755} | CAPABILITY),
    ("C10", "dev/null", b"", {"type": tarfile.CHRTYPE}),
    ("C10", "usr/bin/LDconfig", b"", HARD_LINK),
    ("C10", "bin/x", b"", {}),
    ("C10", "usr/bin/DASH", b"", {}),
    ("C12", "dev/shm/x", b"", {}),
    ("C12", "etc/security/limits.d/x.conf", b"", {}),
    ("C12", "opt/app/start", b"#!/bin/sh\nulimit -l unlimited\n", {"mode": 0o755}),
]


@pytest.mark.parametrize(("number", "path", "data", "fields"), MEMBERS)
def test_a_member_that_breaks_a_point_is_named_there(
    tmp_path: Path, number: str, path: str, data: bytes, fields: dict[str, Any]
) -> None:
    layout = sound()
    layout.put(path, data, **fields)

    assert [one for one in faults(check(layout.write(tmp_path)), number) if f"/{path}" in one]


@pytest.mark.parametrize(
    ("path", "data", "fields"),
    [
        ("etc/shadow", b"x", {"mode": 0o640, "gid": 42}),
        ("root/.ssh", b"", FOLDER | {"mode": 0o700}),
        ("opt/app/x", b"x", {"mode": 0o664, "uid": 1000, "gid": 100, "uname": "jovyan"}),
        ("opt/app/x", b"x", {"pax_headers": {"mtime": "0.5"}}),
        ("opt/app/.wh.old", b"", {}),
        ("dev/shm", b"", FOLDER | {"mode": 0o1777}),
        ("opt/app/x", b"", {"type": tarfile.LNKTYPE, "linkname": ENTRY}),
        (ENTRY, ENTRY_POINT.encode(), {"mode": 0o755}),
        (ENTRY, b'#!/bin/sh\nexec /usr/bin/tini -- "$@"\n', {"mode": 0o755}),
    ],
)
def test_what_runs_everywhere_is_no_fault_though_we_build_it_otherwise(
    tmp_path: Path, path: str, data: bytes, fields: dict[str, Any]
) -> None:
    layout = sound()
    layout.put(path, data, **fields)

    assert {} == verdicts(check(layout.write(tmp_path)))


@pytest.mark.parametrize(
    ("number", "name", "value"),
    [
        ("C02", "PATH", "/root/miniconda3/bin:/usr/bin"),
        ("C03", "PYTHONDONTWRITEBYTECODE", None),
        ("C04", "HOME", "/home/jovyan"),
        ("C04", "USER", None),
        ("C04", "TRITON_CACHE_DIR", None),
        ("C05", "PYTHONNOUSERSITE", None),
        ("C05", "LD_LIBRARY_PATH", "/usr/local/cuda/lib64"),
        ("C06", "NVIDIA_VISIBLE_DEVICES", "void"),
        ("C06", "NVIDIA_DRIVER_CAPABILITIES", "utility"),
        ("C06", "NVIDIA_REQUIRE_CUDA", "cuda>=12.0 driver>=525"),
        ("C06", "NVIDIA_REQUIRE_CUDA", None),
        ("C08", "PYTORCH_VERSION", None),
        ("C08", "PYTORCH_VERSION", "2.0.0"),
        ("C08", "MASTER_ADDR", "localhost"),
        ("C08", "OMP_NUM_THREADS", "1"),
    ],
)
def test_a_variable_that_breaks_a_point_is_named_there(
    tmp_path: Path, number: str, name: str, value: str | None
) -> None:
    layout = sound()
    with_env(layout, **{name: value})
    report = check(layout.write(tmp_path))

    assert {number: "FAIL"} == verdicts(report)
    assert [one for one in faults(report, number) if name in one or str(value)[:5] in one]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NVIDIA_DRIVER_CAPABILITIES", "all"),
        ("NVIDIA_DRIVER_CAPABILITIES", "video,compute,utility"),
        ("NVIDIA_REQUIRE_CUDA", "cuda>=11.7 brand=tesla,driver>=450,driver<451"),
        ("PYTORCH_VERSION", "2.0.1+cu117"),
        ("LD_LIBRARY_PATH", "/usr/local/nvidia/lib64"),
    ],
)
def test_other_good_values_pass(tmp_path: Path, name: str, value: str) -> None:
    layout = sound()
    with_env(layout, **{name: value})

    assert {} == verdicts(check(layout.write(tmp_path)))


@pytest.mark.parametrize("user", ["", None, "jovyan", "0:0", "1000", "1000:1000"])
def test_a_user_that_is_no_number_with_group_0_fails(tmp_path: Path, user: str | None) -> None:
    layout = sound()
    layout.runtime["User"] = user
    report = check(layout.write(tmp_path))

    assert {"C01": "FAIL"} == verdicts(report)
    assert faults(report, "C01")[0].startswith("User: ")


@pytest.mark.parametrize(
    ("entry_point", "verdict"),
    [
        ([f"/{ENTRY}"], {}),
        (["entrypoint"], {}),
        (["tini", "-g", "--"], {}),
        (None, {"C09": "n.a."}),
        ([], {"C09": "n.a."}),
        (f"/{ENTRY}", {"C09": "FAIL"}),
        (["/bin/sh", "-c", "python app.py"], {"C09": "FAIL"}),
        ([f"/{ENTRY}", "serve"], {"C09": "FAIL"}),
        (["none"], {"C09": "FAIL"}),
    ],
)
def test_an_entry_point_hands_over_whatever_its_form(
    tmp_path: Path, entry_point: object, verdict: dict[str, str]
) -> None:
    layout = sound()
    layout.put("opt/venv/bin/entrypoint", ENTRY_POINT.encode(), mode=0o755)
    layout.put("usr/bin/tini", b"\x7fELF", mode=0o755)
    layout.runtime["Entrypoint"] = entry_point

    assert verdict == verdicts(check(layout.write(tmp_path)))


def test_a_cpu_image_asks_for_no_gpu_and_needs_no_driver(tmp_path: Path) -> None:
    asking, sound_one = sound(), sound()
    as_cpu(asking)
    without_nvidia(sound_one)

    report = check(asking.write(tmp_path / "asking"))

    assert {"C06": "FAIL", "C07": "n.a."} == verdicts(report)
    assert "NVIDIA_VISIBLE_DEVICES: is set" in faults(report, "C06")
    assert {"C07": "n.a."} == verdicts(check(sound_one.write(tmp_path / "sound")))


@pytest.mark.parametrize(
    ("path", "variables", "found"),
    [
        ("usr/local/cuda-12.1/lib64/libcudart.so.12.1.105", {}, "12.1"),
        ("opt/app/torchvision.libs/libcudart-9d7f0b1c.so.11.7.99", {}, "11.7"),
        ("opt/app/x", {"CUDA_VERSION": "12.4.1"}, "12.4"),
        ("opt/app/x", {}, None),
    ],
)
def test_without_pytorch_cuda_is_found_by_library_or_variable(
    tmp_path: Path, path: str, variables: dict[str, str], found: str | None
) -> None:
    layout = sound()
    layout.layers[1] = {}
    layout.put(ENTRY, ENTRY_POINT.encode(), mode=0o755)
    layout.put(path)
    with_env(layout, **variables)
    report = check(layout.write(tmp_path))

    assert (found, None, False) == (report.found.cuda, report.found.torch, report.found.python)
    assert {"C03": "n.a.", "C08": "n.a."}.items() <= verdicts(report).items()


@pytest.mark.parametrize(
    ("path", "text", "missing"),
    [
        ("etc/ld.so.conf.d/nvidia.conf", "/usr/local/nvidia/lib\n", 2),
        ("etc/ld.so.conf.d/nvidia.conf", "", 3),
        ("etc/ld.so.conf", "/usr/local/nvidia/lib64\n", 0),
    ],
)
def test_the_driver_is_looked_for_where_some_file_of_ldconfig_says(
    tmp_path: Path, path: str, text: str, missing: int
) -> None:
    layout = sound()
    layout.put(path, text.encode(), mode=0o755)
    report = check(layout.write(tmp_path))

    assert missing == len(faults(report, "C07"))
    assert all(one.startswith("/etc/ld.so.conf.d: names no /") for one in faults(report, "C07"))


def test_torch_that_does_not_tell_its_cuda_leaves_it_to_the_libraries(tmp_path: Path) -> None:
    layout = sound()
    layout.put(f"{SITE}/torch/version.py", b"cuda = (\n")
    layout.put(f"{SITE}/nvidia_cuda_runtime_cu11-11.8.89.dist-info/METADATA")

    assert "11.8" == check(layout.write(tmp_path)).found.cuda


DOCKER = "application/vnd.docker"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            {"manifest": {"mediaType": f"{DOCKER}.distribution.manifest.v2+json"}},
            f"media type: is {DOCKER}.distribution.manifest.v2+json",
        ),
        ({"index": {"manifests": 2}}, "index: has 2 manifests for 1 platforms"),
        ({"layers": [{}] * 59}, "layers: there are 61, not 60 at most"),
    ],
)
def test_a_form_that_some_cannot_read_is_named(
    tmp_path: Path, change: dict[str, Any], fault: str
) -> None:
    layout = sound()
    if "layers" in change:
        layout.layers += change["layers"]
    layout.manifest = change.get("manifest", {})
    layout.write(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    index["manifests"] *= change.get("index", {}).get("manifests", 1)
    (tmp_path / "index.json").write_text(json.dumps(index))

    assert fault in faults(check(read_layout(tmp_path)), "C11")


def classic_archive(config: dict[str, Any], *members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return what `docker save` wrote before version 25: no manifest of OCI, plain tars."""
    layer = _tar(*members)
    text = json.dumps(
        config | {"rootfs": {"diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}}
    ).encode()
    entry_ = [{"Config": "c.json", "RepoTags": None, "Layers": ["one/layer.tar"]}]
    return _tar(
        entry("one/layer.tar", layer),
        entry("c.json", text),
        entry("manifest.json", json.dumps(entry_).encode()),
    )


def _tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        for info, data in members:
            made.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize("config", [{}, {"config": None}, {"config": {"Env": None, "User": ""}}])
def test_an_archive_without_manifest_and_config_is_judged(config: dict[str, Any]) -> None:
    """A tar that `docker import` made an image of, as an old `docker save` writes it."""
    data = classic_archive(config, entry("bin/busybox", b"\x7fELF", mode=0o755))

    report = check(read_archive(io.BytesIO(data), "image.tar"))

    assert {
        "C01": "FAIL",
        "C03": "n.a.",
        "C04": "FAIL",
        "C07": "n.a.",
        "C08": "n.a.",
        "C09": "n.a.",
        "C10": "FAIL",
    } == verdicts(report)
    assert "its archive tells no media types" in shown(report)


def conda(layout: Layout) -> None:
    """Break it as images of notebooks do: a named user whose home holds conda."""
    layout.runtime["User"] = "jovyan"
    layout.runtime["Entrypoint"] = ["tini", "-g", "--"]
    layout.put("home/jovyan/.bashrc", b"conda activate", mode=0o600, uid=1000)
    with_env(layout, HOME="/home/jovyan", PATH="/home/jovyan/bin", USER=None)


def nvidia(layout: Layout) -> None:
    """Break it as NVIDIA's base images do: root, and a library path into CUDA."""
    layout.runtime["User"] = ""
    with_env(layout, LD_LIBRARY_PATH="/usr/local/cuda/lib64", PYTHONNOUSERSITE=None)
    layout.put("usr/bin/su", b"", mode=0o4755)


def app(layout: Layout) -> None:
    """Break it as many applications do: all in /root, started by a shell."""
    layout.runtime["Entrypoint"] = ["/bin/sh", "-c", "python /root/app.py"]
    layout.put("root/app.py", b"")
    layout.put("root/start.sh", b"#!/bin/sh\nulimit -n 65536\n", mode=0o755)
    with_env(layout, MASTER_PORT="29500")


@pytest.mark.parametrize(
    ("breaks", "failed"),
    [
        (conda, ["C01", "C02", "C04", "C09"]),
        (nvidia, ["C01", "C05", "C10"]),
        (app, ["C02", "C08", "C09", "C12"]),
    ],
    ids=["conda", "nvidia", "app"],
)
def test_images_of_others_fail_at_their_points_and_no_other(
    tmp_path: Path, breaks: Callable[[Layout], None], failed: list[str]
) -> None:
    layout = sound()
    breaks(layout)
    report = check(layout.write(tmp_path))

    assert failed == [name[:3] for name in report.failed] == list(verdicts(report))
    assert all(f"\n{name}:\n" in shown(report) for name in report.failed)


def test_people_see_the_first_five_faults_and_machines_all(tmp_path: Path) -> None:
    layout = sound()
    for number in range(8):
        layout.put(f"home/x/{number}")
    report = check(layout.write(tmp_path))
    text = shown(report)
    document = as_json(report, "image.tar")

    assert 5 == text.count("lies below a folder")
    assert "  and 3 more: see --json" in text
    assert "cause: " in text
    assert "fix: ENV HOME=/tmp\nfix: COPY app /opt/app" in text
    assert (1, False, "image.tar") == (
        document["schema_version"],
        document["passed"],
        document["image"],
    )
    assert 8 == len(document["points"][1]["faults"])
    assert json.loads(json.dumps(document)) == document
