"""What `push`, `pull` and `verify REF` mean for a project: which image, which names, what proof."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchkiln import drift, layer_cache, pipeline, reproduce
from torchkiln.config import DRIFTED
from torchkiln.errors import BuildError, ProofError, RegistryError, ReproducibilityError
from torchkiln.image_reader import read_layout
from torchkiln.proof import keys
from torchkiln.proof.attach import PROVENANCE, SBOM, described, publish
from torchkiln.proof.check import check_content, read_proof
from torchkiln.proof.provenance import built_by, differing, project_from
from torchkiln.registry import pull as pulls
from torchkiln.registry import push as pushes
from torchkiln.registry.manifests import image_manifest
from torchkiln.registry.reference import parse
from torchkiln.registry.refusals import reporting
from torchkiln.registry.session import Session
from torchkiln.registry.tags import content_tag, moving_tags

if TYPE_CHECKING:
    from torchkiln.catalog import Variant
    from torchkiln.engine.job import Job
    from torchkiln.image import Image
    from torchkiln.pipeline import Project
    from torchkiln.proof.check import Proof
    from torchkiln.registry.pull import Pulled
    from torchkiln.registry.push import Pushed
    from torchkiln.registry.reference import Reference


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What `verify REF` found: the documents' names, how many packages were compared.

    `rebuilt` tells that it was built again and is the same.
    """

    reference: Reference
    signed: bool
    documents: tuple[str, ...]
    packages: int
    rebuilt: bool


def push(
    project: Project,
    variant: Variant,
    target: str,
    *,
    key: str = "",
    plain: bool = False,
    cache: bool = True,
    frozen: bool = False,
) -> Pushed:
    """Push the built image of `variant` to the repository `target`, with its documents.

    With `cache`, its layers are offered there to builds elsewhere.

    With a tag in `target` under that name alone, else under its content tag and the moving ones.
    `key` is a private key's file, with which all is signed. An image that is not built raises
    `BuildError`: a push is no place for surprises. With `frozen`, a base that has drifted from its
    lock raises `LockError`.
    """
    private = keys.load_private(Path(key), project.environ) if key else None
    reference = parse(target)
    if reference.digest:
        what = f"a push cannot choose the digest: {target}"
        raise RegistryError(what, hint=f"--to {reference.name}")
    image = pipeline.image_built_before(project, variant)
    if image is None:
        what = f"there is no image of `{variant.id}` to push"
        raise BuildError(
            what, "it was not built from its present lock", f"./kiln build {variant.flag}"
        )
    work = pipeline.job(project, variant)
    if frozen:
        drift.refuse(work.base_lock)
    pipeline.fetch_wheels(project, variant)  # the SBOM tells what they say of themselves
    documents = described(work, image)
    tags = [reference.tag] if reference.tag else _tags(project, work, image)
    pushed = pushes.push(
        project.store,
        image,
        reference,
        tags,
        project.environ,
        beside=lambda session: publish(session, image, documents, private),
        plain=plain,
    )
    if cache:
        layer_cache.offer(work, reference, project.environ, plain=plain)
    return pushed


def pull(project: Project, text: str, *, plain: bool = False, unpack: bool = False) -> Pulled:
    """Bring the image that `text` names into the project's store; `unpack` checks what it holds."""
    pulled = pulls.pull(project.store, parse(text), project.environ, plain=plain)
    if unpack:
        pulls.check_layers(project.store, pulled.image)
    return pulled


def verify(
    project: Project, text: str, *, key: str = "", rebuild: bool = False, plain: bool = False
) -> Verified:
    """Check an image in a registry: every byte, its signature, its documents, its content.

    `key` is a public key's file, without which nothing is known of who made it. With `rebuild` it
    is built again from its own provenance, and must have the same layers.
    """
    public = keys.load_public(Path(key)) if key else None
    pulled = pull(project, text, plain=plain)
    with (
        reporting(f"read what is told of {pulled.reference}"),
        closing(Session(pulled.reference, project.environ, plain=plain)) as session,
    ):
        proof = read_proof(session, pulled.reference.digest, public)
    pulls.check_layers(project.store, pulled.image)
    packages = check_content(proof, read_layout(pulled.image.layout))
    if rebuild:
        _rebuild(project, proof, pulled.image)
    return Verified(
        reference=pulled.reference,
        signed=proof.signed,
        documents=tuple(proof.titles),
        packages=packages,
        rebuilt=rebuild,
    )


def attached_sbom(
    project: Project, text: str, *, key: str = "", plain: bool = False
) -> dict[str, Any]:
    """Return the SBOM of an image in a registry, of which nothing else is pulled."""
    reference = parse(text)
    public = keys.load_public(Path(key)) if key else None
    with (
        reporting(f"read the SBOM of {reference}"),
        closing(Session(reference, project.environ, plain=plain)) as session,
    ):
        digest = image_manifest(session).digest
        proof = read_proof(session, digest, public)
    if SBOM not in proof.documents:
        what = f"the image has no SBOM: {reference.at(digest)}"
        raise ProofError(what, hint="./kiln push attaches one")
    return proof.documents[SBOM]


def _rebuild(project: Project, proof: Proof, image: Image) -> None:
    """Build the image from its provenance and compare diff_ids.

    The compressed bytes may be other ones, where another version of the codec wrote them.
    """
    statement = proof.documents.get(PROVENANCE)
    if statement is None:
        what = f"the image has no provenance to build it from: {proof.digest}"
        raise ProofError(what)
    if files := differing(statement):
        what = "this is another Torchkiln than the one that built the image"
        commit = built_by(statement)
        hint = f"git checkout {commit}" if commit else ""
        raise ReproducibilityError(what, "\n".join(f"{name}: differs" for name in files), hint)
    with project.store.workspace() as folder:
        project_from(statement, folder)
        again = replace(pipeline.open_project(folder, project.environ), store=project.store)
        variant = again.catalog.variant(
            statement["predicate"]["buildDefinition"]["externalParameters"]["variant"]
        )
        work = pipeline.locked_job(again, variant)
        with reproduce.rebuilt(again, work) as (second, built):
            if [one.diff_id for one in built.layers] != [one.diff_id for one in image.layers]:
                raise reproduce.difference(project.store, second, image, built)


def copy_layout(project: Project, image: Image, target: Path) -> None:
    """Copy the image's layout to a new folder, which appears whole or not at all."""
    if target.exists():
        what = f"there is something already: {target}"
        raise RegistryError(what, hint="name a folder that is not there")
    made = target.with_name(f".{target.name}.part")
    shutil.rmtree(made, ignore_errors=True)
    with project.store.reporting():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(image.layout, made)
        made.rename(target)


def _tags(project: Project, work: Job, image: Image) -> list[str]:
    """Return the tags of an image; those of a clean one never name one that has drifted."""
    locked = pipeline.locked_variants(project)
    fixed = content_tag(work.base, work.variant, image.digest)
    suffix = DRIFTED if work.base_lock.drifted else ""
    return [f"{tag}{suffix}" for tag in (fixed, *moving_tags(work.variant, locked))]
