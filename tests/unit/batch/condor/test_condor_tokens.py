"""Tokens: found, decoded without trust, and what they say against themselves."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from jupyter_offload.batch.condor.tokens import complaints, decode, discover, missing_permissions, read_token
from jupyter_offload.errors import AuthFailed


def _jwt(**claims: object) -> str:
    def part(data: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(data).encode()).decode().rstrip("=")

    return f"{part({'alg': 'RS256'})}.{part(claims)}.c2ln"


WLCG = {"iss": "https://issuer", "wlcg.ver": "1.0", "sub": "u", "aud": "https://wlcg.cern.ch/jwt/v1/any"}


@pytest.mark.parametrize(
    ("claims", "missing"),
    [
        ({"iss": "pool", "sub": "alice@pool"}, ()),
        ({"iss": "pool", "scope": "condor:/READ"}, ("condor:/WRITE",)),
        ({"iss": "pool", "scope": "condor:/READ condor:/WRITE"}, ()),
        ({"iss": "https://i", "scope": "condor:/READ condor:/WRITE"}, ()),
        ({"iss": "https://i", "scope": "openid"}, ("condor:/READ", "condor:/WRITE")),
        ({**WLCG, "scope": "compute.read compute.create compute.modify compute.cancel"}, ()),
        ({**WLCG, "scope": "compute.create"}, ("compute.read", "compute.modify", "compute.cancel")),
        ({**WLCG, "scope": "compute.read:/ compute.create:/ compute.modify:/ compute.cancel:/"}, ()),
    ],
)
def test_permissions(claims: dict[str, object], missing: tuple[str, ...]) -> None:
    assert missing_permissions(decode(_jwt(**claims))) == missing


GOOD = {**WLCG, "scope": "compute.read compute.create compute.modify compute.cancel", "exp": 2000}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"exp": 900}, ["the token expired 1 m 40 s ago"]),
        ({"aud": "other.example:9619"}, ["the token is for other.example:9619, and this CE is ce.example:9619"]),
        ({"aud": ["x", "ce.example:9619"]}, []),
        ({"aud": "condor://ce.example"}, []),
        ({"scope": "compute.read"}, ["the token lacks compute.create, compute.modify, compute.cancel"]),
    ],
)
def test_a_token_complains_of_itself(changes: dict[str, object], words: list[str]) -> None:
    assert complaints(decode(_jwt(**{**GOOD, **changes})), "ce.example:9619", now=1000) == words


@pytest.mark.parametrize("text", ["", "abc", "a.b", "a.!!!.c", f"a.{base64.urlsafe_b64encode(b'[1]').decode()}.c"])
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(AuthFailed) as caught:
        decode(text)
    assert text not in caught.value.message or not text


def test_a_token_file_may_have_comments_and_is_named_when_it_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"# from the site\n\n{_jwt(iss='pool', sub='alice')}\n")
    assert read_token(path).subject == "alice"
    path.write_text("# nothing\n")
    with pytest.raises(AuthFailed, match="token is empty"):
        read_token(path)


def test_discovery_follows_the_wlcg_order(tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    assert discover({"XDG_RUNTIME_DIR": str(runtime)}, uid=4242424) is None
    (runtime / "bt_u4242424").write_text("x")
    assert discover({"XDG_RUNTIME_DIR": str(runtime)}, uid=4242424) == runtime / "bt_u4242424"
    named = tmp_path / "named"
    environ = {"XDG_RUNTIME_DIR": str(runtime), "BEARER_TOKEN_FILE": str(named)}
    assert discover(environ, uid=4242424) == runtime / "bt_u4242424"
    named.write_text("x")
    assert discover(environ, uid=4242424) == named
