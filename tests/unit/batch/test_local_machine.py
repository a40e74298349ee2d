from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from jupyter_offload.batch.local import LocalBatch
from jupyter_offload.batch.local_machine import cores, largest_memory_bytes, task_environment
from jupyter_offload.errors import CapabilityMissing, SiteTimeout, SiteUnreachable


def test_a_task_sees_what_it_needs_of_the_environment_and_no_secret() -> None:
    environ = {
        "PATH": "/opt/venv/bin:/bin",
        "HOME": "/home/ana",
        "LC_ALL": "de_DE.UTF-8",
        "LD_LIBRARY_PATH": "/opt/lib",
        "JUPYTERHUB_API_TOKEN": "secret",
        "OFFLOAD_CONNECTION": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "PYTHONPATH": "/service",
        "BASH_ENV": "/service/rc",
        "LD_PRELOAD": "/service.so",
        "HTTPS_PROXY": "http://proxy:3128",
        "http_proxy": "http://ana:secret@proxy:3128",
        "PIP_INDEX_URL": "https://ana:secret@index/simple",
        "NO_PROXY": "localhost",
    }
    assert task_environment(environ) == {
        "PATH": "/opt/venv/bin:/bin",
        "HOME": "/home/ana",
        "LANG": "C.UTF-8",
        "LC_ALL": "de_DE.UTF-8",
        "LD_LIBRARY_PATH": "/opt/lib",
        "HTTPS_PROXY": "http://proxy:3128",
        "NO_PROXY": "localhost",
    }


def test_an_empty_environment_becomes_a_sane_one() -> None:
    environ = task_environment({})
    assert environ == {"PATH": os.defpath, "HOME": str(Path.home()), "LANG": "C.UTF-8"}


def test_memory_and_cores_are_the_machines_or_the_containers() -> None:
    assert 64 << 20 < largest_memory_bytes() <= psutil.virtual_memory().total
    assert cores() == len(psutil.Process().cpu_affinity() or [])


async def test_the_description_counts_free_cores(tmp_path: Path) -> None:
    batch = LocalBatch(tmp_path / "spool", slots=3)
    info = await batch.describe()
    assert (info.kind, info.logs, info.cpus_total, info.cpus_free, info.gpus) == ("local", "live", 3, 3, ())
    await batch.close()


async def test_a_folder_that_cannot_be_used_is_a_site_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    batch = LocalBatch(tmp_path / "file/spool")
    with pytest.raises(SiteUnreachable, match="cannot be used"):
        await batch.describe()
    await batch.close()


async def test_a_lock_that_stays_held_is_a_site_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = LocalBatch(tmp_path / "spool")
    await batch.describe()
    held = batch._spool.lock()
    lock = type(batch._spool).lock
    monkeypatch.setattr(type(batch._spool), "lock", lambda self, shared=False: lock(self, shared=shared, timeout=0.05))
    with pytest.raises(SiteTimeout, match="held by another process"):
        await batch.poll([])
    os.close(held)
    assert await batch.poll([]) == []
    await batch.close()


async def test_a_submission_that_a_kill_cut_short_is_cleared_away_after_a_day(tmp_path: Path) -> None:
    jobs = tmp_path / "spool/jobs"
    for name in (".old.1234", ".new.1234"):
        (jobs / name / "inputs").mkdir(parents=True)
    os.utime(jobs / ".old.1234", (0, 0))
    batch = LocalBatch(tmp_path / "spool")
    await batch.describe()
    assert [path.name for path in jobs.iterdir()] == [".new.1234"]
    assert await batch.find([]) == []
    await batch.close()


def test_another_system_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(CapabilityMissing, match="Linux"):
        LocalBatch(tmp_path)
