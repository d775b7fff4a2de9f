"""Run the smoke suite of an image, in the sandbox or in a container, and keep its report."""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from torchkiln.digests import parse_digest
from torchkiln.engine.containers import ContainerOptions, container, run, take_files
from torchkiln.errors import SmokeError
from torchkiln.gpu import device_nodes
from torchkiln.run import RunOptions, sandbox
from torchkiln.sandbox import Mount, check
from torchkiln.store import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torchkiln.engine.connection import Engine
    from torchkiln.engine.images import EngineImage
    from torchkiln.image import Image
    from torchkiln.store import Store

_OUTPUT: Final = "/run/smoke"
_IN_CONTAINER: Final = "/workspace/smoke"
_FILES: Final = frozenset({"report.json", "loss.png"})


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
    check(RunOptions().uid)  # before gigabytes are unpacked
    with _kept(store, image.digest) as output:
        box = sandbox(store, image, RunOptions())
        mount = Mount(source=output, target=_OUTPUT, writable=True)
        done = replace(box, mounts=(*box.mounts, mount)).run(
            ["smoke", "--output", _OUTPUT], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        table = done.stdout.replace(_OUTPUT.encode(), bytes(_folder(store, image.digest)))
        conclude(output, image.variant, table, done.stderr)
    return judged(_folder(store, image.digest), image.variant, done.returncode)


def smoke_in(engine: Engine, store: Store, image: EngineImage, gpus: str = "") -> SmokeReport:
    """Run the suite in a container of `image`; a bad verdict raises `SmokeError`.

    What the suite leaves is copied out of the container, because an engine may be on another
    machine.
    """
    digest = parse_digest(image.id)
    where = f"{engine.name}-gpu" if gpus else engine.name
    # In its own file system, from which files can be copied when it has ended.
    options = ContainerOptions(read_only=False, gpus=gpus)
    arguments = ["smoke", "--output", _IN_CONTAINER]
    with (
        _kept(store, digest, where) as output,
        container(engine, image, arguments, options) as made,
    ):
        code, out, err = run(engine, made)
        found = take_files(engine, made, _IN_CONTAINER) if out else {}
        for name in _FILES & found.keys():
            (output / name).write_bytes(found[name])
        folder = _folder(store, digest, where)
        table = out.replace(_IN_CONTAINER.encode(), bytes(folder))
        conclude(output, image.reference, table, err)
    return judged(folder, image.reference, code)


@contextmanager
def _kept(store: Store, digest: str, where: str = "") -> Iterator[Path]:
    """Give a folder for the suite's report, which takes the place of an earlier one when whole."""
    folder = _folder(store, digest, where)
    with store.workspace() as workspace:
        output = workspace / "smoke"
        output.mkdir(mode=0o755)
        yield output
        remove_tree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        output.rename(folder)


def conclude(output: Path, name: str, table: bytes, messages: bytes) -> None:
    """Keep the suite's table beside its report; a suite that left none could not run."""
    if not (output / "report.json").is_file():
        what = f"the smoke suite could not run in `{name}`"
        raise SmokeError(what, messages.decode(errors="replace")[-2000:])
    (output / "table.txt").write_bytes(table)


def judged(folder: Path, name: str, code: int) -> SmokeReport:
    """Return the report of a run just now; a bad verdict raises `SmokeError`."""
    report = read_report(folder, fresh=True)
    if code or not report.passed:
        what = f"the smoke suite failed in `{name}`"
        raise SmokeError(what, report.table, hint=f"see {folder / 'report.json'}")
    return report


def report_folder(store: Store, digest: str) -> Path:
    """Return where reports and pictures of the image with this digest (hex) lie."""
    return store.root / "reports" / digest


def last_report(store: Store, image: Image) -> SmokeReport | None:
    """Return the report of an earlier run that passed on this image and these GPUs, if any."""
    try:
        report = read_report(_folder(store, image.digest), fresh=False)
    except (OSError, ValueError, KeyError):
        return None
    return report if report.passed else None


def _folder(store: Store, digest: str, where: str = "") -> Path:
    """Return where the report lies: by the image's bytes and by what it ran on."""
    return report_folder(store, digest) / f"smoke-{where or device()}"


def device() -> str:
    """Return what the suite runs on here: `gpu` or `cpu`."""
    return "gpu" if device_nodes() else "cpu"


def read_report(folder: Path, *, fresh: bool) -> SmokeReport:
    """Return the report in `folder`; one that is not whole raises OSError, ValueError, KeyError."""
    document: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    table = (folder / "table.txt").read_text(encoding="utf-8")
    return SmokeReport(
        passed=document["passed"], folder=folder, table=table, document=document, fresh=fresh
    )
