"""What the doctor says where `import torch` fails, and where torch does not lie as installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from doctor_environments import TORCH, Venv, make, make_prefix, plain, torch_wheel, wheel
from doctor_machines import a_system, with_gpus

if TYPE_CHECKING:
    from pathlib import Path

SYMBOL = "undefined symbol: __nvJitLinkAddData_12_1, version libnvJitLink.so.12"
# What the loader does: a library on LD_LIBRARY_PATH is taken before torch's own.
LOADS_FROM_PATH = f"""\
import os
for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":"):
    if os.path.exists(os.path.join(folder, "libnvJitLink.so.12")):
        raise ImportError("libcusparse.so.12: {SYMBOL}")
"""
STATIC_TLS = """\
import os
library = os.path.join(os.path.dirname(__file__), "lib/libgomp-d22c30c5.so.1")
if library not in os.environ.get("LD_PRELOAD", ""):
    raise ImportError(library + ": cannot allocate memory in static TLS block")
"""
# Intel's runtime ends the process where it finds itself loaded already.
TWICE = """\
import os
if "libiomp5.so" not in os.environ.get("LD_PRELOAD", ""):
    words = "OMP: Error #15: Initializing libiomp5.so, but found libiomp5.so already initialized."
    os.write(2, words.encode())
    os.abort()
"""
# MKL loads Intel's runtime unless it is told to take GNU's.
MAPS = """\
import mmap, os
kept = []
gnu = os.environ.get("MKL_THREADING_LAYER") == "GNU"
for path in {paths}[: 1 if gnu else 2]:
    with open(path, "rb") as file:
        kept.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
