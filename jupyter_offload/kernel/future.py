"""`Job`: a `concurrent.futures.Future` of work that runs elsewhere.

It holds no state that matters: the service owns the job, and `jupyter_offload.get` rebuilds the object in any process. Pickling a job keeps
its id only. The end of the kernel cancels nothing.
"""

from __future__ import annotations

import concurrent.futures
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_offload.errors import (
    JobCancelled,
    JobError,
    JobFailed,
    JobLost,
    OffloadError,
    ResultUnavailable,
    ServiceError,
    from_json,
)
from jupyter_offload.job import Job as Record
from jupyter_offload.job import Kind, Resources, State, short_ids
from jupyter_offload.kernel import card
from jupyter_offload.kernel.present import presentable
from jupyter_offload.payload.results import Result, read_result
from jupyter_offload.payload.work import check_path

if TYPE_CHECKING:
    from jupyter_offload.kernel.session import Session

__all__ = ["CancelledJob", "Job"]

CARD_SECONDS = 0.5
"""Shortest time between two updates of a card."""
PATIENCE_SECONDS = 600.0
"""How long a result is fetched again while the service is away."""
_LONGEST_TICK = 25.0


class CancelledJob(JobCancelled, concurrent.futures.CancelledError):
    """The job was cancelled: both our error, with its reason, and the one that `concurrent.futures` promises."""

    def to_json(self) -> dict[str, object]:
        """Return the error as plain data, under the name that everybody knows."""
        return {**super().to_json(), "error": JobCancelled.__name__}


