"""The store, news: what is pushed, and everything at one look. On every backend."""

import json
from dataclasses import replace

from redis_router import CircuitConfig
from redis_router.store.messages import Event
from tests.contract.records import CONFIG, OPENAI, opened
from tests.support import eventually, recorded, result


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

    def test_averages_rest_after_a_transition(self, backend):
        """It brought them along."""
        store = backend.store(now_ms=10_000)
        store.push_interval_ms = 500
        store.register(OPENAI, CircuitConfig(consecutive_failure_limit=2))
        subscription = self.subscribed(store)
        recorded(store, "openai", 1, *[result("openai", False)] * 2)
        store.now_ms += 100
        recorded(store, "openai", 2, result("openai", True))
        store.update("openai", {"weight": "3"})
        assert [event.kind for event in self.events(subscription, 2)] == ["transition", "updated"]
        subscription.close()

    def test_messages_are_json_for_people(self, backend, redis_client):
        """Whoever SUBSCRIBEs by hand can read them."""
        store = backend.store(now_ms=1)
        pubsub = redis_client.pubsub()
        pubsub.subscribe(store.keys.channel)
        eventually(lambda: (m := pubsub.get_message(timeout=0.1)) and m["type"] == "subscribe")
        store.register(OPENAI, CONFIG)
        message = eventually(lambda: pubsub.get_message(timeout=0.1))
        said = json.loads(message["data"])
        assert (said["event"], said["provider"], said["health"]["circuit_state"]) == ("registered", "openai", "closed")
        pubsub.close()

    def test_foreign_messages_are_passed_over(self, backend, redis_client):
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
            redis_client.publish(store.keys.channel, text)
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

    def test_an_unreadable_record_is_named_and_the_rest_is_read(self, backend, redis_client):
        """A hand that slipped in redis-cli breaks one provider, not the fleet."""
        store = backend.store(now_ms=1)
        store.register(OPENAI, CONFIG)
        store.register(replace(OPENAI, name="azure"), CONFIG)
        redis_client.hset(store.keys.health("azure"), "weight", "heavy")
        snapshot = store.snapshot()
        assert list(snapshot.records) == ["openai"]
        assert "azure" in str(snapshot.unreadable["azure"])

    def test_redis_own_clock_is_the_default(self, real):
        """I-3: without a test's moment, TIME."""
        store = real.store()
        seconds, _ = real.client().time()
        assert abs(store.snapshot().now_ms / 1000 - seconds) < 5
