"""What the doctor says of an environment's torch and of what lies beside it."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest
from doctor_environments import TORCH, Venv, make, make_prefix, plain, torch_wheel, wheel
from doctor_machines import a_system, with_gpus

from torchkiln.doctor.pythons import find

if TYPE_CHECKING:
    from pathlib import Path

# What a torch does that has its own GPU.
COMPUTES = TORCH.replace("lambda: False", "lambda: True").replace(
    '    raise RuntimeError("no GPU")', "    return 0"
)


@pytest.fixture
def environment(tmp_path: Path) -> Venv:
    return make(tmp_path)


def with_driver(tmp_path: Path, gpu: str, driver: str = "580.95.05") -> Path:
    return with_gpus(a_system(tmp_path / "machine"), gpu, driver=driver).root


def test_an_environment_without_torch_is_no_complaint(environment: Venv) -> None:
    assert {} == environment.complaints()


@pytest.mark.parametrize(
    ("torch", "cuda", "others"),
    [
        ("2.13.0+cpu", None, {"numpy": "2.4.6"}),
        ("2.13.0", "13.0", {"torchvision": "0.28.0", "torchaudio": "2.11.0", "numpy": "2.4.6"}),
        ("2.0.1", "11.7", {"torchvision": "0.15.2", "torchaudio": "2.0.2", "numpy": "1.26.4"}),
        ("2.7.1+cu118", "11.8", {"torchvision": "0.22.1+cu118", "torchaudio": "2.7.1+cu118"}),
        ("2.13.0", "13.0", {"torchvision": "0.28.0+cu130"}),
        ("2.99.0", "14.0", {"torchvision": "0.99.0", "numpy": "3.0.0"}),
    ],
)
def test_a_healthy_environment_is_no_complaint(
    environment: Venv, torch: str, cuda: str | None, others: dict[str, str]
) -> None:
    environment.install(torch_wheel(environment.wheels, torch, cuda))
    for name, version in others.items():
        environment.install(plain(environment.wheels, name, version))
    assert {} == environment.complaints()


def test_a_cpu_build_beside_a_gpu_is_replaced_by_one_for_it(tmp_path: Path) -> None:
    """Failure 1."""
    environment = make(tmp_path, with_driver(tmp_path, "Tesla T4"))
    environment.install(torch_wheel(tmp_path, "2.7.1+cpu", None))
    torch_wheel(environment.wheels, "2.7.1+cu128", "12.8", COMPUTES)
    assert environment.recovers("cpu-build")


def test_a_cpu_build_beside_an_old_driver_is_replaced_by_what_it_runs(tmp_path: Path) -> None:
    environment = make(tmp_path, with_driver(tmp_path, "Tesla T4", "470.82.01"))
    environment.install(torch_wheel(tmp_path, "2.7.1+cpu", None))
    assert "/whl/cu118 torch==2.7.1+cu118" in environment.examine()[0].outcome.remedy


@pytest.mark.parametrize(
    ("gpu", "version", "cuda", "right"),
    [
        ("NVIDIA GeForce RTX 5090", "2.7.1+cu126", "12.6", "2.7.1+cu128"),  # too new
        ("Tesla P100-PCIE-16GB", "2.9.1+cu130", "13.0", "2.9.1+cu126"),  # too old
    ],
)
def test_a_build_without_code_for_the_gpu_is_replaced(
    tmp_path: Path, gpu: str, version: str, cuda: str, right: str
) -> None:
    """Failure 3."""
    environment = make(tmp_path, with_driver(tmp_path, gpu))
    environment.install(torch_wheel(tmp_path, version, cuda))
    digits = right.rpartition("+cu")[2]
    torch_wheel(environment.wheels, right, f"{digits[:-1]}.{digits[-1]}", COMPUTES)
    assert environment.recovers("gpu-code")


def test_ptx_serves_a_gpu_that_is_newer_than_all_machine_code(tmp_path: Path) -> None:
    environment = make(tmp_path, with_driver(tmp_path, "NVIDIA GeForce RTX 5090"))
    body = COMPUTES.replace("lambda: []", "lambda: ['sm_90', 'compute_90']")
    environment.install(torch_wheel(tmp_path, "2.7.1+cu126", "12.6", body))
    assert "gpu-code" not in environment.complaints()


@pytest.mark.parametrize(
    ("torch", "cuda", "wrong", "right"),
    [
        ("2.13.0", "13.0", "torchvision 0.27.0", "torchvision 0.28.0"),
        ("2.13.0+cpu", None, "torchvision 0.28.0 +cu130", "torchvision 0.28.0+cpu"),
        ("2.7.1+cu118", "11.8", "torchvision 0.22.1+cu128", "torchvision 0.22.1+cu118"),
        ("2.0.1", "11.7", "torchaudio 2.1.0", "torchaudio 2.0.2"),
        ("2.13.0+cpu", None, "torchaudio 2.11.1 +cu132", "torchaudio 2.11.0+cpu"),
        ("2.15.0", "13.2", "torchaudio 2.11.0 +cu130", "torchaudio 2.11.1"),
        ("2.13.0+cpu", None, "torchcodec 0.17.0 +cu130", "torchcodec 0.13.0"),
        ("2.13.0", "13.0", "torchvision 0.28.0+cpu", "torchvision 0.28.0"),
    ],
)
def test_a_companion_of_another_torch_is_replaced(
    environment: Venv, torch: str, cuda: str | None, wrong: str, right: str
) -> None:
    """Failure 5; a build that only the package itself tells stands apart."""
    environment.install(torch_wheel(environment.wheels, torch, cuda))
    path = companion(environment, *wrong.split())
    environment.install(path)
    path.unlink()  # else pip would take the same one again
    companion(environment, *right.split())
    assert environment.recovers("companions")


def companion(environment: Venv, name: str, version: str, build: str = "") -> Path:
    """Write the wheel of a companion that says its build in version.py, as all of them do."""
    files = {f"{name}/__init__.py": "", f"{name}/version.py": f"__version__ = '{version}{build}'\n"}
    return wheel(environment.wheels, name, version, files)


def test_a_companion_that_nothing_fits_for_is_removed(environment: Venv) -> None:
    environment.install(torch_wheel(environment.wheels, "2.13.0+cpu", None))
    environment.install(companion(environment, "torchtext", "0.18.0", "+cpu"))
    assert environment.recovers("companions")
    assert not (environment.site / "torchtext").exists()


def test_every_companion_that_does_not_fit_is_named_at_once(environment: Venv) -> None:
    environment.install(torch_wheel(environment.wheels, "2.13.0+cpu", None))
    environment.install(companion(environment, "torchvision", "0.28.0", "+cu130"))
    environment.install(companion(environment, "torchaudio", "2.11.1", "+cu132"))
    environment.install(companion(environment, "torchcodec", "0.13.0", "+cpu"))
    assert environment.complaints() == {
        "companions": "torchaudio 2.11.1 (built for CUDA 13.2) and"
        " torchvision 0.28.0 (built for CUDA 13.0) beside torch 2.13.0+cpu"
    }


def test_a_user_site_that_hides_the_environment_is_left_out(tmp_path: Path) -> None:
    """Failure 6."""
    prefix = make_prefix(tmp_path)
    prefix.install(torch_wheel(prefix.wheels, "2.13.0+cpu", None))
    user = tmp_path / "user"
    prefix.environ["PYTHONUSERBASE"] = str(user)
    target = user / prefix.site.relative_to(prefix.folder)
    prefix.install(torch_wheel(prefix.wheels, "2.0.1", "11.7"), target)
    assert prefix.recovers("user-site")


def test_a_user_site_with_a_torch_of_its_own_is_no_complaint(tmp_path: Path) -> None:
    prefix = make_prefix(tmp_path)
    prefix.environ["PYTHONUSERBASE"] = str(tmp_path / "user")
    target = tmp_path / "user" / prefix.site.relative_to(prefix.folder)
    prefix.install(torch_wheel(prefix.wheels, "2.13.0+cpu", None), target)
    assert {} == prefix.complaints()


def test_a_folder_of_pythonpath_that_hides_the_environment_is_left_out(
    environment: Venv, tmp_path: Path
) -> None:
    environment.install(torch_wheel(tmp_path, "2.13.0+cpu", None))
    environment.install(torch_wheel(tmp_path, "2.0.1", "11.7"), tmp_path / "other")
    environment.environ["PYTHONPATH"] = str(tmp_path / "other")
    assert environment.recovers("pythonpath")


def test_numpy_2_beside_an_older_torch_is_replaced(environment: Venv) -> None:
    """Failure 7, on stubs; the real wheels are in tests/build."""
    environment.install(torch_wheel(environment.wheels, "2.0.1", "11.7"))
    environment.install(plain(environment.wheels, "numpy", "2.4.6"))
    plain(environment.wheels, "numpy", "1.26.4")
    assert environment.recovers("numpy-abi")


def test_a_python_that_is_gone_is_named(environment: Venv) -> None:
    environment.python.unlink()
    environment.python.symlink_to("/nowhere/python3")
    first = environment.examine()[0]
    assert (first.check.id, first.outcome.verdict) == ("python-starts", "problem")
    assert "No such file" in first.outcome.evidence


def test_a_prefix_whose_python_does_not_start_is_left_as_it_is(tmp_path: Path) -> None:
    """`venv --upgrade` would make a virtual environment of conda's prefix, or of /usr."""
    prefix = make_prefix(tmp_path)
    prefix.python.unlink()
    prefix.python.symlink_to("/nowhere/python3")
    first = prefix.examine()[0]
    assert (first.check.id, first.outcome.remedy) == ("python-starts", "")


