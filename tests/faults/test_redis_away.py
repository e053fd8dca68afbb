"""Redis is stopped, frozen, emptied, locked: the caller never notices, and the replica joins again."""

import logging
import signal
import time
from statistics import median

import pytest
from prometheus_client import CollectorRegistry

from redis_router import CircuitConfig, Provider, RedisRefused, RedisUnavailable, Router
from redis_router.demo.server import EmbeddedServer
from redis_router.store import Store
from tests.support import eventually, metric

OPENAI = Provider("openai", ("m",))
QUICK = CircuitConfig(consecutive_failure_limit=3, open_timeout=60)


@pytest.fixture
def server():
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def replica(server):
    replica = Router(server.url, circuit=QUICK, registry=CollectorRegistry())
    replica.register_provider(OPENAI)
    with replica:
        yield replica


def touches(caplog):
    return [r.getMessage() for r in caplog.records if "touch with Redis" in r.getMessage()]


def test_a_stopped_server_never_reaches_the_caller(server, replica, caplog):
    """Select and record go on; one log line per edge; what was recorded meanwhile arrives, the record comes back."""
    caplog.set_level(logging.INFO, "redis_router")
    server.stop()
    eventually(lambda: not replica.redis_up, "the replica noticed")
    for _ in range(100):
        assert replica.select_provider("m") is OPENAI
        replica.record_result("openai", success=True, latency_ms=5.0)
    assert metric(replica._registry, "redis_up") == 0
    with pytest.raises(RedisUnavailable):
        replica.update_health("openai", available=False)
    server.start()
    eventually(lambda: replica.redis_up, "the replica is back")
    assert replica.flush(10)
    record = replica._engine.store.snapshot(["openai"]).records["openai"]
    assert record.consecutive_successes == 100
    assert ["out of" in edge for edge in touches(caplog)] == [True, False]


def test_an_open_circuit_survives_a_restart_without_persistence(server, replica):
    """I-8: the record that Redis lost is restored with its state and generation."""
    for _ in range(3):
        replica.record_result("openai", success=False, latency_ms=5.0)
    assert replica.flush()
    before = replica.get_health_status()["openai"]
    server.stop()
    eventually(lambda: not replica.redis_up)
    server.start()
    store = Store(replica._client, "rr", "test")
    record = eventually(lambda: replica.redis_up and store.snapshot(["openai"]).records.get("openai"))
    assert (record.circuit_state, record.generation) == ("open", before.generation)
    assert record.last_state_change_ms == before.last_state_change_ms


def test_a_frozen_server_blocks_nobody(server, replica):
    """SIGSTOP: the connection stays, nothing answers. An unanswered ping tells, and calls keep their speed."""

    def call():
        began = time.perf_counter()
        replica.select_provider("m")
        replica.record_result("openai", success=True, latency_ms=5.0)
        return time.perf_counter() - began

    well = median(call() for _ in range(500))
    server.process.send_signal(signal.SIGSTOP)
    try:
        eventually(lambda: not replica.redis_up, "the replica noticed")
        frozen = median(call() for _ in range(500))
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert frozen < 20 * well
    eventually(lambda: replica.redis_up)
    assert replica.flush(10)
    record = replica._engine.store.snapshot(["openai"]).records["openai"]
    assert record.consecutive_successes == 1_000, "each applied once"


def test_what_waits_is_bounded(server):
    """The buffer's limit holds for all that is on its way; beyond it is dropped and counted."""
    registry = CollectorRegistry()
    with Router(server.url, circuit=QUICK, registry=registry, buffer_limit=50) as replica:
        replica.register_provider(OPENAI)
        assert replica.flush()
        server.stop()
        eventually(lambda: not replica.redis_up)
        for _ in range(10):
            for _ in range(20):
                replica.record_result("openai", success=False, latency_ms=5.0)
            eventually(lambda: not replica._engine.courier._buffer, "the engine took them from the buffer")
        assert metric(registry, "results_pending") == 50
        assert metric(registry, "results_dropped_total", reason="buffer_full") == 150
        server.start()
        assert replica.flush(10)
        assert metric(registry, "requests_total", provider="openai", outcome="failure") == 50


def test_closing_beside_a_frozen_server(server):
    """The timeout bounds all of it, and what could not be delivered is counted."""
    registry = CollectorRegistry()
    replica = Router(server.url, circuit=QUICK, registry=registry)
    replica.register_provider(OPENAI)
    replica.start()
    replica.start_health_checker()
    server.process.send_signal(signal.SIGSTOP)
    try:
        replica.record_result("openai", success=True, latency_ms=5.0)
        began = time.monotonic()
        replica.close(1.0)
        assert time.monotonic() - began < 5.0
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert metric(registry, "results_dropped_total", reason="closed") == 1


def test_starting_without_redis(server):
    """The router starts, routes and buffers; it joins when Redis comes."""
    server.stop()
    with Router(server.url, registry=CollectorRegistry()) as replica:
        replica.register_provider(OPENAI)
        assert not replica.redis_up
        assert replica.select_provider("m") is OPENAI
        replica.record_result("openai", success=True, latency_ms=5.0)
        server.start()
        eventually(lambda: replica.redis_up)
        assert replica.flush(10)
        assert Store(replica._client, "rr", "test").snapshot().records["openai"].consecutive_successes == 1


def test_a_wrong_password_is_said_at_start():
    """A configuration fault: one clear error, no threads that try for ever, and no password in it."""
    with EmbeddedServer(password="right-horse") as server:
        replica = Router(server.url.replace("right", "wrong"), registry=CollectorRegistry())
        replica.register_provider(OPENAI)
        with pytest.raises(RedisRefused, match="password") as caught:
            replica.start()
        assert "horse" not in str(caught.value)
        assert not replica._engine.running
        replica.close()


@pytest.mark.parametrize(
    ("settings", "undo"),
    [
        ({"maxmemory": "1"}, {"maxmemory": "0"}),
        ({"min-replicas-to-write": "3"}, {"min-replicas-to-write": "0"}),
    ],
    ids=["OOM", "NOREPLICAS"],
)
def test_a_server_that_refuses_writes_for_a_while(server, replica, settings, undo, caplog):
    """Nothing is lost: the results wait, and are applied once. Reading still works, and yet Redis is down for us."""
    caplog.set_level(logging.INFO, "redis_router")
    admin = replica._client
    for key, value in settings.items():
        admin.config_set(key, value)
    for _ in range(10):
        replica.record_result("openai", success=True, latency_ms=5.0)
    assert replica.flush(0.5) is False
    replica._engine.mirror.refresh()
    assert not replica.redis_up
    for key, value in undo.items():
        admin.config_set(key, value)
    assert replica.flush(10)
    assert replica.get_health_status()["openai"].consecutive_successes == 10
    assert metric(replica._registry, "results_dropped_total", reason="refused") == 0
    edges = eventually(lambda: len(edges := touches(caplog)) >= 2 and edges)
    assert ["out of" in edge for edge in edges] == [True, False], edges
