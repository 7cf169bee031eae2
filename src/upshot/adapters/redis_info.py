"""What `upshot doctor` wants to know of a Redis."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import redis

from upshot.errors import Unavailable

_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class RedisInfo:
    """A Redis as it describes itself."""

    name: str  #: Redis or Valkey, with its version
    version: tuple[int, ...]  #: of Redis' own commands and protocol
    keeps_on_disk: bool  #: the append-only file is on
    eviction: str  #: `maxmemory-policy`; `unknown` where the server does not tell
    time: datetime  #: by its clock, in UTC


def survey_redis(url: str) -> RedisInfo:
    """
    Ask a Redis about itself.

    Raises:
        Unavailable: It does not answer, or does not let us in.
    """
    try:
        with redis.Redis.from_url(
            url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS, decode_responses=True
        ) as client:
            facts = client.info()
            seconds, microseconds = client.time()
    except (redis.RedisError, OSError, ValueError) as error:
        raise Unavailable(f"Redis does not answer: {error}") from error
    kind = "Valkey" if "valkey_version" in facts else "Redis"
    return RedisInfo(
        name=f"{kind} {facts.get('valkey_version') or facts['redis_version']}",
        version=tuple(int(part) for part in str(facts["redis_version"]).split(".")),
        keeps_on_disk=bool(facts.get("aof_enabled")),
        eviction=str(facts.get("maxmemory_policy", "unknown")),
        time=datetime.fromtimestamp(seconds + microseconds / 1e6, UTC),
    )
