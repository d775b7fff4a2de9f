"""Dated archives of Debian, which keep the packages that mirrors drop.

A setting names one, or apt's own configuration: `Acquire::Snapshots::URI` of apt.conf(5), whose
`@SNAPSHOTID@` stands for the date as `20261122T020905Z`.
"""

from __future__ import annotations

import re
import subprocess
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from torchkiln.mirror import MAIN, SECURITY, setting, sibling

if TYPE_CHECKING:
    from collections.abc import Mapping

SETTING: Final = "TORCHKILN_DEBIAN_SNAPSHOT"

_ID: Final = "@SNAPSHOTID@"
_APT: Final = "Acquire::Snapshots::URI"
# In apt's order: a label names one archive, the origin both.
_NAMES: Final = {
    MAIN: (
        "Override::Label::Debian",
        "Override::Origin::Debian",
        "Label::Debian",
        "Origin::Debian",
    ),
    SECURITY: ("Override::Label::Debian-Security", "Label::Debian-Security"),
}
_LATER: Final = (timedelta(0), timedelta(days=1))
"""An archive takes its snapshots some hours after an index is signed. The first one after that has
what the index names; superseded files stay in a pool for longer than a day."""


def snapshots(environ: Mapping[str, str], date: str) -> dict[str, tuple[str, ...]]:
    """Return the base URLs of `debian` and `debian-security` at `date` (RFC 3339, UTC), by archive.

    Empty where no dated archive is configured. A setting that is no URL raises `FetchError`.
    """
    named = setting(environ, SETTING)
    templates = {MAIN: named, SECURITY: None} if named else _from_apt(environ)
    main = templates.get(MAIN)
    if not main:
        return {}
    security = templates.get(SECURITY) or _beside(main)
    return {MAIN: _dated(main, date), SECURITY: _dated(security, date)}


def _dated(template: str, date: str) -> tuple[str, ...]:
    moment = datetime.fromisoformat(date.replace("Z", "+00:00"))
    ids = (f"{moment + later:%Y%m%dT%H%M%SZ}" for later in _LATER)
    return tuple(dict.fromkeys(template.replace(_ID, one) for one in ids))


def _beside(main: str) -> str:
    """Return where an archive keeps security updates: `debian-security` in place of `debian`."""
    found = re.sub(rf"/{MAIN}(?=/|$)", f"/{SECURITY}", main)
    return found if found != main else sibling(main)


def _from_apt(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the templates that apt is configured with, by archive; none where there is no apt."""
    command = ["apt-config", "dump", "--format", "%f=%v%n", _APT]
    try:
        done = subprocess.run(
            command, env=dict(environ), capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    lines = (line.partition("=") for line in done.stdout.splitlines())
    known = {name.removeprefix(f"{_APT}::"): value.rstrip("/") for name, _, value in lines}
    return {
        archive: value
        for archive, names in _NAMES.items()
        if (value := next((known[name] for name in names if known.get(name)), ""))
        and _ID in value  # `no` says that there is none
    }
