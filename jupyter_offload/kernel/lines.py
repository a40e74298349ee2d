"""``%offload …``: the jobs, and what can be done with them."""

from __future__ import annotations

import difflib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_offload.errors import OffloadError, ResultUnavailable, UnknownName, UsageError
from jupyter_offload.job import Kind
from jupyter_offload.kernel.api import get
from jupyter_offload.kernel.display import CellSink, show_bundle, show_card
from jupyter_offload.kernel.follow import follow
from jupyter_offload.kernel.future import Job
from jupyter_offload.kernel.options import Options, Parser, cell_parser, parse_options, run_parser, split
from jupyter_offload.kernel.prepare import prepare_command, prepare_notebook
from jupyter_offload.kernel.preview import show_preview
from jupyter_offload.kernel.session import session
from jupyter_offload.kernel.submitting import current_folder, origin_of, send
from jupyter_offload.kernel.tables import JOBS_HEAD, SITES_HEAD, jobs_rows, sites_rows, table_bundle
from jupyter_offload.kernel.waiting import finish, interruptible, show_again, stream, twin_note
from jupyter_offload.quantity import parse_bytes, parse_duration, show_bytes

if TYPE_CHECKING:
    from jupyter_offload.kernel.binding import Binder

__all__ = ["COMMANDS", "Lines"]

COMMANDS: dict[str, str] = {
    "list": "the jobs, newest first",
    "show": "state, reason and resources of a job",
    "logs": "what a job printed (-f: follow it)",
    "result": "show a job's outputs and bind its names again",
    "wait": "wait for jobs",
    "cancel": "stop jobs",
    "delete": "forget ended jobs and their files",
    "run": "run a container command or a whole notebook",
    "sites": "where jobs can run",
    "doctor": "check each link of the chain to a site",
    "clean": "remove ended jobs by age and size",
    "help": "show this",
}
JOB_COMMANDS = frozenset({"show", "logs", "result", "wait", "cancel", "delete"})


