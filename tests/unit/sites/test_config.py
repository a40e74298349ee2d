"""sites.yaml: merging, locks, and errors that name file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from jupyter_offload.errors import ConfigError
from jupyter_offload.sites.config import default_sites, load_sites, merge
from jupyter_offload.sites.schema import CondorConfig, LocalConfig, SitesConfig
from jupyter_offload.sites.yaml_lines import read_document

POOL = """\
default: pool
sites:
  pool:
    kind: direct
    batch: {type: condor, collector: "cm.example.org:9618", schedd: "submit.example.org", token_file: "~/t"}
    submit: {accounting_group: cms, +ProjectName: higgs}
    runtime: apptainer
    images: {science: {ref: "docker://registry.example.org/science:1", python: "3.11"}}
    mounts: ["/cvmfs:/cvmfs:ro"]
    policy: {images: ["docker://registry.example.org/*"], hostPath: ["/cvmfs"], annotations: []}
    limits: {cpus: 8, memory: 32GiB, gpus: 4, time: 24h, queue_time: 14d}
"""


@pytest.fixture
def make(tmp_path: Path):
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def load(*paths: Path) -> SitesConfig:
    return merge([read_document(path) for path in paths])


def test_the_documented_example_is_read(make):
    config = load(make("sites.yaml", POOL))
    pool = config.sites["pool"]
    assert isinstance(pool.batch, CondorConfig)
    assert pool.submit == {"accounting_group": "cms", "+ProjectName": "higgs"}
    assert (pool.limits.cpus, pool.limits.memory, pool.limits.time, pool.limits.queue_time) == (
        8.0,
        32 << 30,
        86400,
        14 * 86400,
    )
    assert config.default == "pool"


def test_without_a_file_there_is_the_local_site(monkeypatch, tmp_path):
    monkeypatch.setattr("jupyter_offload.sites.config.jupyter_config_path", lambda: [str(tmp_path)])
    config = load_sites({})
    assert list(config.sites) == ["local"]
    assert isinstance(config.sites["local"].batch, LocalConfig)
    assert config == default_sites()


def test_files_are_found_in_the_jupyter_config_path(monkeypatch, tmp_path):
    (tmp_path / "sites.yaml").write_text(POOL)
    monkeypatch.setattr(
        "jupyter_offload.sites.config.jupyter_config_path", lambda: [str(tmp_path / "absent"), str(tmp_path)]
    )
    assert list(load_sites({}).sites) == ["pool"]


def test_a_named_file_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_sites({"OFFLOAD_CONFIG": str(tmp_path / "absent.yaml")})


def test_the_nearest_file_wins_key_by_key(make):
    near = make(
        "near.yaml", "default: mine\nsites:\n  pool: {limits: {cpus: 2}}\n  mine: {batch: {type: local, slots: 1}}\n"
    )
    config = load(near, make("far.yaml", POOL))
    assert config.default == "mine"
    assert config.sites["pool"].limits.cpus == 2
    assert config.sites["pool"].limits.memory == 32 << 30
    assert config.sites["mine"].batch == LocalConfig(type="local", slots=1)


def test_images_and_a_batch_of_another_type_replace_as_a_whole(make):
    near = make("near.yaml", "sites:\n  pool:\n    images: {other: {ref: /images/other}}\n    batch: {type: local}\n")
    pool = load(near, make("far.yaml", POOL)).sites["pool"]
    assert list(pool.images) == ["other"]
    assert isinstance(pool.batch, LocalConfig)


@pytest.mark.parametrize("lock", ["sites.pool.policy", "sites.*.policy", "sites.pool", "sites"])
def test_a_locked_key_cannot_be_set_nearer_to_the_user(make, lock):
    near = make("near.yaml", "sites:\n  pool:\n    policy: {hostPath: ['/']}\n")
    far = make("far.yaml", POOL + f"locked: [{lock}]\n")
    with pytest.raises(ConfigError, match=r"is locked by .*far\.yaml") as caught:
        load(near, far)
    assert caught.value.details["file"] == str(near)
    assert load(make("free.yaml", "default: pool\n"), far).sites["pool"].policy.hostPath == ("/cvmfs",)


def test_a_nearer_file_cannot_unlock(make):
    near = make("near.yaml", "locked: []\nsites:\n  pool:\n    policy: {hostPath: ['/']}\n")
    with pytest.raises(ConfigError, match="locked"):
        load(near, make("far.yaml", POOL + "locked: [sites.pool.policy]\n"))


@pytest.mark.parametrize(
    ("change", "line", "key", "words"),
    [
        (("runtime: apptainer", "runtimes: apptainer"), 7, "sites.pool.runtimes", "unknown key"),
        (("token_file", "tokenfile"), 5, "sites.pool.batch.tokenfile", "Did you mean 'token_file'"),
        (("32GiB", "32GiX"), 11, "sites.pool.limits.memory", "is not a quantity"),
        (("24h", "soon"), 11, "sites.pool.limits.time", "is not a duration"),
        (("type: condor", "type: pbs"), 5, "sites.pool.batch", "local"),
        (("default: pool", "default: poole"), 1, "default", "there is no site"),
        (('"3.11"', "3.11"), 8, "sites.pool.images.science.python", "valid string"),
        (("default: pool", "sites: {}"), 2, "sites", "stands twice"),
        (("default: pool", "default: [pool"), 2, None, "expected"),
        (("accounting_group", "acounting_group"), 6, "sites.pool.submit.acounting_group", "not allowed"),
    ],
)
def test_errors_name_file_line_and_key(make, change, line, key, words):
    path = make("sites.yaml", POOL.replace(*change))
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}:{line}:")
    assert caught.value.details.get("key") == key
    assert words in str(caught.value)


@pytest.mark.parametrize(("text", "words"), [("- a\n", "not a mapping"), ("", "no site"), ("sites: {}\n", "no site")])
def test_a_file_without_sites_is_refused(make, text, words):
    with pytest.raises(ConfigError, match=words):
        load(make("sites.yaml", text))


def test_yaml_tags_make_no_objects(make):
    with pytest.raises(ConfigError):
        load(make("sites.yaml", "sites: !!python/object/apply:os.system ['true']\n"))


def test_the_local_site_has_no_submit_attributes(make):
    path = make("sites.yaml", "sites:\n  here:\n    batch: {type: local}\n    submit: {priority: 3}\n")
    with pytest.raises(ConfigError, match=r"sites\.yaml:4: sites\.here\.submit: priority"):
        load(path)
