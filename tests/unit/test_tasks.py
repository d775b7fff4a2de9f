"""The command line as people use it: `invoke` with the tasks, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def kiln(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "invoke", "--search-root", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


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
