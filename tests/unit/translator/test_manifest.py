"""What is refused, with its path; what is accepted; and what a Pod needs."""

from __future__ import annotations

import copy
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts.job_script import container, pod, shell, work

from jupyter_offload.errors import FileRefused, ManifestError, OffloadError, PolicyDenied
from jupyter_offload.pod import WorkFile
from jupyter_offload.translator import Needs, Options, Policy, translate, translate_manifest
from jupyter_offload.translator.fields import CONTAINER, CONTAINER_HARMLESS, SECURITY_HARMLESS, SPEC, SPEC_HARMLESS

HOST = Options(runtime="host")
IMAGES = Options(policy=Policy(images=("*",)))


def changed(path: str, value: Any) -> dict[str, Any]:
    """A good Pod with one field set; numbers in the path are places in lists."""
    manifest = pod(
        shell("true"),
        initContainers=[container(name="init", command=["true"])],
        volumes=[{"name": "extra", "emptyDir": {}}],
    )
    spot: Any = manifest
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    for part in parents:
        spot = spot.setdefault(part, {}) if isinstance(spot, dict) else spot[part]
    spot[last] = value
    return manifest


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("kind", "Deployment", "kind"),
        ("spec", None, "spec"),
        ("spec", [], "spec"),
        ("spec/containers", [], "spec.containers"),
        ("spec/containers", {"name": "x"}, "spec.containers"),
        ("spec/containers/0", "x", "spec.containers[0]"),
        ("spec/containers/0/name", "Not A Label", "spec.containers[0].name"),
        ("spec/containers/0/name", None, "spec.containers[0].name"),
        ("spec/containers/0/name", "init", "spec.containers[0].name"),
        ("spec/containers/0/image", 7, "spec.containers[0].image"),
        ("spec/containers/0/image", "busybox", "spec.containers[0].image"),
        ("spec/containers/0/command", "ls", "spec.containers[0].command"),
        ("spec/containers/0/command", ["ls", 1], "spec.containers[0].command[1]"),
        ("spec/containers/0/command", [], "spec.containers[0].command"),
        ("spec/containers/0", {"name": "x", "image": "host", "args": ["x"]}, "spec.containers[0].command"),
        ("spec/containers/0/command", ["a\0b"], "spec.containers[0].command[0]"),
        ("spec/containers/0/args", ["\ud800"], "spec.containers[0].args[0]"),
        ("spec/containers/0/args", ["x" * 131072], "spec.containers[0].args[0]"),
        ("spec/containers/0/args", ["x" * 100000] * 11, "spec.containers[0]"),
        ("spec/containers/0/env", [{"name": "A B", "value": "x"}], "spec.containers[0].env[0].name"),
        ("spec/containers/0/env", [{"name": "A", "value": 1}], "spec.containers[0].env[0].value"),
        ("spec/containers/0/env", [{"name": "A", "valueFrom": {"fieldRef": {}}}], "spec.containers[0].env[0].valueFrom"),
        ("spec/containers/0/env", [{"name": "A", "value": "x" * 131072}], "spec.containers[0].env (A)"),
        ("spec/containers/0/envFrom", [{"secretRef": {"name": "x"}}], "spec.containers[0].envFrom"),
        ("spec/containers/0/livenessProbe", {"exec": {}}, "spec.containers[0].livenessProbe"),
        ("spec/containers/0/lifecycle", {"preStop": {}}, "spec.containers[0].lifecycle"),
        ("spec/containers/0/tty", True, "spec.containers[0].tty"),
        ("spec/containers/0/workingDir", "work", "spec.containers[0].workingDir"),
        ("spec/containers/0/workingDir", "/work/../etc", "spec.containers[0].workingDir"),
        ("spec/containers/0/securityContext", {"runAsUser": 1000}, "spec.containers[0].securityContext.runAsUser"),
        ("spec/containers/0/securityContext", {"privileged": True}, "spec.containers[0].securityContext.privileged"),
        ("spec/containers/0/securityContext", {"allowPrivilegeEscalation": True}, "spec.containers[0].securityContext.allowPrivilegeEscalation"),
        ("spec/containers/0/securityContext", {"capabilities": {"add": ["SYS_ADMIN"]}}, "spec.containers[0].securityContext.capabilities.add"),
        ("spec/containers/0/resources", {"limits": {"amd.com/gpu": 1}}, "spec.containers[0].resources.limits.amd.com/gpu"),
        ("spec/containers/0/resources", {"limits": {"cpu": "two"}}, "spec.containers[0].resources.limits.cpu"),
        ("spec/containers/0/resources", {"limits": {"cpu": True}}, "spec.containers[0].resources.limits.cpu"),
        ("spec/containers/0/resources", {"limits": {"memory": "-1"}}, "spec.containers[0].resources.limits.memory"),
        ("spec/containers/0/resources", {"limits": {"nvidia.com/gpu": "0.5"}}, "spec.containers[0].resources.limits.nvidia.com/gpu"),
        ("spec/containers/0/resources", {"claims": [{"name": "x"}]}, "spec.containers[0].resources.claims"),
        ("spec/containers/0/volumeMounts", [{"name": "nope", "mountPath": "/work"}], "spec.containers[0].volumeMounts[0].name"),
        ("spec/containers/0/volumeMounts", [{"name": "work", "mountPath": "work"}], "spec.containers[0].volumeMounts[0].mountPath"),
        ("spec/containers/0/volumeMounts/0/subPath", "../x", "spec.containers[0].volumeMounts[0].subPath"),
        ("spec/containers/0/volumeMounts/0/subPathExpr", "$(X)", "spec.containers[0].volumeMounts[0].subPathExpr"),
        ("spec/containers/0/volumeMounts/0/mountPropagation", "Bidirectional", "spec.containers[0].volumeMounts[0].mountPropagation"),
        ("spec/initContainers/0/restartPolicy", "Always", "spec.initContainers[0].restartPolicy"),
        ("spec/ephemeralContainers", [{"name": "x"}], "spec.ephemeralContainers"),
        ("spec/restartPolicy", "OnFailure", "spec.restartPolicy"),
        ("spec/hostNetwork", True, "spec.hostNetwork"),
        ("spec/shareProcessNamespace", True, "spec.shareProcessNamespace"),
        ("spec/hostAliases", [{"ip": "1.2.3.4"}], "spec.hostAliases"),
        ("spec/noSuchField", 1, "spec.noSuchField"),
        ("spec/activeDeadlineSeconds", "60", "spec.activeDeadlineSeconds"),
        ("spec/activeDeadlineSeconds", 0, "spec.activeDeadlineSeconds"),
        ("spec/activeDeadlineSeconds", True, "spec.activeDeadlineSeconds"),
        ("spec/terminationGracePeriodSeconds", -1, "spec.terminationGracePeriodSeconds"),
        ("spec/volumes/1", {"name": "extra", "nfs": {"server": "x"}}, "spec.volumes[1].nfs"),
        ("spec/volumes/1", {"name": "extra", "persistentVolumeClaim": {"claimName": "x"}}, "spec.volumes[1].persistentVolumeClaim"),
        ("spec/volumes/1", {"name": "extra"}, "spec.volumes[1]"),
        ("spec/volumes/1", {"name": "extra", "emptyDir": {}, "secret": {"secretName": "x"}}, "spec.volumes[1]"),
        ("spec/volumes/1", {"name": "work", "emptyDir": {}}, "spec.volumes[1].name"),
        ("spec/volumes/1", {"name": "extra", "emptyDir": {"medium": "Memory"}}, "spec.volumes[1].emptyDir.medium"),
        ("spec/volumes/1", {"name": "extra", "emptyDir": {"sizeLimit": "much"}}, "spec.volumes[1].emptyDir.sizeLimit"),
        ("spec/volumes/1", {"name": "extra", "secret": {"secretName": "absent"}}, "spec.volumes[1].secret"),
        ("spec/volumes/1", {"name": "extra", "configMap": {"name": "absent"}}, "spec.volumes[1].configMap"),
        ("spec/volumes/1", {"name": "extra", "secret": {"secretName": "s", "items": [{"key": "no", "path": "x"}]}}, "spec.volumes[1].secret.items[0].key"),
        ("spec/volumes/1", {"name": "extra", "secret": {"secretName": "s", "items": [{"key": "k", "path": "../x"}]}}, "spec.volumes[1].secret.items[0].path"),
        ("spec/volumes/1", {"name": "extra", "secret": {"secretName": "s", "defaultMode": 512}}, "spec.volumes[1].secret.defaultMode"),
        ("metadata/annotations", {"jupyter-offload/fetch": "*"}, "metadata.annotations.jupyter-offload/fetch"),
        ("metadata/annotations", {"jupyter-offload/fetch": '["/etc/passwd"]'}, "metadata.annotations.jupyter-offload/fetch[0]"),
        ("metadata/annotations", {"jupyter-offload/fetch": '["a/../../b"]'}, "metadata.annotations.jupyter-offload/fetch[0]"),
        ("metadata/annotations", {"x": 1}, "metadata.annotations.x"),
    ],
)  # fmt: skip
def test_refused_with_its_path(path: str, value: Any, where: str) -> None:
    secret = {"metadata": {"name": "s"}, "stringData": {"k": "v"}}
    with pytest.raises(ManifestError) as caught:
        translate(work(changed(path, value), secrets=(secret,)), HOST)
    assert caught.value.details["path"] == where
    assert caught.value.message.startswith(where)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("mounts", "where"),
    [
        ([{"name": "extra", "mountPath": "/data"}], "spec.containers[0].volumeMounts[1].mountPath"),
        ([{"name": "extra", "mountPath": "/work/a"}, {"name": "extra", "mountPath": "/work/a/b"}], "spec.containers[0].volumeMounts[2].mountPath"),
        ([{"name": "extra", "mountPath": "/work/"}], "spec.containers[0].volumeMounts[1].mountPath"),
    ],
)  # fmt: skip
def test_mounts_that_the_host_runtime_cannot_make(mounts: list[dict[str, Any]], where: str) -> None:
    with pytest.raises(ManifestError) as caught:
        translate(work(pod(shell("true", mounts=mounts), volumes=[{"name": "extra", "emptyDir": {}}])), HOST)
    assert caught.value.details["path"] == where


