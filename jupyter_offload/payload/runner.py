"""The one file that runs where the job runs: it opens the bundle, runs the cell, function or notebook, and writes a signed result.

Standard library only, Python 3.8 or newer. It is longer than any other module of the project because it must be *one* file that is
copied to a machine where nothing else of ours exists; the bundle format and the codecs live here too, so that the kernel
(`jupyter_offload.payload.bundle`, `.codecs`) and the job use one implementation. Sections, in order:

1. **Format**: header, signature, parts.
2. **Codecs**: JSON, ``.npy``, Arrow, pickle.
3. **Faults**: errors as plain data, tracebacks that begin at the user's own line.
4. **Streams and display** (child): text and rich outputs in exact order.
5. **Figures** (child): matplotlib without a screen.
6. **Shell** (child): runs source, in IPython when it is there and needed.
7. **Work** (child): cell, function, notebook; values in and out.
8. **Record** (parent): nbformat outputs, bounded in memory.
9. **Environment** (parent): ``--pip``.
10. **Supervisor** (parent): forks the child, records what it prints, signs the result whatever becomes of the child.

Two processes, because a segmentation fault, ``os._exit`` or the kernel's out-of-memory killer must not take the printed output with it.
The child's file descriptors 1 and 2 are pipes to the parent, so that subprocesses and C code are recorded too. Over a
third channel the child sends rich outputs and waits for an acknowledgement, which the parent gives after it has emptied both pipes:
the order is exact.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import os
import re
import sys
import time
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ast
    import socket
    from typing import Any, BinaryIO, Callable, Iterable, Iterator, List, Mapping, Sequence, Union

    Data = Union[bytes, bytearray, memoryview]
    Json = Mapping[str, Any]
    Chunks = List[Data]

# ---------------------------------------------------------------------------------------------------------------- 1. Format

MAGIC = b"offload-bundle 1\n"
HEADER_LIMIT = 64 << 20
CHUNK = 1 << 20
_SIGNATURE = re.compile(rb',"hmac":"([0-9a-f]{64})"\}\Z')
_SHA256 = re.compile(r"[0-9a-f]{64}")


class BundleError(Exception):
    """Not a bundle, or one that was cut off or altered. Nothing in it was opened."""


def minor_version() -> str:
    """Return ``major.minor`` of this Python."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def _signature(key: str, body: bytes) -> str:
    return hmac.new(bytes.fromhex(key), MAGIC + body, hashlib.sha256).hexdigest()


def pack_header(header: Json, key: str | None = None) -> bytes:
    """Return the first two lines of a bundle. The signature covers the header's exact bytes before it."""
    body = json.dumps(header, separators=(",", ":")).encode("ascii")
    if key is not None:
        body = body[:-1] + b',"hmac":"' + _signature(key, body).encode("ascii") + b'"}'
    return MAGIC + body + b"\n"


def read_header(stream: BinaryIO, size: int, key: str | None = None) -> dict[str, Any]:
    """Read and check the header of a bundle of ``size`` bytes; every part gets its ``offset``.

    With ``key`` the signature is checked first, before the JSON is read. Raises `BundleError`.
    """
    if stream.read(len(MAGIC)) != MAGIC:
        raise BundleError("it does not begin as a bundle does")
    line = stream.readline(HEADER_LIMIT)
    if not line.endswith(b"\n"):
        raise BundleError("its header is cut off")
    body = line[:-1]
    if key is not None:
        signed = _SIGNATURE.search(body)
        if signed is None:
            raise BundleError("it is not signed")
        body = body[: signed.start()] + b"}"
        if not hmac.compare_digest(_signature(key, body), signed.group(1).decode("ascii")):
            raise BundleError("its signature does not match")
    try:
        header = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BundleError("its header is not JSON") from error
    _check_header(header)
    place = len(MAGIC) + len(line)
    for part in header["parts"]:
        part["offset"] = place
        place += part["size"]
    if place != size:
        raise BundleError(f"it has {size} bytes, its header says {place}")
    return dict(header)


def _check_header(header: object) -> None:
    if not isinstance(header, dict) or header.get("format") != 1 or not isinstance(header.get("parts"), list):
        raise BundleError("its header is not one of format 1")
    if not isinstance(header.get("python"), str) or not isinstance(header.get("main"), dict):
        raise BundleError("its header has no python or no main")
    for place, part in enumerate(header["parts"]):
        good = (
            isinstance(part, dict)
            and all(isinstance(part.get(key), str) for key in ("role", "name", "codec", "sha256"))
            and type(part.get("size")) is int
            and part["size"] >= 0
            and isinstance(part.get("meta"), dict)
            and _SHA256.fullmatch(part["sha256"]) is not None
        )
        if not good:
            raise BundleError(f"part {place} of its header is malformed")


def read_part(path: str, part: Json) -> bytearray:
    """Return the bytes of one part, after their checksum was compared. Raises `BundleError`."""
    data = bytearray(part["size"])
    with open(path, "rb") as stream:
        stream.seek(part["offset"])
        got = stream.readinto(data)
    if got != part["size"] or hashlib.sha256(data).hexdigest() != part["sha256"]:
        role, name = part["role"], part["name"]
        raise BundleError(f"the checksum of {role} {name!r} does not match")
    return data


def describe_part(role: str, name: str, codec: str, chunks: Iterable[Data], meta: Json) -> dict[str, Any]:
    """Return the header entry of a part whose bytes are these chunks."""
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
    return {"role": role, "name": name, "codec": codec, "size": size, "sha256": digest.hexdigest(), "meta": dict(meta)}


def write_bundle(path: str, header: Json, blobs: Iterable[Iterable[Data]], key: str | None = None) -> None:
    """Write a bundle with mode 0600: complete under its name, or not at all. ``header["parts"]`` describes the blobs in order."""
    temporary = f"{path}.{os.getpid()}.tmp"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with open(handle, "wb") as stream:
            stream.write(pack_header(header, key))
            for blob in blobs:
                for chunk in blob:
                    stream.write(chunk)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def file_chunks(path: str, offset: int = 0, size: int | None = None) -> Iterator[bytes]:
    """Yield a file, or ``size`` bytes of it, in pieces."""
    with open(path, "rb") as stream:
        stream.seek(offset)
        while size is None or size > 0:
            chunk = stream.read(CHUNK if size is None else min(CHUNK, size))
            if not chunk:
                return
            if size is not None:
                size -= len(chunk)
            yield chunk


# ---------------------------------------------------------------------------------------------------------------- 2. Codecs


class CannotEncode(Exception):
    """A value that no codec can carry; ``hint`` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class _NotPlain(Exception):
    pass


_BIG = 1 << 4096  # Python 3.11 and later refuse decimal integers of more than 4,300 digits
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")  # JSON would join these two into one character
_SCALARS = frozenset({type(None), bool, int, float, str})
_LARGE_BYTES = 1 << 12


class Encoded:
    """A value as bytes: ``codec``, ``chunks`` (buffers to be written one after the other), ``meta``."""

    def __init__(self, codec: str, chunks: Chunks, meta: dict[str, Any]) -> None:
        self.codec = codec
        self.chunks = chunks
        self.meta = meta

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(len(chunk) for chunk in self.chunks)


def encode_value(value: object, name: str, arrow: bool = True) -> Encoded:
    """Encode by the first codec that gives exactly this value back: raw bytes, ``.npy``, Arrow, JSON, pickle.

    ``arrow`` says whether Arrow may be used at all (the other side may lack pyarrow). Raises `CannotEncode`.
    """
    found = _encode_leaf(value, arrow)
    if found is None:
        try:
            found = _encode_json(value, arrow)
        except (_NotPlain, RecursionError):
            found = _encode_pickle(value, name)
    found.meta["type"] = type(value).__qualname__
    return found


def decode_value(codec: str, data: Data, meta: Json) -> object:
    """Return the value that `encode_value` encoded. The bytes' checksum must have been compared before."""
    if codec == "raw":
        return bytes(data)
    if codec == "npy":
        return _decode_npy(data, meta)
    if codec == "arrow":
        return _decode_arrow(data, meta)
    if codec == "json":
        return _decode_json(data, meta)
    if codec == "pickle":
        return _decode_pickle(data, meta)
    raise ValueError(f"unknown codec {codec!r}")


def _encode_leaf(value: object, arrow: bool) -> Encoded | None:
    if type(value) is bytes:
        return Encoded("raw", [value], {})
    module = type(value).__module__.partition(".")[0]
    if module == "numpy":
        return _encode_npy(value)
    if arrow and module in ("pandas", "pyarrow"):
        return _encode_arrow(value)
    return None


# JSON: a value of another type than JSON knows becomes {"$type": …}; what has a codec of its own is attached behind the text.


def _encode_json(value: object, arrow: bool) -> Encoded:
    attached: list[Encoded] = []
    tree = _tag(value, set(), attached, arrow)
    text = json.dumps(tree, separators=(",", ":")).encode("ascii")
    if not attached:
        return Encoded("json", [text], {})
    chunks: Chunks = [text]
    for item in attached:
        chunks.extend(item.chunks)
    index = [{"codec": item.codec, "size": item.size, "meta": item.meta} for item in attached]
    return Encoded("json", chunks, {"text": len(text), "attached": index})


