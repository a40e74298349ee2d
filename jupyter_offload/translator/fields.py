"""The fields of a Pod: which are honoured, and which mean nothing on a batch system, each with its reason.

Whatever is in neither table is refused with its path, unless it is unset. Field names: Kubernetes API reference, PodSpec v1 core.
"""

from __future__ import annotations

from jupyter_offload.translator.reading import Reader, refuse

__all__ = [
    "CONTAINER",
    "CONTAINER_HARMLESS",
    "POD",
    "POD_HARMLESS",
    "SECURITY_HARMLESS",
    "SPEC",
    "SPEC_HARMLESS",
    "VOLUMES",
    "check_values",
]

POD = frozenset({"apiVersion", "kind", "metadata", "spec"})
POD_HARMLESS = {"status": "what a cluster observed, not what is wished"}

SPEC = frozenset({
    "activeDeadlineSeconds", "containers", "initContainers", "restartPolicy", "securityContext", "terminationGracePeriodSeconds", "volumes",
})  # fmt: skip
_SCHEDULING = "chooses the cluster's node; by now that choice has been made"
_NETWORK = "the worker's own network and resolver are used as they are"
_CREDENTIALS = "nothing of the cluster's API is mounted, so no account is used"
SPEC_HARMLESS = {
    "affinity": _SCHEDULING,
    "nodeName": _SCHEDULING,
    "nodeSelector": _SCHEDULING,
    "preemptionPolicy": _SCHEDULING,
    "priority": _SCHEDULING,
    "priorityClassName": _SCHEDULING,
    "schedulerName": _SCHEDULING,
    "schedulingGates": _SCHEDULING,
    "tolerations": _SCHEDULING,
    "topologySpreadConstraints": _SCHEDULING,
    "runtimeClassName": "names a container engine of the cluster; the site's runtime is used",
    "dnsPolicy": _NETWORK,
    "enableServiceLinks": "there are no services here whose addresses could be announced",
    "automountServiceAccountToken": _CREDENTIALS,
    "serviceAccount": _CREDENTIALS,
    "serviceAccountName": _CREDENTIALS,
    "imagePullSecrets": "the worker pulls images with the site's own credentials",
}

CONTAINER = frozenset({
    "args", "command", "env", "image", "name", "resources", "restartPolicy", "securityContext", "volumeMounts", "workingDir",
})  # fmt: skip
CONTAINER_HARMLESS = {
    "imagePullPolicy": "the runtime's cache decides; a reference by digest is always exact",
    "ports": "documentation only, as in Kubernetes: nothing is opened or closed by it",
    "terminationMessagePath": "no termination message is read; logs and exit code come back",
    "terminationMessagePolicy": "no termination message is read; logs and exit code come back",
}

VOLUMES: dict[str, frozenset[str]] = {
    "emptyDir": frozenset({"sizeLimit", "medium"}),
    "secret": frozenset({"secretName", "items", "defaultMode", "optional"}),
    "configMap": frozenset({"name", "items", "defaultMode", "optional"}),
    "hostPath": frozenset({"path", "type"}),
}

_SECURITY = frozenset({"readOnlyRootFilesystem"})
SECURITY_HARMLESS = {
    "allowPrivilegeEscalation": "a job never gets more rights than its user has",
    "runAsNonRoot": "a job runs as the batch system's user",
    "seccompProfile": "a narrower profile than the worker's own cannot make a correct program fail here",
    "seLinuxOptions": "the worker's own labels are used",
    "appArmorProfile": "the worker's own profile is used",
    "capabilities": "a job has no capabilities to drop; adding some is refused",
    "fsGroup": "volumes belong to the batch system's user, who runs everything",
    "fsGroupChangePolicy": "volumes belong to the batch system's user, who runs everything",
}


def check_values(reader: Reader) -> None:
    """Refuse values that cannot be honoured of fields that can (of a PodSpec, a container or a volumeMount)."""
    policy = reader.text("restartPolicy")
    if policy not in (None, "Never"):
        # OnFailure and Always promise restarts in place; here a task runs once, and again from the start only after an eviction.
        # Kubernetes' default, Always, never ends, so a Pod that does not say anything is taken as Never.
        refuse(reader.at("restartPolicy"), f"{policy!r} is not supported: only Never is")
    if reader.text("mountPropagation") not in (None, "", "None"):
        refuse(reader.at("mountPropagation"), "is not supported: mounts are private")
    if reader.text("recursiveReadOnly") not in (None, "", "Disabled"):
        refuse(reader.at("recursiveReadOnly"), "is not supported")
    security = reader.child("securityContext")
    if security is None:
        return
    security.check(_SECURITY, SECURITY_HARMLESS)
    capabilities = security.child("capabilities")
    if capabilities is not None:
        capabilities.check({"drop"})
    if security.boolean("allowPrivilegeEscalation"):
        refuse(security.at("allowPrivilegeEscalation"), "cannot be granted here")
