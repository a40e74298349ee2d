"""A direct site: the translator and one batch system, in this process."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from jupyter_offload.batch.base import Batch, BatchInfo, Demand, Examined, Handle, Status, Submission
from jupyter_offload.errors import CapabilityMissing, OffloadError, SiteError
from jupyter_offload.job import State
from jupyter_offload.pod import ANNOTATION_RERUN, Work
from jupyter_offload.sites import archive
from jupyter_offload.sites.base import (
    Capabilities,
    Check,
    FileEntry,
    Found,
    Gpu,
    Image,
    Limits,
    LogChunk,
    Outcome,
    SiteHandle,
    SiteInfo,
    TaskStatus,
)
from jupyter_offload.sites.mirror import LogMirror, log_file, read_file
from jupyter_offload.sites.outcome import batch_error, judge, read_status
from jupyter_offload.sites.schema import SiteConfig
from jupyter_offload.sites.watch import Pace, poll
from jupyter_offload.translator import Options, Policy, Translation, translate, write
from jupyter_offload.translator.options import Runtime

__all__ = ["HOST_IMAGE", "DirectSite"]

HOST_IMAGE = "host"
"""The image of a Pod that runs with the site's own Python and programs, without a container."""


class DirectSite:
    """`Site` over one `Batch`.

    ``runtime`` is ``apptainer``, ``singularity`` or ``host`` (no images). Jobs whose image is `HOST_IMAGE` run without a container
    everywhere.
    """

    def __init__(self, name: str, config: SiteConfig, batch: Batch, runtime: Runtime) -> None:
        self.name = name
        self._config = config
        self._batch = batch
        self._runtime = runtime
        self._mirrors: dict[str, LogMirror] = {}
        self._last: dict[str, Status] = {}
        self._pace = Pace(time.monotonic, random.Random())  # noqa: S311 - jitter, not a secret

    # -- submit ----------------------------------------------------------------------------------------------------------------------

    async def submit(self, works: Sequence[Work], folders: Sequence[str], attempt: str) -> list[list[SiteHandle]]:
        """Translate, write scripts and inputs into the job folders, hand over to the batch system, not yet runnable."""
        submissions = await asyncio.to_thread(self._prepare, works, folders, attempt)
        self._pace.changed()
        return [[_site_handle(handle) for handle in handles] for handles in await self._batch.submit(submissions)]

    def _prepare(self, works: Sequence[Work], folders: Sequence[str], attempt: str) -> list[Submission]:
        return [self._write(work, Path(folder), attempt) for work, folder in zip(works, folders, strict=True)]

    def _write(self, work: Work, folder: Path, attempt: str) -> Submission:
        translation = self._translate(work)
        written = write(translation, folder)
        needs = translation.needs
        annotations: Mapping[str, str] = (work.pod.get("metadata") or {}).get("annotations") or {}
        return Submission(
            job_id=work.job_id,
            attempt=attempt,
            owner=work.owner,
            name=work.name,
            folder=str(folder),
            script=written.script,
            inputs=tuple(written.inputs),
            task_inputs=tuple(tuple(names) for names in written.task_inputs),
            tasks=work.tasks,
            demand=Demand(
                cpus=needs.cpus,
                memory_bytes=needs.memory_bytes,
                disk_bytes=needs.disk_bytes,
                gpus=needs.gpus,
                gpu_model=needs.gpu_model,
                time_seconds=needs.time_seconds,
            ),
            rerun=annotations.get(ANNOTATION_RERUN) != "false",
            grace_seconds=needs.grace_seconds,
            expires=work.expires,
        )

    def _translate(self, work: Work) -> Translation:
        containers = (work.pod.get("spec") or {}).get("containers") or []
        host = all(container.get("image") == HOST_IMAGE for container in containers)
        if not host and self._runtime == "host":
            raise CapabilityMissing(
                f"site {self.name} cannot run container images: it has no apptainer",
                hint="Leave --image out, or choose a site with containers: `%offload sites`.",
            )
        policy = self._config.policy
        offered = tuple(image.ref for image in self._config.images.values())
        images = policy.images if policy.images is not None else (offered or ("*",))
        options = Options(
            runtime="host" if host else self._runtime,
            setup=self._config.setup,
            mounts=() if host else self._config.mounts,
            policy=Policy(
                images=tuple(dict.fromkeys((*offered, *images))),
                host_paths=policy.hostPath,
                annotations=policy.annotations,
            ),
            cache=self._config.cache,
            output_limit_bytes=self._config.limits.result,
        )
        return translate(work, options)

    def preview(self, work: Work) -> str:
        """Return the job script."""
        return self._translate(work).script

    async def start(self, handles: Sequence[SiteHandle]) -> None:
        """Make them runnable."""
        self._pace.changed()
        await self._batch.start([_batch_handle(handle) for handle in handles])

    # -- look ------------------------------------------------------------------------------------------------------------------------

    async def look(self, handles: Sequence[SiteHandle]) -> list[TaskStatus]:
        """Return one status per handle by one poll of the batch system."""
        statuses = await self._batch.poll([_batch_handle(handle) for handle in handles])
        for status in statuses:
            self._last[_key(status.handle)] = status
        return [_task_status(status) for status in statuses]

    def watch(self, active: Callable[[], Sequence[SiteHandle]]) -> AsyncIterator[list[TaskStatus]]:
        """Yield changes by looking again and again, at a pace that follows the waiting."""
        return poll(self.look, active, self._pace)

    async def find(self, job_ids: Sequence[str]) -> list[Found]:
        """Return every task of these jobs that the batch system or its history knows."""
        return [Found(_task_status(found.status), found.runnable) for found in await self._batch.find(job_ids)]

    # -- logs ------------------------------------------------------------------------------------------------------------------------

    async def logs(
        self, handle: SiteHandle, container: str, stream: str, offset: int, limit: int = 1 << 20
    ) -> LogChunk:
        """Return new bytes of one stream: of the live copy while the task runs, of what it brought back afterwards."""
        folder = _task_folder(handle)
        ended = (folder / "status.json").exists()
        if not ended:
            await self._mirror(handle).refresh()
        return await asyncio.to_thread(read_file, log_file(folder, container, stream), offset, limit, end=ended)

    def _mirror(self, handle: SiteHandle) -> LogMirror:
        batch_handle = _batch_handle(handle)

        async def read_out(offset: int) -> tuple[bytes, int]:
            chunk = await self._batch.read(batch_handle, "out", offset)
            return chunk.data, chunk.offset

        return self._mirrors.setdefault(_key(batch_handle), LogMirror(_task_folder(handle), read_out))

    # -- end -------------------------------------------------------------------------------------------------------------------------

    async def cancel(self, handles: Sequence[SiteHandle], reason: str) -> None:
        """Ask for their end."""
        self._pace.changed()
        await self._batch.cancel([_batch_handle(handle) for handle in handles], reason)

    async def fetch(self, handles: Sequence[SiteHandle]) -> list[Outcome]:
        """Bring the archives, open them safely and judge how the tasks ended."""
        wanted = [_batch_handle(handle) for handle in handles]
        unknown = [handle for handle in wanted if _key(handle) not in self._last]
        for status in await self._batch.poll(unknown) if unknown else ():
            self._last[_key(status.handle)] = status
        return [
            await asyncio.to_thread(self._open, _site_handle(fetched.handle), fetched.output, fetched.problem)
            for fetched in await self._batch.fetch(wanted)
        ]

    def _open(self, handle: SiteHandle, output: str | None, problem: str) -> Outcome:
        folder = _task_folder(handle)
        notes: list[str] = []
        failure: OffloadError | None = None
        if output is not None:
            try:
                notes += archive.extract(Path(output), folder, max_bytes=self._config.limits.result)
                Path(output).unlink(missing_ok=True)
            except OffloadError as error:
                failure = error
        status = read_status(folder / "status.json")
        said = (status or {}).get("notes")
        notes += [str(note) for note in said] if isinstance(said, list) else []
        verdict = judge(handle.job_id, status, self._last.get(_key(_batch_handle(handle))), problem)
        state, reason = verdict.state, verdict.reason
        if failure is not None and state is State.SUCCEEDED:
            failure.job_id = handle.job_id
            state, reason = State.FAILED, failure.message
        shown = verdict.error if verdict.error is not None else failure
        return Outcome(
            handle,
            state,
            reason,
            shown.hint if shown else "",
            shown.to_json() if shown else None,
            verdict.exit_code,
            tuple(_files(folder / "files")),
            verdict.started,
            verdict.finished,
            verdict.host,
            tuple(dict.fromkeys(notes)),
        )

    async def remove(self, handles: Sequence[SiteHandle]) -> None:
        """Forget them at the batch system."""
        wanted = [_batch_handle(handle) for handle in handles]
        await self._batch.remove(wanted)
        for handle in wanted:
            self._last.pop(_key(handle), None)
            self._mirrors.pop(_key(handle), None)

    # -- describe --------------------------------------------------------------------------------------------------------------------

    async def describe(self) -> SiteInfo:
        """Return what the configuration declares and the batch system answers."""
        return self._info(await self._batch.describe())

    def _info(self, info: BatchInfo) -> SiteInfo:
        limits = self._config.limits
        return SiteInfo(
            name=self.name,
            kind="direct",
            batch=info.kind,
            capabilities=Capabilities(
                logs=info.logs,
                gpus=bool(info.gpus),
                arrays=info.arrays,
                containers=False if self._runtime == "host" else info.apptainer,
            ),
            images=tuple(Image(name, image.ref, image.python) for name, image in self._config.images.items()),
            limits=Limits(
                cpus=limits.cpus,
                memory_bytes=limits.memory,
                disk_bytes=limits.disk,
                gpus=limits.gpus,
                time_seconds=limits.time,
                queue_seconds=limits.queue_time,
                input_bytes=limits.input,
                result_bytes=limits.result,
            ),
            gpus=tuple(Gpu(gpu.name, gpu.total, gpu.free, gpu.memory_bytes) for gpu in info.gpus),
            cpus_total=info.cpus_total,
            cpus_free=info.cpus_free,
            python=self._config.python,
            version=info.version,
            identity=info.identity,
            notes=info.notes,
        )

    async def checks(self) -> AsyncIterator[Check]:
        """Check the batch system's own links, then what it says of itself."""
        yield Check(
            "configuration", ok=True, detail=f"site {self.name}: {self._config.batch.type}, runtime {self._runtime}"
        )
        if isinstance(self._batch, Examined):
            async for link in self._batch.checks():
                yield Check(link.name, link.ok, link.detail, link.hint, link.seconds)
                if link.ok is False:
                    return
        begun = time.monotonic()
        try:
            info = self._info(await self._batch.describe())
        except SiteError as error:
            yield Check(
                "batch system", ok=False, detail=error.message, hint=error.hint, seconds=time.monotonic() - begun
            )
            return
        seconds = time.monotonic() - begun
        yield Check(
            "batch system",
            ok=True,
            detail=f"{info.batch} {info.version}, {info.cpus_free} of {info.cpus_total} cores free",
            seconds=seconds,
        )
        images = ", ".join(f"{image.name} (Python {image.python or 'not declared'})" for image in info.images)
        yield Check("images", ok=bool(info.images) or None, detail=images or "none: the site's own Python runs cells")
        yield self._containers(info.capabilities.containers)

    def _containers(self, there: bool | None) -> Check:
        if there is None:
            return Check("containers", ok=None, detail="not known before a job looks")
        if there:
            return Check("containers", ok=True, detail=f"{self._runtime} on the worker nodes")
        wanted = bool(self._config.images)
        hint = "Install apptainer on the worker nodes, or remove `images` from the site." if wanted else ""
        return Check(
            "containers",
            ok=False if wanted else None,
            detail="missing: there is no apptainer on the worker nodes",
            hint=hint,
        )

    async def close(self) -> None:
        """End helpers of this process."""
        await self._batch.close()


def _key(handle: Handle) -> str:
    return f"{handle.job_id}/{handle.index}/{handle.attempt}"


def _batch_handle(handle: SiteHandle) -> Handle:
    return Handle(handle.id, handle.job_id, handle.index, handle.attempt, handle.folder)


def _site_handle(handle: Handle) -> SiteHandle:
    return SiteHandle(handle.job_id, handle.index, handle.attempt, handle.id, handle.folder)


def _task_folder(handle: SiteHandle) -> Path:
    return Path(handle.folder) / f"task-{handle.index}"


def _task_status(status: Status) -> TaskStatus:
    error = batch_error(status)
    return TaskStatus(
        _site_handle(status.handle),
        status.state,
        status.reason,
        status.hint,
        error.to_json() if error and status.state.terminal else None,
        status.attempts,
        status.exit_code,
        status.host,
        status.started,
        status.finished,
    )


def _files(folder: Path) -> list[FileEntry]:
    if not folder.is_dir():
        return []
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    shown = [path for path in paths if path.relative_to(folder).parts[0] != ".offload"]
    return [FileEntry(str(path.relative_to(folder)), path.stat().st_size) for path in shown]