def _tag(value: Any, seen: set[int], attached: list[Encoded], arrow: bool) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return _tag_scalar(value)
    if kind is bytes and len(value) < _LARGE_BYTES:
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if kind is complex:
        return {"$complex": [value.real, value.imag]}
    if kind not in (tuple, frozenset, bytes):
        # Two places that hold one mutable object must hold one object again: pickle's business.
        if id(value) in seen:
            raise _NotPlain
        seen.add(id(value))
    if kind is list:
        return value if _all_plain(value) else [_tag(item, seen, attached, arrow) for item in value]
    if kind in (tuple, set, frozenset):
        return {"$" + kind.__name__: [_tag(item, seen, attached, arrow) for item in value]}
    if kind is dict:
        if all(type(key) is str and not key.startswith("$") and not _PAIR.search(key) for key in value):
            return {key: _tag(item, seen, attached, arrow) for key, item in value.items()}
        return {
            "$dict": [
                [_tag(key, seen, attached, arrow), _tag(item, seen, attached, arrow)] for key, item in value.items()
            ]
        }
    leaf = _encode_leaf(value, arrow)
    if leaf is None:
        raise _NotPlain
    attached.append(leaf)
    return {"$attached": len(attached) - 1}


def _tag_scalar(value: Any) -> Any:
    if type(value) is int and not -_BIG < value < _BIG:
        return {"$int": hex(value)}
    if type(value) is str and not value.isascii() and _PAIR.search(value):
        return {"$str": value.encode("utf-8", "surrogatepass").hex()}
    return value


def _all_plain(values: list[Any]) -> bool:
    kinds = set(map(type, values))
    if not kinds <= _SCALARS:
        return False
    if int in kinds and not all(-_BIG < value < _BIG for value in values if type(value) is int):
        return False
    return str not in kinds or all(value.isascii() for value in values if type(value) is str)


def _decode_json(data: Data, meta: Json) -> object:
    view = memoryview(data)
    text = bytes(view[: meta["text"]]) if "attached" in meta else bytes(view)
    attached: list[object] = []
    place = len(text)
    for item in meta.get("attached", ()):
        piece = view[place : place + item["size"]]
        attached.append(decode_value(item["codec"], piece, item["meta"]))
        place += item["size"]
    if b'{"$' not in text:
        return json.loads(text)

    def untag(found: dict[str, Any]) -> Any:
        if len(found) != 1:
            return found
        [(key, content)] = found.items()
        return _UNTAG[key](content) if key in _UNTAG else attached[content] if key == "$attached" else found

    return json.loads(text, object_hook=untag)


_UNTAG: dict[str, Callable[[Any], object]] = {
    "$int": lambda content: int(content, 16),
    "$str": lambda content: bytes.fromhex(content).decode("utf-8", "surrogatepass"),
    "$bytes": base64.b64decode,
    "$complex": lambda content: complex(*content),
    "$tuple": tuple,
    "$set": set,
    "$frozenset": frozenset,
    "$dict": lambda content: {key: item for key, item in content},  # noqa: C416
}


def _encode_npy(value: Any) -> Encoded | None:
    import numpy as np

    scalar = isinstance(value, np.generic)
    if not scalar and type(value) is not np.ndarray and type(value) is not np.memmap:
        return None
    dtype = value.dtype
    if dtype.hasobject or dtype.metadata or (scalar and type(value) is not dtype.type):
        return None
    header = io.BytesIO()
    try:
        descr = np.lib.format.dtype_to_descr(dtype)
        if np.lib.format.descr_to_dtype(descr) != dtype:
            return None
        array = np.asarray(value)
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        layout = {"descr": descr, "fortran_order": bool(fortran), "shape": array.shape}
        np.lib.format.write_array_header_2_0(header, layout)
    except (ValueError, TypeError):  # also field names that are not Latin-1
        return None
    chunks: Chunks = [header.getvalue()]
    if array.nbytes:
        flat = array.T if fortran else np.ascontiguousarray(array)
        chunks.append(memoryview(flat.reshape(-1).view(np.uint8)))  # type: ignore[arg-type]
    return Encoded("npy", chunks, {"scalar": True} if scalar else {})


def _decode_npy(data: Data, meta: Json) -> object:
    import numpy as np

    header = io.BytesIO(bytes(memoryview(data)[: 1 << 20]))
    np.lib.format.read_magic(header)
    shape, fortran, dtype = np.lib.format.read_array_header_2_0(header)
    count = 1
    for length in shape:
        count *= length
    if dtype.itemsize == 0 or count == 0:
        array = np.zeros(shape, dtype, order="F" if fortran else "C")
    else:
        buffer = data if isinstance(data, bytearray) or not memoryview(data).readonly else bytearray(data)
        array = np.frombuffer(buffer, dtype, count, header.tell())
        array = array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
    return array[()] if meta.get("scalar") else array


def _encode_arrow(value: Any) -> Encoded | None:
    try:
        import pyarrow as pa
    except ImportError:
        return None
    if type(value) is pa.Table:
        return Encoded("arrow", [memoryview(_arrow_stream(pa, value))], {})
    try:
        import pandas as pd

        if type(value) is not pd.DataFrame or not _arrow_suits(pd, value):
            return None
        table = pa.Table.from_pandas(value)
        back = table.to_pandas()
    except (ImportError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError, pa.ArrowException):
        return None
    if not _same_frame(value, back):
        return None
    return Encoded("arrow", [memoryview(_arrow_stream(pa, table))], {"frame": True})


def _arrow_stream(pa: Any, table: Any) -> Any:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _arrow_suits(pd: Any, frame: Any) -> bool:
    # Object columns hold anything: only text comes back from Arrow as it was.
    columns = [frame.iloc[:, place] for place in range(frame.shape[1])]
    return not frame.attrs and all(
        column.dtype != object or pd.api.types.infer_dtype(column, skipna=True) == "string" for column in columns
    )


def _same_frame(left: Any, right: Any) -> bool:
    def same_index(one: Any, other: Any) -> bool:
        return (
            type(one) is type(other)
            and one.equals(other)
            and list(one.names) == list(other.names)
            and getattr(one, "dtype", None) == getattr(other, "dtype", None)
        )

    return bool(
        list(left.dtypes) == list(right.dtypes)
        and same_index(left.index, right.index)
        and same_index(left.columns, right.columns)
        and left.equals(right)
    )


def _decode_arrow(data: Data, meta: Json) -> object:
    import pyarrow as pa

    table = pa.ipc.open_stream(pa.py_buffer(data)).read_all()
    return table.to_pandas() if meta.get("frame") else table


def _encode_pickle(value: object, name: str) -> Encoded:
    buffers: list[Any] = []
    try:
        stream = _dumps(value, buffers.append)
        chunks: Chunks = [stream, *[buffer.raw() for buffer in buffers]]
    except Exception as error:  # a value's own __reduce__ may raise anything
        raise _cannot_encode(value, name, error) from error
    if b"__main__" in stream and "cloudpickle" not in sys.modules:
        raise CannotEncode(
            f"{name}: a {type(value).__qualname__} that is defined here cannot be sent without cloudpickle",
            "Add --pip cloudpickle, or return plain data.",
        )
    meta: dict[str, Any] = {"python_bound": b"cloudpickle" in stream}
    if buffers:
        meta["sizes"] = [len(chunk) for chunk in chunks]
    return Encoded("pickle", chunks, meta)


def _dumps(value: object, keep: Callable[[Any], object]) -> bytes:
    import pickle

    try:
        import cloudpickle
    except ImportError:
        return pickle.dumps(value, protocol=5, buffer_callback=keep)
    from collections import ChainMap

    class Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
        # cloudpickle would make an open file the text that it reads: another type and, for a large file, a surprise.
        dispatch_table = ChainMap({io.TextIOWrapper: _refuse_file}, cloudpickle.CloudPickler.dispatch_table)  # noqa: RUF012

    stream = io.BytesIO()
    Pickler(stream, protocol=5, buffer_callback=keep).dump(value)
    return stream.getvalue()


def _refuse_file(_: object) -> Any:
    raise TypeError("cannot pickle an open file")


def _decode_pickle(data: Data, meta: Json) -> object:
    import pickle

    view = memoryview(data)
    sizes = meta.get("sizes")
    if not sizes:
        return pickle.loads(view)
    pieces, place = [], 0
    for size in sizes:
        pieces.append(view[place : place + size])
        place += size
    return pickle.loads(pieces[0], buffers=pieces[1:])


_HINTS = (
    ("generator", "Make a list of it first: list(…)."),
    ("coroutine", "Await it first and send what it gives."),
    ("TextIOWrapper", "Send the file with --file and open it in the cell."),
    ("Buffered", "Send the file with --file and open it in the cell."),
    ("FileIO", "Send the file with --file and open it in the cell."),
    ("lock", "Make the lock, or the object that holds it, in the cell."),
    ("Thread", "Start the thread in the cell."),
    ("socket", "Open the connection in the cell."),
    ("Connection", "Open the connection in the cell."),
    ("Cursor", "Open the connection in the cell."),
    ("weakref", "Send the object itself."),
    ("module", "Import the module in the cell."),
)


