"""Each script through its store method, on every backend, at moments that the test sets."""

import json
from dataclasses import replace

import pytest
import redis

from redis_router import CircuitConfig, CircuitState, Outcome, Probe, Provider, RedisRefused, RedisUnavailable
from redis_router.circuit.outcome import Result
from redis_router.store.messages import Event, Spec
from redis_router.store.redis import Batch
from tests.support import eventually, recorded, result

OPENAI = Provider("openai", models=("gpt-4o",), weight=2.0, probe="http://127.0.0.1:1/healthz")
CONFIG = CircuitConfig(
    consecutive_failure_limit=3, half_open_success_threshold=2, half_open_max_probes=2, open_timeout=10
)


def opened(store, *, config=CONFIG, at=1_000):
    """A record whose circuit opened at `at` ms, by three failures in a row."""
    store.now_ms = at
    store.register(OPENAI, config)
    reply = recorded(store, "openai", 1, *[result("openai", False)] * config.consecutive_failure_limit)
    assert reply.health.circuit_state is CircuitState.OPEN
    return reply.health


def half_opened(store, *, config=CONFIG):
    """The same record, half-open at 11,000 ms."""
    opened(store, config=config)
    store.now_ms = 11_000
    return store.half_open("openai").health


def lose_one_reply(store):
    """The next command is carried out, and its reply lost."""
    execute = store.client.execute_command

    def once(*args, **options):
        execute(*args, **options)
        store.client.execute_command = execute
        raise redis.TimeoutError

    store.client.execute_command = once


class TestRegister:
    def test_writes_a_readable_record(self, backend):
        """A new record holds words, plain numbers and the thresholds, in reading order."""
        store = backend.store(now_ms=5)
        store.register(OPENAI, CONFIG)
        raw = backend.client().hgetall(store.keys.health("openai"))
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

    def test_restores_a_lost_record_with_its_open_circuit(self, backend):
        """I-8: what Redis lost comes back from a replica's copy: state, generation and remaining time."""
        store = backend.store()
        health = opened(store)
        backend.client().delete(store.keys.health("openai"))
        store.now_ms = 2_000
        restored = store.restore(OPENAI, health).health
        assert restored.version > health.version
        assert replace(restored, version=health.version) == health

    def test_the_copy_of_the_higher_generation_wins(self, backend):
        """A failover may leave an older record behind: a replica that saw more puts that right, never the reverse."""
        store = backend.store()
        older = store.register(OPENAI, CONFIG).health
        newer = opened(store)
        backend.client().hset(store.keys.health("openai"), mapping=older.to_fields())
        assert store.restore(OPENAI, newer).health.circuit_state is CircuitState.OPEN
        assert store.restore(OPENAI, older).health.circuit_state is CircuitState.OPEN

    def test_of_one_generation_the_newer_copy_wins(self, backend):
        """A failover may lose an operator's word; and a record made anew after a loss wins nothing."""
        store = backend.store(now_ms=1)
        store.register(OPENAI, CONFIG)
        before = recorded(store, "openai", 1, result("openai", True)).health
        after = store.update("openai", {"available": "0"}).health
        backend.client().hset(store.keys.health("openai"), mapping=before.to_fields())
        assert store.restore(OPENAI, after).health.unavailable_reason == "operator"
        backend.client().delete(store.keys.health("openai"))
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

    def test_one_bad_record_does_not_hurt_the_others(self, backend):
        """A key of another type refuses its own batch; the batches beside it are applied."""
        store = backend.store(now_ms=1)
        store.register(OPENAI, CONFIG)
        backend.client().set(store.keys.health("other"), "not a hash")
        bad, good = store.record(
            [Batch("other", 1, [result("other", True)]), Batch("openai", 1, [result("openai", True)])]
        )
        assert isinstance(bad, RedisRefused)
        assert good.status == "ok"

    def test_survives_a_flushed_script_cache(self, backend):
        """NOSCRIPT is answered by sending the script again, in a call and in a pipeline."""
        store = backend.store(now_ms=1)
        store.register(OPENAI, CONFIG)
        backend.client().script_flush()
        assert recorded(store, "openai", 1, result("openai", True)).status == "ok"
        backend.client().script_flush()
        assert store.claim("openai", ["t"], 1_000) == (1, [])

    def test_the_record_stays_small(self, real):
        """The hash stays a listpack: the cheapest form Redis has."""
        store = real.store()
        store.register(Provider("p" * 64, ("m",)), CONFIG)
        recorded(store, "p" * 64, 1, *[result("p" * 64, False, latency_ms=12345.678901234567)] * 30)
        encoding = real.client().object("encoding", store.keys.health("p" * 64))
        assert encoding in ("listpack", b"listpack")


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

    def test_thresholds_change_at_once_and_are_logged(self, backend):
        """The next result is judged by the new ones; the log says who changed what."""
        store = backend.store(now_ms=1)
        store.register(OPENAI, CONFIG)
        store.update("openai", CircuitConfig(consecutive_failure_limit=1).to_fields())
        assert recorded(store, "openai", 1, result("openai", False)).health.circuit_state is CircuitState.OPEN
        log = backend.client().xrange(store.keys.events("openai"))
        assert "consecutive_failure_limit=1" in str(log)


