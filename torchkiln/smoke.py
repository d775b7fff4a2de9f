"""Run the smoke suite of an image in the sandbox and keep its report in the store."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from torchkiln.errors import SmokeError
from torchkiln.gpu import device_nodes
from torchkiln.run import RunOptions, sandbox
from torchkiln.sandbox import Mount
from torchkiln.store import remove_tree

if TYPE_CHECKING:
    from pathlib import Path

    from torchkiln.image import Image
    from torchkiln.store import Store

_OUTPUT: Final = "/run/smoke"


@dataclass(frozen=True, kw_only=True)
class SmokeReport:
    """What the suite found; `folder` holds report.json and loss.png, `fresh` means just now."""

    passed: bool
    folder: Path
    table: str
    document: dict[str, Any]
    fresh: bool

    @property
    def skipped(self) -> list[str]:
        """Return the ids of the checks that were skipped."""
        return [entry["id"] for entry in self.document["checks"] if entry["verdict"] == "skipped"]


def smoke(store: Store, image: Image) -> SmokeReport:
    """Run the suite in `image`; a bad verdict raises `SmokeError` with the suite's table."""
    folder = _folder(store, image)
    with store.workspace() as workspace:
        output = workspace / "smoke"
        output.mkdir(mode=0o755)
        box = sandbox(store, image, RunOptions())
        mount = Mount(source=output, target=_OUTPUT, writable=True)
        done = replace(box, mounts=(*box.mounts, mount)).run(
            ["smoke", "--output", _OUTPUT], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        table = done.stdout.decode(errors="replace").replace(_OUTPUT, str(folder))
        if not (output / "report.json").is_file():
            what = f"the smoke suite could not run in `{image.variant}`"
            raise SmokeError(what, done.stderr.decode(errors="replace")[-2000:])
        (output / "table.txt").write_text(table, encoding="utf-8")
        remove_tree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        output.rename(folder)
    report = _read(folder, fresh=True)
    if done.returncode or not report.passed:
        what = f"the smoke suite failed in `{image.variant}`"
        raise SmokeError(what, table, hint=f"see {folder / 'report.json'}")
    return report


def report_folder(store: Store, image: Image) -> Path:
    """Return where reports and pictures of `image` lie."""
    return store.root / "reports" / image.digest


def last_report(store: Store, image: Image) -> SmokeReport | None:
    """Return the report of an earlier run that passed on this image and these GPUs, if any."""
    try:
        report = _read(_folder(store, image), fresh=False)
    except (OSError, ValueError, KeyError):
        return None
    return report if report.passed else None


def _folder(store: Store, image: Image) -> Path:
    """Return where the report lies: by the image's bytes and by whether there are GPUs."""
    where = "gpu" if device_nodes() else "cpu"
    return report_folder(store, image) / f"smoke-{where}"


def _read(folder: Path, *, fresh: bool) -> SmokeReport:
    document: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    table = (folder / "table.txt").read_text(encoding="utf-8")
    return SmokeReport(
        passed=document["passed"], folder=folder, table=table, document=document, fresh=fresh
    )
