"""The files are run and sourced by the shell that is there, as the runtimes do it."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from torchkiln.export.cluster_files import cluster_files
from torchkiln.layer import complete

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HARD = {
    "PATH": "/opt/venv/bin:/usr/bin:/bin",
    "QUOTES": """it's "so" and `not`""",
    "DOLLAR": "$HOME ${USER} $(id)",
    "BACKSLASH": "a\\b\\\\c\\",
    "EQUALS": "a=b=c",
    "NVIDIA_REQUIRE_CUDA": "cuda>=11.7 driver>=450",
    "EMPTY": "",
    "BRACE": "}{",
}


def config(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    runtime = {"Env": [f"{name}={value}" for name, value in HARD.items()], **more}
    return {"architecture": "amd64", "config": runtime}


def texts(document: Mapping[str, Any]) -> dict[str, str]:
    return {
        entry.path: b"".join(entry.chunks()).decode()
        for entry in cluster_files(document, "torchkiln:cpu@sha256:12")
        if entry.chunks
    }


def shell(script: str, *words: str, **variables: str) -> list[str]:
    """Run a script with these words; return what it prints, at its NULs."""
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *words],
        env={"PATH": os.environ["PATH"], **variables},
        stdout=subprocess.PIPE,
        check=True,
    )
    return done.stdout.decode().split("\0")[:-1]


def sourced(document: Mapping[str, Any], **variables: str) -> dict[str, str]:
    """Return the environment after all of Apptainer's scripts, in the order of their names."""
    found = texts(document)
    scripts = [
        text for path, text in sorted(found.items()) if path.startswith(".singularity.d/env/")
    ]
    lines = shell("\n".join([*scripts, "exec /usr/bin/env -0"]), **variables)
    return dict(line.split("=", 1) for line in lines)


def test_apptainer_gives_processes_the_environment_of_the_config() -> None:
    found = sourced(config())

    assert found | HARD == found
    assert found["LD_LIBRARY_PATH"] == "/.singularity.d/libs"


def test_apptainer_keeps_what_the_caller_has_set_but_the_path() -> None:
    found = sourced(config(), QUOTES="mine", PATH="/mine")

    assert found["QUOTES"] == "mine"
    assert found["PATH"] == HARD["PATH"]


def test_the_driver_is_looked_for_after_the_libraries_of_the_image() -> None:
    found = sourced(config(Env=["PATH=/bin", "LD_LIBRARY_PATH=/usr/local/nvidia/lib64"]))

    assert found["LD_LIBRARY_PATH"] == "/usr/local/nvidia/lib64:/.singularity.d/libs"


PRINT = ["printf", "%s\\0", "entry point"]


@pytest.mark.parametrize("path", [".singularity.d/runscript", "etc/rc"])
@pytest.mark.parametrize(
    ("runtime", "words", "expected"),
    [
        ({"Entrypoint": PRINT, "Cmd": ["a b", "it's"]}, [], ["entry point", "a b", "it's"]),
        ({"Entrypoint": PRINT, "Cmd": ["x"]}, ["$HOME", "`id`"], ["entry point", "$HOME", "`id`"]),
        ({"Entrypoint": PRINT}, [], ["entry point"]),
        ({"Cmd": PRINT}, [], ["entry point"]),
        ({"Cmd": ["false"]}, PRINT, ["entry point"]),
    ],
)
def test_entry_point_and_command_meet_the_callers_words_as_in_docker(
    path: str, runtime: dict[str, list[str]], words: list[str], expected: list[str]
) -> None:
    """The image's entry point always, its command where the caller gives none, nothing expanded."""
    assert expected == shell(texts(config(**runtime))[path], *words)


def test_enroot_starts_in_the_working_directory(tmp_path: Path) -> None:
    place = tmp_path / "a place"
    document = config(Cmd=["sh", "-c", "printf '%s\\0' \"$PWD\""], WorkingDir=str(place))

    assert [str(place)] == shell(texts(document)["etc/rc"])


def test_enroot_and_charliecloud_read_the_environment_as_it_is() -> None:
    expected = "".join(f"{name}={value}\n" for name, value in HARD.items())
    found = texts(config())

    assert found["etc/environment"] == found["ch/environment"] == expected
    assert found["etc/fstab"] == ""


def test_labels_and_the_images_name_are_kept() -> None:
    found = texts(config(Labels={"b": "two\nlines", "a": "one"}))

    assert found["etc/rc"].splitlines()[:3] == [
        "# enroot-provenance: torchkiln:cpu@sha256:12",
        "# a one",
        "# b two lines",
    ]
    assert json.loads(found[".singularity.d/labels.json"]) == {"a": "one", "b": "two\nlines"}


def test_a_config_that_says_nothing_gives_a_shell() -> None:
    found = texts({"architecture": "amd64"})

    for path in (".singularity.d/runscript", "etc/rc"):
        assert ["from sh"] == shell(found[path], "printf", "from sh\\0")
        assert "/bin/sh\n" in found[path].partition("\n")[2]


def test_no_path_is_given_twice_and_scripts_can_be_run() -> None:
    entries = cluster_files(config(), "")

    assert len(complete(entries)) >= len({entry.path for entry in entries}) == len(entries)
    for entry in entries:
        script = entry.path.startswith((".singularity.d/env/", ".singularity.d/runscript"))
        assert (entry.mode == 0o755) == (script or entry.is_directory), entry.path
