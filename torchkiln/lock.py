"""Lock the base and the variants: ask the indexes, check what they say, write `envs/`.

This and `fetch` are the only stages that use the network. A lock is written when everything about
it has been checked; until then the old one stays.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Final

from torchkiln import mirror, pipconf
from torchkiln.candidates import choose_wheels, supported_tags
from torchkiln.cuda import check_distributions, check_torch
from torchkiln.debian import read_index, read_keys
from torchkiln.depends import lock_debs
from torchkiln.errors import ArchiveError, FetchError, KilnError, LockError
from torchkiln.fetch import fetch
from torchkiln.files import write_atomic
from torchkiln.lockfile import (
    BaseLock,
    VariantLock,
    base_inputs,
    base_lock_path,
    dump,
    kernel_inputs,
    kernel_lock_path,
    read_variant_lock,
    variant_inputs,
    variant_lock_path,
)
from torchkiln.progress import say
from torchkiln.projects import use
from torchkiln.reach import reach
from torchkiln.resolve import Sources, glibc_minor, resolve, resolve_kernel, uv_platform
from torchkiln.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from torchkiln.catalog import Base, Catalog, Variant
    from torchkiln.store import Store

ARCHITECTURE: Final = "amd64"


def lock_base(root: Path, catalog: Catalog, environ: Mapping[str, str]) -> BaseLock:
    """Write the lock of the base into the project at `root` and return it."""
    lock = resolve_base(catalog.base, environ)
    write_atomic(base_lock_path(root, lock.release), dump(lock))
    return lock


def resolve_base(base: Base, environ: Mapping[str, str]) -> BaseLock:
    """Return the present versions of the base's packages, from the release's signed index."""
    say(f"reading the index of Debian {base.release}")
    with closing(Transport(pipconf.read(environ), environ)) as transport:
        index = read_index(
            base.release,
            ARCHITECTURE,
            mirrors=mirror.mirrors(environ),
            get=partial(_get, transport),
            keys=read_keys(base.release),
            now=datetime.now(timezone.utc),
        )
    return BaseLock(
        release=base.release,
        inputs=base_inputs(base),
        date=index.date,
        debs=lock_debs(index, ARCHITECTURE, base.packages),
    )


def _get(transport: Transport, url: str) -> bytes:
    """Return a file of the Debian index."""
    try:
        return transport.read(url).data
    except FetchError as error:
        hint = error.hint or "name another mirror: export TORCHKILN_DEBIAN_MIRROR=<URL>"
        raise FetchError(error.what, error.why, hint) from None


def lock_variants(
    root: Path,
    catalog: Catalog,
    variants: Iterable[Variant],
    store: Store,
    environ: Mapping[str, str],
) -> list[KilnError]:
    """Write the locks of `variants`, each with its kernel's; return the errors of those that fail.

    An index that does not answer from here is no reason to leave the others as they are.
    """
    failures: list[KilnError] = []
    for variant in variants:
        try:
            lock_variant(root, catalog, variant, store, environ)
            lock_kernel(root, catalog, variant, environ)
        except (ArchiveError, FetchError, LockError) as error:  # noqa: PERF203
            failures.append(error)
    return failures


def demand(failures: Sequence[KilnError]) -> None:
    """Raise the error of `lock_variants`, or one that tells all of them."""
    if len(failures) == 1:
        raise failures[0]
    if failures:
        what = f"{len(failures)} variants cannot be locked, the others are"
        lines = [line for one in failures for line in str(one).splitlines() if line]
        raise LockError(what, "\n".join(lines))


def lock_variant(
    root: Path, catalog: Catalog, variant: Variant, store: Store, environ: Mapping[str, str]
) -> VariantLock:
    """Write the lock of `variant` into the project at `root` and return it.

    torch's wheel is fetched into `store`, to see which CUDA it was built for.
    """
    config = pipconf.read(environ)
    tags = supported_tags(catalog.base.python, glibc_minor(catalog.base))
    found = reach(config, catalog.indexes[variant.index] if variant.index else None, environ)
    say(f"resolving `{variant.id}`")
    pins = resolve(variant, catalog.base, found, config, environ)
    with closing(Transport(config, environ)) as transport:
        wheels = choose_wheels(pins, tags, found, variant.index, transport)
    lock = VariantLock(
        variant=variant.id,
        inputs=variant_inputs(catalog, variant),
        python=catalog.base.python,
        wheels=wheels,
        platform=uv_platform(catalog.base),
    )
    check_distributions(variant, wheels)
    torch = lock.wheel("torch")
    fetch(store, [torch], [], catalog.indexes, environ)
    check_torch(variant, store.blob(torch.sha256))
    write_atomic(variant_lock_path(root, variant.id), dump(lock))
    use(store, root, variant_lock_path(root, variant.id), wheels)
    return lock


def lock_kernel(
    root: Path, catalog: Catalog, variant: Variant, environ: Mapping[str, str]
) -> VariantLock:
    """Write the lock of what a kernel for Jupyter needs beside the lock of `variant`; return it."""
    beside = read_variant_lock(root, catalog, variant)
    config = pipconf.read(environ)
    found = reach(config, None, environ)
    pins = resolve_kernel(beside, catalog.base, Sources(reach=found, config=config), environ)
    tags = supported_tags(catalog.base.python, glibc_minor(catalog.base))
    with closing(Transport(config, environ)) as transport:
        wheels = choose_wheels(pins, tags, found, None, transport)
    lock = replace(beside, inputs=kernel_inputs(beside), wheels=wheels)
    write_atomic(kernel_lock_path(root, variant.id), dump(lock))
    return lock
