from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sandboxes import HOST, needs_sandbox
from wheels import CODE, SITE, Draft

from torchkiln.bytecode import _BATCH, Compiler
from torchkiln.errors import BuildError
from torchkiln.store import Store

if TYPE_CHECKING:
    from torchkiln.layer import Entry
    from torchkiln.wheel import Wheel

PYTHON = Path("/usr/bin/python3")
needs_python = pytest.mark.skipif(not PYTHON.exists(), reason=f"there is no {PYTHON} here")
pytestmark = [needs_sandbox, needs_python]


def tag() -> str:
    """Return major.minor of the Python that compiles."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.check_output([str(PYTHON), "-c", code], text=True).strip()


def compiled(folder: Path, wheel: Wheel, data: bytes, package: str = "1") -> dict[str, bytes]:
    """Return the bytecode of the wheel by path, as the host's Python makes it."""
    store = Store(folder / "store")
    assert wheel.locked.sha256 == store.put(data)
    compiler = Compiler(store=store, tree=lambda: HOST, python=tag(), package=package)
    entries = [entry for job in compiler.jobs(wheel) for entry in job()]
    return {entry.path: read(entry) for entry in entries}


def read(entry: Entry) -> bytes:
    assert entry.chunks
    return b"".join(entry.chunks())


def made(folder: Path, members: dict[str, bytes]) -> dict[str, bytes]:
    draft = Draft(members=members)
    data = draft.pack()
    return compiled(folder, draft.read(folder, data), data)


def cached(name: str) -> str:
    path = Path(SITE) / name
    return str(path.parent / "__pycache__" / f"{path.stem}.cpython-{tag().replace('.', '')}.pyc")


def source_hash(source: bytes) -> bytes:
    """Return the hash as the compiling Python makes it: its magic number is the key."""
    code = "import importlib.util, sys\nhash = importlib.util.source_hash(sys.stdin.buffer.read())"
    command = [str(PYTHON), "-c", f"{code}\nsys.stdout.buffer.write(hash)"]
    return subprocess.run(command, input=source, stdout=subprocess.PIPE, check=True).stdout


def test_each_module_gets_the_bytecode_that_python_looks_for(tmp_path: Path) -> None:
    found = made(tmp_path, {"demo/__init__.py": CODE, "demo/a.b.py": CODE, "top.py": b"x = 1\n"})

    assert {cached("demo/__init__.py"), cached("demo/a.b.py"), cached("top.py")} == set(found)


def test_bytecode_has_an_unchecked_hash_and_the_path_in_the_image(tmp_path: Path) -> None:
    """PEP 552: no clock in it, and no look at the source when it is imported."""
    data = made(tmp_path, {"demo/__init__.py": CODE})[cached("demo/__init__.py")]

    assert (1).to_bytes(4, "little") == data[4:8]
    assert source_hash(CODE) == data[8:16]
    assert f"/{SITE}/demo/__init__.py".encode() in data
    assert str(tmp_path).encode() not in data


def test_python_imports_the_bytecode_and_does_not_look_at_the_source(tmp_path: Path) -> None:
    data = made(tmp_path, {"demo.py": b"value = 42\n"})[cached("demo.py")]
    (tmp_path / "demo.py").write_text("value = 'changed later'\n")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / Path(cached("demo.py")).name).write_bytes(data)
    command = [str(PYTHON), "-c", "import demo; print(demo.value)"]

    assert b"42\n" == subprocess.check_output(command, cwd=tmp_path)


SETS = b"x = {'a', 'b', 'c'}\nif x in ({'d', 'e', 'f', 'g'}, frozenset('hijk')): pass\n" + b"".join(
    b"def f%d(a=%d): return a in {'p%d', 'q', 'r'}\n" % (i, i, i) for i in range(50)
)


def test_bytecode_is_the_same_under_any_hash_seed_of_the_builder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for seed in ("1", "2", "random"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        folder = tmp_path / seed
        folder.mkdir()
        found.append(made(folder, {f"demo/m{number}.py": SETS for number in range(20)}))

    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    "source",
    [
        b"print 'Python 2'\n",
        b"{{ template }} = \n",
        b"\xff\xfe\n",
        b"# coding: no-such-codec\n",
        b"x = '\0'\n",
        b"(" * 5000,
    ],
)
def test_module_that_does_not_compile_gets_none_and_the_others_do(
    tmp_path: Path, source: bytes
) -> None:
    found = made(tmp_path, {"demo/bad.py": source, "demo/good.py": CODE})

    assert {cached("demo/good.py")} == set(found)


def test_wheel_of_many_modules_is_compiled_in_fixed_parts(tmp_path: Path) -> None:
    draft = Draft(members={f"demo/m{number:04}.py": CODE for number in range(_BATCH + 1)})
    wheel = draft.read(tmp_path)
    compiler = Compiler(store=Store(tmp_path), tree=lambda: HOST, python=tag(), package="1")

    assert 2 == len(compiler.jobs(wheel))


def test_wheel_without_modules_takes_no_process(tmp_path: Path) -> None:
    assert {} == made(tmp_path, {"demo/data.txt": b""})


def test_bytecode_is_made_once_for_a_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = Draft()
    data = draft.pack()
    wheel = draft.read(tmp_path, data)
    first = compiled(tmp_path, wheel, data)
    monkeypatch.setattr("torchkiln.bytecode._run", lambda *_: pytest.fail("it was made again"))

    assert first == compiled(tmp_path, wheel, data)
    with pytest.raises(pytest.fail.Exception):
        compiled(tmp_path, wheel, data, package="2")


def test_failure_of_the_compiler_names_the_wheel_and_keeps_nothing(tmp_path: Path) -> None:
    draft = Draft()
    wheel = draft.read(tmp_path)
    store = Store(tmp_path / "store")
    store.blobs.mkdir(parents=True)
    store.blob(wheel.locked.sha256).write_bytes(b"no zip")
    compiler = Compiler(store=store, tree=lambda: HOST, python=tag(), package="1")

    with pytest.raises(BuildError, match=r"demo-1\.0.*\n.*BadZipFile|bytecode") as caught:
        compiler.jobs(wheel)[0]()
    assert draft.file in caught.value.what
    assert "BadZipFile" in caught.value.why
    assert not (store.root / "records").exists()
