"""Who we are to a registry: what `docker login` and `podman login` have left.

Docker's config.json (`auths`, `credsStore`, `credHelpers`) and containers-auth.json(5), whose
`auths` may be of a repository as well; the most specific one holds.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torchkiln.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torchkiln.registry.reference import Reference

_DOCKER_HUB: Final = "docker.io"
_HUB_KEYS: Final = ("https://index.docker.io/v1/", "index.docker.io", "docker.io")
_PATIENCE: Final = 30  # seconds for a helper
_IS_TOKEN: Final = "<token>"  # noqa: S105 - Docker's word for "the secret is an identity token"


@dataclass(frozen=True, kw_only=True)
class Credential:
    """A user with a password, or an identity token (OAuth2's refresh token). Never printed."""

    user: str = ""
    secret: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


def find(reference: Reference, environ: Mapping[str, str]) -> Credential | None:
    """Return the credential for the repository, None if there is none.

    A file that is no JSON, or a helper that fails, raises `RegistryError`: a pull that goes on
    without would be refused for a reason that nobody finds.
    """
    for path in _files(environ):
        if _is_there(path) and (found := _in_file(path, reference, environ)):
            return found
    return None


def _is_there(path: Path) -> bool:
    """Tell whether there is a file; none is in a folder that is closed to us."""
    try:
        return path.is_file()
    except PermissionError:
        return False


def _files(environ: Mapping[str, str]) -> Iterator[Path]:
    """Give the places of credentials, the first that has one holds."""
    home = Path(environ.get("HOME") or "/")
    if named := environ.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    yield Path(environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers/auth.json"
    yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json"


def _in_file(path: Path, reference: Reference, environ: Mapping[str, str]) -> Credential | None:
    try:
        document = json.loads(path.read_bytes())
        auths, helpers = document.get("auths") or {}, document.get("credHelpers") or {}
        keys = _keys(reference)
        helper = next((helpers[key] for key in keys if key in helpers), document.get("credsStore"))
        if helper and (found := _ask(helper, keys, environ)):
            return found
        return next((_decoded(auths[key]) for key in keys if auths.get(key)), None)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        what = f"the credentials file cannot be read: {path}"
        # Not the parser's words: they may quote what is in the file.
        raise RegistryError(
            what, type(error).__name__, f"docker login {reference.registry}"
        ) from None


def _keys(reference: Reference) -> list[str]:
    """Return the names under which a credential may be kept, the most specific first."""
    parts = reference.repository.split("/")
    below = ["/".join((reference.registry, *parts[:end])) for end in range(len(parts), 0, -1)]
    hosts = [reference.registry, f"https://{reference.registry}", f"http://{reference.registry}"]
    return [*below, *hosts, *(_HUB_KEYS if reference.registry == _DOCKER_HUB else ())]


def _decoded(entry: Mapping[str, Any]) -> Credential | None:
    """Return what an entry of `auths` holds; Docker leaves empty ones for its helpers."""
    try:
        text = base64.b64decode(entry.get("auth", ""), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise ValueError from None
    user, _, secret = text.partition(":")
    user, secret = entry.get("username") or user, entry.get("password") or secret.rstrip("\0")
    token = entry.get("identitytoken") or entry.get("registrytoken") or ""
    if not (user or token):
        return None
    return Credential(user=user, secret=secret, identity_token=token)


def _ask(helper: str, keys: list[str], environ: Mapping[str, str]) -> Credential | None:
    """Return what a credential helper has, by Docker's protocol: the server in, JSON out."""
    program = f"docker-credential-{helper}"
    for key in keys:
        try:
            done = subprocess.run(
                [program, "get"],
                input=key,
                env={**os.environ, **environ},
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            what = f"the credential helper does not work: {program}"
            why = (
                "it does not answer" if isinstance(error, subprocess.TimeoutExpired) else str(error)
            )
            raise RegistryError(what, why, f"{program} list") from None
        if done.returncode == 0:
            found = json.loads(done.stdout)
            if found["Username"] == _IS_TOKEN:
                return Credential(identity_token=found["Secret"])
            return Credential(user=found["Username"], secret=found["Secret"])
        if "not found" not in done.stdout + done.stderr:
            what = f"the credential helper failed: {program}"
            raise RegistryError(what, f"exit code {done.returncode}", f"{program} list")
    return None
