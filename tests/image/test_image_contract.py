"""The 12-point contract of an image that runs anywhere; `torchkiln.contract` has the static part.

Each point has a test `static`, over the layers and the config, and one or more `live`, in the
sandbox, where there is something that only a running container shows.
"""

from __future__ import annotations

import base64
import json
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from torchkiln import contract
from torchkiln.sandbox import Mount

if TYPE_CHECKING:
    from collections.abc import Callable

    from expected import Expected

    from torchkiln.backend import Host
    from torchkiln.engine.connection import Engine
    from torchkiln.listing import ImageListing

_INSIDE = Path(__file__).parent / "inside"
_ENTRY = "/opt/torchkiln/bin/entrypoint"
_WORDS = ("torchkiln: ", "           ")  # of /opt/torchkiln/bin/check-machine
_STRANGER = 12345
_CGROUP = "/sys/fs/cgroup"


def test_contract_01_user_static(image: ImageListing) -> None:
    """The user is numeric with group 0; owners and modes let anyone read everything."""
    assert contract.user(image) == []


def test_contract_01_user_live(host: Host, image: ImageListing) -> None:
    """Processes are the user that the config names, and it may write to the working directory."""
    assert host.check_output("echo $(id -u):$(id -g)") == image.runtime["User"]
    assert host.file(image.runtime["WorkingDir"]).mode == 0o1777


def test_contract_02_places_static(image: ImageListing) -> None:
    """No file lies in a folder that runtimes mount over; nor do programs and PATH."""
    assert contract.places(image) == []


def test_contract_02_places_live(run_as: Callable[..., Host], tmp_path: Path) -> None:
    """With nothing in these folders (/tmp, /run and /dev are the sandbox's own) PyTorch loads."""
    hidden = ("/home", "/mnt", "/root", "/var/tmp")  # noqa: S108 - paths of the image
    mounts = tuple(Mount(source=tmp_path, target=folder) for folder in hidden)

    done = run_as(mounts=mounts).run("python -c 'import torch'")

    assert (done.rc, done.stderr) == (0, "")


def test_contract_03_read_only_static(image: ImageListing) -> None:
    """All bytecode is unchecked hash-based with its source beside it, and none is written."""
    assert contract.read_only(image) == []


def test_contract_03_read_only_live(run_as: Callable[..., Host]) -> None:
    """A model trains where only /tmp can be written to."""
    host = run_as(mounts=(Mount(source=_INSIDE / "train.py", target="/run/train.py"),))
    assert host.run("touch /opt/venv/x").rc != 0

    first, last = map(float, host.check_output("python /run/train.py").split())

    assert last < first


def test_contract_04_any_uid_static(image: ImageListing) -> None:
    """Name, home and caches are set, and in a place that anyone can write to."""
    assert contract.any_uid(image) == []


def test_contract_04_any_uid_live(run_as: Callable[..., Host], engine: Engine | None) -> None:
    """A uid that has no passwd entry has a name, and each of its folders can be made."""
    host = run_as(uid=_STRANGER)
    if not (engine and engine.podman):  # which adds an entry for whoever starts a container
        assert host.run("getent passwd %s", str(_STRANGER)).rc != 0

    user = host.check_output("python -c 'import torch, getpass; print(getpass.getuser())'")
    made = host.run(" && ".join(f'mkdir -p "${name}/x"' for name in contract.CACHE_VARIABLES))

    assert user == host.environment()["USER"]
    assert (made.rc, made.stderr) == (0, "")


def test_contract_05_no_shadows_static(image: ImageListing) -> None:
    """PYTHONNOUSERSITE is set, PYTHONPATH is not, LD_LIBRARY_PATH holds the driver's places."""
    assert contract.no_shadows(image) == []


def test_contract_05_no_shadows_live(
    run_as: Callable[..., Host], expected: Expected, tmp_path: Path
) -> None:
    """A `~/.local` that Apptainer brings from the host hides nothing, with Debian's Python too."""
    site = tmp_path / f"lib/python{expected.base.python}/site-packages"
    site.mkdir(parents=True)
    (site / "numpy.py").write_text("origin = 'the user'\n")
    host = run_as(mounts=(Mount(source=tmp_path, target="/tmp/.local"),))  # noqa: S108

    found = host.check_output("python -c 'import numpy; print(numpy.__file__)'")

    assert found == f"/{expected.venv.site}/numpy/__init__.py"
    assert host.run("/usr/bin/python3 -c 'import numpy'").rc != 0


def test_contract_06_nvidia_variables_static(image: ImageListing, expected: Expected) -> None:
    """What NVIDIA's hooks read: there in a CUDA image, absent from a CPU image."""
    assert contract.nvidia_variables(image, expected.variant.cuda) == []


def test_contract_07_driver_libraries_static(image: ImageListing, expected: Expected) -> None:
    """Ldconfig's configuration names the places of the driver's libraries."""
    assert contract.driver_libraries(image, expected.variant.cuda) == []


def test_contract_07_driver_libraries_live(
    run_as: Callable[..., Host], host: Host, expected: Expected, tmp_path: Path
) -> None:
    """A libcuda.so.1 that GKE's device plugin mounts is found; without it there is none."""
    if expected.variant.cuda is None:
        pytest.skip("it is a CPU image")
    library = host.check_output("base64 /usr/lib/x86_64-linux-gnu/libz.so.1")
    (tmp_path / "libcuda.so.1").write_bytes(base64.b64decode(library))
    load = """python -c 'import ctypes; ctypes.CDLL("libcuda.so.1")'"""
    folder = contract.DRIVER_FOLDERS[1]
    with_driver = run_as(mounts=(Mount(source=tmp_path, target=folder),))

    assert host.run(load).rc != 0
    assert with_driver.run(load).rc == 0
    assert f"{folder}: (from " in with_driver.run("ldconfig -N -X -v").stdout


