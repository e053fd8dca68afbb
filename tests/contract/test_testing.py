"""`redis_router.testing` on every backend: circuits in the state that a test needs, and what was recorded."""

import pytest

from redis_router import NoProviderAvailable, RedisRefused, RouterError, UnknownProvider
from redis_router.testing import close_circuit, half_open_circuit, open_circuit, recorded, wait_until
from tests.contract.test_circuit_per_model import BOTH
from tests.support.fleet import AZURE, OPENAI, fail


class TestCircuits:
    def test_open_for_the_whole_fleet(self, pair):
        """At once for this router; the other one hears of it."""
        first, second = pair
        open_circuit(first, "openai")
        assert first.get_circuit_state("openai") == "open"
        assert first.select_provider("gpt-4o") is AZURE
        record = wait_until(second, "openai", "open")
        assert (record.open_reason, record.available, record.generation) == ("consecutive_failures", False, 2)
        assert (record.failure_rate, record.consecutive_failures) == (0.0, 0)

    def test_closed_again(self, pair):
        """Whatever opened it."""
        first, second = pair
        fail(first, "openai")
        wait_until(second, "openai", "open")
        close_circuit(second, "openai")
        record = wait_until(first, "openai", "closed")
        assert (record.available, record.failure_rate, record.consecutive_failures) == (True, 0.0, 0)

    def test_a_record_that_a_fixture_emptied_is_put_back(self, pair, backend, redis_client):
        """FLUSHALL between tests is common."""
        replica, _ = pair
        redis_client.delete(backend.store().keys.health("openai"))
        open_circuit(replica, "openai")
        assert replica.get_circuit_state("openai") == "open"
        assert backend.record().circuit_state == "open"

    def test_a_record_that_cannot_be_read_is_named(self, pair, backend, redis_client):
        """Rather than to do nothing."""
        redis_client.hset(backend.store().keys.health("openai"), "circuit_state", "foo")
        with pytest.raises(RedisRefused, match="foo"):
            open_circuit(pair[0], "openai")

    @pytest.mark.parametrize("begin", [open_circuit, close_circuit])
    def test_half_open_takes_trial_calls_that_close_it(self, alone_on_openai, begin):
        """As after its `open_timeout`."""
        replica = alone_on_openai()
        begin(replica, "openai")
        half_open_circuit(replica, "openai")
        while replica.get_circuit_state("openai") == "half_open":
            try:
                with replica.attempt("gpt-4o") as attempt:
                    assert attempt.permit is not None
            except NoProviderAvailable:
                pass
            replica.flush()
        assert replica.get_health_status()["openai"].available
        assert replica.get_circuit_state("openai") == "closed"

    def test_what_is_so_already_is_left(self, alone_on_openai, backend):
        """No transition."""
        replica = alone_on_openai()
        close_circuit(replica, "openai")
        assert backend.record().generation == 1

    def test_one_model_or_all(self, router):
        """Of a provider with a circuit for each."""
        replica = router()
        replica.register_provider(BOTH)
        replica.start()
        open_circuit(replica, "openai", model="gpt-4o")
        assert [replica.get_circuit_state("openai", model) for model in BOTH.models] == ["open", "closed"]
        open_circuit(replica, "openai")
        assert [replica.get_circuit_state("openai", model) for model in BOTH.models] == ["open", "open"]

    def test_mistakes_are_named(self, router):
        """An unknown name, and a router that was not started."""
        replica = router()
        replica.register_provider(OPENAI)
        with pytest.raises(RouterError, match="started"):
            open_circuit(replica, "openai")
        replica.start()
        with pytest.raises(UnknownProvider, match="opnai"):
            open_circuit(replica, "opnai")

    def test_waiting_ends(self, alone_on_openai):
        """It says what it saw."""
        with pytest.raises(AssertionError, match=r"'openai' is closed after 0\.01 s, not open"):
            wait_until(alone_on_openai(), "openai", "open", timeout=0.01)


class TestRecorded:
    def test_by_provider_and_outcome(self, pair):
        """What the block recorded, and nothing from before."""
        first, _ = pair
        first.record_result("openai", success=True, latency_ms=1.0)
        with recorded(first) as outcomes:
            first.record_result("openai", success=False, latency_ms=1.0)
            first.record_result("openai", success=False, latency_ms=1.0)
            first.record_result("azure", outcome="rate_limited")
        assert outcomes == {("openai", "failure"): 2, ("azure", "rate_limited"): 1}

    def test_a_router_that_was_not_started_counts_nothing(self, router):
        """And says so."""
        with pytest.raises(RouterError, match="started"), recorded(router()):
            pass