def test_two_containers_cannot_mount_different_things_at_the_same_place_of_a_host() -> None:
    volumes = [{"name": name, "emptyDir": {}} for name in ("x", "y")]
    containers = [shell("true", name=name, mounts=[{"name": name, "mountPath": "/work/data"}]) for name in ("x", "y")]
    with pytest.raises(ManifestError, match="different volumes"):
        translate(work(pod(*containers, volumes=volumes)), HOST)


@pytest.mark.parametrize("path", ["/a:b", "/a,b", "/a\\b"])
def test_paths_that_no_container_runtime_can_mount(path: str) -> None:
    with pytest.raises(ManifestError) as caught:
        translate(work(pod(shell("true", image="x", mounts=[{"name": "work", "mountPath": path}]))), IMAGES)
    assert caught.value.details["path"] == "spec.containers[0].volumeMounts[1].mountPath"


@pytest.mark.parametrize("name", ["IFS", "PS1", "APPTAINER_BIND", "SINGULARITYENV_X", "PWD"])
def test_variables_that_a_container_runtime_would_lose(name: str) -> None:
    with pytest.raises(ManifestError, match="keeps for itself"):
        translate(work(pod(shell("true", image="x", env=[{"name": name, "value": "x"}]))), IMAGES)


def test_unset_fields_and_harmless_ones_are_accepted() -> None:
    manifest = pod(
        shell("true", ports=[{"containerPort": 80}], imagePullPolicy="Always", envFrom=[], livenessProbe=None, tty=False, securityContext={"runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}),
        nodeSelector={"x": "y"}, tolerations=[{}], dnsPolicy="ClusterFirst", serviceAccountName="default", hostNetwork=False, securityContext={"fsGroup": 100},
    )  # fmt: skip
    manifest["status"] = {"phase": "Pending"}
    before = copy.deepcopy(manifest)
    assert translate(work(manifest), HOST).containers == ("main",)
    assert manifest == before


def test_every_harmless_field_has_a_reason_and_none_is_in_both_tables() -> None:
    assert not set(SPEC) & set(SPEC_HARMLESS)
    assert not set(CONTAINER) & set(CONTAINER_HARMLESS)
    assert all(len(reason) > 20 for reason in (SPEC_HARMLESS | CONTAINER_HARMLESS).values())


def test_what_the_host_runtime_cannot_enforce_is_noted() -> None:
    mounts = [{"name": "extra", "mountPath": "/work/x", "readOnly": True}]
    given = work(pod(shell("true", mounts=mounts), volumes=[{"name": "extra", "emptyDir": {}}]))
    assert translate(given, HOST).notes == (
        "spec.containers[0].volumeMounts[1].readOnly: the host runtime cannot keep a program from writing to '/work/x'",
    )


def test_the_document_tells_every_field_and_its_reason() -> None:
    text = (Path(__file__).parents[3] / "docs" / "pods.md").read_text()
    for name, reason in (SPEC_HARMLESS | CONTAINER_HARMLESS | SECURITY_HARMLESS).items():
        assert f"| `{name}` | {reason} |" in text, name
    for name in SPEC | CONTAINER:
        assert f"`{name}`" in text, name


def test_singularity_has_its_own_names() -> None:
    given = work(
        pod(
            shell(
                "true",
                image="/images/x.sif",
                env=[{"name": "PATH", "value": "/a"}],
                resources={"limits": {"nvidia.com/gpu": 1}},
            )
        )
    )
    script = translate(
        given,
        Options(
            runtime="singularity",
            runtime_path="/opt/bin/singularity",
            extra=("--no-eval",),
            policy=Policy(images=("*",)),
        ),
    ).script
    assert "export SINGULARITYENV_PATH=/a\n" in script
    assert "o_have_runtime /opt/bin/singularity" in script
    assert " --nv " in script
    assert "    --no-eval \\\n    /images/x.sif" in script


# --- policy --------------------------------------------------------------------------------------------------------


def test_the_default_policy_denies() -> None:
    with pytest.raises(PolicyDenied, match=r"spec.containers\[0\].image"):
        translate(work(pod(shell("true", image="busybox"))), Options())
    volumes = [{"name": "h", "hostPath": {"path": "/cvmfs"}}]
    with pytest.raises(PolicyDenied, match=r"spec.volumes\[1\].hostPath.path"):
        translate(work(pod(shell("true"), volumes=volumes)), HOST)
    manifest = pod(shell("true"))
    manifest["metadata"]["annotations"]["slurm-job.vk.io/pre-exec"] = "rm -rf ~"
    with pytest.raises(PolicyDenied, match=r"metadata\.annotations"):
        translate(work(manifest), HOST)


@pytest.mark.parametrize(
    ("patterns", "image", "allowed"),
    [
        (["docker://registry.example.org/*"], "registry.example.org/a/b:1", True),
        (["docker://registry.example.org/*"], "docker://registry.example.org/a", True),
        (["docker://registry.example.org/*"], "registry.example.org.evil.org/a", False),
        (["docker://registry.example.org/*"], "http://registry.example.org/a", False),
        (["/images/*"], "/images/x.sif", True),
        (["/images/*"], "/images/../home/alice/x.sif", False),
    ],
)
def test_image_patterns(patterns: list[str], image: str, allowed: bool) -> None:
    given = work(pod(shell("true", image=image)))
    options = Options(policy=Policy(images=tuple(patterns)))
    if allowed:
        assert translate(given, options)
    else:
        with pytest.raises(PolicyDenied):
            translate(given, options)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/cvmfs", True),
        ("/cvmfs/x/", True),
        ("/cvmfsx", False),
        ("/", False),
        ("/cvmfs/../etc", False),
        ("cvmfs", False),
    ],
)
def test_host_paths(path: str, allowed: bool) -> None:
    given = work(pod(shell("true"), volumes=[{"name": "h", "hostPath": {"path": path}}]))
    options = Options(runtime="host", policy=Policy(host_paths=("/cvmfs/",)))
    if allowed:
        assert translate(given, options)
    else:
        with pytest.raises((PolicyDenied, ManifestError)):
            translate(given, options)


