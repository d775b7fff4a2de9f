from __future__ import annotations

import pytest

from torchkiln.doctor.requirements import Requirement, holds, requirements

LINUX = {
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "sys_platform": "linux",
    "python_version": "3.11",
    "python_full_version": "3.11.0",
    "extra": "",
}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("numpy", Requirement(name="numpy")),
        ("Typing_Extensions >=4.10.0", Requirement(name="typing-extensions", versions=">=4.10.0")),
        ("triton (==2.0.0)", Requirement(name="triton", versions="==2.0.0")),
        (
            'nvidia-cudnn-cu12==9.1.0.70; platform_system == "Linux"',
            Requirement(
                name="nvidia-cudnn-cu12",
                versions="==9.1.0.70",
                marker='platform_system == "Linux"',
            ),
        ),
        (
            "cuda-toolkit[cublas, cudart]==13.0.2 ; sys_platform == 'linux'",
            Requirement(
                name="cuda-toolkit",
                versions="==13.0.2",
                extras=("cublas", "cudart"),
                marker="sys_platform == 'linux'",
            ),
        ),
        (
            "cuda-bindings<14,>=13.0.3",
            Requirement(name="cuda-bindings", versions="<14,>=13.0.3"),
        ),
    ],
)
def test_a_requirement_is_read_as_metadata_writes_it(line: str, expected: Requirement) -> None:
    assert [expected] == list(requirements([line, "@@@"]))


@pytest.mark.parametrize(
    "marker",
    [
        'platform_system == "Linux" and platform_machine == "x86_64"',
        '(sys_platform == "win32" or sys_platform == "linux") and python_version < "3.13"',
        "python_version >= '3.9'",
        "python_full_version <= '3.11'",
        "'linux' in sys_platform and platform_machine not in 'arm64 aarch64'",
        '"3.11" >= python_version',
    ],
)
def test_a_marker_holds(marker: str) -> None:
    assert holds(marker, LINUX)


@pytest.mark.parametrize(
    "marker",
    [
        'platform_machine == "aarch64"',
        'python_version > "3.9" and sys_platform != "linux"',
        "python_version < '3.9'",
        "extra == 'opt-einsum'",
        "unknown == 'x'",
        "python_version ~= '3.11'",
        "__import__('os')",
        "not extra",
        "'a' < 'b' < 'c'",
        "",
    ],
)
def test_a_marker_does_not_hold_or_cannot_be_read(marker: str) -> None:
    assert not holds(marker, LINUX)


def test_what_an_extra_requires_is_required_with_it_alone() -> None:
    (wanted,) = requirements(["nvidia-cublas==13.1.0.3 ; extra == 'cublas'"])

    assert not wanted.holds(LINUX)
    assert wanted.holds(LINUX, ("cudart", "cublas"))


@pytest.mark.parametrize(
    ("versions", "there", "other"),
    [
        ("==13.0.96", "13.0.96", False),
        ("==13.0.96", "13.0.9", True),
        ("==13.0.3", "13.0.3.0", False),
        ("==13", "13.0.0", False),
        ("==13", "130", True),
        ("==2.1", "2.1+git1", False),
        ("==2.1+cu118", "2.1+cu118", False),
        ("==2.1+cu118", "2.1+cu121", True),
        ("==13.0.*", "13.0.96", False),
        ("==13.0.*", "13.01", True),
        (">=13", "12", False),
        ("", "12", False),
    ],
)
def test_a_pin_is_of_one_version_or_of_one_series(versions: str, there: str, other: bool) -> None:  # noqa: FBT001
    assert other is Requirement(name="x", versions=versions).pins_other(there)
