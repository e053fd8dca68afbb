"""What the router may be given to reach Redis, and how redis-py's errors become ours."""

import fakeredis
import pytest
import redis
import redis.asyncio
from redis import exceptions as rex

from redis_router import InvalidArgument, RedisRefused, RedisUnavailable
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
    assert "ssl" not in str(client.connection_pool.connection_class).lower()
    assert "ssl" in str(connect("rediss+sentinel://a/m").connection_pool.connection_class).lower()


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
