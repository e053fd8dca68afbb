"""The store, results: what a batch does to a record, once. On every backend."""

from redis_router import CircuitConfig, CircuitState, Provider, RedisRefused
from redis_router.store.redis import Batch
from tests.contract.records import CONFIG, OPENAI, half_opened, opened
from tests.support import recorded, result


class TestRecord:
    def test_opens_at_the_limit_and_names_the_rule(self, backend):
        """I-1: the third failure in a row opens, the reply says so once, with the generation."""
        store = backend.store(now_ms=1_000)
        store.register(OPENAI, CONFIG)
        reply = recorded(store, "openai", 1, result("openai", False), result("openai", False))
        assert reply.transitions == ()
        reply = recorded(store, "openai", 2, result("openai", False))
        (change,) = reply.transitions
        assert (change.from_state, change.to_state, change.reason, change.generation) == (
            "closed", "open", "consecutive_failures", 2,
        )  # fmt: skip
        assert reply.health.unavailable_reason == "circuit"
        assert reply.health.last_state_change_ms == 1_000

    def test_opens_by_rate_and_names_that(self, backend):
        """I-1: a rate above the threshold opens too."""
        store = backend.store(now_ms=1)
        store.register(OPENAI, CircuitConfig(failure_rate_threshold=0.15, consecutive_failure_limit=99))
        reply = recorded(store, "openai", 1, result("openai", False), result("openai", False))
        assert reply.health.open_reason == "failure_rate"

    def test_a_batch_sent_twice_is_applied_once(self, backend):
        """I-7, I-4: the repeat changes nothing, and tells the same transitions again: its first reply was lost."""
        store = backend.store(now_ms=1_000)
        store.register(OPENAI, CONFIG)
        first = recorded(store, "openai", 1, *[result("openai", False)] * 3)
        again = recorded(store, "openai", 1, *[result("openai", False)] * 3)
        assert (first.status, again.status) == ("ok", "replayed")
        assert again.transitions == first.transitions != ()
        assert again.health == first.health

    def test_an_older_batch_is_not_applied_either(self, backend):
        """I-7: a delayed duplicate of a batch before the last changes and tells nothing."""
        store = backend.store(now_ms=1_000)
        store.register(OPENAI, CONFIG)
        for seq in (1, 2):
            last = recorded(store, "openai", seq, result("openai", False))
        late = recorded(store, "openai", 1, result("openai", False))
        assert (late.status, late.transitions, late.health) == ("replayed", (), last.health)

    def test_writers_count_for_themselves(self, backend):
        """I-7: two replicas' first batches are two batches, even of one that starts again under its old name."""
        backend.store(now_ms=1).register(OPENAI, CONFIG)
        for writer in ("a", "b", "b"):
            reply = recorded(backend.store(writer, now_ms=1), "openai", 1, result("openai", True))
        assert reply.health.consecutive_successes == 3

    def test_a_late_result_moves_the_averages_never_the_circuit(self, backend):
        """I-5: a failure of a call that began before the transition does not re-open a half-open circuit."""
        store = backend.store()
        health = half_opened(store)
        reply = recorded(store, "openai", 2, result("openai", False, generation=health.generation - 2))
        assert reply.health.circuit_state is CircuitState.HALF_OPEN
        assert reply.health.failure_rate > health.failure_rate

    def test_results_in_open_move_the_averages_only(self, backend):
        """I-1: no result closes or re-opens an open circuit, of whatever generation."""
        store = backend.store()
        health = opened(store)
        reply = recorded(store, "openai", 2, result("openai", True, health.generation, latency_ms=500.0))
        assert reply.health.circuit_state is CircuitState.OPEN
        assert reply.health.latency_ms > health.latency_ms
        assert reply.health.consecutive_successes == 0

    def test_without_a_record_nothing_is_applied(self, backend):
        """The reply says so, and the same batch counts once the record is back."""
        store = backend.store(now_ms=1)
        assert recorded(store, "openai", 1, result("openai", False)).status == "missing"
        store.register(OPENAI, CONFIG)
        assert recorded(store, "openai", 1, result("openai", False)).health.consecutive_failures == 1

    def test_one_bad_record_does_not_hurt_the_others(self, backend, redis_client):
        """A key of another type refuses its own batch; the batches beside it are applied."""
        store = backend.store(now_ms=1)
        store.register(OPENAI, CONFIG)
        redis_client.set(store.keys.health("other"), "not a hash")
        bad, good = store.record(
            [Batch("other", 1, [result("other", True)]), Batch("openai", 1, [result("openai", True)])]
        )
        assert isinstance(bad, RedisRefused)
        assert good.status == "ok"

    def test_survives_a_flushed_script_cache(self, backend, redis_client):
        """NOSCRIPT is answered by sending the script again, in a call and in a pipeline."""
        store = backend.store(now_ms=1)
        store.register(OPENAI, CONFIG)
        redis_client.script_flush()
        assert recorded(store, "openai", 1, result("openai", True)).status == "ok"
        redis_client.script_flush()
        assert store.claim("openai", ["t"], 1_000) == (1, [])

    def test_the_record_stays_small(self, real):
        """The hash stays a listpack: the cheapest form Redis has."""
        store = real.store()
        store.register(Provider("p" * 64, ("m",)), CONFIG)
        recorded(store, "p" * 64, 1, *[result("p" * 64, False, latency_ms=12345.678901234567)] * 30)
        encoding = real.client().object("encoding", store.keys.health("p" * 64))
        assert encoding in ("listpack", b"listpack")
