"""The service on a real pool, killed at seeded points while many jobs are alive."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts.kill_scene import kill_scene
from parts.pool import Pool
from parts.service import Service
from parts.submissions import command

from jupyter_offload.job import State

pytestmark = [pytest.mark.pool, pytest.mark.xdist_group("service-pool")]
PAUSES = [0.0, 0.01, 0.05, 0.2, 0.5, 1.5]


@pytest.fixture
def service(pool: Pool, tmp_path: Path) -> Iterator[Service]:
    part = Service(tmp_path)
    batch = {
        "type": "condor",
        "collector": pool.collector,
        "schedd": pool.schedd,
        "token_file": str(pool.token_file("alice")),
    }
    config = tmp_path / "sites.yaml"
    config.write_text(json.dumps({"sites": {"pool": {"batch": batch}}}))  # JSON is YAML
    part.environ["OFFLOAD_CONFIG"] = str(config)
    yield part
    part.close()


@pytest.fixture
def ran(pool: Pool) -> Iterator[Path]:
    """A file on the pool's shared folder that jobs of any node append to."""
    path = pool.share / f"ran-{uuid.uuid4().hex}"
    path.touch(mode=0o666)
    path.chmod(0o666)
    yield path
    path.unlink()


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def test_a_secret_is_in_its_file_alone(service, pool):
    """The job's ClassAd in queue and history, the processes of every node, and the service's log and files know nothing of it."""
    secret = f"s3cret-{uuid.uuid4().hex}"
    script = 'stat -c %a "$OFFLOAD_SECRET_KEY"; wc -c <"$OFFLOAD_SECRET_KEY"; echo ready; sleep 8'
    request = command("sh", "-c", script, secrets=("KEY",))
    service.start()
    assert service.put(request, secrets={"KEY": secret.encode()})[0] == 201
    service.wait_until(lambda: b"ready" in service.ask("GET", f"/jobs/{request.id}/logs")[1], seconds=60)
    ads = pool.exec("ap", "condor_q", "-all", "-long")
    assert request.id in ads
    seen = [ads]
    for node in ("ap", *pool.execute_nodes):
        scan = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'"
        seen.append(pool.exec(node, "sh", "-c", scan))
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                seen.append((process / name).read_bytes().decode("utf-8", "replace"))
    folder = service.data / "jobs" / request.id
    assert folder.stat().st_mode & 0o777 == 0o700
    holders = [path for path in service.data.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert holders, "while it runs the submission waits in the job folder"
    assert all(folder in path.parents for path in holders)
    assert all(path.stat().st_mode & 0o077 == 0 for path in holders)
    (job,) = service.wait(request.id, seconds=60)
    assert job.state is State.SUCCEEDED, job.reason
    assert _lines(service.ask("GET", f"/jobs/{request.id}/logs")[1].decode())[:3] in (
        ["600", str(len(secret)), "ready"],
        ["400", str(len(secret)), "ready"],
    )
    seen += [pool.exec("ap", "condor_history", "-long", "-limit", "50"), service.log()]
    assert not [text for text in seen if secret in text]
    left = [path for path in service.data.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert not left, "after the end nothing holds it"


@pytest.mark.timeout(280)
def test_six_kills_on_the_pool(service, ran):
    kill_scene(service, ran, points=6, jobs=12, seed=6, seconds=150, pauses=PAUSES)


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_two_hundred_kills_on_the_pool(service, ran):
    kill_scene(service, ran, points=200, jobs=300, seed=200, seconds=1200, pauses=PAUSES)