def _cannot_encode(value: object, name: str, error: BaseException) -> CannotEncode:
    path, culprit = find_culprit(value, name)
    kind = type(culprit).__qualname__
    hint = next(
        (text for word, text in _HINTS if word in kind),
        "Make it in the cell, or send the plain data that it is made of.",
    )
    what = f"{path} is a {kind}"
    if path != name:
        what = f"{name} (a {type(value).__qualname__}) holds {path}, a {kind}"
    return CannotEncode(f"{what}, which cannot travel: {one_line(error)}", hint)


def find_culprit(value: object, path: str, tries: int = 300) -> tuple[str, object]:
    """Return path and value of the innermost thing that cannot be pickled, looked for with a bounded effort."""
    deadline = time.monotonic() + 2.0
    for _ in range(12):
        for inner_path, inner in _children(value, path):
            tries -= 1
            if tries < 0 or time.monotonic() > deadline:
                return path, value
            try:
                _dumps(inner, lambda _: None)
            except Exception:  # whatever it raises: this is the way in
                path, value = inner_path, inner
                break
        else:
            return path, value
    return path, value


_EMPTY_CELL = types.CellType()


def _children(value: Any, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}[{key!r}]", item
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            yield f"{path}[{place}]", item
    elif isinstance(value, (set, frozenset)):
        for item in value:
            yield f"an element of {path}", item
    elif isinstance(getattr(value, "__dict__", None), dict) and not isinstance(value, type):
        for key, item in vars(value).items():
            yield f"{path}.{key}", item
    closure = getattr(value, "__closure__", None)
    if closure:
        for key, cell in zip(value.__code__.co_freevars, closure):  # noqa: B905
            if cell != _EMPTY_CELL:
                yield f"{key} in {path}", cell.cell_contents


def one_line(error: BaseException) -> str:
    """Return the error's own text in one line of bounded length."""
    try:
        text = " ".join(str(error).split()) or type(error).__name__
    except Exception:  # a broken __str__ of the user's class
        text = type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


# ---------------------------------------------------------------------------------------------------------------- 3. Faults


def fault(error: str, message: str, hint: str, **details: object) -> dict[str, Any]:
    """Return an error as `jupyter_offload.errors.OffloadError.to_json` writes it; ``error`` names the type."""
    return {"error": error, "message": message, "hint": hint, "job_id": None, "details": details}


class Refused(Exception):
    """The run cannot go on; carries its `fault`."""

    def __init__(self, found: dict[str, Any]) -> None:
        super().__init__(found["message"])
        self.fault = found


def users_traceback(tb: types.TracebackType | None) -> types.TracebackType | None:
    """Return the traceback without the frames at its beginning that are this file's, or those of the event loop that it runs."""
    own = (__file__, os.path.join(os.path.dirname(os.__file__), "asyncio", ""))
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(own):
        tb = tb.tb_next
    return tb


def exception_fault(error: BaseException, own_modules: Iterable[str] = ()) -> dict[str, Any]:
    """Return the fault of an exception that the user's code raised, with its plain traceback."""
    import traceback

    try:
        text = "".join(traceback.format_exception(type(error), error, users_traceback(error.__traceback__)))
    except Exception:  # a broken __str__ or __repr__ of the user's class
        text = type(error).__name__
    ename, evalue = type(error).__name__, one_line(error)
    details: dict[str, Any] = {"ename": ename, "evalue": evalue, "traceback": text, "python": minor_version()}
    if isinstance(error, ModuleNotFoundError) and error.name:
        missing = error.name.partition(".")[0]
        if missing not in own_modules:
            image = os.environ.get("OFFLOAD_IMAGE", "")
            place = f"the image {image}" if image else "the Python of the site"
            return fault(
                "MissingRemotePackage",
                f"the package {missing} is not in {place}",
                f"Add --pip {missing}, or choose an image that has it with --image.",
                module=missing,
                image=image,
                **details,
            )
    return fault(
        "RemoteError",
        f"{ename}: {evalue}",
        "The traceback is the remote one; mend the code and run it again.",
        **details,
    )


def coloured_traceback(error: BaseException) -> list[str]:
    """Return the lines of an nbformat error output, in the colours of a terminal."""
    import traceback

    try:
        lines = traceback.format_exception(type(error), error, users_traceback(error.__traceback__))
    except Exception:  # a broken __str__ or __repr__ of the user's class
        lines = [type(error).__name__ + "\n"]
    red, green, end = "\x1b[0;31m", "\x1b[0;32m", "\x1b[0m"
    shown = [red + "-" * 75 + end]
    for line in "".join(lines).rstrip("\n").split("\n"):
        place = re.match(r'(\s*File )(".*?", line \d+)(.*)', line)
        raised = re.match(r"([\w.]+)(:.*|$)", line)
        if place:
            line = place.group(1) + green + place.group(2) + end + place.group(3)
        elif raised and not line.startswith("Traceback"):
            line = red + raised.group(1) + end + raised.group(2)
        shown.append(line)
    return shown


# ------------------------------------------------------------------------------------------------- 4. Streams and display


class Channel:
    """The child's way to the parent: send one message, then wait until the parent has recorded all that was printed before it."""

    def __init__(self, connection: socket.socket) -> None:
        import threading

        self._ident = threading.get_ident
        self._connection = connection
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._sender: int | None = None
        self._interrupted = False

    @property
    def usable(self) -> bool:
        """False in a process that the user's code forked: the conversation is not its own."""
        return os.getpid() == self._pid

    def send(self, **message: Any) -> None:
        """Send a message and wait for its acknowledgement. Does nothing in a process that the user's code forked."""
        if not self.usable:
            return
        data = json.dumps(message).encode("ascii")
        with self._lock:
            self._sender = self._ident()
            try:
                self._connection.sendall(len(data).to_bytes(8, "big") + data)
                if not self._connection.recv(1):
                    os._exit(70)  # the parent is gone: nobody would ever see a result
            finally:
                self._sender = None
        if self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt(ENDED)

    def interrupt(self, *_: object) -> None:
        """Signal handler: end the user's code, but never in the middle of a message."""
        if self._sender == self._ident():
            self._interrupted = True
        else:
            raise KeyboardInterrupt(ENDED)


ENDED = "the job was asked to end (SIGTERM)"


class Pipe(io.BufferedWriter):
    """Standard output or error of the child: holds nothing back, so that nothing is lost or late when the process dies.

    What goes to standard error is recorded before the next thing happens. As the parent always empties standard output
    first, that is enough to keep the order between the two, also with subprocesses and C code.
    """

    def __init__(self, descriptor: int, channel: Channel) -> None:
        super().__init__(io.FileIO(descriptor, "w", closefd=False))
        self._channel = channel if descriptor == 2 else None

    def write(self, data: Any) -> int:
        """Write and flush."""
        count = super().write(data)
        self.flush()
        if self._channel is not None and self._channel.usable:
            self._channel.send(type="turn")
        return count


class Text(io.TextIOWrapper):
    """Text onto a `Pipe`: at once while one thread of one process prints, by whole lines as soon as there are several."""

    def __init__(self, descriptor: int, channel: Channel) -> None:
        import threading

        super().__init__(Pipe(descriptor, channel), "utf-8", "backslashreplace", write_through=True)
        self._channel = channel
        self._threads, self._ident = threading.active_count, threading.get_ident
        self._pending: dict[int, str] = {}

    def write(self, text: str) -> int:
        """Write ``text``, or keep it until its line is complete."""
        if self._channel.usable and self._threads() == 1:
            if self._pending:
                self.flush_all()
            return super().write(text)
        whole, newline, rest = (self._pending.pop(self._ident(), "") + text).rpartition("\n")
        if rest:
            self._pending[self._ident()] = rest
        if newline:
            super().write(whole + newline)
        return len(text)

    def flush(self) -> None:
        """Write what this thread keeps."""
        pending = self._pending.pop(self._ident(), "")
        if pending:
            super().write(pending)
        super().flush()

    def flush_all(self) -> None:
        """Write what any thread keeps."""
        while self._pending:
            super().write(self._pending.popitem()[1])


def open_streams(channel: Channel) -> None:
    """Give the child its sys.stdout, sys.stderr and an input that says why there is none."""
    import builtins

    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        text = Text(descriptor, channel)
        os.register_at_fork(before=text.flush_all)
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)

    def no_input(prompt: object = "") -> str:
        raise EOFError(f"input({str(prompt)!r}): nobody can answer in a batch job; send the value with -i")

    setattr(builtins, "input", no_input)  # noqa: B010