class TestElection:
    def test_a_clock_that_was_set_back_ends_a_dead_leaders_lease(self, backend):
        """Its end lies hours ahead; its owner may renew it, and nobody else needs to wait for it."""
        dead, heir = backend.store("dead", now_ms=10_000_000), backend.store("heir", now_ms=1_000)
        _, first = dead.campaign(15_000)
        dead.now_ms = 1_000
        assert dead.campaign(15_000)[0] == "renewed"
        dead.now_ms = 10_000_000
        dead.campaign(15_000)
        status, second = heir.campaign(15_000)
        assert (status, second.epoch > first.epoch) == ("elected", True)

    def test_one_leader_until_its_lease_ends(self, backend):
        """I-9: a standby waits for exactly the rest of the lease."""
        first, second = backend.store("w1", now_ms=1_000), backend.store("w2", now_ms=3_000)
        assert first.campaign(5_000)[0] == "elected"
        status, leader = second.campaign(5_000)
        assert (status, leader.worker, leader.remaining_ms) == ("standby", "w1", 3_000)
        second.now_ms = 6_000
        assert second.campaign(5_000)[0] == "elected"
        first.now_ms = 6_001
        assert first.campaign(5_000)[0] == "standby"

    def test_renewing_keeps_the_epoch(self, backend):
        """A term is one epoch, however long."""
        store = backend.store("w1", now_ms=1_000)
        _, elected = store.campaign(5_000)
        store.now_ms = 4_000
        status, renewed = store.campaign(5_000)
        assert (status, renewed.epoch, renewed.since_ms, renewed.until_ms) == ("renewed", elected.epoch, 1_000, 9_000)

    def test_epochs_rise_even_over_a_loss_of_the_key(self, backend):
        """I-9: epoch = max(epoch + 1, now): a server that forgot the last one cannot issue it again."""
        store = backend.store("w1", now_ms=1_000)
        epochs = [store.campaign(10)[1].epoch]
        store.now_ms = 1_010
        epochs.append(store.campaign(10)[1].epoch)
        backend.client().delete(store.keys.leader)
        store.now_ms = 1_020
        epochs.append(store.campaign(10)[1].epoch)
        assert epochs == sorted(set(epochs))

    def test_an_own_lease_that_ended_is_a_new_term(self, backend):
        """A leader that slept through its lease comes back with a new epoch, never with the old one."""
        store = backend.store("w1", now_ms=1_000)
        _, before = store.campaign(100)
        store.now_ms = 2_000
        status, after = store.campaign(100)
        assert (status, after.epoch > before.epoch) == ("elected", True)

    def test_resigning_frees_the_lease_at_once(self, backend):
        """And a late resignation does not end the successor's term."""
        first, second = backend.store("w1", now_ms=1_000), backend.store("w2", now_ms=1_001)
        _, leader = first.campaign(5_000)
        assert first.resign(leader.epoch) is True
        assert second.campaign(5_000)[0] == "elected"
        assert first.resign(leader.epoch) is False
        assert second.campaign(5_000)[0] == "renewed"


