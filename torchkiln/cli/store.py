"""Tasks on the store: what it holds, and what of it can go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.tasks import task

from torchkiln import gc as collector
from torchkiln import gc_reports, pipeline
from torchkiln.claims import UNUSED, Keep
from torchkiln.cli.flags import ROOT, as_json, told
from torchkiln.errors import StoreError
from torchkiln.hold import in_use

if TYPE_CHECKING:
    from invoke.context import Context


@task(
    help={
        "remove": "remove it; without this flag nothing is changed",
        "keep": "keep what was made or used in the last so many days too",
        "unused": "drop other projects, and what has none, unused for so many days (30)",
        "keep-inputs": "keep all wheels and .debs, also those of no lock",
        "all-images": "let pulled images go too",
        "wait": "with --remove: wait until no other command works in the store",
        "json": "print one JSON object",
    }
)
@told
def gc(
    c: Context,
    remove: bool = False,
    keep: float = 0.0,
    unused: float = float(UNUSED),
    keep_inputs: bool = False,
    all_images: bool = False,
    wait: bool = False,
    json: bool = False,
) -> None:
    """Show what the store holds, for whom, and what nobody needs."""
    for flag, days in (("--keep", keep), ("--unused", unused)):
        if not days >= 0:  # not a number is a float too
            what = f"invalid number of days for {flag}: {days}"
            raise StoreError(what, hint=f"./kiln gc {flag} 14")
    project = pipeline.open_project(ROOT)
    kept = Keep(days=keep, unused=unused, inputs=keep_inputs, pulled=not all_images)
    if remove:
        done = collector.remove(project, kept, wait=wait)
    else:
        with in_use(project.store):
            done = collector.plan(project, kept)
    shown = gc_reports.as_json if json else gc_reports.shown
    found = shown(done, removed=remove)
    print(as_json(found) if json else found)