"""


@pytest.fixture
def environment(tmp_path: Path) -> Venv:
    return make(tmp_path)


@pytest.mark.parametrize("rest", ["", "/opt/mine/lib"])
def test_a_folder_of_cuda_on_ld_library_path_is_taken_off_it(
    environment: Venv, tmp_path: Path, rest: str
) -> None:
    """Failure 4."""
    environment.install(torch_wheel(tmp_path, "2.4.1", "12.1", LOADS_FROM_PATH + TORCH))
    cuda = tmp_path / "cuda-12.0/lib64"
    cuda.mkdir(parents=True)
    (cuda / "libnvJitLink.so.12").touch()
    environment.environ["LD_LIBRARY_PATH"] = f"{cuda}:{rest}" if rest else str(cuda)
    assert SYMBOL in environment.examine()[0].outcome.evidence
    assert environment.recovers("library-path")
    assert environment.environ.get("LD_LIBRARY_PATH", "") == rest
    assert {} == environment.complaints()


def test_a_folder_of_cuda_that_does_no_harm_is_no_complaint(
    environment: Venv, tmp_path: Path
) -> None:
    environment.install(torch_wheel(tmp_path, "2.4.1", "12.1"))
    (tmp_path / "libnvJitLink.so.12").touch()
    environment.environ["LD_LIBRARY_PATH"] = str(tmp_path)
    assert {} == environment.complaints()


@pytest.mark.parametrize("body", [STATIC_TLS, TWICE])
def test_an_openmp_runtime_that_is_late_or_there_twice_is_loaded_first(
    environment: Venv, tmp_path: Path, body: str
) -> None:
    """Failure 18."""
    environment.install(torch_wheel(tmp_path, "2.7.1+cpu", None, body + TORCH))
    (environment.site / "torch/lib").mkdir()
    for name in ("libgomp-d22c30c5.so.1", "libiomp5.so"):
        (environment.site / "torch/lib" / name).touch()
    assert environment.recovers("openmp")


def test_two_openmp_runtimes_are_doubtful(environment: Venv, tmp_path: Path) -> None:
    """They are read in the process that has imported torch."""
    paths = [tmp_path / "libgomp.so.1", tmp_path / "libiomp5.so"]
    for path in paths:
        path.write_bytes(b"x" * 4096)
    body = TORCH + MAPS.format(paths=[str(path) for path in paths])
    environment.install(torch_wheel(tmp_path, "2.7.1+cpu", None, body))
    assert {"openmp": "`import torch` loads libgomp and libiomp5"} == environment.complaints()
    environment.mend(environment.examine()[0].outcome.remedy)
    assert {} == environment.complaints()


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("libtorch_cpu.so: undefined symbol: iJIT_NotifyEvent", "'mkl<2024.1'"),
        ("libstdc++.so.6: version `GLIBCXX_3.4.29' not found", "libstdcxx-ng"),
    ],
)
def test_what_conda_mends_is_installed_by_conda(tmp_path: Path, words: str, remedy: str) -> None:
    prefix = make_prefix(tmp_path)
    mended = tmp_path / "mended"
    body = f"import os\nif not os.path.exists({str(mended)!r}):\n    raise ImportError({words!r})\n"
    prefix.install(torch_wheel(tmp_path, "2.2.2", "12.1", body + TORCH))
    prefix.program("conda", f"touch {mended}")
    assert remedy in prefix.examine()[0].outcome.remedy
    assert prefix.recovers("import-known")


def test_a_requirement_that_is_missing_is_installed(environment: Venv) -> None:
    body = "import typing_extensions\n" + TORCH
    wanted = ("typing-extensions>=4.10.0", 'setuptools ; extra == "all"')
    environment.install(torch_wheel(environment.wheels, "2.13.0+cpu", None, body, wanted))
    files = {"typing_extensions.py": ""}
    wheel(environment.wheels, "typing_extensions", "4.15.0", files)
    assert environment.recovers("import-known")


def test_a_requirement_that_is_too_old_is_replaced(environment: Venv) -> None:
    body = "from typing_extensions import ParamSpec\n" + TORCH
    wanted = ("typing-extensions>=4.10.0",)
    environment.install(torch_wheel(environment.wheels, "2.13.0+cpu", None, body, wanted))
    old = {"typing_extensions.py": ""}
    environment.install(wheel(environment.wheels, "typing_extensions", "3.7.4", old))
    new = {"typing_extensions.py": "ParamSpec = None\n"}
    wheel(environment.wheels, "typing_extensions", "4.15.0", new)
    assert environment.recovers("import-known")


@pytest.mark.parametrize("installer", ["conda", ""])
def test_a_torch_of_conda_alone_is_no_complaint(tmp_path: Path, installer: str) -> None:
    """Conda writes the prefix into programs, and its older packages name no installer."""
    prefix = make_prefix(tmp_path)
    prefix.install(torch_wheel(tmp_path, "2.5.1", "12.4"))
    (prefix.folder / "conda-meta/pytorch-2.5.1-py3.11_cuda12.4_0.json").write_text("{}")
    info = prefix.site / "torch-2.5.1.dist-info"
    if installer:
        (info / "INSTALLER").write_text(installer)
    with (info / "RECORD").open("a") as record:
        record.write("../../../bin/torchrun,sha256=x,1\n")
    (prefix.folder / "bin/torchrun").write_text("#!/long/prefix/bin/python\n")
    assert {} == prefix.complaints()


def test_a_torch_that_hangs_with_ld_library_path_is_no_crash_of_the_doctor(
    environment: Venv, tmp_path: Path
) -> None:
    environment.install(torch_wheel(tmp_path, "2.4.1", "12.1", "import time; time.sleep(60)\n"))
    environment.environ["LD_LIBRARY_PATH"] = str(tmp_path)
    environment.patience = 2.0
    assert {"torch-imports": "no answer in 2 s"} == environment.complaints()


def test_a_file_of_this_folder_that_hides_torch_is_renamed(
    environment: Venv, tmp_path: Path
) -> None:
    environment.install(torch_wheel(tmp_path, "2.13.0+cpu", None))
    work = tmp_path / "my work"
    work.mkdir()
    (work / "torch.py").write_text("x = 1\n")
    environment.environ["PWD"] = str(work)
    first = environment.examine()[0]
    assert first.check.id == "current-folder"
    environment.mend(first.outcome.remedy)
    assert [one.name for one in work.iterdir()] == ["my_torch.py"]


def test_a_torch_of_pip_over_one_of_conda_is_taken_away(tmp_path: Path) -> None:
    """Failure 23."""
    prefix = make_prefix(tmp_path)
    path = torch_wheel(prefix.wheels, "2.7.1", "12.6")
    prefix.mend(f"{prefix.python} -m pip install {path}")
    (prefix.folder / "conda-meta/pytorch-2.6.0-cuda126_py311_0.json").write_text("{}")
    # Stands for conda: it puts its own files there, with its own name as their installer.
    conda = torch_wheel(tmp_path, "2.6.0", "12.6")
    unpack = f"{prefix.python} -m zipfile -e {conda} {prefix.site}"
    info = prefix.site / "torch-2.6.0.dist-info"
    prefix.program("conda", f"{unpack} && echo conda >{info}/INSTALLER")
    first = prefix.examine()[0]
    assert first.outcome.evidence == (
        "conda has pytorch-2.6.0-cuda126_py311_0, and pip put torch 2.7.1 over it"
    )
    assert prefix.recovers("pip-over-conda")
    assert {} == prefix.complaints()


@pytest.mark.parametrize("damage", ["missing", "shorter"])
def test_files_of_torch_that_are_missing_or_cut_are_installed_again(
    environment: Venv, damage: str
) -> None:
    environment.install(torch_wheel(environment.wheels, "2.13.0+cpu", None))
    file = environment.site / "torch/version.py"
    file.unlink() if damage == "missing" else file.write_text("")
    assert environment.recovers("torch-files")
    assert {} == environment.complaints()


def test_what_an_interrupted_installation_left_is_removed(environment: Venv) -> None:
    (environment.site / "~orch-2.13.0.dist-info").mkdir()
    found = environment.complaints()
    assert list(found) == ["leftovers"]
    environment.mend(environment.examine()[0].outcome.remedy)
    assert {} == environment.complaints()


@pytest.mark.parametrize("there", [None, "8.9.2.26"])
def test_wheels_of_nvidia_that_torch_requires_are_installed(
    environment: Venv, there: str | None
) -> None:
    pin = 'nvidia-cudnn-cu12 (==9.1.0.70) ; platform_system == "Linux"'
    environment.install(torch_wheel(environment.wheels, "2.6.0", "12.4", TORCH, [pin]))
    if there:
        environment.install(plain(environment.wheels, "nvidia_cudnn_cu12", there))
    plain(environment.wheels, "nvidia_cudnn_cu12", "9.1.0.70")
    assert environment.recovers("cuda-wheels")


def test_torch_compile_wants_a_compiler_and_headers(environment: Venv) -> None:
    """Failure 15."""
    environment.install(torch_wheel(environment.wheels, "2.13.0+cpu", None))
    (environment.tools / "c++").unlink()
    environment.environ["PATH"] = str(environment.tools)
    assert {"compile": "there is no C++ compiler"} == environment.complaints()
    # Stands for apt-get, or sudo with it.
    for name in ("apt-get", "sudo"):
        environment.program(name, f"cp {environment.tools}/sudo {environment.tools}/c++")
    found = next(one for one in environment.examine() if one.check.id == "compile")
    environment.environ["PATH"] += ":/usr/bin:/bin"
    environment.mend(found.outcome.remedy)
    environment.environ["PATH"] = str(environment.tools)
    assert {} == environment.complaints()


def test_torch_2_0_wants_libcuda_by_its_linkers_name(tmp_path: Path) -> None:
    """Failure 15, on a machine with a GPU."""
    machine = with_gpus(a_system(tmp_path / "machine"), "Tesla T4")
    environment = make(tmp_path, machine.root)
    body = TORCH.replace("lambda: False", "lambda: True")
    body = body.replace('raise RuntimeError("no GPU")', "return 0")
    environment.install(torch_wheel(tmp_path, "2.0.1", "11.7", body))
    assert list(environment.complaints()) == ["compile"]
    environment.program("sudo", 'exec "$@"')
    environment.mend(environment.examine()[0].outcome.remedy)
    assert {} == environment.complaints()


def test_a_torch_that_cannot_be_imported_is_installed_again(
    environment: Venv, tmp_path: Path
) -> None:
    environment.install(torch_wheel(tmp_path, "2.13.0+cpu", None, "import nowhere\n"))
    torch_wheel(environment.wheels, "2.13.0+cpu", None)
    first = environment.examine()[0]
    assert first.outcome.evidence == "ModuleNotFoundError: No module named 'nowhere'"
    assert environment.recovers("torch-imports")


@pytest.mark.parametrize(
    ("body", "evidence"),
    [
        ("import os; os.abort()", "ended by SIGABRT"),
        ("import ctypes; ctypes.string_at(0)", "ended by SIGSEGV"),
        ("import time; time.sleep(600)", "no answer in 1 s"),
    ],
)
def test_a_torch_that_crashes_or_hangs_crashes_no_doctor(
    environment: Venv, body: str, evidence: str
) -> None:
    environment.install(torch_wheel(environment.wheels, "2.13.0+cpu", None, body))
    if "no answer" in evidence:
        environment.patience = 1.0
    assert {"torch-imports": evidence} == environment.complaints()
