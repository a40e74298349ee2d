"""A cell as the runner takes it: which of its names travel, and how.

Modules become imports, functions and classes of the notebook travel as source with what they use, everything else as values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jupyter_offload.errors import CaptureError, UnknownName
from jupyter_offload.payload.capture import Capture, Unit
from jupyter_offload.payload.codecs import Encoded, encode
from jupyter_offload.payload.names import Blind, free_names

__all__ = ["HIDDEN", "PlannedCell", "needed_names", "plan_cell"]

HIDDEN = frozenset(
    {
        "In",
        "Out",
        "_",
        "__",
        "___",
        "_i",
        "_ii",
        "_iii",
        "_dh",
        "_oh",
        "_ih",
        "get_ipython",
        "exit",
        "quit",
        "open",
        "offload",
    }
)
"""Names that IPython puts into every namespace: they never travel by themselves."""


@dataclass(frozen=True)
class PlannedCell:
    """What travels with a cell: ``main`` for the bundle's header, and the values behind it."""

    main: Mapping[str, Any]
    values: Mapping[str, Encoded]
    functions: tuple[str, ...]
    """Names of notebook functions and classes that travel as source."""
    modules: tuple[str, ...]
    """Dotted names of the modules that the cell and its functions import."""
    blind: tuple[Blind, ...]
    """Constructs that may read names which the text does not show."""

    @property
    def python_bound(self) -> bool:
        """Whether only an equal Python minor can run it."""
        return any(value.python_bound for value in self.values.values())


def needed_names(
    transformed: str, user_ns: Mapping[str, object], inputs: Sequence[str] | None, hidden: Collection[str]
) -> tuple[str, ...]:
    """Return the names that travel: those of ``inputs``, or (None) the free names of the cell that exist in the namespace.

    ``hidden`` are names that were there before the user began. Raises `UnknownName` for an input that does not exist, and `CaptureError`
    for a cell that is no valid Python.
    """
    if inputs is None:
        found = free_names(transformed)
        builtin = {load.name for load in found.loads if load.builtin}
        return tuple(
            name for name in found.needed(set(user_ns) - set(hidden)) if name not in builtin or name not in HIDDEN
        )
    for name in inputs:
        if name not in user_ns:
            raise UnknownName(
                f"-i {name}: the notebook has no such name", hint="Check the spelling, or leave -i out.", name=name
            )
    return tuple(dict.fromkeys(inputs))


def plan_cell(
    source: str,
    transformed: str,
    user_ns: Mapping[str, object],
    *,
    filename: str,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] = (),
    hidden: Collection[str] = (),
) -> PlannedCell:
    """Return how a cell travels.

    ``source`` is the cell as typed, ``transformed`` the same after IPython's own transform. Raises `CannotEncode`, naming the variable,
    and what `needed_names` raises.
    """
    names = needed_names(transformed, user_ns, inputs, hidden)
    for name in outputs:
        if not name.isidentifier():
            raise CaptureError(f"-o {name}: not a name", hint="Separate names by commas: -o scores,model.")
    capture = Capture(user_ns)
    root = Unit("", None)
    for name in names:
        capture.bind(root, name, user_ns[name], strong=True)
    pieces = [asdict(piece) for piece in capture.ordered(root)]
    found = free_names(transformed)
    return PlannedCell(
        main={
            "source": source,
            "filename": filename,
            "outputs": list(outputs),
            "imports": list(capture.imports),
            "pieces": pieces,
        },
        values={name: encode(value, name=name) for name, value in capture.values.items()},
        functions=tuple(
            name for name in names if name not in capture.values and any(unit.name == name for unit in root.strong)
        ),
        modules=tuple(dict.fromkeys([*capture.modules, *(item.path for item in found.imports)])),
        blind=found.blind,
    )
