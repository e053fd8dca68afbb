"""The store, settings: what operators and probes write, and what a hand writes. On every backend."""

import pytest

from redis_router import CircuitConfig, CircuitState, Provider, RedisRefused
from tests.contract.records import CONFIG, OPENAI, half_opened, opened
from tests.support import recorded, result


class TestUpdate:
    def test_an_operators_word_outlives_the_circuit_and_the_probes(self, backend):
        """Taken out of service, it stays out until the operator says otherwise."""
        store = backend.store()
        health = half_opened(store)
        store.update("openai", {"available": "0"})
        store.update("openai", {"available": "1"}, source="probe", epoch=1)
        reply = recorded(store, "openai", 2, *[result("openai", True, health.generation)] * 2)
        assert (reply.health.circuit_state, reply.health.unavailable_reason) == ("closed", "operator")
        assert store.update("openai", {"available": "1"}).health.available is True

    def test_a_probe_marks_and_unmarks(self, backend):
        """Its own mark only: what the circuit made unavailable is the circuit's to undo."""
        store = backend.store(now_ms=1)
        store.register(OPENAI, CONFIG)
        marked = store.update("openai", {"available": "0"}, source="probe", epoch=1).health
        assert (marked.available, marked.unavailable_reason) == (False, "probe")
        assert store.update("openai", {"available": "1"}, source="probe", epoch=1).health.available is True
        opened(store, at=2_000)
        assert (
            store.update("openai", {"available": "1"}, source="probe", epoch=1).health.unavailable_reason == "circuit"
        )

    def test_thresholds_change_at_once_and_are_logged(self, backend, redis_client):
        """The next result is judged by the new ones; the log says who changed what."""
        store = backend.store(now_ms=1)
        store.register(OPENAI, CONFIG)
        store.update("openai", CircuitConfig(consecutive_failure_limit=1).to_fields())
        assert recorded(store, "openai", 1, result("openai", False)).health.circuit_state is CircuitState.OPEN
        log = redis_client.xrange(store.keys.events("openai"))
        assert f"consecutive_failure_limit {CONFIG.consecutive_failure_limit}>1" in str(log)


class TestWrittenByHand:
    """An operator with redis-cli writes numbers in many ways."""

    @pytest.mark.parametrize("text", ["60000.0", "6e4"])
    def test_a_number_counts_however_it_is_spelled(self, backend, text, redis_client):
        """As Lua reads it, so do we: a batch is applied, and its reply is understood."""
        store = backend.store()
        store.register(Provider("p", ("m",)), CircuitConfig())
        redis_client.hset(store.keys.health("p"), "open_timeout_ms", text)
        reply = recorded(store, "p", 1, *[result("p", False)] * 5)
        assert [str(change.to_state) for change in reply.transitions] == ["open"]
        assert reply.health.config.open_timeout == 60.0

    def test_a_part_of_a_generation_is_none(self, backend, redis_client):
        """Scripts would take every result for a late one, and nobody would say so."""
        store = backend.store()
        store.register(Provider("p", ("m",)), CircuitConfig())
        redis_client.hset(store.keys.health("p"), "generation", "1.5")
        assert "1.5 is no whole number" in str(store.snapshot().unreadable["p"])

    def test_what_is_no_number_is_refused_before_anything_is_written(self, backend, redis_client):
        """By name, and with the value."""
        store = backend.store()
        store.register(Provider("p", ("m",)), CircuitConfig())
        redis_client.hset(store.keys.health("p"), "open_timeout_ms", "soon")
        with pytest.raises(RedisRefused, match="open_timeout_ms is no number from 0 up: soon"):
            recorded(store, "p", 1, *[result("p", False)] * 5)
        state, failures = redis_client.hmget(store.keys.health("p"), "circuit_state", "consecutive_failures")
        assert (as_text(state), as_text(failures)) == ("closed", "0")

    @pytest.mark.parametrize("word", ["nan", "0x10", "inf"])
    def test_a_word_that_looks_like_a_number_stays_a_word(self, backend, word, redis_client):
        """And an update that changes nothing writes nothing."""
        store = backend.store()
        store.register(Provider("p", ("m",)), CircuitConfig())
        redis_client.hset(store.keys.health("p"), "open_reason", word)
        first = store.update("p", {"weight": "2"})
        again = store.update("p", {"weight": "2"})
        assert first.health.open_reason == again.health.open_reason == word
        assert first.health.version == again.health.version


def as_text(value):
    return value.decode() if isinstance(value, bytes) else value
