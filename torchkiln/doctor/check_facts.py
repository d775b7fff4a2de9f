"""Whether the facts could be gathered that the other checks look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchkiln.doctor.checks import Outcome, check, ok

if TYPE_CHECKING:
    from torchkiln.doctor.facts import Facts


@check("facts", area="machine", rank=99)
def gathered(facts: Facts) -> Outcome:
    """Name what did not answer: checks that need it found nothing."""
    # A Python that does not start is what another check looks for.
    failures = {name: why for name, why in facts.failures.items() if name != "environment"}
    if not failures:
        return ok("whatever was asked answered")
    return Outcome(
        verdict="crashed",
        evidence="; ".join(f"{name}: {why}" for name, why in failures.items()),
        cause="what is missing was not looked at",
    )
