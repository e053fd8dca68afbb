"""A router's life: options, start, close, listeners, its own health checker."""

import asyncio
import math
import threading

import pytest
from prometheus_client import CollectorRegistry

from redis_router import CircuitState, InvalidArgument, RouterError
from redis_router.circuit.record import Transition
from tests.support import eventually, metric
from tests.support.fleet import AZURE, OPENAI, QUICK, fail, until


class TestLife:
    def test_on_transition_is_called_once_each(self, router, circuit):
        """With what changed; a callback that fails disturbs nobody."""
        seen = []

        def listen(change):
            seen.append(change)
            raise RuntimeError("a user's bug")

        replica = router(circuit=circuit, on_transition=listen)
        replica.register_provider(OPENAI)
        replica.start()
        fail(replica, "openai")
        eventually(lambda: seen)
        assert seen == [Transition("openai", CircuitState.CLOSED, CircuitState.OPEN, "consecutive_failures", 2)]

    def test_as_a_context_manager(self, router, backend):
        """Sync and async; threads end, what was recorded is in Redis."""
        before = threading.active_count()
        with router() as replica:
            replica.register_provider(OPENAI)
            replica.record_result("openai", success=True, latency_ms=3.0)
        record = backend.record()
        assert record.consecutive_successes == 1

        async def gateway():
            async with router() as replica:
                replica.register_provider(OPENAI)
                replica.record_result("openai", success=True, latency_ms=3.0)

        asyncio.run(gateway())
        record = backend.record()
        assert record.consecutive_successes == 2
        eventually(lambda: threading.active_count() <= before + 1)  # asyncio's own executor thread may linger

    def test_start_is_once_and_close_is_for_good(self, router):
        """Starting or closing twice is no error; starting a closed router is, and says so."""
        replica = router()
        replica.start()
        replica.start()
        replica.register_provider(OPENAI)
        replica.close()
        replica.close()
        for call in (
            replica.start,
            lambda: replica.register_provider(AZURE),
            lambda: replica.update_health("openai", available=True),
            replica.start_health_checker,
        ):
            with pytest.raises(RouterError, match="closed"):
                call()
        assert replica.select_provider("gpt-4o") is OPENAI

    def test_what_ends_while_it_closes_is_carried(self, router):
        """Handlers of a deploy end while the router is closed; what they record is not left behind."""
        replica = router()
        replica.register_provider(OPENAI)
        replica.start()
        assert replica.flush()
        closing = threading.Thread(target=replica.close)
        recorded = 0
        closing.start()
        while closing.is_alive():
            replica.record_result("openai", success=True, latency_ms=1.0)
            recorded += 1
            closing.join(0.0005)
        dropped = metric(replica, "results_dropped_total", reason="closed")
        assert metric(replica, "requests_total", provider="openai", outcome="success") + dropped == recorded
        assert dropped <= max(20, recorded / 4)

    def test_a_second_close_meanwhile_disturbs_nothing(self, router, caplog):
        """A signal handler's, or of a second owner."""
        for _ in range(3):
            replica = router()
            replica.register_provider(OPENAI)
            replica.start()
            closing = [threading.Thread(target=replica.close, args=(timeout,)) for timeout in (2.0, 0.0, 2.0)]
            for thread in closing:
                thread.start()
            for thread in closing:
                thread.join()
        assert [each.getMessage() for each in caplog.records if each.levelname == "ERROR"] == []

    def test_flush_without_start_is_false(self, router):
        """Nothing carries results, and the caller is told."""
        assert router().flush(0.01) is False

    def test_redis_up(self, pair):
        """Seen and measured."""
        assert all(replica.redis_up for replica in pair)
        assert metric(pair[0], "redis_up") == 1

    def test_routers_of_one_registry_are_told_together(self, router):
        """Up while all are, results pending summed; a closed one counts no more."""
        registry = CollectorRegistry()
        up, idle = (router(registry=registry) for _ in range(2))
        for replica in (up, idle):
            replica.register_provider(OPENAI)
            replica.record_result("openai", success=True, latency_ms=1.0)
        assert metric(registry, "results_pending") == 2
        up.start()
        assert up.flush()
        assert (metric(registry, "results_pending"), metric(registry, "redis_up")) == (1, 0)
        idle.close()
        assert metric(registry, "redis_up") == 1
        up.close()
        assert metric(registry, "redis_up") == 0

    def test_a_health_checker_inside_a_replica(self, fleet, backend):
        """The same worker, in the same election; stopping frees the lease."""
        first, second = fleet(circuit=QUICK)
        first.start_health_checker(0.05, lease=1.0)
        first.start_health_checker(0.05, lease=1.0)
        eventually(lambda: backend.looking.leader()[1], "it leads")
        fail(second, "openai")
        until(second, "openai", "half_open")
        first.stop_health_checker()
        first.stop_health_checker()
        assert backend.looking.leader()[1].remaining_ms <= 0


@pytest.mark.parametrize(
    "options",
    [
        {"namespace": ""}, {"namespace": "a{b}"}, {"namespace": None}, {"replica": "a b"}, {"circuit": {}},
        {"strategy": "best"}, {"flush_interval": 0}, {"push_interval": math.nan}, {"refresh_interval": -1},
        {"permit_ttl": "5"}, {"safety_net_after": None}, {"buffer_limit": 0}, {"buffer_limit": 1.5},
        {"on_transition": 5},
    ],
)  # fmt: skip
def test_bad_options_are_refused(router, options):
    """Each by name."""
    with pytest.raises(InvalidArgument):
        router(**options)
