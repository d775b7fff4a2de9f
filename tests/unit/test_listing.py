"""What a container sees of layers (OCI image spec, layer.md)."""

from __future__ import annotations

from torchkiln.listing import DIRECTORY, HARD_LINK, ImageListing, LayerListing, Member


def image(*layers: list[Member]) -> ImageListing:
    listings = tuple(
        LayerListing(
            name=str(number),
            members=tuple(members),
            digest="",
            diff_id="",
            size=0,
            gzip_header=b"",
        )
        for number, members in enumerate(layers)
    )
    return ImageListing(index={}, manifest={}, config={}, layers=listings)


def folder(path: str) -> Member:
    return Member(path=path, kind=DIRECTORY, mode=0o755)


def file(path: str, sha256: str = "") -> Member:
    return Member(path=path, sha256=sha256)


def seen(*layers: list[Member]) -> dict[str, str]:
    return {path: member.sha256 for path, member in image(*layers).members.items()}


def test_a_later_file_hides_an_earlier_one() -> None:
    assert {"a": "new", "b": "b"} == seen([file("a", "old"), file("b", "b")], [file("a", "new")])


def test_a_whiteout_removes_a_file_and_is_none_itself() -> None:
    assert {"b": ""} == seen([file("a"), file("b")], [file(".wh.a")])


def test_a_whiteout_removes_a_folder_with_what_is_in_it_and_nothing_beside_it() -> None:
    before = [folder("a"), file("a/x"), folder("a/y"), file("a/y/z"), file("ab")]

    assert {"ab": ""} == seen(before, [file(".wh.a")])


def test_an_opaque_folder_keeps_what_its_own_layer_brings() -> None:
    before = [folder("a"), file("a/old"), file("b")]
    after = [folder("a"), file("a/new"), file("a/.wh..wh..opq")]

    assert {"a": "", "a/new": "", "b": ""} == seen(before, after)


def test_a_whiteout_means_earlier_layers_alone() -> None:
    assert {"a": "new"} == seen([file("a", "old")], [file(".wh.a"), file("a", "new")])


def test_a_file_in_the_place_of_a_folder_hides_all_of_it() -> None:
    assert {"a": "f"} == seen([folder("a"), file("a/x")], [file("a", "f")])


def test_a_hard_link_is_another_name_of_a_file() -> None:
    link = Member(path="b", kind=HARD_LINK, target="a")
    original = Member(path="a", mode=0o755, size=3, sha256="x")
    found = image([original, link]).members

    assert ("b", "x", 3, 0o755) == (
        found["b"].path,
        found["b"].sha256,
        found["b"].size,
        found["b"].mode,
    )
