"""How we talk to Redis: a client with bounds that suit a router, and redis-py's errors as two of our own."""

import random
import threading
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.cluster
import redis.sentinel
from redis import exceptions as rex
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry

from redis_router.errors import AccessDenied, InvalidArgument, RedisRefused, RedisUnavailable, RouterError
from redis_router.log import log

Client = Any
"""A redis-py client, `redis.Redis` or `redis.RedisCluster`: their annotations do not agree, their methods do."""

_redis: Any = redis  # the parts of it that have no annotations

TIMEOUT = 0.5
"""Seconds for a connect and for an answer. A hung server must be noticed within about this time."""

# What passes by itself: out of memory, a long script, a replica that lacks its master or cannot persist, a cluster that
# is being repaired. redis-py has classes for some, and leaves the prefix on the others.
_PASSING = (rex.OutOfMemoryError, rex.ReadOnlyError, rex.TryAgainError, rex.ClusterError, rex.AskError)
_DENIED = (rex.AuthenticationError, rex.AuthorizationError, rex.NoPermissionError)
# sentinels and clusters hide the cause in an error of their own
_DENIED_WORDS = (
    "WRONGPASS",
    "NOAUTH",
    "NOPERM",
    "invalid username-password",
    "Authentication required",
    "no permissions",
)
_PASSING_PREFIXES = ("BUSY", "MISCONF", "NOREPLICAS", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "UNBLOCKED")


def connect(target: Any) -> Client:
    """A client for a URL, or the redis-py client that was given.

    redis://, rediss:// (TLS), unix://
    redis+sentinel://host:26379,host2:26379/mymaster/0   the master that the sentinels name; rediss+sentinel:// for TLS
    redis+cluster://host:6379,host2:6379                 any nodes of a cluster; rediss+cluster:// for TLS

    Raises InvalidArgument for anything else. Opens no connection.
    """
    if isinstance(target, str):
        return _from_url(target)
    if isinstance(target, LateCluster):
        return target
    if hasattr(target, "pubsub") and hasattr(target, "execute_command"):
        module = type(target).__module__
        if ".asyncio" in module or "aioredis" in module or ".aio" in module:
            raise InvalidArgument(
                "an asyncio Redis client was given: pass a URL or a sync redis.Redis; the router never blocks the loop"
            )
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


def _warn_if_patient(client: Client) -> None:
    """redis-py's defaults suit no request path: a hung server would be noticed by the minute."""
    owner, settings = _settings_of(client)
    timeout = settings.get("socket_timeout")
    if ("host" in settings or "path" in settings or hasattr(owner, "startup_nodes")) and (not timeout or timeout > 1.0):
        log.warning(
            "the Redis client you gave waits %s for an answer, and for so long a replica cannot decide alone when Redis"
            " hangs: give it socket_timeout=0.5, socket_connect_timeout=0.5 and few retries, or pass a URL",
            f"{timeout:g} s" if timeout else "for ever",
        )


def _from_url(url: str) -> Client:
    scheme, _, rest = url.partition("://")
    make = _SCHEMES.get(scheme.lower())
    if make is None:
        raise InvalidArgument(
            f"Redis URL {redacted(url)!r} is not usable: it must begin with {', '.join(f'{s}://' for s in _SCHEMES)}"
        )
    try:
        return make(scheme.lower().partition("+")[0], rest)
    except (ValueError, TypeError, AttributeError, rex.RedisError) as error:
        why = "the port is no number; is the password percent-encoded?" if "Port" in str(error) else error
        raise InvalidArgument(f"Redis URL {redacted(url)!r} is not usable: {why}") from None


def _settings() -> dict[str, Any]:
    return {
        "decode_responses": True,
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        # one more try for a connection that was cut while idle; after a timeout the server may be hung, and those who
        # call know how to wait
        "retry": Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.1), 1, (rex.ConnectionError,)),
        "protocol": 2,  # RESP3 adds maintenance notifications, which older servers answer with errors
    }


def _single(scheme: str, rest: str) -> Client:
    if scheme != "unix" and "@" in rest.partition("?")[0].partition("/")[2]:
        raise ValueError("an @ after the host; is the password percent-encoded?")
    client = redis.Redis.from_url(f"{scheme}://{rest}", **_settings(), retry_on_error=[rex.ReadOnlyError])
    client.connection_pool.make_connection()  # opens nothing, and refuses options that do not exist
    return client


class _ToMaster(redis.sentinel.SentinelManagedConnection):
    """Hangs up where an answer does not come in time, as every other connection does.

    redis-py leaves that to a retry, and we do not retry after a timeout: the late answer would be taken for that of the
    next command.
    """

    def read_response(self, *args: Any, **options: Any) -> Any:
        return super().read_response(*args, **{"disconnect_on_error": True, **options})


class _ToMasterByTLS(_ToMaster, redis.sentinel.SentinelManagedSSLConnection):
    """The same, encrypted."""


