"""The command line, `jupyter offload …`: the words of ``%offload``, over the same client, each with ``--json``.

Exit codes: 0 done, 1 the job (or a check) failed, 2 the request was wrong, 3 the service or a site cannot be reached.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from jupyter_offload import __version__
from jupyter_offload.cli_show import checks_table, console, job_details, jobs_table, sites_table
from jupyter_offload.errors import JobError, OffloadError, ServiceError, SiteError, UsageError
from jupyter_offload.job import Job, State, short_ids
from jupyter_offload.kernel.client import Client
from jupyter_offload.quantity import parse_bytes, parse_duration, show_bytes

__all__ = ["app", "main"]

app = typer.Typer(
    name="jupyter offload",
    help="Send notebook cells, functions, containers and whole notebooks to HTCondor, and look after them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]
JobId = Annotated[
    str, typer.Argument(metavar="JOB", help="An id, a unique prefix of one, or the shown name such as svm-7f3a.")
]


def _print(shown: object, data: object, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(data, indent=2))
    else:
        console().print(shown)


def _name(client: Client, job: Job) -> str:
    _, known, _ = client.jobs()
    return short_ids([*known, job])[job.id]


@app.command("list")
def list_jobs(as_json: AsJson = False) -> None:
    """List the jobs, newest first.

    Example: jupyter offload list
    """
    revision, jobs, _ = Client().jobs()
    _print(jobs_table(jobs), {"revision": revision, "jobs": [job.to_json() for job in jobs]}, as_json=as_json)


@app.command()
def show(job: JobId, as_json: AsJson = False) -> None:
    """Show one job: state, reason, resources.

    Example: jupyter offload show svm-7f3a
    """
    found = Client().job(job)
    _print(job_details(found), found.to_json(), as_json=as_json)


@app.command()
def logs(
    job: JobId,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the job has ended.")] = False,
    stream: Annotated[str, typer.Option(help="stdout or stderr; by default both, one after the other.")] = "",
    container: Annotated[str, typer.Option(help="Name of the container.")] = "main",
    as_json: AsJson = False,
) -> None:
    """Print a job's log.

    Example: jupyter offload logs svm-7f3a -f
    """
    client = Client()
    found = client.job(job)
    wanted = [stream] if stream else ["stdout", "stderr"]
    if as_json:
        data = {
            name: client.all_logs(found.id, name, container=container).decode("utf-8", "replace") for name in wanted
        }
        typer.echo(json.dumps({"id": found.id, **data}, indent=2))
        return
    offsets = dict.fromkeys(wanted, 0)
    while True:
        ended = True
        for name in wanted:
            wait = 2.0 if follow and name == wanted[0] else 0.0
            piece = client.logs(found.id, name, container=container, offset=offsets[name], wait_seconds=wait)
            offsets[name] = piece.offset + len(piece.data)
            sink = sys.stderr if name == "stderr" else sys.stdout
            sink.buffer.write(_readable(piece.data))
            sink.flush()
            ended = ended and (piece.end or not (follow or piece.data))
        if ended:
            return


def _readable(data: bytes) -> bytes:
    """Leave out the runner's own records (lines that begin with the record separator), which are for clients."""
    return b"".join(line for line in data.splitlines(keepends=True) if not line.startswith(b"\x1e"))


@app.command()
def result(job: JobId, as_json: AsJson = False) -> None:
    """Show what a job printed and brought back.

    Example: jupyter offload result svm-7f3a
    """
    from tempfile import TemporaryDirectory

    from jupyter_offload.payload.results import read_result

    client = Client()
    found = client.job(job)
    with TemporaryDirectory(prefix="offload-") as folder:
        path = Path(folder) / "result"
        got = read_result(path, client.result(found.id, path))
        brought = {
            name: {"type": got.values.type_of(name), "bytes": got.values.size_of(name)}
            for name in got.values
            if name not in got.problems
        }
        data = {
            "id": found.id,
            "outputs": got.outputs,
            "values": brought,
            "error": got.error.to_json() if got.error else None,
        }
        if as_json:
            typer.echo(json.dumps(data, indent=2))
            return
        for output in got.outputs:
            typer.echo(_output_text(output), nl=False)
        for name, about in brought.items():
            console().print(f"[dim]{name}: {about['type']}, {show_bytes(int(str(about['bytes'])))}[/dim]")
        if got.error:
            raise got.error


def _output_text(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return str(output["text"])
    if output["output_type"] == "error":
        return "\n".join(output["traceback"]) + "\n"
    data = output.get("data", {})
    return str(data.get("text/plain", f"<{', '.join(data)}>")) + "\n"


@app.command()
def wait(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB…", help="Ids, prefixes or shown names.")],
    timeout: Annotated[str, typer.Option(help="Give up after, such as 10m.")] = "",
    as_json: AsJson = False,
) -> None:
    """Wait until jobs have ended; exit code 1 when one did not succeed.

    Example: jupyter offload wait svm-7f3a
    """
    client = Client()
    deadline = time.monotonic() + parse_duration(timeout) if timeout else None
    ids = [client.job(job).id for job in jobs]
    ended: dict[str, Job] = {}
    revision = 0
    while len(ended) < len(set(ids)):
        left = 25.0 if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise JobError(
                f"{len(set(ids)) - len(ended)} of {len(set(ids))} jobs have not ended", hint="They go on; wait again."
            )
        revision, changed, _ = client.jobs(since=revision, wait_seconds=min(25.0, left) if revision else 0)
        ended.update({job.id: job for job in changed if job.id in ids and job.state.terminal})
    _print(jobs_table(list(ended.values())), [job.to_json() for job in ended.values()], as_json=as_json)
    if any(job.state is not State.SUCCEEDED for job in ended.values()):
        raise typer.Exit(1)


@app.command()
def cancel(jobs: Annotated[list[str], typer.Argument(metavar="JOB…")], as_json: AsJson = False) -> None:
    """Ask for the end of jobs.

    Example: jupyter offload cancel svm-7f3a
    """
    client = Client()
    found = [client.cancel(client.job(job).id, "cancelled from the command line") for job in jobs]
    _print(jobs_table(found), [job.to_json() for job in found], as_json=as_json)


@app.command()
def delete(jobs: Annotated[list[str], typer.Argument(metavar="JOB…")], as_json: AsJson = False) -> None:
    """Forget ended jobs and their files.

    Example: jupyter offload delete svm-7f3a
    """
    client = Client()
    found = [client.job(job) for job in jobs]
    for job in found:
        client.delete(job.id)
    _print(
        f"deleted {', '.join(f'{job.name}-{job.id[:4]}' for job in found)}", [job.id for job in found], as_json=as_json
    )


@app.command()
def clean(
    older_than: Annotated[str, typer.Option(help="Only jobs that ended so long ago, such as 7d.")] = "",
    max_size: Annotated[str, typer.Option(help="Keep the newest up to this size, such as 5GiB.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove ended jobs by age and size.

    Example: jupyter offload clean --older-than 7d
    """
    done = Client().clean(
        older_than_seconds=parse_duration(older_than) if older_than else None,
        max_bytes=parse_bytes(max_size) if max_size else None,
        dry_run=dry_run,
    )
    size = show_bytes(int(done.get("freed_bytes", done.get("bytes", 0))))
    _print(f"{'would remove' if dry_run else 'removed'} {len(done['removed'])} jobs, {size}", done, as_json=as_json)


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False)
def run(context: typer.Context) -> None:
    """Run a command in a container, or a whole notebook, with the options of `%offload run`.

    Examples: jupyter offload run --image science --cpus 4 --file train.py -- python train.py;
    jupyter offload run analysis.ipynb --wait
    """
    raise typer.Exit(_run(context.args))


def _run(arguments: Sequence[str]) -> int:
    from jupyter_offload.cli_run import run_words
    from jupyter_offload.kernel.session import session

    words = list(arguments)
    own = words[: words.index("--")] if "--" in words else words
    as_json = "--json" in own
    if as_json:
        words.remove("--json")
    job = run_words(words, session(), quiet=as_json)
    if job is None:
        return 0
    _print(job_details(job), job.to_json(), as_json=as_json)
    return 1 if job.state.terminal and job.state is not State.SUCCEEDED else 0


@app.command()
def sites(as_json: AsJson = False) -> None:
    """List where jobs can go and what the sites can do."""
    found = Client().sites()
    _print(sites_table(found), found, as_json=as_json)


@app.command()
def doctor(
    site: Annotated[str, typer.Argument(help="A site's name; the default one if left out.")] = "",
    as_json: AsJson = False,
) -> None:
    """Check each link of the chain, from configuration to the round trip of a tiny job."""
    checks = list(Client().doctor(site or None))
    _print(checks_table(checks), checks, as_json=as_json)
    if any(check["ok"] is False for check in checks):
        raise typer.Exit(1)


@app.command()
def translate(
    manifest: Annotated[Path, typer.Argument(help="A file with a Pod, and the Secrets and ConfigMaps that it names.")],
    site: Annotated[str, typer.Option(help="As this site would do it; by default with apptainer and any image.")] = "",
    as_json: AsJson = False,
) -> None:
    """Print the job script that a Pod becomes; needs no service.

    Example: jupyter offload translate pod.yaml
    """
    from jupyter_offload.sites.build import build_site
    from jupyter_offload.sites.config import load_sites
    from jupyter_offload.translator import Options, Policy
    from jupyter_offload.translator import translate as to_script
    from jupyter_offload.translator.documents import translate_manifest

    try:
        text = manifest.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{manifest}: cannot be read: {error}", hint="Give the path of a YAML file.") from error
    work = translate_manifest(text)
    if site:
        config = load_sites(os.environ)
        if site not in config.sites:
            raise UsageError(f"there is no site {site!r}", hint=f"The sites are: {', '.join(config.sites)}.")
        script = build_site(site, config.sites[site], Path()).preview(work)
    else:
        script = to_script(work, Options(policy=Policy(images=("*",)))).script
    if as_json:
        typer.echo(json.dumps({"script": script}))
    else:
        typer.echo(script, nl=False)


@app.command()
def serve(
    idle: Annotated[str, typer.Option(help="End after so long without a request and without a job.")] = "10m",
) -> None:
    """Run the service in the foreground, without a Jupyter server."""
    from jupyter_offload.service.headless import serve as serve_headless

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    raise typer.Exit(
        asyncio.run(serve_headless(logging.getLogger("jupyter_offload"), idle_seconds=float(parse_duration(idle))))
    )


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


_CODES: tuple[tuple[type[OffloadError], int], ...] = (
    (UsageError, 2),
    (ServiceError, 3),
    (SiteError, 3),
    (OffloadError, 1),
)


def main(arguments: Sequence[str] | None = None, *, program: Callable[..., Any] = app) -> int:
    """Run the command line; return its exit code. An error is its message and its hint on standard error, nothing more."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["run"]:
            return _run(
                words[1:]
            )  # not through click, which takes away the `--` that divides our options from the command
        code = program(args=words, standalone_mode=False, prog_name="jupyter offload")
    except OffloadError as error:
        typer.secho(error.message, fg="red", err=True)
        typer.echo(f"  → {error.hint}", err=True)
        return next(code for kind, code in _CODES if isinstance(error, kind))
    except KeyboardInterrupt:
        typer.echo("interrupted; jobs go on", err=True)
        return 130
    except typer.Exit as stop:
        return int(stop.exit_code)
    except typer.Abort:
        return 1
    except Exception as error:
        shown = getattr(error, "format_message", None)
        if shown is None:
            raise
        typer.secho(shown(), fg="red", err=True)
        typer.echo("  → `jupyter offload --help` lists the commands.", err=True)
        return 2
    return int(code or 0)


if __name__ == "__main__":
    sys.exit(main())
