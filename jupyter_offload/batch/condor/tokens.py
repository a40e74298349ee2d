"""Tokens as this machine sees them: where they lie and what they say, decoded locally and never verified here.

Only to explain refusals in words; the schedd decides. Sources: IDTOKENS are JWTs whose issuer is the pool's trust domain; SciTokens and
WLCG tokens have an ``https`` issuer. Discovery follows the WLCG Bearer Token Discovery document, as HTCondor does itself
(``BEARER_TOKEN``, ``BEARER_TOKEN_FILE``, ``$XDG_RUNTIME_DIR/bt_u<uid>``, ``/tmp/bt_u<uid>``).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jupyter_offload.errors import AuthFailed
from jupyter_offload.quantity import show_duration

__all__ = ["Token", "accepted_audiences", "complaints", "decode", "discover", "missing_permissions", "read_token"]

ANY_AUDIENCE = "https://wlcg.cern.ch/jwt/v1/any"


@dataclass(frozen=True)
class Token:
    """What a token says of itself."""

    text: str
    subject: str = ""
    issuer: str = ""
    scopes: tuple[str, ...] = ()
    audiences: tuple[str, ...] = ()
    expires: float | None = None
    """Seconds since the epoch."""
    wlcg: bool = False

    def __repr__(self) -> str:
        return f"Token({self.subject!r} of {self.issuer!r})"

    @property
    def bearer(self) -> bool:
        """Whether it is a SciToken or WLCG token (otherwise an IDTOKEN)."""
        return self.issuer.startswith("https://")

    @property
    def digest(self) -> str:
        """A digest that tells two tokens apart."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def decode(text: str) -> Token:
    """Return what the JWT says, without checking its signature. Raises `AuthFailed` when it is no JWT."""
    parts = text.split(".")
    try:
        if len(parts) != 3:
            raise ValueError("not three parts")
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        claims = json.loads(base64.urlsafe_b64decode(padded))
        if not isinstance(claims, dict):
            raise ValueError("claims are no object")
    except (ValueError, binascii.Error) as error:
        raise AuthFailed(
            "the token is not a JSON web token",
            hint="Give the file of an HTCondor IDTOKEN, a SciToken or a WLCG token as `token_file`.",
        ) from error
    audience = claims.get("aud", ())
    expires = claims.get("exp")
    return Token(
        text=text,
        subject=str(claims.get("sub", "")),
        issuer=str(claims.get("iss", "")),
        scopes=tuple(str(claims.get("scope", "")).split()),
        audiences=(audience,) if isinstance(audience, str) else tuple(str(item) for item in audience),
        expires=float(expires) if isinstance(expires, (int, float)) else None,
        wlcg="wlcg.ver" in claims,
    )


def read_token(path: Path) -> Token:
    """Return the token in a file (the first line that is not empty or a comment). Raises `AuthFailed`, naming the file."""
    try:
        lines = path.expanduser().read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AuthFailed(
            f"the token file {path} cannot be read: {error}",
            hint="Put a token there that only you can read (mode 0600), or correct `token_file` in sites.yaml.",
        ) from error
    text = next((line.strip() for line in lines if line.strip() and not line.startswith("#")), "")
    if not text:
        raise AuthFailed(f"the token file {path} is empty", hint="Fetch a new token into it.")
    try:
        return decode(text)
    except AuthFailed as error:
        raise AuthFailed(f"{path}: {error.message}", hint=error.hint) from error


def discover(environ: Mapping[str, str], *, uid: int | None = None) -> Path | None:
    """Return the file of the user's bearer token by the WLCG discovery order, or ``None``.

    A token in ``BEARER_TOKEN`` itself is left out: it has no file that can be replaced when it expires.
    """
    user = os.getuid() if uid is None else uid
    places = [environ.get("BEARER_TOKEN_FILE"), environ.get("SCITOKENS_FILE")]
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        places.append(f"{runtime}/bt_u{user}")
    places.append(f"/tmp/bt_u{user}")  # noqa: S108  the place that the discovery document names
    return next((Path(place) for place in places if place and Path(place).is_file()), None)


def missing_permissions(token: Token) -> tuple[str, ...]:
    """Return the scopes that a bearer token lacks to submit and manage jobs; empty for an IDTOKEN without limits.

    A SciToken needs ``condor:/READ`` and ``condor:/WRITE``; a WLCG token ``compute.read`` and all of ``compute.create``,
    ``compute.modify`` and ``compute.cancel`` (HTCondor grants WRITE only for the three together). An IDTOKEN without scopes has all of
    its identity's rights.
    """
    have = {scope.split(":/")[0] if scope.startswith("compute.") else scope for scope in token.scopes}
    if not token.bearer and not any(scope.startswith("condor:/") for scope in have):
        return ()
    if token.wlcg or any(scope.startswith("compute.") for scope in have):
        needed: tuple[str, ...] = ("compute.read", "compute.create", "compute.modify", "compute.cancel")
    else:
        needed = ("condor:/READ", "condor:/WRITE")
    return tuple(scope for scope in needed if scope not in have)


def accepted_audiences(collector: str | None) -> tuple[str, ...]:
    """Return the audiences that a CE at this address accepts.

    Its own ``host:port`` by default, ``condor://host`` as the WLCG profile proposes, and the profile's wildcard.
    """
    address = collector or ""
    host = address.rsplit(":", 1)[0]
    return (address, f"condor://{host}", f"condor://{address}", ANY_AUDIENCE)


def complaints(token: Token, ce: str | None = None, *, now: float | None = None) -> list[str]:
    """Return in words what the token itself says against being accepted: expired, for another audience, without a scope.

    ``ce``: the address of the CE that it is for, when it is for one.
    """
    said = []
    moment = time.time() if now is None else now
    if token.expires is not None and token.expires <= moment:
        ago = show_duration(moment - token.expires)
        said.append(f"the token expired {ago} ago")
    if ce is not None and token.bearer and token.audiences and not set(token.audiences) & set(accepted_audiences(ce)):
        said.append(f"the token is for {', '.join(token.audiences)}, and this CE is {ce}")
    missing = missing_permissions(token)
    if missing:
        said.append(f"the token lacks {', '.join(missing)}")
    return said