def _sentinel(scheme: str, rest: str) -> Client:
    login, nodes, path, options = _parts(scheme, rest)
    service, _, database = path.partition("/")
    if not service or (database and not database.isdecimal()):
        raise ValueError("give the master's name and the database, as in redis+sentinel://host:26379/mymaster/0")
    sentinel_login = {key: options.pop(f"sentinel_{key}", None) for key in ("username", "password")}
    tls = {"ssl": True, **{k: v for k, v in options.items() if k.startswith("ssl_")}} if scheme == "rediss" else {}
    sentinels = _redis.sentinel.Sentinel(
        [(host, port or 26379) for host, port in nodes],
        sentinel_kwargs={**_settings(), "retry": Retry(NoBackoff(), 0), **sentinel_login, **tls},
    )
    settings = {**_settings(), **tls, **login, **options, "db": int(database or 0)}
    settings["connection_class"] = _ToMasterByTLS if tls else _ToMaster
    client: Client = sentinels.master_for(service, **settings, retry_on_error=[rex.ReadOnlyError])
    client.connection_pool.make_connection()  # as above
    return client


def _cluster(scheme: str, rest: str) -> Client:
    login, nodes, path, options = _parts(scheme, rest)
    if path not in ("", "0"):
        raise ValueError(f"a cluster has no database {path}")
    startup = [_redis.cluster.ClusterNode(host, port or 6379) for host, port in nodes]
    pool_size = {"max_connections": options.pop("max_connections")} if "max_connections" in options else {}
    settings = {**_settings(), **login, **options}
    (_redis.SSLConnection if scheme == "rediss" else _redis.Connection)(**settings)  # refuses unknown options
    return LateCluster(startup_nodes=startup, ssl=scheme == "rediss", **pool_size, **settings)


_SCHEMES = {
    "redis": _single,
    "rediss": _single,
    "unix": _single,
    "redis+sentinel": _sentinel,
    "rediss+sentinel": _sentinel,
    "redis+cluster": _cluster,
    "rediss+cluster": _cluster,
}


def _parts(scheme: str, rest: str) -> tuple[dict[str, Any], list[tuple[str, int | None]], str, dict[str, Any]]:
    """User and password, the nodes, the path, the options of the query."""
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    login, _, hosts = authority.rpartition("@")
    nodes = []
    for each in hosts.split(","):
        parts = urlsplit(f"//{each}")
        if not parts.hostname:
            raise ValueError("a host is missing")
        nodes.append((parts.hostname, parts.port))
    # redis-py's own reading of logins and options
    options = dict(_redis.connection.parse_url(f"redis://{login}{'@' if login else ''}host/?{query}"))
    options.pop("host")
    return (
        {key: options.pop(key) for key in ("username", "password") if key in options},
        nodes,
        path.strip("/"),
        options,
    )


class LateCluster:
    """A RedisCluster that is made when it is first used: to make one takes a node that answers."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self._lock = threading.RLock()
        self._client: Client = None

    @property
    def time_out(self) -> float | None:
        """Seconds for which it waits for an answer."""
        timeout: float | None = self._settings.get("socket_timeout")
        return timeout

    @property
    def address(self) -> str:
        """For a log."""
        return ",".join(f"{node.host}:{node.port}" for node in self._settings["startup_nodes"])

    def __getattr__(self, name: str) -> Any:
        with self._lock:
            if self._client is None:
                self._client = redis.RedisCluster(**self._settings)
        return getattr(self._client, name)

    def close(self) -> None:
        """Close what was opened."""
        if self._client is not None:
            self._client.close()


def subscriber(client: Client) -> Any:
    """A connection for pub/sub. In a cluster to any node, as each passes on what is published at any other.

    redis-py would take the node that has the channel's slot, and stay with it when it is dead.
    """
    nodes = client.get_nodes() if hasattr(client, "get_nodes") else []
    return client.pubsub(node=random.choice(nodes)) if nodes else client.pubsub()


def redacted(url: str) -> str:
    """The URL without user, password and query, fit for a log."""
    if "://" not in url:
        return "…"
    try:
        parts = urlsplit(url)
        if "@" in parts.path:  # a password that was not percent-encoded
            raise ValueError
        if parts.scheme == "unix":
            return f"unix://{parts.path}"
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
    except ValueError:
        return url.partition("://")[0] + "://…"


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
    """One of our two errors for any of redis-py's: may pass by itself, or will not."""
    if isinstance(error, RouterError):
        return error
    text = f"{type(error).__name__}: {error}"
    denied = isinstance(error, _DENIED) or any(word in text for word in _DENIED_WORDS)
    if isinstance(error, _redis.sentinel.MasterNotFoundError):  # older redis-py repeats the sentinels' password
        text = f"MasterNotFoundError: {str(error).partition(' : ')[0]}"
    if denied:
        return AccessDenied(f"Redis refused the login or the command: {text}; check user, password and ACL")
    passing = isinstance(error, _PASSING) or str(error).startswith(_PASSING_PREFIXES)
    if isinstance(error, rex.ResponseError | rex.DataError) and not passing:
        return RedisRefused(f"Redis refused the command: {text}")
    return RedisUnavailable(f"Redis cannot serve: {text}")


REDIS_ERRORS = (rex.RedisError, rex.RedisClusterException, OSError, UnicodeError)
"""What a command may raise on its way to Redis."""

NoScript = rex.NoScriptError
