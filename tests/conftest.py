"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from parts.pool import fault_pool, old_pool, pool
from parts.require import require

__all__ = ["fault_pool", "old_pool", "pool"]


@pytest.fixture
def data_folder() -> Path:
    """The folder of recorded test data that OFFLOAD_DATA names."""
    folder = os.environ.get("OFFLOAD_DATA")
    if not folder:
        require("OFFLOAD_DATA names no folder")
    return Path(folder)
