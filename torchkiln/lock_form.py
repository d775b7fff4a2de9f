"""The form of a lock's fields, which is checked when one is written and when one is read.

A checksum tells a lock that was edited by hand; it does not tell who wrote it. A lock may come with
somebody's branch, bundle or provenance, and its words become names of files and parts of URLs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Final

from torchkiln.descriptors import items, mapping
from torchkiln.digests import parse_sha256, parse_size

Parse = Callable[[object], object]
"""Raises `ValueError` for what has not the form of a field."""


def _text(pattern: str, expected: str) -> Parse:
    compiled = re.compile(pattern, re.ASCII)

    def parse(value: object) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            message = f"invalid value: {value!r:.100}, expected {expected}"
            raise ValueError(message)
        return value

    return parse


def _moment(value: object) -> str:
    """Return a time of this century as locks write it."""
    text = value if isinstance(value, str) and len(value) == len("2026-11-22T02:09:05Z") else ""
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z")
    except ValueError:
        moment = None
    if moment is None or moment.year // 100 != 20:  # noqa: PLR2004
        message = f"invalid value: {value!r:.100}, expected a time in UTC (RFC 3339)"
        raise ValueError(message)
    return text


_NAME: Final = _text(r"[A-Za-z0-9][A-Za-z0-9._-]*", "a name")
_PYTHON: Final = _text(r"\d+\.\d+", "a version like 3.11")
_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._+~%:-]*"
_WHEEL: Final[Mapping[str, Parse]] = {
    "name": _NAME,
    "version": _text(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*", "a version (PEP 440)"),
    "file": _text(r"[A-Za-z0-9][A-Za-z0-9._!+-]*\.whl", "the file name of a wheel, no path"),
    "size": parse_size,
    "sha256": parse_sha256,
    "source": _NAME,
}
_DEB_NAME: Final = _text(r"[a-z0-9][a-z0-9+.-]+", "a package's name")
_DEB_VERSION: Final = r"[A-Za-z0-9][A-Za-z0-9.+~:-]*"
_NO_VERSION: Final = _text(rf"({_DEB_VERSION})?", "a version (deb-version(7)), or nothing")
_DEB: Final[Mapping[str, Parse]] = {
    "name": _DEB_NAME,
    "version": _text(_DEB_VERSION, "a version (deb-version(7))"),
    "architecture": _NAME,
    "archive": _text(r"debian(-security)?", "debian or debian-security"),
    "filename": _text(rf"({_PART}/)*{_PART}\.deb", "a path like pool/main/d/dash/dash_1_amd64.deb"),
    "size": parse_size,
    "sha256": parse_sha256,
}
_DRIFTED: Final[Mapping[str, Parse]] = {
    "name": _DEB_NAME,
    "locked": _NO_VERSION,
    "present": _NO_VERSION,
}
_VARIANT: Final[Mapping[str, Parse]] = {
    "variant": _NAME,
    "inputs": parse_sha256,
    "python": _PYTHON,
    "platform": _text(r"[A-Za-z0-9._-]*", "a platform by uv's name"),
}
_BASE: Final[Mapping[str, Parse]] = {
    "release": _NAME,
    "inputs": parse_sha256,
    "date": _moment,
}


def wheel_faults(body: object) -> list[str]:
    """Return what is wrong with the fields of a variant's lock, each named: `wheels[3].sha256`."""
    return list(_faults(body, _VARIANT, {"wheels": _WHEEL}))


def deb_faults(body: object) -> list[str]:
    """Return what is wrong with the fields of a base's lock, each named: `debs[3].sha256`.

    `drifted` is in the lock of a base that has: see `torchkiln.drift`.
    """
    lists = {"debs": _DEB}
    if isinstance(body, dict) and "drifted" in body:
        lists["drifted"] = _DRIFTED
    return list(_faults(body, _BASE, lists))


def _faults(
    body: object, own: Mapping[str, Parse], lists: Mapping[str, Mapping[str, Parse]]
) -> Iterator[str]:
    """Yield what is wrong with the fields in `own`, and with the entries of each of `lists`."""
    try:
        fields = dict(mapping(body))
    except ValueError as error:
        yield str(error)
        return
    listed = {name: fields.pop(name, None) for name in lists}
    yield from _field_faults(fields, own, "")
    for name, entry in lists.items():
        yield from _entry_faults(listed[name], entry, name)


def _entry_faults(value: object, forms: Mapping[str, Parse], where: str) -> Iterator[str]:
    try:
        entries = items(value)
    except ValueError as error:
        yield f"{where}: {error}"
        return
    for number, one in enumerate(entries):
        yield from _field_faults(one, forms, f"{where}[{number}].")


def _field_faults(fields: object, forms: Mapping[str, Parse], where: str) -> Iterator[str]:
    try:
        there = mapping(fields)
    except ValueError as error:
        yield f"{where.rstrip('.')}: {error}"
        return
    for name in sorted(there.keys() | forms.keys()):
        if name not in forms:
            yield f"{where}{name}: unknown key"
        elif name not in there:
            yield f"{where}{name}: missing"
        else:
            try:
                forms[name](there[name])
            except ValueError as error:
                yield f"{where}{name}: {error}"
