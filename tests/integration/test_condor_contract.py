"""The HTCondor batch keeps the contract on a real pool: by the spool, with a shared filesystem, and through a CE; each also through JSON."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from parts.pool import Pool

from jupyter_offload.batch.base import Batch, Handle, Submission
from jupyter_offload.batch.condor.batch import CondorBatch
from jupyter_offload.batch.condor.config import CondorConfig
from jupyter_offload.batch.wire import Loopback

pytest.register_assert_rewrite(f"{__package__}.batch_contract")
from .batch_contract import BatchContract, Rig  # noqa: E402 (after the registration)

pytestmark = pytest.mark.pool


class AsAlice(CondorBatch):
    """A service of alice: the tests run as root, so her job folders are given to her."""

    async def submit(self, submissions: Sequence[Submission]) -> list[list[Handle]]:
        for one in submissions:
            folder = Path(one.folder)
            for index in range(one.tasks):
                (folder / f"task-{index}").mkdir(mode=0o700, exist_ok=True)
            for path in (folder, *folder.rglob("*")):
                os.chown(path, 1001, 1001)
        return await super().submit(submissions)


@pytest.fixture(params=["direct", "loopback"])
def wrap(request: pytest.FixtureRequest) -> object:
    return Loopback if request.param == "loopback" else lambda batch: batch


class TestSpool(BatchContract):
    @pytest.fixture
    def rig(self, pool: Pool, tmp_path: Path, wrap: type[Loopback]) -> Rig:
        config = CondorConfig(collector=pool.collector, schedd=pool.schedd, token_file=pool.token_file())
        return Rig(make=lambda: wrap(CondorBatch(config)), folder=tmp_path)


class TestSharedFilesystem(BatchContract):
    @pytest.fixture
    def rig(self, pool: Pool, tmp_path: Path, wrap: type[Loopback]) -> Rig:
        folder = pool.share / f"condor-{tmp_path.name}-{os.getpid()}"
        folder.mkdir(mode=0o755)
        config = CondorConfig(
            collector=pool.collector, schedd=pool.schedd, token_file=pool.token_file(), shared_filesystem=True
        )

        def make() -> Batch:
            batch: Batch = wrap(AsAlice(config))
            return batch

        return Rig(make=make, folder=folder)


class TestCE(BatchContract):
    @pytest.fixture
    def rig(self, pool: Pool, tmp_path: Path, wrap: type[Loopback]) -> Rig:
        config = CondorConfig(
            type="condor-ce", collector=pool.ce.collector, schedd=pool.ce.schedd, token_file=pool.token_file()
        )
        return Rig(make=lambda: wrap(CondorBatch(config)), folder=tmp_path)
