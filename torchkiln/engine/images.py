"""What Docker and Podman do with images: name them, find them, remove and push them."""

from __future__ import annotations

import re
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from docker.errors import APIError, DockerException, ImageNotFound
from requests.exceptions import RequestException

from torchkiln.digests import parse_sha256
from torchkiln.errors import EngineError
from torchkiln.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.engine.connection import Engine

_FULL: Final = "no space left on device"
_ARRIVING: Final = "arriving-"
_DAY: Final = 86400  # seconds
_DIGEST: Final = re.compile(r"digest: (sha256:[0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True)
class EngineImage:
    """An image in an engine.

    `id` is the engine's name for its bytes: the digest of the manifest in containerd's store, else
    of the config. `size` is in bytes, as the engine counts them.
    """

    reference: str
    id: str
    diff_ids: tuple[str, ...]
    size: int


def _id(said: str) -> str:
    """Return an engine's id of an image, which Podman tells without `sha256:`."""
    try:
        return f"sha256:{parse_sha256(said.removeprefix('sha256:'))}"
    except ValueError as error:
        what = "the engine tells an id that is none"
        raise EngineError(what, str(error)) from None


def find(engine: Engine, reference: str) -> EngineImage | None:
    """Return the image that the engine has under `reference`, if it has one."""
    with asked(engine, f"cannot ask for the image `{reference}`"):
        try:
            found = engine.client.api.inspect_image(reference)
        except ImageNotFound:
            return None
    return EngineImage(
        reference=reference,
        id=_id(found["Id"]),
        diff_ids=tuple((found.get("RootFS") or {}).get("Layers") or ()),
        size=found["Size"],
    )


def find_made(engine: Engine, reference: str, flag: str) -> EngineImage:
    """Return the image under `reference`; one that is missing is an error that says how to get it.

    `flag` names its variant.
    """
    image = find(engine, reference)
    if image is None:
        what = f"there is no image `{reference}` in {engine.title}"
        load = "--load" if engine.name == "docker" else f"--load={engine.name}"
        raise EngineError(what, hint=f"./kiln build {flag} {load}")
    return image


@contextmanager
def arriving(engine: Engine, reference: str) -> Iterator[str]:
    """Give a name for an image that is on its way; it becomes `reference` when all went well.

    So a failure leaves nothing, and whatever had the name keeps it.
    """
    repository, _, tag = reference.rpartition(":")  # a registry may have a port before it
    _sweep(engine, repository)
    temporary = f"{repository}:{_ARRIVING}{time.time():.0f}-{uuid.uuid4().hex[:8]}"
    try:
        yield temporary
        with asked(engine, f"cannot name the image `{reference}`"):
            engine.client.api.tag(temporary, repository, tag)
    finally:
        # An engine that died or hangs keeps what it had until the sweep.
        if engine.answers():
            with suppress(DockerException, RequestException):
                engine.client.api.remove_image(temporary, force=True)


def _sweep(engine: Engine, repository: str) -> None:
    """Remove what arrived over a day ago and never got its name: we were killed, or the engine."""
    with asked(engine, "cannot list the images"):
        summaries = engine.client.api.images(name=repository)
    for tag in [tag for one in summaries for tag in one["RepoTags"] or ()]:
        started = tag.partition(f":{_ARRIVING}")[2].partition("-")[0]
        if started.isdigit() and int(started) < time.time() - _DAY:
            with asked(engine, f"cannot remove the image `{tag}`"):
                engine.client.api.remove_image(tag, force=True)


def push(engine: Engine, image: EngineImage, target: str) -> str:
    """Push the image as `target` (`registry/repository:tag`) and return its digest there."""
    repository, _, tag = target.rpartition(":")
    if not repository or "/" in tag:
        what = f"this is no name for an image in a registry: {target}"
        raise EngineError(what, hint="--to REGISTRY/REPOSITORY:TAG")
    with (
        asked(engine, f"cannot push `{image.reference}` to {target}"),
        Progress("pushing", None) as progress,
    ):
        engine.client.api.tag(image.id, repository, tag)
        sent: dict[str, int] = {}
        for event in engine.client.api.push(repository, tag, stream=True, decode=True):
            refuse(event)
            if found := _DIGEST.search(event.get("status", "")):
                return found[1]
            layer, done = event.get("id", ""), event.get("progressDetail", {}).get("current", 0)
            progress.advance(max(done - sent.get(layer, 0), 0))
            sent[layer] = max(done, sent.get(layer, 0))
    what = f"the registry says nothing of the image that was pushed: {target}"
    raise EngineError(what)


def refuse(event: dict[str, Any]) -> None:
    """Raise what an engine's stream of events says went wrong, if it does."""
    if message := event.get("error") or (event.get("errorDetail") or {}).get("message"):
        raise DockerException(message)


@contextmanager
def asked(engine: Engine, what: str) -> Iterator[None]:
    """Turn what the SDK raises into an `EngineError`: `what`, then the engine's name."""
    try:
        yield
    except (DockerException, RequestException) as error:
        why = (isinstance(error, APIError) and error.explanation) or str(error)
        raise failure(engine, what, str(why)) from error


def failure(engine: Engine, what: str, why: str) -> EngineError:
    """Return the error, with a hint where the engine's disk is full."""
    hint = (
        f"{engine.name} system df, then {engine.name} system prune" if _FULL in why.lower() else ""
    )
    return EngineError(f"{what}: {engine.title}", why, hint)
