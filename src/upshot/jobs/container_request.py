"""From a job to what an engine is told: secrets filled in, the job's own environment added."""

from __future__ import annotations

from dataclasses import dataclass, replace

import orjson

from upshot.backends.protocol import ContainerRequest, StartRefused
from upshot.domain import job_token
from upshot.domain.event import Event
from upshot.domain.job import (
    EVENT_FILE,
    INPUT_FOLDER,
    OUTPUT_FOLDER,
    SECRETS_FOLDER,
    FailureKind,
    ImagePullCredentials,
    Job,
)
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.jobs.events import job_context
from upshot.masking import Mask
from upshot.ports.jobs import Installation
from upshot.ports.secrets import SecretSource


@dataclass(frozen=True, slots=True)
class ContainerRequestBuilder:
    """
    Fills in orders.

    Args:
        installation: Ours.
        secrets: Of this worker.
        url: Where jobs reach the REST API.
    """

    installation: Installation
    secrets: SecretSource
    url: str

    def mask(self, job: Job) -> Mask:
        """Takes the job's secrets, and its token, out of what it says."""
        values = [value for name in job.secrets if (value := self.secrets.get(name))]
        return Mask([*values, self._token(job)])

    def order(self, job: Job, event: Event) -> ContainerRequest:
        """
        Fill in.

        Raises:
            StartRefused: A secret is not there.
        """
        marks = SecretPlaceholders(job.nonce)

        def fill(text: str) -> str:
            return marks.fill(text, self._secret)

        spec = job.spec
        auth = spec.registry_auth
        spec = replace(
            spec,
            command=None if spec.command is None else tuple(map(fill, spec.command)),
            args=None if spec.args is None else tuple(map(fill, spec.args)),
            env={name: fill(value) for name, value in spec.env.items()},
            files={name: fill(value) for name, value in spec.files.items()},
            registry_auth=ImagePullCredentials(fill(auth.username), fill(auth.password)) if auth else None,
        )
        ours = {
            "UPSHOT_URL": self.url,
            "UPSHOT_EVENT": event.id,
            "UPSHOT_JOB": job.id,
            "UPSHOT_TOKEN": self._token(job),
            # So that a script finds its files wherever it runs; a backend without containers says where they are.
            "UPSHOT_EVENT_FILE": EVENT_FILE,
            "UPSHOT_INPUT": INPUT_FOLDER,
            "UPSHOT_OUTPUT": OUTPUT_FOLDER,
            "UPSHOT_SECRETS": SECRETS_FOLDER,
        }
        return ContainerRequest(
            name=job.container,
            installation=self.installation.id,
            job_id=job.id,
            spec=spec,
            env={**spec.env, **ours},
            event=orjson.dumps(event.as_dict(), option=orjson.OPT_INDENT_2),
            fields={"job": {**job_context(job), "container": job.container}},
        )

    def _token(self, job: Job) -> str:
        return job_token.make(self.installation.key, job.id)

    def _secret(self, name: str) -> str:
        value = self.secrets.get(name)
        if value is None:
            raise StartRefused(
                FailureKind.REFUSED,
                f"there is no secret {name!r} on this worker; set UPSHOT_SECRET_{name} in its environment, "
                f"or put a file {name} into its folder UPSHOT_SECRETS_DIR",
            )
        return value
