from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest
from servers import page, serving, status

from torchkiln.index import Finder, Link, Source, parse_html, parse_json, sources
from torchkiln.pipconf import PipConfig
from torchkiln.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torchkiln.errors import FetchError

JSON = "application/vnd.pypi.simple.v1+json"
HASH = "ab" * 32
UNREACHABLE = "http://localhost:9/simple"  # the discard port: nothing listens


@contextlib.contextmanager
def finder(**settings: object) -> Iterator[Finder]:
    settings = {"index_url": "http://localhost:9/none", "retries": 0, "timeout": 2.0} | settings
    config = PipConfig(**settings)  # type: ignore[arg-type]
    with contextlib.closing(Transport(config, {}, first_pause=0.001)) as transport:
        yield Finder(transport)


def index(location: str) -> Source:
    return Source(kind="index", location=location)


def links(project: str, *sources: Source) -> list[Link]:
    """Return what `sources` have; a failure of one is an error of the test."""
    failures: list[FetchError] = []
    with finder() as found:
        links = list(found.search(project, sources, failures))
    assert [] == failures
    return links


def failures(project: str, *sources: Source) -> list[FetchError]:
    failures: list[FetchError] = []
    with finder() as found:
        assert [] == list(found.search(project, sources, failures))
    return failures


def anchors(*hrefs: str) -> str:
    return "<!DOCTYPE html><html><body>" + "".join(f'<a href="{h}">x</a>' for h in hrefs)


def test_json_gives_hash_size_and_yanked() -> None:
    files = [
        {"filename": "a-1-py3-none-any.whl", "url": "../a-1-py3-none-any.whl",
         "hashes": {"sha256": HASH.upper()}, "size": 5},
        {"filename": "a-2-py3-none-any.whl", "url": "https://cdn.example/a2", "hashes": {},
         "yanked": "broken"},
    ]  # fmt: skip

    found = parse_json({"files": files}, "https://i.example/simple/a/")

    expected = [
        Link(
            filename="a-1-py3-none-any.whl",
            url="https://i.example/simple/a-1-py3-none-any.whl",
            sha256=HASH,
            size=5,
        ),
        Link(filename="a-2-py3-none-any.whl", url="https://cdn.example/a2", yanked=True),
    ]
    assert expected == found


def test_html_obeys_base_fragment_encoding_and_yanked() -> None:
    text = (
        '<base href="https://cdn.example/files/"><a href="t-1%2Bcpu-py3-none-any.whl'
        f'#sha256={HASH}" data-yanked="">t</a><a name="top">no link</a>'
    )

    found = parse_html(text, "https://i.example/simple/t/")

    expected = Link(
        filename="t-1+cpu-py3-none-any.whl",
        url="https://cdn.example/files/t-1%2Bcpu-py3-none-any.whl",
        sha256=HASH,
        yanked=True,
    )
    assert [expected] == found


def test_index_is_asked_for_json_under_the_normalised_name() -> None:
    body = json.dumps(
        {"files": [{"filename": "Foo_Bar-1-py3-none-any.whl", "url": "x", "hashes": {}}]}
    )
    with serving({"/simple/foo-bar/": page(JSON, body)}) as site:
        found = links("Foo.Bar", index(f"{site.url}/simple"))

    assert [f"{site.url}/simple/foo-bar/x"] == [link.url for link in found]
    assert site.requests[0][1]["accept"].startswith(JSON)


def test_index_that_knows_only_html_is_read() -> None:
    with serving(
        {"/simple/a/": page("text/html; charset=utf-8", anchors("a-1-py3-none-any.whl"))}
    ) as site:
        found = links("a", index(f"{site.url}/simple/"))

    assert [f"{site.url}/simple/a/a-1-py3-none-any.whl"] == [link.url for link in found]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", '<a href="a-1-py3-none-any.whl">a</a>'),
        (JSON, '{"files": [{"filename": "a-1-py3-none-any.whl", "url": "a-1-py3-none-any.whl"}]}'),
    ],
)
def test_links_are_relative_to_where_a_redirect_led(kind: str, body: str) -> None:
    files = {"/simple/a/": status(301, Location="/moved/a/"), "/moved/a/": page(kind, body)}
    with serving(files) as site:
        found = links("a", index(f"{site.url}/simple"))

    assert [f"{site.url}/moved/a/a-1-py3-none-any.whl"] == [link.url for link in found]


def test_folder_laid_out_like_an_index_is_one(tmp_path: Path) -> None:
    (tmp_path / "simple" / "a-b").mkdir(parents=True)
    (tmp_path / "simple" / "a-b" / "index.html").write_text(
        anchors("../../f/a_b-1-py3-none-any.whl")
    )

    found = links("A_b", index((tmp_path / "simple").as_uri()))

    assert [f"{tmp_path.as_uri()}/f/a_b-1-py3-none-any.whl"] == [link.url for link in found]


