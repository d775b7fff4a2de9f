"""Run by the image's Python: print each fault of the bytecode below the folders in the arguments.

Bytecode must be this Python's and of the source beside it (PEP 552), and every module that compiles
must have it: unchecked bytecode that is wrong would run unnoticed, and a read-only image never
caches what is missing.
"""

import importlib.util
import sys
import warnings
from pathlib import Path


def main(roots: list[str]) -> None:
    """Look at each module below `roots`."""
    warnings.simplefilter("ignore")  # SyntaxWarnings about other people's backslashes
    for root in roots:
        for source in sorted(Path(root).rglob("*.py")):
            if fault := _fault(source):
                print(f"{source}: {fault}")  # noqa: T201 - its result


def _fault(source: Path) -> str:
    """Return what is wrong with the bytecode of `source`, "" if nothing is."""
    data = source.read_bytes()
    bytecode = Path(importlib.util.cache_from_source(str(source)))
    if not bytecode.exists():
        return "has no bytecode" if _compiles(data, source) else ""
    with bytecode.open("rb") as stream:
        header = stream.read(16)
    if header[:4] != importlib.util.MAGIC_NUMBER:
        return "its bytecode is another Python's"
    if header[8:] != importlib.util.source_hash(data):
        return "its bytecode is of another source"
    return ""


def _compiles(data: bytes, source: Path) -> bool:
    try:
        compile(data, str(source), "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
