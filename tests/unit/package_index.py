"""Tiny real wheels, and an index of them in the form of PEP 691 for `servers.serving`."""

from __future__ import annotations

import base64
import ensurepip
import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from servers import page

if TYPE_CHECKING:
    from collections.abc import Iterable

    from servers import Behaviour

JSON = "application/vnd.pypi.simple.v1+json"
ANY = "py3-none-any"
LINUX = "cp311-cp311-manylinux_2_28_x86_64"


def wheel(
    name: str,
    version: str,
    tag: str = ANY,
    *,
    requires: Iterable[str] = (),
    files: dict[str, str] | None = None,
) -> tuple[str, bytes]:
    """Return the file name and the bytes of a wheel."""
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
    about = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"
    members = {**(files or {}), f"{info}/METADATA": metadata, f"{info}/WHEEL": about}
    rows = [f"{path},sha256={_encoded(text)},{len(text)}\n" for path, text in members.items()]
    members[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"])
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path, text in members.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return f"{name}-{version}-{tag}.whl", stream.getvalue()


def pip_wheel() -> Path:
    """Return the wheel of pip that Python brings; Debian keeps it in a folder of its own."""
    places = [Path(ensurepip.__file__).parent / "_bundled", Path("/usr/share/python-wheels")]
    return next(path for place in places for path in sorted(place.glob("pip-*.whl")))


def _encoded(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def torch(version: str, cuda: str | None, *requires: str) -> tuple[str, bytes]:
    """Return a wheel of torch that says it was built for `cuda`."""
    text = f"from typing import Optional\n\ncuda: Optional[str] = {cuda!r}\nhip = None\n"
    return wheel("torch", version, LINUX, requires=requires, files={"torch/version.py": text})


def index(*wheels: tuple[str, bytes], yanked: Iterable[str] = ()) -> dict[str, bytes | Behaviour]:
    """Return what an index at `/simple` serves: the files, and a page for each project."""
    files: dict[str, bytes | Behaviour] = {f"/files/{name}": data for name, data in wheels}
    # PEP 658: the metadata beside the wheel, so that no client needs ranges or HEAD.
    files |= {
        f"/files/{name}.metadata": _metadata(data) for name, data in wheels if _is_wheel(name)
    }
    projects: dict[str, list[dict[str, object]]] = {}
    for name, data in wheels:
        entry = {
            "filename": name,
            "url": f"../../files/{name}",
            "hashes": {"sha256": hashlib.sha256(data).hexdigest()},
            "size": len(data),
            "yanked": name in yanked,
            "core-metadata": _is_wheel(name),
        }
        projects.setdefault(name.partition("-")[0].replace("_", "-"), []).append(entry)
    for project, entries in projects.items():
        body = {"meta": {"api-version": "1.1"}, "name": project, "files": entries}
        files[f"/simple/{project}/"] = page(JSON, json.dumps(body))
    return files


def _is_wheel(name: str) -> bool:
    return name.endswith(".whl")


def _metadata(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        return archive.read(member)
