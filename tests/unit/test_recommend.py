"""Which variant which machine gets.

The table was worked out by hand from what is published: NVIDIA's minor-version
compatibility (11.x from 450.80.02, 12.x from 525.60.13, 13.x from 580; on Windows 452.39, 528.33,
580), the compute capability of each GPU, and the architectures that PyTorch's build scripts name
for each build. It knows nothing of the code that it judges.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from torchkiln import catalog
from torchkiln.errors import MachineError
from torchkiln.machine import Gpu, Machine, described
from torchkiln.recommend import Recommendation, as_json, recommend

CATALOG = catalog.load(Path(__file__).parents[2] / "images/variants.yaml")
LOCKED = {one.id for one in CATALOG.variants} - {"cu118", "cu129"}

# driver, GPUs, platform, variant
MACHINES = [
    # The oldest driver that runs CUDA 11, to the last digit, and one below.
    ("450.80.02", "v100", "linux", "cu117"),
    ("450.66", "v100", "linux", "cpu"),
    ("450", "v100", "linux", "cu117"),
    ("418.226", "v100", "linux", "cpu"),
    ("440.33.01", "t4", "linux", "cpu"),
    ("470.256.02", "k80", "linux", "cu117"),
    ("470", "a100", "linux", "cu117"),
    ("470.82", "a10 t4", "linux", "cu117"),
    ("515.65.01", "rtx3090", "linux", "cu117"),
    # CUDA 12 from 525.60.13.
    ("525.60.13", "a100", "linux", "cu128"),
    ("525.60.11", "a100", "linux", "cu117"),
    ("525", "h100", "linux", "cu128"),
    ("525.60.11", "h100", "linux", "cpu"),  # CUDA 11.7 has no code for it
    ("520", "rtx4090", "linux", "cu117"),
    ("535", "p100 a100", "linux", "cu126"),
    ("535.104.05", "v100", "linux", "cu128"),
    ("535", "gtx1080", "linux", "cu126"),
    ("535", "t4", "linux", "cu128"),
    ("535", "l40s", "linux", "cu128"),
    ("535", "k80", "linux", "cpu"),  # dropped by the driver after 470
    ("535", "m60", "linux", "cu126"),
    ("550.54.15", "h100 h100 h100 h100", "linux", "cu128"),
    ("550.54.15", "v100 a100 h100", "linux", "cu128"),
    ("550", "gtx980 rtx4090", "linux", "cu126"),
    ("560.35.03", "l4", "linux", "cu128"),
    # Blackwell wants 570 of its own.
    ("570.133.20", "b200", "linux", "cu128"),
    ("565", "b200", "linux", "cpu"),
    ("570", "rtx5090", "linux", "cu128"),
    ("570", "h100 rtx5090", "linux", "cu128"),
    ("575", "b300", "linux", "cu128"),
    ("570", "b300", "linux", "cpu"),
    ("570", "p100 b200", "linux", "cpu"),  # no build has code for both
    # CUDA 13 from 580.
    ("579.99", "h100", "linux", "cu128"),
    ("580", "h100", "linux", "cu132"),
    ("580.65.06", "t4", "linux", "cu132"),
    ("580", "gtx1080", "linux", "cu126"),
    ("580", "v100", "linux", "cu128"),
    ("580", "v100 b200", "linux", "cu128"),
    ("580", "gtx980", "linux", "cu126"),
    ("580", "b200", "linux", "cu132"),
    ("580", "rtx-pro rtx2080", "linux", "cu132"),
    ("580", "gb10", "linux", "cu132"),
    ("590.44.01", "a100", "linux", "cu132"),
    ("590", "v100", "linux", "cpu"),  # dropped by the driver after 580
    ("590", "gtx1080 rtx3090", "linux", "cpu"),
    ("590", "gtx1660", "linux", "cu132"),
    # WSL 2 shows the driver of Windows, whose numbers are others.
    ("528.33", "rtx3090", "windows", "cu128"),
    ("528.02", "rtx3090", "windows", "cu117"),
    ("452.39", "gtx1080", "windows", "cu117"),
    ("452.06", "gtx1080", "windows", "cpu"),
    ("581.15", "rtx5090", "windows", "cu132"),
    # By compute capability.
    ("580", "8.6", "linux", "cu132"),
    ("580", "7.2", "linux", "cu128"),
    ("580", "10.3", "linux", "cu132"),
    ("580", "3.5", "linux", "cpu"),
]


def names(text: str) -> list[str]:
    return [name.replace("-", " ") for name in text.split()]


def on(driver: str, gpus: str, platform: str = "linux") -> Recommendation:
    return recommend(CATALOG.variants, LOCKED, described(driver, names(gpus), platform))


def reason(found: Recommendation, variant: str) -> str:
    return next("; ".join(one.reasons) for one in found.verdicts if one.variant.id == variant)


def test_the_table_has_at_least_forty_machines() -> None:
    assert len(set(MACHINES)) >= 40


@pytest.mark.parametrize(("driver", "gpus", "platform", "variant"), MACHINES)
def test_a_machine_gets_the_newest_torch_that_all_its_gpus_run(
    driver: str, gpus: str, platform: str, variant: str
) -> None:
    assert on(driver, gpus, platform).variant.id == variant


@pytest.mark.parametrize(
    ("machine", "word"),
    [
        (Machine(driver=None, gpus=()), "no NVIDIA GPU was found"),
        (Machine(driver=None, gpus=(), unused=2), "NVIDIA GPUs, but no driver"),
        (described("535", ["a100"]), "CUDA 12.8 since 2026-05-13; `cu130` follows it, but needs"),
        (described("580", ["a100"]), ""),
        (described("418", ["a100"]), "no CUDA variant runs here"),
    ],
)
def test_a_word_says_why_it_is_that(machine: Machine, word: str) -> None:
    assert word in recommend(CATALOG.variants, LOCKED, machine).word


def test_a_driver_without_a_device_is_told_from_no_driver() -> None:
    machine = Machine(driver=described("535", ["t4"]).driver, gpus=())
    found = recommend(CATALOG.variants, LOCKED, machine)

    assert ("cpu", "the driver 535 is loaded, but shows no GPU") == (found.variant.id, found.word)


def test_each_other_variant_is_out_for_a_reason() -> None:
    found = on("535", "p100 a100")

    assert reason(found, "cu132") == (
        "needs driver 580 or newer;"
        " has no code for P100 (6.0), only for 7.5, 8.0, 8.6, 9.0, 10.0, 12.0"
    )
    assert reason(found, "cu126") == reason(found, "cu117") == ""
    assert "needs driver 525.60.13 or newer" in reason(on("450.80.02", "v100"), "cu128")
    assert "the driver 590 has dropped V100 (7.0): 580" in reason(on("590", "v100"), "cu117")
    assert "does not know B200 (10.0): 570 or newer does" in reason(on("565", "b200"), "cu128")


def test_what_is_not_locked_is_not_recommended() -> None:
    everything = {one.id for one in CATALOG.variants}
    machine = described("450.80.02", ["v100"])

    assert recommend(CATALOG.variants, LOCKED, machine).variant.id == "cu117"
    assert recommend(CATALOG.variants, everything, machine).variant.id == "cu118"


def test_a_gpu_that_nobody_knows_gets_no_guess() -> None:
    driver = described("580", ["t4"]).driver
    machine = Machine(driver=driver, gpus=(Gpu(name="NVIDIA X9", capability=None),))
    found = recommend(CATALOG.variants, LOCKED, machine)

    assert found.variant.id == "cpu"
    assert reason(found, "cu132") == "the compute capability of NVIDIA X9 is not known"


def test_eight_equal_gpus_are_one_reason() -> None:
    assert reason(on("580", " ".join(["v100"] * 8)), "cu132").count("V100") == 1


@pytest.mark.parametrize(
    ("driver", "gpus", "fault"),
    [
        ("", ["a100"], "not a driver's version like 535.104.05: ``"),
        ("535", [], "no GPU is named"),
        ("535", ["a1000"], "not a GPU that is known: a1000, did you mean `a100`?"),
        ("53", ["x"], "not a driver's version like 535.104.05: `53`"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(driver: str, gpus: list[str], fault: str) -> None:
    with pytest.raises(MachineError) as caught:
        described(driver, gpus)

    assert fault in caught.value.why


def test_the_json_has_every_variant_and_every_reason() -> None:
    body = as_json(on("535.104.05", "p100 a100"))

    assert body["variant"] == "cu126"
    assert body["machine"]["gpus"] == [
        {"name": "P100", "capability": "6.0"},
        {"name": "A100", "capability": "8.0"},
    ]
    assert {one["id"]: one["runs"] for one in body["variants"]} == {
        **dict.fromkeys(("cu117", "cu118", "cu121", "cu124", "cu126"), True),
        **dict.fromkeys(("cu128", "cu129", "cu130", "cu132"), False),
    }
