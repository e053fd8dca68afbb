"""How we talk to Redis: a client with bounds that suit a router, and redis-py's errors as two of our own."""

import inspect
import random
import re
from typing import Any

import redis
import redis.sentinel
from redis import exceptions as rex

from redis_router.errors import AccessDenied, InvalidArgument, RedisRefused, RedisUnavailable, RouterError
from redis_router.runtime.log import log
from redis_router.store.urls import LEAST_CONNECTIONS, LEAST_WITHOUT_WAITING, LateCluster, from_url
from redis_router.store.urls import Client as Client

_redis: Any = redis  # the parts of it that have no annotations

# What passes by itself: out of memory, a long script, a replica that lacks its master or cannot persist, a cluster that
# is being repaired. redis-py has classes for some, where the code stands first, and else leaves it in the text.
_PASSING = (rex.OutOfMemoryError, rex.ReadOnlyError, rex.TryAgainError, rex.ClusterError, rex.AskError)
_PASSING_CODES = {
    *("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN"),
    "UNBLOCKED",
}
_DENIED = (rex.AuthenticationError, rex.AuthorizationError, rex.NoPermissionError)
_DENIED_CODES = {"NOAUTH", "NOPERM", "WRONGPASS"}
# inside a script, on Redis 8 and Valkey, and on Redis 6.2 and 7.0
_DENIED_IN_SCRIPT = ("ACL failure in script:", "The user executing the script can't")
# sentinels and clusters hide the cause in an error of their own
_DENIED_WORDS = (*_DENIED_CODES, "invalid username-password", "Authentication required", "no permissions")
# Redis 6.2 puts this in front of what a command inside a script says, and `-` in front of its code
_IN_SCRIPT = re.compile(r"Error running script \(call to f_[0-9a-f]{40}\): @\w+:[^:]*: (?:@user_script: ?\d+: )?-?")

_WHERE_IN_SCRIPT = re.compile(r" script: (?:[0-9a-f]{40}, )?on @user_script:\d+\.?$")
"""Behind what a command inside a script says: for those who wrote the script."""


def connect(target: Any) -> Client:
    """A client for a URL, or the redis-py client that was given.

    redis://, rediss:// (TLS), unix://
    redis+sentinel://host:26379,host2:26379/mymaster/0   the master that the sentinels name; rediss+sentinel:// for TLS
    redis+cluster://host:6379,host2:6379                 any nodes of a cluster; rediss+cluster:// for TLS

    Raises InvalidArgument for anything else. Opens no connection.
    """
    if isinstance(target, str):
        return from_url(target)
    if isinstance(target, LateCluster):
        return target
    if hasattr(target, "pubsub") and hasattr(target, "execute_command"):
        _check_client(target)
        _warn_if_patient(target)
        return target
    raise InvalidArgument(  # without its repr, which may hold a password
        f"cannot reach Redis through a {type(target).__name__}: give a URL such as redis://localhost:6379/0 or a"
        " redis-py client"
    )


def _settings_of(client: Client) -> tuple[Any, dict[str, Any]]:
    owner: Any = getattr(client, "nodes_manager", None) or getattr(client, "connection_pool", None)
    return owner, getattr(owner, "connection_kwargs", {})


def time_out_of(client: Client) -> float | None:
    """Seconds for which a client waits for an answer; None for ever, or unknown."""
    if isinstance(client, LateCluster):
        return client.time_out
    timeout: float | None = _settings_of(client)[1].get("socket_timeout")
    return timeout


