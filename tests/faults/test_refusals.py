"""What a server refuses inside a script: by a missing right, or for one record alone. On every server found here.

`REDIS_ROUTER_SERVER=/path/to/redis-server` adds another one: each version wraps such errors in its own way.
"""

import pytest

from redis_router import AccessDenied, CircuitConfig, Outcome, Provider, RedisRefused
from redis_router.circuit.outcome import Result
from redis_router.store.connect import connect
from redis_router.store.redis import Batch, RedisStore, Reply
from redis_router.testing.server import EmbeddedServer
from tests.conftest import KEYS, REAL, RIGHTS
from tests.support import result

VALUES = ["NOPERM", "WRONGPASS", "NOAUTH", "OOM", "-OOM command not allowed", "MISCONF", "no permissions", "BUSY"]


@pytest.mark.parametrize("value", VALUES)
def test_a_word_of_the_servers_in_a_record_concerns_that_record(real, value):
    """Neither a missing right nor an outage: the other provider's results are applied."""
    store, client = real.store(), real.client()
    for name in ("openai", "azure"):
        store.register(Provider(name, ("m",)), CircuitConfig())
    client.hset(store.keys.health("openai"), "latency_ms", value)
    refused, applied = store.record([Batch(name, 1, [result(name, True)]) for name in ("openai", "azure")])
    assert type(refused) is RedisRefused
    assert value in str(refused)
    assert isinstance(applied, Reply)
    client.close()


@pytest.fixture
def server(real):
    """One of its own, as its users change."""
    with EmbeddedServer(REAL[real.name]) as server:
        yield server


@pytest.fixture
def admin(server):
    with connect(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "router", "on", ">password", *KEYS, *RIGHTS.split())
        yield admin


@pytest.mark.parametrize("right", ["hgetall", "hset", "get", "publish"])
def test_a_right_that_scripts_miss_is_named(server, admin, right):
    """Every record needs it, so it is no matter of this one."""
    store = RedisStore(connect(f"redis://router:password@127.0.0.1:{server.port}/0"), "rr", "gw")
    store.register(Provider("openai", ("m",)), CircuitConfig(consecutive_failure_limit=1))
    admin.execute_command("ACL", "SETUSER", "router", f"-{right}")
    (reply,) = store.record([Batch("openai", 1, [Result("openai", Outcome.FAILURE, 5.0, 1)])])
    assert isinstance(reply, AccessDenied), reply
    store.client.close()


def test_a_channel_that_scripts_may_not_publish_to_is_named(server, admin):
    """Where the server looks at channels inside scripts, and else it works."""
    store = RedisStore(connect(f"redis://router:password@127.0.0.1:{server.port}/0"), "rr", "gw")
    store.register(Provider("openai", ("m",)), CircuitConfig(consecutive_failure_limit=1))
    admin.execute_command("ACL", "SETUSER", "router", "resetchannels")
    (reply,) = store.record([Batch("openai", 1, [Result("openai", Outcome.FAILURE, 5.0, 1)])])
    assert isinstance(reply, AccessDenied | Reply), reply
    store.client.close()
