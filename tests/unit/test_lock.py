from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from debian_mirror import BASE, archive, key, stanza, suite
from package_index import index, torch, wheel
from packaging.requirements import Requirement
from servers import Site, serving

from torchkiln import debian
from torchkiln.catalog import Base, Catalog, Variant, load
from torchkiln.errors import FetchError, LockError
from torchkiln.lock import demand, lock_base, lock_kernel, lock_variant, lock_variants
from torchkiln.lockfile import (
    kernel_lock_path,
    read_base_lock,
    read_environment_lock,
    read_variant_lock,
    variant_lock_path,
)
from torchkiln.releases import RELEASES
from torchkiln.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[2]
CATALOG = Catalog(
    base=Base(release="bookworm", python="3.11", packages=("python3",)), indexes={}, variants=()
)
CPU = Variant(id="cpu", torch="2.13.0", cuda=None, index="pytorch-cpu", packages=("numpy",))
CU117 = Variant(id="cu117", torch="2.0.1", cuda="11.7", index=None, packages=())
CPU_TORCH = torch("2.13.0+cpu", None, "filelock")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which pip and uv have no settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("UV_", "PIP_", "TORCHKILN_"))
    }
    return kept | {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://localhost:9/simple",  # the discard port: nothing listens
        "PIP_RETRIES": "0",
        "UV_CACHE_DIR": str(tmp_path / "cache"),
        "UV_NO_CONFIG": "1",
    }


@pytest.fixture
def main(environ: dict[str, str]) -> Iterator[Site]:
    """Run the package index that pip is configured with: its torch builds are CUDA's."""
    files = index(
        torch("2.0.1", "11.7", "nvidia-cuda-runtime-cu11"),
        torch("2.13.0", "13.0"),
        wheel("nvidia_cuda_runtime_cu11", "11.7.99"),
        wheel("numpy", "2.0"),
        wheel("filelock", "3.0"),
        wheel("ipykernel", "7.0", requires=["traitlets", "filelock>=2"]),
        wheel("traitlets", "5.0"),
    )
    with serving(files) as site:
        environ["PIP_INDEX_URL"] = f"{site.url}/simple"
        yield site


@pytest.fixture
def named(main: Site) -> Iterator[Site]:
    """Run the CPU variant's own index, which has copies of common packages too."""
    assert main.url
    with serving(index(CPU_TORCH, wheel("filelock", "3.0"))) as site:
        yield site


def lock_of(root: Path, variant: Variant, environ: dict[str, str], url: str = "") -> str:
    """Lock `variant` with its index at `url`; return the text of the lock."""
    catalog = replace(CATALOG, indexes={"pytorch-cpu": url})
    lock = lock_variant(root, catalog, variant, Store(root / "store"), environ)
    assert read_variant_lock(root, catalog, variant) == lock
    return (root / "envs" / variant.id / "lock.json").read_text()


def test_a_variant_is_locked_with_every_wheel_and_where_it_comes_from(
    tmp_path: Path, environ: dict[str, str], named: Site
) -> None:
    catalog = replace(CATALOG, indexes={"pytorch-cpu": f"{named.url}/simple"})

    lock = lock_variant(tmp_path, catalog, CPU, Store(tmp_path / "store"), environ)

    assert [
        ("filelock", "3.0", "default"),
        ("numpy", "2.0", "default"),
        ("torch", "2.13.0+cpu", "pytorch-cpu"),
    ] == [(wheel.name, wheel.version, wheel.source) for wheel in lock.wheels]
    assert lock.wheel("torch").sha256 == hashlib.sha256(CPU_TORCH[1]).hexdigest()


def test_a_lock_is_the_same_bytes_each_time_and_names_no_host(
    tmp_path: Path, environ: dict[str, str], named: Site
) -> None:
    first = lock_of(tmp_path / "first", CPU, environ, f"{named.url}/simple")
    second = lock_of(tmp_path / "second", CPU, environ, f"{named.url}/simple")

    assert first == second
    assert "localhost" not in first
    assert "://" not in first


def test_a_copy_in_find_links_gives_the_lock_that_the_silent_index_would_give(
    tmp_path: Path, environ: dict[str, str], named: Site
) -> None:
    url = f"{named.url}/simple"
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / CPU_TORCH[0]).write_bytes(CPU_TORCH[1])
    reached = lock_of(tmp_path / "first", CPU, environ, url)

    named.files.clear()
    silent = lock_of(tmp_path / "second", CPU, environ | {"PIP_FIND_LINKS": str(folder)}, url)

    assert silent == reached


def test_torch_is_in_the_store_after_locking(
    tmp_path: Path, environ: dict[str, str], main: Site
) -> None:
    lock = lock_variant(tmp_path, CATALOG, CU117, Store(tmp_path / "store"), environ)

    assert main.url
    assert Store(tmp_path / "store").has(lock.wheel("torch").sha256)