def _check_client(client: Any) -> None:
    modules = [kind.__module__ for kind in type(client).__mro__]
    asynchronous = any(part in module for module in modules for part in (".asyncio", "aioredis", ".aio"))
    if asynchronous or inspect.iscoroutinefunction(client.execute_command):
        raise InvalidArgument(
            "an asyncio Redis client was given: pass a URL or a sync redis.Redis; the router never blocks the loop"
        )
    if any(module.partition(".")[0] == "valkey" for module in modules):  # its errors are none that we know
        raise InvalidArgument(
            "a client of valkey-py was given: pass a URL such as redis://localhost:6379/0, or a redis.Redis; redis-py"
            " talks to Valkey as well"
        )
    pool = getattr(client, "connection_pool", None)
    most = getattr(pool, "max_connections", None)
    least = LEAST_CONNECTIONS if isinstance(pool, redis.BlockingConnectionPool) else LEAST_WITHOUT_WAITING
    if isinstance(most, int) and most < least:
        raise InvalidArgument(
            f"the Redis client's max_connections is {most}: give at least {least}, as the push channel holds one"
        )


def _warn_if_patient(client: Client) -> None:
    """redis-py's defaults suit no request path: a hung server would be noticed by the minute."""
    owner, settings = _settings_of(client)
    timeout = settings.get("socket_timeout")
    if ("host" in settings or "path" in settings or hasattr(owner, "startup_nodes")) and (not timeout or timeout > 1.0):
        log.warning(
            "the Redis client you gave waits %s for an answer, and for so long nothing reaches Redis again after it"
            " hung: give it socket_timeout=0.5, socket_connect_timeout=0.5 and few retries, or pass a URL",
            f"{timeout:g} s" if timeout else "for ever",
        )


def subscriber(client: Client) -> Any:
    """A connection for pub/sub. In a cluster to any node, as each passes on what is published at any other.

    redis-py would take the node that has the channel's slot, and stay with it when it is dead.
    """
    nodes = client.get_nodes() if hasattr(client, "get_nodes") else []
    return client.pubsub(node=random.choice(nodes)) if nodes else client.pubsub()


def where(client: Client) -> str:
    """Which server a client talks to, without credentials."""
    if isinstance(client, LateCluster):
        return f"cluster {client.address}"
    pool: Any = getattr(client, "connection_pool", None)
    if hasattr(pool, "service_name"):
        return f"sentinel's master {pool.service_name}"
    settings = getattr(pool, "connection_kwargs", {})
    if "path" in settings:
        return f"unix://{settings['path']}"
    if "host" in settings:
        return f"{settings['host']}:{settings.get('port', 6379)}"
    return type(client).__name__


def translated(error: Exception) -> RouterError:
    """One of our two errors for any of redis-py's: may pass by itself, or will not.

    By what the server says first. What a script of ours says of a record has that record's own words in it.
    """
    if isinstance(error, RouterError):
        return error
    said = str(error)
    if isinstance(error, rex.ResponseError) and (wrapped := _IN_SCRIPT.match(said)):
        said = said[wrapped.end() :]
    denied = _is_denied(error, said)
    if isinstance(error, _redis.sentinel.MasterNotFoundError):  # older redis-py repeats the sentinels' password
        said = said.partition(" : ")[0]
    text = f"{type(error).__name__}: {said}".rstrip(".")
    if denied:
        text = _WHERE_IN_SCRIPT.sub("", text)
        return AccessDenied(f"Redis refused the login or the command: {text}; check user, password and ACL")
    passing = isinstance(error, _PASSING) or said.partition(" ")[0] in _PASSING_CODES
    if isinstance(error, rex.ResponseError | rex.DataError) and not passing:
        return RedisRefused(f"Redis refused the command: {text}")
    return RedisUnavailable(f"Redis cannot serve: {text}")


def _is_denied(error: Exception, said: str) -> bool:
    if isinstance(error, _DENIED):
        return True
    if isinstance(error, rex.ResponseError):
        return said.partition(" ")[0] in _DENIED_CODES or said.startswith(_DENIED_IN_SCRIPT)
    return any(word in said for word in _DENIED_WORDS)


REDIS_ERRORS = (rex.RedisError, rex.RedisClusterException, OSError, UnicodeError)
"""What a command may raise on its way to Redis."""

NoScript = rex.NoScriptError

NoPermission = rex.NoPermissionError
"""The login is right; its user may not run this command, or not on this key."""
