"""The store, registering: records are made, joined, restored and taken out. On every backend."""

from dataclasses import replace

from redis_router import CircuitConfig, CircuitState, Probe
from redis_router.store.messages import Spec
from tests.contract.records import CONFIG, OPENAI, opened
from tests.support import recorded, result


class TestRegister:
    def test_writes_a_readable_record(self, backend, redis_client):
        """A new record holds words, plain numbers and the thresholds, in reading order."""
        store = backend.store(now_ms=5)
        store.register(OPENAI, CONFIG)
        raw = redis_client.hgetall(store.keys.health("openai"))
        fields = {
            k if isinstance(k, str) else k.decode(): v if isinstance(v, str) else v.decode() for k, v in raw.items()
        }
        assert list(fields)[:9] == [
            "circuit_state", "open_reason", "last_failure", "available", "unavailable_reason", "latency_ms",
            "failure_rate", "weight", "consecutive_failures",
        ]  # fmt: skip
        assert fields["circuit_state"] == "closed"
        assert fields["available"] == "1"
        assert fields["weight"] == "2"
        assert fields["failure_rate_threshold"] == "0.5"
        assert fields["open_timeout_ms"] == "10000"

    def test_joins_and_never_resets(self, backend):
        """I-8: a second replica gets the record as it stands, an open circuit and its thresholds included."""
        store = backend.store()
        health = opened(store)
        reply = backend.store("late", now_ms=2_000).register(replace(OPENAI, weight=9.0), CircuitConfig())
        assert reply.status == "declined"
        same = {"version": reply.health.version, "declined_settings": reply.health.declined_settings}
        assert reply.health == replace(health, **same)

    def test_restores_a_lost_record_with_its_open_circuit(self, backend, redis_client):
        """I-8: what Redis lost comes back from a replica's copy: state, generation and remaining time."""
        store = backend.store()
        health = opened(store)
        redis_client.delete(store.keys.health("openai"))
        store.now_ms = 2_000
        restored = store.restore(OPENAI, health).health
        assert restored.version > health.version
        assert replace(restored, version=health.version) == health

    def test_the_copy_of_the_higher_generation_wins(self, backend, redis_client):
        """A failover may leave an older record behind: a replica that saw more puts that right, never the reverse."""
        store = backend.store()
        older = store.register(OPENAI, CONFIG).health
        newer = opened(store)
        redis_client.hset(store.keys.health("openai"), mapping=older.to_fields())
        assert store.restore(OPENAI, newer).health.circuit_state is CircuitState.OPEN
        assert store.restore(OPENAI, older).health.circuit_state is CircuitState.OPEN

    def test_of_one_generation_the_newer_copy_wins(self, backend, redis_client):
        """A failover may lose an operator's word; and a record made anew after a loss wins nothing."""
        store = backend.store(now_ms=1)
        store.register(OPENAI, CONFIG)
        before = recorded(store, "openai", 1, result("openai", True)).health
        after = store.update("openai", {"available": "0"}).health
        redis_client.hset(store.keys.health("openai"), mapping=before.to_fields())
        assert store.restore(OPENAI, after).health.unavailable_reason == "operator"
        redis_client.delete(store.keys.health("openai"))
        store.now_ms = 9_000
        made_anew = store.register(OPENAI, CONFIG).health
        assert made_anew.version > after.version
        assert store.restore(OPENAI, after).health.unavailable_reason == "operator"

    def test_a_deregistered_provider_is_not_restored(self, backend):
        """Taken out on purpose is not lost."""
        store = backend.store()
        health = opened(store)
        assert store.deregister("openai") is True
        assert store.restore(OPENAI, health).status == "deregistered"
        snapshot = store.snapshot(["openai"])
        assert (snapshot.records, snapshot.specs, list(snapshot.deregistered)) == ({}, {}, ["openai"])
        assert abs(snapshot.deregistered["openai"] - snapshot.now_ms) < 60_000

    def test_registering_again_undoes_a_deregistration(self, backend):
        """A provider may come back, as new; no replica's copy of the old record outranks the new one."""
        store = backend.store()
        old = opened(store)
        store.deregister("openai")
        new = store.register(OPENAI, CONFIG).health
        assert store.snapshot().specs["openai"].probe == Probe(OPENAI.probe)
        assert new.circuit_state is CircuitState.CLOSED
        assert new.supersedes(old)
        assert store.restore(OPENAI, old).health == new

    def test_a_registration_without_a_probe_leaves_the_probe(self, backend):
        """The spec is shared: who says nothing changes nothing; "none" takes it away."""
        store = backend.store(now_ms=1)
        store.register(OPENAI, CONFIG)
        store.register(replace(OPENAI, probe=None, models=("gpt-5",)), CONFIG)
        assert store.snapshot().specs["openai"] == Spec(("gpt-5",), Probe(OPENAI.probe), "openai")
        store.register(replace(OPENAI, probe="none"), CONFIG)
        assert store.snapshot().specs["openai"].probe is None
