"""The store, half-open: permits over the whole fleet, and the transition at its time. On every backend."""

from dataclasses import replace

import pytest
import redis

from redis_router import Outcome, RedisUnavailable
from redis_router.circuit.outcome import Result
from tests.contract.records import CONFIG, OPENAI, half_opened, opened
from tests.support import recorded, result


def lose_one_reply(store):
    """The next command is carried out, and its reply lost."""
    execute = store.client.execute_command

    def once(*args, **options):
        execute(*args, **options)
        store.client.execute_command = execute
        raise redis.TimeoutError

    store.client.execute_command = once


class TestClaim:
    def test_grants_up_to_the_limit_over_all_replicas(self, backend):
        """I-6: two permits, whoever asks."""
        store = backend.store()
        health = half_opened(store)
        assert store.claim("openai", ["a:1"], 5_000) == (health.generation, ["a:1"])
        assert store.claim("openai", ["b:1", "b:2"], 5_000) == (health.generation, ["b:1"])
        assert store.claim("openai", ["c:1"], 5_000) == (health.generation, [])

    def test_asking_again_grants_nothing_twice(self, backend):
        """I-7: the answer was lost, the claim repeated: one permit is out."""
        store = backend.store()
        half_opened(store)
        for _ in range(3):
            assert store.claim("openai", ["a:1"], 5_000)[1] == ["a:1"]
        assert store.claim("openai", ["b:1", "b:2"], 5_000)[1] == ["b:1"]

    def test_a_clock_that_was_set_back_frees_a_dead_replicas_permits(self, backend):
        """Their end lies hours ahead."""
        store = backend.store()
        half_opened(store)
        store.now_ms = 10_000_000
        assert len(store.claim("openai", ["a:1", "a:2"], 5_000)[1]) == 2
        store.now_ms = 1_000
        assert store.claim("openai", ["b:1"], 5_000)[1] == ["b:1"]

    def test_an_outcome_returns_its_permit(self, backend):
        """I-6: the place is free as soon as the result is in, an ignored one included."""
        store = backend.store()
        health = half_opened(store)
        store.claim("openai", ["a:1", "a:2"], 5_000)
        recorded(store, "openai", 2, result("openai", True, health.generation, permit="a:1"))
        recorded(store, "openai", 3, Result("openai", Outcome.IGNORED, 0.0, health.generation, "a:2"))
        assert store.claim("openai", ["b:1", "b:2"], 5_000)[1] == ["b:1", "b:2"]

    def test_an_ignored_outcome_moves_nothing(self, backend):
        """It is no verdict: averages, counters and circuit stay."""
        store = backend.store()
        health = half_opened(store)
        store.claim("openai", ["a:1"], 5_000)
        reply = recorded(store, "openai", 2, Result("openai", Outcome.IGNORED, 80.0, health.generation, "a:1"))
        assert replace(reply.health, version=0) == replace(health, version=0)

    def test_a_dead_replicas_permit_expires_and_a_live_ones_is_renewed(self, backend):
        """I-6: free again after its ttl, unless renewed."""
        store = backend.store()
        half_opened(store)
        store.claim("openai", ["dead:1", "live:1"], 5_000)
        store.now_ms += 3_000
        assert store.claim("openai", ["live:1"], 5_000)[1] == ["live:1"]
        store.now_ms += 3_000
        assert store.claim("openai", ["c:1", "c:2"], 5_000)[1] == ["c:1"]

    def test_a_running_call_counts_after_a_re_opening(self, backend):
        """I-6: its permit outlives the transition, or two half-open periods could overlap at the provider."""
        store = backend.store()
        health = half_opened(store)
        store.claim("openai", ["slow:1", "a:1"], 60_000)
        recorded(store, "openai", 2, result("openai", False, health.generation, permit="a:1"))
        store.now_ms += 10_000
        assert store.half_open("openai").transitions
        assert store.claim("openai", ["b:1", "b:2"], 5_000)[1] == ["b:1"]

    @pytest.mark.parametrize("state", ["closed", "open"])
    def test_grants_nothing_in_other_states(self, backend, state):
        """Permits are for half-open alone."""
        store = backend.store(now_ms=1)
        store.register(OPENAI, CONFIG) if state == "closed" else opened(store)
        assert store.claim("openai", ["a:1"], 5_000)[1] == []

    def test_grants_nothing_for_a_provider_an_operator_took_out(self, backend):
        """An operator's word stands against the circuit's."""
        store = backend.store()
        half_opened(store)
        store.update("openai", {"available": "0"})
        assert store.claim("openai", ["a:1"], 5_000)[1] == []


class TestHalfOpen:
    def test_moves_at_its_time_and_not_before(self, backend):
        """I-9: the script checks the elapsed time itself, to the millisecond."""
        store = backend.store()
        opened(store, at=1_000)
        store.now_ms = 10_999
        assert store.half_open("openai", epoch=5).status == "not_due"
        store.now_ms = 11_000
        reply = store.half_open("openai", epoch=5)
        assert (reply.status, reply.health.circuit_state, reply.health.generation) == ("ok", "half_open", 3)
        assert reply.health.leader_epoch == 5

    @pytest.mark.parametrize(("now", "status"), [(500, "not_due"), (-8_999, "not_due"), (-9_000, "ok")])
    def test_a_clock_that_was_set_back_delays_it_once_at_most(self, backend, now, status):
        """A new master's clock may be hours behind: the circuit does not wait until it caught up."""
        store = backend.store()
        opened(store, at=1_000)
        store.now_ms = now
        assert store.half_open("openai", epoch=5).status == status

    def test_two_leaders_do_no_harm(self, backend):
        """I-4: the second one's call finds nothing to do; one transition is told."""
        opened(backend.store())
        replies = [backend.store(name, now_ms=11_000).half_open("openai", epoch=7) for name in ("w1", "w2")]
        assert [len(reply.transitions) for reply in replies] == [1, 0]

    @pytest.mark.redis("memory loses no reply")
    def test_a_lost_reply_is_told_again(self, backend):
        """I-4: the retry of the call that made the transition counts it, though it does nothing."""
        store = backend.store()
        opened(store)
        store.now_ms = 11_000
        lose_one_reply(store)
        with pytest.raises(RedisUnavailable):
            store.half_open("openai", epoch=7)
        again = store.half_open("openai", epoch=7)
        assert (again.status, len(again.transitions), again.health.generation) == ("replayed", 1, 3)
        assert store.half_open("openai", epoch=7).status == "not_due"

    def test_a_lower_epoch_is_refused(self, backend):
        """I-9: a leader that was replaced writes too late."""
        store = backend.store()
        opened(store)
        store.update("openai", {"available": "1"}, source="probe", epoch=9)
        store.now_ms = 11_000
        assert store.half_open("openai", epoch=8).status == "fenced"
        assert store.update("openai", {"available": "0"}, source="probe", epoch=8).status == "fenced"
        assert store.half_open("openai", epoch=9).status == "ok"

    def test_three_successes_close_it_and_it_is_available_again(self, backend):
        """I-1: rate and failures reset; the circuit's own unavailability ends."""
        store = backend.store()
        health = half_opened(store)
        reply = recorded(store, "openai", 2, *[result("openai", True, health.generation)] * 2)
        assert (reply.health.circuit_state, reply.health.available, reply.health.failure_rate) == ("closed", True, 0.0)
