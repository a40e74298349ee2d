"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def require(reason: str) -> None:
    """Skip with a reason a test whose real part this machine lacks; with OFFLOAD_REQUIRE=all, as in CI, that is a failure."""
    if os.environ.get("OFFLOAD_REQUIRE") == "all":
        pytest.fail(f"required here: {reason}")
    pytest.skip(reason)


@pytest.fixture
def data_folder() -> Path:
    """The folder of recorded test data that OFFLOAD_DATA names."""
    folder = os.environ.get("OFFLOAD_DATA")
    if not folder:
        require("OFFLOAD_DATA names no folder")
    return Path(str(folder))
