"""Where a notebook function or class is written: its node in the syntax tree and the exact text of it.

IPython registers every cell in `linecache`; that text is trusted only when compiling it gives the very code object
that the function runs, so an edited file or a reused cell name is never sent by mistake.
"""

from __future__ import annotations
import __future__

import ast
import functools
import linecache
import sys
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass

from jupyter_offload.payload.flow.scope import bindings

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda

FUTURE = __future__.annotations.compiler_flag

POSITIONS = sys.version_info >= (3, 11)
"""Since Python 3.11 a code object knows the columns of its instructions."""


@dataclass(frozen=True, slots=True)
class Found:
    """A definition in its file: its node, the file's text and name."""

    node: Definition
    text: str
    filename: str

    @property
    def first_line(self) -> int:
        """The line (from 1) on which the definition starts, its decorators included."""
        decorators: list[ast.expr] = getattr(self.node, "decorator_list", [])
        return min([self.node.lineno, *(item.lineno for item in decorators)])


def find_function(function: types.FunctionType) -> Found | None:
    """Return where `function` is written, or None when that cannot be told for sure."""
    code = function.__code__
    parsed = _parse(code.co_filename, code.co_flags)
    if parsed is None or code not in parsed[1]:
        return None
    text, _, tree = parsed
    kinds = (ast.Lambda,) if code.co_name == "<lambda>" else (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [
        place
        for node in ast.walk(tree)
        if isinstance(node, kinds)
        and (place := Found(node, text, code.co_filename)).first_line == code.co_firstlineno
        and getattr(node, "name", "<lambda>") == code.co_name
    ]
    if len(found) > 1:
        same = _returns_at if POSITIONS else _compiles_to
        found = [place for place in found if same(code, place.node)]
    if len(found) == 1 or (found and len({ast.dump(place.node) for place in found}) == 1):
        return found[0]
    return None


def find_class(cls: type) -> Found | None:
    """Return where `cls` is written, or None when that cannot be told for sure.

    A class does not know its file, its methods do; without methods of its own the cells are searched.
    """
    inner = [value.fget if isinstance(value, property) else value for value in vars(cls).values()]
    inner = [getattr(value, "__func__", value) for value in inner]
    functions = [value for value in inner if isinstance(value, types.FunctionType)]
    own = [item for item in functions if item.__qualname__ == f"{cls.__qualname__}.{item.__name__}"]
    codes = [item.__code__ for item in own if item.__code__.co_filename in linecache.cache]
    names = [code.co_filename for code in codes] or [name for name in list(linecache.cache) if _is_cell(name)]
    found = []
    for filename in dict.fromkeys(names):
        parsed = _parse(filename, codes[0].co_flags if codes else 0)
        if parsed is None or not set(codes) <= parsed[1]:
            continue
        found += [
            Found(node, parsed[0], filename)
            for node in ast.walk(parsed[2])
            if isinstance(node, ast.ClassDef) and node.name == cls.__name__ and _may_be(node, cls, codes)
        ]
    if found and len({ast.dump(place.node) for place in found}) == 1:
        return found[-1]
    return None


def _is_cell(filename: str) -> bool:
    return "ipython-input" in filename or "ipykernel_" in filename


def _may_be(node: ast.ClassDef, cls: type, codes: list[types.CodeType]) -> bool:
    """Tell whether `node` can be where `cls` comes from: it has the methods, and none was put in later."""
    found = bindings(node.body).names | {
        item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    if any(not name.startswith("_") and name not in found for name in vars(cls)):
        return False
    if codes:
        return all(node.lineno <= code.co_firstlineno <= (node.end_lineno or 0) for code in codes)
    return not any(isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)) for item in node.body)


