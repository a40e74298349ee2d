"""Token copies that a killed process left behind go; those of living ones stay."""

from __future__ import annotations

import os
import subprocess

from jupyter_offload.batch.condor import environment


def test_only_what_dead_processes_left_is_removed(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    dead, alive, other = (
        tmp_path / f"jupyter-offload-condor-{name}" for name in (f"{ended.pid}-x", f"{os.getpid()}-x", "abc-x")
    )
    for folder in (dead, alive, other):
        folder.mkdir()
        (folder / "token").write_text("secret")
    environment._sweep(tmp_path)
    assert [folder.exists() for folder in (dead, alive, other)] == [False, True, True]
