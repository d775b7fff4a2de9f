"""Tasks on the store: what it holds, and what of it can go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.tasks import task

from torchkiln import gc as collector
from torchkiln import pipeline
from torchkiln.cli.flags import ROOT, as_json, told
from torchkiln.errors import StoreError
from torchkiln.hold import in_use
from torchkiln.marks import Keep

if TYPE_CHECKING:
    from invoke.context import Context


@task(
    help={
        "remove": "remove it; without this flag nothing is changed",
        "keep": "keep what was made or used in the last so many days too",
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
    keep_inputs: bool = False,
    all_images: bool = False,
    wait: bool = False,
    json: bool = False,
) -> None:
    """Show what the store holds and what of it no lock needs."""
    if not keep >= 0:  # not a number is a float too
        what = f"this is no number of days: {keep}"
        raise StoreError(what, hint="./kiln gc --keep 14")
    project = pipeline.open_project(ROOT)
    kept = Keep(days=keep, inputs=keep_inputs, pulled=not all_images)
    if remove:
        done = collector.remove(project, kept, wait=wait)
    else:
        with in_use(project.store):
            done = collector.plan(project, kept)
    shown = collector.as_json if json else collector.shown
    found = shown(done, removed=remove)
    print(as_json(found) if json else found)
