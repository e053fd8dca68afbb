"""What the router may be given to reach Redis, and how redis-py's errors become ours."""

import fakeredis
import pytest
import redis
import redis.asyncio
from redis import exceptions as rex
from redis.sentinel import MasterNotFoundError

from redis_router import AccessDenied, InvalidArgument, RedisRefused, RedisUnavailable
from redis_router.connect import REDIS_ERRORS, connect, redacted, translated, where
from redis_router.demo.server import free_port


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
