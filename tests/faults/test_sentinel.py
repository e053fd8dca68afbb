"""A master behind sentinels dies, freezes, is replaced: callers never notice, and the fleet's word survives."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from redis_router import CircuitConfig, Provider
from redis_router.store.connect import connect
from redis_router.store.redis import RedisStore
from tests.support import eventually, metric
from tests.support.fleet import new_router
from tests.support.servers import sentinels, wait_replicated

PROVIDERS = [Provider("openai", ("m",)), Provider("azure", ("m",))]
CONFIG = CircuitConfig(consecutive_failure_limit=3, open_timeout=60)
PATIENT = {"result_ttl": 60, "buffer_limit": 1_000_000}


@pytest.fixture
def behind():
    with sentinels() as servers:
        yield servers


@pytest.fixture
def fleet(behind):
    """Two replicas that know the sentinels alone."""
    with (
        new_router(behind.url, circuit=CONFIG, **PATIENT) as first,
        new_router(behind.url, circuit=CONFIG, **PATIENT) as second,
    ):
        for replica in (first, second):
            for provider in PROVIDERS:
                replica.register_provider(provider)
            assert replica.flush()
        yield first, second


def traffic(replica, seconds, until=lambda: False):
    """Successes at azure, one a millisecond or so; how many."""
    sent, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline and not until():
        assert replica.select_provider("m")
        replica.record_result("azure", success=True, latency_ms=5.0)
        sent += 1
        time.sleep(0.001)  # a steady rate, not one burst
    return sent


def test_a_late_answer_is_nobodys(behind, monkeypatch):
    """It comes when the master thaws: the next command on that connection must not take it for its own."""
    with connect(behind.url) as client, ThreadPoolExecutor() as pool:
        assert client.echo("warm") == "warm"
        behind.master.process.send_signal(signal.SIGSTOP)
        with pytest.raises(redis.RedisError):
            client.echo("first")
        sent = threading.Event()
        send = redis.Connection.send_packed_command

        def sends(connection, *args, **options):
            send(connection, *args, **options)
            if connection.port == behind.master.port:
                sent.set()

        monkeypatch.setattr(redis.Connection, "send_packed_command", sends)
        second = pool.submit(client.echo, "second")
        assert sent.wait(10), "it, or the greeting of a new connection, is on its way"
        behind.master.process.send_signal(signal.SIGCONT)
        assert second.result(10) == "second"
        assert client.echo("third") == "third"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_master_that_dies_or_freezes(behind, fleet, how):
    """Results wait, the replica becomes master, each result counts once; the open circuit stays open."""
    first, second = fleet
    for _ in range(3):
        first.record_result("openai", success=False, latency_ms=5.0)
    assert first.flush()
    sent = traffic(first, 0.5)
    assert first.flush()
    wait_replicated((behind.master.port, behind.replica.port))
    behind.master.process.send_signal(how)
    sent += traffic(first, 30, until=lambda: behind.master_port() == behind.replica.port)
    sent += traffic(first, 30, until=lambda: first.redis_up and second.redis_up)
    behind.master.process.send_signal(signal.SIGCONT)
    sent += traffic(first, 0.3)
    assert first.flush(10)
    assert second.flush(10)
    record = RedisStore(connect(behind.url), "rr", "test").snapshot().records
    assert (record["openai"].circuit_state, record["openai"].generation) == ("open", 2)
    assert record["azure"].consecutive_successes == sent
    assert metric(first, "requests_total", provider="azure", outcome="success") == sent
    assert second.get_circuit_state("openai") == "open"
    second.update_health("azure", available=False)
    eventually(lambda: not first.get_health_status()["azure"].available, "a push arrives from the new master")


def test_a_failover_that_loses_writes(behind, fleet):
    """Replication is asynchronous: what the new master lacks of transitions and settings, the replicas put back."""
    first, second = fleet
    wait_replicated((behind.master.port, behind.replica.port))
    with redis.Redis(port=behind.replica.port) as cut_off:
        cut_off.execute_command("REPLICAOF", "127.0.0.1", 1)  # it hears no more
    for _ in range(3):
        first.record_result("openai", success=False, latency_ms=5.0)
    assert first.flush()
    eventually(lambda: second.get_circuit_state("openai") == "open")
    behind.master.process.send_signal(signal.SIGKILL)
    with redis.Redis(port=behind.replica.port) as cut_off:
        eventually(lambda: cut_off.info("replication")["role"] == "master", "it is the master now", 40)
    eventually(lambda: first.redis_up and second.redis_up, "both are back", 40)
    store = RedisStore(connect(behind.url), "rr", "test")
    eventually(lambda: store.snapshot().records["openai"].circuit_state == "open", "it is open again")
    assert store.snapshot().records["openai"].generation == 2
    for replica in fleet:
        assert replica.flush(10)
        assert replica.get_circuit_state("openai") == "open"
