"""The pool image itself: roles, security, identities, containers in jobs, the CE's route and policies, stopping."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from parts.pool import COMMAND, CONTAINERS, Address, Pool

pytestmark = [pytest.mark.pool, pytest.mark.timeout(600)]

# One process runs all of these, so that one pool to break is enough for them.
breaking = pytest.mark.xdist_group("pool-image-breaking")
RAW_SUBMIT = Path(__file__).resolve().parents[1] / "parts" / "raw_submit.py"


def run_job(
    at: Address,
    token_folder: Path | None,
    script: str,
    *,
    seconds: float = 60,
    security: dict[str, str] | None = None,
    **submit: str,
) -> dict[str, Any]:
    order = {
        "collector": at.collector,
        "schedd": at.schedd,
        "token_folder": str(token_folder) if token_folder else None,
        "script": script,
        "submit": submit,
        "seconds": seconds,
        "security": security or {},
    }
    argv = [sys.executable, str(RAW_SUBMIT)]
    done = subprocess.run(argv, input=json.dumps(order), capture_output=True, text=True, timeout=seconds + 60)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def folder_of(pool: Pool, user: str) -> Path:
    return pool.token_file(user).parent


# roles


def test_every_role_is_up_and_healthy(pool: Pool) -> None:
    health = pool.health()
    assert set(health) >= {"cm", "ap", "ep1"}
    assert set(health.values()) == {"healthy"}


def test_the_manager_sees_the_nodes_with_the_slots_that_were_asked_for(pool: Pool) -> None:
    lines = pool.exec(
        "cm", "condor_status", "-constraint", "PartitionableSlot", "-af", "Machine", "TotalSlotCpus"
    ).splitlines()
    assert sorted(line.split()[0].split(".")[0] for line in lines) == pool.execute_nodes
    assert {line.split()[1] for line in lines} == {"4"}


@breaking
def test_condor_master_supervises_a_killed_daemon_comes_back(fault_pool: Pool) -> None:
    before = fault_pool.exec("cm", "pgrep", "-x", "condor_negotiat").split()
    fault_pool.kill_daemon("cm", "condor_negotiat")
    deadline = time.monotonic() + 60
    while True:
        found = subprocess.run(
            [fault_pool.description["engine"], "exec", fault_pool.container("cm"), "pgrep", "-x", "condor_negotiat"],
            capture_output=True,
            text=True,
        ).stdout.split()
        if found and found != before:
            break
        assert time.monotonic() < deadline, "the negotiator was not started again"
        time.sleep(0.2)
    fault_pool.await_healthy("cm")


def test_logs_are_on_standard_output_with_their_daemon_in_front(pool: Pool) -> None:
    done = subprocess.run(
        [pool.description["engine"], "logs", pool.container("ap")], capture_output=True, text=True, timeout=60
    )
    text = done.stdout + done.stderr
    assert "condor/MasterLog: " in text
    assert "condor/SchedLog: " in text


def test_all_in_one_is_a_whole_pool(pool: Pool) -> None:
    name = f"offload-allinone-{os.getpid()}"
    limits = ["--ulimit", "nofile=10000:10000", "--ulimit", "nproc=10000:10000"]
    start = ["run", "--detach", "--privileged", "--name", name, "--hostname", "one.offload.pool", *limits]
    pool.engine(*start, str(pool.description["image"]), "-a", "-n", "2", "-o", "fast")
    try:
        deadline = time.monotonic() + 60
        while "healthy" not in (answer := _healthcheck(pool, name)):
            assert time.monotonic() < deadline, answer
            time.sleep(0.2)
        submit = "executable=/usr/bin/id\ntransfer_executable=false\nrequest_memory=100\nshould_transfer_files=YES\noutput=o\nlog=l\nqueue\n"
        script = f"cd $(mktemp -d) && printf '{submit}' | condor_submit >&2 && condor_wait -wait 60 l >&2 && cat o"
        assert "uid=1001(alice)" in pool.engine("exec", "--user", "alice", name, "sh", "-c", script)
    finally:
        pool.engine("rm", "--force", name)


def _healthcheck(pool: Pool, container: str) -> str:
    argv = [pool.description["engine"], "exec", container, "/pool/healthcheck"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    return done.stdout if done.returncode else "healthy"


# security


WITHOUT_A_TOKEN = [
    {},
    {"SEC_CLIENT_AUTHENTICATION": "NEVER"},
    {"SEC_CLIENT_AUTHENTICATION_METHODS": "ANONYMOUS"},
    {"SEC_CLIENT_AUTHENTICATION_METHODS": "CLAIMTOBE", "SEC_CLAIMTOBE_USER": "alice"},
    {"SEC_CLIENT_AUTHENTICATION_METHODS": "FS, PASSWORD, SSL"},
]


@pytest.mark.parametrize("security", WITHOUT_A_TOKEN, ids=lambda s: ",".join(s.values()) or "no token")
def test_nobody_submits_without_a_token(pool: Pool, security: dict[str, str]) -> None:
    for address in (pool.ap, pool.ce):
        answer = run_job(address, None, "true", security=security)
        assert "error" in answer, f"submitted to {address} without any credential: {answer}"


def token_folder(path: Path, text: str) -> Path:
    path.mkdir(mode=0o700)
    (path / "token").write_text(text + "\n")
    (path / "token").chmod(0o600)
    return path


def test_a_token_of_another_key_is_refused(pool: Pool, tmp_path: Path) -> None:
    head, body, signature = pool.token("alice").split(".")
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    answer = run_job(pool.ap, token_folder(tmp_path / "forged", f"{head}.{body}.{flipped}"), "true")
    assert "Failed to authenticate" in answer["error"]


def test_a_token_for_reading_does_not_submit(pool: Pool, tmp_path: Path) -> None:
    answer = run_job(pool.ap, token_folder(tmp_path / "read", pool.token("alice", scopes=["READ"])), "true")
    assert "DENIED" in answer["error"]


def test_a_token_of_another_domain_does_not_submit(pool: Pool, tmp_path: Path) -> None:
    answer = run_job(pool.ap, token_folder(tmp_path / "other", pool.token("alice@elsewhere.example")), "true")
    assert "DENIED" in answer["error"]


def test_an_execute_node_holds_no_signing_key_and_its_token_cannot_submit(pool: Pool, tmp_path: Path) -> None:
    assert pool.exec("ep1", "ls", "-A", "/etc/condor/passwords.d").split() == []
    token = pool.exec("ep1", "cat", "/etc/condor/tokens.d/execute").strip()
    assert "DENIED" in run_job(pool.ap, token_folder(tmp_path / "execute", token), "true")["error"]


def test_a_job_reads_neither_token_nor_key(pool: Pool) -> None:
    answer = run_job(
        pool.ap,
        folder_of(pool, "alice"),
        "ls /etc/condor/tokens.d /etc/condor/passwords.d; cat /etc/condor/tokens.d/execute",
    )
    assert answer["out"] == ""
    assert answer["err"].count("Permission denied") == 3


def test_secrets_on_the_host_are_for_their_owner_alone(pool: Pool) -> None:
    token = pool.token_file("alice")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jupyter_offload" / "pools"
    state = cache / pool.name
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    for path in (state / "passwords.d" / "POOL", state / "executors" / "execute"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_token_is_in_the_description(pool: Pool) -> None:
    assert "eyJ" not in json.dumps(pool.description)


# jobs


@pytest.mark.parametrize(("user", "uid"), [("alice", 1001), ("bob", 1002)])
def test_a_job_runs_as_its_owner_on_an_execute_node(pool: Pool, user: str, uid: int) -> None:
    answer = run_job(pool.ap, folder_of(pool, user), "id -u; hostname; exit 3")
    assert answer["ad"]["User"] == f"{user}@{pool.uid_domain}"
    assert answer["ad"]["ExitCode"] == "3"
    found_uid, host = answer["out"].split()
    assert int(found_uid) == uid
    assert host.split(".")[0] in pool.execute_nodes


@pytest.mark.parametrize(("release", "python"), [(12, "3.11"), (13, "3.13")])
def test_a_job_runs_the_science_image_by_apptainer(pool: Pool, release: int, python: str) -> None:
    code = "import sys, os, numpy, sklearn, matplotlib, IPython; print(*sys.version_info[:2], os.getuid(), sep='.')"
    script = f'apptainer exec {pool.image(release)} python3 -c "{code}"'
    answer = run_job(pool.ap, folder_of(pool, "alice"), script)
    assert answer["out"].strip() == f"{python}.1001", answer["err"]


def test_the_science_image_serves_the_container_universe(pool: Pool) -> None:
    answer = run_job(
        pool.ap,
        folder_of(pool, "alice"),
        "cat /etc/debian_version",
        universe="container",
        container_image=pool.image(12),
        transfer_container="false",
    )
    assert answer["out"].startswith("12."), answer


def test_a_sif_file_runs_for_an_ordinary_user(pool: Pool) -> None:
    """The parts that SIF files need and a plain folder does not: squashfuse and a usable /dev/fuse."""
    script = (
        "mkdir -p root/bin root/tmp root/proc root/sys root/dev root/etc && cp /usr/bin/true root/bin/true\n"
        "ldd /usr/bin/true | grep -o '/[^ ]*' | while read -r lib; do mkdir -p root$(dirname $lib); cp -L $lib root$lib; done\n"
        "apptainer build --disable-cache small.sif root >build.log 2>&1 || cat build.log\n"
        "apptainer exec small.sif /bin/true && echo ran\n"
    )
    answer = run_job(pool.ap, folder_of(pool, "alice"), script, seconds=120)
    assert answer["out"].strip().endswith("ran"), answer


def test_shared_folder_without_transfer(pool: Pool) -> None:
    folder = pool.share / f"job-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir(mode=0o700)
    try:
        os.chown(folder, 1001, 1001)
        script = (
            "import os, sys, htcondor2 as h\n"
            "collector, schedd, folder = sys.argv[1:]\n"
            "s = h.Schedd(h.Collector(collector).locate(h.DaemonType.Schedd, schedd))\n"
            "s.submit(h.Submit({'executable': '/usr/bin/id', 'transfer_executable': 'false', 'arguments': '-un',\n"
            "  'output': 'out', 'error': 'err', 'log': 'log', 'initialdir': folder, 'should_transfer_files': 'NO'}))\n"
        )
        environment = {
            "PATH": os.environ["PATH"],
            "CONDOR_CONFIG": "/dev/null",
            "_CONDOR_SEC_CLIENT_AUTHENTICATION_METHODS": "IDTOKENS",
            "_CONDOR_SEC_TOKEN_DIRECTORY": str(folder_of(pool, "alice")),
            "_CONDOR_FILESYSTEM_DOMAIN": str(pool.description["filesystem_domain"]),
        }
        argv = [sys.executable, "-c", script, pool.collector, pool.schedd, str(folder)]
        subprocess.run(argv, env=environment, check=True, timeout=60)
        deadline = time.monotonic() + 60
        while not (folder / "out").exists() or not (folder / "out").read_text():
            assert time.monotonic() < deadline, (folder / "log").read_text() if (folder / "log").exists() else "no log"
            time.sleep(0.1)
        assert (folder / "out").read_text() == "alice\n"
        assert (folder / "out").stat().st_uid == 1001
    finally:
        shutil.rmtree(folder)


def test_simulated_gpus_are_given_by_model(pool: Pool) -> None:
    answer = run_job(
        pool.ap,
        folder_of(pool, "alice"),
        "echo $CUDA_VISIBLE_DEVICES; hostname",
        request_gpus="1",
        require_gpus='DeviceName == "A100-SXM4-40GB"',
    )
    device, host = answer["out"].split()
    assert device.startswith("GPU-")
    assert host.startswith("ep1.")


def test_memory_over_the_request_is_held(pool: Pool) -> None:
    script = 'python3 -c "import time; b = bytearray(400 << 20); time.sleep(60)"'
    answer = run_job(pool.ap, folder_of(pool, "alice"), script, request_memory="50", seconds=90)
    assert answer["ad"]["JobStatus"] == "5", answer
    assert "memory usage exceeded" in answer["ad"]["HoldReason"]


# the CE


def test_the_ce_routes_a_job_to_the_pool_as_its_owner(pool: Pool) -> None:
    answer = run_job(pool.ce, folder_of(pool, "alice"), "id -un; hostname", seconds=90)
    assert answer["ad"]["JobStatus"] == "4", answer
    assert "." in answer["ad"]["RoutedToJobId"]
    user, host = answer["out"].split()
    assert user == "alice"
    assert host.split(".")[0] in pool.execute_nodes


def test_the_route_translates_the_ce_words(pool: Pool) -> None:
    script = "grep -E '^(RequestCpus|RequestMemory|AllowedExecuteDuration) ' .job.ad"
    words = {"+xcount": "2", "+maxMemory": "300", "+maxWallTime": "7"}
    answer = run_job(pool.ce, folder_of(pool, "alice"), script, seconds=90, **words)
    lines = dict(line.split(" = ") for line in answer["out"].splitlines())
    assert lines == {"RequestCpus": "2", "RequestMemory": "300", "AllowedExecuteDuration": "420"}, answer


@breaking
def test_the_ce_holds_what_no_route_takes(fault_pool: Pool) -> None:
    fault_pool.configure("CE_IDLE_HOLD_SECONDS=3", "JOB_ROUTER_SOURCE_JOB_CONSTRAINT=false", node="ce")
    try:
        answer = run_job(fault_pool.ce, folder_of(fault_pool, "alice"), "true", seconds=90)
    finally:
        fault_pool.configure(
            "CE_IDLE_HOLD_SECONDS=1800",
            "JOB_ROUTER_SOURCE_JOB_CONSTRAINT=target.JobUniverse =?= 5 || target.JobUniverse =?= 1",
            node="ce",
        )
    assert answer["ad"]["JobStatus"] == "5", answer
    assert "no matching routes" in answer["ad"]["HoldReason"]


@breaking
def test_the_ce_removes_a_job_instead_of_starting_it_again(fault_pool: Pool) -> None:
    with ThreadPoolExecutor() as threads:
        job = threads.submit(run_job, fault_pool.ce, folder_of(fault_pool, "alice"), "sleep 120", seconds=120)
        deadline = time.monotonic() + 60
        while "alice:sleep" not in ":".join(fault_pool.exec("ep1", "ps", "-e", "-o", "user=,comm=").split()):
            assert time.monotonic() < deadline, "the job did not start"
            time.sleep(0.2)
        fault_pool.stop("ep1")
        answer = job.result()
    fault_pool.start("ep1")
    assert answer["ad"].get("RemoveReason") == "CE job removed by SYSTEM_PERIODIC_REMOVE due to disabled job retries", (
        answer
    )


# running and stopping


@breaking
def test_fast_and_default_are_switched_while_it_runs(fault_pool: Pool) -> None:
    def interval() -> str:
        return fault_pool.exec("cm", "condor_config_val", "-negotiator", "NEGOTIATOR_INTERVAL").strip()

    assert interval() == "1"
    subprocess.run([COMMAND, "config", "default", "--name", fault_pool.name], check=True, timeout=120)
    try:
        assert interval() == "60"
        fault_pool.restart("ap")
        assert fault_pool.exec("ap", "condor_config_val", "NEGOTIATOR_INTERVAL").strip() == "60"
    finally:
        subprocess.run([COMMAND, "config", "fast", "--name", fault_pool.name], check=True, timeout=120)
    assert interval() == "1"
    shown = subprocess.run(
        [COMMAND, "config", "--json", "--name", fault_pool.name], capture_output=True, text=True, timeout=60
    )
    knobs = json.loads(shown.stdout)
    assert knobs["NEGOTIATOR_INTERVAL"] == "1"
    assert all(knobs.values())


@breaking
def test_the_health_check_notices_a_dead_daemon(fault_pool: Pool) -> None:
    fault_pool.exec("ep1", "pkill", "-STOP", "-x", "condor_startd")
    try:
        assert "startd does not answer" in fault_pool.health()["ep1"]
    finally:
        fault_pool.exec("ep1", "pkill", "-CONT", "-x", "condor_startd")
    fault_pool.await_healthy("ep1")


@breaking
def test_sigterm_stops_a_node_gracefully(fault_pool: Pool) -> None:
    fault_pool.stop("ep1", seconds=30)
    state = json.loads(fault_pool.engine("inspect", fault_pool.container("ep1")))[0]["State"]
    assert state["ExitCode"] == 0
    log = fault_pool.exec("cm", "condor_status", "-startd", "-af", "Machine")
    assert "ep1" not in log, "the stopped node did not take its slots away"
    fault_pool.start("ep1")


# what other tests break it with


@breaking
def test_a_restarted_submit_node_keeps_its_queue(fault_pool: Pool) -> None:
    commands = "executable=/bin/true\nhold=true\nrequest_memory=100\nqueue\n"
    fault_pool.exec("ap", "sh", "-c", f"printf '{commands}' | condor_submit", user="alice")
    before = fault_pool.exec("ap", "condor_q", "-all", "-af", "ClusterId", "Owner")
    assert "alice" in before
    fault_pool.restart_schedd()
    assert fault_pool.exec("ap", "condor_q", "-all", "-af", "ClusterId", "Owner") == before
    fault_pool.exec("ap", "condor_rm", "-all")
    assert run_job(fault_pool.ap, folder_of(fault_pool, "alice"), "echo after")["out"] == "after\n"


@breaking
def test_a_killed_execute_node_comes_back(fault_pool: Pool) -> None:
    fault_pool.kill("ep1")
    assert fault_pool.health()["ep1"] == "not running"
    fault_pool.start("ep1")
    assert run_job(fault_pool.ap, folder_of(fault_pool, "alice"), "echo after", seconds=120)["out"] == "after\n"


@breaking
def test_a_paused_node_accepts_connections_and_never_answers(fault_pool: Pool) -> None:
    host, port = fault_pool.description["schedd_address"].split(":")
    fault_pool.pause("ap")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.settimeout(1)
            with pytest.raises(TimeoutError):
                connection.recv(1)
    finally:
        fault_pool.unpause("ap")
    fault_pool.await_healthy("ap")


@breaking
def test_a_killed_schedd_is_started_again(fault_pool: Pool) -> None:
    fault_pool.kill_daemon("ap", "condor_schedd")
    fault_pool.await_healthy("ap", seconds=90)


def test_a_token_expires(pool: Pool, tmp_path: Path) -> None:
    token = pool.token("alice", lifetime=1)
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    while time.time() <= claims["exp"] + 1:  # HTCondor compares whole seconds
        time.sleep(0.1)
    assert "Failed to authenticate" in run_job(pool.ap, token_folder(tmp_path / "old", token), "true")["error"]


def test_a_second_up_of_the_same_name_changes_nothing(pool: Pool) -> None:
    done = subprocess.run(
        [COMMAND, "up", "--json", "--name", pool.name, "--execute", "1"], capture_output=True, text=True, timeout=120
    )
    assert json.loads(done.stdout)["containers"] == pool.description["containers"]


@breaking
def test_what_an_interrupted_start_left_does_not_hinder_the_next(fault_pool: Pool) -> None:
    """A network and a container of the pool's name, but no record: as after SIGKILL in the middle of `pool up`."""
    engine = fault_pool.description["engine"]
    name = f"cut-{os.getpid()}"
    subprocess.run([engine, "network", "create", f"offload-{name}"], check=True, capture_output=True, timeout=60)
    create = [engine, "create", "--name", f"offload-{name}-cm", "--label", f"org.jupyter-offload.pool={name}"]
    subprocess.run([*create, fault_pool.description["image"]], check=True, capture_output=True, timeout=60)
    try:
        subprocess.run([COMMAND, "up", "--name", name, "--execute", "1"], check=True, capture_output=True, timeout=120)
    finally:
        subprocess.run([COMMAND, "down", "--time", "1", "--name", name], check=True, capture_output=True, timeout=60)
    assert name not in fault_pool.engine("ps", "--all", "--format", "{{.Names}}")