class TestPush:
    def events(self, subscription, count):
        """The next `count` events on the channel."""
        found = []
        eventually(
            lambda: isinstance(event := subscription.next(0.1), Event) and (found.append(event) or len(found) == count)
        )
        return found

    def subscribed(self, store):
        subscription = store.subscribe()
        eventually(lambda: subscription.next(0.1) == "subscribed")
        return subscription

    def test_a_transition_is_pushed_with_the_whole_record(self, backend):
        """I-12: a replica needs no read to follow."""
        store = backend.store()
        subscription = self.subscribed(store)
        health = opened(store)
        registered, transition = self.events(subscription, 2)
        assert (registered.kind, transition.kind, transition.by) == ("registered", "transition", "gw")
        assert transition.health == health
        assert transition.health.open_reason == "consecutive_failures"
        subscription.close()

    def test_averages_are_pushed_at_most_once_in_an_interval(self, backend):
        """I-12: the script limits the rate, over all replicas."""
        store = backend.store(now_ms=10_000)
        store.push_interval_ms = 500
        store.register(OPENAI, CONFIG)
        subscription = self.subscribed(store)
        for seq in range(1, 31):
            store.now_ms += 50
            recorded(store, "openai", seq, result("openai", True))
        store.update("openai", {"weight": "3"})
        pushed = [event.kind for event in self.events(subscription, 4)]
        assert pushed == ["averages", "averages", "averages", "updated"]
        subscription.close()

    def test_messages_are_json_for_people(self, backend):
        """Whoever SUBSCRIBEs by hand can read them."""
        store = backend.store(now_ms=1)
        pubsub = backend.client().pubsub()
        pubsub.subscribe(store.keys.channel)
        eventually(lambda: (m := pubsub.get_message(timeout=0.1)) and m["type"] == "subscribe")
        store.register(OPENAI, CONFIG)
        message = eventually(lambda: pubsub.get_message(timeout=0.1))
        said = json.loads(message["data"])
        assert (said["event"], said["provider"], said["health"]["circuit_state"]) == ("registered", "openai", "closed")
        pubsub.close()

    def test_foreign_messages_are_passed_over(self, backend):
        """Anybody can publish; nobody can break a replica with it."""
        store = backend.store(now_ms=1)
        subscription = self.subscribed(store)
        for text in (
            "",
            "{",
            "[]",
            '{"event": "transition"}',
            '{"event":"x","provider":"p","health":{"circuit_state":"up"}}',
        ):
            backend.client().publish(store.keys.channel, text)
        store.register(OPENAI, CONFIG)
        assert [event.kind for event in self.events(subscription, 1)] == ["registered"]
        subscription.close()


class TestSnapshot:
    def test_reads_everything_at_one_look(self, backend):
        """Clock, leader, specs and records."""
        store = backend.store("w1", now_ms=1_000)
        store.register(OPENAI, CONFIG)
        store.campaign(5_000)
        snapshot = store.snapshot()
        assert (snapshot.now_ms, snapshot.leader.worker) == (1_000, "w1")
        assert snapshot.specs["openai"].models == ("gpt-4o",)
        assert snapshot.records["openai"].weight == 2.0

    def test_an_unreadable_record_is_named_and_the_rest_is_read(self, backend):
        """A hand that slipped in redis-cli breaks one provider, not the fleet."""
        store = backend.store(now_ms=1)
        store.register(OPENAI, CONFIG)
        store.register(replace(OPENAI, name="azure"), CONFIG)
        backend.client().hset(store.keys.health("azure"), "weight", "heavy")
        snapshot = store.snapshot()
        assert list(snapshot.records) == ["openai"]
        assert "azure" in str(snapshot.unreadable["azure"])

    def test_redis_own_clock_is_the_default(self, real):
        """I-3: without a test's moment, TIME."""
        store = real.store()
        seconds, _ = real.client().time()
        assert abs(store.snapshot().now_ms / 1000 - seconds) < 5


class TestWrittenByHand:
    """An operator with redis-cli writes numbers in many ways."""

    @pytest.mark.parametrize("text", ["60000.0", "6e4", "0xEA60"])
    def test_a_number_counts_however_it_is_spelled(self, backend, text):
        """As Lua reads it, so do we: a batch is applied, and its reply is understood."""
        store = backend.store()
        store.register(Provider("p", ("m",)), CircuitConfig())
        backend.client().hset(store.keys.health("p"), "open_timeout_ms", text)
        reply = recorded(store, "p", 1, *[result("p", False)] * 5)
        assert [str(change.to_state) for change in reply.transitions] == ["open"]
        assert reply.health.config.open_timeout == 60.0

    def test_what_is_no_number_is_refused_before_anything_is_written(self, backend):
        """By name, and with the value."""
        store = backend.store()
        store.register(Provider("p", ("m",)), CircuitConfig())
        backend.client().hset(store.keys.health("p"), "open_timeout_ms", "soon")
        with pytest.raises(RedisRefused, match="open_timeout_ms is no number from 0 up: soon"):
            recorded(store, "p", 1, *[result("p", False)] * 5)
        state, failures = backend.client().hmget(store.keys.health("p"), "circuit_state", "consecutive_failures")
        assert (as_text(state), as_text(failures)) == ("closed", "0")

    @pytest.mark.parametrize("word", ["nan", "0x10", "inf"])
    def test_a_word_that_looks_like_a_number_stays_a_word(self, backend, word):
        """And an update that changes nothing writes nothing."""
        store = backend.store()
        store.register(Provider("p", ("m",)), CircuitConfig())
        backend.client().hset(store.keys.health("p"), "open_reason", word)
        first = store.update("p", {"weight": "2"})
        again = store.update("p", {"weight": "2"})
        assert first.health.open_reason == again.health.open_reason == word
        assert first.health.version == again.health.version


def as_text(value):
    return value.decode() if isinstance(value, bytes) else value
