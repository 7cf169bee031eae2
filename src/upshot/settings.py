"""Settings, read from the environment (`UPSHOT_…`) in one place; README documents every one."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What an operator can choose. Each field is the environment variable `UPSHOT_` + its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="UPSHOT_", frozen=True, extra="ignore")

    data: Path = Field(Path(".upshot"), description="Folder for the database, Redis' files, logs and endpoint.json.")
    automations: Path = Field(Path("automations"), description="Folder of automation files.")
    redis_url: str | None = Field(
        None, description="A Redis of yours, e.g. `redis://host:6379/0`; left out, `upshot up` runs its own."
    )
    database_url: str | None = Field(
        None,
        description="PostgreSQL, e.g. `postgresql://user:password@host/upshot`; left out, SQLite in the data folder.",
    )
    host: str = Field("127.0.0.1", description="Address that the web process listens on.")
    port: int = Field(8080, ge=0, le=65535, description="Port that the web process listens on; 0 for any free one.")
    url: str | None = Field(
        None, description="A running Upshot that commands talk to; left out, the one that runs on the data folder."
    )
    public_url: str | None = Field(
        None,
        description="Base URL for links in events, e.g. `https://upshot.example.com`; left out, where it listens.",
    )
    token: SecretStr | None = Field(
        None, description="Token that requests must bear; needed for a server that listens beyond loopback."
    )
    secrets_dir: Path | None = Field(
        None,
        description="Folder with a file for each secret, named as it, the way Docker and Kubernetes mount them.",
    )
    egress_allow: str = Field(
        "",
        description="Private destinations that actions may reach: a comma list of networks and host names, each with "
        "an optional port, e.g. `127.0.0.0/8,::1/128,hooks.internal:8443`.",
    )
    github_api_url: str = Field("https://api.github.com", description="GitHub's API, or a GitHub Enterprise Server's.")
    slack_api_url: str = Field("https://slack.com/api", description="Slack's Web API.")
    worker_in_flight: int = Field(2000, ge=1, description="Steps that one worker process performs at the same time.")
    destination_in_flight: int = Field(
        200, ge=1, description="Requests that one worker process has in flight to one destination."
    )
    lease_seconds: float = Field(
        30.0, ge=1, description="How long a worker that fell silent keeps its executions before others take them."
    )
    sweep_seconds: float = Field(1.0, gt=0, description="How often a worker looks for what is due, lost or unmatched.")
    relay_seconds: float = Field(
        5.0, gt=0, description="After how long an event that nobody matched is published again."
    )
    stop_seconds: float = Field(10.0, ge=0, description="How long a stopping worker finishes what is in flight.")
    worker_id: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]{1,80}$",
        description="A worker's id, unique among workers; left out, its host and process.",
    )
    worker_predecessor: str | None = Field(
        None, description="Id of a worker that is known to be dead; this worker takes its leases at once."
    )
    queues: str = Field(
        "",
        pattern=r"^$|^[A-Za-z0-9._-]+(,[A-Za-z0-9._-]+)*$",
        description="What a worker takes: a comma list of queues of jobs, and `events` for answering events; "
        "left out, everything.",
    )
    machine: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]{1,80}$",
        description="Name of the machine that a worker's jobs run on; left out, its host's.",
    )
    jobs_file: Path | None = Field(
        None, description="The operator's file on queues of jobs; left out, `jobs.yaml` in the data folder, if any."
    )
    jobs_url: str | None = Field(
        None,
        description="Where jobs reach the REST API; left out, the public URL, or where the web process listens.",
    )
    jobs_lost_seconds: float = Field(
        600.0, ge=5, description="After how long a job whose engine nobody reaches counts as lost."
    )
    jobs_log_bytes: int = Field(8 * 1024 * 1024, ge=1024, description="Kept of each job's log, the newest.")
    jobs_remove_orphans: bool = Field(
        default=False, description="Remove containers with our label that no job in the database knows, after a minute."
    )
    jobs_days: int = Field(90, ge=1, description="Days that finished jobs and their logs are kept.")
    receipts_days: int = Field(90, ge=1, description="Days that receipts of finished executions are kept.")
    log_level: str = Field("info", description="debug, info, warning or error.")
    log_format: str = Field("text", pattern="^(text|json)$", description="`text` (key=value) or `json`, one line each.")

    @field_validator("public_url", "jobs_url")
    @classmethod
    def _check_public_url(cls, url: str | None) -> str | None:
        if url and not _is_base_url(url):
            raise PydanticCustomError(
                "base_url",
                "{url} is no base URL; write https://HOST, with a port and a path if need be",
                {"url": repr(url)},
            )
        return url

    @property
    def sqlite_path(self) -> Path:
        """Where the embedded database lives."""
        return self.data / "upshot.db"


def _is_base_url(url: str) -> bool:
    """Whether paths can be put behind it: an HTTP address without user, query or fragment."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises where it is no number, or too large
    except ValueError:
        return False
    plain = url.isprintable() and not any(sign in url for sign in " ?#@")
    return plain and parts.scheme in {"http", "https"} and bool(parts.hostname)
