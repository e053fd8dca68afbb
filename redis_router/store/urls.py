"""The redis-py client that a URL asks for, with bounds that suit a router. Opens no connection."""

import threading
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis
import redis.cluster
import redis.sentinel
from redis import exceptions as rex
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry

from redis_router.checks import check_number
from redis_router.errors import InvalidArgument

Client = Any
"""A redis-py client, `redis.Redis` or `redis.RedisCluster`: their annotations do not agree, their methods do."""

_redis: Any = redis  # the parts of it that have no annotations

TIMEOUT = 0.5
"""Seconds for a connect and for an answer. A hung server must be noticed within about this time."""

LEAST_CONNECTIONS = 2
"""Of a pool where one waits for a free connection: the push channel holds one."""

LEAST_WITHOUT_WAITING = 4
"""Of other pools: for the push channel, a refresh, results and a caller, all at once."""

_MOST = 999_999
_NUMBERS: dict[str, tuple[type[int] | type[float], float, float]] = {
    "db": (int, 0, _MOST),
    "health_check_interval": (int, 0, _MOST),
    "max_connections": (int, LEAST_CONNECTIONS, _MOST),
    "protocol": (int, 2, 3),
    "socket_connect_timeout": (float, 0.001, 3600.0),
    "socket_read_size": (int, 1, _MOST),
    "socket_timeout": (float, 0.001, 3600.0),
    "timeout": (float, 0.001, 3600.0),  # until one of max_connections is free
}
"""Options of a URL: how they are read, from and up to what."""


def from_url(url: str) -> Client:
    """As `connect` says. Raises InvalidArgument where the URL, or a number in its query, cannot be used."""
    scheme, _, rest = url.partition("://")
    make = _SCHEMES.get(scheme.lower())
    if make is None:
        raise InvalidArgument(
            f"Redis URL {redacted(url)!r} is not usable: it must begin with {', '.join(f'{s}://' for s in _SCHEMES)};"
            " a Router or HealthChecker may also have memory://, this process's own"
        )
    try:
        _check_numbers(rest.partition("?")[2], LEAST_CONNECTIONS if make is _single else LEAST_WITHOUT_WAITING)
        return make(scheme.lower().partition("+")[0], rest)
    except (ValueError, TypeError, AttributeError, rex.RedisError) as error:
        why = "the port is no number; is the password percent-encoded?" if "Port" in str(error) else error
        raise InvalidArgument(f"Redis URL {redacted(url)!r} is not usable: {why}") from None


def _check_numbers(query: str, connections: int) -> None:
    """redis-py takes any of them, and a socket or the pool stumbles over it later."""
    for name, values in parse_qs(query, keep_blank_values=True).items():
        if name in _NUMBERS:
            read, least, most = _NUMBERS[name]
            least = max(least, connections) if name == "max_connections" else least
            value: object = values[0]
            with suppress(ValueError):
                value = read(values[0])
            check_number(name, value, least=least, most=most)


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


def _check_options(pool: Any) -> None:
    """Refuses options that do not exist; opens nothing, and takes no place in the pool."""
    pool.connection_class(**pool.connection_kwargs)


def _single(scheme: str, rest: str) -> Client:
    address, _, query = rest.partition("?")
    path = address.partition("/")[2]
    if scheme != "unix" and "@" in path:
        raise ValueError("an @ after the host; is the password percent-encoded?")
    database = path.strip("/")
    if scheme != "unix" and database and not database.isdecimal():  # redis-py would take database 0
        raise ValueError(f"there is no database {database!r}: give its number, as in redis://host:6379/0")
    url, settings = f"{scheme}://{rest}", {**_settings(), "retry_on_error": [rex.ReadOnlyError]}
    if "max_connections" in parse_qs(query):  # wait for a free one: an error would be taken for an outage
        pool: Any = redis.BlockingConnectionPool.from_url(url, timeout=TIMEOUT, **settings)
    else:
        pool = redis.ConnectionPool.from_url(url, **settings)
    _check_options(pool)
    return redis.Redis.from_pool(pool)


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
    _check_options(client.connection_pool)
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