class Display:
    """Makes nbformat data of values and sends it. Uses IPython's formatters where IPython is."""

    def __init__(self, channel: Channel, shell: Shell) -> None:
        self._channel = channel
        self._shell = shell

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        transient: dict[str, Any] | None = None,
        update: bool = False,
    ) -> None:
        """Show data that is already in MIME form."""
        if not self._channel.usable:
            print(data.get("text/plain", ""))
            return
        self._channel.send(
            type="update_display_data" if update else "display_data",
            data=json_data(data),
            metadata=json_data(metadata or {}),
            transient=json_data(transient or {}),
        )

    def clear(self, wait: bool = False) -> None:
        """Remove the outputs so far."""
        if self._channel.usable:
            self._channel.send(type="clear_output", wait=bool(wait))

    def result(self, value: object, count: int) -> None:
        """Show the value of a cell's last expression."""
        data, metadata = self.format(value)
        if data:
            self._channel.send(
                type="execute_result", data=json_data(data), metadata=json_data(metadata), execution_count=count
            )

    def show(self, *values: object, **options: Any) -> None:
        """The built-in ``display`` where there is no IPython."""
        for value in values:
            data, metadata = (value, {}) if options.get("raw") and isinstance(value, dict) else self.format(value)
            self.publish(data, metadata)

    def error(self, error: BaseException) -> None:
        """Show a traceback."""
        if not self._channel.usable:
            print("\n".join(coloured_traceback(error)), file=sys.stderr)
        lines = self._shell.ipython_traceback(error) or coloured_traceback(error)
        self._channel.send(type="error", ename=type(error).__name__, evalue=one_line(error), traceback=lines)

    def format(self, value: object) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return data and metadata of a value by MIME type."""
        if _shown_alike(value) or not self._shell.wants_ipython():
            return plain_format(value)
        return self._shell.ipython_format(value)


def _shown_alike(value: Any) -> bool:
    """Return whether IPython would show the value as plain Python does, so that it need not be started for that."""
    if type(value) in (list, tuple, dict) and len(value) < 20:
        items = [*value, *value.values()] if type(value) is dict else value
        return all(type(item) in _SCALARS for item in items) and len(repr(value)) < 80
    return type(value) in _SCALARS


_REPRS = (
    ("_repr_html_", "text/html"),
    ("_repr_markdown_", "text/markdown"),
    ("_repr_svg_", "image/svg+xml"),
    ("_repr_png_", "image/png"),
    ("_repr_jpeg_", "image/jpeg"),
    ("_repr_latex_", "text/latex"),
    ("_repr_json_", "application/json"),
    ("_repr_javascript_", "application/javascript"),
)


def plain_format(value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return data and metadata by the ``_repr_*_`` methods that IPython defined, without IPython."""
    data: dict[str, Any] = {}
    metadata: dict[str, Any] = {}

    def add(mime: str, found: Any) -> None:
        if isinstance(found, tuple) and len(found) == 2:
            found, metadata[mime] = found
        if found is not None:
            data[mime] = found

    if not isinstance(value, type):
        bundle = _call(value, "_repr_mimebundle_")
        if isinstance(bundle, tuple):
            bundle, extra = bundle
            metadata.update(extra)
        for mime, found in (bundle or {}).items():
            add(mime, found)
        for name, mime in _REPRS:
            if mime not in data:
                add(mime, _call(value, name))
        figure = sys.modules.get("matplotlib.figure")
        if figure is not None and isinstance(value, figure.Figure) and "image/png" not in data:
            add("image/png", figure_png(value))
    data.setdefault("text/plain", repr(value))
    return data, metadata


def _call(value: Any, name: str) -> Any:
    method = getattr(value, name, None)
    if method is None:
        return None
    try:
        return method()
    except NotImplementedError:
        return None


def json_data(data: Mapping[Any, Any]) -> dict[str, Any]:
    """Return MIME data as JSON can carry it: bytes in base64, anything else that JSON lacks as its text."""
    return {str(mime): _json_value(item) for mime, item in data.items()}


def _json_value(item: Any) -> Any:
    if isinstance(item, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(item)).decode("ascii")
    if isinstance(item, str):
        return str(item)
    try:
        return json.loads(json.dumps(item, default=str))
    except (TypeError, ValueError, RecursionError):
        return str(item)


# ---------------------------------------------------------------------------------------------------------------- 5. Figures

FIGURES = "offload_figures"


def figure_png(figure: Any) -> bytes | None:
    """Return a matplotlib figure as PNG, cropped as notebooks do; ``None`` when nothing is drawn in it."""
    if not figure.axes and not figure.lines and not figure.texts:
        return None
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", dpi=figure.dpi, facecolor=figure.get_facecolor())
    return buffer.getvalue()


class Figures:
    """Shows the open figures at the end of a cell and on ``plt.show()``, as notebooks do, drawn by Agg.

    A finder on ``sys.meta_path``: nothing is imported before the user's code imports pyplot, which then gets our backend
    (`FIGURES`) unless the user chose one. Other processes see plain Agg by the environment.
    """

    def __init__(self, display: Display) -> None:
        self._display = display
        os.environ.setdefault("MPLBACKEND", "Agg")

    def find_spec(self, name: str, path: Sequence[str] | None = None, _: object = None) -> Any:
        """See `importlib.abc.MetaPathFinder`."""
        if name == FIGURES:
            from importlib.machinery import ModuleSpec

            return ModuleSpec(name, self)  # type: ignore[arg-type]
        if name != "matplotlib.pyplot" or os.environ.get("MPLBACKEND") != "Agg":
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_choose(module: types.ModuleType) -> None:
                load(module)
                if str(module.get_backend()).lower() == "agg":
                    module.switch_backend("module://" + FIGURES)

            spec.loader.exec_module = load_and_choose  # type: ignore[method-assign]
        return spec

    def create_module(self, spec: object) -> None:
        """See `importlib.abc.Loader`."""

    def exec_module(self, module: Any) -> None:
        """Fill the backend module."""
        from matplotlib.backend_bases import FigureManagerBase
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        def show(*_: object, **__: object) -> None:
            self.flush()

        class Manager(FigureManagerBase):
            pyplot_show = staticmethod(show)

        class Canvas(FigureCanvasAgg):
            manager_class = Manager

        module.FigureManager, module.FigureCanvas, module.show = Manager, Canvas, show

    def flush(self) -> None:
        """Show all open figures and close them."""
        helpers = sys.modules.get("matplotlib._pylab_helpers")
        pyplot = sys.modules.get("matplotlib.pyplot")
        if helpers is None or pyplot is None:
            return
        for manager in helpers.Gcf.get_all_fig_managers():
            figure = manager.canvas.figure
            png = figure_png(figure)
            self._display.publish({"text/plain": repr(figure), **({"image/png": png} if png else {})})
        pyplot.close("all")


# ------------------------------------------------------------------------------------------------------------------ 6. Shell

_AWAITED = 0x80  # inspect.CO_COROUTINE: the code has a top-level await
_ASKS_FOR_IPYTHON = frozenset({"get_ipython", "display", "In", "Out"})
_QUIET = frozenset({"numpy"})  # packages that behave the same with and without IPython