@pytest.mark.parametrize(
    "variant",
    [
        replace(CPU, index=None),
        replace(CU117, id="cu118", cuda="11.8"),
        replace(CU117, torch="2.13.0"),
    ],
    ids=["a CUDA wheel for the CPU", "an older runtime", "a newer torch"],
)
def test_another_cuda_than_the_variants_is_refused_and_nothing_is_written(
    tmp_path: Path, environ: dict[str, str], main: Site, variant: Variant
) -> None:
    with pytest.raises(LockError, match=f"`{variant.id}` do not carry the CUDA"):
        lock_of(tmp_path, variant, environ)

    assert main.url
    assert not (tmp_path / "envs").exists()


def test_a_failed_lock_leaves_the_old_one(
    tmp_path: Path, environ: dict[str, str], main: Site
) -> None:
    before = lock_of(tmp_path, CU117, environ)
    main.files.clear()

    with pytest.raises(LockError):
        lock_of(tmp_path, replace(CU117, packages=("numpy",)), environ)

    assert (tmp_path / "envs/cu117/lock.json").read_text() == before


@pytest.fixture
def mirror(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """Run a Debian mirror whose key is trusted."""
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "debian-bookworm.asc").write_text(str(key().extract_certificate()))
    monkeypatch.setattr(debian, "KEYS", keys)
    files = archive(*BASE, stanza("python3", "3.11"), security=(stanza("python3", "3.11+deb12u1"),))
    with serving({f"/{path}": data for path, data in files.items()}) as site:
        environ["TORCHKILN_DEBIAN_MIRROR"] = f"{site.url}/debian"
        yield site


def test_a_base_is_locked_with_its_security_updates(
    tmp_path: Path, environ: dict[str, str], mirror: Site
) -> None:
    lock = lock_base(tmp_path, CATALOG, environ)

    assert [
        ("apt", "1", "debian"),
        ("base-files", "1", "debian"),
        ("python3", "3.11+deb12u1", "debian-security"),
        ("usr-is-merged", "1", "debian"),
    ] == [(deb.name, deb.version, deb.archive) for deb in lock.debs]
    assert read_base_lock(tmp_path, CATALOG.base) == lock
    assert mirror.url not in (tmp_path / "envs/debian-bookworm.lock.json").read_text()


def test_a_base_can_be_locked_from_a_folder(
    tmp_path: Path, environ: dict[str, str], mirror: Site
) -> None:
    for path, data in mirror.files.items():
        assert isinstance(data, bytes)
        target = tmp_path / f"mirror{path}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    remote = lock_base(tmp_path, CATALOG, environ)

    local = environ | {"TORCHKILN_DEBIAN_MIRROR": (tmp_path / "mirror/debian").as_uri()}

    assert lock_base(tmp_path, CATALOG, local) == remote


def test_a_forged_index_is_refused_and_the_old_lock_stays(
    tmp_path: Path, environ: dict[str, str], mirror: Site
) -> None:
    lock = lock_base(tmp_path, CATALOG, environ)
    forged = suite("debian/dists/bookworm", stanza("evil"), signer=key("stranger"))
    mirror.files.update({f"/{path}": data for path, data in forged.items()})

    with pytest.raises(LockError, match="OpenPGP signature is bad"):
        lock_base(tmp_path, CATALOG, environ)

    assert read_base_lock(tmp_path, CATALOG.base) == lock


def test_a_mirror_that_fails_is_named_with_the_way_to_another(
    tmp_path: Path, environ: dict[str, str], mirror: Site
) -> None:
    mirror.files.clear()

    with pytest.raises(FetchError) as caught:
        lock_base(tmp_path, CATALOG, environ)

    text = str(caught.value)
    assert f"cannot fetch {mirror.url}/debian/dists/bookworm/InRelease" in text
    assert "TORCHKILN_DEBIAN_MIRROR" in text


