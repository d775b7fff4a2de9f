"""What `push`, `pull` and `verify REF` print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchkiln.exchange import Verified
    from torchkiln.registry.pull import Pulled
    from torchkiln.registry.push import Pushed


def pushed(done: Pushed) -> str:
    """Return the image's name by digest, its tags, and what went over the wire."""
    counts = ", ".join(f"{count} {how}" for how, count in sorted(done.outcomes.items()))
    return "\n".join(
        [
            str(done.reference),
            *(f"{done.reference.name}:{tag}" for tag in done.tags),
            f"{done.sent / 1e6:,.1f} MB sent in {done.seconds:.1f} s ({counts})",
        ]
    )


def pushed_as_json(done: Pushed) -> dict[str, Any]:
    """Return what `push --json` prints; sizes in bytes."""
    return {
        "reference": str(done.reference),
        "digest": done.reference.digest,
        "tags": list(done.tags),
        "sent": done.sent,
        "blobs": dict(done.outcomes),
        "seconds": round(done.seconds, 3),
    }


def verified(done: Verified) -> str:
    """Return what is known of the image, and what is not."""
    who = "signed by the key" if done.signed else "not asked who signed it (no `--key`)"
    lines = [
        str(done.reference),
        "every blob and every layer has its hash",
        who,
        f"attached: {', '.join(done.documents)}",
        f"the SBOM names the {done.packages} packages that it holds, and no others",
    ]
    return "\n".join([*lines, *(["built again: the same layers"] if done.rebuilt else [])])


def verified_as_json(done: Verified) -> dict[str, Any]:
    """Return what `verify REF --json` prints."""
    return {
        "reference": str(done.reference),
        "digest": done.reference.digest,
        "signed": done.signed,
        "documents": list(done.documents),
        "packages": done.packages,
        "rebuilt": done.rebuilt,
    }


def pulled(done: Pulled) -> str:
    """Return the image's name by digest and what went over the wire."""
    return "\n".join(
        [
            str(done.reference),
            (
                f"{done.received / 1e6:,.1f} MB received in {done.seconds:.1f} s, "
                f"{done.present / 1e6:,.1f} MB were there"
            ),
        ]
    )


def pulled_as_json(done: Pulled) -> dict[str, Any]:
    """Return what `pull --json` prints; sizes in bytes."""
    return {
        "reference": str(done.reference),
        "digest": done.reference.digest,
        "layout": str(done.image.layout),
        "layers": [f"sha256:{layer.diff_id}" for layer in done.image.layers],
        "received": done.received,
        "present": done.present,
        "seconds": round(done.seconds, 3),
    }