def _parse(filename: str, code_flags: int) -> tuple[str, frozenset[types.CodeType], ast.Module] | None:
    """Return a file's text, all code objects that it compiles to, and its tree.

    `code_flags` are those of the code that is looked for: a ``from __future__`` import holds for the rest of an IPython
    session.
    """
    text = "".join(linecache.getlines(filename))
    return _compiled(text, filename, code_flags & FUTURE) if text else None


@functools.lru_cache(maxsize=8)
def _compiled(text: str, filename: str, future: int) -> tuple[str, frozenset[types.CodeType], ast.Module] | None:
    """Compile a text once for all of its functions.

    IPython compiles a cell statement by statement, a script is compiled whole, and the two give different code for a
    call of an imported module's function; so both ways count.
    """
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | future
    try:
        tree = ast.parse(text)
        units = [ast.Module([statement], []) for statement in tree.body]
        made = [compile(unit, filename, "exec", flags=flags, dont_inherit=True) for unit in [tree, *units]]
    except (SyntaxError, ValueError):
        return None
    return text, frozenset(code for unit in made for code in _walk(unit)), tree


def _walk(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _walk(constant)


def _returns_at(code: types.CodeType, node: ast.AST) -> bool:
    """Tell whether an instruction of `code` stands for the whole body of the lambda `node`."""
    if not isinstance(node, ast.Lambda):
        return False
    body = node.body
    return (body.lineno, body.end_lineno, body.col_offset, body.end_col_offset) in code.co_positions()


def _compiles_to(code: types.CodeType, node: ast.AST) -> bool:
    """Tell whether the lambda `node` compiles to `code` where it stands; never so for a closure."""
    if not isinstance(node, ast.Lambda):
        return False
    flags = code.co_flags & FUTURE
    return code in _walk(compile(ast.Expression(node), "", "eval", flags=flags, dont_inherit=True))


@dataclass(frozen=True, slots=True)
class Replacement:
    """A piece of text that stands for the expression `node`."""

    node: ast.expr
    text: str


def definition_text(found: Found, replacements: list[Replacement], *, decorators: bool = True) -> str:
    """Return the lines of a definition with its indentation, without its decorators if asked.

    Replaced expressions keep their number of lines, so that a traceback's line numbers stay true.
    """
    node = found.node
    lines = found.text.splitlines(keepends=True)
    encoded = [line.encode() for line in lines]
    for replacement in sorted(replacements, key=lambda item: (item.node.lineno, item.node.col_offset), reverse=True):
        old = replacement.node
        first, last = old.lineno - 1, (old.end_lineno or old.lineno) - 1
        tail = encoded[last][old.end_col_offset :]
        encoded[first] = (
            encoded[first][: old.col_offset]
            + replacement.text.encode()
            + (tail if first == last else b"\n" * (last - first) + tail)
        )
        for index in range(first + 1, last + 1):
            encoded[index] = b""
    start = found.first_line if decorators else node.lineno
    text = b"".join(encoded[start - 1 : node.end_lineno]).decode()
    if isinstance(node, ast.Lambda):
        return _lambda_text(found, encoded)
    return text if text.endswith("\n") else text + "\n"


def _lambda_text(found: Found, encoded: list[bytes]) -> str:
    """Return the expression itself in brackets; what follows it on its last line does not belong to it."""
    node = found.node
    last = (node.end_lineno or node.lineno) - 1
    surplus = len(found.text.splitlines(keepends=True)[last].encode()) - (node.end_col_offset or 0)
    joined = b"".join(encoded[node.lineno - 1 : last + 1])
    return "(" + joined[node.col_offset : len(joined) - surplus].decode() + ")"


def dedented(text: str) -> str | None:
    """Return `text` without its common indentation, or None when that would change a string in it."""
    flat = textwrap.dedent(text)
    if flat == text:
        return text
    try:
        same = ast.dump(ast.parse(flat)) == ast.dump(ast.parse("if True:\n" + text).body[0].body[0])  # type: ignore[attr-defined]
    except SyntaxError:
        return None
    return flat if same else None
