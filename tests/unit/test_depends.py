from __future__ import annotations

import pytest
from debian.debian_support import Version
from debian_mirror import BASE, stanza
from hypothesis import given
from hypothesis import strategies as st

from torchkiln.debian import Index, Package
from torchkiln.depends import lock_debs
from torchkiln.errors import LockError


def index(*stanzas: str) -> Index:
    packages = {}
    for text in stanzas:
        fields = dict(line.split(": ", 1) for line in text.splitlines())
        name, version = fields["Package"], Version(fields["Version"])
        packages[name] = Package(name=name, version=version, archive="debian", stanza=text.strip())
    return Index(date="2026-07-11T10:16:37Z", packages=packages)


def locked(*stanzas: str, names: tuple[str, ...] = ("app",)) -> list[str]:
    """Return the names that are locked beside those of every base."""
    debs = lock_debs(index(*BASE, *stanzas), "amd64", names)
    return [deb.name for deb in debs if deb.name not in {"apt", "base-files", "usr-is-merged"}]


def refusal(*stanzas: str, names: tuple[str, ...] = ("app",)) -> str:
    with pytest.raises(LockError) as caught:
        locked(*stanzas, names=names)
    return str(caught.value)


def test_the_base_is_what_is_essential_or_required_and_apt() -> None:
    debs = lock_debs(
        index(
            *BASE,
            stanza("dash", Essential="yes"),
            stanza("login", Priority="required"),
            stanza("vim", Priority="important"),
        ),
        "amd64",
        [],
    )

    assert ["apt", "base-files", "dash", "login", "usr-is-merged"] == [deb.name for deb in debs]


def test_a_locked_package_has_everything_that_fetch_needs() -> None:
    (deb, *_) = lock_debs(index(*BASE), "amd64", [])

    assert ("apt", "1", "amd64", "debian", "pool/main/apt_1_amd64.deb", 7) == (
        deb.name,
        deb.version,
        deb.architecture,
        deb.archive,
        deb.filename,
        deb.size,
    )
    assert len(deb.sha256) == 64


def test_depends_and_pre_depends_are_followed_and_recommends_are_not() -> None:
    found = locked(
        stanza("app", Pre_Depends="early", Depends="lib (>= 1)", Recommends="extra", Suggests="s"),
        stanza("early", Depends="deep"),
        *map(stanza, ("lib", "deep", "extra", "s")),
    )

    assert ["app", "deep", "early", "lib"] == found


def test_a_circle_of_dependencies_ends() -> None:
    assert ["app", "b"] == locked(stanza("app", Depends="b"), stanza("b", Depends="app"))


def test_the_first_alternative_that_can_be_had_is_taken() -> None:
    found = locked(stanza("app", Depends="gone | b (>= 2) | c | d"), *map(stanza, ("b", "c", "d")))

    assert ["app", "c"] == found


@pytest.mark.parametrize("other", ["a", "z"], ids=["read before", "read after"])
def test_an_alternative_that_is_chosen_anyway_comes_first(other: str) -> None:
    found = locked(
        stanza("app", Depends=f"big | small, {other}"),
        stanza(other, Depends="small"),
        *map(stanza, ("big", "small")),
    )

    assert sorted(["app", "small", other]) == found


@given(st.permutations(["p", "q", "r", "s"]))
def test_the_order_of_the_index_does_not_matter(order: list[str]) -> None:
    about = {
        "p": stanza("p", Depends="q | r, s"),
        "q": stanza("q"),
        "r": stanza("r", Provides="t"),
        "s": stanza("s", Depends="t | q"),
    }

    assert ["p", "q", "s"] == locked(*(about[name] for name in order), names=("p",))


def test_a_virtual_package_is_met_by_the_provider_of_the_highest_priority() -> None:
    found = locked(
        stanza("app", Depends="awk"),
        stanza("gawk", Provides="awk"),
        stanza("mawk", Provides="awk", Priority="standard"),
    )

    assert ["app", "mawk"] == found


def test_a_real_package_comes_before_its_providers() -> None:
    found = locked(
        stanza("app", Depends="awk"),
        stanza("mawk", Provides="awk", Priority="required"),
        stanza("awk"),
        names=("app",),
    )

    assert ["app", "mawk"] == found  # required, so it is chosen and meets the dependency

    assert ["app", "awk"] == locked(
        stanza("app", Depends="awk"), stanza("amawk", Provides="awk"), stanza("awk")
    )


def test_a_provider_meets_a_bound_only_with_a_version_of_its_own() -> None:
    found = locked(
        stanza("app", Depends="api (>= 2)"),
        stanza("a", Provides="api"),
        stanza("b", Provides="api (= 1)"),
        stanza("c", Provides="other, api (= 2.1)"),
    )

    assert ["app", "c"] == found


@pytest.mark.parametrize(
    ("bound", "meets"),
    [
        ("<< 2", 0),
        ("<= 2", 1),
        ("= 2", 1),
        (">= 2", 1),
        (">> 2", 0),
        (">> 2~rc1", 1),
        ("<= 1:1", 1),
    ],
)
def test_a_bound_is_compared_as_debian_compares_versions(bound: str, meets: int) -> None:
    stanzas = (stanza("app", Depends=f"lib ({bound}) | other"), stanza("lib", "2"), stanza("other"))

    assert ["app", "lib" if meets else "other"] == locked(*stanzas)


def test_any_architecture_means_this_one_and_foreign_ones_do_not_count() -> None:
    found = locked(
        stanza("app", Depends="python3:any", Conflicts="lib:i386"),
        *map(stanza, ("python3", "lib")),
        names=("app", "lib"),
    )

    assert ["app", "lib", "python3"] == found


def test_a_dependency_that_nothing_meets_names_both_sides() -> None:
    text = refusal(stanza("app", Depends="lib (>= 2) | gone"), stanza("lib", "1"))

    assert "the Debian package `app` cannot be installed" in text
    assert "nothing in the release meets its dependency: lib (>= 2) | gone" in text


@pytest.mark.parametrize("field", ["Conflicts", "Breaks"])
def test_two_packages_that_exclude_each_other_are_named(field: str) -> None:
    stanzas = (stanza("app", **{field: "old (<< 2)"}), stanza("old", "1.9"))

    text = refusal(*stanzas, names=("app", "old"))

    assert "`app` and `old` exclude each other" in text
    assert f"{field} of `app`: old (<< 2)" in text


def test_a_conflict_with_another_version_is_none() -> None:
    stanzas = (stanza("app", Breaks="old (<< 2)"), stanza("old", "2"))

    assert ["app", "old"] == locked(*stanzas, names=("app", "old"))


def test_a_conflict_with_what_another_provides_counts_and_with_itself_not() -> None:
    app = stanza("app", Provides="mta", Conflicts="mta")

    assert ["app"] == locked(app, stanza("postfix", Provides="mta"))
    assert "`app` and `postfix`" in refusal(
        app, stanza("postfix", Provides="mta"), names=("app", "postfix")
    )


def test_all_unknown_packages_are_named_with_the_nearest_names() -> None:
    text = refusal(stanza("python3"), names=("pyton3", "zzz"))

    assert "Debian has no package: `pyton3`, `zzz`" in text
    assert "`pyton3` is near to `python3`" in text