class Shell:
    """Runs cells one after the other in one namespace, the module ``__main__``.

    IPython transforms the source (magics), formats values and tracebacks and answers ``get_ipython()``; it is started when the
    source needs it or may notice it (it imports something outside the standard library), which saves a third of a second for those
    that do not. The code itself always runs here, so that tracebacks, awaiting and the last expression are the same with
    and without IPython.
    """

    def __init__(self, channel: Channel, label: str, folder: str) -> None:
        import builtins

        self.module = types.ModuleType("__main__")
        self.module.__builtins__ = builtins  # type: ignore[attr-defined]
        sys.modules["__main__"] = self.module
        sys.argv = [""]
        self.namespace: dict[str, Any] = self.module.__dict__
        self.display = Display(channel, self)
        self.figures = Figures(self.display)
        self.count = 0
        self._label = label
        self._folder = folder
        self._files: set[str] = set()
        self._future = 0
        self._loop: Any = None
        self._shown: BaseException | None = None
        self._ipython: Any = None
        self._ipython_missing = False
        sys.meta_path.insert(0, self.figures)
        setattr(builtins, "display", self.display.show)  # noqa: B010

    # -- running

    def run(self, source: str, filename: str) -> BaseException | None:
        """Run a cell, show the value of its last expression and its figures; return what it raised, already shown."""
        self.count += 1
        self._shown = None
        raised = self.guard(lambda: self._run(source, filename))
        flushed = self.guard(self.figures.flush)
        return raised or self._shown or flushed

    def guard(self, action: Callable[[], object]) -> BaseException | None:
        """Do something of the user's; return what it raised, after it was shown."""
        try:
            action()
        except Refused:
            raise
        except SystemExit as error:
            return error
        except BaseException as error:  # the user's KeyboardInterrupt and everything else
            error.__traceback__ = users_traceback(error.__traceback__)
            self.display.error(error)
            return error
        finally:
            flush_output()
        return None

    def _run(self, source: str, filename: str) -> None:
        tree, text = self.parse(source, filename)
        last = tree.body.pop() if self._shows_last(tree, text) else None
        code = self._compile(tree, filename, "exec")
        import ast

        last_code = self._compile(ast.Expression(last.value), filename, "eval") if isinstance(last, ast.Expr) else None
        with self._ipython_context(source, text):
            self.execute(code)
            value = self.execute(last_code) if last_code is not None else None
            if value is not None:
                self.display.result(value, self.count)
                import builtins

                setattr(builtins, "_", value)  # noqa: B010

    def parse(self, source: str, filename: str) -> tuple[ast.Module, str]:
        """Return the tree and the text of a source, after IPython's transformation where that is needed."""
        import ast
        import linecache

        self._files.add(filename)
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        if self._ipython is None:
            try:
                tree = ast.parse(source, filename)
            except SyntaxError:
                if not self.wants_ipython():
                    raise
            else:
                if not self._notices_ipython(tree) or not self.wants_ipython():
                    return tree, source
        text = self._ipython.transform_cell(source)
        return ast.parse(text, filename), text

    @staticmethod
    def _notices_ipython(tree: ast.AST) -> bool:
        import ast

        known = getattr(sys, "stdlib_module_names", frozenset(sys.builtin_module_names)) | _QUIET
        for node in ast.walk(tree):
            modules: list[str] = []
            if isinstance(node, ast.Name) and node.id in _ASKS_FOR_IPYTHON:
                return True
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            if any(module.partition(".")[0] not in known for module in modules):
                return True
        return False

    @staticmethod
    def _shows_last(tree: ast.Module, text: str) -> bool:
        import ast

        if not tree.body or not isinstance(tree.body[-1], ast.Expr):
            return False
        if ";" not in text.rstrip().rpartition("\n")[2]:
            return True
        import tokenize

        skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER, tokenize.DEDENT)
        tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in skipped]
        return tokens[-1].string != ";"

    def _compile(self, tree: ast.Module | ast.Expression, filename: str, mode: str) -> types.CodeType:
        import __future__

        import ast

        code: types.CodeType = compile(
            tree, filename, mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | self._future, dont_inherit=True
        )
        for name in __future__.all_feature_names:
            self._future |= code.co_flags & getattr(__future__, name).compiler_flag
        return code

    def define(self, imports: Sequence[str], pieces: Sequence[Json]) -> None:
        """Run pieces of code, each under the file name and at the line where the user wrote it."""
        import ast
        import linecache

        if not imports and not pieces:
            return
        lines: dict[str, list[str]] = {}
        trees = [(ast.parse("\n".join(imports), "<imports>"), "<imports>")]
        for piece in pieces:
            filename, before, text = piece["filename"], piece["first_line"] - 1, piece["source"]
            known = lines.setdefault(filename, [])
            known.extend(["\n"] * (before - len(known)))
            known[before:] = [*text.splitlines(keepends=True), *known[before + text.count("\n") + 1 :]]
            linecache.cache[filename] = (sum(map(len, known)), None, known, filename)
            trees.append((ast.parse("\n" * before + text, filename), filename))
        if any(self._notices_ipython(tree) for tree, _ in trees):
            self.wants_ipython()
        for tree, filename in trees:
            self.execute(self._compile(tree, filename, "exec"))

    def execute(self, code: types.CodeType) -> Any:
        """Run code in the namespace, awaiting it where it asks for that; return its value."""
        value = eval(code, self.namespace)
        return self.wait(value) if code.co_flags & _AWAITED else value

    def wait(self, awaitable: Any) -> Any:
        """Return what an awaitable gives, on the one event loop of this shell."""
        import asyncio

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)

        async def answer() -> Any:
            return await awaitable

        return self._loop.run_until_complete(answer())

    # -- IPython

    def wants_ipython(self) -> bool:
        """Start IPython if that is possible; return whether it runs."""
        if self._ipython is None and not self._ipython_missing:
            try:
                self._ipython = self._start_ipython()
            except ImportError:
                self._ipython_missing = True
            except Exception as error:  # a broken installation must not take the cell with it
                self._ipython_missing = True
                print(
                    f"offload: IPython does not start here ({one_line(error)}); going on without",
                    file=sys.stderr,
                )
        return self._ipython is not None

    @property
    def ipython_version(self) -> str | None:
        """The version of IPython when it was started."""
        return None if self._ipython is None else str(sys.modules["IPython"].__version__)

    def _start_ipython(self) -> Any:
        from IPython.core.displaypub import DisplayPublisher
        from IPython.core.interactiveshell import InteractiveShell
        from traitlets import Type
        from traitlets.config import Config

        display = self.display

        def show_error(_: object, found: Any = None, *__: object, **___: object) -> None:
            error = found[1] if isinstance(found, tuple) else sys.exc_info()[1]
            if error is not None:
                self._shown = error
                display.error(error)

        class Publisher(DisplayPublisher):
            def publish(
                self, data: Any, metadata: Any = None, *_: Any, transient: Any = None, update: bool = False, **__: Any
            ) -> None:
                display.publish(data, metadata, transient, update)

            def clear_output(self, wait: bool = False) -> None:
                display.clear(wait)

        class Remote(InteractiveShell):
            display_pub_class = Type(Publisher)
            colors_force = True
            # Magics such as %%time show what the code raised and go on as if nothing were wrong.
            showtraceback = showsyntaxerror = show_error  # type: ignore[assignment]

            def enable_gui(self, gui: object = None) -> None:
                """Nothing: there is no screen."""

            def init_virtualenv(self) -> None:
                """Nothing: the runner's own Python is the environment."""

        config = Config()
        config.HistoryManager.enabled = False
        config.HistoryManager.hist_file = ":memory:"
        folder = os.path.join(self._folder, "ipython")
        shell: Any = Remote.instance(config=config, ipython_dir=folder, user_module=self.module, user_ns=self.namespace)
        shell.display_formatter.formatters["image/png"].for_type_by_name("matplotlib.figure", "Figure", figure_png)
        name_of = getattr(shell.compile, "format_code_name", lambda _: None)
        shell.compile.format_code_name = lambda name: ("Cell", self._label) if name in self._files else name_of(name)
        return shell

    def _ipython_context(self, source: str, text: str) -> Any:
        import contextlib

        shell = self._ipython
        if shell is None:
            return contextlib.nullcontext()
        shell.execution_count = self.count
        shell.history_manager.store_inputs(self.count, text, source)

        @contextlib.contextmanager
        def running() -> Iterator[None]:
            shell.events.trigger("pre_execute")
            with shell.builtin_trap:
                try:
                    yield
                finally:
                    shell.events.trigger("post_execute")

        return running()

    def ipython_format(self, value: object) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return data and metadata by IPython's formatters."""
        data, metadata = self._ipython.display_formatter.format(value)
        return data, metadata

    def ipython_traceback(self, error: BaseException) -> list[str] | None:
        """Return the traceback in IPython's form, if IPython was started."""
        if self._ipython is None:
            return None
        try:
            if isinstance(error, SyntaxError):
                return list(self._ipython.SyntaxTB.structured_traceback(type(error), error, []))
            return list(
                self._ipython.InteractiveTB.structured_traceback(type(error), error, error.__traceback__, tb_offset=0)
            )
        except Exception:  # it formats the user's objects
            return None


