"""A seccomp filter under which changing a file's owner succeeds and does nothing.

In a user namespace that maps one uid, dpkg's chown(2) to any other fails with EINVAL and ends the
installation. All owners become 0 in our layers anyway (facts: enroot, Apptainer and rootless Podman
map one uid), so the call may as well succeed. Charliecloud's `--force=seccomp` does the same
(Priedhorsky et al., "Zero-consistency root emulation for unprivileged container image build",
2024); unlike fakeroot it needs no daemon, no preloaded library and no second copy of libc.

Program format: struct sock_filter of <linux/filter.h>, data layout struct seccomp_data of
<linux/seccomp.h>.
"""

from __future__ import annotations

import platform
import struct
from typing import Final

from torchkiln.errors import HostError

_LOAD_WORD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_ALLOW: Final = 0x7FFF0000  # SECCOMP_RET_ALLOW
_ERRNO_ZERO: Final = 0x00050000  # SECCOMP_RET_ERRNO with errno 0: report success, do nothing
_NUMBER_OFFSET: Final = 0
_ARCH_OFFSET: Final = 4

# AUDIT_ARCH_* and the numbers of chown, fchown, lchown, fchownat (the newer Arm has two of them).
_CALLS: Final = {
    "x86_64": (0xC000003E, (92, 93, 94, 260)),
    "aarch64": (0xC00000B7, (55, 54)),
}


def ignore_chown(machine: str = "") -> bytes:
    """Return the compiled filter for `machine` (default: this one), ready for `bwrap --seccomp`."""
    machine = machine or platform.machine()
    if machine not in _CALLS:
        what = f"no system call table for this processor: {machine}"
        raise HostError(what, f"the base can be built on: {', '.join(sorted(_CALLS))}")
    arch, calls = _CALLS[machine]
    program = [
        (_LOAD_WORD, 0, 0, _ARCH_OFFSET),
        # A 32-bit call on a 64-bit kernel has other numbers: allow it untouched.
        (_JUMP_EQUAL, 0, len(calls) + 1, arch),
        (_LOAD_WORD, 0, 0, _NUMBER_OFFSET),
        *[(_JUMP_EQUAL, len(calls) - i, 0, number) for i, number in enumerate(calls)],
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO_ZERO),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
