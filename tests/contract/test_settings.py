"""Thresholds, weights and providers that change while the fleet runs."""

import dataclasses
import math

import pytest

from redis_router import CircuitConfig, InvalidArgument, Provider, ProviderHealth
from tests.support import eventually, metric
from tests.support.fleet import (
    AZURE,
    OPENAI,
    QUICK,
    fail,
    refresh,
    series_of,
    until,
)


class TestSettings:
    def test_set_circuit_config_holds_for_the_fleet(self, pair, circuit):
        """At once in Redis, by push everywhere; the next failure is judged by it."""
        first, second = pair
        first.set_circuit_config(dataclasses.replace(circuit, consecutive_failure_limit=1), "openai")
        eventually(lambda: second.get_health_status()["openai"].config.consecutive_failure_limit == 1)
        fail(second, "openai", 1)
        until(second, "openai", "open")
        assert first.get_health_status()["azure"].config == circuit
        first.set_circuit_config(CircuitConfig())
        assert {health.config for health in first.get_health_status().values()} == {CircuitConfig()}

    def test_update_health_holds_for_the_fleet(self, pair):
        """Out of service, back in, and another weight."""
        first, second = pair
        first.update_health("openai", available=False)
        eventually(lambda: not second.get_health_status()["openai"].available)
        assert second.select_provider("gpt-4o") == AZURE
        second.update_health("openai", available=True, weight=7)
        eventually(lambda: first.get_health_status()["openai"].weight == 7.0)
        assert first.get_health_status()["openai"].available

    @pytest.mark.parametrize(
        "call",
        [
            lambda r: r.update_health("openai"),
            lambda r: r.update_health("openai", weight=math.nan),
            lambda r: r.update_health("openai", available="no"),
            lambda r: r.set_circuit_config({"open_timeout": 1}),
            lambda r: r.register_provider("openai"),
        ],
    )
    def test_bad_settings_are_refused(self, pair, call):
        """Before anything is stored."""
        before = pair[0].get_health_status()
        with pytest.raises(InvalidArgument):
            call(pair[0])
        assert pair[0].get_health_status() == before

    def test_health_status_leaves_nothing_out(self, pair):
        """All fields of all providers, the reason included."""
        fail(pair[0], "openai")
        status = pair[0].get_health_status()
        assert isinstance(status["openai"], ProviderHealth)
        assert status["openai"].open_reason == "consecutive_failures"
        assert status["openai"].last_state_change_ms > 0

    def test_deregister_here(self, pair):
        """This replica stops; results of calls still under way are counted as dropped; the other goes on."""
        first, second = pair
        first.deregister_provider("openai")
        assert set(first.get_health_status()) == {"azure"}
        first.record_result("openai", success=True, latency_ms=1.0)
        assert metric(first, "results_dropped_total", reason="deregistered") == 1
        assert second.get_circuit_state("openai") == "closed"

    def test_deregister_everywhere(self, pair, backend, redis_client):
        """The record goes, every replica drops the provider, and nobody restores it."""
        first, second = pair
        second.record_result("openai", success=True, latency_ms=1.0)
        first.deregister_provider("openai", everywhere=True)
        eventually(lambda: set(second.get_health_status()) == {"azure"})
        refresh(second)
        second.flush()
        assert not redis_client.exists(backend.keys.health("openai"))
        second.record_result("openai", success=True, latency_ms=1.0)
        assert metric(second, "results_dropped_total", reason="deregistered") >= 1

    def test_deregistered_and_registered_again(self, pair):
        """The news of the first does not undo the second, and the new record is a new one everywhere."""
        first, second = pair
        fail(first, "openai")
        until(second, "openai", "open")
        first.deregister_provider("openai", everywhere=True)
        first.register_provider(OPENAI)
        assert first.flush()
        second.register_provider(OPENAI)
        assert second.flush()
        for replica in pair:
            refresh(replica)
            assert replica.get_circuit_state("openai") == "closed"

    def test_many_results_of_a_provider_that_is_gone(self, pair):
        """All are counted as dropped, and nothing waits for ever."""
        for _ in range(350):
            pair[0].record_result("openai", success=True, latency_ms=1.0)
        pair[1].deregister_provider("openai", everywhere=True)
        assert pair[0].flush()
        assert metric(pair[0], "results_pending") == 0

    def test_news_of_a_provider_that_was_removed_here(self, pair):
        """A record that arrives late brings nothing back."""
        first, second = pair
        first.deregister_provider("openai")
        fail(second, "openai")
        second.update_health("azure", weight=5.0)
        eventually(lambda: first.get_health_status()["azure"].weight == 5.0, "what was pushed later arrived")
        assert first.get_health_status().keys() == {"azure"}
        assert first.flush()
        eventually(lambda: not series_of(first, "openai"), "it shows in no metric")

    def test_before_start_settings_are_the_ones_new_records_get(self, router):
        """There is nothing in Redis to change yet."""
        replica = router()
        replica.register_provider(OPENAI)
        replica.set_circuit_config(QUICK)
        replica.start()
        assert replica.get_health_status()["openai"].config == QUICK

    def test_a_provider_may_be_registered_while_running(self, pair, backend):
        """It can be selected at once; its record is joined in the background."""
        pair[0].register_provider(Provider("new", ("m",)))
        assert pair[0].select_provider("m").name == "new"
        assert pair[0].flush()
        assert "new" in backend.looking.snapshot().records

    def test_other_settings_than_the_records_are_named(self, pair, router, caplog, circuit):
        """I-8: the record wins, and the log says how to change it."""
        late = router(circuit=CircuitConfig())
        late.register_provider(OPENAI)
        late.start()
        assert "set_circuit_config" in caplog.text
        assert late.get_health_status()["openai"].config == circuit
