from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from sandboxes import host, needs_sandbox, output

from torchkiln.errors import HostError
from torchkiln.sandbox import Mount
from torchkiln.seccomp import ignore_chown

if TYPE_CHECKING:
    from pathlib import Path

ALLOW, ZERO = 0x7FFF0000, 0x00050000


def verdict(program: bytes, arch: int, number: int) -> int:
    """Run the filter over one system call as the kernel does (BPF in <linux/filter.h>)."""
    data = {0: number, 4: arch}
    code = list(struct.iter_unpack("=HBBI", program))
    place = accumulator = 0
    while True:
        operation, true, false, value = code[place]
        if operation == 0x06:
            return int(value)
        if operation == 0x20:
            accumulator = data[value]
            place += 1
        else:
            place += 1 + (true if accumulator == value else false)


# From the kernel's tables: chown, fchown, lchown, fchownat; read, fchmod, execve beside them.
@pytest.mark.parametrize(
    ("machine", "arch", "ignored", "allowed"),
    [
        ("x86_64", 0xC000003E, [92, 93, 94, 260], [0, 90, 91, 95, 259, 261, 59]),
        ("aarch64", 0xC00000B7, [54, 55], [0, 52, 53, 56, 92, 93, 94, 221]),
    ],
)
def test_filter_ignores_each_chown_and_nothing_else(
    machine: str, arch: int, ignored: list[int], allowed: list[int]
) -> None:
    program = ignore_chown(machine)

    assert {ZERO} == {verdict(program, arch, number) for number in ignored}
    assert {ALLOW} == {verdict(program, arch, number) for number in allowed}
    # i386's numbers of the same calls are other calls'.
    assert {ALLOW} == {verdict(program, 0x40000003, number) for number in ignored}


def test_processor_without_a_table_is_refused_by_name() -> None:
    with pytest.raises(HostError, match="riscv64"):
        ignore_chown("riscv64")


CHOWN = """
import os
for call in (lambda: os.chown("/tmp/x", 7, 7), lambda: os.lchown("/tmp/x", 7, 7),
             lambda: os.fchown(os.open("/tmp/x", 0), 7, 7),
             lambda: os.chown("x", 7, 7, dir_fd=os.open("/tmp", 0))):
    try:
        call()
        print("done", os.stat("/tmp/x").st_uid)
    except OSError as error:
        print("failed", error.errno)
"""


@needs_sandbox
@pytest.mark.parametrize(("ignore", "expected"), [(True, "done 0"), (False, "failed 22")])
def test_chown_succeeds_and_does_nothing_only_with_the_filter(
    tmp_path: Path, *, ignore: bool, expected: str
) -> None:
    (tmp_path / "chown.py").write_text(CHOWN)
    mounts = (Mount(source=tmp_path / "chown.py", target="/run/chown.py"),)
    sandbox = host(ignore_chown=ignore, mounts=mounts)

    assert [expected] * 4 == output(sandbox, "touch /tmp/x; python3 /run/chown.py").splitlines()
