"""Mirrors of registries, which a pull asks first.

`TORCHKILN_REGISTRY_MIRRORS` holds words `REGISTRY=HOST[/PREFIX]`, as in
`docker.io=mirror.example:5000 ghcr.io=cache.example/ghcr`. What a mirror gives is checked as what
the registry gives; a tag is asked of it too, so it may be as old as the mirror is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from torchkiln.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchkiln.registry.reference import Reference

_SETTING: Final = "TORCHKILN_REGISTRY_MIRRORS"


def mirrors_of(reference: Reference, environ: Mapping[str, str]) -> list[Reference]:
    """Return where to ask for the image, the mirrors first, the registry itself last."""
    found = []
    for word in environ.get(_SETTING, "").split():
        registry, equals, place = word.partition("=")
        host, _, prefix = place.partition("/")
        if not (registry and equals and host):
            what = f"{_SETTING} has a word that names no mirror: {word}"
            raise RegistryError(what, hint=f"export {_SETTING}=docker.io=mirror.example:5000")
        if registry == reference.registry:
            below = "/".join(filter(None, (prefix.strip("/"), reference.repository)))
            found.append(replace(reference, registry=host, repository=below))
    return [*found, reference]
