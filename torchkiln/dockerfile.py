"""What a Dockerfile is made from: the values of `templates/Dockerfile.j2`, and the bake file.

Strings are quoted here as a Dockerfile wants them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln import compile_modules
from torchkiln.config import PREFIX, ImageConfig, image_config, venv
from torchkiln.contents import BESIDE_DOCTOR, Contents, ImageFile, image_contents
from torchkiln.errors import LockError
from torchkiln.layer import MTIME
from torchkiln.lockfile import DEFAULT_SOURCE
from torchkiln.plan import plan_layers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torchkiln.catalog import Base, Catalog, Variant
    from torchkiln.lockfile import BaseLock, LockedWheel, VariantLock

BAKE_FILE: Final = "images/docker-bake.json"
REQUIREMENTS: Final = "envs/kiln/requirements.txt"
"""Where the version of `installer` is locked, the library that both engines install with."""

TOOLS: Final = "tools"
"""The folder of the wheelhouse that holds `installer`."""


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What both engines put into an image: its config, and what lies beside venv and suite."""

    config: ImageConfig
    contents: Contents


def image_facts(base: Base, variant: Variant, lock: VariantLock, base_lock: BaseLock) -> ImageFacts:
    """Return what both engines put into the image of `variant`."""
    return ImageFacts(
        config=image_config(base, variant, lock, base_lock),
        contents=image_contents(base, variant, lock),
    )


def dockerfile_values(
    catalog: Catalog, lock: VariantLock, facts: ImageFacts, requirements: str
) -> dict[str, object]:
    """Return the values of the template; `requirements` is the text of `REQUIREMENTS`."""
    files = [_heredoc(file) for file in sorted(facts.contents.files, key=lambda file: file.path)]
    environment = venv(catalog.base)
    return {
        "release": catalog.base.release,
        "packages": sorted(catalog.base.packages),
        "groups": [
            {
                "name": group.folder,
                "pages": index_pages(catalog, group.wheels),
                "wheels": sorted(group.wheels),
            }
            for group in plan_layers(lock)
        ],
        "tools": {"name": TOOLS, "line": installer_requirement(requirements)},
        "prefix": f"/{environment.prefix}",
        "interpreter": environment.interpreter,
        "mtime": MTIME,
        "compile_modules": Path(compile_modules.__file__).read_text(encoding="utf-8"),
        "venv_files": [file for file in files if _in_venv(file["path"])],
        "files": [file for file in files if not _in_venv(file["path"])],
        "links": facts.contents.links,
        "doctor": _doctor_files(),
        "folders": [
            {"path": folder.path, "mode": f"{folder.mode:o}"} for folder in facts.contents.folders
        ],
        "environment": _quoted(facts.config.environment),
        "labels": _quoted(facts.config.labels),
        "user": facts.config.user,
        "workdir": facts.config.workdir,
        "entrypoint": json.dumps(facts.config.entrypoint),
        "command": json.dumps(facts.config.command),
    }


def index_pages(catalog: Catalog, wheels: Iterable[LockedWheel]) -> list[str]:
    """Return the pages (PEP 503: `<index>/<project>/`) of the wheels of named indexes.

    Not `--extra-index-url`: uv takes every package from the first index that has it under any
    version, and the PyTorch index has numpy and others too, with other versions and bytes.
    """
    return [
        f"{catalog.indexes[wheel.source]}/{wheel.name}/"
        for wheel in sorted(wheels)
        if wheel.source != DEFAULT_SOURCE
    ]


def installer_requirement(text: str) -> str:
    """Return the requirement of `installer`, with its hashes, from the text of `REQUIREMENTS`."""
    found = re.search(r"^installer==\S+(?: \\\n    --hash=\S+)+", text, re.MULTILINE)
    if found is None:
        what = f"`installer` is not locked: {REQUIREMENTS}"
        raise LockError(what, hint=f"git checkout {REQUIREMENTS}")
    return found[0]


def bake_file(header: str, variants: Iterable[Variant]) -> str:
    """Return the bake file: a target for each variant, on one base that is built once."""
    ids = [variant.id for variant in variants]
    base = {"context": f"images/{ids[0]}", "target": "base"}
    targets: dict[str, object] = {
        name: {
            "context": f"images/{name}",
            "contexts": {"base": "target:base", "smoke": "smoke", "doctor": "torchkiln"},
            "tags": [f"torchkiln:{name}"],
        }
        for name in ids
    }
    body = {
        "//": f"{header}. In the project's folder: docker buildx bake --file {BAKE_FILE}",
        "group": {"default": {"targets": ids}},
        "target": {"base": base, **targets},
    }
    return json.dumps(body, indent=2) + "\n"


def _doctor_files() -> list[dict[str, str]]:
    """Return what to copy of the doctor, by the folder where it comes to lie.

    As patterns, which may match nothing: the Dockerfile builds without the doctor too. They begin
    at the first letter, because BuildKit looks for what stands before a pattern.
    """
    files = {"doctor": ["doctor/*.py"]}
    for name in BESIDE_DOCTOR:
        files.setdefault(name.rpartition("/")[0], []).append(name)
    return [
        {
            "folder": f"/{folder}" if folder else "",
            "patterns": " ".join(f"/[{name[0]}]{name[1:]}" for name in names),
        }
        for folder, names in files.items()
    ]


def _in_venv(path: str) -> bool:
    return path.startswith(f"/{PREFIX}/")


def _heredoc(file: ImageFile) -> dict[str, str]:
    """Return a file with a word that ends its heredoc: one that is no line of its text."""
    word = "EOF"
    while word in file.text.splitlines():
        word += "_"
    mode = "755" if file.executable else "644"
    return {"path": file.path, "text": file.text, "mode": mode, "end": word}


def _quoted(values: Mapping[str, str]) -> dict[str, str]:
    """Return `values` sorted by key, each value quoted for ENV and LABEL, `$` not expanded."""
    escape = str.maketrans({"\\": "\\\\", '"': '\\"', "$": "\\$"})
    return {name: f'"{value.translate(escape)}"' for name, value in sorted(values.items())}
