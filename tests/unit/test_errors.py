"""The tree of errors is the one that the docstring draws, and it survives the REST API and pickling."""

from __future__ import annotations

import pickle
import re

import pytest

from jupyter_offload import errors

KINDS = [getattr(errors, name) for name in errors.__all__ if name != "from_json"]


def test_the_docstring_draws_the_whole_tree():
    drawn: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"    ([ │├└─]*)([A-Z]\w+)", line)
        if match:
            depth = len(match[1])
            stack = [entry for entry in stack if entry[0] < depth]
            drawn[match[2]] = stack[-1][1] if stack else "Exception"
            stack.append((depth, match[2]))
    assert drawn == {kind.__name__: kind.__base__.__name__ for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_a_hint_and_survives(kind):
    error = kind("what happened", job_id="j", path="spec.x", line=3)
    assert error.hint
    assert str(error).startswith("what happened\n  → ")
    for copy in (errors.from_json(error.to_json()), pickle.loads(pickle.dumps(error))):
        assert type(copy) is kind
        assert copy.to_json() == error.to_json()
    assert error.path == "spec.x"
    with pytest.raises(AttributeError):
        _ = error.colour


def test_an_unknown_type_becomes_the_root():
    assert type(errors.from_json({"error": "Nope", "message": "m"})) is errors.OffloadError
