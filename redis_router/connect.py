"""How we talk to Redis: a client with bounds that suit a router, and redis-py's errors as two of our own."""

from typing import Any
from urllib.parse import urlsplit

import redis
from redis import exceptions as rex
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from redis_router.errors import InvalidArgument, RedisRefused, RedisUnavailable, RouterError

Client = Any
"""A redis-py client, `redis.Redis` or `redis.RedisCluster`: their annotations do not agree, their methods do."""

TIMEOUT = 0.5
"""Seconds for a connect and for an answer. A hung server must be noticed within about this time."""

_SCHEMES = ("redis", "rediss", "unix")

# What passes by itself: out of memory, a long script, a replica that lacks its master or cannot persist, a cluster that
# is being repaired. redis-py has classes for some, and leaves the prefix on the others.
_PASSING = (rex.OutOfMemoryError, rex.ReadOnlyError, rex.TryAgainError, rex.ClusterError, rex.AskError)
_PASSING_PREFIXES = ("BUSY", "MISCONF", "NOREPLICAS", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "UNBLOCKED")


def connect(target: Any) -> Client:
    """A client for a URL (redis://, rediss://, unix://), or the redis-py client that was given.

    Raises InvalidArgument for anything else. Opens no connection.
    """
    if isinstance(target, str):
        return _from_url(target)
    if hasattr(target, "pubsub") and hasattr(target, "execute_command"):
        module = type(target).__module__
        if ".asyncio" in module or "aioredis" in module or ".aio" in module:
            raise InvalidArgument(
                "an asyncio Redis client was given: pass a URL or a sync redis.Redis; the router never blocks the loop"
            )
        return target
    raise InvalidArgument(
        f"cannot reach Redis through {target!r}: give a URL such as redis://localhost:6379/0 or a redis-py client"
    )


def _from_url(url: str) -> Client:
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme not in _SCHEMES:
        raise InvalidArgument(
            f"Redis URL {redacted(url)!r} is not usable: it must begin with redis://, rediss:// or unix://"
        )
    try:
        client = redis.Redis.from_url(
            f"{scheme}://{rest}",
            decode_responses=True,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            # one more try for a connection that was cut while idle; after a timeout the server may be hung, and those
            # who call know how to wait
            retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.1), 1, (rex.ConnectionError,)),
            retry_on_error=[rex.ReadOnlyError],
            protocol=2,  # RESP3 adds maintenance notifications, which older servers answer with errors
        )
        client.connection_pool.make_connection()  # opens nothing, and refuses options that do not exist
    except (ValueError, TypeError, rex.RedisError) as error:
        raise InvalidArgument(f"Redis URL {redacted(url)!r} is not usable: {error}") from None
    return client


def redacted(url: str) -> str:
    """The URL without user, password and query, fit for a log."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return f"unix://{parts.path}"
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
    except ValueError:
        return url.partition("://")[0] + "://…"


def where(client: Client) -> str:
    """Which server a client talks to, without credentials."""
    pool = getattr(client, "connection_pool", None)
    settings = getattr(pool, "connection_kwargs", {})
    if "path" in settings:
        return f"unix://{settings['path']}"
    if "host" in settings:
        return f"{settings['host']}:{settings.get('port', 6379)}"
    return type(client).__name__


def translated(error: Exception) -> RouterError:
    """One of our two errors for any of redis-py's: may pass by itself, or will not."""
    if isinstance(error, RouterError):
        return error
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, rex.AuthenticationError | rex.AuthorizationError | rex.NoPermissionError):
        return RedisRefused(f"Redis refused the login or the command: {text}; check user, password and ACL")
    passing = isinstance(error, _PASSING) or str(error).startswith(_PASSING_PREFIXES)
    if isinstance(error, rex.ResponseError | rex.DataError) and not passing:
        return RedisRefused(f"Redis refused the command: {text}")
    return RedisUnavailable(f"Redis cannot serve: {text}")


REDIS_ERRORS = (rex.RedisError, rex.RedisClusterException, OSError)
"""What a command may raise on its way to Redis."""

NoScript = rex.NoScriptError
