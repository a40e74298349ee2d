"""The local batch keeps the contract, also through JSON text; and its own promises under faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from jupyter_offload.batch.base import Batch
from jupyter_offload.batch.local import LocalBatch
from jupyter_offload.batch.wire import Loopback

pytest.register_assert_rewrite(f"{__package__}.batch_contract")
from .batch_contract import BatchContract, Rig  # noqa: E402 (after the registration)


class TestLocalBatch(BatchContract):
    @pytest.fixture(params=["direct", "loopback"])
    def rig(self, request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
        def make() -> Batch:
            batch = LocalBatch(tmp_path / "spool", slots=2)
            return Loopback(batch) if request.param == "loopback" else batch

        return Rig(make=make, folder=tmp_path, seconds=30, partial_output=True)
