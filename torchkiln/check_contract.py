"""Check any image against the 12 points of `torchkiln.points`, also one that others built."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from torchkiln import any_image, contract
from torchkiln.expectation import Expectation, expect
from torchkiln.points import POINTS, Point

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.listing import ImageListing

Verdict = Literal["PASS", "FAIL", "n.a."]
_SHOWN: Final = 5  # faults of a point that people are shown


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What became of a point; `reason` says why it is not applicable, or what could not be told."""

    point: Point
    verdict: Verdict
    faults: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ContractReport:
    """The findings in the order of the points, and what the image was found to be."""

    found: Expectation
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> list[str]:
        """Return the ids of the points that failed."""
        return [one.point.id for one in self.findings if one.verdict == "FAIL"]


def check(image: ImageListing) -> ContractReport:
    """Return what each point finds in `image`."""
    found = expect(image)
    results = zip(POINTS, _results(image, found), strict=True)
    findings = tuple(_finding(point, faults, reason) for point, (faults, reason) in results)
    return ContractReport(found=found, findings=findings)


def _results(image: ImageListing, found: Expectation) -> Iterator[tuple[list[str] | None, str]]:
    """Give each point's faults, None where the point is not applicable, and the reason."""
    no_python, no_cuda = "there is no Python in it", f"a CPU image, by {found.source}"
    yield any_image.user(image), ""
    yield contract.places(image), ""
    yield (contract.read_only(image), "") if found.python else (None, no_python)
    yield any_image.any_uid(image, found), ""
    yield any_image.no_shadows(image, found), ""
    yield any_image.nvidia_variables(image, found.cuda), ""
    yield (any_image.driver_libraries(image), "") if found.cuda else (None, no_cuda)
    launchers = any_image.launchers(image, found.torch)
    yield (launchers, "") if found.torch or launchers else (None, "there is no PyTorch in it")
    yield (any_image.entry_point(image), "") if image.entrypoint else (None, "it has none")
    yield any_image.plain_system(image), ""
    yield any_image.form(image), "" if image.manifest else "its archive tells no media types"
    yield any_image.limits(image), ""


def _finding(point: Point, faults: list[str] | None, reason: str) -> Finding:
    if faults is None:
        return Finding(point=point, verdict="n.a.", reason=reason)
    verdict: Verdict = "FAIL" if faults else "PASS"
    return Finding(point=point, verdict=verdict, faults=tuple(faults), reason=reason)


def shown(report: ContractReport) -> str:
    """Return a row for each point, then cause, fix and the first faults of each that failed."""
    width = max(len(one.point.id) for one in report.findings)
    lines = [
        f"{one.point.id.ljust(width)}  {one.verdict}  {one.point.title}"
        + (f" ({one.reason})" if one.reason else "")
        for one in report.findings
    ]
    for one in report.findings:
        lines += _explained(one) if one.faults else []
    return "\n".join(lines)


def _explained(one: Finding) -> list[str]:
    lines = ["", f"{one.point.id}:"]
    lines += [f"  {fault}" for fault in one.faults[:_SHOWN]]
    if len(one.faults) > _SHOWN:
        lines.append(f"  and {len(one.faults) - _SHOWN} more: see --json")
    lines.append(f"cause: {one.point.why}")
    return lines + [f"fix: {line}" for line in one.point.fix.splitlines()]


def as_json(report: ContractReport, reference: str) -> dict[str, Any]:
    """Return what `check-contract --json` prints."""
    return {
        "schema_version": 1,
        "image": reference,
        "passed": not report.failed,
        "found": asdict(report.found),
        "points": [
            {
                **asdict(one.point),
                "verdict": one.verdict,
                "reason": one.reason,
                "faults": list(one.faults),
            }
            for one in report.findings
        ],
    }
