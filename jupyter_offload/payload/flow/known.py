"""What is known of decorators, context managers, base classes and iterables without running them."""

from __future__ import annotations

import ast
import builtins

HARMLESS_DECORATORS = frozenset(
    {
        "property",
        "setter",
        "getter",
        "deleter",
        "staticmethod",
        "classmethod",
        "abstractmethod",
        "cached_property",
        "lru_cache",
        "cache",
        "wraps",
        "overload",
        "override",
        "final",
        "dataclass",
        "total_ordering",
        "singledispatch",
        "contextmanager",
        "asynccontextmanager",
    }
)
"""Decorators of the standard library that do not call what they decorate when they are applied."""

NEVER_SUPPRESS = frozenset(
    {
        "open",
        "File",
        "errstate",
        "no_grad",
        "catch_warnings",
        "nullcontext",
        "closing",
        "chdir",
        "redirect_stdout",
        "redirect_stderr",
        "Pool",
        "ThreadPoolExecutor",
        "ProcessPoolExecutor",
        "Executor",
        "TemporaryDirectory",
        "NamedTemporaryFile",
        "TemporaryFile",
        "ZipFile",
        "Lock",
        "RLock",
        "Session",
        "connect",
        "urlopen",
        "context",
        "rc_context",
        "option_context",
        "printoptions",
        "inference_mode",
        "enable_grad",
        "set_grad_enabled",
        "autocast",
        "device",
        "strategy",
        "Popen",
        "memmap",
        "load",
        "recreate",
        "update",
        "create",
        "tqdm",
    }
)
"""Context managers, by the last part of their name, known to let every exception pass.

Any other may swallow one, and then what its block was to bind is still unbound after it.
"""

CATCH_NAME_ERROR = frozenset({"NameError", "Exception", "BaseException"})


def has_elements(node: ast.expr) -> bool:
    """Tell whether a loop over `node` has at least one round, as over ``range(3)`` or ``("a", "b")``."""
    if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        return any(not isinstance(item, ast.Starred) for item in node.elts)
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (str, bytes)) and bool(node.value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        values = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, int)]
        return len(values) == len(node.args) in (1, 2) and bool(range(*values))
    return False


def is_irrefutable(case: ast.match_case) -> bool:
    """Tell whether a case matches everything."""
    pattern = case.pattern
    return case.guard is None and isinstance(pattern, ast.MatchAs) and pattern.pattern is None


def catches_name_error(node: ast.expr | None) -> bool:
    """Tell whether an `except` clause catches `NameError`."""
    if node is None:
        return True
    if isinstance(node, ast.Tuple):
        return any(catches_name_error(item) for item in node.elts)
    return isinstance(node, ast.Name) and node.id in CATCH_NAME_ERROR


def _last_name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Call):
        return _last_name(node.func)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None


def manager_name(node: ast.expr) -> str | None:
    """Return the last part of the name that a context manager is made by, None for one that exists already."""
    return _last_name(node.func) if isinstance(node, ast.Call) else None


def is_harmless(node: ast.expr) -> bool:
    """Tell whether a decorator is known not to call what it decorates."""
    return _last_name(node) in HARMLESS_DECORATORS


def is_known_base(name: str) -> bool:
    """Tell whether a base class is known not to call its subclasses' methods when they are defined."""
    return name == "ABC" or isinstance(getattr(builtins, name, None), type)
