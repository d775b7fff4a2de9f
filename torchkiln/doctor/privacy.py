"""What is private is taken out of all that the doctor says, so that it can go into a bug report.

Home folder and user name become variables of the shell, so that a remedy still works where it is
pasted. Secrets, addresses and the numbers of GPUs become `***`.
"""

from __future__ import annotations

import os
import pwd
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchkiln.doctor.checks import Outcome

HIDDEN: Final = "***"
_SHORTEST: Final = 6
"""Letters. A shorter secret would be found by chance in what is none."""

_SECRET_NAMES: Final = re.compile(r"TOKEN|SECRET|PASSW|API_?KEY|CREDENTIAL|AUTH", re.IGNORECASE)
_QUERY: Final = re.compile(r"(\w+://[^\s'\"?]*\?)[^\s'\"#]+")
_PATTERNS: Final = (
    re.compile(r"(?<=://)[^/\s@'\"]+(?=@)"),  # user:password@
    re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.IGNORECASE),
    re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", re.IGNORECASE),  # MAC addresses
    # Versions of NVIDIA's wheels have four numbers too (12.1.3.1): addresses are those that follow
    # `//` or have a port.
    re.compile(r"(?<=//)(?!127\.)\d{1,3}(?:\.\d{1,3}){3}\b"),
    re.compile(r"\b(?!127\.)\d{1,3}(?:\.\d{1,3}){3}(?=:\d)"),
    re.compile(r"(?<=\[)[0-9a-f:]*:[0-9a-f:]+(?=\])", re.IGNORECASE),  # IPv6 in a URL
)


@dataclass(frozen=True, kw_only=True)
class Private:
    """What is private here: `home` without a slash at its end, "" where it says nothing."""

    home: str
    user: str
    host: str
    secrets: tuple[str, ...]


def private(environ: Mapping[str, str]) -> Private:
    """Return what is private for the user and the machine with the variables `environ`."""
    secrets = [
        value
        for name, value in environ.items()
        if _SECRET_NAMES.search(name) and len(value) >= _SHORTEST and os.sep not in value
    ]
    return Private(
        home=environ.get("HOME", "").rstrip("/"),
        user=_user(environ),
        host=os.uname().nodename,
        secrets=tuple(sorted(secrets, key=len, reverse=True)),
    )


def _user(environ: Mapping[str, str]) -> str:
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a uid without an entry
        name = environ.get("USER", "")
    return "" if name == "root" else name


def without(found: Outcome, hidden: Private) -> Outcome:
    """Return `found` with nothing private in its texts."""
    return replace(
        found,
        evidence=shown(found.evidence, hidden),
        cause=shown(found.cause, hidden),
        remedy=pasted(found.remedy, hidden),
    )


def shown(text: str, hidden: Private) -> str:
    """Return a text for people."""
    if hidden.home:
        text = re.sub(rf"{re.escape(hidden.home)}(?![\w.-])", "~", text)
    return _without_names(text, hidden, "USER")


def pasted(command: str, hidden: Private) -> str:
    """Return a command for a POSIX shell, which does the same as before for this user."""
    if hidden.home:
        command = _as_variable(command, rf"{re.escape(hidden.home)}(?![\w.-])", "HOME")
    if hidden.user:
        command = _as_variable(command, _component(hidden.user), "USER")
    return _without_names(command, hidden, "USER")


def _without_names(text: str, hidden: Private, user: str) -> str:
    for secret in hidden.secrets:
        text = text.replace(secret, HIDDEN)
    text = _QUERY.sub(rf"\1{HIDDEN}", text)
    for pattern in _PATTERNS:
        text = pattern.sub(HIDDEN, text)
    if hidden.user:
        text = re.sub(_component(hidden.user), user, text)
    if len(hidden.host) >= _SHORTEST and hidden.host != "localhost":
        text = re.sub(rf"(?<![\w-]){re.escape(hidden.host)}(?![\w-])", "HOST", text)
    return text


def _component(name: str) -> str:
    """Return the pattern of `name` as a part of a path: a user may be called `torch`."""
    return rf"(?<=/){re.escape(name)}(?=$|[/\s'\":])"


def _as_variable(command: str, pattern: str, variable: str) -> str:
    """Put `$VARIABLE` in the place of what matches, by the kind of quotes that it stands in."""
    parts, last = [], 0
    for match in re.finditer(pattern, command):
        parts.append(command[last : match.start()])
        quote = _open_quote("".join(parts))
        parts.append(
            {"": f'"${variable}"', '"': f"${{{variable}}}", "'": f"'\"${variable}\"'"}[quote]
        )
        last = match.end()
    return "".join([*parts, command[last:]])


def _open_quote(before: str) -> str:
    """Return the quote (`'` or `"`) that is open at the end of `before`, "" where none is."""
    quote = ""
    for letter in before.replace("\\'", "").replace('\\"', ""):
        if letter == quote:
            quote = ""
        elif not quote and letter in "'\"":
            quote = letter
    return quote
