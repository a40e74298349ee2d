"""Names inside strings: IPython's magics and shell lines, `eval`, data-frame queries.

IPython's transform turns ``%timeit f(q)`` into ``get_ipython().run_line_magic('timeit', 'f(q)')`` and ``!ls {d} $e``
into ``get_ipython().system('ls {d} $e')``; what runs there reads the user's namespace all the same.
"""

from __future__ import annotations

import ast
import re
import string
from dataclasses import dataclass

RUNS_HERE = {"time": "", "capture": "", "prun": "DlrsT", "memit": "rtim", "snakeviz": "f", "pyinstrument": ""}
"""Magics that run Python in the user's namespace, with their one-letter options that take a value."""

RUNS_APART = {"timeit": "nrpP", "lprun": "fmDTsuz", "mprun": "fT"}
"""Magics that run Python in a function of their own: what it binds stays there."""

ABOUT_NAMES = frozenset({"pinfo", "pinfo2", "pdef", "pdoc", "psource", "pfile", "psearch", "store", "who_ls"})
SHELL = frozenset({"system", "getoutput", "getoutput_pipe", "system_raw"})
_OPTION = re.compile(r"\s*--?([A-Za-z][\w-]*)(=\S*)?(?=\s|$)|\s*-([A-Za-z])(\d[\w.]*)(?=\s|$)")
_WORD = re.compile(r"\s*(\S+)")
_NAME = re.compile(r"[^\W\d]\w*")
_DOLLAR = re.compile(r"(?<!\$)\$([^\W\d]\w*)")
_AT = re.compile(r"@([^\W\d]\w*)")


@dataclass(slots=True, eq=False)
class Hidden:
    """What a call hides: names, parsed code, whether that is a function of its own, and what cannot be seen."""

    names: tuple[str, ...] = ()
    trees: tuple[list[ast.stmt], ...] = ()
    isolated: bool = False
    optional: bool = True
    blind: str | None = None


def parse(code: str) -> list[ast.stmt] | None:
    """Return the statements of `code`, or None when it is not Python."""
    try:
        return ast.parse(code.strip("\n") + "\n").body
    except (SyntaxError, ValueError):
        return None


def reveal(node: ast.Call) -> Hidden | None:
    """Return what the strings of this call hide, or None when the call is of no such kind."""
    function = node.func
    if isinstance(function, ast.Name):
        return _builtin(function.id, node)
    if not isinstance(function, ast.Attribute):
        return None
    texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    if _is_shell(function.value):
        if function.attr in SHELL and texts:
            return _expanded(texts[0])
        if function.attr in ("run_line_magic", "run_cell_magic") and len(texts) > 1:
            return _magic(texts[0], texts[1], texts[2] if len(texts) > 2 else None)
    if function.attr in ("query", "eval") and texts:
        return Hidden(names=tuple(_AT.findall(texts[0])))
    return None


def _is_shell(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "get_ipython"


def _builtin(name: str, node: ast.Call) -> Hidden | None:
    if name in ("globals", "locals") or (name in ("vars", "dir") and not node.args):
        return Hidden(blind=f"{name}()")
    if name not in ("eval", "exec") or not node.args:
        return None
    first = node.args[0]
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        tree = parse(first.value)
        return Hidden(trees=(tree,), optional=False) if tree is not None and len(node.args) == 1 else None
    return Hidden(blind=f"{name}(…)")


def _magic(name: str, line: str, body: str | None) -> Hidden:
    expanded = _expanded(line)
    if name in RUNS_HERE or name in RUNS_APART:
        code, values = _without_options(line, RUNS_HERE.get(name, RUNS_APART.get(name, "")))
        parts = [code] if body is None else [code if name in RUNS_APART else "", body]
        trees, names = [], list(expanded.names)
        for part in (*parts, *(value for value in values if value.isidentifier())):
            tree = parse(part)
            if tree is None:
                names += _NAME.findall(part)
            elif tree:
                trees.append(tree)
        if name in RUNS_APART:
            trees = [[statement for tree in trees for statement in tree]]
        return Hidden(tuple(names), (*expanded.trees, *trees), isolated=name in RUNS_APART)
    if name in ABOUT_NAMES:
        return Hidden(tuple(_NAME.findall(line)))
    if name in ("run", "macro", "load", "recall", "rerun", "loadpy"):
        return Hidden(expanded.names, expanded.trees, blind=f"%{name}")
    return expanded


def _without_options(line: str, with_value: str) -> tuple[str, list[str]]:
    """Return the code of a magic's line and the values of its options."""
    values = []
    while match := _OPTION.match(line):
        line = line[match.end() :]
        letter, attached = match.group(1), match.group(2)
        if letter and len(letter) == 1 and letter in with_value and not attached:
            value = _WORD.match(line)
            if value:
                values.append(value.group(1))
                line = line[value.end() :]
    return line.strip(), values


def _expanded(text: str) -> Hidden:
    """Return the names of ``{expression}`` and ``$name``, which IPython replaces when it can (`DollarFormatter`)."""
    try:
        fields = list(string.Formatter().parse(text))
    except ValueError:
        return Hidden()  # unbalanced braces: IPython leaves the whole line alone
    names: list[str] = []
    trees = []
    for literal, expression, format_spec, _ in fields:
        names += _DOLLAR.findall(literal)
        if expression:
            tree = parse(expression)
            if tree is not None:
                trees.append(tree)
        if format_spec:
            nested = _expanded(format_spec)
            names += nested.names
            trees += nested.trees
    return Hidden(tuple(names), tuple(trees))
