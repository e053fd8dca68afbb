"""A connection may break at any moment: each result counts once."""

import time

from redis_router.store.connect import connect
from redis_router.store.redis import RedisStore
from tests.faults.away import fail
from tests.support import eventually, metric


class TestExactlyOnce:
    """A connection may break at any moment: each result counts once."""

    def test_a_reply_that_is_lost(self, server, proxy, beyond):
        """The batch is sent again under its number: one opening, counted once."""
        proxy.lose_the_reply_to(b"failure")
        fail(beyond)
        assert beyond.flush(10)
        assert proxy.lost == 1
        record = RedisStore(connect(server.url), "rr", "test").snapshot().records["openai"]
        assert (record.consecutive_failures, record.generation) == (3, 2)
        labels = {"provider": "openai", "from_state": "closed", "to_state": "open"}
        assert metric(beyond, "circuit_state_changes_total", **labels) == 1

    def test_a_permit_whose_reply_is_lost(self, server, proxy, beyond):
        """It is asked for again under the same token: granted once, and the other one stays for the fleet."""
        fail(beyond)
        assert beyond.flush()
        proxy.lose_the_reply_to(b":permits")
        store = RedisStore(connect(server.url), "rr", "test")
        eventually(lambda: store.half_open("openai").transitions, "the circuit is half-open")
        eventually(lambda: metric(beyond, "half_open_permits_total", provider="openai") == 1, "a permit was granted")
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
            time.sleep(0.001)  # traffic, not one burst
        assert beyond.flush(20)
        record = RedisStore(connect(server.url), "rr", "test").snapshot().records["openai"]
        assert record.consecutive_successes == 300
        assert metric(beyond, "requests_total", provider="openai", outcome="success") == 300
