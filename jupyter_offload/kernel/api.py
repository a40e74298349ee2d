"""The Python interface: `submit`, `options`, `run`, `jobs`, `get`, `wait`."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jupyter_offload.kernel.future import Job
from jupyter_offload.kernel.options import Options, make_options
from jupyter_offload.kernel.prepare import Prepared, prepare_call, prepare_command, prepare_notebook
from jupyter_offload.kernel.present import shortly
from jupyter_offload.kernel.session import session
from jupyter_offload.kernel.submitting import current_folder, send, user_namespace

__all__ = ["Offload", "get", "jobs", "options", "run", "submit", "wait"]


@dataclass(frozen=True)
class Offload:
    """Options, and the ways to submit with them; made by `options`. It can be used again and again."""

    options: Options = field(default_factory=Options)

    @shortly
    def submit(self, function: Callable[..., object], /, *args: object, **kwargs: object) -> Job:
        """Run ``function(*args, **kwargs)`` elsewhere; return its `Job`, whose result is the function's return value.

        A function of the notebook travels as source with the values of its globals. Raises `CannotEncode`, naming the argument,
        and what the site refuses.
        """
        prepared = prepare_call(function, args, kwargs, self.options, user_ns=user_namespace(), folder=current_folder())
        return self._send(prepared)

    @shortly
    def run(self, command: Sequence[str]) -> Job:
        """Run a program with its arguments elsewhere, in a container where the site has them; the result is its exit code, 0."""
        return self._send(prepare_command(list(command), self.options, origin=None, folder=current_folder()))

    @shortly
    def run_notebook(self, path: str | Path, parameters: Mapping[str, object] | None = None) -> Job:
        """Execute a whole notebook elsewhere; the result is the executed notebook as plain data (nbformat 4)."""
        prepared = prepare_notebook(Path(path), self.options, parameters or {}, origin=None, folder=current_folder())
        return self._send(prepared)

    def _send(self, prepared: Prepared) -> Job:
        job, _ = send(prepared, again=self.options.again, reuse=self.options.reuse)
        return job


@shortly
def options(
    *,
    site: str | None = None,
    image: str | None = None,
    cpus: str | float | None = None,
    memory: str | int | None = None,
    disk: str | int | None = None,
    gpus: str | int | None = None,
    time: str | float | None = None,
    name: str | None = None,
    files: str | Sequence[str] = (),
    fetch: str | Sequence[str] = (),
    secrets: Mapping[str, str] | None = None,
    pip: str | Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    rerun: bool = True,
    **unknown: object,
) -> Offload:
    """Return an `Offload` with these options; they never collide with a function's own arguments.

    Amounts are Kubernetes quantities (``"2"``, ``"500m"``, ``"1GiB"``), ``time`` is a duration (``"10m"``) or a number of seconds,
    ``gpus`` a count or ``"A100:4"``, ``secrets`` the path of each secret's file by name. Raises `UsageError`, naming the option.
    """
    return Offload(
        make_options(
            site=site,
            image=image,
            cpus=cpus,
            memory=memory,
            disk=disk,
            gpus=gpus,
            time=time,
            name=name,
            files=files,
            fetch=fetch,
            secrets=secrets,
            pip=pip,
            env=env,
            rerun=rerun,
            **unknown,
        )
    )


def submit(function: Callable[..., object], /, *args: object, **kwargs: object) -> Job:
    """Run ``function(*args, **kwargs)`` at the default site; see `Offload.submit`."""
    return Offload().submit(function, *args, **kwargs)


def run(command: Sequence[str]) -> Job:
    """Run a program with its arguments at the default site; see `Offload.run`."""
    return Offload().run(command)


@shortly
def jobs(state: str = "", *, limit: int | None = None) -> list[Job]:
    """Return your jobs, newest first, in one state or in all."""
    home = session()
    _, records, _ = home.client.jobs(state=state, limit=limit)
    ordered = sorted(records, key=lambda record: record.request.created, reverse=True)
    return [home.job(record) for record in ordered]


@shortly
def get(job_id: str) -> Job:
    """Return a job by its id, a unique beginning of it, ``name-7f3a`` or a name that only one job has. Raises `UnknownName`."""
    home = session()
    return home.job(home.client.job(job_id))


def wait(
    jobs: Iterable[Job], timeout: float | None = None, return_when: str = concurrent.futures.ALL_COMPLETED
) -> tuple[set[Job], set[Job]]:
    """Wait for jobs, at most ``timeout`` seconds; return ``(done, not done)``, as `concurrent.futures.wait` does."""
    asked = set(jobs)
    done = concurrent.futures.wait(asked, timeout, return_when).done
    return {job for job in asked if job in done}, {job for job in asked if job not in done}
