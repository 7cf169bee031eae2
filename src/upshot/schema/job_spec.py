"""The options of a job as people write and read them, derived from the declarations in `domain.job`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from upshot.domain.job import ALL_GPUS, JOB_OPTIONS, ImagePullCredentials, JobSpec
from upshot.domain.job_options import ValueKind
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.masking import MASK
from upshot.schema.quantities import show_amount

JobOptions = Mapping[str, Any]  #: the options that a step or a queue's `defaults` sets, by field of `JobSpec`


def spec_as_inputs(spec: JobSpec) -> dict[str, Any]:
    """Return the `with` block of `launch` that asks for this spec, without the options that are empty or unset."""
    inputs: dict[str, Any] = {}
    for name, option in JOB_OPTIONS.items():
        value = getattr(spec, name)
        match option.kind:
            case ValueKind.BYTES | ValueKind.SECONDS if value is not None:
                value = show_amount(option, value)
            case ValueKind.CHOICE:
                value = value.value
            case ValueKind.NAMES:
                value = list(value)
            case ValueKind.GPUS:
                value = "all" if value == ALL_GPUS else value or None
            case ValueKind.MOUNTS:
                value = [
                    {"source": mount.source, "target": mount.target, "read-only": mount.read_only} for mount in value
                ]
            case ValueKind.CREDENTIALS if value is not None:
                value = {"username": value.username, "password": value.password}
        if value is not None and value not in ("", {}, []):
            *parents, key = option.key.split(".")
            holder = inputs
            for parent in parents:
                holder = holder.setdefault(parent, {})
            holder[key] = value
    return inputs


def without_literal_password(spec: JobSpec, placeholders: SecretPlaceholders) -> JobSpec:
    """Mask a password that was written out, so that only the placeholder of a secret is ever shown."""
    auth = spec.registry_auth
    if auth is None or placeholders.secret_names(auth.password):
        return spec
    return replace(spec, registry_auth=ImagePullCredentials(auth.username, MASK))
