"""What happens when a machine lacks a real part that a test needs."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def require(reason: str) -> NoReturn:
    """Skip with the reason; with OFFLOAD_REQUIRE=all, as in CI, fail instead."""
    if os.environ.get("OFFLOAD_REQUIRE") == "all":
        pytest.fail(f"required here: {reason}")
    pytest.skip(reason)