class Lines:
    """The line magics."""

    def __init__(self, shell: Any, binder: Binder) -> None:
        self._shell = shell
        self._binder = binder

    def run(self, line: str) -> object:
        """Run one line. Raises `UsageError` or what the command raises."""
        words = split(line)
        command, rest = (words[0], words[1:]) if words else ("list", [])
        if command in ("-h", "--help"):
            command = "help"
        if command.startswith("-"):
            raise UsageError(
                f"%offload {command}: options belong to a cell or to a command",
                hint="Write %%offload (two signs) above a cell, or %offload run ….",
            )
        if command not in COMMANDS:
            close = difflib.get_close_matches(command, COMMANDS, n=1)
            hint = f"Did you mean %offload {close[0]}?" if close else f"There are: {', '.join(COMMANDS)}."
            raise UnknownName(f"there is no %offload {command}", hint=hint)
        action: Callable[[list[str]], object] = getattr(self, f"_{command}")
        return action(rest)

    # -- looking

    def _help(self, words: list[str]) -> None:  # noqa: ARG002
        width = max(map(len, COMMANDS))
        print("\n".join(f"%offload {name.ljust(width)}  {text}" for name, text in COMMANDS.items()))
        print(f"\nAbove a cell:\n\n{cell_parser().format_help()}")

    def _list(self, words: list[str]) -> None:
        parser = Parser("%offload list")
        parser.add_argument("-n", type=int, default=30, help="how many")
        found = parser.read(words)
        if _helped(parser, found):
            return
        _, jobs, _ = session().client.jobs(limit=found.n)
        rows = jobs_rows(jobs, time.time())
        show_bundle(*table_bundle("Jobs", JOBS_HEAD, rows, "no jobs yet: write %%offload above a cell"))

    def _sites(self, words: list[str]) -> None:
        Parser("%offload sites").read(words)
        show_bundle(*table_bundle("Sites", SITES_HEAD, sites_rows(session().client.sites()), "no sites"))

    def _doctor(self, words: list[str]) -> None:
        parser = Parser("%offload doctor")
        parser.add_argument("site", nargs="?")
        found = parser.read(words)
        if _helped(parser, found):
            return
        first: dict[str, Any] | None = None
        for check in session().client.doctor(found.site):
            mark = {True: "✓", False: "✗", None: "–"}[check["ok"]]
            print(f"{mark} {check['name']:<24} {check['detail']}  ({check['seconds']:.1f} s)", flush=True)
            if check["ok"] is False and first is None:
                first = check
        print(f"\nFirst thing to fix: {first['name']}: {first['hint']}" if first else "\nEverything works.")

    def _show(self, words: list[str]) -> None:
        for job in self._jobs("show", words):
            job.refresh()
            show_card(job)

    def _logs(self, words: list[str]) -> None:
        parser = _job_parser("logs")
        parser.add_argument("-f", "--follow", action="store_true", help="go on until the job has ended")
        parser.add_argument("--stderr", action="store_true", help="only what went to stderr")
        found = parser.read(words)
        if _helped(parser, found):
            return
        for job in map(get, _named(parser, found.jobs)):
            if found.follow:
                interruptible(job, lambda job=job: follow(job, CellSink(self._shell), rich=False))  # type: ignore[misc]
                continue
            sink = CellSink(self._shell)
            for stream_name in ["stderr"] if found.stderr else ["stdout", "stderr"]:
                sink.text(stream_name, job.logs(stream_name))

    def _result(self, words: list[str]) -> object:
        value: object = None
        for job in self._jobs("result", words):
            if job.record.request.kind is Kind.NOTEBOOK:
                finish(job, self._shell)
                print(f"executed notebook: {save_notebook(job, None)}")
                continue
            value = show_again(job, self._shell)
            if job.record.request.kind is Kind.COMMAND:
                CellSink(self._shell).text("stdout", job.logs())
        return value

    # -- steering

    def _wait(self, words: list[str]) -> None:
        for job in self._jobs("wait", words):
            interruptible(job, lambda job=job: job.wait() and None)  # type: ignore[misc]
            print(f"{job.shown}  {job.state.value}" + (f": {job.reason}" if job.reason else ""))

    def _cancel(self, words: list[str]) -> None:
        for job in self._jobs("cancel", words):
            if job.state.terminal:
                print(f"{job.shown} has already ended: {job.state.value}")
                continue
            job.cancel()
            print(f"{job.shown}  {job.state.value}")

    def _delete(self, words: list[str]) -> None:
        for job in self._jobs("delete", words):
            job.delete()
            print(f"{job.shown} and its files are gone")

    def _clean(self, words: list[str]) -> None:
        parser = Parser("%offload clean", "Remove ended jobs, their results and files.")
        parser.add_argument("--older-than", metavar="TIME", help="only those that ended so long ago: 7d")
        parser.add_argument("--max-size", metavar="SIZE", help="the oldest, until what is kept is below: 10GiB")
        parser.add_argument("--dry-run", action="store_true", help="only say what would go")
        found = parser.read(words)
        if _helped(parser, found):
            return
        age = parse_duration(found.older_than, field="--older-than") if found.older_than else None
        size = parse_bytes(found.max_size, field="--max-size") if found.max_size else None
        cleaned = session().client.clean(older_than_seconds=age, max_bytes=size, dry_run=found.dry_run)
        count = len(cleaned["removed"])
        verb = "would remove" if found.dry_run else "removed"
        print(f"{verb} {count} job{'' if count == 1 else 's'}, {show_bytes(int(cleaned['bytes']))}")

    # -- running

    def _run(self, words: list[str]) -> None:
        command: list[str] = []
        if "--" in words:
            place = words.index("--")
            words, command = words[:place], words[place + 1 :]
        parser = run_parser()
        found = parser.read(words)
        if _helped(parser, found):
            return
        options = parse_options(found, cell=False)
        if bool(found.notebook) == bool(command):
            raise UsageError(
                "say either a notebook or a command",
                hint="Such as: %offload run analysis.ipynb, or: %offload run --image science -- python train.py",
            )
        if command:
            self._run_command(command, options)
            return
        if not found.notebook.endswith(".ipynb"):
            raise UsageError(
                f"{found.notebook!r} is no notebook", hint=f"To run a program, write: %offload run -- {found.notebook}"
            )
        self._run_notebook(Path(found.notebook), Path(found.output) if found.output else None, found.parameter, options)

    def _run_command(self, command: list[str], options: Options) -> None:
        prepared = prepare_command(command, options, origin=origin_of(self._shell), folder=current_folder())
        if options.dry_run:
            show_preview(prepared, session().client.dry_run(prepared.request))
            return
        job, twin = send(prepared, again=options.again, reuse=options.reuse)
        self._shown(job, twin=twin)
        if options.waits:
            stream(job, self._shell)

    def _run_notebook(self, path: Path, target: Path | None, parameters: list[str], options: Options) -> None:
        values = dict(_parameter(text) for text in parameters)
        origin = origin_of(self._shell)
        prepared = prepare_notebook(path, options, values, origin=origin, folder=current_folder())
        if options.dry_run:
            show_preview(prepared, session().client.dry_run(prepared.request))
            return
        job, twin = send(prepared, again=options.again, reuse=options.reuse)
        place = (target or path.with_name(f"{path.stem}.offload.ipynb")).absolute()
        self._shown(job, twin=twin)
        if options.waits:
            try:
                finish(job, self._shell)
            finally:
                if job.done():
                    print(_saved(job, place))
                else:
                    job.on_end(lambda ended: ended.note(_saved(ended, place)))
        else:
            job.on_end(lambda ended: ended.note(_saved(ended, place)))

    def _shown(self, job: Job, *, twin: bool) -> None:
        if twin:
            job.note(twin_note(job))
        show_card(job)

    def _jobs(self, command: str, words: list[str]) -> list[Job]:
        parser = _job_parser(command)
        found = parser.read(words)
        if _helped(parser, found):
            return []
        return [get(name) for name in _named(parser, found.jobs)]


