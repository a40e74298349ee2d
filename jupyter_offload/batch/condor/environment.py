"""What a worker process gets: an environment built from nothing, and a private folder with the one token it may use.

The environment of a server is full of secrets and of settings for other programs; `_CONDOR_*` variables, a user configuration or a default
token directory could make a worker act as somebody else. So nothing is inherited but what is named here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jupyter_offload
from jupyter_offload.batch.condor.config import CondorConfig
from jupyter_offload.batch.condor.tokens import Token, discover, read_token

__all__ = ["Identity", "identity_key", "prepare", "token_source"]

_PREFIX = "jupyter-offload-condor-"
_SYSTEM_VARIABLES = (
    "CONDOR_CONFIG",
    "KRB5CCNAME",
    "KRB5_CONFIG",
    "X509_CERT_DIR",
    "X509_USER_PROXY",
    "USER",
    "LOGNAME",
)
"""Inherited with ``condor_config: system`` only: they say who the user is."""
_CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


@dataclass(frozen=True)
class Identity:
    """Who a set of workers is: two that are not equal never share a worker."""

    key: str
    environment: Mapping[str, str]
    folder: Path
    token: Token | None

    def discard(self) -> None:
        """Delete the private copy of the token."""
        shutil.rmtree(self.folder, ignore_errors=True)


def token_source(config: CondorConfig, environ: Mapping[str, str]) -> Path | None:
    """Return the file that the token is to be read from now, or ``None`` when there is none."""
    if config.token_file is not None:
        return config.token_file.expanduser()
    return discover(environ) if config.type == "condor-ce" else None


def identity_key(config: CondorConfig, token: Token | None) -> str:
    """Return what tells two identities apart: the schedd and the token, not its file name."""
    return f"{config.collector}|{config.schedd}|{config.condor_config}|{token.digest if token else ''}"


def prepare(config: CondorConfig, environ: Mapping[str, str]) -> Identity:
    """Return a new identity: its environment and its private folder (0700) with a copy of the token (0600).

    The copy makes one identity of one process: a token that is replaced in place gives a new identity, never a worker that is half the
    one and half the other. Raises `AuthFailed` when the token cannot be read.
    """
    source = token_source(config, environ)
    token = read_token(source) if source is not None else None
    _sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    folder.chmod(0o700)
    environment = {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HOME": environ.get("HOME", "/"),
        "PYTHONPATH": str(Path(jupyter_offload.__file__).parents[1]),
        "_CONDOR_QUERY_TIMEOUT": str(int(config.query_seconds)),
        # By default the client may ask on the terminal whether to trust a server.
        "_CONDOR_BOOTSTRAP_SSL_SERVER_TRUST_PROMPT_USER": "false",
    }
    certificates = config.ca_file or next((Path(place) for place in _CERTIFICATES if Path(place).is_file()), None)
    if certificates is not None:
        # The wheels' OpenSSL looks in Red Hat's place, which other systems do not have.
        environment["_CONDOR_AUTH_SSL_CLIENT_CAFILE"] = str(certificates)
    if config.condor_config == "system":
        environment.update({name: environ[name] for name in _SYSTEM_VARIABLES if name in environ})
    else:
        environment["CONDOR_CONFIG"] = "ONLY_ENV"
        environment["_CONDOR_SEC_CLIENT_AUTHENTICATION"] = "REQUIRED"
        # Job inputs travel in this connection, secrets among them.
        environment["_CONDOR_SEC_CLIENT_ENCRYPTION"] = "REQUIRED"
        environment["_CONDOR_SEC_CLIENT_INTEGRITY"] = "REQUIRED"
        environment["_CONDOR_SEC_TOKEN_DIRECTORY"] = str(folder / "tokens")
        environment["_CONDOR_SEC_TOKEN_SYSTEM_DIRECTORY"] = str(folder / "tokens")
        # Root could mint a token from a pool password that lies on this machine.
        environment["_CONDOR_SEC_PASSWORD_DIRECTORY"] = str(folder / "tokens")
        environment["_CONDOR_SEC_CLIENT_AUTHENTICATION_METHODS"] = "IDTOKENS"
        (folder / "tokens").mkdir(mode=0o700)
    if token is not None:
        _place_token(folder, token, environment)
    return Identity(identity_key(config, token), environment, folder, token)


def _place_token(folder: Path, token: Token, environment: dict[str, str]) -> None:
    if token.bearer:
        copy = folder / "bearer"
        environment["BEARER_TOKEN_FILE"] = str(copy)
        environment["_CONDOR_SCITOKENS_FILE"] = str(copy)
        environment["_CONDOR_SEC_CLIENT_AUTHENTICATION_METHODS"] = "SCITOKENS"
    else:
        (folder / "tokens").mkdir(mode=0o700, exist_ok=True)
        copy = folder / "tokens" / "token"
        environment["_CONDOR_SEC_TOKEN_DIRECTORY"] = str(folder / "tokens")
    descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token.text + "\n")


def _sweep(place: Path) -> None:
    """Remove token copies that killed processes of this user left behind; their folders are named after the process."""
    for left in place.glob(f"{_PREFIX}*-*"):
        pid = left.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            if pid.isdigit() and left.stat().st_uid == os.getuid() and not left.is_symlink() and not _lives(int(pid)):
                shutil.rmtree(left)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