@pytest.mark.parametrize("as_url", [False, True])
def test_find_links_folder_offers_the_wheels_of_the_project(
    tmp_path: Path, *, as_url: bool
) -> None:
    for name in ("a-1+cpu-py3-none-any.whl", "ab-1-py3-none-any.whl", "a-1.tar.gz"):
        (tmp_path / name).touch()
    location = tmp_path.as_uri() if as_url else str(tmp_path)

    found = links("a", Source(kind="page", location=location))

    expected = Link(
        filename="a-1+cpu-py3-none-any.whl", url=f"{tmp_path.as_uri()}/a-1%2Bcpu-py3-none-any.whl"
    )
    assert [expected] == found


def test_find_links_page_is_read_once_from_disk_or_http(tmp_path: Path) -> None:
    text = anchors("a-1-py3-none-any.whl", "b-1-py3-none-any.whl")
    (tmp_path / "page.html").write_text(text)
    disk = Source(kind="page", location=str(tmp_path / "page.html"))
    with serving({"/wheels": page("text/html", text)}) as site, finder() as found:
        both = [disk, Source(kind="page", location=f"{site.url}/wheels")]
        names = [link.filename for p in ("a", "b") for link in found.search(p, both, [])]

    assert ["a-1-py3-none-any.whl"] * 2 + ["b-1-py3-none-any.whl"] * 2 == names
    assert ["/wheels"] == site.paths()


def test_project_that_an_index_does_not_have_is_no_failure() -> None:
    with serving({}) as site:
        found = links("a", index(f"{site.url}/simple"))

    assert [] == found


def test_unreachable_source_is_a_warning_where_another_has_the_project(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a-1-py3-none-any.whl").touch()
    both = [index(UNREACHABLE), Source(kind="page", location=str(tmp_path))]
    with finder() as found:
        names = [link.filename for link in found.search("a", both, [])]

    assert ["a-1-py3-none-any.whl"] == names
    assert capsys.readouterr().err.startswith(f"warning: cannot fetch {UNREACHABLE}/a/: ")


def test_source_is_asked_only_when_its_turn_comes(tmp_path: Path) -> None:
    (tmp_path / "a-1-py3-none-any.whl").touch()
    with serving({}) as site, finder() as found:
        both = [Source(kind="page", location=str(tmp_path)), index(site.url)]
        next(found.search("a", both, []))

    assert [] == site.paths()


def test_all_failures_are_handed_over_without_a_password() -> None:
    with serving({"/simple/a/": status(403)}) as site:
        secret = index("http://me:secret@localhost:9/simple")
        first, second = failures("a", secret, index(f"{site.url}/simple"))

    assert "cannot fetch http://****@localhost:9/simple/a/" == first.what
    assert (f"cannot fetch {site.url}/simple/a/", "HTTP 403 Forbidden") == (second.what, second.why)
    assert "secret" not in str(first)


def test_source_that_does_not_answer_is_asked_once() -> None:
    failed: list[FetchError] = []
    with serving({"/s/a/": status(500), "/s/b/": status(500)}) as site, finder() as found:
        for project in ("a", "b"):
            list(found.search(project, [index(f"{site.url}/s")], failed))

    assert (["/s/a/"], 2) == (site.paths(), len(failed))


def test_project_that_is_forbidden_does_not_condemn_the_index() -> None:
    """Object stores answer 403 for what they do not have."""
    files = {"/s/a/": status(403), "/s/b/": page("text/html", anchors("b-1-py3-none-any.whl"))}
    with serving(files) as site, finder() as found:
        names = [
            link.filename
            for project in ("a", "b")
            for link in found.search(project, [index(f"{site.url}/s")], [])
        ]

    assert ["b-1-py3-none-any.whl"] == names


@pytest.mark.parametrize("body", ["{", "[]", '{"files": [{}]}', '{"files": [3]}'])
def test_page_that_cannot_be_read_is_a_failure(body: str) -> None:
    with serving({"/s/a/": page(JSON, body)}) as site:
        (failure,) = failures("a", index(f"{site.url}/s"))

    assert f"the page of a package index cannot be read: {site.url}/s/a/" == failure.what


def test_credentials_of_an_index_go_to_its_host_alone() -> None:
    with serving({}) as other, serving({"/s/a/": page(JSON, '{"files": []}')}) as site:
        url = site.url.replace("://", "://me:p%40ss@")
        with finder(index_url=f"{url}/s") as found:
            list(found.search("a", [index(f"{url}/s"), index(f"{other.url}/s")], []))

    assert "Basic bWU6cEBzcw==" == site.requests[0][1]["authorization"]
    assert "authorization" not in other.requests[0][1]


def test_sources_are_find_links_then_indexes() -> None:
    config = PipConfig(index_url="i", extra_index_urls=("e",), find_links=("f",))

    assert (Source(kind="page", location="f"), index("i"), index("e")) == sources(config)


def test_no_index_leaves_find_links() -> None:
    config = PipConfig(index_url="i", extra_index_urls=("e",), find_links=("f",), no_index=True)

    assert (Source(kind="page", location="f"),) == sources(config)
