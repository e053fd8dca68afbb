"""Redis is stopped, frozen, emptied, locked: the caller never notices, and the replica joins again."""

import logging
import shutil
import signal
import threading
import time
from contextlib import contextmanager, suppress
from statistics import median

import pytest
import redis
from prometheus_client import CollectorRegistry

from redis_router import (
    CircuitConfig,
    NoProviderAvailable,
    Provider,
    RedisRefused,
    RedisUnavailable,
    Router,
    RouterError,
)
from redis_router.demo.server import EmbeddedServer, free_port
from redis_router.store.connect import connect
from redis_router.store.redis import Store
from tests.support import eventually, metric
from tests.support.servers import Proxy

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


@pytest.fixture
def proxy(server):
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def beyond(proxy):
    """A replica that reaches the server through the proxy alone."""
    circuit = CircuitConfig(
        consecutive_failure_limit=3, half_open_success_threshold=2, half_open_max_probes=2, open_timeout=0.3
    )
    with Router(proxy.url, circuit=circuit, registry=CollectorRegistry()) as replica:
        replica.register_provider(OPENAI)
        assert replica.flush()
        yield replica


def fail(replica, times=3):
    for _ in range(times):
        replica.record_result("openai", success=False, latency_ms=5.0)


def tried(replica):
    with suppress(NoProviderAvailable):
        return replica.attempt("m")


def until(replica, state):
    eventually(lambda: replica.get_circuit_state("openai") == state, f"openai is {state}")


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


@contextmanager
def settings(admin, **values):
    """These settings for a while."""
    before = {}
    for key, value in values.items():
        name = key.replace("_", "-")
        before.update(admin.config_get(name))
        admin.config_set(name, value)
    yield
    for name, value in before.items():
        admin.config_set(name, value)


@contextmanager
def out_of_memory(server, admin):
    with settings(admin, maxmemory="1"):
        yield


@contextmanager
def without_its_replicas(server, admin):
    with settings(admin, min_replicas_to_write="3"):
        yield


@contextmanager
def read_only(server, admin):
    """What a master is after a failover, for those who did not notice."""
    admin.execute_command("REPLICAOF", "127.0.0.1", free_port())
    yield
    admin.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def unable_to_save(server, admin):
    shutil.rmtree(server._folder.name)  # where it would write
    admin.config_set("save", "3600 1")
    with suppress(redis.ResponseError):
        admin.bgsave()
    eventually(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err")
    yield
    admin.config_set("save", "")


@contextmanager
def busy_with_a_script(server, admin):
    admin.config_set("lua-time-limit", "20")
    other = redis.Redis(port=server.port)

    def run():
        with suppress(redis.RedisError):
            other.eval("while true do end", 0)

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: is_busy(admin))
    yield
    admin.script_kill()
    thread.join()
    other.close()


def is_busy(admin):
    try:
        admin.ping()
    except redis.ResponseError as error:
        return str(error).startswith("BUSY")
    return False


@contextmanager
def loading(server, admin):
    """It restarts with its data, and takes its time to read it."""
    for number in range(300):
        admin.set(f"filler:{number}", "x" * 4096)
    admin.save()
    server.stop()
    server._options = ("--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024")
    server.start()
    assert admin.info("persistence")["loading"] == 1
    yield
    eventually(lambda: admin.info("persistence")["loading"] == 0)


TROUBLES = [out_of_memory, without_its_replicas, read_only, unable_to_save, busy_with_a_script, loading]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.__name__)
def test_a_server_that_does_not_serve_for_a_while(server, replica, caplog, trouble):
    """Nothing is lost: the results wait, and are applied once. It may still let us read, and yet it is down for us."""
    caplog.set_level(logging.INFO, "redis_router")
    admin = redis.Redis(port=server.port, decode_responses=True)
    with trouble(server, admin):
        for _ in range(10):
            replica.record_result("openai", success=True, latency_ms=5.0)
        eventually(lambda: not replica.redis_up, "the replica noticed")
        assert replica.select_provider("m") is OPENAI
        with suppress(RouterError):
            replica._engine.mirror.refresh()
        assert not replica.redis_up
    assert replica.flush(10)
    assert replica.get_health_status()["openai"].consecutive_successes == 10
    assert metric(replica._registry, "results_dropped_total", reason="refused") == 0
    edges = eventually(lambda: len(edges := touches(caplog)) >= 2 and edges)
    assert ["out of" in edge for edge in edges] == [True, False], edges
    admin.close()


