from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from torchkiln.image_diff import as_json, image_diff
from torchkiln.listing import DIRECTORY, SYMLINK, ImageListing, LayerListing, Member
from torchkiln.packages import Package, installed
from torchkiln.reports import compared

SITE = "opt/venv/lib/python3.11/site-packages"
INFO = f"{SITE}/demo-1.0.dist-info"
RECORD = b"demo.py,sha256=x,10\ndemo-1.0.dist-info/METADATA,,\n../../../bin/demo,sha256=y,1\n"
STATUS = b"Package: dash\nArchitecture: amd64\nVersion: 0.5\n\nPackage: libc6\nVersion: 2\n"
MEMBERS = (
    Member(path="opt", kind=DIRECTORY, mode=0o755),
    Member(path="link", kind=SYMLINK, target="opt"),
    Member(path="usr/bin/dash", size=100, sha256="d", mode=0o755),
    Member(path="var/lib/dpkg/status", data=STATUS, size=len(STATUS), sha256="s"),
    Member(path="var/lib/dpkg/info/dash.list", data=b"/.\n/bin/dash\n", sha256="l"),
    Member(path="var/lib/dpkg/info/libc6:amd64.list", data=b"/lib/x\n", sha256="m"),
    Member(path=f"{SITE}/demo.py", size=10, sha256="x"),
    Member(path=f"{SITE}/__pycache__/demo.cpython-311.pyc", size=7, sha256="p"),
    Member(path="opt/venv/bin/demo", size=1, sha256="y"),
    Member(path=f"{INFO}/METADATA", data=b"Name: Demo\nVersion: 1.0\n", size=24, sha256="n"),
    Member(path=f"{INFO}/RECORD", data=RECORD, size=len(RECORD), sha256="r"),
    Member(path=f"{SITE}/demo/_vendor/other-2.dist-info/METADATA", data=b"Name: other\n"),
)
RUNTIME = {"User": "1000:0", "Env": ["A=1", "B=x=y"], "Labels": {"title": "t"}, "Cmd": ["sh"]}


def listing(*members: Member, **runtime: Any) -> ImageListing:  # noqa: ANN401
    layer = LayerListing(
        name="all", members=members, digest="", diff_id="", size=0, gzip_header=b""
    )
    config = {"os": "linux", "architecture": "amd64", "config": {**RUNTIME, **runtime}}
    return ImageListing(index={}, manifest={}, config=config, layers=(layer,))


def changed(path: str, **fields: Any) -> ImageListing:  # noqa: ANN401
    return listing(*(replace(one, **fields) if one.path == path else one for one in MEMBERS))


def test_an_image_is_the_same_as_itself() -> None:
    found = image_diff(listing(*MEMBERS), listing(*reversed(MEMBERS)))

    assert found.same
    assert "the same: 12 paths, 3 packages" == compared(found, "a", "b")
    assert {"same": True, "files": (), "config": (), "packages": ()}.items() <= as_json(
        found
    ).items()


def test_times_and_the_spread_over_layers_do_not_count() -> None:
    layers = [
        LayerListing(
            name="one",
            members=(replace(one, mtime=7),),
            digest="",
            diff_id="",
            size=0,
            gzip_header=b"",
        )
        for one in MEMBERS
    ]

    assert image_diff(listing(*MEMBERS), replace(listing(), layers=tuple(layers))).same


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        ("usr/bin/dash", {"sha256": "e"}, [("content", "d", "e")]),
        ("usr/bin/dash", {"mode": 0o644}, [("mode", "0755", "0644")]),
        ("usr/bin/dash", {"uid": 7}, [("owner", "0:0", "7:0")]),
        ("usr/bin/dash", {"gid": 7}, [("owner", "0:0", "0:7")]),
        ("link", {"target": "usr"}, [("target", "opt", "usr")]),
        (
            "usr/bin/dash",
            {"extensions": ("SCHILY.xattr.security.capability", "path")},
            [("security.capability", "absent", "set")],
        ),
        ("opt", {"kind": "file"}, [("kind", "directory", "file")]),
    ],
    ids=["content", "mode", "user", "group", "link", "capability", "kind"],
)
def test_each_field_of_a_path_counts(
    path: str, fields: dict[str, Any], expected: list[tuple[str, str, str]]
) -> None:
    found = image_diff(listing(*MEMBERS), changed(path, **fields))

    assert not found.same
    assert [(f"/{path}", *one) for one in expected] == [
        (one.path, one.field, one.first, one.second) for one in found.files
    ]


def test_a_path_that_only_one_has_is_told_with_its_kind() -> None:
    found = image_diff(listing(*MEMBERS), listing(*MEMBERS[1:]))
    back = image_diff(listing(*MEMBERS[1:]), listing(*MEMBERS))

    assert [("/opt", "presence", "directory", "absent")] == [
        (one.path, one.field, one.first, one.second) for one in found.files
    ]
    assert [("absent", "directory")] == [(one.first, one.second) for one in back.files]


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        ({"User": "0"}, ("User", "1000:0", "0")),
        ({"Env": ["A=1", "B=z"]}, ("Env.B", "x=y", "z")),
        ({"Env": ["A=1"]}, ("Env.B", "x=y", "absent")),
        ({"Labels": {"title": "u"}}, ("Labels.title", "t", "u")),
        ({"Labels": {}}, ("Labels.title", "t", "absent")),
        ({"Cmd": ["bash"]}, ("Cmd", "['sh']", "['bash']")),
        ({"WorkingDir": "/w"}, ("WorkingDir", "absent", "/w")),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_images_say_of_themselves_counts(
    runtime: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    found = image_diff(listing(*MEMBERS), listing(*MEMBERS, **runtime))

    assert [expected] == [(one.field, one.first, one.second) for one in found.config]


def test_fields_that_are_empty_or_without_meaning_do_not_count() -> None:
    other = listing(*MEMBERS, ArgsEscaped=True, OnBuild=None, Volumes={}, WorkingDir="")

    assert image_diff(listing(*MEMBERS), other).same


def test_packages_are_told_with_version_and_size() -> None:
    """Bytecode counts to its module's package; what a package vendors is no package."""
    assert [
        Package(kind="deb", name="dash", version="0.5", size=100),
        Package(kind="deb", name="libc6", version="2", size=0),
        Package(kind="wheel", name="demo", version="1.0", size=10 + 7 + 1 + 24),
    ] == installed(listing(*MEMBERS))


def test_packages_that_differ_are_a_table_with_both_sizes() -> None:
    found = image_diff(listing(*MEMBERS), changed("usr/bin/dash", size=2_000_100))
    lines = compared(found, "cpu@kiln", "cpu@docker").splitlines()

    assert ["dash"] == [one.name for one in found.packages]
    assert ["--- cpu@kiln", "+++ cpu@docker"] == lines[:2]
    assert "/usr/bin/dash: size: 100 -> 2000100" in lines
    assert "dash" == lines[-1].split()[0]
    assert "2.0" in lines[-1]


def test_people_are_shown_a_part_of_many_paths() -> None:
    many = [Member(path=f"file{number}") for number in range(100)]
    text = compared(image_diff(listing(*MEMBERS), listing(*MEMBERS, *many)), "a", "b")

    assert 40 == text.count("presence")
    assert "and 60 more paths: see --json" in text
