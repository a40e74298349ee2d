r"""Bundles: one file with a plain JSON header and the parts behind it.

The same format carries a submission from the kernel to the service, the input of the runner, and the result back::

    offload-bundle 1\n
    {"format": 1, "python": "3.11", …, "parts": [{"role", "name", "codec", "size", "sha256", "meta"}, …], "hmac": "…"}\n
    <the parts' bytes, one after the other>

A reader checks structure, sizes and (for results) the signature over the header's exact bytes before anything else; the bytes of a part
are compared with their checksum before they are handed out. The primitives live in the runner, which has to read bundles without us.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jupyter_offload.errors import (
    FileRefused,
    OffloadError,
    ResultTampered,
    ResultTooLarge,
    ResultUnavailable,
    UsageError,
)
from jupyter_offload.job import Request
from jupyter_offload.payload import runner

__all__ = ["Buffer", "Bundle", "BundleWriter", "Part"]

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Part:
    """One thing in a bundle, as the header describes it."""

    role: str
    """``value``, ``arg``, ``kwarg``, ``function``, ``source``, ``module``, ``file``, ``secret``, ``outputs`` or ``notebook``."""
    name: str
    codec: str
    size: int
    sha256: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    offset: int = 0
    """Where its bytes begin in the file; set by the reader."""

    @property
    def python_bound(self) -> bool:
        """Whether only the same Python minor may open it."""
        return bool(self.meta.get("python_bound"))


class BundleWriter:
    """Collects parts and writes the bundle at once when it is closed: complete under its name, or not at all.

    Buffers are kept, not copied, until then: do not change them. Files are read twice, for the checksum and for the copy.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        python: str | None = None,
        request: Request | None = None,
        key: str | None = None,
        main: Mapping[str, Any] | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self._path = Path(path)
        self._header: dict[str, Any] = {"format": 1, "python": python or runner.minor_version()}
        if request is not None:
            self._header["request"] = request.to_json()
        if key is not None:
            self._header["key"] = key
        if limits:
            self._header["limits"] = dict(limits)
        self._header["main"] = dict(main or {})
        self._parts: list[dict[str, Any]] = []
        self._blobs: list[Sequence[Buffer] | _Slice] = []

    def add(
        self,
        role: str,
        name: str,
        codec: str,
        data: Buffer | Sequence[Buffer] | Path,
        meta: Mapping[str, Any] | None = None,
    ) -> Part:
        """Add a part: bytes, a sequence of buffers, or the path of a file. Raises `FileRefused` when the file cannot be read."""
        blob = _blob(data, name)
        described = runner.describe_part(role, name, codec, _chunks(blob), meta or {})
        self._parts.append(described)
        self._blobs.append(blob)
        return Part(**described)

    def copy(self, bundle: Bundle, part: Part) -> None:
        """Add a part of another bundle, which is read only when this one is closed; a wrong checksum shows then."""
        entry = {key: value for key, value in asdict(part).items() if key != "offset"}
        self._parts.append(entry)
        self._blobs.append(_Slice(bundle.path, part.name, part.offset, part.size))

    def close(self, hmac_key: str | None = None) -> Path:
        """Write the file with mode 0600, signed when there is a key; return its path.

        A submission with pickled code in it carries cloudpickle along, without which that could not be opened there.
        """
        if "request" in self._header and any(part["meta"].get("python_bound") for part in self._parts):
            known = {part["name"] for part in self._parts if part["role"] == "module"}
            for name, path in cloudpickle_files().items():
                if name not in known:
                    self.add("module", name, "raw", path)
        header = {**self._header, "parts": self._parts}
        blobs = (_unchanged(blob, part) for blob, part in zip(self._blobs, self._parts, strict=True))
        runner.write_bundle(os.fspath(self._path), header, blobs, hmac_key)
        return self._path


@dataclass(frozen=True)
class _Slice:
    """A file, or a piece of one."""

    path: Path
    name: str
    offset: int = 0
    size: int | None = None


def _blob(data: Buffer | Sequence[Buffer] | Path, name: str) -> Sequence[Buffer] | _Slice:
    if isinstance(data, Path):
        return _Slice(data, name)
    return [data] if isinstance(data, (bytes, bytearray, memoryview)) else data


def cloudpickle_files() -> dict[str, Path]:
    """Return the source files of cloudpickle (pure Python) by the names under which they travel."""
    import cloudpickle

    folder = Path(cloudpickle.__file__).parent
    return {f"cloudpickle/{path.name}": path for path in sorted(folder.glob("*.py"))}


def _chunks(blob: Sequence[Buffer] | _Slice) -> Iterable[Buffer]:
    return _file_chunks(blob) if isinstance(blob, _Slice) else blob