def test_a_pythonhome_of_another_python_is_unset(environment: Venv) -> None:
    environment.environ["PYTHONHOME"] = "/nowhere"
    assert environment.recovers("python-starts")


# Pythons as they describe themselves, where torch has no wheels for them.
FOREIGN: dict[str, dict[str, object]] = {
    "3.6": {"version": "3.6.15"},
    "3.99": {"version": "3.99.0"},
    "musl": {"libc": ""},
    "32 bits": {"bits": 32},
    "PyPy": {"implementation": "PyPy"},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_python_that_torch_has_no_wheels_for_is_named(
    environment: Venv, tmp_path: Path, kind: str
) -> None:
    """Failure 8; the remedy makes an environment with one that it has."""
    disguise(environment.python, FOREIGN[kind])
    # Stands for uv, which would download a Python.
    environment.program("uv", UV.format(python=sys.executable))
    first = environment.examine()[0]
    assert first.check.id == "python-wheels"
    environment.mend(first.outcome.remedy)
    environment.folder = next(tmp_path.glob("environment-3.*"))
    assert {} == environment.complaints()


UV = """\
for last; do :; done
{python} -m venv --without-pip "$last"
"""
LIAR = '''\
#!/bin/sh
{real} "$@" | {real} -c '
import json, sys
print(json.dumps({{**json.load(sys.stdin), **json.loads(r"""{facts}""")}}))'
'''


def disguise(python: Path, facts: dict[str, object]) -> None:
    """Let a Python describe itself otherwise."""
    real = python.rename(python.with_name("real"))
    python.write_text(LIAR.format(real=real, facts=json.dumps(facts)))
    python.chmod(0o755)


def test_the_active_environment_is_examined(environment: Venv) -> None:
    active = {"VIRTUAL_ENV": str(environment.folder), "PATH": os.defpath}
    assert find("", active) == environment.python
    assert find("", {"CONDA_PREFIX": str(environment.folder), "PATH": ""}) == environment.python


def test_an_environment_is_named_by_its_folder_or_its_python(environment: Venv) -> None:
    assert find(str(environment.folder), {}) == environment.python
    assert find(str(environment.python), {}) == environment.python
    assert find("/nowhere", {}) is None


def test_a_folder_of_path_that_is_closed_to_this_user_is_passed_over(tmp_path: Path) -> None:
    """As that of root is to a user who got root's PATH; a name too long is refused to root too."""
    closed = tmp_path / ("x" * 300)
    assert find("", {"PATH": f"{closed}{os.pathsep}{tmp_path}"}) is None


def test_torchkilns_own_python_is_not_what_anyone_means(environment: Venv) -> None:
    own = f"{sys.prefix}/bin{os.pathsep}{environment.folder}/bin"
    assert find("", {"PATH": own, "VIRTUAL_ENV": sys.prefix}) == environment.folder / "bin/python3"
