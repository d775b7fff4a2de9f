"""Pull an image into the store: every blob by its hash, resumed where it broke."""

from __future__ import annotations

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from torchkiln.descriptors import descriptor, diff_ids, items
from torchkiln.download import MismatchError, download, exclusive
from torchkiln.errors import RegistryError
from torchkiln.image import Image, adopt_image
from torchkiln.progress import Progress
from torchkiln.registry import manifests
from torchkiln.registry.mirrors import mirrors_of
from torchkiln.registry.refusals import reporting
from torchkiln.registry.session import Session
from torchkiln.registry.unpacked import check_layer, unpacked_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torchkiln.registry.manifests import Manifest
    from torchkiln.registry.reference import Reference
    from torchkiln.store import Store

_THREADS: Final = 4
_RECORDS: Final = "pulled"
_LARGEST_CONFIG: Final = 16 << 20  # bytes


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What a pull did: bytes of blobs that came (`received`) and that were there (`present`)."""

    image: Image
    reference: Reference
    received: int
    present: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A blob that is to come."""

    sha256: str
    size: int
    label: str


def pull(
    store: Store, reference: Reference, environ: Mapping[str, str], *, plain: bool = False
) -> Pulled:
    """Bring the image that `reference` names into the store.

    Its mirrors are asked first. Bytes that are not those of their digest raise `RegistryError`
    that names them, and nothing of the image is kept then but the blobs that were right. What the
    layers hold is not looked at: see `check_layers`.
    """
    started = time.monotonic()
    with reporting(f"pull {reference}"):
        session, manifest = _open(reference, environ, plain=plain)
        with contextlib.closing(session):
            config = _config(manifest)
            received = _bring_all(store, session, [config])
            layers = _layers(store, manifest.document, config)
            received += _bring_all(store, session, layers)
    store.put(manifest.data)
    sizes = {one.sha256: unpacked_size(store.blob(one.sha256)) for one in layers}
    # Engines know no image by a digest that is not their own count of it: it needs a tag there.
    name = f"{reference.name}:{reference.tag or manifest.digest[7:19]}"
    image = adopt_image(store, manifest.data, name, sizes)
    blobs = [one.sha256 for one in (config, *layers)]
    document = {"reference": str(reference), "blobs": [image.digest, *blobs]}
    store.write_record(_RECORDS, image.digest, document)
    return Pulled(
        image=image,
        reference=reference.at(manifest.digest),
        received=received,
        present=config.size + sum(one.size for one in layers) - received,
        seconds=time.monotonic() - started,
    )


def check_layers(store: Store, image: Image) -> None:
    """See that each layer's tar has the hash that the image's configuration says.

    That takes longer than the pull (all is inflated and hashed), and is for those who unpack it:
    the digests that `pull` has checked already fix every byte. `ArchiveError` names what differs.
    """
    layers = sorted(image.layers, key=lambda layer: -layer.size)
    with Progress("check", image.size) as progress, ThreadPoolExecutor() as pool:
        futures = [pool.submit(check_layer, store, layer, progress.advance) for layer in layers]
        for future in futures:
            future.result()


def _open(
    reference: Reference, environ: Mapping[str, str], *, plain: bool
) -> tuple[Session, Manifest]:
    """Return a session with the first place that has the image, and the image's manifest there."""
    *mirrors, origin = mirrors_of(reference, environ)
    for place in mirrors:
        with contextlib.suppress(RegistryError), reporting(f"pull {place}"):
            session = Session(place, environ, plain=plain)
            return session, manifests.image_manifest(session)
    session = Session(origin, environ, plain=plain)
    return session, manifests.image_manifest(session)


def _config(manifest: Manifest) -> Wanted:
    """Return the configuration, which is read into memory: a large one raises `RegistryError`."""
    config = described(manifest.document["config"], "the configuration")
    if config.size > _LARGEST_CONFIG:
        what = f"the configuration of the image is too large: {config.size} bytes"
        raise RegistryError(what, f"at most {_LARGEST_CONFIG} bytes")
    return config


def described(entry: object, label: str) -> Wanted:
    """Return the blob of a manifest's descriptor; a bad descriptor raises `RegistryError`."""
    try:
        found = descriptor(entry)
    except ValueError as error:
        what = f"the manifest describes {label} badly"
        raise RegistryError(what, str(error), "tell whoever keeps the registry") from None
    return Wanted(sha256=found.sha256, size=found.size, label=found.name(label))


def _layers(store: Store, manifest: Mapping[str, Any], config: Wanted) -> list[Wanted]:
    """Return the layers; as many as the configuration promises diff_ids for."""
    try:
        said = diff_ids(json.loads(store.checked(config.sha256, config.label).read_bytes()))
        entries = items(manifest["layers"])
    except ValueError as error:
        what = "invalid configuration of an image"
        raise RegistryError(what, str(error), "tell whoever keeps the registry") from None
    if len(said) != len(entries):
        what = "manifest and configuration are not of one image"
        raise RegistryError(what, f"{len(entries)} layers, {len(said)} diff_ids")
    return [described(entry, f"layer {number}") for number, entry in enumerate(entries, 1)]


def _bring_all(store: Store, session: Session, wanted: Sequence[Wanted]) -> int:
    """Bring what the store lacks, the largest first; return the bytes that came."""
    lacking = {one.sha256: one for one in wanted if not store.has(one.sha256, one.size)}
    blobs = sorted(lacking.values(), key=lambda one: -one.size)
    total = sum(one.size for one in blobs)
    store.demand_space(total, "pulled")
    with Progress("pull", total) as progress, ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(bring_blob, store, session, one, progress) for one in blobs]
        try:
            return sum(future.result() for future in as_completed(futures))
        except BaseException:
            session.cancel()
            pool.shutdown(cancel_futures=True)
            raise


def bring_blob(store: Store, session: Session, wanted: Wanted, progress: Progress) -> int:
    """Bring one blob into the store, by its hash; return the bytes that came."""
    path = store.partial(wanted.sha256)
    store.make(path.parent)
    with store.reporting(), exclusive(path) as stream:
        if store.has(wanted.sha256, wanted.size):  # by the process we waited for
            path.unlink()
            return 0
        try:
            received = download(
                session,
                session.url(f"blobs/sha256:{wanted.sha256}"),
                size=wanted.size,
                sha256=wanted.sha256,
                stream=stream,
                report=progress.advance,
            )
        except MismatchError as error:
            what = f"the registry has other bytes than the digest of {wanted.label} says"
            raise RegistryError(what, error.why, "tell whoever keeps the registry") from None
        store.adopt(path, wanted.sha256)
    return received
