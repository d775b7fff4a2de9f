"""The command line as people use it: `invoke` with the tasks, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
INVOKE = (sys.executable, "-m", "invoke", "--search-root", str(ROOT))


def kiln(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*INVOKE, *arguments], capture_output=True, text=True, check=False)


def test_the_list_explains_each_task_in_one_line() -> None:
    lines = kiln("--list").stdout.splitlines()
    tasks = [line.split(None, 1) for line in lines[2:] if line.strip()]

    assert {
        "build",
        "check-facts",
        "fetch",
        "launch",
        "list",
        "recommend",
        "lock",
        "render",
        "run",
        "shell",
        "smoke",
        "test",
        "verify",
    } <= {task[0] for task in tasks}
    assert all(len(task) == 2 and task[1].endswith(".") for task in tasks)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["build", "--cuda", "119"], 11, "there is no variant for `--cuda 119`"),
        (["build", "--cuda", "118"], 12, "hint: ./kiln lock --cuda 118"),
        (["build", "--all", "--cpu"], 11, "give one of `--cpu`, `--cuda` and `--all`"),
        (["build", "--only", "cu9*"], 11, "no locked variant fits `cu9*`"),
        (["recommend", "--driver", "5", "--gpu", "a1000"], 24, "did you mean `a100`?"),
        (["recommend", "--driver", "535"], 24, "no GPU is named"),
        (["build"], 11, "error: give one of `--cpu` and `--cuda`"),
        (["build", "--cpu", "--cuda", "117"], 11, "error: give one of `--cpu` and `--cuda`"),
        (["lock"], 11, "--cuda 117"),
        (["lock", "--conda"], 11, "--cuda 117"),
        (["env", "--cpu", "--manager", "cona"], 31, "did you mean `conda`?"),
        (["launch", "slurm-pyxi"], 27, "did you mean `slurm-pyxis`?"),
        (["launch", "docker", "--cpu", "--nodes", "0"], 27, "the launch has 3 faults"),
        (["push", "--cpu", "--to", "torch:cpu"], 28, "it has no registry"),
        (["pull", "ghcr.io/Torch"], 28, "`Torch` is no name of a repository"),
        (["export", "--cpu", "--format", "sfs", "--output", "x"], 26, "did you mean"),
        (["run", "--cpu"], 18, "hint: ./kiln run --cpu -- python --version"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_without_a_traceback(
    arguments: list[str], code: int, text: str
) -> None:
    done = kiln(*arguments)

    assert (code, "") == (done.returncode, done.stdout)
    assert text in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("verify", "ghcr.io/Torch"), 28, "no name of a repository"),
        (("explain", "ghcr.io/Torch", "numpy"), 28, "no name of a repository"),
        (("explain", "ghcr.io/Torch"), 11, "give one of `--cpu` and `--cuda`"),
        (("diff", "--help"), 0, "Compare two images path by path"),
    ],
)
def test_kiln_takes_what_invoke_cannot(words: tuple[str, ...], code: int, text: str) -> None:
    done = subprocess.run([ROOT / "kiln", *words], capture_output=True, text=True, check=False)

    assert code == done.returncode
    assert text in done.stdout + done.stderr


SESSION = """
import shutil, tempfile, time
from pathlib import Path
import pytest

@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    (tmp_path_factory.mktemp("kept") / "file").touch()
    made = Path(tempfile.mkdtemp())
    (made / "file").write_text("gigabytes")
    yield made
    time.sleep(0.5)
    shutil.rmtree(made)

def test_that_takes_long(folder):
    Path("begun").touch()
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_tests_that_are_stopped_clean_up(
    tmp_path: Path, number: signal.Signals, send: Callable[[int, int], None]
) -> None:
    for name in ("tests", "temporary"):
        (tmp_path / name).mkdir()
    (tmp_path / "tests/conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    begun = tmp_path / "tests/begun"
    (tmp_path / "tests/test_long.py").write_text(SESSION.replace("begun", str(begun)))
    process = subprocess.Popen(
        [*INVOKE, "test", "--path", str(tmp_path / "tests")],
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not begun.exists():
        time.sleep(0.05)
    made = files(tmp_path / "temporary")
    send(process.pid, number)
    _, errors = process.communicate(timeout=30)

    assert {"file"} <= made, "a control: there is something to be removed"
    assert set() == files(tmp_path / "temporary")
    assert (128 + number, "stopped\n") == (process.returncode, errors)


def test_a_second_ctrl_c_ends_tests_at_once(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    test = "import pathlib, time\n\ndef test_long():\n    "
    test += f"try: pathlib.Path('{tmp_path}/begun').touch(); time.sleep(60)\n    "
    test += f"finally: pathlib.Path('{tmp_path}/ending').touch(); time.sleep(60)\n"
    (tmp_path / "test_long.py").write_text(test)
    command = [*INVOKE, "test", "--path", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        for sign in ("begun", "ending"):
            while process.poll() is None and not (tmp_path / sign).exists():
                time.sleep(0.05)
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)

        assert 130 == process.wait(10)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}
