"""Compare the CUDA that locked wheels carry with the CUDA that their variant names."""

from __future__ import annotations

import ast
import re
import zipfile
from typing import TYPE_CHECKING, Final

from torchkiln.errors import ArchiveError, LockError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torchkiln.catalog import Variant
    from torchkiln.lockfile import LockedWheel

_MEMBER: Final = "torch/version.py"
_LARGEST: Final = 1 << 16
"""Bytes; the real file has a few hundred."""

_RUNTIME: Final = re.compile(r"nvidia-cuda-runtime(-cu\d+)?")
_CUDA_ONLY: Final = re.compile(r"(nvidia|cuda)-.+|(pytorch-)?triton")


def check_distributions(variant: Variant, wheels: Iterable[LockedWheel]) -> None:
    """Raise `LockError` where the names and versions of `wheels` speak of another CUDA."""
    wrong = [wheel for wheel in wheels if not _agrees(variant.cuda, wheel)]
    if wrong:
        raise _disagreement(variant, [f"`{wheel.name}` {wheel.version}" for wheel in wrong])


def check_torch(variant: Variant, path: Path) -> None:
    """Raise `LockError` where torch's wheel at `path` was built for another CUDA."""
    actual = torch_cuda(path)
    if actual != variant.cuda:
        raise _disagreement(variant, [f"torch {variant.torch} was built for {_shown(actual)}"])


def torch_cuda(path: Path) -> str | None:
    """Return what `torch.version.cuda` would be, without running anything of the wheel."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(_MEMBER) as stream:
            return version_cuda(stream.read(_LARGEST))
    except (KeyError, SyntaxError, ValueError, zipfile.BadZipFile) as error:
        what = "torch's wheel does not tell its CUDA"
        raise ArchiveError(what, f"{_MEMBER}: {error}") from None


def version_cuda(source: bytes) -> str | None:
    """Return what `torch/version.py` gives `cuda`; one that gives it nothing is a `ValueError`."""
    tree = ast.parse(source)
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        value = getattr(node, "value", None)
        if names == ["cuda"] and isinstance(value, ast.Constant):
            return None if value.value is None else str(value.value)
    message = "it assigns no constant to `cuda`"
    raise ValueError(message)


def _agrees(cuda: str | None, wheel: LockedWheel) -> bool:
    if cuda is None:
        return not _CUDA_ONLY.fullmatch(wheel.name)
    return not _RUNTIME.fullmatch(wheel.name) or wheel.version.startswith(f"{cuda}.")


def _disagreement(variant: Variant, found: list[str]) -> LockError:
    what = f"the wheels of `{variant.id}` do not carry the CUDA that the variant names"
    why = "\n".join([f"the variant names {_shown(variant.cuda)}, but it would hold:", *found])
    hint = (
        f"correct `torch`, `cuda` or `index` of `variants.{variant.id}` in `images/variants.yaml`"
    )
    return LockError(what, why, hint)


def _shown(cuda: str | None) -> str:
    return f"CUDA {cuda}" if cuda else "no CUDA"