def test_an_allowed_annotation_is_honoured() -> None:
    manifest = pod(shell("true"))
    manifest["metadata"]["annotations"]["slurm-job.vk.io/pre-exec"] = "start mesh"
    options = Options(runtime="host", policy=Policy(annotations=("slurm-job.vk.io/pre-exec",)))
    assert "\nstart mesh\n" in translate(work(manifest), options).script


# --- needs ---------------------------------------------------------------------------------------------------------


def needs(*containers: dict[str, Any], init: list[dict[str, Any]] | None = None, **spec: Any) -> Needs:
    named = [{"name": f"c{number}", "command": ["x"], "resources": item} for number, item in enumerate(containers)]
    first = [container(name=f"i{number}", command=["x"], resources=item) for number, item in enumerate(init or [])]
    return translate(work(pod(*named, initContainers=first, **spec)), HOST).needs


def test_needs_by_the_rules_of_kubernetes() -> None:
    assert needs({}) == Needs()
    found = needs(
        {"requests": {"cpu": "500m", "memory": "1.5Gi"}, "limits": {"cpu": 4}},
        {"limits": {"cpu": "2e0", "memory": "0.5Gi", "nvidia.com/gpu": 2}},
    )
    assert (found.cpus, found.exact_cpus, found.memory_bytes, found.gpus) == (3, Fraction(5, 2), 2 << 30, 2)
    found = needs({"limits": {"cpu": 1, "memory": "1Gi"}}, init=[{"limits": {"cpu": 8}}, {"limits": {"memory": "3Gi"}}])
    assert (found.cpus, found.memory_bytes) == (8, 3 << 30)
    found = needs({"requests": {"ephemeral-storage": "2G"}}, activeDeadlineSeconds=90, terminationGracePeriodSeconds=5)
    assert (found.disk_bytes, found.time_seconds, found.grace_seconds) == (2_000_000_000, 105, 15)


