"""The script as it is run: by a Python of its own, without Torchkiln, from standard input."""

from __future__ import annotations

import importlib.util
import json
import marshal
import subprocess
import sys
from pathlib import Path

from wheels import CODE, Draft

from torchkiln import compile_modules


def run(folder: Path, members: list[list[str]], draft: Draft) -> bytes:
    (folder / "wheel").write_bytes(draft.pack())
    command = [sys.executable, "-I", "-S", compile_modules.__file__, "--wheel"]
    command.append(str(folder / "wheel"))
    return subprocess.run(
        command, input=json.dumps(members).encode(), capture_output=True, check=True
    ).stdout


def test_each_module_is_a_line_with_its_length_and_its_bytes(tmp_path: Path) -> None:
    draft = Draft(members={"b.py": b"x = 1\n", "a é.py": CODE})
    out = run(tmp_path, [["b.py", "/s/b.py"], ["a é.py", "/s/a é.py"]], draft)
    found = []
    while out:
        line, _, rest = out.partition(b"\n")
        path, length = line.decode().split("\t")
        found.append((path, marshal.loads(rest[16 : int(length)]).co_filename))  # noqa: S302 - our own
        out = rest[int(length) :]

    assert [("/s/b.py", "/s/b.py"), ("/s/a é.py", "/s/a é.py")] == found


def test_module_that_does_not_compile_has_no_bytes(tmp_path: Path) -> None:
    draft = Draft(members={"bad.py": b"def\n"})

    assert b"/s/bad.py\t0\n" == run(tmp_path, [["bad.py", "/s/bad.py"]], draft)


def test_asserts_and_docstrings_stay(tmp_path: Path) -> None:
    """PYTHONOPTIMIZE of the builder must not change what the image does."""
    draft = Draft(members={"m.py": b'"""Text."""\nassert False, "kept"\n'})
    out = run(tmp_path, [["m.py", "/m.py"]], draft)

    assert b"kept" in out
    assert b"Text." in out


def test_a_file_gets_the_same_bytes_where_it_lies(tmp_path: Path) -> None:
    """The Dockerfile compiles installed files, the kiln engine members of wheels."""
    source = tmp_path / "m.py"
    source.write_bytes(CODE)
    (tmp_path / "bad.py").write_bytes(b"def\n")
    command = [sys.executable, "-I", "-S", compile_modules.__file__]
    subprocess.run([*command, str(source), str(tmp_path / "bad.py")], check=True)
    out = run(tmp_path, [["m.py", str(source)]], Draft(members={"m.py": CODE}))

    (made,) = (tmp_path / "__pycache__").iterdir()
    assert made == Path(importlib.util.cache_from_source(str(source)))
    assert made.read_bytes() == out.partition(b"\n")[2]


def test_what_shares_a_process_changes_nothing(tmp_path: Path) -> None:
    """Two equal sets become one where no string of them is known yet, with `compileall` two."""
    sets = b'def f(x): return x in {"rare", "word"}\ndef g(x): return x in {"rare", "word"}\n'
    draft = Draft(members={"a.py": b"rare = word = 1\n", "b.py": sets})
    alone = run(tmp_path, [["b.py", "/b.py"]], draft)
    together = run(tmp_path, [["a.py", "/a.py"], ["b.py", "/b.py"], ["b.py", "/b.py"]], draft)

    assert together.endswith(alone + alone)
