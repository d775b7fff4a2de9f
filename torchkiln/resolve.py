"""Resolve a variant's requirements to one version of each distribution, with uv.

uv is given what pip is configured with, and told to choose as pip does: the best version over all
indexes, not that of the first index. So `fetch`, which follows pip, finds what uv has chosen.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import uv
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from torchkiln.errors import LockError
from torchkiln.lockfile import KERNEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torchkiln.catalog import Base, Variant
    from torchkiln.lockfile import VariantLock
    from torchkiln.pipconf import PipConfig
    from torchkiln.reach import Reach

GLIBC: Final = {"bookworm": 36}
"""The minor version of each release's glibc (2.36). A wheel may ask for that much and no more."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where uv finds packages: where pip does."""

    reach: Reach
    config: PipConfig

    @property
    def options(self) -> list[str]:
        """Return uv's options; URLs of indexes are in `environment`."""
        options = ["--index-strategy", "unsafe-best-match"]
        for host in self.config.trusted_hosts:
            options += ["--allow-insecure-host", host]
        for page in self.reach.pages:
            options += ["--find-links", page.location]
        return options + ["--no-index"] * self.config.no_index

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return uv's environment; URLs can hold passwords, which a command line shows to all."""
        reach, config = self.reach, self.config
        extra = (*reach.indexes[1:], *([reach.named] if reach.named else []))
        settings = {
            "UV_DEFAULT_INDEX": config.index_url,
            "UV_EXTRA_INDEX_URL": " ".join(source.location for source in extra),
            "SSL_CERT_FILE": config.cert,
            "SSL_CLIENT_CERT": config.client_cert,
            **dict.fromkeys(("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"), config.proxy),
        }
        return dict(environ) | {name: value for name, value in settings.items() if value}


def resolve(
    variant: Variant,
    base: Base,
    reach: Reach,
    config: PipConfig,
    environ: Mapping[str, str],
) -> dict[str, str]:
    """Return the version of each distribution of `variant`, by normalised name, wheels only.

    What cannot be resolved is a `LockError` with uv's explanation.
    """
    requirements = [f"torch=={torch_version(variant)}", *variant.packages]
    options = ["--python", sys.executable]
    options += ["--python-platform", uv_platform(base)]
    sources = Sources(reach=reach, config=config)
    done = compile_pins(requirements, base.python, options, sources, environ)
    if done.returncode:
        what = f"the requirements of `{variant.id}` cannot be resolved"
        raise LockError(what, done.stderr.strip(), _hint(variant, reach))
    pins = dict(_pin(line) for line in done.stdout.splitlines())
    _refuse_other_build(variant, pins["torch"])
    return pins


def resolve_kernel(
    lock: VariantLock, base: Base, sources: Sources, environ: Mapping[str, str]
) -> dict[str, str]:
    """Return the versions of what a kernel for Jupyter needs beside the wheels of `lock`."""
    options = ["--python", sys.executable, "--python-platform", uv_platform(base)]
    text = public_constraints(lock)
    done = compile_pins(KERNEL, base.python, options, sources, environ, constraints=text)
    if done.returncode:
        what = f"a kernel for Jupyter cannot be resolved beside the versions of `{lock.variant}`"
        hint = "see which indexes pip is configured with: pip config list"
        raise LockError(what, done.stderr.strip(), hint)
    there = {wheel.name for wheel in lock.wheels}
    pins = dict(_pin(line) for line in done.stdout.splitlines())
    return {name: version for name, version in pins.items() if name not in there}


def public_constraints(lock: VariantLock) -> str:
    """Return the lock's versions as constraints, without local parts (`+cpu`), which may differ."""
    return "".join(f"{w.name}=={w.version.partition('+')[0]}\n" for w in lock.wheels)


def compile_pins(
    requirements: Iterable[str],
    python: str,
    options: Sequence[str],
    sources: Sources,
    environ: Mapping[str, str],
    *,
    constraints: str = "",
) -> subprocess.CompletedProcess[str]:
    """Let uv resolve `requirements` for CPython `python`, wheels only; `options` say which one.

    The `constraints` ask for nothing: what nobody requires does not come. One pin is on a line of
    uv's output; where it fails, stderr says why.
    """
    command = [
        *(uv.find_uv_bin(), "pip", "compile", "-", "--color", "never", "--no-progress"),
        *("--no-header", "--no-annotate", "--no-python-downloads", "--only-binary", ":all:"),
        *("--python-version", python),
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(constraints)
        file.flush()
        return subprocess.run(
            [*command, *sources.options, *options, "--constraints", file.name],
            input="\n".join(requirements),
            env=sources.environment(environ),
            capture_output=True,
            text=True,
            check=False,
        )


def _hint(variant: Variant, reach: Reach) -> str:
    if variant.index and reach.named is None:
        return (
            f"the index `{variant.index}` does not answer from here: lock where it does,"
            " or name a folder with its wheels: export PIP_FIND_LINKS=<folder>"
        )
    return (
        f"correct `variants.{variant.id}` in `images/variants.yaml`,"
        " or see which indexes pip is configured with: pip config list"
    )


def torch_version(variant: Variant) -> str:
    """Return the version of torch to ask for.

    A build from an index of its own is asked for by its local version label. Without it,
    `torch==2.13.0` would be met by the package index too, whose build is another: CUDA's.
    """
    return f"{variant.torch}+{variant.id}" if variant.index else variant.torch


def _refuse_other_build(variant: Variant, found: str) -> None:
    """Raise `LockError` for a local build (`+cpu`) that was not asked for.

    PEP 440 lets `==2.13.0` match it. It lies on this machine or its own index, for nobody else.
    """
    wanted = torch_version(variant)
    if Version(found) != Version(wanted):
        what = f"the build of torch for `{variant.id}` is {found}, not {wanted}"
        hint = f"name its index: `index` of `variants.{variant.id}` in `images/variants.yaml`"
        raise LockError(what, "pip's configuration leads to it (`pip config list`)", hint)


def uv_platform(base: Base) -> str:
    """Return uv's name of the platform that locks are resolved for."""
    return f"x86_64-manylinux_2_{glibc_minor(base)}"


def glibc_minor(base: Base) -> int:
    """Return the minor version of the base's glibc, or raise `LockError` where it is not known."""
    if base.release not in GLIBC:
        what = f"the glibc of the Debian release `{base.release}` is not known"
        raise LockError(what, hint=f"name one of these in `base.release`: {', '.join(GLIBC)}")
    return GLIBC[base.release]


def _pin(line: str) -> tuple[str, str]:
    requirement = Requirement(line)
    (pin,) = requirement.specifier
    return canonicalize_name(requirement.name), pin.version
