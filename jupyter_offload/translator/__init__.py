"""Pod → one bash script and its inputs.

`translate` is pure; `write` puts the result into a job's folder; `frames.FrameParser` reads what the script writes to its standard
output; `translate_manifest` reads a manifest file into a Work.
"""

from __future__ import annotations

from jupyter_offload.translator.documents import translate_manifest
from jupyter_offload.translator.options import Options, Policy
from jupyter_offload.translator.resources import Needs
from jupyter_offload.translator.script import Translation, translate
from jupyter_offload.translator.write import WrittenScript, write

__all__ = ["Needs", "Options", "Policy", "Translation", "WrittenScript", "translate", "translate_manifest", "write"]
