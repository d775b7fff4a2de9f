"""What a clone holds: the licence, and files that run wherever git wrote them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PICTURE = ".github/pictures/loss.png"
FILES = ("kiln", "envs/kiln/requirements.txt", PICTURE)


def git(*words: str, cwd: Path) -> str:
    own = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", *own, *words], cwd=cwd, capture_output=True, text=True, check=True
    )
    return done.stdout


def windows_clone(folder: Path, *, attributes: bool) -> Path:
    """Return a clone as Git for Windows makes it, by its default settings."""
    origin, clone = folder / "origin", folder / "clone"
    for name in (*FILES, *([".gitattributes"] if attributes else [])):
        (origin / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, origin / name)
    git("init", "--quiet", cwd=origin)
    git("add", "--all", cwd=origin)
    git("commit", "--quiet", "--message", "one", cwd=origin)
    git("clone", "--quiet", "-c", "core.autocrlf=true", str(origin), str(clone), cwd=folder)
    return clone


def test_kiln_runs_in_a_clone_that_git_for_windows_made(tmp_path: Path) -> None:
    """As WSL sees it: with CRLF the kernel looks for a program whose name ends with CR."""
    clone = windows_clone(tmp_path, attributes=True)
    command = [str(clone / "kiln"), "--list"]
    environ = {"TORCHKILN_PYTHON": "/nonexistent", "PATH": "/usr/bin:/bin"}

    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    assert b"\r" not in (clone / "kiln").read_bytes()
    assert 10 == done.returncode
    assert done.stderr.startswith("error: Torchkiln needs Python 3.10 to 3.14\n")
    assert (ROOT / PICTURE).read_bytes() == (clone / PICTURE).read_bytes()


def test_without_the_attributes_that_clone_has_crlf(tmp_path: Path) -> None:
    """The control of the rule above."""
    clone = windows_clone(tmp_path, attributes=False)

    assert (clone / "kiln").read_bytes().startswith(b"#!/bin/sh\r\n")


def test_what_is_committed_has_the_line_ends_that_the_attributes_say() -> None:
    """So that `git add --renormalize .` changes nothing."""
    if not (ROOT / ".git").exists():
        pytest.skip("there is no clone: Torchkiln is from a bundle")
    kinds = {line.split()[0] for line in git("ls-files", "--eol", cwd=ROOT).splitlines()}

    assert kinds <= {"i/lf", "i/none", "i/-text"}


def test_the_licence_is_there_and_pyproject_names_it() -> None:
    """PEP 639: an SPDX expression, and the files that hold the text."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "LICENSE").read_text()

    assert ("Apache-2.0", ["LICENSE"]) == (project["license"], project["license-files"])
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text
