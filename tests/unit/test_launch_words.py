from __future__ import annotations

import pytest
import yaml as pyyaml
from hypothesis import given
from hypothesis import strategies as st
from launches import launch

from torchkiln.launch_words import (
    charliecloud_form,
    kubernetes_literal,
    path,
    quote,
    slurm_time,
    torchrun,
    yaml,
)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("python", "x.py", "-v"), ["x.py", "-v"]),
        (("python3", "-m", "pkg.train"), ["-m", "pkg.train"]),
        (("python", "-c", "print(1)"), ["--no-python", "python", "-c", "print(1)"]),
        (("python", "-u", "x.py"), ["--no-python", "python", "-u", "x.py"]),
        (("python",), ["--no-python", "python"]),
        (("env", "A=b", "python", "x.py"), ["--no-python", "env", "A=b", "python", "x.py"]),
    ],
)
def test_torchrun_starts_scripts_and_modules_itself_and_the_rest_as_programs(
    command: tuple[str, ...], words: list[str]
) -> None:
    assert words == torchrun(launch("docker", command), host="h:1", job="j")[4:]


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "0-00:00:05"), (14400, "0-04:00:00"), (176461, "2-01:01:01")]
)
def test_slurm_takes_days_and_hours(seconds: int, text: str) -> None:
    assert text == slurm_time(seconds)


def test_a_path_is_never_a_bare_name() -> None:
    assert ["./x", "./a/x", "./x", "/x"] == [path(one) for one in ("x", "a/x", "./x", "/x")]


def test_the_format_of_a_file_is_read_off_its_name() -> None:
    files = ("a.sqsh", "a.sqfs", "a.tar.gz", "a.tar", "tree")

    assert ["squash", "squash", "tar", "tar", "dir"] == [charliecloud_form(one) for one in files]


def test_a_comma_is_quoted_because_shellcheck_takes_it_for_a_mistake() -> None:
    assert ["a", "'a,b'", "'a,'\"'\"'b'"] == [quote("a"), quote("a,b"), quote("a,'b")]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_yaml_text_is_one_line_that_reads_as_the_same_text(text: str) -> None:
    line = yaml(text)

    assert text == pyyaml.safe_load(line)
    assert 1 == len(line.splitlines())


def test_kubernetes_sees_no_variable_in_a_literal() -> None:
    assert "a $$(HOME) $$$$" == kubernetes_literal("a $(HOME) $$")
