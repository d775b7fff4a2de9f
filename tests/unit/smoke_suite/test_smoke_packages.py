from importlib.util import find_spec
from pathlib import Path

import packages
import pytest
from packages import import_errors, top_modules, version_fits


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (["torch/__init__.py", "torch/nn/__init__.py", "functorch/__init__.py"], "functorch torch"),
        (["six.py", "six-1.0.dist-info/RECORD"], "six"),
        (["_cffi_backend.cpython-311-x86_64-linux-gnu.so"], "_cffi_backend"),
        (["_argon2.abi3.so"], "_argon2"),
        (["mpl_toolkits/mplot3d/__init__.py"], "mpl_toolkits.mplot3d"),
        (["nvidia/__init__.py", "nvidia/cublas/__init__.py"], "nvidia"),
        (["nvidia/cu13/lib/libcublas.so.13", "nvidia/cu13/lib/libcheckpoint.so"], ""),
        (["../../../bin/ninja", "ninja-1.0.data/scripts/ninja", "distutils-precedence.pth"], ""),
        (["../../../share/example.py", "numpy.libs/libopenblas.so"], ""),
        (["torch/__pycache__/version.cpython-311.pyc"], ""),
    ],
)
def test_top_modules_are_the_outermost_that_can_be_imported(
    record: list[str], expected: str
) -> None:
    assert expected.split() == top_modules(record)


@pytest.mark.parametrize(
    ("installed", "locked", "fits"),
    [
        ("2.13.0", "2.13.0", True),
        ("2.13.0+cpu", "2.13.0", True),
        ("2.13.0+cpu", "2.13.0+cpu", True),
        ("2.13.0+cu130", "2.13.0+cpu", False),
        ("2.13.0", "2.13.0+cpu", False),
        ("2.13.1", "2.13.0", False),
    ],
)
def test_version_fits_as_pep_440_says(*, installed: str, locked: str, fits: bool) -> None:
    assert fits == version_fits(installed, locked)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder whose modules the importing process finds."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_modules_that_import_leave_no_error(modules: Path) -> None:
    (modules / "chatty.py").write_text("print('hello')\n")

    assert import_errors(["chatty", "json"]) == {}


def test_each_module_that_fails_is_named_with_its_error(modules: Path) -> None:
    (modules / "broken.py").write_text("raise RuntimeError('no such kernel')\n")
    (modules / "leaving.py").write_text("raise SystemExit(0)\n")
    expected = {"broken": "RuntimeError: no such kernel", "leaving": "SystemExit: 0"}

    assert expected == import_errors(["broken", "json", "leaving"])


def test_a_module_that_kills_the_process_is_named(modules: Path) -> None:
    (modules / "deadly.py").write_text("import os\nos.kill(os.getpid(), 11)\n")

    assert import_errors(["json", "deadly", "abc"]) == {"deadly": "ended its process with -11"}


def test_a_module_that_leaves_with_success_is_no_success(modules: Path) -> None:
    (modules / "quitting.py").write_text("import os\nos._exit(0)\n")

    assert import_errors(["quitting"]) == {"quitting": "ended its process with 0"}


def test_a_module_that_crashes_as_the_process_ends_is_named(modules: Path) -> None:
    (modules / "late.py").write_text("import atexit, os\natexit.register(os._exit, 3)\n")

    assert import_errors(["late"]) == {"late": "ended its process with 3"}


def test_pip_is_imported_after_setuptools() -> None:
    """Before Python 3.12, pip turns off the distutils that setuptools cannot do without."""
    if find_spec("setuptools") is None:  # looked for, not imported: see the rule
        pytest.skip("no setuptools in this environment")

    assert import_errors(["pip", "setuptools"]) == {}


def test_the_importing_program_needs_no_other_module_of_the_suite() -> None:
    source = Path(packages.__file__).read_text(encoding="utf-8")

    assert "from suite" not in source