def test_the_gpu_model_counts_only_with_gpus() -> None:
    manifest = pod(shell("true", resources={"limits": {"nvidia.com/gpu": 1}}))
    manifest["metadata"]["annotations"]["jupyter-offload/gpu-model"] = "A100"
    assert translate(work(manifest), HOST).needs.gpu_model == "A100"
    del manifest["spec"]["containers"][0]["resources"]
    assert translate(work(manifest), HOST).needs.gpu_model is None


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file",
    [
        WorkFile("nope", "x", "/x"),
        WorkFile("work", "../x", "/x"),
        WorkFile("work", "/x", "/x"),
        WorkFile("work", "x", "/x", task=1),
    ],
)
def test_files_for_places_that_do_not_exist(file: WorkFile) -> None:
    with pytest.raises((FileRefused, ManifestError)):
        translate(work(pod(shell("true")), file), HOST)


# --- anything at all -----------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PATHS = st.sampled_from(
    ["metadata", "metadata/annotations", "spec", "spec/containers", "spec/containers/0", "spec/containers/0/env", "spec/containers/0/resources", "spec/containers/0/resources/limits", "spec/containers/0/volumeMounts",
     "spec/containers/0/volumeMounts/0", "spec/containers/0/volumeMounts/0/name", "spec/containers/0/securityContext", "spec/volumes", "spec/volumes/0", "spec/volumes/0/emptyDir", "spec/volumes/1/secret", "spec/volumes/1/emptyDir/sizeLimit",
     "spec/initContainers", "spec/restartPolicy", "spec/containers/0/args", "spec/containers/0/workingDir", "spec/securityContext/capabilities"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(PATHS, JSON, st.booleans())
def test_anything_is_translated_or_refused_and_never_crashes(path: str, value: Any, images: bool) -> None:
    try:
        translate(work(changed(path, value)), IMAGES if images else HOST)
    except OffloadError as error:
        assert error.hint


# --- manifest files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: Pod\na: [", "line 2"),
        ("kind: Pod\nspec:\n  a: 1\n  a: 2\n", "line 4: the key 'a' stands twice"),
        ("\n- 1", "line 2"),
        ("kind: Pod\n---\nkind: Job\n", "line 3: a Job"),
        ("kind: Secret\n", "0 Pods"),
        ("kind: Pod\n---\nkind: Pod\n", "2 Pods"),
        ("kind: !!python/object/apply:os.system [id]\n", "line 1"),
        ("kind: Pod\n\0", "not YAML"),
    ],
)
def test_faults_of_a_manifest_file(text: str, message: str) -> None:
    with pytest.raises(
        ManifestError, match="^" + message.replace("(", r"\(") if message.startswith("line") else message
    ):
        translate_manifest(text)
