from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchkiln.fatbin import device_code

PTX, ELF = 1, 2


def entry(kind: int, arch: int, payload: bytes = b"x" * 24) -> bytes:
    """Return an entry as nvcc writes it: a header of 64 bytes, then the payload."""
    head = struct.pack("<HHIQ12xI", kind, 0x101, 64, len(payload), arch)
    return head.ljust(64, b"\0") + payload


def container(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def test_what_most_containers_hold_is_what_the_library_is_for() -> None:
    common = [entry(ELF, 75), entry(ELF, 80), entry(ELF, 120)]
    data = b"\x7fELF" + container(*common) * 3 + b"--" + container(*common, entry(ELF, 89))

    assert device_code(data).machine == ((7, 5), (8, 0), (12, 0))


def test_ptx_is_told_from_machine_code() -> None:
    found = device_code(container(entry(ELF, 90), entry(PTX, 90)))

    assert (((9, 0),), ((9, 0),)) == (found.machine, found.ptx)


def test_a_library_without_device_code_holds_none() -> None:
    assert device_code(b"\x7fELF" + bytes(100)).machine == ()


@pytest.mark.parametrize("cut", [1, 20, 40, 90])
def test_a_container_that_is_cut_off_is_none(cut: int) -> None:
    assert device_code(container(entry(ELF, 80))[:-cut]).machine == ()


def test_the_magic_by_chance_is_passed_over() -> None:
    chance = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, 1 << 40)

    assert device_code(chance + container(entry(ELF, 86))).machine == ((8, 6),)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_no_bytes_make_it_fail_or_hang(before: bytes, within: bytes) -> None:
    device_code(before + container(within) + within)
