"""The built image in a real registry, judged by Docker, Podman and cosign, and rebuilt."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import engines
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from engines import require
from kiln_runs import Kiln, folder, output

from torchkiln.errors import ProofError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from engines import Engine


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key's file; the public one lies beside it as `.pub`."""
    made = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path_factory.mktemp("key") / "key"
    path.write_bytes(
        made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path.with_suffix(".pub").write_bytes(
        made.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return path


@pytest.fixture(scope="module")
def pushed(
    kiln: Kiln, built: Callable[[str], dict[str, Any]], registry: str, key: Path
) -> dict[str, Any]:
    """What `push --json` says of the CPU image."""
    assert built("cpu")["digest"]
    done = kiln("push", "--cpu", "--to", f"{registry}/torch/cpu", "--key", str(key), "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def docker() -> Iterator[Engine]:
    """Docker with its own image store."""
    with folder() as place, engines.docker("classic", place) as engine:
        yield engine


@pytest.fixture
def podman() -> Iterator[Engine]:
    """Podman with an image store of the test's own."""
    with folder() as place, engines.podman(place) as engine:
        yield engine


def test_a_pushed_image_has_its_digest_under_every_tag(
    cpu: dict[str, Any], pushed: dict[str, Any], registry: str
) -> None:
    require("skopeo")
    assert cpu["digest"] == pushed["digest"]
    assert ["cpu", "latest-cpu"] == pushed["tags"][1:]
    assert pushed["tags"][0].endswith(f"-cpu-py311-bookworm-r{cpu['digest'][7:19]}")
    for tag in pushed["tags"]:
        place = f"docker://{registry}/torch/cpu:{tag}"
        found = json.loads(output("skopeo", "inspect", "--tls-verify=false", place))
        assert cpu["digest"] == found["Digest"]


def test_cosign_knows_signature_and_attestations(
    pushed: dict[str, Any], registry: str, key: Path
) -> None:
    require("cosign")
    common = ("--insecure-ignore-tlog=true", "--allow-http-registry", "--key", f"{key}.pub")
    place = f"{registry}/torch/cpu@{pushed['digest']}"
    assert pushed["digest"] in output("cosign", "verify", *common, place)
    for kind in ("cyclonedx", "slsaprovenance1"):
        assert output("cosign", "verify-attestation", *common, "--type", kind, place)


def test_verify_follows_the_image_from_the_registry_to_a_rebuild(
    fetched: Kiln, pushed: dict[str, Any], registry: str, key: Path
) -> None:
    """On a machine that has the locked inputs and nothing that was built."""
    place = f"{registry}/torch/cpu:cpu"
    words = ("verify", "--image", place, "--key", f"{key}.pub", "--rebuild", "--json")
    done = fetched(*words)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert pushed["digest"] == found["digest"]
    assert (True, True) == (found["signed"], found["rebuilt"])
    assert ["SBOM", "provenance", "smoke report"] == found["documents"]

    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    strange = key.with_name("strange.pub")
    strange.write_bytes(
        other.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    refused = fetched("verify", "--image", place, "--key", str(strange))
    assert ProofError.exit_code == refused.returncode, refused.stderr
    explained = fetched("explain", "numpy", "--image", place, "--key", f"{key}.pub")
    assert "numpy" in explained.stdout, explained.stderr


@pytest.mark.slow
def test_docker_runs_what_we_pushed_and_we_pull_what_it_pushes(
    kiln: Kiln, docker: Engine, cpu: dict[str, Any], pushed: dict[str, Any], registry: str
) -> None:
    place = f"{registry}/torch/cpu@{pushed['digest']}"
    docker("pull", "--quiet", place)
    words = ("python", "-c", "import torch; print(torch.ones(2).sum().item())")
    assert "2.0\n" == docker.run(place, *words)

    into = replace(kiln, env={"DOCKER_HOST": docker.command[-1]})
    loaded = into("pull", f"{registry}/torch/cpu:cpu", "--load")
    assert loaded.returncode == 0, loaded.stderr
    assert "2.0\n" == docker.run(f"{registry}/torch/cpu:cpu", *words)

    again = f"{registry}/from/docker:cpu"
    docker("tag", place, again)
    docker("push", "--quiet", again)
    done = kiln("pull", again, "--json")
    assert done.returncode == 0, done.stderr
    assert [one["diff_id"] for one in cpu["layers"]] == json.loads(done.stdout)["layers"]


@pytest.mark.slow
def test_podman_runs_what_we_pushed_and_we_pull_what_it_pushes(
    kiln: Kiln, podman: Engine, cpu: dict[str, Any], pushed: dict[str, Any], registry: str
) -> None:
    place = f"{registry}/torch/cpu@{pushed['digest']}"
    podman("pull", "--quiet", "--tls-verify=false", place)
    words = ("python", "-c", "import torch; print(torch.ones(2).sum().item())")
    assert "2.0\n" == podman.run(place, *words)

    again = f"{registry}/from/podman:cpu"
    podman("push", "--quiet", "--tls-verify=false", place, again)
    done = kiln("pull", again, "--json")
    assert done.returncode == 0, done.stderr
    assert [one["diff_id"] for one in cpu["layers"]] == json.loads(done.stdout)["layers"]


def test_a_pulled_image_is_copied_as_a_layout(
    kiln: Kiln, pushed: dict[str, Any], registry: str, scratch: Path
) -> None:
    place, target = f"{registry}/torch/cpu:cpu", scratch / "layout"
    done = kiln("pull", place, "--layout", str(target))
    assert done.returncode == 0, done.stderr
    index = json.loads((target / "index.json").read_bytes())
    assert pushed["digest"] == index["manifests"][0]["digest"]
    assert not any(path.is_symlink() for path in target.rglob("*"))

    assert "already" in kiln("pull", place, "--layout", str(target)).stderr
    shutil.rmtree(target)