def flush_output() -> None:
    """Flush what threads, and C code in its stdio, hold back."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if isinstance(stream, Text):
            stream.flush_all()
    ctypes = sys.modules.get("ctypes")
    if ctypes is not None:
        ctypes.CDLL(None).fflush(None)


# ------------------------------------------------------------------------------------------------------------------- 7. Work


_MAGIC = re.compile(r"\s*(%|!|\?)|.*\?\s*$")


class Child:
    """What the forked process does: values in, run, values out, and one last message ``done``."""

    def __init__(self, bundle: str, header: Json, folder: str, channel: Channel) -> None:
        self._bundle = bundle
        self._header = header
        self._main: Json = header["main"]
        self._folder = folder
        self._channel = channel
        self._where = ""
        self._name = str(header["request"].get("name") or "cell")
        self._shell = Shell(channel, self._name, folder)
        self._modules = {part["name"].partition("/")[0].partition(".")[0] for part in self._parts("module")}

    def run(self) -> int:
        """Do all of it; return the exit code of the process."""
        done: dict[str, Any] = {"fault": None, "values": [], "problems": {}}
        try:
            self._run(done)
        except Refused as refused:
            done["fault"] = refused.fault
        except KeyboardInterrupt as error:
            done["fault"] = exception_fault(error)
        if not self._channel.usable:
            flush_output()
            os._exit(0)  # a process that the code forked came out at the end of it
        done["ipython"] = self._shell.ipython_version
        self._channel.send(type="done", **done)
        return 0

    def _run(self, done: dict[str, Any]) -> None:
        kind = self._header["request"]["kind"]
        if kind == "cell":
            self._bind(self._values("value"))
            imports, pieces = self._main.get("imports", ()), self._main.get("pieces", ())
            filename = self._main.get("filename") or f"<offload {self._name}>"
            raised = self._shell.guard(lambda: self._shell.define(imports, pieces))
            raised = raised or self._shell.run(self._main["source"], filename)
            values = self._collect(done)
        elif kind == "function":
            values = {}
            raised = self._shell.guard(lambda: values.update(result=self._call()))
            raised = raised or self._shell.guard(self._shell.figures.flush)
        elif kind == "notebook":
            raised, values = self._notebook(), {}
        else:
            raise Refused(
                fault("UsageError", f"the runner cannot run a {kind}", "Client and runner differ in version.")
            )
        if raised is not None:
            done["fault"] = found = self._fault(raised)
            if found is not None:
                found["message"] = self._where + found["message"]
        if not isinstance(raised, KeyboardInterrupt):
            self._encode(values, done)

    def _fault(self, raised: BaseException) -> dict[str, Any] | None:
        if not isinstance(raised, SystemExit):
            found = exception_fault(raised, self._modules)
            if (
                isinstance(raised, SyntaxError)
                and self._shell.ipython_version is None
                and _MAGIC.match(raised.text or "")
            ):
                found["hint"] = (
                    "Magics need IPython where the job runs: add --pip ipython, or choose an image that has it."
                )
            return found
        if raised.code is None or raised.code == 0:
            return None
        if not isinstance(raised.code, int):
            print(raised.code, file=sys.stderr)
        code = raised.code if isinstance(raised.code, int) else 1
        return fault(
            "JobFailed", f"the code ended itself with exit code {code}", "Read what it printed.", exit_code=code
        )

    # -- values

    def _parts(self, role: str) -> list[Json]:
        return [part for part in self._header["parts"] if part["role"] == role]

    def _values(self, role: str) -> dict[str, object]:
        return {part["name"]: self._open(part) for part in self._parts(role)}

    def _open(self, part: Json) -> Any:
        name, python = part["name"], self._header["python"]
        if part["meta"].get("python_bound") and python != minor_version():
            message = f"{name} was pickled by Python {python} and cannot be opened by Python {minor_version()}"
            hint = f"Choose an image with Python {python} (--image), or send plain data or source."
            raise Refused(fault("PythonMismatch", message, hint, kernel=python, remote=minor_version()))
        try:
            return decode_value(part["codec"], read_part(self._bundle, part), part["meta"])
        except BundleError as error:
            raise Refused(
                fault("ResultTampered", f"the inputs arrived damaged: {error}", "Send the job again.")
            ) from error
        except ModuleNotFoundError as error:
            found = exception_fault(error)
            found["message"] = "{} (a {}) cannot be opened: {}".format(name, part["meta"].get("type"), found["message"])
            raise Refused(found) from error
        except Exception as error:  # a pickle may raise anything
            message = "{} (a {}) cannot be opened here: {}".format(name, part["meta"].get("type"), one_line(error))
            hint = "The packages here may be of other versions than the notebook's: send plain data, or choose another image."
            raise Refused(
                fault("RemoteError", message, hint, ename=type(error).__name__, evalue=one_line(error))
            ) from error

    def _bind(self, values: Mapping[str, object]) -> None:
        self._shell.namespace.update(values)

    def _collect(self, done: dict[str, Any]) -> dict[str, object]:
        values: dict[str, object] = {}
        for name in self._main.get("outputs") or self._header["request"].get("outputs") or ():
            if name in self._shell.namespace:
                values[name] = self._shell.namespace[name]
            else:
                hint = "Assign it in the cell, or leave it out of -o."
                done["problems"][name] = fault("ResultUnavailable", f"the cell did not assign {name}", hint, name=name)
        return values

    def _encode(self, values: Mapping[str, object], done: dict[str, Any]) -> None:
        limit = self._header.get("limits", {}).get("result_bytes")
        arrow = bool(self._main.get("arrow", True))
        total = 0
        path = os.path.join(self._folder, "values")
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(handle, "wb", buffering=0) as stream:
            for name, value in values.items():
                try:
                    encoded = encode_value(value, name, arrow)
                    if limit is not None and total + encoded.size > limit:
                        message = f"{name} (a {type(value).__qualname__}) has {encoded.size:,} bytes, more than the limit of {limit:,}"
                        hint = "Write it to a file and bring that back with --fetch, or reduce it in the cell."
                        done["problems"][name] = fault(
                            "ResultTooLarge", message, hint, name=name, size=encoded.size, limit=limit
                        )
                        continue
                    for chunk in encoded.chunks:
                        view = memoryview(chunk)
                        while view:
                            view = view[stream.write(view) :]
                except CannotEncode as error:
                    done["problems"][name] = fault("CannotEncode", error.message, error.hint, name=name)
                except MemoryError:
                    message = f"there was not enough memory to encode {name}"
                    done["problems"][name] = fault("MemoryExceeded", message, "Ask for more with --memory.", name=name)
                except OSError as error:
                    message = f"{name} could not be written: {one_line(error)}"
                    done["problems"][name] = fault("DiskExceeded", message, "Ask for more with --disk.", name=name)
                    stream.seek(total)
                    stream.truncate()
                else:
                    done["values"].append(describe_part("value", name, encoded.codec, encoded.chunks, encoded.meta))
                    total += encoded.size

    # -- function

    def _call(self) -> object:
        function = self._function()
        args = [self._open(part) for part in sorted(self._parts("arg"), key=lambda part: int(part["name"]))]
        result = function(*args, **self._values("kwarg"))
        if hasattr(result, "__await__"):
            result = self._shell.wait(result)
        if type(result).__name__ in ("generator", "async_generator"):
            message = f"the function returned a {type(result).__name__}, which cannot travel"
            raise Refused(fault("CannotEncode", message, "Return a list: list(…).", name="result"))
        return result

    def _function(self) -> Any:
        call = self._main["call"]
        if call == "pickle":
            return self._open(self._parts("function")[0])
        if call == "reference":
            import importlib

            found: Any = importlib.import_module(self._main["module"])
            for name in self._main["qualname"].split("."):
                found = getattr(found, name)
            return found
        self._bind(self._values("value"))
        self._shell.define(self._main.get("imports", ()), self._main["pieces"])
        return self._shell.namespace[self._main["entry"]]

    # -- notebook

    def _notebook(self) -> BaseException | None:
        values = self._values("value")
        cells = notebook_cells(read_notebook(read_part(self._bundle, self._parts("source")[0])))
        if not any(_tagged(cell, "parameters") for _, cell in cells):
            self._bind(values)
        for place, (index, cell) in enumerate(cells):
            self._channel.send(type="cell", index=index, place=place, total=len(cells))
            raised = self._shell.run(cell_source(cell), f"<offload {self._name} cell {index + 1}>")
            self._channel.send(type="cell_end", index=index, place=place, total=len(cells), count=self._shell.count)
            if raised is not None and not _tagged(cell, "raises-exception"):
                self._where = f"cell {place + 1} of {len(cells)}: "
                return raised
            if _tagged(cell, "parameters"):
                self._bind(values)
        return None


def cell_source(cell: Json) -> str:
    """Return a notebook cell's source, which the file format keeps as text or as lines."""
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def read_notebook(data: Data) -> dict[str, Any]:
    """Return a notebook. Raises `Refused` when it is none, or none that can run here."""
    try:
        notebook = json.loads(bytes(data))
    except (ValueError, RecursionError):
        notebook = None
    if not isinstance(notebook, dict) or notebook.get("nbformat") != 4 or not isinstance(notebook.get("cells"), list):
        hint = "Open it once in JupyterLab and save it."
        raise Refused(fault("UsageError", "it is not a notebook of format 4", hint))
    language = notebook.get("metadata", {}).get("kernelspec", {}).get("language", "python")
    if str(language).lower() not in ("python", "python3", "ipython"):
        raise Refused(fault("UsageError", f"the notebook is in {language}", "Only Python notebooks can be offloaded."))
    return notebook


def notebook_cells(notebook: Json) -> list[tuple[int, dict[str, Any]]]:
    """Return index and cell of the code cells that have a source."""
    cells = enumerate(notebook["cells"])
    return [(index, cell) for index, cell in cells if cell.get("cell_type") == "code" and cell_source(cell).strip()]


def _tagged(cell: Json, tag: str) -> bool:
    return tag in cell.get("metadata", {}).get("tags", ())


# ---------------------------------------------------------------------------------------------------------------- 8. Record