@pytest.mark.parametrize(
    ("name", "cuda", "runtime"), [("cu118", "11.8", "11"), ("cu129", "12.9", "12")]
)
def test_a_variant_of_the_pytorch_index_is_locked_where_that_answers(
    tmp_path: Path, environ: dict[str, str], name: str, cuda: str, runtime: str
) -> None:
    """Its own entry in the catalog, with an index of the same builds in the place of PyTorch's."""
    catalog = load(PROJECT / "images/variants.yaml")
    variant = catalog.variant(name)
    library = f"nvidia-cuda-runtime-cu{runtime}"
    own = index(
        torch(f"{variant.torch}+{name}", cuda, library),
        wheel(library.replace("-", "_"), f"{cuda}.89"),
        *(
            wheel(requirement.name, f"{version}+{name}")
            for requirement in map(Requirement, variant.packages)
            if requirement.name.startswith("torch")
            for version in [next(iter(requirement.specifier)).version]
        ),
    )
    pip = index(
        torch(variant.torch, "12.8"),
        *(wheel(one, "2.0") for one in ("matplotlib", "numpy", "pip", "setuptools")),
    )
    with serving(own) as site, serving(pip) as main:
        environ["PIP_INDEX_URL"] = f"{main.url}/simple"
        url = f"{site.url}/simple"
        there = replace(catalog, indexes=catalog.indexes | {f"pytorch-{name}": url})
        lock = lock_variant(tmp_path, there, variant, Store(tmp_path / "store"), environ)

    assert {wheel.name: (wheel.version, wheel.source) for wheel in lock.wheels} == {
        "torch": (f"{variant.torch}+{name}", f"pytorch-{name}"),
        "torchvision": (f"{RELEASES[variant.torch].torchvision}+{name}", f"pytorch-{name}"),
        "torchaudio": (f"{RELEASES[variant.torch].torchaudio}+{name}", f"pytorch-{name}"),
        library: (f"{cuda}.89", f"pytorch-{name}"),
        **dict.fromkeys(("matplotlib", "numpy", "pip", "setuptools"), ("2.0", "default")),
    }


def test_a_variant_of_an_index_that_is_silent_is_not_locked_from_another(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    catalog = load(PROJECT / "images/variants.yaml")
    pip = index(torch("2.7.1", "12.6"), wheel("numpy", "2.0"))
    silent = catalog.indexes | {"pytorch-cu118": "http://localhost:9/simple"}
    there = replace(catalog, indexes=silent)
    with serving(pip) as main:
        environ["PIP_INDEX_URL"] = f"{main.url}/simple"
        with pytest.raises(LockError, match="`cu118` cannot be resolved") as caught:
            lock_variant(
                tmp_path, there, there.variant("cu118"), Store(tmp_path / "store"), environ
            )

    assert "the index `pytorch-cu118` does not answer from here" in caught.value.hint
    assert not (tmp_path / "envs").exists()


def test_a_kernel_is_locked_beside_the_versions_of_its_variant(
    tmp_path: Path, environ: dict[str, str], main: Site, named: Site
) -> None:
    catalog = replace(CATALOG, indexes={"pytorch-cpu": f"{named.url}/simple"})
    lock_variant(tmp_path, catalog, CPU, Store(tmp_path / "store"), environ)
    main.files |= index(wheel("filelock", "4.0"), wheel("filelock", "3.0"))

    kernel = lock_kernel(tmp_path, catalog, CPU, environ)

    assert [("ipykernel", "7.0"), ("traitlets", "5.0")] == [
        (wheel.name, wheel.version) for wheel in kernel.wheels
    ]
    merged = read_environment_lock(tmp_path, catalog, CPU)
    assert ["filelock", "ipykernel", "numpy", "torch", "traitlets"] == [
        wheel.name for wheel in merged.wheels
    ]
    assert "://" not in kernel_lock_path(tmp_path, "cpu").read_text()
    main.files |= index(wheel("numpy", "2.1"), wheel("numpy", "2.0"))
    lock_variant(tmp_path, catalog, CPU, Store(tmp_path / "store"), environ)
    with pytest.raises(LockError, match=r"older than .*: envs/cpu/kernel\.lock\.json"):
        read_environment_lock(tmp_path, catalog, CPU)


def test_a_kernel_that_does_not_go_with_the_variant_is_explained(
    tmp_path: Path, environ: dict[str, str], main: Site, named: Site
) -> None:
    catalog = replace(CATALOG, indexes={"pytorch-cpu": f"{named.url}/simple"})
    lock_variant(tmp_path, catalog, CPU, Store(tmp_path / "store"), environ)
    main.files |= index(wheel("ipykernel", "7.0", requires=["numpy<2"]))

    with pytest.raises(LockError, match="cannot be resolved beside the versions of `cpu`"):
        lock_kernel(tmp_path, catalog, CPU, environ)

    assert variant_lock_path(tmp_path, "cpu").exists()
    assert not kernel_lock_path(tmp_path, "cpu").exists()


def test_a_variant_that_cannot_be_locked_does_not_stop_the_others(
    tmp_path: Path, environ: dict[str, str], named: Site
) -> None:
    catalog = replace(CATALOG, indexes={"pytorch-cpu": f"{named.url}/simple"})
    lost = replace(CU117, id="cu999", torch="9.9.9")
    failures = lock_variants(
        tmp_path, catalog, [lost, CPU, replace(lost, torch="9.9.8")], Store(tmp_path / "s"), environ
    )

    assert (tmp_path / "envs/cpu/lock.json").exists()
    assert not (tmp_path / "envs/cu999").exists()
    with pytest.raises(LockError, match="2 variants cannot be locked, the others are") as caught:
        demand(failures)
    assert caught.value.why.count("`cu999` cannot be resolved") == 2
    with pytest.raises(LockError, match="`cu999` cannot be resolved"):
        demand(failures[:1])
    demand([])
