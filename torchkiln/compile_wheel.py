"""Compile the modules of one wheel; run by the image's own Python, in the sandbox.

Standard library only, and nothing of Torchkiln. Standard input is a JSON list of [member, path];
for each, in that order, a line of path, tab and length and then the bytes of its .pyc go to
standard output. The length is 0 where the source does not compile: wheels ship templates, and
modules for newer Pythons.

Always run in a fresh process with PYTHONHASHSEED=0 over a fixed list: marshal marks objects by
their reference counts (cpython#78274) and writes sets in the order of their hashes, so the bytes
depend on what the process did before.
"""

import importlib.util
import json
import marshal
import sys
import warnings
import zipfile

UNCHECKED_HASH = (0b01).to_bytes(4, "little")  # PEP 552


def compile_member(archive: zipfile.ZipFile, member: str, path: str) -> bytes:
    """Return the .pyc of `member`, which will lie at `path`; b"" if it does not compile."""
    source = archive.read(member)
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, RecursionError):
        return b""
    header = importlib.util.MAGIC_NUMBER + UNCHECKED_HASH + importlib.util.source_hash(source)
    return header + marshal.dumps(code)


def main(wheel: str) -> None:
    """Compile what standard input lists from the file `wheel`."""
    warnings.simplefilter("ignore")  # SyntaxWarnings about other people's backslashes
    members = json.load(sys.stdin)
    with zipfile.ZipFile(wheel) as archive:
        for member, path in members:
            data = compile_member(archive, member, path)
            sys.stdout.buffer.write(f"{path}\t{len(data)}\n".encode() + data)


if __name__ == "__main__":
    main(sys.argv[1])