class Job(concurrent.futures.Future[Any]):
    """A submitted job.

    What `result` gives depends on the kind: a function's return value; of a cell a dict of the names of ``-o``; of a command its exit
    code, 0; of a notebook the executed notebook as plain data. It works with `concurrent.futures.wait`, `as_completed` and
    `asyncio.wrap_future`.
    """

    def __init__(self, record: Record, session: Session) -> None:
        super().__init__()
        self._record = record
        self._session = session
        self._changed = threading.Condition()
        self._opened: Result | None = None
        self._opening = threading.Lock()
        self._showing = threading.RLock()
        self._ending = False
        self._show: Callable[[dict[str, object]], None] | None = None
        self._shown_at = 0.0
        self._shown_state: object = None
        self._notes: list[str] = []
        self._on_end: list[Callable[[Job], None]] | None = []

    # -- what it is

    @property
    def record(self) -> Record:
        """The job as the service last told it."""
        return self._record

    @property
    def id(self) -> str:
        """The job's UUID (32 hexadecimal digits)."""
        return self._record.id

    @property
    def name(self) -> str:
        """The job's name."""
        return self._record.name

    @property
    def shown(self) -> str:
        """The name and the first digits of the id, as messages show it."""
        return short_ids([self._record])[self.id]

    @property
    def state(self) -> State:
        """The state as of now, or as of `stale_since` when the site does not answer."""
        return self._record.state

    @property
    def reason(self) -> str:
        """Why it is in this state, in plain words."""
        return self._record.reason

    @property
    def hint(self) -> str:
        """What to do next, where there is something."""
        return self._record.hint

    @property
    def site(self) -> str:
        """Where it runs."""
        return self._record.site

    @property
    def resources(self) -> Resources:
        """What was asked for."""
        return self._record.request.resources

    @property
    def stale_since(self) -> float | None:
        """Since when the site does not answer (seconds since the epoch)."""
        return self._record.stale_since

    # -- a future

    def running(self) -> bool:
        """Whether it runs at its site now."""
        return self.state in (State.RUNNING, State.FINISHING)

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.done() and isinstance(super().exception(timeout=0), CancelledJob)

    def cancel(self) -> bool:
        """Ask for its end; return whether it had not ended yet. The future is done when the site has confirmed it."""
        if self.done():
            return self.cancelled()
        self.take(self._session.client.cancel(self.id, ""))
        return not self.state.terminal or self.state is State.CANCELLED

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end, at most ``timeout`` seconds, and return the result.

        Raises what ended the job (`RemoteError`, `JobFailed`, `JobCancelled` …) and `TimeoutError`. An interrupt stops the waiting only.
        """
        try:
            return super().result(timeout)
        except KeyboardInterrupt:
            print(still_running(self))
            raise

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end and return what ended the job, or ``None`` when it succeeded."""
        return super().exception(timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; return whether it has ended."""
        concurrent.futures.wait([self], timeout)
        return self.done()

    # -- what came back

    def logs(self, stream: str = "stdout", *, task: int = 0, container: str = "main") -> str:
        """Return what it printed so far. Rich outputs stand as records of their own in a log; here they are left out."""
        from jupyter_offload.kernel.follow import Events

        data = self._session.client.all_logs(self.id, stream, task=task, container=container)
        events = Events()
        return "".join(event for event in [*events.feed(data), *events.end()] if isinstance(event, str))

    @property
    def outputs(self) -> Sequence[Mapping[str, Any]]:
        """The nbformat outputs, in the order in which they were made; waits for the end. Empty for a command."""
        result = self.opened()
        return result.outputs if result is not None else []

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that came back."""
        self.refresh()
        return self._record.files

    def fetch(self, path: str | Path = ".") -> list[Path]:
        """Write the files that came back below ``path``, under the relative paths that they had; return where they are.

        Raises `FileRefused` for a name that would lead out of ``path``.
        """
        base = Path(path)
        found = []
        for item in self._session.client.files(self.id):
            name = str(item["path"])
            if name.startswith(".offload/"):
                continue
            target = base / check_path(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_symlink():
                target.unlink()
            self._session.client.file(self.id, name, target)
            target.chmod(0o644)
            found.append(target)
        return found

    def opened(self) -> Result | None:
        """Return the checked result once the job has ended (``None`` for a command). Raises `ResultUnavailable` and the like."""
        if self._record.request.kind is Kind.COMMAND:
            return None
        if not self.state.terminal:
            self.wait()
        with self._opening:
            if self._opened is None:
                folder = tempfile.mkdtemp(prefix="offload-result-")  # 0700; goes with this object
                weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
                path = Path(folder) / "result"
                key = self._session.client.result(self.id, path)
                self._opened = read_result(path, key)
            return self._opened

    def refresh(self) -> None:
        """Ask the service for the present state."""
        if not self.state.terminal:
            self.take(self._session.client.job(self.id))

    def delete(self) -> None:
        """Forget the job and its files at the service."""
        self._session.client.delete(self.id)

    # -- for the watcher

    @property
    def settled(self) -> bool:
        """Whether nothing more will come (a lost job may be found again)."""
        return self.done()

    def take(self, record: Record) -> None:
        """Take a newer record; the end begins when it says so."""
        with self._changed:
            if record.revision < self._record.revision and not record.state.terminal:
                return
            self._record = record
            ends = record.state.terminal and not self._ending and not self.done()
            self._ending = self._ending or ends
            self._changed.notify_all()
        self.update_card()
        if ends:
            self._session.watcher.fetchers.run(self._end)

    def fail(self, error: OffloadError) -> None:
        """End with an error that is not the job's own."""
        if not self.done():
            self.set_exception(presentable(error))

    def _end(self) -> None:
        value, error = self._patiently()
        if self.done():
            return
        if error is not None:
            self.set_exception(presentable(error, self._remote_traceback()))
        else:
            self.set_result(value)
        with self._changed:
            actions, self._on_end = self._on_end, None
        for action in actions or ():
            action(self)
        self.update_card(force=True)

    def _patiently(self) -> tuple[Any, OffloadError | None]:
        """Return value and error; a service that is away is waited for, since the job has done its part."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._outcome()
            except ServiceError as found:  # noqa: PERF203
                if time.monotonic() > deadline:
                    return None, found
                time.sleep(1)
            except OffloadError as found:
                return None, found
            except Exception as found:
                return None, JobError(f"{self.shown}: its result cannot be read: {found!r}", job_id=self.id)

    def _outcome(self) -> tuple[Any, OffloadError | None]:
        record = self._record
        task = next((task for task in record.tasks if task.state is record.state), record.tasks[0])
        if record.state is not State.SUCCEEDED:
            return None, self._error_of(record, task.error)
        if record.request.kind is Kind.COMMAND:
            return task.exit_code or 0, None
        result = self.opened()
        if result is None:
            return None, ResultUnavailable(f"{self.shown} has no result", job_id=self.id)
        if record.request.kind is Kind.NOTEBOOK:
            return result.notebook, None
        if record.request.kind is Kind.FUNCTION:
            return result.values["result"], None
        return {name: result.values[name] for name in record.request.outputs}, None

    def _error_of(self, record: Record, told: Mapping[str, Any] | None) -> OffloadError:
        if record.state is State.CANCELLED:
            return CancelledJob(record.reason or f"{self.shown} was cancelled", hint=record.hint, job_id=record.id)
        if told:
            return from_json(told)
        kind = JobLost if record.state is State.LOST else JobFailed
        return kind(f"{self.shown}: {record.reason or record.state.value}", hint=record.hint or None, job_id=record.id)

    def _remote_traceback(self) -> list[str]:
        """Return the traceback as the remote IPython coloured it, if there is one."""
        try:
            result = self.opened()
        except OffloadError:
            return []
        errors = [item for item in (result.outputs if result is not None else []) if item.get("output_type") == "error"]
        return [str(line) for line in errors[-1].get("traceback", [])] if errors else []

    def on_end(self, action: Callable[[Job], None]) -> None:
        """Have ``action`` called in another thread after the end, at once when that was before."""
        with self._changed:
            if self._on_end is not None:
                self._on_end.append(action)
                return
        action(self)

    # -- its card

    def show_on(self, show: Callable[[dict[str, object]], None]) -> None:
        """Have the card's updates given to ``show`` while this process lives."""
        self._show = show
        self._shown_state, self._shown_at = self._news(), time.monotonic()

    def note(self, text: str, *, instead: bool = False) -> None:
        """Add a line to the card, or put it in the place of those before."""
        self._notes = [text] if instead else [*self._notes, text]
        self.update_card(force=True)

    def update_card(self, *, force: bool = False) -> None:
        """Show the card anew when there is news, at most twice a second."""
        if self._show is None:
            return
        with self._showing:  # an older card must not be shown after a newer one
            news = self._news()
            now = time.monotonic()
            if force or (news != self._shown_state and (now - self._shown_at >= CARD_SECONDS or self.state.terminal)):
                self._shown_state, self._shown_at = news, now
                self._show(self.card())

    def _news(self) -> tuple[object, ...]:
        record = self._record
        progress = [task.progress for task in record.tasks[:1]]
        return (record.state, record.reason, record.notes, record.stale_since, progress, tuple(self._notes))

    def tick(self) -> None:
        """Show the elapsed time anew when that is due."""
        stale = time.monotonic() - self._shown_at
        self.update_card(force=self._show is not None and self.running() and stale >= self._tick_seconds())

    def next_tick(self) -> float:
        """Return in how many seconds `tick` should be called at the latest."""
        if self._show is None:
            return _LONGEST_TICK
        if self._news() != self._shown_state:
            return CARD_SECONDS
        return self._tick_seconds() if self.running() else _LONGEST_TICK

    def _tick_seconds(self) -> float:
        started = next((task.started for task in self._record.tasks if task.started), None)
        age = time.time() - started if started else 0.0
        return min(_LONGEST_TICK, max(2.0, age / 20))

    def card(self) -> dict[str, object]:
        """Return the card as a MIME bundle."""
        return card.bundle(self._record, shown=self.shown, notes=self._notes)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, object]:  # noqa: ARG002
        return self.card()

    def __repr__(self) -> str:
        return f"<Job {self.shown} {self.state.value}>"

    def __reduce__(self) -> tuple[object, ...]:
        from jupyter_offload.kernel.api import get

        return (get, (self.id,))


def still_running(job: Job) -> str:
    """Return what to say when somebody stops waiting."""
    if job.state.terminal:
        return f"{job.shown} has ended: {job.state.value}. Its result: %offload result {job.shown}"
    return (
        f"Stopped waiting. {job.shown} goes on ({job.state.value}); "
        f"%offload cancel {job.shown} stops it, %offload wait {job.shown} waits again."
    )
