from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from torchkiln.doctor.privacy import Private, pasted, private, shown

if TYPE_CHECKING:
    from pathlib import Path

HIDDEN = Private(home="/home/alice", user="alice", host="node-017", secrets=("hunter2-hunter2",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/alice/venv has it", "~/venv has it"),
        ("/home/alicette/venv has it", "/home/alicette/venv has it"),
        ("/scratch/alice/tmp is full", "/scratch/USER/tmp is full"),
        ("proxy http://alice:pw@proxy:3128 is dead", "proxy http://***@proxy:3128 is dead"),
        ("no answer from http://10.1.2.3/simple", "no answer from http://***/simple"),
        ("10.1.2.3:3128 refused", "***:3128 refused"),
        ("docker login 127.0.0.1:5000", "docker login 127.0.0.1:5000"),
        ("https://mirror/simple?token=abc", "https://mirror/simple?***"),
        ("GPU-6d8e01a2-1b2c-3d4e-5f60-718293a4b5c6", "GPU-***"),
        ("MIG-6D8E01A2-1B2C-3D4E-5F60-718293A4B5C6", "MIG-***"),
        ("link 02:42:ac:11:00:02 is up", "link *** is up"),
        ("the key is hunter2-hunter2", "the key is ***"),
        ("on node-017 and node-0171", "on HOST and node-0171"),
        ("nvidia-curand-cu12 10.3.5.147", "nvidia-curand-cu12 10.3.5.147"),
        ("torch 2.13.0+cu130, driver 535.104.05", "torch 2.13.0+cu130, driver 535.104.05"),
    ],
)
def test_what_is_private_is_not_shown_and_what_is_not_is(text: str, expected: str) -> None:
    assert shown(text, HIDDEN) == expected


@pytest.mark.parametrize(
    "command",
    [
        "printf %s {home}/venv/bin/python",
        "printf %s --prefix={home}/venv",
        "printf %s '{home}/my venv/bin/python'",
        'printf %s "{home}/my venv/bin/python"',
        "printf %s 'PATH={home}/a:{home}/b' && true",
        "printf %s it\\'s {home}/x",
        "printf %s /scratch/{user}/cache/'{user}'",
    ],
)
def test_a_remedy_does_the_same_without_the_names(command: str, tmp_path: Path) -> None:
    # Whoever writes a remedy puts quotes around a home with a space.
    quoted = "'{home}" in command or '"{home}' in command
    home = tmp_path / "a home" if quoted else tmp_path
    named = Private(home=str(home), user="bob", host="", secrets=())
    plain = command.format(home=named.home, user="bob")
    told = pasted(plain, named)
    assert named.home not in told
    assert "/bob/" not in told
    environ = {"HOME": named.home, "USER": "bob", "PATH": "/usr/bin:/bin"}
    assert run(told, environ) == run(plain, environ)


def run(command: str, environ: dict[str, str]) -> str:
    return subprocess.run(
        ["sh", "-c", command], env=environ, capture_output=True, text=True, check=True
    ).stdout


def test_secrets_are_the_values_of_variables_that_are_named_so() -> None:
    found = private(
        {
            "HOME": "/home/alice/",
            "HF_TOKEN": "hf_abcdefgh",
            "AWS_SECRET_ACCESS_KEY": "longer-than-the-other",
            "SSH_AUTH_SOCK": "/run/user/1000/agent",
            "NO_PASSWORD": "yes",
        }
    )
    assert found.home == "/home/alice"
    assert found.secrets == ("longer-than-the-other", "hf_abcdefgh")