def test_a_script_cache_that_was_flushed(server, replica):
    """No trouble at all."""
    for number in range(1, 4):
        replica._client.script_flush()
        replica.record_result("openai", success=True, latency_ms=5.0)
        assert replica.flush()
        assert replica.get_health_status()["openai"].consecutive_successes == number
    assert replica.redis_up


class TestAlone:
    """What a replica decides while it is cut off holds for it alone, and is forgotten when it is back."""

    def test_opens_half_opens_and_closes_for_itself(self, server, proxy, beyond, caplog):
        """By the same rules, within the same limit of trial calls; afterwards Redis's word counts."""
        caplog.set_level(logging.INFO, "redis_router")
        proxy.go_deaf()
        eventually(lambda: not beyond.redis_up, "the replica noticed")
        fail(beyond)
        until(beyond, "open")
        with pytest.raises(NoProviderAvailable) as caught:
            beyond.select_provider("m")
        assert 0.0 < caught.value.retry_after <= 0.3
        until(beyond, "half_open")
        first = eventually(lambda: tried(beyond), "the first trial call")
        with first, beyond.attempt("m") as second:
            assert first.permit != second.permit
            with pytest.raises(NoProviderAvailable, match="trial calls are taken"):
                beyond.attempt("m")
        until(beyond, "closed")
        changes = {("closed", "open"), ("open", "half_open"), ("half_open", "closed")}
        for before, after in changes:
            labels = {"provider": "openai", "from_state": before, "to_state": after}
            assert metric(beyond._registry, "local_state_changes_total", **labels) == 1
            assert metric(beyond._registry, "circuit_state_changes_total", **labels) == 0
        fail(beyond)
        until(beyond, "open")
        proxy.hear()
        eventually(lambda: beyond.redis_up, "the replica is back")
        assert beyond.flush()
        record = Store(connect(server.url), "rr", "test").snapshot().records["openai"]
        assert beyond.get_health_status()["openai"] == record
        assert record.generation < 10
        assert ["out of" in edge for edge in touches(caplog)] == [True, False]

    def test_the_failures_that_tell_of_the_outage_count(self, proxy, beyond):
        """They are on their way when Redis goes: the local breaker begins with them."""
        proxy.go_deaf()
        fail(beyond)
        until(beyond, "open")
        assert not beyond.redis_up

    def test_closing_leaves_no_thread(self, server, proxy, beyond):
        """Whether Redis is gone or hangs."""
        proxy.go_deaf()
        eventually(lambda: not beyond.redis_up)
        beyond.record_result("openai", success=True, latency_ms=5.0)
        beyond.close(1.5)
        threads = (beyond._engine._decider, beyond._engine._talker, beyond._engine.mirror.thread)
        assert not any(thread.is_alive for thread in threads)
        assert not beyond.redis_up

    def test_a_half_opened_circuit_goes_on_alone(self, server, proxy, beyond):
        """An open circuit that the fleet knew keeps its time, and its trials are bounded."""
        fail(beyond)
        assert beyond.flush()
        proxy.go_deaf()
        eventually(lambda: not beyond.redis_up)
        until(beyond, "half_open")
        attempt = eventually(lambda: tried(beyond))
        assert attempt.permit
        with pytest.raises(OSError, match="still down"), attempt:
            raise OSError("still down")
        until(beyond, "open")

    def test_what_still_fails_opens_for_the_fleet_afterwards(self, server, proxy, beyond):
        """Failures from before the return are delivered while they are young, new ones as ever."""
        proxy.go_deaf()
        eventually(lambda: not beyond.redis_up)
        fail(beyond, 2)
        proxy.hear()
        eventually(lambda: beyond.redis_up)
        fail(beyond, 1)
        store = Store(connect(server.url), "rr", "test")
        eventually(lambda: store.snapshot().records["openai"].circuit_state == "open", "open for the fleet")

    def test_results_that_grew_old_are_dropped_and_counted(self, proxy):
        """What was true long ago must not move today's averages."""
        registry = CollectorRegistry()
        with Router(proxy.url, circuit=QUICK, registry=registry, result_ttl=0.2) as replica:
            replica.register_provider(OPENAI)
            assert replica.flush()
            proxy.go_deaf()
            eventually(lambda: not replica.redis_up)
            for _ in range(10):
                replica.record_result("openai", success=True, latency_ms=5.0)
            eventually(lambda: metric(registry, "results_dropped_total", reason="expired") == 10)
            proxy.hear()
            eventually(lambda: replica.redis_up)
            replica.record_result("openai", success=True, latency_ms=5.0)
            assert replica.flush()
            assert replica.get_health_status()["openai"].consecutive_successes == 1

    def test_a_provider_registered_meanwhile_is_routed_to(self, proxy, beyond):
        """With the thresholds given here; its record is joined afterwards."""
        proxy.go_deaf()
        eventually(lambda: not beyond.redis_up)
        beyond.register_provider(Provider("late", ("n",)))
        assert beyond.select_provider("n").name == "late"
        for _ in range(3):
            beyond.record_result("late", success=False, latency_ms=5.0)
        eventually(lambda: beyond.get_circuit_state("late") == "open")
        proxy.hear()
        eventually(lambda: beyond.redis_up)
        assert beyond.flush()
        assert "late" in beyond._engine.store.snapshot().records


