"""The local batch keeps the contract, also through JSON text; and its own promises under faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from jupyter_offload.batch.base import Batch
from jupyter_offload.batch.local import LocalBatch
from jupyter_offload.batch.wire import Loopback

pytest.register_assert_rewrite(f"{__package__}.batch_contract")
from .batch_contract import BatchContract, Rig, Session, content  # noqa: E402 (after the registration)


class TestLocalBatch(BatchContract):
    @pytest.fixture(params=["direct", "loopback"])
    def rig(self, request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
        def make() -> Batch:
            batch = LocalBatch(tmp_path / "spool", slots=2)
            return Loopback(batch) if request.param == "loopback" else batch

        return Rig(make=make, folder=tmp_path, seconds=30, partial_output=True)


async def test_a_task_finds_a_sane_environment_and_private_inputs(tmp_path: Path) -> None:
    environ = {"PATH": "/usr/bin:/bin", "HOME": "/home/ana", "TOKEN": "secret"}
    rig = Rig(
        make=lambda: LocalBatch(tmp_path / "spool", 2, environ=environ, setenv={"SITE": "here"}),
        folder=tmp_path,
        seconds=30,
    )
    script = "env -0 | sort -z | tr '\\0\\n' '\\n ' ; stat -c '%a %n' * >&2; touch $TMPDIR/x in; echo changed > in\n"
    async with Session(rig) as session:
        job = session.job(script, inputs={"in": b"as it was"})
        [[handle]] = await session.run(job)
        await session.ended([handle])
        [fetched] = await session.batch.fetch([handle])
    variables = dict(line.split("=", 1) for line in content(fetched.out).decode().splitlines())
    work = f"{tmp_path}/spool/jobs/{job.job_id}~{job.attempt}/task/0/work"
    assert variables.pop("TMPDIR").startswith(f"{tmp_path}/spool/tmp/")
    for name in ("_", "SHLVL"):
        variables.pop(name)
    assert variables == {
        "PATH": "/usr/bin:/bin",
        "HOME": "/home/ana",
        "LANG": "C.UTF-8",
        "SITE": "here",
        "PWD": work,
        "OMP_NUM_THREADS": "1",
        "OFFLOAD_LOCAL_TASK": handle.id,
    }
    assert content(fetched.err) == b"600 err\n600 in\n600 job.sh\n600 out\n"
    assert (Path(job.folder) / "in").read_bytes() == b"as it was"  # the task had a copy
