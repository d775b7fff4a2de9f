"""The tokens that let us in: what a registry demands, and what its token service is asked.

By the distribution project's token and OAuth2 specifications: a 401 names a realm, the realm gives
a token for scopes, and the token lasts a minute or more.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from torchkiln.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchkiln.registry.credentials import Credential

_UNAUTHORIZED: Final = 401
_SHORTEST_LIFE: Final = 60  # seconds that a token lasts where none are told (token spec)
_RENEWED_AT: Final = 0.8  # of its life


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """How a registry wants to be asked: `scheme` is `basic` or `bearer`."""

    scheme: str
    realm: str = ""
    service: str = ""


@dataclass(frozen=True, kw_only=True)
class TokenRequest:
    """What the token service is asked; `data` is a form, None for a GET."""

    method: str
    url: str
    headers: dict[str, str]
    data: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What goes into `Authorization`, and for how many seconds before it is renewed."""

    header: str
    seconds: float


def challenge_of(status: int, demand: str) -> Challenge | None:
    """Return what a 401 demands in `WWW-Authenticate` (RFC 7235); None for an open registry."""
    if status != _UNAUTHORIZED:
        return None
    scheme, _, rest = demand.partition(" ")
    fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    return Challenge(
        scheme=scheme.lower(), realm=fields.get("realm", ""), service=fields.get("service", "")
    )


def token_request(
    challenge: Challenge, who: Credential | None, scopes: Sequence[str]
) -> TokenRequest:
    """Return what gives a token for `scopes`: to a user, to an identity token, or to anybody."""
    query = [("service", challenge.service), *(("scope", one) for one in scopes)]
    if who and who.identity_token:
        form = dict(query) | {
            "grant_type": "refresh_token",
            "refresh_token": who.identity_token,
            "client_id": "torchkiln",
            "scope": " ".join(scopes),
        }
        data = urlencode(form).encode()
        kind = "application/x-www-form-urlencoded"
        headers = {"Content-Type": kind, "Content-Length": str(len(data))}
        return TokenRequest(method="POST", url=challenge.realm, headers=headers, data=data)
    joint = "&" if "?" in challenge.realm else "?"
    return TokenRequest(
        method="GET",
        url=challenge.realm + joint + urlencode(query),
        headers={"Authorization": basic(who)} if who else {},
    )


def grant(challenge: Challenge, answer: bytes) -> Grant:
    """Return what the token service gave; an answer without a token raises `RegistryError`."""
    try:
        document = json.loads(answer)
        secret = document.get("token") or document.get("access_token")
        life = float(document.get("expires_in") or _SHORTEST_LIFE)
    except (ValueError, AttributeError, TypeError):
        secret, life = None, 0.0
    if not secret:
        what = f"the registry's token service gave no token: {challenge.realm}"
        raise RegistryError(what)
    return Grant(header=f"Bearer {secret}", seconds=max(life, 1.0) * _RENEWED_AT)


def basic(who: Credential) -> str:
    """Return `Authorization` for a user and a password (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{who.user}:{who.secret}".encode()).decode()
