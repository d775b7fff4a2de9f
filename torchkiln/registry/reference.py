"""Names of images in registries: `REGISTRY/REPOSITORY[:TAG][@sha256:DIGEST]`.

The grammar is that of distribution-spec 1.1 (pull: name, tag, digest) and of Docker's references.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from torchkiln.digests import is_digest
from torchkiln.errors import RegistryError

_NAME: Final = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
_TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:]+\]|[a-zA-Z0-9.-]+)(:[0-9]{1,5})?")
_LONGEST_NAME: Final = 255
_CONTENT_TAG: Final = re.compile(r".+-r[0-9a-f]{12}(-drifted)?")
_LOOPBACK: Final = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An image in a registry; `tag` and `digest` (`sha256:<hex>`) are empty where not given."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Return registry and repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def wanted(self) -> str:
        """Return what to ask the registry for: the digest if there is one, else the tag."""
        return self.digest or self.tag or "latest"

    @property
    def is_loopback(self) -> bool:
        """Tell whether the registry is on this machine."""
        return _LOOPBACK.fullmatch(self.registry) is not None

    def at(self, digest: str) -> Reference:
        """Return the name of the image with this digest there."""
        return replace(self, tag="", digest=digest)

    def __str__(self) -> str:
        """Return the name as people type it."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}" + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """Return the reference that `text` is; `RegistryError` says what is wrong with it.

    The registry must be named: Docker's silent `docker.io/library` sends a private image's name
    to a public place where somebody forgot it.
    """
    rest, _, digest = text.partition("@")
    registry, slash, path = rest.partition("/")
    repository, _, tag = path.partition(":")
    faults = [
        fault
        for fault, is_wrong in (
            ("it has no registry before its first `/`", not slash or not _is_host(registry)),
            (f"`{repository}` is no name of a repository", not _is_name(repository)),
            (f"`{tag}` is no tag", ":" in path and not _TAG.fullmatch(tag)),
            (f"`{digest}` is no sha256 digest", "@" in text and not is_digest(digest)),
        )
        if is_wrong
    ]
    if faults:
        what = f"this is no name for an image in a registry: {text}"
        raise RegistryError(what, "\n".join(faults), "REGISTRY/REPOSITORY[:TAG][@sha256:DIGEST]")
    return Reference(registry=registry, repository=repository, tag=tag, digest=digest)


def is_reference(text: str) -> bool:
    """Tell whether `text` has the shape of a name in a registry."""
    try:
        parse(text)
    except RegistryError:
        return False
    return True


def is_content_tag(tag: str) -> bool:
    """Tell whether a tag names one content for ever: it has `-r<12 hex>` at its end."""
    return _CONTENT_TAG.fullmatch(tag) is not None


def _is_host(text: str) -> bool:
    looks_like_one = "." in text or ":" in text or text == "localhost"
    return looks_like_one and _HOST.fullmatch(text) is not None


def _is_name(text: str) -> bool:
    return len(text) <= _LONGEST_NAME and _NAME.fullmatch(text) is not None
