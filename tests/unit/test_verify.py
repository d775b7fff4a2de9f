"""Controls: a small sound image keeps every rule of `verify`, and each rule fails when broken."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from layouts import ENTRY, ENVIRONMENT, PYC, SITE, STATUS, VENV, Layout, entry, row, sound
from sandboxes import needs_sandbox

from torchkiln import backend, contract, debian_rules, layer_rules, package_rules
from torchkiln.catalog import Base, Variant
from torchkiln.engine.job import Job
from torchkiln.errors import ArchiveError, VerifyError
from torchkiln.image import Image
from torchkiln.image_reader import read_layout
from torchkiln.layer import MTIME
from torchkiln.lockfile import BaseLock, LockedDeb, LockedWheel, VariantLock
from torchkiln.sandbox import Mount, Sandbox
from torchkiln.store import Store
from torchkiln.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from torchkiln.listing import ImageListing

PROJECT = Path(__file__).resolve().parents[2]
BYTECODE_SCRIPT = PROJECT / "tests/image/inside/check_bytecode.py"
WHEEL = LockedWheel(name="torch", version="2.0.1", file="torch-2.0.1-py3.whl", size=1, sha256="0")
LOCK = VariantLock(variant="cu117", inputs="", python="3.11", wheels=(WHEEL,))
CPU_LOCK = VariantLock(variant="cpu", inputs="", python="3.11", wheels=(WHEEL,))
DEB = LockedDeb(
    name="dash",
    version="1",
    architecture="amd64",
    archive="debian",
    filename="",
    size=1,
    sha256="0",
)
BASE_LOCK = BaseLock(release="bookworm", inputs="", date="2026-01-01T00:00:00Z", debs=(DEB,))


@pytest.fixture
def layout() -> Layout:
    """A sound image of cu117 with one Debian package and one wheel."""
    return sound()


wheel_faults = partial(package_rules.wheel_faults, wheel=WHEEL, venv=VENV)
unlocked = partial(package_rules.unlocked_wheels, lock=LOCK, venv=VENV)
second_copies = partial(package_rules.second_copies, venv=VENV)
cuda_build = partial(package_rules.cuda_build, cuda="11.7", venv=VENV)
no_cuda = partial(package_rules.cuda_in_cpu_image, lock=CPU_LOCK)
package_faults = partial(debian_rules.package_faults, lock=BASE_LOCK)
clocks = partial(layer_rules.clocks, mtime=MTIME)
nvidia_variables = partial(contract.nvidia_variables, cuda="11.7")
driver_libraries = partial(contract.driver_libraries, cuda="11.7")
launchers = partial(contract.launchers, torch="2.0.1")
RULES: list[Any] = [
    clocks,
    contract.any_uid,
    contract.entry_point,
    contract.form,
    contract.limits,
    contract.no_shadows,
    contract.places,
    contract.plain_system,
    contract.read_only,
    contract.user,
    cuda_build,
    debian_rules.excluded_files,
    debian_rules.missing_files,
    debian_rules.unowned_files,
    driver_libraries,
    launchers,
    layer_rules.caches,
    layer_rules.only_adds,
    layer_rules.order,
    nvidia_variables,
    package_faults,
    second_copies,
    unlocked,
    wheel_faults,
]


def test_sound_image_keeps_every_rule(layout: Layout, tmp_path: Path) -> None:
    image = layout.write(tmp_path)

    assert {} == {str(rule): rule(image) for rule in RULES if rule(image)}


LINK = {"type": tarfile.SYMTYPE, "mode": 0o777}
BROKEN_MEMBERS: list[tuple[Any, str, bytes, dict[str, Any]]] = [
    (layer_rules.set_id, "usr/bin/dash", b"program", {"mode": 0o4755}),
    (layer_rules.set_id, "usr/bin/dash", b"program", {"mode": 0o2755}),
    (layer_rules.permissions, "etc/x", b"", {"mode": 0o600}),
    (layer_rules.permissions, "etc/x", b"", {"mode": 0o664}),
    (layer_rules.permissions, "etc/x", b"", {"type": tarfile.DIRTYPE, "mode": 0o700}),
    (layer_rules.owners, "etc/x", b"", {"uid": 5}),
    (layer_rules.owners, "etc/x", b"", {"gid": 5}),
    (layer_rules.owners, "etc/x", b"", {"uname": "root"}),
    (layer_rules.kinds, "dev/null", b"", {"type": tarfile.CHRTYPE}),
    (layer_rules.kinds, "etc/x", b"", {"type": tarfile.FIFOTYPE}),
    (layer_rules.kinds, "etc/x", b"", {"type": tarfile.LNKTYPE, "linkname": "etc/ld.so.conf"}),
    (layer_rules.headers, "etc/x", b"", {"pax_headers": {"SCHILY.xattr.security.capability": "x"}}),
    (layer_rules.headers, "etc/x", b"", {"pax_headers": {"mtime": "0.5"}}),
    (layer_rules.names, "etc/.wh.passwd", b"", {}),
    (layer_rules.names, "etc/.wh..wh..opq", b"", {}),
    (layer_rules.names, "etc/../../x", b"", {}),
    (layer_rules.behind_links, "bin/x", b"", {}),
    (layer_rules.case_clashes, "etc/LD.so.conf", b"", {}),
    (clocks, "etc/x", b"", {"mtime": MTIME + 1}),
    (layer_rules.only_adds, "etc/ld.so.conf", b"other", {"mode": 0o755}),
    (layer_rules.only_adds, "usr", b"", {"type": tarfile.DIRTYPE, "mode": 0o1777}),
    (layer_rules.only_adds, "bin", b"", LINK | {"linkname": "opt/bin"}),
    (layer_rules.caches, "var/log/dpkg.log", b"today", {}),
    (layer_rules.caches, "var/lib/apt/lists/x", b"", {}),
    (layer_rules.caches, "var/cache/apt/pkgcache.bin", b"", {}),
    (layer_rules.caches, "root/.cache/pip/x", b"", {}),
    (layer_rules.caches, "opt/torchkiln/.mypy_cache/x", b"", {}),
    (layer_rules.caches, "tmp/x", b"", {}),
    (layer_rules.caches, "etc/passwd-", b"", {}),
    (layer_rules.caches, "etc/machine-id", b"0123456789abcdef\n", {}),
    (layer_rules.bytecode, f"{SITE}/torch/__pycache__/gone.cpython-311.pyc", PYC, {}),
    (
        layer_rules.bytecode,
        f"{SITE}/torch/__pycache__/version.cpython-311.pyc",
        PYC[:4] + bytes(4) + PYC[8:],
        {},
    ),
    (wheel_faults, f"{SITE}/torch/version.py", b"cuda = '11.8'\n", {}),
    (wheel_faults, f"{SITE}/torch/version.py", b"", LINK | {"linkname": "/etc/x"}),
    (unlocked, f"{SITE}/torch/more.py", b"", {}),
    (unlocked, "opt/venv/bin/more", b"", {}),
    (unlocked, f"{SITE}/torch/__pycache__/more.cpython-311.pyc", PYC, {}),
    (second_copies, f"{SITE}/other.libs/libcudart.782fcab0.so.11.0", b"", {}),
    (second_copies, "usr/lib/libcudart.so", b"", {}),
    (debian_rules.unowned_files, "usr/bin/more", b"", {}),
    (debian_rules.unowned_files, "etc/more", b"", {}),
    (debian_rules.excluded_files, "usr/share/man/dash.1", b"", {}),
    (contract.user, "", b"", {"type": tarfile.DIRTYPE, "mode": 0o700}),
    (contract.places, "root/model.pt", b"", {}),
    (contract.places, "home/kiln/x", b"", {}),
    (contract.plain_system, "etc/x", b"", {"mode": 0o4755}),
    (contract.limits, "etc/security/limits.d/x.conf", b"", {}),
    (contract.limits, ENTRY, b'ulimit -l unlimited\nexec "$@"\n', {"mode": 0o755}),
    (contract.entry_point, ENTRY, b'"$@"\n', {"mode": 0o755}),
    (contract.entry_point, ENTRY, b'exec "$@"\n', {"mode": 0o644}),
    (driver_libraries, "etc/ld.so.conf.d/nvidia.conf", b"/usr/local/nvidia/lib\n", {}),
]


@pytest.mark.parametrize(("rule", "path", "data", "fields"), BROKEN_MEMBERS)
def test_rule_names_the_member_that_breaks_it(
    layout: Layout,
    tmp_path: Path,
    *,
    rule: Callable[[ImageListing], list[str]],
    path: str,
    data: bytes,
    fields: dict[str, Any],
) -> None:
    layout.put(path, data, **fields)

    faults = rule(layout.write(tmp_path))

    assert [fault for fault in faults if f"/{path}" in fault]


@pytest.mark.parametrize(
    ("rule", "name", "value"),
    [
        (contract.any_uid, "HOME", "/root"),
        (contract.any_uid, "XDG_CACHE_HOME", "/tmpfs"),  # noqa: S108
        (contract.any_uid, "USER", None),
        (contract.no_shadows, "PYTHONNOUSERSITE", None),
        (contract.no_shadows, "PYTHONPATH", "/opt"),
        (contract.no_shadows, "LD_LIBRARY_PATH", "/opt/cuda/lib64"),
        (contract.read_only, "PYTHONDONTWRITEBYTECODE", None),
        (contract.places, "PATH", "/root/bin"),
        (launchers, "PYTORCH_VERSION", "2.1.0"),
        (launchers, "MASTER_ADDR", "localhost"),
        (launchers, "OMP_NUM_THREADS", "1"),
        (nvidia_variables, "NVIDIA_VISIBLE_DEVICES", None),
        (nvidia_variables, "NVIDIA_DRIVER_CAPABILITIES", "all"),
        (nvidia_variables, "NVIDIA_REQUIRE_CUDA", "cuda>=12.0 driver>=525"),
    ],
)
def test_rule_names_the_variable_that_breaks_it(
    layout: Layout,
    tmp_path: Path,
    rule: Callable[[ImageListing], list[str]],
    name: str,
    value: str | None,
) -> None:
    variables = ENVIRONMENT | ({name: value} if value else {})
    layout.runtime["Env"] = [
        f"{key}={one}" for key, one in variables.items() if value or key != name
    ]

    faults = rule(layout.write(tmp_path))

    assert [fault for fault in faults if name in fault or str(value) in fault]


@pytest.mark.parametrize("user", ["", "kiln", "0:0", "1000", "1000:1000"])
def test_user_is_numeric_with_group_0(layout: Layout, tmp_path: Path, user: str) -> None:
    layout.runtime["User"] = user

    assert any("User" in fault for fault in contract.user(layout.write(tmp_path)))


@pytest.mark.parametrize(
    "entrypoint", [None, f"/{ENTRY}", [ENTRY], ["/bin/none"], ["/bin/sh", ENTRY]]
)
def test_entry_point_is_one_program_in_exec_form(
    layout: Layout, tmp_path: Path, entrypoint: object
) -> None:
    layout.runtime["Entrypoint"] = entrypoint

    assert contract.entry_point(layout.write(tmp_path)) != []


@pytest.mark.parametrize("path", ["usr/sbin/ldconfig", "usr/bin/getent", "usr/bin/sh"])
def test_programs_that_runtimes_call_are_needed(layout: Layout, tmp_path: Path, path: str) -> None:
    del layout.layers[0][path]
    image = layout.write(tmp_path)

    assert contract.plain_system(image) != []
    assert debian_rules.missing_files(image) == [f"/{path}: is missing"]


def test_files_are_found_through_links(layout: Layout, tmp_path: Path) -> None:
    layout.put("usr/bin/relative", type=tarfile.SYMTYPE, linkname="../sbin/ldconfig")
    layout.put("usr/bin/absolute", type=tarfile.SYMTYPE, linkname="/bin/relative")
    layout.put("usr/bin/loop", type=tarfile.SYMTYPE, linkname="loop")
    image = layout.write(tmp_path)

    found = {path: image.file(path) for path in ("bin/absolute", "sbin/ldconfig", "bin/dash")}
    assert [one and one.path for one in found.values()] == [
        "usr/sbin/ldconfig",
        "usr/sbin/ldconfig",
        "usr/bin/dash",
    ]
    assert image.file("bin/loop") is None
    assert image.file("bin/none") is None


def test_cpu_image_with_a_cuda_library_fails(layout: Layout, tmp_path: Path) -> None:
    image = layout.write(tmp_path)

    assert no_cuda(image) == [f"/{SITE}/nvidia/lib/libcudart.so.11.0: is a CUDA library"]
    assert package_rules.cuda_build(image, None, VENV) == [
        "torch: was built for CUDA 11.7, not None"
    ]
    assert contract.nvidia_variables(image, None) != []
    assert contract.driver_libraries(image, None) != []


def test_only_the_known_second_copy_is_excused(layout: Layout, tmp_path: Path) -> None:
    layout.put(f"{SITE}/torchvision.libs/libcudart.782fcab0.so.11.0")
    layout.put(f"{SITE}/torchvision.libs/libcublas.so.11")
    layout.put(f"{SITE}/nvidia/lib/libcublas.so.11")
    for profiler in ("cupti", "cupti-blackwell", "other"):
        for name in ("libcupti.so.12", "libnvperf_host.so", "libnvperf_target.so"):
            layout.put(f"{SITE}/triton/backends/nvidia/lib/{profiler}/{name}")
    layout.put(f"{SITE}/nvidia/lib/libcupti.so.12")

    faults = second_copies(layout.write(tmp_path))

    assert {fault.partition(":")[0] for fault in faults} == {"libcublas", "libcupti"}
    assert not any("lib/cupti" in fault for fault in faults)


@pytest.mark.parametrize(
    ("metadata", "fault"),
    [
        (b"Name: torch\nVersion: 2.0.2\n", "torch: has version 2.0.2"),
        (b"Name: torches\nVersion: 2.0.1\n", "torch: is installed 0 times"),
    ],
)
def test_installed_version_is_the_locked_one(
    layout: Layout, tmp_path: Path, metadata: bytes, fault: str
) -> None:
    layout.put(f"{SITE}/torch-2.0.1.dist-info/METADATA", metadata)

    assert fault in wheel_faults(layout.write(tmp_path))


def test_distribution_that_is_not_locked_fails(layout: Layout, tmp_path: Path) -> None:
    layout.put(f"{SITE}/more-1.dist-info/METADATA", b"Name: more\nVersion: 1\n")
    layout.put(f"{SITE}/more-1.dist-info/RECORD", row("more-1.dist-info/METADATA", b"").encode())

    assert "more: is not in the lock" in unlocked(layout.write(tmp_path))


def test_record_that_lies_with_its_files_fails(layout: Layout, tmp_path: Path) -> None:
    image = layout.write(tmp_path)
    own = image.members[f"{SITE}/torch-2.0.1.dist-info/RECORD"].text
    true = row("torch/version.py", b"cuda = '11.6'\n") + "torch-2.0.1.data/scripts/x,sha256=0,1\n"

    assert package_rules.altered_files(image, WHEEL, own, VENV) == []
    assert package_rules.altered_files(image, WHEEL, true, VENV) == [
        f"/{SITE}/torch/version.py: is not what the locked wheel holds"
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Version: 1", "Version: 2"),
        ("amd64", "arm64"),
        ("install ok installed", "install ok half-configured"),
        ("Package: dash", "Package: bash"),
    ],
)
def test_dpkg_database_is_the_lock(layout: Layout, tmp_path: Path, old: str, new: str) -> None:
    layout.put("var/lib/dpkg/status", STATUS.replace(old, new).encode(), layer=0)

    assert package_faults(layout.write(tmp_path)) != []


def test_order_and_parents_are_checked_within_each_layer(layout: Layout, tmp_path: Path) -> None:
    layout.layers[1] = dict(reversed(layout.layers[1].items()))
    faults = layer_rules.order(layout.write(tmp_path, as_is=True))

    assert any("comes after" in fault for fault in faults)
    assert any("has no directory /opt/venv before it" in fault for fault in faults)


def test_gnu_headers_are_seen(layout: Layout, tmp_path: Path) -> None:
    layout.put(f"opt/{'n' * 120}")
    assert layer_rules.headers(layout.write(tmp_path / "pax")) == []

    layout.tar_format = tarfile.GNU_FORMAT
    assert layer_rules.headers(layout.write(tmp_path / "gnu")) != []


def test_clock_of_gzip_is_seen(layout: Layout, tmp_path: Path) -> None:
    layout.gzip_time = 1

    assert len(clocks(layout.write(tmp_path))) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"manifest": {"mediaType": "application/vnd.docker.distribution.manifest.v2+json"}},
        {"index": {"mediaType": "application/json"}},
    ],
)
def test_media_types_are_those_of_oci(
    layout: Layout, tmp_path: Path, change: dict[str, Any]
) -> None:
    for name, value in change.items():
        setattr(layout, name, value)

    assert contract.form(layout.write(tmp_path)) != []


def test_layer_that_changed_in_the_layout_is_seen(layout: Layout, tmp_path: Path) -> None:
    digest = layout.write(tmp_path).layers[0].digest
    other = Layout(layers=[{"x": entry("x")}]).write(tmp_path / "other").layers[0].digest
    data = (tmp_path / "other/blobs/sha256" / other).read_bytes()
    (tmp_path / "blobs/sha256" / digest).write_bytes(data)

    faults = contract.form(read_layout(tmp_path))

    assert [fault.rpartition(":")[2] for fault in faults] == [
        " its bytes are not those that the manifest names",
        " its tar is not the one that the config names",
    ]


@pytest.mark.parametrize("damage", ["no layout", "cut", "not gzip", "config"])
def test_broken_layout_is_refused_with_its_name(
    layout: Layout, tmp_path: Path, damage: str
) -> None:
    image = layout.write(tmp_path)
    blob = tmp_path / "blobs/sha256" / image.layers[0].digest
    if damage == "no layout":
        (tmp_path / "index.json").unlink()
    elif damage == "cut":
        blob.write_bytes(blob.read_bytes()[:-200])
    elif damage == "not gzip":
        blob.write_bytes(b"x" * 2000)
    else:
        name = image.manifest["config"]["digest"].partition(":")[2]
        (tmp_path / "blobs/sha256" / name).write_text("{}")

    with pytest.raises(ArchiveError, match=str(tmp_path)):
        read_layout(tmp_path)


def bytecode_faults(folder: Path) -> str:
    """Run the script that looks at bytecode, as the image's Python would."""
    command = [sys.executable, str(BYTECODE_SCRIPT), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_bytecode_is_compared_with_its_source(tmp_path: Path) -> None:
    module, template = tmp_path / "module.py", tmp_path / "template.py"
    module.write_text("x = 1\n")
    template.write_text("def {{ name }}: pass\n")  # compiles for nobody, so it needs no bytecode
    compile_all = [
        sys.executable,
        "-m",
        "compileall",
        "-q",
        "--invalidation-mode",
        "unchecked-hash",
    ]
    subprocess.run([*compile_all, str(module)], check=True)
    assert bytecode_faults(tmp_path) == ""

    module.write_text("x = 2\n")
    assert bytecode_faults(tmp_path) == f"{module}: its bytecode is of another source\n"

    bytecode = next(tmp_path.glob("__pycache__/*.pyc"))
    bytecode.write_bytes(b"\0" * 4 + bytecode.read_bytes()[4:])
    assert bytecode_faults(tmp_path) == f"{module}: its bytecode is another Python's\n"

    bytecode.unlink()
    assert bytecode_faults(tmp_path) == f"{module}: has no bytecode\n"


@needs_sandbox
def test_backend_quotes_and_runs_in_the_sandbox(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("grüße")
    box = Sandbox(
        root=Path("/"),
        env={"PATH": "/usr/bin:/bin", "NAME": "value"},
        uid=12345,
        mounts=(Mount(source=tmp_path, target="/run/mounted"),),
    )
    host = backend.host(box)

    assert host.run("printf '%%s|' %s %s", "two $NAME", "it's").stdout == "two $NAME|it's|"
    assert host.run("exit 7").rc == 7
    assert host.check_output("id -u") == "12345"
    assert host.environment()["NAME"] == "value"
    assert host.file("/run/mounted/here").content_string == "grüße"
    assert host.run("touch /run/mounted/there").failed


TESTS = """
import pytest
def test_good(request): assert request.config.getoption("--variant") == "cpu"
def test_bad(request): assert request.config.getoption("--layout") == "elsewhere"
def test_skipped(): pytest.skip("no reason")
"""
OPTIONS = """
def pytest_addoption(parser):
    for name in ("--layout", "--tree", "--variant", "--blobs"): parser.addoption(name)
"""


def subject(folder: Path, tests: str) -> tuple[Job, Image]:
    """Return a project whose tests/image holds `tests`, and an image without layers."""
    project = folder / "project"
    (project / "tests/image").mkdir(parents=True)
    (project / "tests/image/conftest.py").write_text(OPTIONS)
    (project / "tests/image/test_it.py").write_text(tests)
    job = Job(
        project=project,
        store=Store(folder / "store"),
        base=Base(release="bookworm", python="3.11", packages=()),
        variant=Variant(id="cpu", torch="2.0.1", cuda=None, index=None, packages=()),
        lock=CPU_LOCK,
        base_lock=BASE_LOCK,
    )
    image = Image(
        variant="cpu",
        reference="torchkiln:cpu",
        digest="0",
        config="0",
        layout=folder / "layout",
        layers=(),
        environment={},
    )
    return job, image


@needs_sandbox
def test_verify_names_what_failed_and_what_was_skipped(tmp_path: Path) -> None:
    job, image = subject(tmp_path, TESTS)

    with pytest.raises(VerifyError) as caught:
        verify(job, image)

    assert "FAILED test_it::test_bad: " in caught.value.why
    assert "skipped test_it::test_skipped: no reason" in caught.value.why
    assert "1 passed, 1 failed, 1 skipped in " in caught.value.why
    assert f"--layout {image.layout}" in caught.value.hint


@needs_sandbox
def test_verify_returns_what_passed_and_keeps_the_report(tmp_path: Path) -> None:
    job, image = subject(tmp_path, TESTS.replace('== "elsewhere"', "!= None"))

    found = verify(job, image, junit=tmp_path / "junit.xml")

    assert found.passed == ("test_it::test_good", "test_it::test_bad")
    assert found.failed == {}
    assert (tmp_path / "junit.xml").is_file()
    assert not list(job.project.rglob(".pytest_cache"))


@needs_sandbox
@pytest.mark.parametrize("tests", ["import nothing_like_this\n", ""])
def test_verify_without_a_test_that_ran_is_an_error(tmp_path: Path, tests: str) -> None:
    job, image = subject(tmp_path, tests)

    with pytest.raises(VerifyError, match="could not run"):
        verify(job, image)
