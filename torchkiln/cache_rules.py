"""What a layer from a cache must be: what a build here could have made, from the locked packages.

Each rule is a pure function over a layer's listing that returns the violations it finds. What no
rule can tell without the packages themselves is whether a RECORD, or bytecode, was made by someone
who lies in both: a cache is trusted as far as those who may push to it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from torchkiln import debian_rules, layer_rules, package_rules
from torchkiln.layer import MTIME
from torchkiln.listing import DIRECTORY, FILE, ImageListing
from torchkiln.lockfile import VariantLock
from torchkiln.packages import sums_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torchkiln.listing import LayerListing
    from torchkiln.lockfile import BaseLock, LockedWheel
    from torchkiln.venv import Venv

_FORM: Final = (
    layer_rules.owners,
    layer_rules.permissions,
    layer_rules.set_id,
    layer_rules.kinds,
    layer_rules.headers,
    layer_rules.order,
    layer_rules.names,
    layer_rules.behind_links,
    layer_rules.bytecode,
)


def wheel_layer_faults(layer: LayerListing, wheels: Sequence[LockedWheel], venv: Venv) -> list[str]:
    """Check that the layer holds `wheels`, each file as its RECORD says, and nothing else."""
    image = _image(layer)
    lock = VariantLock(variant="", inputs="", python=venv.python, wheels=tuple(wheels))
    faults = _form_faults(image)
    for wheel in wheels:
        faults += package_rules.wheel_faults(image, wheel, venv)
    faults += package_rules.unlocked_wheels(image, lock, venv)
    return faults + _strangers(layer, venv)


def _strangers(layer: LayerListing, venv: Venv) -> list[str]:
    """Check that all is a file in the environment, bytecode where its Python looks for it."""
    cached = re.compile(rf".+/__pycache__/[^/]+\.cpython-{venv.python.replace('.', '')}\.pyc")
    faults = []
    for one in layer.members:
        inside = one.path.startswith(f"{venv.prefix}/")
        if one.kind not in {FILE, DIRECTORY} or (one.kind == FILE and not inside):
            faults.append(f"/{one.path}: no wheel brings a {one.kind} there")
        elif one.kind == DIRECTORY and not (inside or f"{venv.prefix}/".startswith(f"{one.path}/")):
            faults.append(f"/{one.path}: no wheel brings a folder there")
        elif one.path.endswith(".pyc") and not cached.fullmatch(one.path):
            faults.append(f"/{one.path}: is not where bytecode belongs")
    return faults


def base_layer_faults(layer: LayerListing, lock: BaseLock, md5: Mapping[str, str]) -> list[str]:
    """Check that the layer is the locked Debian, whole, with the bytes that dpkg knows.

    `md5` gives the md5 (hex) of each file by its path.
    """
    image = _image(layer)
    return [
        *_form_faults(image),
        *debian_rules.package_faults(image, lock),
        *debian_rules.unowned_files(image),
        *debian_rules.missing_files(image),
        *(
            f"/{path}: has other bytes than its package"
            for path, value in sums_of(image)
            if path in md5 and md5[path] != value
        ),
    ]


def _image(layer: LayerListing) -> ImageListing:
    return ImageListing(index={}, manifest={}, config={}, layers=(layer,))


def _form_faults(image: ImageListing) -> list[str]:
    faults = [fault for rule in _FORM for fault in rule(image)]
    return faults + layer_rules.clocks(image, MTIME)
