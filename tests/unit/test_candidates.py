from __future__ import annotations

import hashlib
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from package_index import index, wheel
from packaging.tags import Tag
from servers import page, serving

from torchkiln.candidates import choose_wheels, supported_tags
from torchkiln.errors import LockError
from torchkiln.index import Source
from torchkiln.pipconf import PipConfig
from torchkiln.reach import Reach
from torchkiln.transport import Transport

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Behaviour

    from torchkiln.lockfile import LockedWheel

TAGS = supported_tags("3.11", 36)
EMPTY = Reach(indexes=(), named=None, pages=())


def at(location: str) -> Source:
    return Source(kind="index", location=f"{location}/simple")


def choose(reach: Reach, version: str = "1", named: str | None = None) -> LockedWheel:
    config = PipConfig(index_url="http://localhost:9/simple", retries=0)
    with closing(Transport(config, {})) as transport:
        (chosen,) = choose_wheels({"a": version}, TAGS, reach, named, transport)
    return chosen


def chosen_file(*wheels: tuple[str, bytes], yanked: tuple[str, ...] = ()) -> str:
    with serving(index(*wheels, yanked=yanked)) as site:
        return choose(Reach(indexes=(at(site.url),), named=None, pages=())).file


def test_the_tags_are_those_of_pip_on_this_glibc_and_python() -> None:
    ranks = [
        TAGS[Tag(*text.split("-"))]
        for text in (
            "cp311-cp311-manylinux_2_36_x86_64",
            "cp311-cp311-manylinux_2_17_x86_64",
            "cp311-cp311-manylinux2014_x86_64",
            "cp311-cp311-manylinux1_x86_64",
            "cp311-cp311-linux_x86_64",
            "cp311-abi3-manylinux_2_28_x86_64",
            "cp311-none-manylinux_2_28_x86_64",
            "cp38-abi3-manylinux_2_28_x86_64",
            "py3-none-manylinux_2_28_x86_64",
            "cp311-none-any",
            "py3-none-any",
        )
    ]

    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    "text",
    [
        "cp311-cp311-manylinux_2_37_x86_64",
        "cp311-cp311-manylinux_2_28_aarch64",
        "cp311-cp311-musllinux_1_1_x86_64",
        "cp312-cp312-manylinux_2_28_x86_64",
        "cp312-abi3-manylinux_2_28_x86_64",
    ],
)
def test_tags_of_other_systems_are_not_supported(text: str) -> None:
    assert Tag(*text.split("-")) not in TAGS


def test_the_most_specific_wheel_is_chosen() -> None:
    best = wheel("a", "1", "cp311-cp311-manylinux_2_28_x86_64")

    assert best[0] == chosen_file(
        wheel("a", "1"),
        wheel("a", "1", "cp311-cp311-manylinux_2_17_x86_64"),
        best,
        wheel("a", "1", "cp311-cp311-manylinux_2_37_x86_64"),
        wheel("a", "1.1", "cp311-cp311-manylinux_2_36_x86_64"),
    )


def test_of_equal_wheels_the_highest_build_is_chosen() -> None:
    builds = [wheel("a", f"1{build}") for build in ("", "-2b", "-10", "-9")]

    assert chosen_file(*builds) == "a-1-10-py3-none-any.whl"


def test_a_yanked_wheel_is_not_chosen() -> None:
    plain, better = wheel("a", "1"), wheel("a", "1", "cp311-cp311-linux_x86_64")

    assert chosen_file(plain, better, yanked=(better[0],)) == plain[0]


def test_where_none_fits_the_error_says_why_not() -> None:
    foreign, yanked = wheel("a", "1", "cp312-cp312-linux_x86_64"), wheel("a", "1")

    with pytest.raises(LockError) as caught:
        chosen_file(foreign, yanked, yanked=(yanked[0],))

    text = str(caught.value)
    assert "no wheel of `a` 1 can be locked" in text
    assert f"{foreign[0]}: does not fit the base's Python and glibc" in text
    assert f"{yanked[0]}: yanked" in text


def test_where_no_source_has_the_version_the_error_says_so() -> None:
    with pytest.raises(LockError, match="no source offers this version"):
        choose(EMPTY)


def test_size_and_hash_come_from_the_index() -> None:
    name, data = wheel("a", "1")
    files = index((name, data))
    with serving(files) as site:
        chosen = choose(Reach(indexes=(at(site.url),), named=None, pages=()))

    assert (name, len(data), hashlib.sha256(data).hexdigest()) == (
        chosen.file,
        chosen.size,
        chosen.sha256,
    )
    assert site.paths() == ["/simple/a/"]  # the wheel itself is not asked for


def html(name: str, data: bytes, fragment: str) -> dict[str, bytes | Behaviour]:
    link = f'<a href="/files/{name}{fragment}">{name}</a>'
    return {f"/files/{name}": data, "/simple/a/": page("text/html", link)}


def test_a_size_that_the_index_does_not_tell_comes_from_the_server() -> None:
    name, data = wheel("a", "1")
    with serving(html(name, data, f"#sha256={'AB' * 32}")) as site:
        chosen = choose(Reach(indexes=(at(site.url),), named=None, pages=()))

    assert (len(data), "ab" * 32) == (chosen.size, chosen.sha256)


def test_a_wheel_without_a_hash_is_refused() -> None:
    with (
        serving(html(*wheel("a", "1"), "#md5=00")) as site,
        pytest.raises(LockError, match=r"the hash of `a-1-py3-none-any\.whl` is not known"),
    ):
        choose(Reach(indexes=(at(site.url),), named=None, pages=()))


def test_a_wheel_in_a_find_links_folder_is_measured(tmp_path: Path) -> None:
    name, data = wheel("a", "1")
    (tmp_path / name).write_bytes(data)
    pages = (Source(kind="page", location=str(tmp_path)),)

    chosen = choose(Reach(indexes=(), named=None, pages=pages))

    assert (len(data), hashlib.sha256(data).hexdigest()) == (chosen.size, chosen.sha256)


def test_what_the_users_index_has_comes_from_there() -> None:
    with serving(index(wheel("a", "1"))) as main, serving(index(wheel("a", "1"))) as other:
        reach = Reach(indexes=(at(main.url),), named=at(other.url), pages=())

        assert choose(reach, named="other").source == "default"


def test_what_only_the_named_index_has_comes_from_there() -> None:
    with serving(index(wheel("a", "2"))) as main, serving(index(wheel("a", "1"))) as other:
        reach = Reach(indexes=(at(main.url),), named=at(other.url), pages=())

        assert choose(reach, named="other").source == "other"


def test_a_local_version_comes_from_the_named_index_whoever_has_a_copy() -> None:
    with serving(index(wheel("a", "1+cpu"))) as main:
        reach = Reach(indexes=(at(main.url),), named=None, pages=())

        assert choose(reach, "1+cpu", named="other").source == "other"


def test_a_copy_in_find_links_stands_for_the_silent_named_index(tmp_path: Path) -> None:
    name, data = wheel("a", "1+cpu")
    (tmp_path / name).write_bytes(data)
    pages = (Source(kind="page", location=str(tmp_path)),)

    chosen = choose(Reach(indexes=(), named=None, pages=pages), "1+cpu", named="other")

    assert (name, "other") == (chosen.file, chosen.source)
