"""Compile modules to bytecode; run by the image's own Python, in both engines' builds.

    compile_modules.py PATH ...         files where they lie, each into its `__pycache__`
    compile_modules.py --wheel WHEEL    members of a wheel, to standard output

Standard library only, and nothing of Torchkiln. With `--wheel`, standard input is a JSON list of
[member, path]; for each, in that order, a line of path, tab and length and then the bytes of its
.pyc are written. The length is 0 where the source does not compile: wheels ship templates, and
modules for newer Pythons.

Always run with PYTHONHASHSEED=0: marshal writes sets in the order of their hashes. It also marks
objects by their reference counts (cpython#78274), so bytes can depend on what else the process
holds. Nothing here outlives its module, so it does not matter which modules share a process:
measured on all modules of torch 2.0.1 and 2.13.0, of 2 of which `compileall` makes other bytes.
"""

import importlib.util
import json
import marshal
import os
import sys
import warnings
import zipfile

UNCHECKED_HASH = (0b01).to_bytes(4, "little")  # PEP 552


def bytecode(source: bytes, path: str) -> bytes:
    """Return the .pyc of `source`, which will lie at `path`; b"" if it does not compile."""
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, RecursionError):
        return b""
    header = importlib.util.MAGIC_NUMBER + UNCHECKED_HASH + importlib.util.source_hash(source)
    return header + marshal.dumps(code)


def compile_files(paths: list[str]) -> None:
    """Compile each file beside itself."""
    for path in paths:
        with open(path, "rb") as stream:  # noqa: PTH123 - as few modules as possible
            data = bytecode(stream.read(), path)
        if data:
            target = importlib.util.cache_from_source(path)
            os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
            with open(target, "wb") as stream:  # noqa: PTH123
                stream.write(data)


def compile_members(wheel: str) -> None:
    """Compile what standard input lists from the file `wheel`."""
    members = json.load(sys.stdin)
    with zipfile.ZipFile(wheel) as archive:
        for member, path in members:
            data = bytecode(archive.read(member), path)
            sys.stdout.buffer.write(f"{path}\t{len(data)}\n".encode() + data)


def main(arguments: list[str]) -> None:
    """Compile what the arguments say."""
    warnings.simplefilter("ignore")  # SyntaxWarnings about other people's backslashes
    if arguments[0] == "--wheel":
        compile_members(arguments[1])
    else:
        compile_files(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
