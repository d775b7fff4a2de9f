"""The account: its name and its home, which containers often lack."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln.doctor.cgroup import read
from torchkiln.doctor.checks import check, ok, problem

if TYPE_CHECKING:
    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.facts import Facts

_NAMES: Final = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""What Python's getpass.getuser() reads before it looks the account up."""


@check("account", area="container", rank=71)
def account(facts: Facts) -> Outcome:
    """Look for a name of the account, which torch.compile names its cache after."""
    uid = os.getuid()
    named = any(facts.subject.environ.get(name) for name in _NAMES)
    if named or _entry(facts.subject.root, uid) is not None:
        return ok(f"the account {uid} has a name")
    return problem(
        f"the account {uid} has no name: it is not in /etc/passwd, and USER is not set",
        cause="torch.compile ends with `getpwuid(): uid not found`",
        remedy="export USER=torch",
        link="pytorch/pytorch#140765",
    )


def _entry(root: Path, uid: int) -> str | None:
    """Return the home that the account's entry names, None where it has none.

    The file comes first; the directories of clusters are asked for this machine alone.
    """
    text = read(root / "etc/passwd")
    match = re.search(rf"^[^:]+:[^:]*:{uid}:[^:]*:[^:]*:([^:]*)", text, re.MULTILINE)
    if match:
        return match[1]
    try:
        return pwd.getpwuid(uid).pw_dir if root == Path("/") else None
    except KeyError:
        return None


@check("home", area="container", rank=73)
def home(facts: Facts) -> Outcome:
    """Look for a home to write to: caches of compilers, hubs and pip lie there."""
    root = facts.subject.root
    # Python, as most programs, looks the account up where HOME is not set.
    name = facts.subject.environ.get("HOME") or _entry(root, os.getuid()) or ""
    folder = root / name.lstrip("/")
    if name.startswith("/") and os.access(folder, os.W_OK | os.X_OK):
        return ok("HOME can be written to")
    reason = "cannot be written to" if os.access(folder, os.F_OK) else "is not there"
    return problem(
        f"HOME, {name}, {reason}" if name else "HOME is not set",
        cause="Triton, torch.hub and pip keep what they make there, and fail without",
        remedy='export HOME="$(mktemp -d)"',
        link="foundation-model-stack/fms-hf-tuning#367",
    )