def _file_chunks(piece: _Slice) -> Iterator[bytes]:
    try:
        yield from runner.file_chunks(os.fspath(piece.path), piece.offset, piece.size)
    except OSError as error:
        hint = "Check the path and its permissions."
        raise FileRefused(f"{piece.name}: {error.strerror}", hint=hint, path=str(piece.path)) from error


def _unchanged(blob: Sequence[Buffer] | _Slice, part: Mapping[str, Any]) -> Iterator[Buffer]:
    if not isinstance(blob, _Slice):
        yield from blob
        return
    digest = hashlib.sha256()
    for chunk in _file_chunks(blob):
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != part["sha256"]:
        hint = "Wait until nothing writes to it and submit again."
        raise FileRefused(f"{part['name']} changed while it was read", hint=hint, path=str(blob.path))


class Bundle:
    """A bundle that was opened: its header is checked, its parts are not read."""

    def __init__(self, path: Path, header: Mapping[str, Any], *, signed: bool) -> None:
        self.path = path
        self.header: Mapping[str, Any] = header
        self.parts: tuple[Part, ...] = tuple(
            Part(**{key: part[key] for key in ("role", "name", "codec", "size", "sha256", "meta", "offset")})
            for part in header["parts"]
        )
        self._signed = signed

    @classmethod
    def open(cls, path: str | Path, *, hmac_key: str | None = None, max_bytes: int | None = None) -> Bundle:
        """Check structure and sizes, and with ``hmac_key`` the signature; open no part.

        Raises `ResultUnavailable` when there is no such file, `ResultTooLarge`, and for a broken one `ResultTampered` (with a key)
        or `UsageError` (a submission, without one).
        """
        try:
            with Path(path).open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                if max_bytes is not None and size > max_bytes:
                    raise ResultTooLarge(
                        f"the bundle has {size:,} bytes, more than the limit of {max_bytes:,}",
                        hint="Write large data to files and bring them back with --fetch.",
                        size=size,
                        limit=max_bytes,
                    )
                header = runner.read_header(stream, size, hmac_key)
        except FileNotFoundError as error:
            raise ResultUnavailable(
                "there is no such bundle", hint="The job may have been deleted or never wrote one."
            ) from error
        except runner.BundleError as error:
            raise _broken(error, signed=hmac_key is not None) from error
        return cls(Path(path), header, signed=hmac_key is not None)

    @property
    def request(self) -> Request:
        """The request of a submission. Raises `UsageError` when it has none."""
        if not isinstance(self.header.get("request"), dict):
            raise UsageError(
                "the bundle holds no request", hint="Client and service differ in version: restart the server."
            )
        return Request.from_json(self.header["request"])

    @property
    def key(self) -> str | None:
        """The key that the result will be signed with, in hexadecimal digits."""
        key = self.header.get("key")
        return key if isinstance(key, str) else None

    @property
    def main(self) -> Mapping[str, Any]:
        """The plain data of this kind of work."""
        main: Mapping[str, Any] = self.header["main"]
        return main

    @property
    def python(self) -> str:
        """``major.minor`` of the Python that wrote it."""
        return str(self.header["python"])

    def of(self, role: str) -> tuple[Part, ...]:
        """Return the parts of one role."""
        return tuple(part for part in self.parts if part.role == role)

    def read(self, part: Part) -> bytearray:
        """Return a part's bytes after their checksum was compared. Raises `ResultTampered` or `UsageError`."""
        try:
            return runner.read_part(os.fspath(self.path), {"role": part.role, "name": part.name, **_place(part)})
        except runner.BundleError as error:
            raise _broken(error, signed=self._signed) from error

    def copy(self, part: Part, target: str | Path, mode: int = 0o600) -> None:
        """Write a part to a new file without reading it as a whole; nothing stays when its checksum is wrong."""
        digest = hashlib.sha256()
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(handle, "wb") as stream:
            for chunk in runner.file_chunks(os.fspath(self.path), part.offset, part.size):
                digest.update(chunk)
                stream.write(chunk)
        if digest.hexdigest() != part.sha256:
            Path(target).unlink()
            raise _broken(
                runner.BundleError(f"the checksum of {part.role} {part.name!r} does not match"), signed=self._signed
            )


def _place(part: Part) -> dict[str, Any]:
    return {"offset": part.offset, "size": part.size, "sha256": part.sha256}


def _broken(error: runner.BundleError, *, signed: bool) -> OffloadError:
    if signed:
        return ResultTampered(
            f"the result cannot be trusted: {error}", hint="It was not opened. Fetch it again or run the job again."
        )
    return UsageError(
        f"this is not a sound bundle: {error}", hint="Send it again; client and service may differ in version."
    )
