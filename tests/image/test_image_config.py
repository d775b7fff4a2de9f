"""What the image says of itself, and what its processes find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from torchkiln.config import DRIFTED_LABEL
from torchkiln.sandbox import Mount

if TYPE_CHECKING:
    from collections.abc import Callable

    from expected import Expected

    from torchkiln.backend import Host
    from torchkiln.listing import ImageListing

_BYTECODE = Path(__file__).parent / "inside/check_bytecode.py"
_PREFIX = "org.opencontainers.image"


def test_labels_name_variant_version_and_date(image: ImageListing, expected: Expected) -> None:
    labels = image.runtime["Labels"]

    others = {name for name in labels if not name.startswith(f"{_PREFIX}.")}
    assert others == ({DRIFTED_LABEL} if expected.base_lock.drifted else set())
    assert all(labels.values())
    assert labels[f"{_PREFIX}.title"] == f"torchkiln {expected.variant.id}"
    assert labels[f"{_PREFIX}.version"] == expected.lock.wheel("torch").version
    assert labels[f"{_PREFIX}.created"] == expected.base_lock.date
    for part in (expected.variant.torch, expected.variant.cuda or "CPU", expected.base.python):
        assert part in labels[f"{_PREFIX}.description"]


def test_dates_come_from_the_lock(image: ImageListing, expected: Expected) -> None:
    dates = {image.config["created"], *(entry["created"] for entry in image.config["history"])}

    assert dates == {expected.base_lock.date}


def test_platform_is_named(image: ImageListing) -> None:
    assert (image.config["os"], image.config["architecture"]) == ("linux", "amd64")


def test_environment_reaches_the_processes(host: Host, image: ImageListing) -> None:
    environment = host.environment()

    assert {name: environment.get(name) for name in image.environment} == image.environment


def test_python_is_that_of_the_environment(host: Host, expected: Expected) -> None:
    facts = (
        "import sys, json; print(json.dumps([sys.prefix, sys.base_prefix, sys.version_info[:2]]))"
    )
    major, minor = map(int, expected.base.python.split("."))

    found = json.loads(host.check_output("python -c %s", facts))

    assert found == [f"/{expected.venv.prefix}", "/usr", [major, minor]]


def test_python_sees_no_packages_but_the_environments(host: Host) -> None:
    paths = json.loads(
        host.check_output("python -c 'import sys, json; print(json.dumps(sys.path))'")
    )

    assert [path for path in paths if "dist-packages" in path or "/local/" in path] == []


def test_bytecode_is_that_of_its_source(run_as: Callable[..., Host], expected: Expected) -> None:
    """Python itself compares hashes and versions; only it knows them (see the script)."""
    script = Mount(source=_BYTECODE, target="/run/check_bytecode.py")
    roots = [f"/{expected.venv.prefix}/lib", f"/usr/lib/python{expected.base.python}"]

    done = run_as(mounts=(script,)).run(f"python {script.target} {' '.join(roots)}")

    assert (done.stdout, done.stderr, done.rc) == ("", "", 0)


def test_description_agrees_with_the_lock(host: Host, expected: Expected) -> None:
    """The smoke suite believes this file."""
    found = json.loads(host.file("/opt/torchkiln/image.json").content_string)

    assert [found[key] for key in ("variant", "torch", "cuda", "python")] == [
        expected.variant.id,
        expected.variant.torch,
        expected.variant.cuda,
        expected.base.python,
    ]
    assert [(one["name"], one["version"]) for one in found["lock"]["wheels"]] == [
        (wheel.name, wheel.version) for wheel in expected.lock.wheels
    ]
