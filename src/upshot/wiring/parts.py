"""What both processes are made of."""

from __future__ import annotations

from socket import gethostname

from upshot.adapters.redis import RedisPublisher, check_redis_url
from upshot.adapters.secrets import CombinedSecrets, EnvironmentSecrets, FolderSecrets
from upshot.adapters.sql.database import Database, sqlite_url
from upshot.adapters.sql.migrate import migrate
from upshot.adapters.sql.registry import SqlRegistry
from upshot.clock import Clock
from upshot.errors import ConfigError
from upshot.ids import new_id, new_key
from upshot.ports.jobs import Installation, InstallationStore
from upshot.ports.secrets import SecretSource
from upshot.registry.service import Registry
from upshot.settings import Settings

_ALL_ADDRESSES = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to


def database_url(settings: Settings) -> str:
    """The database that the settings name, or the data folder's SQLite file."""
    return settings.database_url or sqlite_url(settings.sqlite_path.absolute())


def open_database(settings: Settings) -> Database:
    """
    Open the database, its schema brought up to date.

    Raises:
        ConfigError: The URL cannot be used, or the schema is newer than this release.
        Unavailable: It does not answer.
    """
    if settings.database_url is None:
        settings.data.mkdir(parents=True, exist_ok=True)
    database = Database(database_url(settings))
    migrate(database)
    return database


def redis_url(settings: Settings) -> str:
    """
    The Redis that the settings name.

    Raises:
        ConfigError: None is named, or its URL cannot be used.
    """
    if settings.redis_url is None:
        raise ConfigError("UPSHOT_REDIS_URL is not set; name a Redis, or use `upshot up`, which runs its own")
    return check_redis_url(settings.redis_url)


def make_secrets(settings: Settings) -> SecretSource:
    """Secrets from the environment first, then from the folder."""
    sources: list[SecretSource] = [EnvironmentSecrets()]
    if settings.secrets_dir is not None:
        sources.append(FolderSecrets(settings.secrets_dir))
    return CombinedSecrets(sources)


def base_url(settings: Settings) -> str:
    """Where people reach the web process; one that listens on all addresses, by this machine's name."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    host = gethostname() if settings.host in _ALL_ADDRESSES else settings.host
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def jobs_url(settings: Settings) -> str:
    """Where jobs reach the REST API."""
    return (settings.jobs_url or base_url(settings)).rstrip("/")


def find_installation(store: InstallationStore, clock: Clock) -> Installation:
    """This Upshot's name and key; made now if it is new."""
    return store.get(lambda: Installation(new_id("ins", clock.now()), new_key()))


def make_registry(settings: Settings, database: Database, publisher: RedisPublisher, clock: Clock) -> Registry:
    """The registry over the database, which publishes to Redis."""
    return Registry(SqlRegistry(database), publisher, clock, base_url=base_url(settings))
