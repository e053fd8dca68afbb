"""The leading worker freezes, thaws, loses its way to Redis: another takes over, and one leads at a time."""

import signal

import pytest

from redis_router import CircuitConfig, Provider
from redis_router.store.connect import connect
from redis_router.store.redis import RedisStore
from redis_router.testing.server import EmbeddedServer
from tests.support import eventually, recorded, result
from tests.support.processes import WorkerProcess
from tests.support.servers import Proxy

LEASE = 1.0
OPTIONS = ("--lease", str(LEASE), "--interval", "1")


@pytest.fixture
def server():
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def pair(server):
    """A worker that reaches Redis through a proxy and leads, and a standby that needs no proxy."""
    proxy = Proxy(server.port)
    first = WorkerProcess(proxy.url, "rr", "--name", "first", *OPTIONS).wait_ready()
    eventually(lambda: first.leads)
    second = WorkerProcess(server.url, "rr", "--name", "second", *OPTIONS).wait_ready()
    yield first, second, proxy
    for worker in (first, second):
        worker.process.send_signal(signal.SIGCONT)
        worker.end()
    proxy.close()


def gone(worker):
    """Neither leader nor able to say that it is."""
    try:
        return worker.get("/readyz") != (200, "leader")
    except OSError:
        return True


@pytest.mark.parametrize("how", ["frozen", "cut off"])
def test_a_leader_that_is_away_for_longer_than_its_lease(server, pair, how):
    """Another leads within the lease and a bit; when the first is back it stands by, and no record sees its epoch."""
    first, second, proxy = pair
    store = RedisStore(connect(server.url), "rr", "test")
    store.register(Provider("openai", ("m",)), CircuitConfig(consecutive_failure_limit=1, open_timeout=0.2))
    old = store.leader()[1].epoch
    first.process.send_signal(signal.SIGSTOP) if how == "frozen" else proxy.go_deaf()
    eventually(lambda: second.leads, "the second leads")
    new = store.leader()[1].epoch
    assert new > old
    if how == "cut off":
        eventually(lambda: gone(first), "the first has stepped down by its own clock")
    recorded(store, "openai", 1, result("openai", False))
    eventually(lambda: store.snapshot().records["openai"].circuit_state == "half_open", "the new leader is at work")
    first.process.send_signal(signal.SIGCONT) if how == "frozen" else proxy.hear()
    eventually(lambda: first.get("/readyz") == (200, "standby"), "the first stands by")
    assert second.leads
    assert store.leader()[1].epoch == new
    assert store.snapshot().records["openai"].leader_epoch == new


def test_a_write_of_a_leader_that_was_replaced(server):
    """It comes too late, by whatever path: the record refuses its epoch."""
    late, heir = (RedisStore(connect(server.url), "rr", name) for name in ("late", "heir"))
    late.register(Provider("openai", ("m",)), CircuitConfig(consecutive_failure_limit=1, open_timeout=0.001))
    _, term = late.campaign(1)
    eventually(lambda: late.leader()[1].remaining_ms < 0, "the lease is over")
    _, next_term = heir.campaign(60_000)
    heir.update("openai", {"available": "0"}, source="probe", epoch=next_term.epoch)
    opened = recorded(heir, "openai", 1, result("openai", False)).health
    eventually(lambda: heir.leader()[0] > opened.last_state_change_ms + 10, "it is due")
    assert late.half_open("openai", epoch=term.epoch).status == "fenced"
    assert late.update("openai", {"available": "1"}, source="probe", epoch=term.epoch).status == "fenced"
    assert late.resign(term.epoch) is False
    assert heir.half_open("openai", epoch=next_term.epoch).status == "ok"
