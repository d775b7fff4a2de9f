"""`kiln` on a copy of the project, whose requirements are one small wheel called `invoke`."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from sandboxes import without_namespaces

from torchkiln import bootstrap
from torchkiln.bundle_source import requirements
from torchkiln.errors import HostError

PROJECT = Path(__file__).resolve().parents[2]
LOCKS = PROJECT / "envs/kiln"
INVOKE = "import sys\ndef main():\n    print(*sys.argv[1:], sep='|')\n"
MAKING = "Making `.venv` with Python"


class Clone:
    """A copy of the project, and a package index in a folder that pip is configured for."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "the clone"
        self.wheels = folder / "wheels"
        self.wheels.mkdir(parents=True)
        shutil.copytree(PROJECT / "torchkiln", self.root / "torchkiln")
        shutil.copy2(PROJECT / "kiln", self.root)
        self.env = {
            "HOME": str(folder),
            "PATH": os.environ["PATH"],
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_NO_INDEX": "1",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_USER": "1",  # as some have in pip.conf; pip refuses it in a virtual environment
            "TORCHKILN_PYTHON": str(Path(sys.executable).resolve()),
        }
        self.require("1.0")

    def require(self, version: str) -> None:
        """Publish `invoke` at `version` and lock it."""
        wheel = self.wheels / f"invoke-{version}-py3-none-any.whl"
        info = f"invoke-{version}.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("invoke_main.py", INVOKE)
            archive.writestr(f"{info}/METADATA", f"Name: invoke\nVersion: {version}\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
            script = "[console_scripts]\ninvoke = invoke_main:main\n"
            archive.writestr(f"{info}/entry_points.txt", script)
            archive.writestr(f"{info}/RECORD", "")
        path = self.root / "envs/kiln/requirements.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
        path.write_text(f"invoke=={version} --hash=sha256:{sha256}\n")

    def start(self, *arguments: str, cwd: Path = Path("/")) -> subprocess.Popen[str]:
        """Run in the background, in a process group of its own."""
        kiln = os.path.relpath(self.root / "kiln", cwd)
        return subprocess.Popen(
            [kiln, *arguments],
            cwd=cwd,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def kiln(self, *arguments: str, cwd: Path = Path("/")) -> tuple[int, str, str]:
        """Run to the end; return exit code, stdout, stderr."""
        process = self.start(*arguments, cwd=cwd)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def installed(self) -> list[str]:
        """Return which `invoke` the environment holds."""
        found = self.root.glob(".venv/lib/python3.*/site-packages/invoke-*.dist-info")
        return [path.name for path in found]

    def answer(self, *arguments: str) -> tuple[int, str, str]:
        """Return what a `kiln` that works silently gives for these arguments."""
        return 0, "|".join(["--write-pyc", "--search-root", str(self.root), *arguments]) + "\n", ""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone whose `.venv` is made; for tests that change nothing."""
    clone = Clone(tmp_path_factory.mktemp("made"))
    assert MAKING in clone.kiln("--version")[2]
    return clone


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A fresh clone."""
    return Clone(tmp_path)


@pytest.fixture
def settled(made: Clone, clone: Clone) -> Clone:
    """A clone of the test's own that trusts its `.venv`."""
    shutil.copytree(made.root / ".venv", clone.root / ".venv", symlinks=True)
    stamp = clone.root / ".venv/.stamp"
    stamp.write_text(stamp.read_text().replace(str(made.root), str(clone.root)))
    return clone


def test_the_second_use_is_silent(made: Clone) -> None:
    assert made.answer("build", "--cpu") == made.kiln("build", "--cpu")


def test_arguments_arrive_as_they_were_typed(made: Clone) -> None:
    typed = ("run", "--", "a b", "*", "", "$HOME")

    assert made.answer(*typed) == made.kiln(*typed)


@pytest.mark.parametrize(("task", "code"), [("pull", 0), ("export", 0), ("--list", 0), ("run", 10)])
def test_what_starts_no_image_needs_no_user_namespaces_from_the_first_use_on(
    clone: Clone, task: str, code: int
) -> None:
    command = without_namespaces(str(clone.root / "kiln"), task)
    done = subprocess.run(command, env=clone.env, capture_output=True, text=True, check=False)

    assert code == done.returncode, done.stderr
    assert (code == 10) == ("`user.max_user_namespaces` is 0" in done.stderr)


def test_no_arguments_list_the_tasks(made: Clone) -> None:
    assert made.answer("--list") == made.kiln()


def test_kiln_works_from_any_folder_and_through_a_link(made: Clone, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(made.root / "kiln")

    from_inside = made.kiln("x", cwd=made.root / "torchkiln")
    through_link = subprocess.run(
        ["./link", "x"], cwd=tmp_path, env=made.env, stdout=-1, check=True
    )

    assert made.answer("x") == from_inside
    assert made.answer("x")[1] == through_link.stdout.decode()


@pytest.mark.parametrize("variable", ["PYTHONPATH", "PYTHONHOME"])
def test_foreign_python_settings_do_not_get_in(made: Clone, tmp_path: Path, variable: str) -> None:
    (tmp_path / "invoke_main.py").write_text("raise SystemExit('foreign')")
    clone = Clone(tmp_path / "copy")
    clone.root, clone.env = made.root, {**made.env, variable: str(tmp_path)}

    assert made.answer("x") == clone.kiln("x")


def test_the_doctor_runs_before_there_is_any_environment(clone: Clone, tmp_path: Path) -> None:
    """It looks at machines where none can be made; what it looks at includes PYTHONPATH."""
    clone.env["PYTHONPATH"] = str(tmp_path)
    code, out, err = clone.kiln("doctor", "--offline", "--json")
    found = {one["id"]: one for one in json.loads(out)["findings"]}
    assert code == json.loads(out)["exit_code"]
    assert err == ""
    assert found["pythonpath"]["verdict"] == "ok"
    assert not (clone.root / ".venv").exists()


def test_changed_requirements_make_the_environment_anew(settled: Clone) -> None:
    settled.require("2.0")

    _, _, err = settled.kiln()

    assert MAKING in err
    assert ["invoke-2.0.dist-info"] == settled.installed()


def test_a_moved_clone_gets_an_environment_that_works(settled: Clone) -> None:
    """Scripts of a virtual environment hold the path of its Python."""
    settled.root = settled.root.rename(settled.root.with_name("moved"))

    code, out, err = settled.kiln("x")

    assert MAKING in err
    assert settled.answer("x")[:2] == (code, out)


def test_a_python_that_is_gone_makes_the_environment_anew(settled: Clone) -> None:
    """As after an upgrade of the distribution."""
    (settled.root / ".venv/bin/python").unlink()
    (settled.root / ".venv/bin/python").symlink_to("/usr/bin/python3.9999")

    code, out, err = settled.kiln("x")

    assert MAKING in err
    assert settled.answer("x")[:2] == (code, out)


@pytest.mark.parametrize("milestone", ["pyvenv.cfg", "bin/invoke"])
def test_an_environment_killed_in_the_making_is_not_trusted(clone: Clone, milestone: str) -> None:
    process = clone.start("x")
    while process.poll() is None and not (clone.root / ".venv" / milestone).exists():
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (clone.root / ".venv/.stamp").exists()

    code, out, err = clone.kiln("x")

    assert clone.answer("x")[:2] == (code, out)
    assert MAKING in err


def test_two_first_uses_at_once_make_one_environment(clone: Clone) -> None:
    processes = [clone.start("x"), clone.start("x")]

    results = [process.communicate(timeout=60) for process in processes]

    assert [clone.answer("x")[1]] * 2 == [out for out, _ in results]
    assert 1 == sum(MAKING in err for _, err in results)


def test_a_step_that_outlives_kiln_is_waited_for(clone: Clone) -> None:
    """Where only the parent was killed, its child still writes to `.venv`."""
    process = clone.start("x")
    while not (clone.root / ".venv/pyvenv.cfg").exists():
        time.sleep(0.001)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    os.kill(int(children), signal.SIGKILL)

    code, out, err = clone.kiln("x")

    assert "Waiting for another `kiln`" in err
    assert clone.answer("x")[:2] == (code, out)
    process.communicate()


@pytest.mark.parametrize("lock", ["invoke==1.0 --hash=sha256:" + "0" * 64, "invoke==1.0"])
def test_a_wheel_that_is_not_locked_by_its_hash_is_refused(clone: Clone, lock: str) -> None:
    (clone.root / "envs/kiln/requirements.txt").write_text(f"{lock}\n")

    code, _, err = clone.kiln()

    assert 10 == code
    assert "error: the environment cannot be made: `.venv`\n" in err
    assert "hashes" in err.lower()
    assert "\n\nhint: " in err
    assert [] == clone.installed()


REDIRECTING = {
    "target": "elsewhere",
    "prefix": "elsewhere",
    "root": "elsewhere",
    "dry-run": "1",
    "report": "elsewhere",
    "ignore-installed": "1",
    "no-deps": "1",
    "requirement": "elsewhere",
    "constraint": "elsewhere",
    "editable": "elsewhere",
    "platform": "win32",
    "no-binary": ":all:",
    "quiet": "3",
}


@pytest.mark.parametrize("name", ["target", "prefix", "root", "dry-run", ""])
def test_pip_settings_that_lead_elsewhere_do_not_count(
    clone: Clone, tmp_path: Path, name: str
) -> None:
    """Each alone in the environment, and all of them in a pip.conf."""
    named = {key: str(tmp_path / "elsewhere") for key in REDIRECTING} | {
        key: value for key, value in REDIRECTING.items() if value != "elsewhere"
    }
    if name:
        clone.env[f"PIP_{name.upper().replace('-', '_')}"] = named[name]
    else:
        lines = (f"{key} = {value}\n" for key, value in named.items())
        (tmp_path / "pip.conf").write_text("".join(["[install]\n", *lines]))
        clone.env["PIP_CONFIG_FILE"] = str(tmp_path / "pip.conf")

    code, out, err = clone.kiln("x")

    assert clone.answer("x")[:2] == (code, out), err
    assert ["invoke-1.0.dist-info"] == clone.installed()
    assert not (tmp_path / "elsewhere").exists()


def test_the_wheels_of_a_bundle_come_by_the_same_rule(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**clone.env, "PIP_REQUIREMENT": "/nonexistent"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "out").mkdir()

    (wheel,) = requirements(clone.root, tmp_path / "out")

    assert "invoke-1.0-py3-none-any.whl" == wheel.name


def test_a_pip_that_installs_nothing_is_told_and_not_trusted(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the rule above: a setting that came through all the same."""
    through = {**clone.env, "PIP_DRY_RUN": "1"}
    monkeypatch.setattr("torchkiln.pipconf.only_fetching", lambda *_: through)

    with pytest.raises(HostError) as caught:
        bootstrap.prepare(clone.root, "stamp", clone.env)

    assert "pip reported success, but packages are missing from `.venv`" == caught.value.what
    assert "invoke==1.0" in caught.value.why
    assert "PIP_DRY_RUN" in caught.value.why
    assert not (clone.root / ".venv/.stamp").exists()


def test_an_environment_without_the_program_is_not_trusted(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "_install", lambda *_: None)

    with pytest.raises(HostError) as caught:
        bootstrap.prepare(clone.root, "stamp", clone.env)

    assert f"not found: {clone.root}/.venv/bin/invoke" in caught.value.why
    assert not (clone.root / ".venv/.stamp").exists()


@pytest.mark.parametrize("there", [True, False], ids=["folder", "dangling"])
def test_a_venv_that_is_a_link_is_refused_and_never_emptied(clone: Clone, there: bool) -> None:  # noqa: FBT001
    own = clone.root.parent / "my own"
    if there:
        (own / "work").mkdir(parents=True)
        (own / ".stamp").write_text("mine")
    (clone.root / ".venv").symlink_to(own)

    code, _, err = clone.kiln("x")

    assert 10 == code
    assert f"error: cannot use a symbolic link as `.venv`: {clone.root}/.venv -> {own}\n" in err
    assert f"\n\nhint: rm '{clone.root}/.venv'\n" in err
    left = sorted(path.name for path in own.iterdir()) if own.exists() else []
    assert ([".stamp", "work"] if there else []) == left


def test_a_python_too_old_is_named_before_any_work(clone: Clone) -> None:
    old = clone.root.parent / "python3.9"
    old.write_text("#!/bin/sh\necho 3.9.2\nexit 1\n")
    old.chmod(0o755)
    clone.env["TORCHKILN_PYTHON"] = str(old)

    code, _, err = clone.kiln()

    assert 10 == code
    assert err.startswith(f"error: Torchkiln needs Python 3.10 to 3.14\n  tried: {old} 3.9.2\n")
    assert "\n\nhint: " in err
    assert not (clone.root / ".venv").exists()


def test_a_newer_python_is_found_beside_one_too_old(clone: Clone, tmp_path: Path) -> None:
    """`python3` comes first, then those that carry their version in their name."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("cat", "dirname", "readlink", "sh", "sha256sum"):
        (programs / name).symlink_to(shutil.which(name) or name)
    answers = {"python3": "echo 3.6.8; exit 1", "python3.12": f"echo {programs}/found"}
    for name, script in (answers | {"found": "echo found; exit 3"}).items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    clone.env = {"PATH": str(programs)}

    assert (3, "found\n", "") == clone.kiln()


def test_a_python_without_ensurepip_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Debian without python3-venv."""
    monkeypatch.setitem(sys.modules, "ensurepip", None)

    with pytest.raises(HostError) as caught:
        bootstrap.prepare(tmp_path, "stamp", os.environ)

    assert "no module `ensurepip`" in caught.value.what
    assert f"python3.{sys.version_info.minor}-venv" in caught.value.hint
    assert [] == list(tmp_path.iterdir())


def test_a_disk_too_full_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "VENV_BYTES", 10**18)

    with pytest.raises(HostError) as caught:
        bootstrap.prepare(tmp_path, "stamp", os.environ)

    assert f"too little disk space: {tmp_path / '.venv'}" == caught.value.what
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["requirements.txt", "dev-requirements.txt", "conda-requirements.txt"]
)
def test_the_locks_name_no_place(name: str) -> None:
    """Where packages come from is what the user's pip is configured for."""
    assert "://" not in (LOCKS / name).read_text()


def test_the_locks_hold_what_pyproject_asks_for() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML")
    asked = tomllib.loads((PROJECT / "pyproject.toml").read_text())

    runtime, dev = pins("requirements.txt"), pins("dev-requirements.txt")

    named = [re.match(r"[\w-]+", line) for line in asked["project"]["dependencies"]]
    assert set() == {match[0] for match in named if match} - runtime.keys()
    groups = asked["dependency-groups"]
    assert set() == {name for name in groups["dev"] if isinstance(name, str)} - dev.keys()
    assert [name.partition(">")[0] for name in groups["conda"]] == [*pins("conda-requirements.txt")]


def test_the_locks_agree() -> None:
    """All of them go into one environment."""
    runtime, dev = pins("requirements.txt"), pins("dev-requirements.txt")
    conda = pins("conda-requirements.txt")

    assert {} == {name: dev[name] for name in runtime.keys() & dev if runtime[name] != dev[name]}
    assert conda == {name: dev[name] for name in conda}


def pins(name: str) -> dict[str, str]:
    lines = (LOCKS / name).read_text().splitlines()
    found = (
        line.split(maxsplit=1)[0].partition("==") for line in lines if "==" in line.split(" ")[0]
    )
    return {package: version for package, _, version in found}


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_an_error_with_a_way_out(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / "a b").mkdir()
    with pytest.raises(HostError, match=r"cannot be made: `\.venv`") as caught:
        bootstrap.prepare(tmp_path / "a b", "stamp", os.environ)

    assert f"its file system does not support flock: {tmp_path}/a b/.venv" == caught.value.why
    assert f"`cp -r '{tmp_path}/a b' /path`" in caught.value.hint
