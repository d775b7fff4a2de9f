"""A small project to render: two variants of two wheels each."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

from torchkiln.catalog import Base, Catalog, Variant
from torchkiln.conda.spec import conda_spec
from torchkiln.config import ImageConfig
from torchkiln.contents import Contents, ImageFile, ImageFolder, ImageLink
from torchkiln.dockerfile import ImageFacts
from torchkiln.lockfile import BaseLock, LockedWheel, VariantLock
from torchkiln.plan import HEAVY
from torchkiln.render import render

ROOT = Path(__file__).parents[2]
CPU = Variant(id="cpu", torch="2.13.0", cuda=None, index="pt", packages=("numpy",))
CU117 = Variant(id="cu117", torch="2.0.1", cuda="11.7", index=None, packages=("numpy<2",))
CATALOG = Catalog(
    base=Base(release="bookworm", python="3.11", packages=("python3", "ca-certificates")),
    indexes={"pt": "https://download.pytorch.org/whl/cpu"},
    variants=(CPU, CU117),
)
BASE_LOCK = BaseLock(release="bookworm", inputs="", date="2026-01-02T03:04:05Z", debs=())
FACTS = ImageFacts(
    config=ImageConfig(
        environment={"PATH": "/opt/venv/bin:/bin", "GREETING": 'say "$HOME" \\o/'},
        labels={"org.opencontainers.image.title": "torchkiln"},
        created="2026-01-02T03:04:05Z",
    ),
    contents=Contents(
        files=(
            ImageFile(path="/opt/venv/pyvenv.cfg", text="home = /usr/bin\n"),
            ImageFile(path="/opt/torchkiln/constraints.txt", text="torch==1\nEOF\n"),
            ImageFile(path="/opt/torchkiln/bin/entry", text='exec "$@"\n', executable=True),
        ),
        folders=(ImageFolder(path="/workspace", mode=0o1777),),
        links=(ImageLink(path="/opt/venv/bin/python", target="/usr/bin/python3.11"),),
    ),
)


def lock(variant: str, *wheels: tuple[str, str, str]) -> VariantLock:
    """Return a lock of (name, version, source), with a made-up hash for each."""
    return VariantLock(
        variant=variant,
        inputs="0" * 64,
        python="3.11",
        wheels=tuple(
            LockedWheel(
                name=name,
                version=version,
                file=f"{name}-{version}-py3-none-any.whl",
                size=HEAVY if name == "torch" else 1,
                sha256=hashlib.sha256(name.encode()).hexdigest(),
                source=source,
            )
            for name, version, source in wheels
        ),
    )


LOCKS = {
    "cpu": lock("cpu", ("numpy", "2.4.6", "default"), ("torch", "2.13.0+cpu", "pt")),
    "cu117": lock("cu117", ("numpy", "1.26.4", "default"), ("torch", "2.0.1", "default")),
}


KERNEL = lock("kernel", ("ipykernel", "7.3.0", "default")).wheels
SPECS = {
    one.id: conda_spec(one, replace(LOCKS[one.id], wheels=(*LOCKS[one.id].wheels, *KERNEL)))
    for one in CATALOG.variants
}


def rendered() -> dict[str, str]:
    return render(ROOT, CATALOG, LOCKS, {"cpu": FACTS, "cu117": FACTS}, SPECS)


def dockerfile(variant: str = "cpu") -> str:
    return rendered()[f"images/{variant}/Dockerfile"]


def stages(text: str) -> dict[str, str]:
    """Return the instructions of each stage by its name; the last one has none."""
    parts = re.split(r"^FROM (\S+)(?: AS (\S+))?\n", text, flags=re.MULTILINE)
    return {name or "": body for name, body in zip(parts[2::3], parts[3::3], strict=True)}