@pytest.mark.parametrize("arguments", [["token", "alice"], ["describe"], ["status"], ["config", "fast"]])
def test_commands_on_a_pool_that_is_not_there_say_how_to_start_one(arguments: list[str], pool: Pool) -> None:
    done = subprocess.run([COMMAND, *arguments, "--name", "nowhere"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pool up --name nowhere" in done.stderr


def test_htcondor_23_9_runs_jobs_too(old_pool: Pool) -> None:
    assert "CondorVersion: 23.9." in old_pool.exec("cm", "condor_version")
    answer = run_job(old_pool.ap, folder_of(old_pool, "bob"), "id -un; apptainer --version")
    assert answer["out"].startswith("bob\napptainer version"), answer


@pytest.mark.parametrize("folder", ["/tmp/x", "/var/tmp/x/y", "/root/x"])
def test_a_shared_folder_that_jobs_could_not_see_is_refused(folder: str, pool: Pool) -> None:
    done = subprocess.run(
        [COMMAND, "up", "--name", "unshared", "--share", folder], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert f"--share {folder}: " in done.stderr
    assert not Path(folder).exists()


def test_the_compose_file_and_the_containerfile_name_files_that_exist() -> None:
    folder = CONTAINERS / "htcondor"
    text = (folder / "Containerfile").read_text()
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ")]
    assert copied
    for name in (name for names in copied for name in names):
        assert (folder / name).exists(), name
    assert "Containerfile" in (folder / "compose.yaml").read_text()
