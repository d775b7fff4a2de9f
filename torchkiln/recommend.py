"""The newest variant that every GPU of a machine can run, and why each other one is not it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from torchkiln import drivers, gpus

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from torchkiln.catalog import Variant
    from torchkiln.machine import Gpu, Machine


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is to be said of one variant on one machine: `reasons` why it does not run there."""

    variant: Variant
    locked: bool
    reasons: tuple[str, ...]

    @property
    def usable(self) -> bool:
        """Tell whether it runs and can be built."""
        return self.locked and not self.reasons


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """`verdicts` are on the CUDA variants, the newest torch first; `word` is for people."""

    machine: Machine
    variant: Variant
    word: str
    verdicts: tuple[Verdict, ...]


def recommend(
    variants: Sequence[Variant], locked: Collection[str], machine: Machine
) -> Recommendation:
    """Return which of `variants` to take on `machine`; `locked` are the ids of those with a lock.

    Where no CUDA variant can run, it is the one without CUDA.
    """
    newest_first = sorted(
        (one for one in variants if one.cuda),
        key=lambda one: (Version(one.torch), Version(one.cuda or "0")),
        reverse=True,
    )
    verdicts = tuple(
        Verdict(variant=one, locked=one.id in locked, reasons=tuple(why_not(one, machine)))
        for one in newest_first
    )
    chosen = next((one.variant for one in verdicts if one.usable), None)
    cpu = next(one for one in variants if one.cuda is None)
    return Recommendation(
        machine=machine,
        variant=chosen or cpu,
        word=_word(machine, verdicts, chosen),
        verdicts=verdicts,
    )


def why_not(variant: Variant, machine: Machine) -> Iterator[str]:
    """Yield each reason why a CUDA `variant` does not run on `machine`."""
    if not machine.gpus:
        yield "there is no GPU"
    if machine.driver is None:
        yield "there is no driver"
    floor = drivers.floor(variant.cuda or "", machine.platform)
    if machine.driver is not None and not machine.driver.reaches(floor):
        yield f"needs driver {floor} or newer"
    archs = gpus.architectures(variant.torch, variant.cuda or "")
    for gpu in dict.fromkeys(machine.gpus):  # eight equal ones are one reason
        if gpu.capability is None:
            yield f"the compute capability of {gpu.name} is not known"
        elif not gpus.runs_on(archs, gpu.capability):
            yield f"has no code for {gpu}, only for {covered(archs)}"
        yield from _driver_of(gpu, machine)


def covered(archs: Sequence[gpus.Capability]) -> str:
    """Return the compute capabilities that code was made for, in short: `7.5 to 9.0, 12.0`."""
    texts = [gpus.shown(arch) for arch in sorted(archs)]
    return ", ".join(texts) if texts else "what is not known"


def _driver_of(gpu: Gpu, machine: Machine) -> Iterator[str]:
    """Yield why the driver does not drive this GPU; Windows numbers its branches otherwise."""
    if gpu.capability is None or machine.driver is None or machine.platform != "linux":
        return
    first = drivers.first_branch(gpu.capability)
    last = drivers.last_branch(gpu.capability)
    if machine.driver.branch < first:
        yield f"the driver {machine.driver.text} does not know {gpu}: {first} or newer does"
    if last is not None and machine.driver.branch > last:
        yield f"the driver {machine.driver.text} has dropped {gpu}: {last} was the last branch"


def _word(machine: Machine, verdicts: Sequence[Verdict], chosen: Variant | None) -> str:
    """Return what a person should know beside the choice."""
    if machine.driver is None and (machine.unused or machine.gpus):
        return "there are NVIDIA GPUs, but no driver: install one, then ask again"
    if machine.driver is None:
        return "no NVIDIA GPU was found"
    if not machine.gpus:
        return f"the driver {machine.driver.text} is loaded, but shows no GPU"
    if chosen is None:
        return "no CUDA variant runs here; the reasons are below"
    if chosen.ended is None:
        return ""
    text = f"no torch comes for CUDA {chosen.cuda} since {chosen.ended}"
    following = next((one for one in verdicts if one.variant.id == chosen.replacement), None)
    why = "; ".join(following.reasons) if following else ""
    return f"{text}; `{chosen.replacement}` follows it" + (f", but {why}" if why else "")


def as_json(found: Recommendation) -> dict[str, Any]:
    """Return the recommendation as `recommend --json` prints it."""
    machine = found.machine
    return {
        "variant": found.variant.id,
        "word": found.word,
        "machine": {
            "driver": machine.driver.text if machine.driver else None,
            "platform": machine.platform,
            "gpus": [
                {
                    "name": gpu.name,
                    "capability": gpus.shown(gpu.capability) if gpu.capability else None,
                }
                for gpu in machine.gpus
            ],
            "devices_without_driver": machine.unused,
        },
        "variants": [
            {
                "id": one.variant.id,
                "locked": one.locked,
                "runs": not one.reasons,
                "reasons": list(one.reasons),
            }
            for one in found.verdicts
        ],
    }
