"""`jupyter offload run`: the options of `%offload run`, in a terminal."""

from __future__ import annotations

import concurrent.futures
import sys
from collections.abc import Sequence
from pathlib import Path

from jupyter_offload.errors import UsageError
from jupyter_offload.job import Job, Kind
from jupyter_offload.kernel.lines import save_notebook
from jupyter_offload.kernel.options import parse_options, run_parser
from jupyter_offload.kernel.prepare import Prepared, prepare_command, prepare_notebook
from jupyter_offload.kernel.session import Session
from jupyter_offload.kernel.submitting import send

__all__ = ["run_words"]


def run_words(words: Sequence[str], session: Session, *, quiet: bool) -> Job | None:
    """Submit what the words say and return the job's record; with ``--wait`` print its log until it has ended.

    Returns None when only help or a dry run was asked for. Raises `UsageError` and what the service refuses.
    """
    before, command = list(words), []
    if "--" in before:
        place = before.index("--")
        before, command = before[:place], before[place + 1 :]  # typer keeps the `--` that ends our options
    parser = run_parser()
    parser.prog = "jupyter offload run"
    found = parser.read(before)
    if found.help:
        print(parser.format_help().replace("%offload", "jupyter offload"))
        return None
    if bool(found.notebook) == bool(command):
        raise UsageError(
            "say either a notebook or a command",
            hint="Such as: jupyter offload run analysis.ipynb, or: jupyter offload run --image science -- python train.py",
        )
    options = parse_options(found, cell=False)
    prepared: Prepared
    if command:
        prepared = prepare_command(command, options, origin=None, folder=Path.cwd())
    else:
        prepared = prepare_notebook(Path(found.notebook), options, {}, origin=None, folder=Path.cwd())
    if options.dry_run:
        print(session.client.dry_run(prepared.request)["script"])
        return None
    job, _ = send(prepared, again=options.again, reuse=options.reuse, to=session)
    if options.waits:
        _print_log(session, job.record, quiet=quiet)
        concurrent.futures.wait([job])
        if prepared.request.kind is Kind.NOTEBOOK:
            target = (
                Path(found.output)
                if found.output
                else Path(found.notebook).with_name(f"{Path(found.notebook).stem}.offload.ipynb")
            )
            written = save_notebook(job, target.absolute())
            print(f"executed notebook: {written}", file=sys.stderr)
    return session.client.job(job.id)


def _print_log(session: Session, record: Job, *, quiet: bool) -> None:
    offset, ended = 0, False
    while not ended:
        piece = session.client.logs(record.id, "stdout", offset=offset, wait_seconds=5.0)
        offset, ended = piece.offset + len(piece.data), piece.end
        if not quiet:
            sys.stdout.buffer.write(
                b"".join(line for line in piece.data.splitlines(keepends=True) if not line.startswith(b"\x1e"))
            )
            sys.stdout.flush()
        if not piece.data and session.client.job(record.id).state.terminal:
            return
