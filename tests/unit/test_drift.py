from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from debian_mirror import BASE, archive, key, stanza
from servers import Site, serving

from torchkiln import drift
from torchkiln import lock as locks
from torchkiln.catalog import Base
from torchkiln.drift import differences, recorded, refuse, resolve
from torchkiln.errors import LockError
from torchkiln.lock import resolve_base
from torchkiln.lockfile import Drifted, dump
from torchkiln.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torchkiln.lockfile import BaseLock

RELEASE = Base(release="bookworm", python="3.11", packages=("netbase",))
ENVIRON = {"PIP_CONFIG_FILE": "/dev/null", "PIP_RETRIES": "0", "PATH": "/nowhere"}


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(locks, "read_keys", lambda _: [key().extract_certificate()])
    with serving({}) as site:
        offer(site, "6.4", "old")
        yield site


def offer(site: Site, netbase: str, *others: str) -> None:
    """Let the mirror have this version of netbase, and other packages that it needs."""
    needs = {"Depends": ", ".join(others)} if others else {}
    stanzas = (*BASE, stanza("netbase", netbase, **needs), *(stanza(name) for name in others))
    site.files = {f"/{path}": data for path, data in archive(*stanzas).items()}


def environ(site: Site) -> dict[str, str]:
    return ENVIRON | {"TORCHKILN_DEBIAN_MIRROR": f"{site.url}/debian"}


def locked(site: Site) -> BaseLock:
    return resolve_base(RELEASE, environ(site))


def test_present_packages_take_the_place_of_locked_ones_and_are_named(
    tmp_path: Path, mirror: Site
) -> None:
    before = locked(mirror)
    offer(mirror, "6.5", "new")

    present = resolve(Store(tmp_path), RELEASE, before, environ(mirror))

    assert (
        Drifted(name="netbase", locked="6.4", present="6.5"),
        Drifted(name="new", locked="", present="1"),
        Drifted(name="old", locked="1", present=""),
    ) == present.drifted
    assert "netbase 6.4 -> 6.5, new 1 (new), old 1 -> gone" == present.drift


def test_an_index_older_than_the_lock_is_refused_and_nothing_is_kept(
    tmp_path: Path, mirror: Site
) -> None:
    """A mirror could drop packages to have a base built with holes that are closed since."""
    newer = replace(locked(mirror), date="2026-07-11T10:16:38Z")

    with pytest.raises(LockError, match="is older than the lock"):
        resolve(Store(tmp_path), RELEASE, newer, environ(mirror))

    assert not (tmp_path / "records").exists()


def test_what_was_resolved_is_known_again_while_the_store_has_its_packages(
    tmp_path: Path, mirror: Site
) -> None:
    store, before = Store(tmp_path), locked(mirror)
    offer(mirror, "6.5")
    present = resolve(store, RELEASE, before, environ(mirror))

    assert recorded(store, RELEASE, before) is None, "none of its packages is there"
    for deb in present.debs:
        _put(store, deb.sha256, deb.size)
    assert present == recorded(store, RELEASE, before)
    assert recorded(store, RELEASE, present) is None, "it was resolved for another lock"


def kept(store: Store, mirror: Site, before: BaseLock) -> tuple[BaseLock, Path]:
    """Return what takes the place of a lock, with its packages in the store, and its record."""
    offer(mirror, "6.5")
    present = resolve(store, RELEASE, before, environ(mirror))
    for deb in present.debs:
        _put(store, deb.sha256, deb.size)
    assert present == recorded(store, RELEASE, before), "the control"
    (path,) = (store.root / "records" / drift.RECORDS).glob("*.json")
    return present, path


def _put(store: Store, sha256: str, size: int) -> None:
    store.make(store.blob(sha256).parent)
    store.blob(sha256).write_bytes(b"x" * size)


@pytest.mark.parametrize("text", ["", "[]", '{"debs": 1}', "{"])
def test_a_record_that_is_no_lock_is_none(tmp_path: Path, mirror: Site, text: str) -> None:
    store, before = Store(tmp_path), locked(mirror)
    _, path = kept(store, mirror, before)
    path.write_text(text)

    assert recorded(store, RELEASE, before) is None


def test_a_record_changed_by_hand_is_none(tmp_path: Path, mirror: Site) -> None:
    store, before = Store(tmp_path), locked(mirror)
    _, path = kept(store, mirror, before)
    body = json.loads(path.read_text())
    body["debs"][0]["version"] = "0"
    path.write_text(json.dumps(body))

    assert recorded(store, RELEASE, before) is None


def test_a_clean_lock_says_nothing_of_drift_and_a_drifted_one_is_refused(mirror: Site) -> None:
    clean = locked(mirror)
    moved = replace(clean, drifted=differences(replace(clean, debs=()), clean))

    refuse(clean)
    assert "drifted" not in dump(clean)
    with pytest.raises(LockError, match=r"netbase 6.4 \(new\)(.|\n)*hint: ./kiln lock --base"):
        refuse(moved)


def test_locked_packages_that_the_mirror_merely_moved_are_no_drift(
    tmp_path: Path, mirror: Site
) -> None:
    """The same bytes at another path: another date would make another image under a clean tag."""
    before = locked(mirror)
    elsewhere = stanza("netbase", "6.4", Depends="old", Filename="pool/main/moved/netbase.deb")
    files = archive(*BASE, elsewhere, stanza("old"))
    mirror.files = {f"/{path}": data for path, data in files.items()}

    present = resolve(Store(tmp_path), RELEASE, before, environ(mirror))

    assert () == present.drifted
    assert before.date == present.date
    assert "pool/main/moved/netbase.deb" in {deb.filename for deb in present.debs}
    assert not (tmp_path / "records").exists()


def test_the_same_version_with_other_bytes_is_drift(mirror: Site) -> None:
    before = locked(mirror)
    rebuilt = replace(before.debs[0], sha256="0" * 64)

    found = differences(before, replace(before, debs=(rebuilt, *before.debs[1:])))

    assert [f"{rebuilt.name} {rebuilt.version} (rebuilt)"] == list(map(str, found))


def test_a_record_that_hides_its_drift_is_none(tmp_path: Path, mirror: Site) -> None:
    store, before = Store(tmp_path), locked(mirror)
    present, path = kept(store, mirror, before)

    path.write_text(dump(replace(present, drifted=())))

    assert recorded(store, RELEASE, before) is None
