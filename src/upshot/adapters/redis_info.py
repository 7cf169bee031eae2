"""The facts about a Redis server that `upshot doctor` checks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import redis

from upshot.errors import Unavailable

_TIMEOUT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class RedisInfo:
    """How a Redis server describes itself."""

    name: str  #: Redis or Valkey, with its version
    version: tuple[int, ...]  #: version of Redis whose commands and protocol it speaks
    append_only: bool  #: the append-only file is on
    eviction_policy: str  #: `maxmemory-policy`; `unknown` if the server does not report it
    time: datetime  #: by the server's clock, in UTC


def redis_info(url: str) -> RedisInfo:
    """
    Query a Redis server for facts about itself.

    Raises:
        Unavailable: It does not answer, or it refuses our credentials.
    """
    try:
        with redis.Redis.from_url(
            url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS, decode_responses=True
        ) as client:
            info = client.info()
            seconds, microseconds = client.time()
    except (redis.RedisError, OSError, ValueError) as error:
        raise Unavailable(f"Redis does not answer: {error}") from error
    kind = "Valkey" if "valkey_version" in info else "Redis"
    return RedisInfo(
        name=f"{kind} {info.get('valkey_version') or info['redis_version']}",
        version=tuple(int(part) for part in str(info["redis_version"]).split(".")),
        append_only=bool(info.get("aof_enabled")),
        eviction_policy=str(info.get("maxmemory_policy", "unknown")),
        time=datetime.fromtimestamp(seconds + microseconds / 1e6, UTC),
    )
