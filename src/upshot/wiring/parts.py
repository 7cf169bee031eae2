"""Objects that the web process and the workers share."""

from __future__ import annotations

import os
from socket import gethostname
from urllib.parse import urlsplit

from upshot.adapters.blobs.local import LocalBlobs
from upshot.adapters.blobs.s3 import S3Blobs, S3Options
from upshot.adapters.redis import RedisPublisher, validate_redis_url
from upshot.adapters.secrets import CombinedSecrets, DirectorySecrets, EnvironmentSecrets
from upshot.adapters.sql.blobs import SqlBlobs
from upshot.adapters.sql.database import Database, DatabaseUrl, sqlite_url
from upshot.adapters.sql.migrate import migrate
from upshot.adapters.sql.registry import SqlRegistry
from upshot.adapters.sql.revisions import SqlRevisions
from upshot.automations.metric_watches import StoredMetricWatches
from upshot.blobs.service import Blobs
from upshot.client.http import Client
from upshot.clock import Clock
from upshot.errors import ConfigError
from upshot.ids import new_id, new_key
from upshot.net import is_loopback
from upshot.ports.blobs import BlobFiles
from upshot.ports.jobs import Installation, InstallationStore
from upshot.ports.secrets import SecretSource
from upshot.private_files import make_data_directory
from upshot.registry.service import Registry
from upshot.settings import Settings

_ENGINE_MACHINE_NAMES = frozenset({"host.docker.internal", "host.containers.internal"})
_ALL_ADDRESSES = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to


def database_url(settings: Settings) -> DatabaseUrl:
    """Return the URL of the database in the settings, or of the SQLite file in the data directory."""
    return settings.database_url or sqlite_url(settings.sqlite_path.absolute())


def open_database(settings: Settings) -> Database:
    """
    Open the database and migrate its schema.

    Raises:
        ConfigError: The URL is invalid, the data directory cannot be created or belongs to another user, or the schema
            is newer than this release.
        Unavailable: The database does not answer.
    """
    if settings.database_url is None:
        try:
            make_data_directory(settings.data)
        except OSError as error:
            raise ConfigError(
                f"{settings.data}: {error.strerror}; choose a data directory that you can write to with --data"
            ) from error
    try:
        database = Database(database_url(settings))
        migrate(database)
    except PermissionError as error:
        raise ConfigError(
            f"{error.filename}: {error.strerror}, because it belongs to another user; run as that user, or give it to "
            f"this one: chown -R {os.getuid()} {settings.data}"
        ) from error
    return database


def redis_url(settings: Settings) -> str:
    """
    Return the URL of Redis in the settings.

    Raises:
        ConfigError: The settings have no URL, or it is invalid.
    """
    if settings.redis_url is None:
        raise ConfigError("UPSHOT_REDIS_URL is not set; set it, or use `upshot up`, which runs its own Redis")
    return validate_redis_url(settings.redis_url)


def make_secrets(settings: Settings) -> SecretSource:
    """
    Return the sources of secrets: the environment, UPSHOT_SECRETS_DIR, and `secrets` in the data directory.

    Raises:
        ConfigError: UPSHOT_SECRETS_DIR is not a directory that can be read.
    """
    if settings.secrets_dir is not None:
        try:
            os.scandir(settings.secrets_dir).close()
        except OSError as error:
            raise ConfigError(
                f"UPSHOT_SECRETS_DIR: {settings.secrets_dir}: {error.strerror}; name a directory that this user can "
                "read, or unset it"
            ) from error
    directories = [settings.secrets_dir, settings.data / "secrets"]
    return CombinedSecrets([EnvironmentSecrets(), *(DirectorySecrets(path) for path in directories if path)])


def base_url(settings: Settings) -> str:
    """Return the URL of the web process for people. If it listens on all addresses, the URL has this machine's name."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    host = gethostname() if settings.host in _ALL_ADDRESSES else settings.host
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def jobs_url(settings: Settings) -> str:
    """Return the URL at which jobs reach the REST API."""
    return (settings.jobs_url or base_url(settings)).rstrip("/")


def worker_url(settings: Settings) -> str:
    """
    Return the URL at which a worker reaches the REST API.

    The URL for jobs also works on the worker's machine, unless it has a name that engines make for their containers.
    """
    if settings.url:
        return settings.url
    is_for_containers = urlsplit(settings.jobs_url or "").hostname in _ENGINE_MACHINE_NAMES
    return base_url(settings) if is_for_containers else jobs_url(settings)


def make_job_client(settings: Settings, token: str) -> Client:
    """Return a client with which a worker reads what a job may read."""
    url = worker_url(settings)
    return Client(url, token, is_local=is_loopback(urlsplit(url).hostname or ""))


def load_installation(store: InstallationStore, clock: Clock) -> Installation:
    """Return the installation's id and key; create them if the installation is new."""
    return store.get_or_create(lambda: Installation(new_id("ins", clock.now()), new_key()))


def make_blobs(settings: Settings, database: Database, clock: Clock) -> Blobs:
    """
    Return the blobs, which are indexed in the database and stored in the bucket or in the data directory.

    Raises:
        ConfigError: The settings of the bucket are invalid.
    """
    return Blobs(SqlBlobs(database), _make_blob_files(settings), clock)


def _make_blob_files(settings: Settings) -> BlobFiles:
    if settings.bucket_url is None:
        return LocalBlobs(settings.data / "blobs")
    secret = settings.bucket_secret_access_key
    if (secret is None) != (settings.bucket_access_key_id is None):
        raise ConfigError(
            "UPSHOT_BUCKET_ACCESS_KEY_ID and UPSHOT_BUCKET_SECRET_ACCESS_KEY belong together; set both, or none"
        )
    options = S3Options(
        url=settings.bucket_url,
        endpoint=settings.bucket_endpoint,
        region=settings.bucket_region,
        access_key_id=settings.bucket_access_key_id,
        secret_access_key=secret.get_secret_value() if secret else None,
        presigned=settings.bucket_presigned,
    )
    return S3Blobs(options)


def make_registry(settings: Settings, database: Database, publisher: RedisPublisher, clock: Clock) -> Registry:
    """Return the registry, which stores in the database and publishes to Redis."""
    return Registry(
        SqlRegistry(database),
        publisher,
        clock,
        base_url=base_url(settings),
        max_root_events=settings.root_events,
        metric_watches=StoredMetricWatches(SqlRevisions(database), clock),
    )
