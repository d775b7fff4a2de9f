from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
from sandboxes import PYTHONPATH

from torchkiln.errors import ExportError, HostError
from torchkiln.export.destination import check_place, check_room, unfinished

if TYPE_CHECKING:
    from pathlib import Path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(target: Path, text: str) -> None:
    with unfinished(target) as path:
        path.write_text(text)


def test_a_file_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "image.sif"
    target.write_text("before")
    with unfinished(target) as path:
        path.write_text("after")
        assert target.read_text() == "before"

    assert target.read_text() == "after"
    assert names(tmp_path) == ["image.sif"]


@pytest.mark.parametrize("folder", [False, True])
def test_what_fails_leaves_nothing(tmp_path: Path, folder: bool) -> None:  # noqa: FBT001
    def fail() -> None:
        with unfinished(tmp_path / "image") as path:
            if folder:
                (path / "usr").mkdir(parents=True)
                (path / "usr").chmod(0o500)
            else:
                path.write_text("part")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()

    assert names(tmp_path) == []


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path: Path) -> None:
    script = """
        import os, signal, sys
        from pathlib import Path
        from torchkiln.export.destination import unfinished
        with unfinished(Path(sys.argv[1])) as path:
            path.write_text("part")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "image.sif")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": PYTHONPATH}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [name.startswith(".image.sif.") for name in names(tmp_path)] == [True]

    write(tmp_path / "image.sif", "whole")

    assert names(tmp_path) == ["image.sif"]


def test_an_export_at_work_is_left_alone_and_so_is_another_machines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = f".image.{socket.gethostname()}.{os.getppid()}.partial"
    theirs = f".image.login-1.example.org.{2**22 + 1}.partial"
    others = [mine, theirs, f".image.sif.{socket.gethostname()}.{2**22 + 1}.partial", ".image.x"]
    for name in others:
        (tmp_path / name).touch()

    write(tmp_path / "image", "whole")

    assert names(tmp_path) == sorted([*others, "image"])
    said = capsys.readouterr().err
    assert f"login-1.example.org: {tmp_path / theirs}" in said
    assert str(tmp_path / mine) in said


def test_a_disk_that_fills_up_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    """The kernel refuses more bytes at a limit as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(ExportError, match="cannot be written") as caught:
            write(tmp_path / "image", "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert caught.value.hint
    assert names(tmp_path) == []


def test_a_folder_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()

    for folder in (False, True):
        with pytest.raises(ExportError, match="is there already"):
            check_place(tmp_path / "there", folder=folder)
        check_place(tmp_path / "new", folder=folder)


def test_a_file_gives_way_to_a_file_alone_and_a_device_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")

    check_place(tmp_path / "file", folder=False)
    for name, folder in (("file", True), ("pipe", False)):
        with pytest.raises(ExportError, match="is there already"):
            check_place(tmp_path / name, folder=folder)


def test_a_place_in_no_folder_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no such folder") as caught:
        check_place(tmp_path / "no/image", folder=False)

    assert caught.value.hint == f"mkdir -p {tmp_path / 'no'}"


def test_what_is_needed_is_said_and_too_little_is_refused_with_the_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_room(tmp_path / "image", 2_000_000)
    assert f"about 2.0 MB are needed in {tmp_path}, where " in capsys.readouterr().err

    with pytest.raises(HostError) as caught:
        check_room(tmp_path / "image", 10**18)
    assert "1,000,000,000,000 MB are needed" in str(caught.value)
