from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from package_index import index, torch, wheel
from servers import serving

from torchkiln.catalog import Base, Variant
from torchkiln.errors import LockError
from torchkiln.pipconf import PipConfig
from torchkiln.reach import reach
from torchkiln.resolve import glibc_minor, resolve, torch_version

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from servers import Behaviour

BASE = Base(release="bookworm", python="3.11", packages=())
CPU = Variant(id="cpu", torch="2.13.0", cuda=None, index="pytorch-cpu", packages=())
CU117 = Variant(id="cu117", torch="2.0.1", cuda="11.7", index=None, packages=())
CPU_TORCH = torch("2.13.0+cpu", None)
CUDA_TORCH = torch("2.13.0", "13.0")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which uv has no cache and no settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    return kept | {"UV_CACHE_DIR": str(tmp_path / "cache"), "UV_NO_CONFIG": "1"}


def resolved(
    variant: Variant, config: PipConfig, environ: Mapping[str, str], named: str | None = None
) -> dict[str, str]:
    return resolve(variant, BASE, reach(config, named, environ), config, environ)


def pins(
    environ: Mapping[str, str], files: dict[str, bytes | Behaviour], variant: Variant
) -> dict[str, str]:
    with serving(files) as site:
        return resolved(variant, PipConfig(index_url=f"{site.url}/simple"), environ)


def test_each_distribution_gets_one_version(environ: dict[str, str]) -> None:
    files = index(
        torch("2.0.1", "11.7", "Typing_Extensions>=4"),
        torch("2.1.0", "12.1"),
        wheel("typing_extensions", "4.1"),
        wheel("typing_extensions", "3.9"),
        wheel("numpy", "2.0"),
        wheel("numpy", "1.26"),
    )

    found = pins(environ, files, replace(CU117, packages=("numpy<2",)))

    assert found == {"numpy": "1.26", "torch": "2.0.1", "typing-extensions": "4.1"}


def test_markers_and_tags_are_those_of_the_base_and_not_of_this_machine(
    environ: dict[str, str],
) -> None:
    files = index(
        torch("2.0.1", "11.7", "old; python_version < '3.12'", "win; sys_platform == 'win32'"),
        wheel("old", "3", "cp312-cp312-manylinux_2_17_x86_64"),
        wheel("old", "2", "cp311-cp311-manylinux_2_36_x86_64"),
        wheel("old", "2.5", "cp311-cp311-manylinux_2_37_x86_64"),
        wheel("win", "1"),
    )

    assert pins(environ, files, CU117) == {"old": "2", "torch": "2.0.1"}


def test_the_best_version_of_all_indexes_is_taken_as_pip_does(environ: dict[str, str]) -> None:
    main = index(torch("2.0.1", "11.7", "a", "b"), wheel("a", "2"), wheel("b", "1"))
    with serving(main) as one, serving(index(wheel("a", "1"), wheel("b", "2"))) as other:
        config = PipConfig(index_url=f"{one.url}/simple", extra_index_urls=(f"{other.url}/simple",))

        found = resolved(CU117, config, environ)

    assert found == {"a": "2", "b": "2", "torch": "2.0.1"}


def test_file_indexes_are_read(tmp_path: Path, environ: dict[str, str]) -> None:
    name, data = wheel("a", "1")
    (tmp_path / "simple" / "a").mkdir(parents=True)
    (tmp_path / name).write_bytes(data)
    (tmp_path / "simple" / "a" / "index.html").write_text(f'<a href="../../{name}">{name}</a>')
    with serving(index(torch("2.0.1", "11.7", "a"))) as site:
        config = PipConfig(
            index_url=f"{site.url}/simple",
            extra_index_urls=((tmp_path / "simple").as_uri(), "file:///none/simple"),
        )

        assert resolved(CU117, config, environ) == {"a": "1", "torch": "2.0.1"}


def test_a_build_of_the_named_index_is_asked_for_by_its_label(environ: dict[str, str]) -> None:
    with serving(index(CUDA_TORCH)) as main, serving(index(CPU_TORCH)) as named:
        config = PipConfig(index_url=f"{main.url}/simple")

        found = resolved(CPU, config, environ, f"{named.url}/simple")

    assert found == {"torch": "2.13.0+cpu"}


def test_find_links_stand_in_for_a_named_index_that_cannot_be_reached(
    tmp_path: Path, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "two words"
    folder.mkdir()
    (folder / CPU_TORCH[0]).write_bytes(CPU_TORCH[1])
    with serving(index(CUDA_TORCH)) as main:
        config = PipConfig(index_url=f"{main.url}/simple", find_links=(str(folder),))

        found = resolved(CPU, config, environ, "http://localhost:9/whl/cpu")

    assert found == {"torch": "2.13.0+cpu"}
    assert "warning: cannot fetch http://localhost:9/whl/cpu/torch/" in capsys.readouterr().err


def test_the_default_build_never_stands_in_for_a_named_one(environ: dict[str, str]) -> None:
    """The package index has torch 2.13.0 too, but that one is built for CUDA."""
    with (
        serving(index(CUDA_TORCH)) as main,
        pytest.raises(LockError, match=r"there is no version of torch==2\.13\.0\+cpu"),
    ):
        resolved(CPU, PipConfig(index_url=f"{main.url}/simple"), environ, "http://localhost:9/cpu")


def test_a_named_build_never_stands_in_for_the_default_one(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    """PEP 440 lets `torch==2.0.1` match the `2.0.1+cpu` that lies on somebody's disk."""
    name, data = torch("2.0.1+cpu", None)
    (tmp_path / name).write_bytes(data)
    with serving(index(torch("2.0.1", "11.7"))) as main:
        config = PipConfig(index_url=f"{main.url}/simple", find_links=(str(tmp_path),))

        with pytest.raises(LockError, match=r"torch for `cu117` is 2\.0\.1\+cpu, not 2\.0\.1\n"):
            resolved(CU117, config, environ)


def test_source_distributions_are_not_taken(environ: dict[str, str]) -> None:
    files = index(torch("2.0.1", "11.7", "a"), ("a-1.tar.gz", b"no wheel"))

    with pytest.raises(LockError, match="a==1 has no usable wheels"):
        pins(environ, files, CU117)


def test_what_cannot_be_resolved_is_explained_by_uv(environ: dict[str, str]) -> None:
    files = index(torch("2.0.1", "11.7", "numpy<2"), wheel("numpy", "1.26"), wheel("numpy", "2"))

    with pytest.raises(LockError) as caught:
        pins(environ, files, replace(CU117, packages=("numpy>=2",)))

    text = str(caught.value)
    assert "the requirements of `cu117` cannot be resolved" in text
    assert "depend on numpy<2 and you require torch==2.0.1" in " ".join(text.split())
    assert "`variants.cu117` in `images/variants.yaml`" in text


def test_passwords_of_indexes_are_not_shown(environ: dict[str, str]) -> None:
    config = PipConfig(index_url="http://user:secret@localhost:9/simple", retries=0)

    with pytest.raises(LockError) as caught:
        resolved(CU117, config, environ | {"UV_HTTP_RETRIES": "0"})

    assert "localhost:9" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("variant", "version"), [(CPU, "2.13.0+cpu"), (CU117, "2.0.1")])
def test_only_a_named_index_adds_a_label(variant: Variant, version: str) -> None:
    assert torch_version(variant) == version


def test_an_unknown_glibc_is_refused() -> None:
    with pytest.raises(LockError, match="`potato`"):
        glibc_minor(replace(BASE, release="potato"))
