"""Redis is stopped, frozen, emptied: the caller never notices, and the replica joins again."""

import logging
import signal
import threading

import pytest
from prometheus_client import CollectorRegistry

from redis_router import (
    RedisRefused,
    RedisUnavailable,
    Router,
)
from redis_router.store.connect import connect
from redis_router.store.redis import RedisStore
from redis_router.testing.server import EmbeddedServer
from tests.faults.away import OPENAI, QUICK, touches
from tests.support import eventually, metric
from tests.support.fleet import new_router, threads_of_ours


def test_a_stopped_server_never_reaches_the_caller(server, replica, caplog):
    """Select and record go on; one log line per edge; what was recorded meanwhile arrives, the record comes back."""
    caplog.set_level(logging.INFO, "redis_router")
    server.stop()
    eventually(lambda: not replica.redis_up, "the replica noticed")
    for _ in range(100):
        assert replica.select_provider("m") is OPENAI
        replica.record_result("openai", success=True, latency_ms=5.0)
    assert metric(replica, "redis_up") == 0
    with pytest.raises(RedisUnavailable):
        replica.update_health("openai", available=False)
    server.start()
    eventually(lambda: replica.redis_up, "the replica is back")
    assert replica.flush(10)
    record = RedisStore(connect(server.url), "rr", "test").snapshot(["openai"]).records["openai"]
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
    eventually(lambda: replica.redis_up)
    store = RedisStore(connect(server.url), "rr", "test")
    record = eventually(lambda: store.snapshot(["openai"]).records.get("openai"))
    assert (record.circuit_state, record.generation) == ("open", before.generation)
    assert record.last_state_change_ms == before.last_state_change_ms


def test_a_frozen_server_blocks_nobody(server, replica):
    """SIGSTOP: the connection stays, nothing answers. An unanswered ping tells, and no call waits for an answer."""

    def calls():
        for _ in range(500):
            replica.select_provider("m")
            replica.record_result("openai", success=True, latency_ms=5.0)

    calls()
    server.process.send_signal(signal.SIGSTOP)
    try:
        eventually(lambda: not replica.redis_up, "the replica noticed")
        caller = threading.Thread(target=calls, daemon=True)
        caller.start()
        # one command gives up after 0.25 s: if calls waited for theirs, 500 would take two minutes
        eventually(lambda: not caller.is_alive(), "the calls were made")
    finally:
        server.process.send_signal(signal.SIGCONT)
    eventually(lambda: replica.redis_up)
    assert replica.flush(10)
    record = RedisStore(connect(server.url), "rr", "test").snapshot(["openai"]).records["openai"]
    assert record.consecutive_successes == 1_000, "each applied once"


def test_what_waits_is_bounded(server):
    """The buffer's limit holds for all that is on its way; beyond it is dropped and counted."""
    registry = CollectorRegistry()
    with Router(server.url, circuit=QUICK, registry=registry, buffer_limit=50) as replica:
        replica.register_provider(OPENAI)
        assert replica.flush()
        server.stop()
        eventually(lambda: not replica.redis_up)
        for latency in (100.0, 900.0):  # twenty at a time, until this replica's own breaker decided on them
            before = replica.get_health_status()["openai"].latency_ms
            for _ in range(20):
                replica.record_result("openai", success=False, latency_ms=latency)
            eventually(lambda before=before: replica.get_health_status()["openai"].latency_ms > before)
        for _ in range(160):
            replica.record_result("openai", success=False, latency_ms=5.0)
        assert metric(registry, "results_pending") == 50
        assert metric(registry, "results_dropped_total", reason="buffer_full") == 150
        server.start()
        assert replica.flush(10)
        assert metric(registry, "requests_total", provider="openai", outcome="failure") == 50


def test_closing_beside_a_frozen_server(server):
    """The timeout bounds all of it: it ends while the server is frozen; what could not be delivered is counted."""
    registry = CollectorRegistry()
    replica = Router(server.url, circuit=QUICK, registry=registry)
    replica.register_provider(OPENAI)
    replica.start()
    replica.start_health_checker()
    server.process.send_signal(signal.SIGSTOP)
    try:
        replica.record_result("openai", success=True, latency_ms=5.0)
        replica.close(1.0)
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert metric(registry, "results_dropped_total", reason="closed") == 1


def test_starting_without_redis(server):
    """The router starts, routes and buffers; it joins when Redis comes."""
    server.stop()
    with new_router(server.url) as replica:
        replica.register_provider(OPENAI)
        assert not replica.redis_up
        assert replica.select_provider("m") is OPENAI
        replica.record_result("openai", success=True, latency_ms=5.0)
        server.start()
        eventually(lambda: replica.redis_up)
        assert replica.flush(10)
        assert RedisStore(connect(server.url), "rr", "test").snapshot().records["openai"].consecutive_successes == 1


def test_a_wrong_password_is_said_at_start():
    """A configuration fault: one clear error, no threads that try for ever, and no password in it."""
    with EmbeddedServer(password="right-horse") as server:
        replica = new_router(server.url.replace("right", "wrong"))
        replica.register_provider(OPENAI)
        with pytest.raises(RedisRefused, match="password") as caught:
            replica.start()
        assert "horse" not in str(caught.value)
        assert not threads_of_ours()
        replica.close()