def _job_parser(command: str) -> Parser:
    parser = Parser(f"%offload {command}", COMMANDS[command])
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="name-7f3a, an id's beginning, or a name")
    return parser


def _named(parser: Parser, jobs: list[str]) -> list[str]:
    if not jobs:
        raise UsageError(f"{parser.prog}: which job?", hint=f"Such as {parser.prog} svm-7f3a; %offload lists them.")
    return jobs


def _helped(parser: Parser, found: Any) -> bool:
    if found.help:
        print(parser.format_help())
    return bool(found.help)


def _parameter(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"-p: {text!r} is not NAME=VALUE", hint='Such as -p events=1000 or -p "label=Z peak".')
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def save_notebook(job: Job, target: Path | None) -> Path:
    """Write the executed notebook (also one that stopped at an error), complete or not at all; return where.

    Raises `ResultUnavailable` when there is none.
    """
    origin = Path(job.record.request.origin or f"{job.name}.ipynb")
    place = target or origin.with_name(f"{origin.stem}.offload.ipynb").absolute()
    result = job.opened()
    if result is None or result.notebook is None:
        raise ResultUnavailable(
            f"{job.shown} brought no notebook back", hint=f"%offload logs {job.shown}", job_id=job.id
        )
    partial = place.with_name(f".{place.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    partial.write_text(json.dumps(result.notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(place)
    return place


def _saved(job: Job, place: Path) -> str:
    try:
        found = save_notebook(job, place)
    except OffloadError as error:
        return f"no executed notebook: {error.message}"
    except OSError as error:
        return f"the executed notebook cannot be written to {place}: {error.strerror} (%offload result {job.shown})"
    folder = current_folder()
    return f"executed notebook: {found.relative_to(folder) if found.is_relative_to(folder) else found}"
