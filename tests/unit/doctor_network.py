"""An environment on a network, for the doctor's tests: real servers on this machine."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from doctor_environments import Venv
from servers import serving

from torchkiln.doctor.checks import load_checks
from torchkiln.doctor.facts import Facts, Subject, gather
from torchkiln.doctor.guard import Finding, run_checks
from torchkiln.doctor.report import diagnosis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Site

NETWORK = [one for one in load_checks() if one.area == "network"]
OTHERS = [one for one in load_checks() if one.area != "network"]
DEAD = "http://127.0.0.1:9"


@dataclass(kw_only=True)
class Place(Venv):
    """An environment on a network; `image` is one that is to be pulled.

    Its pip is configured by variables and by a file. What else there is does not change: it is
    examined once.
    """

    image: str = ""
    gathered: Facts | None = None
    others: tuple[Finding, ...] = ()

    def variables(self) -> dict[str, str]:
        """Return the environment variables, without those that keep pip off all indexes."""
        plain = super().variables() | {"XDG_CONFIG_HOME": str(self.folder)} | self.environ
        return {name: text for name, text in plain.items() if name != "PIP_NO_INDEX"}

    def configure(self, text: str) -> None:
        """Write the pip.conf of the environment."""
        (self.folder / "pip.conf").write_text(text)

    def examine(self) -> list[Finding]:
        """Return what all checks find, those of the network too."""
        subject = Subject(
            environ=self.variables(),
            python=self.python,
            root=self.root,
            image=self.image,
            patience=40,
        )
        if self.gathered is None:
            self.gathered = gather(subject)
            self.others = tuple(run_checks(OTHERS, self.gathered, lambda _: None))
        facts = replace(self.gathered, subject=subject)
        return diagnosis([*self.others, *run_checks(NETWORK, facts, lambda _: None)])


@contextmanager
def an_index(place: Place, **tls: Any) -> Iterator[Site]:  # noqa: ANN401
    """Serve an index that has torch, and configure pip with it."""
    with serving({"/simple/torch/": b"<html></html>"}, **tls) as site:
        place.environ["PIP_INDEX_URL"] = f"{site.url}/simple"
        yield site
