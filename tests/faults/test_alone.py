"""What a replica decides while it is cut off holds for it alone, and is forgotten when it is back."""

import logging

import pytest
from prometheus_client import CollectorRegistry

from redis_router import (
    NoProviderAvailable,
    Provider,
    Router,
)
from redis_router.store.connect import connect
from redis_router.store.redis import RedisStore
from tests.faults.away import OPENAI, QUICK, fail, touches, until
from tests.support import eventually, metric
from tests.support.fleet import chosen, threads_of_ours


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
        first = eventually(lambda: chosen(beyond, "m"), "the first trial call")
        with first, beyond.attempt("m") as second:
            assert first.permit != second.permit
            with pytest.raises(NoProviderAvailable, match="trial calls are taken"):
                beyond.attempt("m")
        until(beyond, "closed")
        changes = {("closed", "open"), ("open", "half_open"), ("half_open", "closed")}
        for before, after in changes:
            labels = {"provider": "openai", "from_state": before, "to_state": after}
            assert metric(beyond, "local_state_changes_total", **labels) == 1
            assert metric(beyond, "circuit_state_changes_total", **labels) == 0
        fail(beyond)
        until(beyond, "open")
        proxy.hear()
        eventually(lambda: beyond.redis_up, "the replica is back")
        assert beyond.flush()
        record = RedisStore(connect(server.url), "rr", "test").snapshot().records["openai"]
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
        eventually(lambda: not threads_of_ours(), "they ended")
        assert not beyond.redis_up

    def test_a_half_opened_circuit_goes_on_alone(self, server, proxy, beyond):
        """An open circuit that the fleet knew keeps its time, and its trials are bounded."""
        fail(beyond)
        assert beyond.flush()
        proxy.go_deaf()
        eventually(lambda: not beyond.redis_up)
        until(beyond, "half_open")
        attempt = eventually(lambda: chosen(beyond, "m"))
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
        store = RedisStore(connect(server.url), "rr", "test")
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

    def test_a_provider_registered_meanwhile_is_routed_to(self, server, proxy, beyond):
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
        assert "late" in RedisStore(connect(server.url), "rr", "test").snapshot().records
