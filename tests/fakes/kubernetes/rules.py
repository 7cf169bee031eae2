"""What an API server rejects beyond the schema: the rules of batch/v1 and core/v1 that Upshot could break."""

from __future__ import annotations

import base64
import binascii
import copy
import re
from collections.abc import Iterator
from typing import Any

from tests.fakes.kubernetes.store import JOB, POD, SECRET, Kind, Manifest

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL_KEY = re.compile(r"([a-z0-9][-a-z0-9.]{0,252}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_SECRET_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_PULL_POLICIES = {"Always", "IfNotPresent", "Never"}
_MAX_SECRET_BYTES = 1024 * 1024


def violations(kind: Kind, item: Manifest) -> list[str]:
    """Return the rules that an object breaks."""
    found = list(_check_metadata(item))
    if kind == JOB:
        found += _check_job(item)
    if kind == SECRET:
        found += _check_secret(item)
    return found


def change_violations(kind: Kind, before: Manifest, after: Manifest) -> list[str]:
    """Return the rules that a change of an object breaks."""
    if kind == JOB and before["spec"]["template"] != after["spec"]["template"]:
        return ["spec.template: Invalid value: field is immutable"]
    if kind == POD:
        return list(_check_pod_change(before["spec"], after["spec"]))
    return []


def _check_pod_change(before: Manifest, after: Manifest) -> Iterator[str]:
    mutable = "activeDeadlineSeconds"
    if {**before, mutable: None} != {**after, mutable: None}:
        yield (
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`, "
            "`spec.activeDeadlineSeconds`, …"
        )
    old, new = before.get("activeDeadlineSeconds"), after.get("activeDeadlineSeconds")
    if old is not None and (new is None or new > old):
        yield "spec.activeDeadlineSeconds: Invalid value: must be less than or equal to previous value"
    if new is not None and new < 1:
        yield "spec.activeDeadlineSeconds: Invalid value: must be between 1 and 2147483647"


def _check_metadata(item: Manifest) -> Iterator[str]:
    metadata = item["metadata"]
    if not _DNS_NAME.fullmatch(metadata.get("name", "")):
        yield f"metadata.name: Invalid value: {metadata.get('name')!r}"
    yield from _check_labels("metadata.labels", metadata.get("labels") or {})
    for key in metadata.get("annotations") or {}:
        if not _LABEL_KEY.fullmatch(key):
            yield f"metadata.annotations: Invalid value: {key!r}"


def _check_labels(path: str, labels: dict[str, str]) -> Iterator[str]:
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            yield f"{path}: Invalid value: {key!r}"
        if not _LABEL_VALUE.fullmatch(value):
            yield f'{path}: Invalid value: "{value}": a valid label must be an empty string or consist of …'


def _check_secret(secret: Manifest) -> Iterator[str]:
    size = 0
    for key, value in (secret.get("data") or {}).items():
        if not _SECRET_KEY.fullmatch(key):
            yield f"data[{key}]: Invalid value: a valid config key must consist of alphanumeric characters, …"
        try:
            size += len(base64.b64decode(value, validate=True))
        except binascii.Error:
            yield f"data[{key}]: Invalid value: illegal base64 data"
    if size > _MAX_SECRET_BYTES:
        yield f"data: Too long: may not be more than {_MAX_SECRET_BYTES} bytes"
    if secret.get("type") == "kubernetes.io/dockerconfigjson" and ".dockerconfigjson" not in secret["data"]:
        yield "data[.dockerconfigjson]: Required value"


def _check_job(job: Manifest) -> Iterator[str]:
    if not _DNS_LABEL.fullmatch(job["metadata"]["name"]):
        yield "metadata.name: Invalid value: must be no more than 63 characters"
    pod = job["spec"]["template"]["spec"]
    yield from _check_labels("spec.template.labels", job["spec"]["template"].get("metadata", {}).get("labels") or {})
    if pod.get("restartPolicy") not in {"Never", "OnFailure"}:
        yield 'spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"'
    yield from _check_pod(pod)


def _check_pod(pod: Manifest) -> Iterator[str]:
    if (deadline := pod.get("activeDeadlineSeconds")) is not None and not 1 <= deadline <= 2**31 - 1:
        yield "spec.activeDeadlineSeconds: Invalid value: must be between 1 and 2147483647"
    if pod.get("terminationGracePeriodSeconds", 30) < 0:
        yield "spec.terminationGracePeriodSeconds: Invalid value: must be greater than or equal to 0"
    volumes = [volume["name"] for volume in pod.get("volumes") or ()]
    yield from _check_volumes(pod, volumes)
    if not pod["containers"]:
        yield "spec.containers: Required value"
    containers = [*(pod.get("initContainers") or ()), *pod["containers"]]
    for container in containers:
        yield from _check_container(container, volumes)
    if any(container.get("restartPolicy") for container in pod["containers"]):
        yield "spec.containers.restartPolicy: Forbidden: may not be set for non-init containers"


def _check_volumes(pod: Manifest, volumes: list[str]) -> Iterator[str]:
    for name in volumes:
        if not _DNS_LABEL.fullmatch(name):
            yield f"spec.volumes.name: Invalid value: {name!r}"
        if volumes.count(name) > 1:
            yield f"spec.volumes.name: Duplicate value: {name!r}"
    for volume in pod.get("volumes") or ():
        if len(volume) != 2:
            yield f"spec.volumes[{volume['name']}]: Required value: must specify exactly one volume type"


def _check_container(container: Manifest, volumes: list[str]) -> Iterator[str]:
    if not _DNS_LABEL.fullmatch(container["name"]):
        yield f"spec.containers.name: Invalid value: {container['name']!r}"
    if not container.get("image", "").strip():
        yield "spec.containers.image: Required value"
    if container.get("imagePullPolicy", "Always") not in _PULL_POLICIES:
        yield f"spec.containers.imagePullPolicy: Unsupported value: {container['imagePullPolicy']!r}"
    mounts = container.get("volumeMounts") or []
    paths = [mount["mountPath"] for mount in mounts]
    for mount in mounts:
        if mount["name"] not in volumes:
            yield f"spec.containers.volumeMounts.name: Not found: {mount['name']!r}"
        if paths.count(mount["mountPath"]) > 1:
            yield f"spec.containers.volumeMounts.mountPath: Invalid value: {mount['mountPath']!r}: must be unique"
    yield from _check_security_context(container.get("securityContext") or {})
    yield from _check_resources(container.get("resources") or {})


def _check_security_context(context: Manifest) -> Iterator[str]:
    if context.get("privileged") and context.get("allowPrivilegeEscalation") is False:
        yield "securityContext: Invalid value: cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
    if context.get("runAsNonRoot") and context.get("runAsUser") == 0:
        yield "securityContext: Invalid value: container's runAsUser breaks non-root policy"


def _check_resources(resources: Manifest) -> Iterator[str]:
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for name, amount in {**requests, **limits}.items():
        if not _QUANTITY.fullmatch(str(amount)):
            yield f"resources.{name}: Invalid value: {amount!r}: quantities must match the regular expression …"
        if "/" in name and requests.get(name) != limits.get(name):
            yield f"resources.limits: Required value: limit must be set for non overcommitable resource {name}"


def merge(target: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged
