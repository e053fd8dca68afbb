"""What the router may be given to reach Redis, and how redis-py's errors become ours."""

import threading
from contextlib import closing
from unittest.mock import AsyncMock

import fakeredis
import pytest
import redis
import redis.asyncio
import valkey
import valkey.asyncio
from prometheus_client import CollectorRegistry
from redis import exceptions as rex
from redis.sentinel import MasterNotFoundError

from redis_router import AccessDenied, InvalidArgument, Provider, RedisRefused, RedisUnavailable, Router
from redis_router.store.connect import REDIS_ERRORS, connect, translated, where
from redis_router.store.urls import redacted
from redis_router.testing.server import EmbeddedServer, free_port


@pytest.mark.parametrize("url", ["redis://h", "REDIS://h", "redis://h:1/2", "rediss://u:p@h:1/0", "unix:///tmp/x.sock"])
def test_urls(url):
    """Bounded in time, and no connection is opened yet."""
    settings = connect(url).connection_pool.connection_kwargs
    assert settings["socket_timeout"] == 0.5
    assert settings["decode_responses"] is True


def test_options_in_the_url_win():
    """A user who knows better says so in the URL."""
    assert connect("redis://h?socket_timeout=3").connection_pool.connection_kwargs["socket_timeout"] == 3.0


def test_sentinel_urls():
    """The master's name and the database in the path; its login in front, the sentinels' in the query."""
    client = connect("redis+sentinel://user:pw@a,b:7/mymaster/3?sentinel_password=spw&socket_timeout=2")
    pool = client.connection_pool
    assert pool.service_name == "mymaster"
    settings = pool.connection_kwargs
    assert (settings["username"], settings["password"], settings["db"], settings["socket_timeout"]) == (
        "user", "pw", 3, 2.0,
    )  # fmt: skip
    sentinels = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"], each["password"]) for each in sentinels] == [
        ("a", 26379, "spw"), ("b", 7, "spw"),
    ]  # fmt: skip
    assert where(client) == "sentinel's master mymaster"
    assert not issubclass(client.connection_pool.connection_class, redis.SSLConnection)
    assert issubclass(connect("rediss+sentinel://a/m").connection_pool.connection_class, redis.SSLConnection)


def test_tls_holds_for_every_connection(tmp_path):
    """The sentinels' too: their password goes there. Options of TLS are taken, however the URL is written."""
    pool = connect("rediss+sentinel://a/m?sentinel_password=x&ssl_ca_certs=/etc/ca.pem").connection_pool
    for kwargs in (pool.connection_kwargs, pool.sentinel_manager.sentinels[0].connection_pool.connection_kwargs):
        assert kwargs["ssl_ca_certs"] == "/etc/ca.pem"
    assert "SSL" in pool.sentinel_manager.sentinels[0].connection_pool.connection_class.__name__
    for url in (
        "rediss+cluster://a?ssl_ca_certs=/etc/ca.pem&max_connections=9",
        "rediss+cluster://a:1,b/0?ssl_ca_certs=x",
    ):
        assert connect(url)._settings["ssl"] is True


@pytest.mark.parametrize(
    "target",
    [
        "user:secret@h:6379", ":secret@h", "redis:/user:secret@h", "redis://user:12/secret@h", "redis://user:se?cret/secret@h",
        b"redis://:secret@h", ["redis://:secret@h"], {"password": "secret"}, "http://user:12/secret@h",
    ],
)  # fmt: skip
def test_a_password_that_went_astray_shows_nowhere(target):
    """Whatever was given in place of a URL."""
    with pytest.raises(InvalidArgument) as caught:
        connect(target)
    assert "secret" not in str(caught.value)


def test_hidden_logins_are_named():
    """Sentinels and clusters wrap the cause; older redis-py repeats passwords there."""
    error = rex.RedisClusterException("cannot be connected: WRONGPASS invalid username-password pair")
    assert isinstance(translated(error), AccessDenied)
    error = MasterNotFoundError(
        "No master found for 'm' : <Redis(host=h,password=secret)> - AuthenticationError('NOAUTH')"
    )
    assert isinstance(translated(error), AccessDenied)
    assert "secret" not in str(translated(error))


def test_a_client_that_waits_long_is_named(caplog):
    """While it waits for a hung server, the replica cannot decide alone."""
    connect(redis.Redis(socket_timeout=30))
    assert "socket_timeout=0.5" in caplog.text


def test_cluster_urls():
    """Nothing is opened before the first command, which fails where no node answers."""
    client = connect(f"redis+cluster://user:secret@127.0.0.1:{free_port()},127.0.0.1:{free_port()}?socket_timeout=0.2")
    assert where(client).startswith("cluster 127.0.0.1:")
    assert "secret" not in where(client)
    with pytest.raises(REDIS_ERRORS):
        client.execute_command("PING")
    client.close()


@pytest.mark.parametrize(
    "target",
    [
        "redis://h?no_such_option=1",
        "redis+sentinel://h:1",
        "redis+sentinel://h:1/mymaster/x",
        "redis+sentinel:///mymaster",
        "redis+cluster://h/1",
        "redis+cluster://h,/",
        "redis+cluster://h:x",
        "redis+cluster://h?no_such_option=1",
        "",
        "h:1",
        "http://h",
        "redis:/h",
        None,
        5,
        object(),
        redis.asyncio.Redis(),
        ["redis://h"],
        "redis://h/prod",
        "redis://h/0/1",
        "redis://h/-1",
        "rediss://h/prod?socket_timeout=1",
    ],
)
def test_what_cannot_be_used_is_refused(target):
    """With what to give instead; an asyncio client included."""
    with pytest.raises(InvalidArgument, match="redis"):
        connect(target)


def test_a_users_client_is_used_as_it_is():
    """Its timeouts and pool are its owner's."""
    for client in (redis.Redis(), fakeredis.FakeRedis()):
        assert connect(client) is client


def test_credentials_show_nowhere():
    """Neither in an error about the URL nor in a log line about the server."""
    url = "redis://user:secret@h:port/0?password=secret"
    assert "secret" not in redacted(url)
    with pytest.raises(InvalidArgument) as caught:
        connect(url)
    assert "secret" not in str(caught.value)
    assert where(connect("redis://user:secret@h:7/0")) == "h:7"
    assert where(connect("unix://:secret@/tmp/x.sock")) == "unix:///tmp/x.sock"


@pytest.mark.parametrize(
    "error",
    [
        rex.ConnectionError("refused"), rex.TimeoutError("late"), rex.BusyLoadingError("Redis is loading"),
        rex.ReadOnlyError("You can't write against a read only replica."), rex.OutOfMemoryError("command not allowed"),
        rex.ResponseError("BUSY Redis is busy"), rex.ResponseError("MISCONF Errors writing"), OSError("no route"),
        rex.ResponseError("NOREPLICAS Not enough good replicas"), rex.ClusterDownError("The cluster is down"),
        rex.RedisClusterException("Redis Cluster cannot be connected"), rex.TryAgainError("Multiple keys request"),
    ],
)  # fmt: skip
def test_what_passes_by_itself(error):
    """Try again later."""
    assert isinstance(translated(error), RedisUnavailable)


@pytest.mark.parametrize(
    "error",
    [
        rex.AuthenticationError("invalid username-password pair"), rex.NoPermissionError("NOPERM"),
        rex.ResponseError("WRONGTYPE Operation against a key"), rex.ResponseError("ERR unknown command"),
    ],
)  # fmt: skip
def test_what_does_not(error):
    """Somebody has to act."""
    assert isinstance(translated(error), RedisRefused)


NUMBERS = [
    "socket_timeout=-1", "socket_timeout=0", "socket_timeout=nan", "socket_timeout=inf", "socket_timeout=3601",
    "socket_timeout=soon", "socket_timeout=", "socket_connect_timeout=-1", "socket_connect_timeout=0",
    "max_connections=-3", "max_connections=0", "max_connections=1", "max_connections=many",
    "timeout=-1", "health_check_interval=-1", "socket_read_size=0", "db=prod", "db=-1", "protocol=4",
]  # fmt: skip


@pytest.mark.parametrize("option", NUMBERS)
@pytest.mark.parametrize("url", ["redis://h", "unix:///tmp/x.sock", "redis+sentinel://h/m", "redis+cluster://h"])
def test_numbers_that_nobody_can_use_are_refused(url, option):
    """Before a socket stumbles over them; the option and its value are named."""
    with pytest.raises(InvalidArgument) as caught:
        connect(f"{url}?{option}")
    name, _, value = option.partition("=")
    assert name in str(caught.value)
    assert value in str(caught.value)


@pytest.mark.parametrize("most", [2, 3])
def test_max_connections_are_so_many(real, most):
    """All of them can be used at once, and whoever finds none free waits for one."""
    with closing(connect(f"{real.url}?max_connections={most}")) as client:
        held = [client.connection_pool.get_connection() for _ in range(most)]
        with pytest.raises(rex.ConnectionError):
            client.ping()
        later = threading.Timer(0.1, lambda: [client.connection_pool.release(each) for each in held])
        later.start()
        assert client.ping()
        later.join()


def test_a_router_lives_with_two_connections(one_real):
    """One is the push channel's; callers, results and refreshes take turns at the other, and it is no outage."""
    with (
        EmbeddedServer() as server,
        connect(server.url) as admin,
        Router(f"{server.url}?max_connections=2&timeout=20&client_name=two", registry=CollectorRegistry()) as router,
    ):
        router.register_provider(Provider("openai", ("m",)))
        assert router.flush()

        def work():
            for _ in range(20):
                router.record_result("openai", success=True, latency_ms=5.0)
                router.update_health("openai", available=True)

        workers = [threading.Thread(target=work) for _ in range(3)]
        for each in workers:
            each.start()
        for each in workers:
            each.join()
        assert router.flush()
        assert router.redis_up
        assert len([each for each in admin.client_list() if each["name"] == "two"]) == 2


@pytest.mark.parametrize("url", ["redis+sentinel://h/m", "redis+cluster://h"])
def test_max_connections_where_nobody_waits(url):
    """Behind sentinels, and of each node of a cluster, all that go at once need one each."""
    with pytest.raises(InvalidArgument, match=r"max_connections is 3.*4"):
        connect(f"{url}?max_connections=3")
    client = connect(f"{url}?max_connections=4")
    if "sentinel" in url:
        held = [client.connection_pool.make_connection() for _ in range(4)]
        assert len(held) == 4
    client.close()


@pytest.mark.parametrize(("kind", "least"), [(redis.ConnectionPool, 4), (redis.BlockingConnectionPool, 2)])
def test_a_client_without_room_is_refused(kind, least):
    """The push channel holds a connection, and where nobody waits for a free one the others need one each."""
    with pytest.raises(InvalidArgument, match=rf"max_connections is {least - 1}.*{least}"):
        connect(redis.Redis(connection_pool=kind(max_connections=least - 1)))
    assert connect(redis.Redis(connection_pool=kind(max_connections=least)))


class Renamed(redis.asyncio.Redis):
    """An asyncio client as somebody else calls it."""


class Duck:
    """Another library's."""

    def pubsub(self):
        """Never called."""

    async def execute_command(self, *args):
        """Never called."""


@pytest.mark.parametrize(
    "make", [Renamed, Duck, lambda: AsyncMock(spec=redis.asyncio.Redis), redis.asyncio.Redis, valkey.asyncio.Valkey]
)
def test_asyncio_clients_are_known_by_what_they_are(make):
    """Not by the name of their module."""
    with pytest.raises(InvalidArgument, match="asyncio"):
        connect(make())


class Derived(valkey.Valkey):
    """A user's own."""


@pytest.mark.parametrize("make", [valkey.Valkey, Derived, fakeredis.FakeValkey])
def test_valkey_py_is_refused(make):
    """It raises errors of its own. With the remedy, which costs a line."""
    with pytest.raises(InvalidArgument, match=r"valkey-py.*redis://"):
        connect(make())


# What servers put around an error inside a script: 6.2 in front, 7 and Valkey behind
CALL = "Error running script (call to f_5632a2bc5a374560d07c5b9140c267b8540851f3): "
IN_6 = f"{CALL}@user_script:332: @user_script: 332: "
IN_7 = " script: 5632a2bc5a374560d07c5b9140c267b8540851f3, on @user_script:332."
IN_VALKEY = " script: on @user_script:332."
BY_LUA_IN_6 = f"{CALL}@user_script:66: "
BY_LUA_IN_FAKEREDIS = f"{CALL}@user_script:?: "
PASSES = [
    "OOM command not allowed when used memory > 'maxmemory'.",
    "NOREPLICAS Not enough good replicas to write.",
    "MISCONF Redis is configured to save RDB snapshots, but it is currently not able to persist on disk.",
    "READONLY You can't write against a read only replica.",
]


@pytest.mark.parametrize("said", PASSES)
def test_what_passes_by_itself_inside_a_script(said):
    """However the server wraps it."""
    for text in (f"{IN_6}-{said}", said + IN_7, said + IN_VALKEY):
        found = translated(rex.ResponseError(text))
        assert isinstance(found, RedisUnavailable), text
        assert said.split()[0] in str(found)


NO_RIGHT = [
    f"{IN_6}The user executing the script can't run this command or subcommand",
    f"{IN_6}The user executing the script can't access at least one of the keys mentioned in the command arguments",
    f"{IN_6}The user executing the script can't publish to the channel mentioned in the command",
    f"The user executing the script can't run this command or subcommand{IN_7}",
    f"ACL failure in script: User router has no permissions to run the 'hset' command{IN_7}",
    f"ACL failure in script: No permissions to access a channel{IN_VALKEY}",
    f"NOPERM User router has no permissions to run the 'hset' command{IN_7}",
]


@pytest.mark.parametrize("text", NO_RIGHT)
def test_a_missing_right_inside_a_script_is_named(text):
    """Every record is refused then, not one."""
    assert isinstance(translated(rex.ResponseError(text)), AccessDenied)


@pytest.mark.parametrize(
    "value",
    [
        "NOPERM", "WRONGPASS", "NOAUTH", "-OOM command", "OOM", "MISCONF", "no permissions", "Authentication required",
        "ACL failure in script: x", "The user executing the script can't", f"{IN_6}-OOM command",
    ],
)  # fmt: skip
def test_a_value_in_a_record_is_no_word_of_the_server(value):
    """Whatever a hand wrote into a field concerns that record alone."""
    for said in (
        f"latency_ms is no number: {value}",
        f"BADRECORD latency_ms is no number: {value}",
        f"BADRECORD {value}",
    ):
        for text in (said, BY_LUA_IN_6 + said, BY_LUA_IN_FAKEREDIS + said, said + IN_7, said + IN_VALKEY):
            found = translated(rex.ResponseError(text))
            assert isinstance(found, RedisRefused), text
            assert not isinstance(found, AccessDenied), text
            assert value in str(found)
