"""Build the request that an engine receives for one attempt of a job: secrets and Upshot's own variables filled in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import orjson

from upshot.backends.protocol import ContainerRequest, StartRefused
from upshot.domain import job_token
from upshot.domain.event import Event
from upshot.domain.job import (
    EVENT_FILE,
    INPUT_DIR,
    JOB_OPTIONS,
    OUTPUT_DIR,
    SECRETS_DIR,
    FailureKind,
    ImagePullCredentials,
    Job,
)
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.errors import ConfigError
from upshot.masking import Mask
from upshot.ports.jobs import Installation
from upshot.ports.secrets import SecretSource
from upshot.resources.event import event_json
from upshot.resources.job import job_json


@dataclass(frozen=True, slots=True)
class JobEnvironment:
    """What this worker adds to a job."""

    installation: Installation
    secrets: SecretSource
    api_url: str  #: where jobs reach the REST API


def secrets_mask(job: Job, environment: JobEnvironment) -> Mask:
    """Return a mask that hides the job's secrets, and its token, in what the job writes."""
    values = []
    for name in job.secrets:
        with suppress(ConfigError):  # the job cannot start without it, and says so
            values.append(environment.secrets.get(name) or "")
    return Mask([*values, job_token.make(environment.installation.key, job.id)])


def build_container_request(job: Job, event: Event, environment: JobEnvironment) -> ContainerRequest:
    """
    Build the request for the current attempt of a job.

    Args:
        job: The job, with placeholders in place of secrets.
        event: The event that its execution answers.
        environment: What this worker adds.

    Raises:
        StartRefused: A secret does not exist on this worker, or cannot be used.
    """
    placeholders = SecretPlaceholders(job.nonce)

    def secret(name: str) -> str:
        try:
            value = environment.secrets.get(name)
        except ConfigError as error:
            raise StartRefused(FailureKind.REFUSED, str(error)) from error
        if value is None:
            raise StartRefused(
                FailureKind.REFUSED,
                f"there is no secret {name!r} on this worker; set UPSHOT_SECRET_{name} in its environment, "
                f"or create the file {name} in its UPSHOT_SECRETS_DIR or in `secrets` in its data directory",
            )
        return value

    def fill(value: Any) -> Any:
        match value:
            case str():
                return placeholders.fill(value, secret)
            case tuple():
                return tuple(map(fill, value))
            case Mapping():
                return {key: fill(text) for key, text in value.items()}
            case ImagePullCredentials():
                return ImagePullCredentials(fill(value.username), fill(value.password))
            case _:
                return value

    filled = {name: fill(getattr(job.spec, name)) for name, option in JOB_OPTIONS.items() if option.holds_secrets}
    spec = replace(job.spec, **filled)
    return ContainerRequest(
        name=job.container_name,
        installation_id=environment.installation.id,
        job_id=job.id,
        spec=spec,
        env={
            **spec.env,
            "UPSHOT_URL": environment.api_url,
            "UPSHOT_EVENT": event.id,
            "UPSHOT_JOB": job.id,
            "UPSHOT_TOKEN": job_token.make(environment.installation.key, job.id),
            # A backend without containers replaces these paths, so that a script finds its files everywhere.
            "UPSHOT_EVENT_FILE": EVENT_FILE,
            "UPSHOT_INPUT": INPUT_DIR,
            "UPSHOT_OUTPUT": OUTPUT_DIR,
            "UPSHOT_SECRETS": SECRETS_DIR,
        },
        event=orjson.dumps(event_json(event), option=orjson.OPT_INDENT_2),
        context={"job": {**job_json(job), "container": job.container_name}},
    )