class TestExactlyOnce:
    """A connection may break at any moment: each result counts once."""

    def test_a_reply_that_is_lost(self, server, proxy, beyond):
        """The batch is sent again under its number: one opening, counted once."""
        proxy.lose_the_reply_to(b"failure")
        fail(beyond)
        assert beyond.flush(10)
        assert proxy.lost == 1
        record = Store(connect(server.url), "rr", "test").snapshot().records["openai"]
        assert (record.consecutive_failures, record.generation) == (3, 2)
        labels = {"provider": "openai", "from_state": "closed", "to_state": "open"}
        assert metric(beyond._registry, "circuit_state_changes_total", **labels) == 1

    def test_a_permit_whose_reply_is_lost(self, server, proxy, beyond):
        """It is asked for again under the same token: granted once, and the other one stays for the fleet."""
        fail(beyond)
        assert beyond.flush()
        proxy.lose_the_reply_to(b":permits")
        store = Store(connect(server.url), "rr", "test")
        eventually(lambda: store.half_open("openai").transitions, "the circuit is half-open")
        eventually(lambda: any(beyond._engine.permits._in_hand.values()), "a permit is in hand")
        assert proxy.lost == 1
        assert store.client.zcard(store.keys.permits("openai")) == 1
        assert store.claim("openai", ["another"], 1_000)[1] == ["another"]
        assert store.claim("openai", ["a third"], 1_000)[1] == []

    def test_connections_that_are_cut_again_and_again(self, server, proxy, beyond):
        """Under traffic, with a slow line: the totals agree."""
        proxy.delay = 0.005
        for number in range(300):
            beyond.record_result("openai", success=True, latency_ms=5.0)
            if number % 20 == 0:
                proxy.cut()
            time.sleep(0.001)
        assert beyond.flush(20)
        record = Store(connect(server.url), "rr", "test").snapshot().records["openai"]
        assert record.consecutive_successes == 300
        assert metric(beyond._registry, "requests_total", provider="openai", outcome="success") == 300
