"""A caller of the local batch that is killed: ``python local_caller.py <spool> <folder> <job id> <kill at>``.

It does what a service does for one job: look what is there, submit, record the handle, start, wait, fetch, record the end, remove. An audit hook
counts what it changes on disk and ends the process by SIGKILL just before change number ``kill at`` (0: never); it prints the number of changes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from dataclasses import asdict
from pathlib import Path

from jupyter_offload.batch.base import Demand, Handle, Submission
from jupyter_offload.batch.local import LocalBatch
from jupyter_offload.job import State

CHANGES = {"os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.chmod", "os.posix_spawn", "os.kill"}


def count_changes(kill_at: int) -> list[int]:
    """Count changes from now on; the process ends before the given one."""
    count = [0]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        flags = arguments[2] if event == "open" else 0
        if event in CHANGES or (isinstance(flags, int) and flags & (os.O_CREAT | os.O_WRONLY)):
            count[0] += 1
            if count[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return count


async def carry_out(spool: Path, folder: Path, job_id: str) -> None:
    """Bring the job one life further, from whatever the last life left."""
    batch = LocalBatch(spool, slots=2)
    record, done = folder / "handles.json", folder / "done"
    if not record.exists():
        found = await batch.find([job_id])
        if found:  # submitted, but the record was lost
            handles = [item.status.handle for item in found]
        else:
            submission = Submission(
                job_id,
                uuid.uuid4().hex[:8],
                "me",
                "kill",
                str(folder),
                "job.sh",
                ("input.txt",),
                tasks=2,
                demand=Demand(),
            )
            [handles] = await batch.submit([submission])
        (folder / "handles.new").write_text(json.dumps([asdict(handle) for handle in handles]))
        (folder / "handles.new").rename(record)
    handles = [Handle(**item) for item in json.loads(record.read_text())]
    if not done.exists():
        await batch.start(handles)
        while any(status.state is not State.FINISHING for status in await batch.poll(handles)):
            await asyncio.sleep(0.005)
        fetched = await batch.fetch(handles)
        (folder / "done.new").write_text(json.dumps([asdict(item) for item in fetched]))
        (folder / "done.new").rename(done)
    await batch.remove(handles)
    await batch.close()


if __name__ == "__main__":
    changes = count_changes(int(sys.argv[4]))
    asyncio.run(carry_out(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
    print(changes[0])
