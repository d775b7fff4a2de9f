from pathlib import Path

import pytest
from devices import arch_runs, device_signs, devices_hidden, supported

CU117 = ("sm_37", "sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86")
"""The architectures of torch 2.0.1 from the default index."""


@pytest.mark.parametrize(
    ("arch", "capability", "runs"),
    [
        ("sm_86", (8, 6), True),
        ("sm_86", (8, 9), True),
        ("sm_86", (8, 0), False),
        ("sm_86", (9, 0), False),
        ("sm_90", (8, 6), False),
        ("sm_120", (12, 1), True),
        ("sm_120", (1, 20), False),
        ("sm_90a", (9, 0), True),
        ("sm_100a", (10, 3), False),
        ("sm_100f", (10, 3), True),
        ("sm_100f", (11, 0), False),
        ("compute_80", (9, 0), True),
        ("compute_90", (8, 9), False),
        ("compute_90a", (10, 0), False),
        ("compute_100f", (12, 0), False),
        ("gfx90a", (9, 0), False),
    ],
)
def test_code_runs_where_cuda_says_it_does(
    *, arch: str, capability: tuple[int, int], runs: bool
) -> None:
    assert runs == arch_runs(arch, capability)


@pytest.mark.parametrize(("capability", "expected"), [((8, 9), True), ((9, 0), False)])
def test_the_default_torch_for_cuda_11_7_runs_on_ada_and_not_on_hopper(
    *, capability: tuple[int, int], expected: bool
) -> None:
    assert expected == supported(CU117, capability)


def test_a_build_without_any_architecture_supports_nothing() -> None:
    assert not supported([], (8, 0))


def test_a_host_without_gpu_shows_no_sign(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    (tmp_path / "dev/nvidia-uvm").touch()

    assert device_signs(tmp_path) == []


def test_device_nodes_and_the_drivers_list_are_signs(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    (tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0").mkdir(parents=True)
    expected = ["/dev/nvidia0", "/proc/driver/nvidia/gpus/0000:01:00.0"]

    assert expected == device_signs(tmp_path)


@pytest.mark.parametrize(
    ("environment", "hidden"),
    [
        ({}, False),
        ({"CUDA_VISIBLE_DEVICES": ""}, True),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, True),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, True),
        ({"CUDA_VISIBLE_DEVICES": "0"}, False),
    ],
)
def test_devices_are_hidden_only_by_a_value_that_names_none(
    *, environment: dict[str, str], hidden: bool
) -> None:
    assert hidden == devices_hidden(environment)
