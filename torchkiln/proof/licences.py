"""What packages say of their licences, in CycloneDX's terms; nothing is guessed.

A licence is an SPDX expression where the package gives one, or says the same in words that mean one
SPDX licence and no other. Everything else stays what it is: a name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from debian.deb822 import Deb822
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

if TYPE_CHECKING:
    from email.message import Message

_CLASSIFIER: Final = "License :: "
_MAX_NAME: Final = 100  # characters; before PEP 639 many put the whole text into `License`
# The short names of the copyright format 1.0 that SPDX spells otherwise; `+` is "or later".
_DEBIAN: Final = re.compile(r"(A?GPL|LGPL|GFDL)-(\d(?:\.\d)?)(\+?)")
_SAME: Final = {"expat": "MIT", "zope": "ZPL-2.1"}
_WORDS: Final = re.compile(r"\s+(and|or)\s+", re.IGNORECASE)


def of_wheel(metadata: Message) -> tuple[dict[str, Any], ...]:
    """Return what METADATA declares (core metadata: License-Expression, License, Classifier)."""
    text = metadata["License-Expression"] or ""
    if expression := spdx(text):
        return _expression(expression)
    words = " ".join((metadata["License"] or "").split())
    if expression := spdx(words):
        return _expression(expression)
    if text or 0 < len(words) <= _MAX_NAME:
        return (_named(text or words),)
    found = [one for one in metadata.get_all("Classifier", []) if one.startswith(_CLASSIFIER)]
    return tuple(_named(one.rpartition(" :: ")[2]) for one in sorted(found))


def of_deb(name: str, text: str) -> tuple[dict[str, Any], ...]:
    """Return what the `copyright` file of the Debian package declares (copyright format 1.0).

    The licences of all its files, together. One in free form is named, for people to read.
    """
    paragraphs = list(Deb822.iter_paragraphs(text.splitlines()))
    if not paragraphs or "/copyright-format/" not in paragraphs[0].get("Format", ""):
        paragraphs = []
    found = {one.get("License", "").partition("\n")[0] for one in paragraphs if "Files" in one}
    terms = {term for synopsis in found if synopsis.strip() for term in _terms(synopsis)}
    if not terms:
        return (_named(f"see /usr/share/doc/{name}/copyright"),)
    return _expression(" AND ".join(sorted(terms)))


def spdx(text: str) -> str:
    """Return the SPDX expression in its canonical form; "" if `text` is none."""
    try:
        return canonicalize_license_expression(text)
    except InvalidLicenseExpression:
        return ""


def _terms(synopsis: str) -> list[str]:
    """Return what a synopsis (`GPL-2+ or Expat`) asks to obey, as SPDX expressions.

    One with commas, which bind in Debian's own way, is kept whole under its own name.
    """
    if "," in synopsis:
        return [_reference(synopsis)]
    words = _WORDS.split(" ".join(synopsis.split()))
    names = [_one(word) for word in words[::2]]
    joints = {word.lower() for word in words[1::2]}
    if joints == {"and", "or"}:
        return [_reference(synopsis)]
    return [f"({' OR '.join(names)})"] if joints == {"or"} else names


def _one(name: str) -> str:
    """Return one licence of Debian's as SPDX names it, or as a LicenseRef where SPDX has none."""
    if match := _DEBIAN.fullmatch(name):
        family, version, later = match.groups()
        number = version if "." in version else f"{version}.0"
        name = f"{family}-{number}-{'or-later' if later else 'only'}"
    known = spdx(_SAME.get(name.lower(), name))
    return known if known and " " not in known else _reference(name)


def _reference(name: str) -> str:
    words = name.replace("+", "-or-later ")
    return "LicenseRef-" + re.sub(r"[^A-Za-z0-9.]+", "-", words).strip("-")


def _expression(text: str) -> tuple[dict[str, Any], ...]:
    return ({"expression": text, "acknowledgement": "declared"},)


def _named(name: str) -> dict[str, Any]:
    return {"license": {"name": name, "acknowledgement": "declared"}}