class Record:
    """The outputs of a cell as nbformat wants them, in bounded memory: of a long text the beginning and the end are kept."""

    HEAD = 4 << 20
    TAIL = 1 << 20
    RICH = 128 << 20

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._tail: list[Any] = []
        self._head_size = self._tail_size = self._rich_size = self._lost = 0
        self._shown: dict[str, list[dict[str, Any]]] = {}
        self._clear_next = False

    def text(self, name: str, data: bytes) -> None:
        """Add what was printed to ``stdout`` or ``stderr``."""
        self._clear_if_asked()
        room = max(0, self.HEAD - self._head_size)
        if room:
            self._add(self._items, name, data[:room])
            self._head_size += len(data[:room])
        rest = data[room:]
        if not rest:
            return
        self._tail.append((name, bytearray(rest)))
        self._tail_size += len(rest)
        while self._tail_size > self.TAIL and len(self._tail) > 1:
            item = self._tail.pop(0)
            if isinstance(item, tuple):
                self._tail_size -= len(item[1])
                self._lost += len(item[1])
            else:
                self._items.append(item)

    @staticmethod
    def _add(items: list[Any], name: str, data: bytes) -> None:
        if items and isinstance(items[-1], tuple) and items[-1][0] == name:
            items[-1][1].extend(data)
        elif data:
            items.append((name, bytearray(data)))

    def rich(self, output: dict[str, Any], display_id: str | None = None) -> None:
        """Add an nbformat output."""
        self._clear_if_asked()
        size = len(json.dumps(output))
        if self._rich_size + size > self.RICH and "data" in output:
            text = f"[offload: an output of {size:,} bytes is left out here: more than {self.RICH:,} in all]"
            output = {**output, "data": {"text/plain": text}}
        else:
            self._rich_size += size
        (self._tail if self._tail else self._items).append(output)
        if display_id:
            self._shown.setdefault(display_id, []).append(output)

    def update(self, display_id: str, data: Json, metadata: Json) -> None:
        """Change what was displayed under this id."""
        for output in self._shown.get(display_id, ()):
            output["data"], output["metadata"] = data, metadata

    def clear(self, wait: bool) -> None:
        """Remove all outputs, now or when the next one comes."""
        self._clear_next = True
        if not wait:
            self._clear_if_asked()

    def _clear_if_asked(self) -> None:
        if self._clear_next:
            self._clear_next = False
            self._items, self._tail, self._shown = [], [], {}
            self._head_size = self._tail_size = self._rich_size = self._lost = 0

    def outputs(self) -> list[dict[str, Any]]:
        """Return the nbformat outputs."""
        items = list(self._items)
        if self._lost:
            note = f"\n[offload: {self._lost:,} bytes of output are left out here; the job's log has them]\n"
            items.append(("stderr", bytearray(note.encode("ascii"))))
        for item in self._tail:
            if isinstance(item, tuple):
                self._add(items, item[0], bytes(item[1]))
            else:
                items.append(item)
        return [_stream_output(*item) if isinstance(item, tuple) else item for item in items]


def _stream_output(name: str, data: bytearray) -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": data.decode("utf-8", "replace")}


# ----------------------------------------------------------------------------------------------------------- 9. Environment


def build_environment(requirements: Sequence[str], cache: str) -> str:
    """Return the Python of a virtual environment with these requirements on top of this Python's packages.

    Environments are kept in ``cache`` under a digest of the sorted requirements and of this Python, and built by one process at a time; a
    marker file, written last, tells a complete one. Raises `Refused` with pip's last lines.
    """
    import fcntl
    import shutil

    wanted = json.dumps([sorted(requirements), sys.version, sys.platform, os.path.realpath(sys.executable), sys.prefix])
    target = os.path.join(cache, "env-" + hashlib.sha256(wanted.encode("utf-8")).hexdigest()[:20])
    python, marker = os.path.join(target, "bin", "python"), os.path.join(target, "offload-complete")
    if os.path.exists(marker):
        return python
    os.makedirs(cache, mode=0o700, exist_ok=True)
    with open(target + ".lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(marker):
            shutil.rmtree(target, ignore_errors=True)
            _command(
                [sys.executable, "-m", "venv", "--system-site-packages", target], "no virtual environment could be made"
            )
            _inherit_packages(python)
            pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *requirements]
            _command(pip, "pip could not install {}".format(" ".join(requirements)))
            with open(marker, "w", encoding="utf-8") as stream:
                stream.write(wanted)
    return python


def _inherit_packages(python: str) -> None:
    # --system-site-packages means the base Python's: when this Python is itself a virtual environment its own packages come by a .pth file.
    if sys.prefix == sys.base_prefix:
        return
    import site
    import subprocess

    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        stdout=subprocess.PIPE,
        check=True,
        encoding="utf-8",
    ).stdout.strip()
    with open(os.path.join(own, "offload-inherited.pth"), "w", encoding="utf-8") as stream:
        stream.write("\n".join(site.getsitepackages()) + "\n")


def _command(argv: Sequence[str], problem: str) -> None:
    import subprocess

    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines()[-15:]
        hint = "Mend --pip, choose an image that has it, or install python3-venv there; pip needs the network to a package index."
        raise Refused(fault("JobFailed", "{}:\n{}".format(problem, "\n".join(lines)), hint, exit_code=done.returncode))


def place_module(folder: str, name: str, data: Data) -> None:
    """Write one file of the user's own modules below ``folder``. Raises `Refused` for a name that leads elsewhere."""
    parts = name.split("/")
    if name.startswith("/") or "\0" in name or not all(part not in ("", ".", "..") for part in parts):
        raise Refused(fault("UsageError", f"{name!r} is no place for a module", "Send the job again."))
    path = os.path.join(folder, *parts)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as stream:
        stream.write(data)


# ----------------------------------------------------------------------------------------------------------- 10. Supervisor

_DRAIN = 1 << 20  # as much as a pipe can hold
_GRACE = 10.0  # from SIGTERM to SIGKILL for the child: the batch system leaves the job 30 s by default
_AFTERWARDS = 30.0  # for threads and exit handlers after the last message


