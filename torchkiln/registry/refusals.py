"""What a registry's refusals are told as: its own words, and the way to be let in."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from torchkiln import urls
from torchkiln.errors import FetchError, RegistryError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import urllib3

    from torchkiln.registry.reference import Reference

_UNAUTHORIZED: Final = frozenset({401, 403})
_LONGEST_MESSAGE: Final = 500


def denied(reference: Reference, status: int, message: str = "") -> RegistryError:
    """Return the error for a registry that will not let us in."""
    what = f"{reference.registry} refuses access to `{reference.repository}`"
    why = message or f"HTTP {status}"
    return RegistryError(what, why, f"docker login {reference.registry}")


def refused(reference: Reference, doing: str, response: urllib3.BaseHTTPResponse) -> RegistryError:
    """Return the error for an answer that is no success, with the registry's own words."""
    words = _words(response)
    if response.status in _UNAUTHORIZED:
        return denied(reference, response.status, words)
    return RegistryError(f"cannot {doing}: {reference}", words)


@contextmanager
def parsing(reference: Reference, document: str) -> Iterator[None]:
    """Turn a fault in what a registry sent, `the manifest`, into a `RegistryError`."""
    try:
        yield
    except ValueError as error:
        what = f"invalid answer of the registry, {document}: {reference}"
        raise RegistryError(what, str(error), "tell whoever keeps the registry") from None


@contextmanager
def reporting(doing: str) -> Iterator[None]:
    """Turn a connection that failed for good into a `RegistryError` that begins with `doing`."""
    try:
        yield
    except FetchError as error:
        why = "\n".join(part for part in (error.what, error.why) if part)
        what = f"cannot {doing}"
        raise RegistryError(what, why, error.hint) from error


def _words(response: urllib3.BaseHTTPResponse) -> str:
    """Return status and the errors that the registry tells (distribution-spec: error codes)."""
    lines = [f"HTTP {response.status} {response.reason or ''}".strip()]
    try:
        errors = json.loads(response.data).get("errors") or []
        lines += [f"{error.get('code', '')}: {error.get('message', '')}" for error in errors]
    except (ValueError, AttributeError):
        pass
    return urls.redact("\n".join(lines))[:_LONGEST_MESSAGE]