def test_contract_08_launchers_static(image: ImageListing, expected: Expected) -> None:
    """PYTORCH_VERSION is set; what launchers set (MASTER_*, RANK, OMP_NUM_THREADS) is not."""
    assert contract.launchers(image, expected.variant.torch) == []


@pytest.mark.parametrize(
    ("cpu_max", "before", "threads"),
    [
        ("50000 100000\n", "", "1"),
        ("150000 100000\n", "", "2"),
        ("800000 100000\n", "", "8"),
        ("150000 100000\n", "7", "7"),
        ("max 100000\n", "", ""),
        ("", "", ""),
    ],
)
def test_contract_08_launchers_live(
    run_as: Callable[..., Host],
    image: ImageListing,
    tmp_path: Path,
    *,
    cpu_max: str,
    before: str,
    threads: str,
) -> None:
    """The entry point caps OpenMP's threads to the cores that cgroup v2 grants, rounded up."""
    if cpu_max:
        (tmp_path / "cpu.max").write_text(cpu_max)
    environment = image.environment | ({"OMP_NUM_THREADS": before} if before else {})
    host = run_as(env=environment, mounts=(Mount(source=tmp_path, target=_CGROUP),))

    done = host.run(f"{_ENTRY} sh -c %s", 'echo "$OMP_NUM_THREADS"')

    # What the machine lacks (a GPU, shared memory) it may say, in two lines each.
    words = [line for line in done.stderr.splitlines() if not line.startswith(_WORDS)]
    assert (done.stdout.strip(), words) == (threads, [])


def test_contract_09_entry_point_static(image: ImageListing) -> None:
    """It is in exec form, a program of the image, and ends with `exec "$@"`."""
    assert contract.entry_point(image) == []


def test_contract_09_entry_point_live(host: Host) -> None:
    """It hands on arguments, exit code and process id, as if it were not there."""
    words = ["two words", "$HOME", "a'b", ""]
    command = " ".join([_ENTRY, "printf", "'%%s|'", *["%s"] * len(words)])
    kept = host.run(f'echo $$; exec {_ENTRY} sh -c "echo \\$\\$"').stdout.split()

    assert host.run(command, *words).stdout == "two words|$HOME|a'b||"
    assert host.run(f"{_ENTRY} sh -c 'exit 7'").rc == 7
    assert len(set(kept)) == 1


def test_contract_09_entry_point_speaks_live(
    run_as: Callable[..., Host], expected: Expected, tmp_path: Path
) -> None:
    """On a machine with a driver older than any CUDA, a CUDA image says so and a CPU image not."""
    for name, text in (
        ("proc/driver/nvidia/version", "NVRM version: Kernel Module  418.226.00  Jan 1 2022\n"),
        ("opt/torchkiln/gpus-without-code", ""),
        ("usr/local/nvidia/lib64/libcuda.so.1", ""),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "tmp").mkdir(mode=0o777)
    tmp_path.chmod(0o755)
    host = run_as(mounts=(Mount(source=tmp_path, target="/run/machine"),))

    words = host.check_output("HOME=/ /opt/torchkiln/bin/check-machine /run/machine")

    assert ("driver 418.226.00 is too old" in words) == bool(expected.variant.cuda)


def test_contract_09_entry_point_dropped_live(host: Host, expected: Expected) -> None:
    """Without it the same Python is found and the environment is the same."""
    with_it = host.check_output(f"{_ENTRY} env").splitlines()

    assert host.find_command("python") == f"/{expected.venv.prefix}/bin/python"
    assert set(with_it) - set(host.check_output("env").splitlines()) == set()


def test_contract_10_plain_system_static(image: ImageListing) -> None:
    """The few programs are there; no set-id bits, devices, hard links, case tricks."""
    assert contract.plain_system(image) == []


def test_contract_10_plain_system_live(host: Host) -> None:
    """Shell, ldconfig and getent are found; TZ and HTTPS's certificates work."""
    count = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"

    assert all(host.exists(name) for name in ("sh", "ldconfig", "getent"))
    assert host.check_output("getent passwd 0").startswith("root:")
    assert host.check_output("TZ=Asia/Tokyo date -d @0 +%H%Z") == "09JST"
    assert int(host.check_output("python -c %s", count)) > 100


def test_contract_11_form_static(own_layers: ImageListing) -> None:
    """One manifest for each platform, OCI's media types, gzip, at most 60 layers."""
    assert contract.form(own_layers) == []


def test_contract_12_limits_static(image: ImageListing) -> None:
    """The image sets no limits and has no /dev/shm of its own.

    InfiniBand's user libraries belong to multi-node variants, of which the catalog has none yet.
    """
    assert contract.limits(image) == []


def test_contract_12_limits_live(host: Host, engine: Engine | None) -> None:
    """The host's memlock limit arrives, and shared memory and semaphores work."""
    program = """
import json, multiprocessing, resource
from multiprocessing.shared_memory import SharedMemory
with multiprocessing.Lock():
    memory = SharedMemory(create=True, size=1 << 20)
memory.close(); memory.unlink()
print(json.dumps(resource.getrlimit(resource.RLIMIT_MEMLOCK)))
"""
    limits = json.loads(host.check_output("python -c %s", program))

    # An engine sets limits of its own, whatever the image.
    assert engine is not None or tuple(limits) == resource.getrlimit(resource.RLIMIT_MEMLOCK)