class Supervisor:
    """The parent: starts the child, copies and records what it prints, writes the signed result."""

    def __init__(self, bundle: str, result: str) -> None:
        self._bundle = bundle
        self._result = result
        self._folder = os.path.dirname(os.path.abspath(result))
        self._started = time.time()
        self._record = self._first = Record()
        self._notebook: dict[str, Any] | None = None
        self._done: dict[str, Any] | None = None
        self._terminated = False
        self._kill_at: float | None = None
        self._child = 0
        self._usage: Any = None
        self._buffer = bytearray()
        self._mute: set[int] = set()
        with open(bundle, "rb") as stream:
            self._header = read_header(stream, os.fstat(stream.fileno()).st_size)

    # -- before the child

    def prepare(self) -> None:
        """Place modules, enter the environment of ``--pip`` (by exec), read the notebook. Raises `Refused`."""
        modules = os.path.join(self._folder, "modules")
        for part in self._header["parts"]:
            if part["role"] == "module":
                place_module(modules, part["name"], read_part(self._bundle, part))
        sys.path[0] = modules
        sys.path.insert(1, os.getcwd())
        pip = self._header["request"].get("pip") or ()
        if pip and not os.environ.pop("OFFLOAD_PIP_DONE", ""):
            self._enter_environment([str(requirement) for requirement in pip])
        if self._header["request"]["kind"] == "notebook":
            part = next(part for part in self._header["parts"] if part["role"] == "source")
            self._notebook = read_notebook(read_part(self._bundle, part))
            for _, cell in notebook_cells(self._notebook):
                cell["outputs"], cell["execution_count"] = [], None

    def _enter_environment(self, requirements: list[str]) -> None:
        self._event(offload="progress", label="installing {}".format(", ".join(requirements)))
        own = os.path.join(self._folder, "cache")
        try:
            python = build_environment(requirements, os.environ.get("OFFLOAD_CACHE") or own)
        except OSError as error:  # a cache that is full, or that cannot be written or locked
            print(f"offload: no cache for environments here: {one_line(error)}", file=sys.stderr)
            python = build_environment(requirements, own)
        os.environ["OFFLOAD_PIP_DONE"] = "1"
        os.environ["VIRTUAL_ENV"] = os.path.dirname(os.path.dirname(python))
        os.environ["PATH"] = os.path.dirname(python) + os.pathsep + os.environ.get("PATH", os.defpath)
        os.execv(python, [python, os.path.abspath(__file__), self._bundle, self._result])

    def start(self) -> Child | None:
        """Fork. Returns the work in the child, ``None`` in the parent."""
        import signal
        import socket

        ours, theirs = socket.socketpair()
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._terminate)
        self._child = os.fork()
        if self._child:
            os.close(out_write)
            os.close(err_write)
            theirs.close()
            ours.setblocking(False)  # noqa: FBT003
            self._connection = ours
            self._pipes = {out_read: 1, err_read: 2}
            for descriptor in self._pipes:
                os.set_blocking(descriptor, False)
            return None
        os.setpgid(0, 0)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(out_write, 1)
        os.dup2(err_write, 2)
        for descriptor in (out_read, out_write, err_read, err_write):
            os.close(descriptor)
        ours.close()
        channel = Channel(theirs)
        open_streams(channel)
        signal.signal(signal.SIGTERM, channel.interrupt)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        import faulthandler

        faulthandler.enable(2)
        return Child(self._bundle, self._header, self._folder, channel)

    # -- while the child runs

    def watch(self) -> None:
        """Record until the child has ended."""
        import select
        import signal

        wake, waker = os.pipe()
        for descriptor in (wake, waker):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(waker)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        if self._terminated:
            self._signal_child(signal.SIGTERM)
        poll = select.poll()
        for descriptor in (wake, self._connection.fileno(), *self._pipes):
            poll.register(descriptor, select.POLLIN)
        while not self._reap():
            for descriptor, _ in poll.poll(1000):
                if descriptor == wake:
                    os.read(wake, 4096)
                elif descriptor == self._connection.fileno():
                    if not self._read_messages():
                        poll.unregister(descriptor)
                elif not self._drain(descriptor, 1 << 16):
                    poll.unregister(descriptor)
            if self._kill_at is not None and time.monotonic() > self._kill_at:
                self._signal_child(signal.SIGKILL)
        self._read_messages()
        for descriptor in self._pipes:
            self._drain(descriptor)

    def _terminate(self, *_: object) -> None:
        import signal

        if not self._terminated:
            self._terminated = True
            self._kill_at = time.monotonic() + _GRACE
        self._signal_child(signal.SIGTERM)

    def _signal_child(self, number: int) -> None:
        if not self._child:
            return
        try:
            os.killpg(self._child, number)
        except ProcessLookupError:  # it has not made its group yet
            os.kill(self._child, number)

    def _reap(self) -> bool:
        # A signal that arrives in between must not reach another process that got the same number.
        import signal

        ours = (signal.SIGTERM, signal.SIGINT)
        signal.pthread_sigmask(signal.SIG_BLOCK, ours)
        pid, self._status, self._usage = os.wait4(self._child, os.WNOHANG)
        if pid:
            self._child = 0
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ours)
        return pid != 0

    def _drain(self, descriptor: int, most: int = _DRAIN) -> bool:
        target = self._pipes[descriptor]
        while most > 0:
            try:
                data = os.read(descriptor, 1 << 16)
            except BlockingIOError:
                return True
            if not data:
                return False
            most -= len(data)
            self._record.text("stdout" if target == 1 else "stderr", data)
            self._write(target, data)
        return True

    def _write(self, target: int, data: bytes) -> None:
        # When nobody reads the log any more (or the disk is full) the recording goes on.
        if target in self._mute:
            return
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(target, view) :]
        except OSError:
            self._mute.add(target)

    def _event(self, **event: object) -> None:
        self._write(1, b"\x1e" + json.dumps(event).encode("ascii") + b"\n")

    def _read_messages(self) -> bool:
        while True:
            try:
                data = self._connection.recv(CHUNK)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            self._buffer += data
            while len(self._buffer) >= 8:
                end = 8 + int.from_bytes(self._buffer[:8], "big")
                if len(self._buffer) < end:
                    break
                message = json.loads(bytes(self._buffer[8:end]))
                del self._buffer[:end]
                self._handle(message)

    def _handle(self, message: dict[str, Any]) -> None:
        for descriptor in self._pipes:
            self._drain(descriptor)
        kind = message.pop("type")
        if kind in ("display_data", "execute_result", "error"):
            display_id = message.pop("transient", {}).get("display_id")
            output = {"output_type": kind, **message}
            self._record.rich(output, display_id)
            self._show(output)
        elif kind == "update_display_data":
            self._record.update(message["transient"].get("display_id"), message["data"], message["metadata"])
        elif kind == "clear_output":
            self._record.clear(message["wait"])
        elif kind == "cell" and self._notebook is not None:
            done, total = message["place"], message["total"]
            self._event(offload="progress", done=done, total=total, label=f"cell {done + 1} of {total}")
            self._record = Record()
            self._notebook["cells"][message["index"]]["outputs"] = self._record
        elif kind == "cell_end" and self._notebook is not None:
            done, total = message["place"] + 1, message["total"]
            if done == total:
                self._event(offload="progress", done=done, total=total, label=f"all {total} cells are through")
            self._notebook["cells"][message["index"]]["execution_count"] = message["count"]
        elif kind == "done":
            self._done = message
            self._kill_at = time.monotonic() + _AFTERWARDS
        try:
            self._connection.send(b"\x06")
        except OSError:
            return

    def _show(self, output: Json) -> None:
        data = json.dumps(output)
        self._event(offload="display", **({"output": output} if len(data) < CHUNK else {"size": len(data)}))

    # -- afterwards

    def finish(self, refused: dict[str, Any] | None = None) -> int:
        """Write the result; return the exit code of the job."""
        found = refused or self._fault()
        done = self._done or {}
        main = {
            "kind": self._header["request"]["kind"],
            "error": found,
            "problems": done.get("problems", {}),
            "facts": self._facts(done.get("ipython")),
        }
        values: list[dict[str, Any]] = done.get("values", [])
        try:
            self._write_result(main, values)
        except OSError as error:
            message = f"the result could not be written: {one_line(error)}"
            problem = fault("DiskExceeded", message, "Ask for more with --disk.")
            main["error"] = main["error"] or problem
            main["problems"].update({part["name"]: {**problem, "details": {"name": part["name"]}} for part in values})
            self._remove_values()
            self._write_result(main, [])
        self._remove_values()
        found = main["error"]
        self._event(offload="result", status="error" if found else "ok", error=found and found["error"])
        if found:
            code = found["details"].get("exit_code")
            return code if isinstance(code, int) and 0 < code < 256 else 1
        return 1 if main["problems"] else 0

    def _fault(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._done["fault"] if self._done else None
        if self._terminated:
            details = found["details"] if found else {}
            hint = "It was cancelled, evicted, or ran out of its time: see the job's reason."
            return fault(
                "JobFailed", ENDED, hint, **{**details, "reason": "Terminated", "signal": 15, "exit_code": 143}
            )
        if self._done:
            return found
        if os.WIFSIGNALED(self._status):
            return _signal_fault(os.WTERMSIG(self._status))
        code = os.WEXITSTATUS(self._status)
        message = f"the process ended itself with exit code {code} before the code was through"
        return fault(
            "JobFailed", message, "Read what it printed; os._exit gives no time to send anything.", exit_code=code
        )

    def _facts(self, ipython: str | None) -> dict[str, Any]:
        usage = self._usage
        return {
            "python": sys.version.partition(" ")[0],
            "implementation": sys.implementation.name,
            "ipython": ipython,
            "host": os.uname().nodename,
            "started": self._started,
            "wall_seconds": time.time() - self._started,
            "cpu_seconds": usage.ru_utime + usage.ru_stime if usage else 0.0,
            "max_rss_bytes": usage.ru_maxrss * 1024 if usage else 0,
        }

    def _write_result(self, main: Json, values: list[dict[str, Any]]) -> None:
        blobs: list[Iterable[Data]] = []
        parts: list[Json] = []
        documents: list[tuple[str, object]] = [("outputs", self._first.outputs())]
        if self._notebook is not None:
            cells = [
                {**cell, "outputs": _recorded(cell["outputs"])} if "outputs" in cell else cell
                for cell in self._notebook["cells"]
            ]
            documents.append(("notebook", {**self._notebook, "cells": cells}))
        for role, document in documents:
            data = json.dumps(document).encode("ascii")
            parts.append(describe_part(role, role, "raw", [data], {}))
            blobs.append([data])
        place = 0
        for part in values:
            blobs.append(file_chunks(os.path.join(self._folder, "values"), place, part["size"]))
            parts.append(part)
            place += part["size"]
        header = {"format": 1, "python": minor_version(), "main": main, "parts": parts}
        write_bundle(self._result, header, blobs, self._header.get("key"))

    def _remove_values(self) -> None:
        path = os.path.join(self._folder, "values")
        if os.path.exists(path):
            os.unlink(path)


def _recorded(outputs: Any) -> Any:
    return outputs.outputs() if isinstance(outputs, Record) else outputs


def _signal_fault(number: int) -> dict[str, Any]:
    import signal

    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"SIG{number}"
    hint = "Read what it printed."
    if number == signal.SIGKILL:
        hint = "Most often that is the operating system when memory runs out: ask for more with --memory."
    elif number == signal.SIGSEGV:
        hint = "Compiled code crashed; its log tells at which line of the cell."
    message = f"the process was ended by signal {number} ({name})"
    return fault("JobFailed", message, hint, signal=number, exit_code=128 + number)


def main(argv: Sequence[str]) -> int:
    """Run the bundle beside this file, or ``runner.py BUNDLE RESULT``; return the exit code."""
    here = os.path.dirname(os.path.abspath(__file__))
    bundle, result = argv[1:3] if len(argv) >= 3 else (os.path.join(here, "bundle"), os.path.join(here, "result"))
    try:
        supervisor = Supervisor(bundle, result)
    except (BundleError, OSError) as error:
        print(f"offload: the inputs cannot be read: {one_line(error)}", file=sys.stderr)
        return 3
    try:
        supervisor.prepare()
    except Refused as refused:
        return supervisor.finish(refused.fault)
    except (OSError, BundleError) as error:
        message = f"the run could not be prepared: {one_line(error)}"
        return supervisor.finish(
            fault("JobFailed", message, "Send the job again; see `%offload doctor` for the site.", exit_code=3)
        )
    work = supervisor.start()
    if work is not None:
        return work.run()
    supervisor.watch()
    return supervisor.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
