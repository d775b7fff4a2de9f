"""Checks of the installed distributions against the lock."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from packages import import_errors, top_modules, version_fits
from suite import check, failed, passed

if TYPE_CHECKING:
    from image import Image
    from suite import Outcome


@check("packages-version")
def packages_version(image: Image) -> Outcome:
    """Compare the version that each locked distribution says it has with the lock."""
    faults = []
    for wheel in image.wheels:
        try:
            installed = metadata.version(wheel.name)
        except metadata.PackageNotFoundError:
            faults.append(f"{wheel.name} is not installed")
            continue
        if not version_fits(installed, wheel.version):
            faults.append(f"{wheel.name} is {installed}, locked is {wheel.version}")
    if faults or not image.wheels:
        return failed(f"{len(faults)} differ", "; ".join(faults) or "the lock names no wheel")
    return passed(f"{len(image.wheels)} as locked")


@check("packages-import")
def packages_import(image: Image) -> Outcome:
    """Import every module that the locked distributions bring, in a child process."""
    modules: list[str] = []
    unlisted = {}
    for wheel in image.wheels:
        try:
            record = metadata.distribution(wheel.name).files
        except metadata.PackageNotFoundError:
            record = None
        if record is None:
            unlisted[wheel.name] = "no RECORD says which modules it brings"
        else:
            modules += top_modules(map(str, record))
    errors = unlisted | import_errors(modules)
    if errors or not modules:
        detail = "; ".join(f"{name}: {error}" for name, error in errors.items())
        return failed(f"{len(errors)} do not import", detail or "the lock brings no module")
    return passed(f"{len(modules)} modules of {len(image.wheels)} packages")
