"""Settings, read from the environment (`UPSHOT_…`). docs/settings.md documents every setting."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import override

from upshot.net import is_base_url
from upshot.numerals import read_decimal, read_whole
from upshot.suggestions import did_you_mean
from upshot.validation import invalid

_HOST_PATTERN = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")


PREFIX = "UPSHOT_"
SECRET_PREFIX = "UPSHOT_SECRET_"  # noqa: S105 - no password
MAX_SECONDS = 366 * 86_400  #: maximum of a setting; a longer time is a mistake
MAX_DAYS = 36_500
#: Settings that can contain a password. Messages do not show them.
CONFIDENTIAL = frozenset({"token", "database_url", "redis_url", "egress_proxy", "bucket_secret_access_key"})
#: Variables in the environment of a job, in which commands can also run.
_OF_JOBS = frozenset(
    {"UPSHOT_EVENT", "UPSHOT_EVENT_FILE", "UPSHOT_INPUT", "UPSHOT_JOB", "UPSHOT_OUTPUT", "UPSHOT_SECRETS"}
)
#: Variables that Kubernetes and Docker's links set for a service whose name begins with `upshot`.
_OF_SERVICES = re.compile(
    r"UPSHOT_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)
_SERVICE_URL = re.compile(r"(?:tcp|udp|sctp)://", re.IGNORECASE)


class _Environment(EnvSettingsSource):
    """The environment, without the variable that Kubernetes sets for a Service named `upshot`."""

    @override
    def __call__(self) -> dict[str, Any]:
        values = super().__call__()
        if _SERVICE_URL.match(str(values.get("port", ""))):
            del values["port"]
        return values


class Settings(BaseSettings):
    """The settings of an operator. Each field is the environment variable `UPSHOT_` + its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")

    data: Path = Field(
        Path(".upshot"),
        description="Data directory, for the SQLite database, the files of Redis, logs and endpoint.json.",
    )
    automations: Path = Field(Path("automations"), description="Directory of automation files.")
    redis_url: str | None = Field(
        None, description="Your own Redis, e.g. `redis://host:6379/0`. By default, `upshot up` starts one."
    )
    database_url: str | None = Field(
        None,
        description="PostgreSQL, e.g. `postgresql://user:password@host/upshot`. By default, SQLite in the data "
        "directory.",
    )
    host: str = Field("127.0.0.1", description="Address that the web process listens on.")
    port: int = Field(8080, ge=0, le=65535, description="Port that the web process listens on. 0 means any free port.")
    url: str | None = Field(
        None,
        description="URL of the server that commands use, and at which a worker downloads the inputs of its jobs. By "
        "default, the server that runs on the data directory. By default, a worker uses `UPSHOT_JOBS_URL`, or else the "
        "address that the web process listens on.",
    )
    public_url: str | None = Field(
        None,
        description="Base URL for links in events, e.g. `https://upshot.example.com`. By default, the address that "
        "the web process listens on.",
    )
    token: SecretStr | None = Field(
        None,
        description="Token of an admin, for the server itself and for commands that talk to it. A server needs it if "
        "the web process listens on another address than loopback, with at least 16 characters. Commands also take a "
        "named token.",
    )
    allowed_hosts: str = Field(
        "",
        description="Further host names under which clients reach the server, separated by commas, e.g. "
        "`upshot.internal,*.example.com`. Answers that need no token are given only to requests for these, for "
        "loopback, and for the hosts of `UPSHOT_HOST`, `UPSHOT_PUBLIC_URL` and `UPSHOT_JOBS_URL`.",
    )
    trusted_proxies: str = Field(
        "",
        description="Addresses and networks of reverse proxies, separated by commas, e.g. `10.0.0.5,10.1.0.0/16`. They "
        "may have more than 100 connections each.",
    )
    bucket_url: str | None = Field(
        None,
        pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/\S*)?$",
        description="Bucket for the files of artifact versions, e.g. `s3://models` or `s3://models/upshot`. By "
        "default, they are in the data directory.",
    )
    bucket_endpoint: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        description="URL of a store that speaks the protocol of S3, e.g. `https://minio.internal:9000`. By default, "
        "AWS.",
    )
    bucket_region: str | None = Field(None, description="Region of the bucket, e.g. `eu-central-1`.")
    bucket_access_key_id: str | None = Field(
        None,
        description="Id of the access key for the bucket. By default, `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, "
        "or the role of the machine.",
    )
    bucket_secret_access_key: SecretStr | None = Field(None, description="The access key itself.")
    bucket_presigned: bool = Field(
        default=True,
        description="Whether clients send and fetch large files at presigned addresses of the bucket, without the web "
        "process. `false` if they cannot reach the bucket.",
    )
    secrets_dir: Path | None = Field(
        None,
        description="Directory with one file for each secret, as Docker and Kubernetes mount them. The file name is "
        "the name of the secret.",
    )
    egress_allow: str = Field(
        "",
        description="Private destinations that actions may reach: networks and host names separated by commas, each "
        "with an optional port, e.g. `127.0.0.0/8,::1/128,hooks.internal:8443`.",
    )
    egress_proxy: str | None = Field(
        None,
        description="HTTP proxy for the requests of actions, e.g. `http://user:password@proxy.internal:3128`. The "
        "worker looks the receiver's name up, checks the address, and has the proxy connect to that address.",
    )
    github_api_url: str = Field(
        "https://api.github.com", description="URL of GitHub's API, or of the API of a GitHub Enterprise Server."
    )
    slack_api_url: str = Field("https://slack.com/api", description="URL of Slack's Web API.")
    worker_in_flight: int = Field(
        2000, ge=1, description="Maximum number of attempts that a worker has in progress at the same time."
    )
    destination_in_flight: int | None = Field(
        None,
        ge=1,
        description="Maximum number of attempts that a worker has in progress to one destination at the same time. By "
        "default, a quarter of `UPSHOT_WORKER_IN_FLIGHT`.",
    )
    root_executions: int = Field(
        1000,
        ge=1,
        description="Maximum number of executions that one event leads to, directly and through events of automations "
        "and jobs. Further executions are skipped.",
    )
    root_events: int = Field(
        1000,
        ge=1,
        description="Maximum number of events that automations and jobs add to the registry because of one event. A "
        "step that would add more fails.",
    )
    lease_seconds: float = Field(
        30.0,
        ge=1,
        le=MAX_SECONDS,
        description="Seconds after which other workers take over the executions of a silent worker.",
    )
    sweep_seconds: float = Field(
        1.0,
        gt=0,
        le=MAX_SECONDS,
        description="Seconds between a worker's searches for work that is due, lost or unmatched.",
    )
    relay_seconds: float = Field(
        5.0,
        gt=0,
        le=MAX_SECONDS,
        description="Seconds after which an event that no worker has matched is published again.",
    )
    stop_seconds: float = Field(
        10.0,
        ge=0,
        le=MAX_SECONDS,
        description="Maximum number of seconds that a stopping worker waits for attempts in flight.",
    )
    worker_id: str | None = Field(
        None,
        description="Id of a worker, unique among all workers. By default, its host name and process id.",
    )
    heartbeat_file: Path | None = Field(
        None,
        description="File that a worker touches every two seconds while its event loop runs. `upshot health` checks "
        "it, in containers.",
    )
    worker_predecessor: str | None = Field(
        None, description="Id of a worker that has ended for certain. The new worker takes over its leases at once."
    )
    queues: str = Field(
        "",
        description="What a worker processes: job queues separated by commas, and `events` for events. By default, "
        "everything.",
    )
    machine: str | None = Field(
        None,
        description="Name of the machine that runs a worker's jobs. By default, the host name.",
    )
    jobs_file: Path | None = Field(
        None,
        description="The operator's file that configures job queues. By default, `jobs.yaml` in the data directory, "
        "if it exists.",
    )
    jobs_url: str | None = Field(
        None,
        description="URL of the REST API as jobs reach it. By default, the public URL, or else the address that the "
        "web process listens on.",
    )
    jobs_lost_seconds: float = Field(
        600.0,
        ge=5,
        le=MAX_SECONDS,
        description="Seconds after which a job whose engine is unreachable is considered lost.",
    )
    jobs_log_bytes: int = Field(
        8 * 1024 * 1024, ge=1024, description="Bytes that are kept of each job's log. Older lines are removed."
    )
    jobs_remove_orphans: bool = Field(
        default=False,
        description="Remove containers with Upshot's label that have belonged to no job in the database for a minute.",
    )
    jobs_days: int = Field(90, ge=1, le=MAX_DAYS, description="Days that finished jobs and their logs are kept.")
    receipts_days: int = Field(90, ge=1, le=MAX_DAYS, description="Days that receipts of finished executions are kept.")
    events_days: int = Field(90, ge=0, le=MAX_DAYS, description="Days that events are kept. 0 means without limit.")
    executions_days: int = Field(
        90,
        ge=0,
        le=MAX_DAYS,
        description="Days that finished executions are kept, with their receipts. 0 means without limit.",
    )
    history_days: int = Field(
        0,
        ge=0,
        le=MAX_DAYS,
        description="Days that the history of changes is kept. 0, the default, means without limit.",
    )
    runs_days: int = Field(
        0,
        ge=0,
        le=MAX_DAYS,
        description="Days that runs are kept after they ended. Runs with artifact versions lose only their metrics and "
        "media. 0, the default, means without limit.",
    )
    project: str | None = Field(
        None, description="Project of a run whose script names none. By default, `uncategorized`."
    )
    entity: str | None = Field(
        None,
        description="Name of the one entity of the installation, as `entity/project/name` has it. References to "
        "another entity are refused. By default, any entity is accepted.",
    )
    run_id: str | None = Field(None, description="Id of a run whose script names none. By default, a new id.")
    job_type: str | None = Field(None, description="Job type of a run whose script names none.")
    mode: str = Field(
        "online",
        description="`offline`: runs of scripts are kept in UPSHOT_DIR, and `upshot sync` brings them in.",
    )
    dir: Path | None = Field(
        None,
        description="Directory in which a run keeps what no server has received yet. By default, `.upshot-runs` in the "
        "working directory.",
    )
    artifact_dir: Path = Field(
        Path("artifacts"), description="Directory of downloads for which a script names no other."
    )
    cache_dir: Path | None = Field(
        None,
        description="Directory of the cache of downloaded files, also of the inputs of jobs. By default, "
        "`~/.cache/upshot/artifacts`.",
    )
    cache_gb: float = Field(
        20.0,
        ge=0,
        description="Maximum size of the cache of downloaded files. 0 means no cache. A worker keeps the inputs of its "
        "jobs there too, up to the same size again, and those in use in any case.",
    )
    log_level: str = Field("info", description="`debug`, `info`, `warning` or `error`.")
    log_format: str = Field(
        "text", pattern="^(text|json)$", description="Format of log lines: `text` (key=value) or `json`."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _check_number(cls, value: object, info: ValidationInfo) -> object:
        """Read numbers strictly: pydantic would also accept `8_080` and `inf`."""
        numbers = {int: (read_whole, "a whole number"), float: (read_decimal, "a number")}
        annotation = cls.model_fields[str(info.field_name)].annotation
        for number_type, (read, name) in numbers.items():
            if annotation in (number_type, number_type | None) and isinstance(value, str) and read(value) is None:
                raise invalid(f"must be {name}, written with digits only")
        return value

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources of settings, by precedence."""
        return init_settings, _Environment(settings_cls), dotenv_settings, file_secret_settings

    @field_validator("token")
    @classmethod
    def _check_token(cls, token: SecretStr | None) -> SecretStr | None:
        if token and re.search(r"[^!-~]", token.get_secret_value()):
            raise invalid("must consist of visible ASCII characters, because clients send it in a header")
        return token

    @field_validator("log_level")
    @classmethod
    def _check_log_level(cls, level: str) -> str:
        if level.lower() not in {"debug", "info", "warning", "error"}:
            raise invalid(f"must be debug, info, warning or error, not {level!r}")
        return level.lower()

    @field_validator("queues")
    @classmethod
    def _check_queues(cls, queues: str) -> str:
        if queues and not re.fullmatch(r"[A-Za-z0-9._-]+(,[A-Za-z0-9._-]+)*", queues):
            raise invalid(f"must be names separated by commas without spaces, such as events,gpu, not {queues!r}")
        return queues

    @field_validator("worker_id", "worker_predecessor", "machine")
    @classmethod
    def _check_identifier(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z0-9._-]{1,80}", name):
            raise invalid(f"must be 1 to 80 ASCII letters, digits, `.`, `_` and `-`, not {name!r}")
        return name

    @field_validator("egress_proxy")
    @classmethod
    def _check_egress_proxy(cls, url: str | None) -> str | None:
        try:
            parts = urlsplit(url or "http://none:1")
            is_valid = parts.scheme == "http" and parts.hostname and parts.port and parts.path in {"", "/"}
        except ValueError:
            is_valid = False
        if not is_valid or "?" in (url or "") or "#" in (url or ""):
            raise invalid(
                "must be the address of an HTTP proxy with its port, such as http://user:password@proxy.internal:3128; "
                "in the password, write %40 for `@`, %3A for `:`, %2F for `/`, %23 for `#` and %3F for `?`"
            )
        return url

    @field_validator("url", "public_url", "jobs_url", "github_api_url", "slack_api_url")
    @classmethod
    def _check_public_url(cls, url: str | None) -> str | None:
        if url and not is_base_url(url):
            raise invalid(f"must be a base URL such as https://HOST:PORT/PATH, not {url!r}")
        return url

    @field_validator("allowed_hosts")
    @classmethod
    def _check_allowed_hosts(cls, hosts: str) -> str:
        for host in split_list(hosts):
            if not _HOST_PATTERN.fullmatch(host) and not _is_ipv6(host):
                raise invalid(
                    "must be host names without scheme and port, separated by commas, such as "
                    f"upshot.internal,*.example.com; {host!r} is none"
                )
        return hosts

    @field_validator("trusted_proxies")
    @classmethod
    def _check_trusted_proxies(cls, networks: str) -> str:
        for network in split_list(networks):
            try:
                ip_network(network)
            except ValueError:
                raise invalid(
                    "must be addresses and networks separated by commas, such as 10.0.0.5,10.1.0.0/16; "
                    f"{network!r} is none"
                ) from None
        return networks

    @property
    def trusted_proxy_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Networks of the reverse proxies."""
        return tuple(ip_network(network) for network in split_list(self.trusted_proxies))

    @property
    def sqlite_path(self) -> Path:
        """Path of the SQLite database in the data directory."""
        return self.data / "upshot.db"


def environment_warnings(environment: Mapping[str, str]) -> list[str]:
    """Return a warning for each variable that begins with `UPSHOT_` and is not a setting."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    warnings = []
    for variable, value in sorted(environment.items()):
        name = variable.upper()
        if name == f"{PREFIX}PORT" and _SERVICE_URL.match(value):
            warnings.append(
                f"{variable} is ignored: Kubernetes sets it to {value[:100]} for a Service named upshot; set "
                "enableServiceLinks to false in the Pod, or choose the port with --port"
            )
        elif (
            name.startswith(PREFIX)
            and name not in known | _OF_JOBS
            and not name.startswith(SECRET_PREFIX)
            and not _OF_SERVICES.fullmatch(name)
        ):
            suggestion = did_you_mean(name, known, list_known=False)
            warnings.append(f"{variable} is not a setting and has no effect{suggestion or '; remove it'}")
    return warnings


def split_list(text: str) -> tuple[str, ...]:
    """Return the entries of a setting that is a list separated by commas."""
    return tuple(entry for part in text.split(",") if (entry := part.strip()))


def _is_ipv6(host: str) -> bool:
    """Return whether it is an IPv6 address, alone or in brackets."""
    try:
        return bool(IPv6Address(host[1:-1] if host.startswith("[") and host.endswith("]") else host))
    except ValueError:
        return False
