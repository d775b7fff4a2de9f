"""The texts of two lock formats: `@EXPLICIT` of conda and mamba, and conda-lock's, version 1.

`@EXPLICIT` is a list of URLs, each with a hash after `#`: conda, mamba, micromamba and rattler take
the 64 digits of a sha256 (conda/ceps, "explicit" input files; mamba's specs/package_info.cpp).
conda-lock.yml is what conda-lock 4 reads (conda_lock/lockfile/v1/models.py), micromamba too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from torchkiln.conda.rattler import SUBDIR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchkiln.conda.channels import Channel
    from torchkiln.conda.rattler import Package


def explicit(packages: Sequence[Package]) -> str:
    """Return `@EXPLICIT` with the packages in the order given: dependencies first."""
    lines = [f"# platform: {SUBDIR}", "@EXPLICIT"]
    return "\n".join([*lines, *(f"{one.url}#{one.sha256}" for one in packages)]) + "\n"


def conda_lock(packages: Sequence[Package], channels: Sequence[Channel], inputs: str) -> str:
    """Return conda-lock.yml; `inputs` is the hash of what was solved."""
    document = {
        "version": 1,
        "metadata": {
            "content_hash": {SUBDIR: inputs},
            "channels": [{"url": one.name, "used_env_vars": []} for one in channels],
            "platforms": [SUBDIR],
            "sources": ["environment.yml"],
        },
        "package": [_entry(one) for one in sorted(packages, key=lambda one: one.name)],
    }
    return yaml.safe_dump(document, sort_keys=False)


def _entry(package: Package) -> dict[str, Any]:
    depends = (one.partition(" ") for one in package.depends if not one.startswith("__"))
    return {
        "name": package.name,
        "version": package.version,
        "manager": "conda",
        "platform": SUBDIR,
        "dependencies": {name: spec for name, _, spec in depends},
        "url": package.url,
        "hash": {"md5": package.md5, "sha256": package.sha256},
        "category": "main",
        "optional": False,
    }
