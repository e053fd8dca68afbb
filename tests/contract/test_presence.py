"""Who is there, on every store: each process says so, who leaves is gone at once, and who dies goes by itself."""

from dataclasses import replace

import pytest

from redis_router import CircuitConfig, Provider
from redis_router.replicas import KNOWN_AFTER_MS, SILENT_MS, ViewState, counts, replicas
from redis_router.store.presence import GATEWAY, KEPT_MS, Presence
from tests.support import eventually, recorded, result
from tests.support.fleet import deafen, fail, registry_of, until

AT = 1_000_000_000
ONCE = CircuitConfig(consecutive_failure_limit=1)


def word(store, **changes):
    """What a process says of itself."""
    said = Presence(store.session, store.writer, GATEWAY, "1.2.3", "host-1", 4242, up_ms=60_000)
    return replace(said, **changes)


@pytest.fixture
def at(backend):
    """Makes a store that ticks by its own moment, in ms from the beginning."""
    return lambda ms, writer="gw-1": backend.store(writer, now_ms=AT + ms)


@pytest.fixture
def opened(at):
    """openai, whose circuit opened at 0."""
    store = at(0, "first")
    store.register(Provider("openai", ("m",)), ONCE)
    recorded(store, "openai", 1, result("openai", False))


class TestTheRegistry:
    """`Store.say_present`, `say_gone` and `presences`."""

    def test_a_word_is_read_as_it_was_said(self, at):
        """With the store's moment, whatever the process's own clock says."""
        store = at(0)
        said = word(store, alone_ms=5, back_ms=7, view={"openai": "closed 1"}, own={"azure": "open"})
        store.say_present(said)
        assert store.presences() == [said.at(AT)]

    def test_the_last_word_counts(self, at):
        """One of each process."""
        store = at(0)
        for role in ("standby", "leader"):
            store.say_present(word(store, role=role))
        assert [each.role for each in store.presences()] == ["leader"]

    def test_who_leaves_is_gone(self, at):
        """At once, and the others stay."""
        first, second = at(0, "gw-1"), at(0, "gw-2")
        for store in (first, second):
            store.say_present(word(store))
        first.say_gone()
        first.say_gone()
        assert [each.name for each in second.presences()] == ["gw-2"]

    def test_who_dies_goes_by_itself(self, at):
        """Whoever speaks after its time takes it out; before that nobody does."""
        dead = at(0, "gw-1")
        dead.say_present(word(dead))
        for ms, left in ((KEPT_MS, ["gw-1", "gw-2"]), (KEPT_MS * 6 // 5, ["gw-2"])):
            living = at(ms, "gw-2")
            living.say_present(word(living))
            assert sorted({each.name for each in living.presences()}) == left

    def test_a_clock_that_is_set_back_keeps_nobody(self, at):
        """A word of the future is no word: its process speaks again, or is dead."""
        dead = at(10 * KEPT_MS, "gw-1")
        dead.say_present(word(dead))
        living = at(0, "gw-2")
        living.say_present(word(living))
        assert [each.name for each in living.presences()] == ["gw-2"]

    @pytest.mark.redis("memory keeps values, not texts")
    @pytest.mark.parametrize(
        "said", [b"", b"x", b"1 {}", b"1 []", b"1 null", b"x {}", b"\xff\xfe", b'1 {"name": 1}', b"1 " + b"[" * 9000]
    )
    def test_what_a_hand_writes_is_passed_over(self, backend, at, redis_client, said):
        """And taken out with the dead, where it has no moment."""
        store = at(0)
        redis_client.hset(backend.keys.replicas, "hand", said)
        assert store.presences() == []
        assert replicas(store) == []
        store.say_present(word(store))
        later = at(2 * KEPT_MS)
        later.say_present(word(later))
        assert b"hand" not in redis_client.hgetall(backend.keys.replicas)

    @pytest.mark.redis("memory ends with its process")
    def test_the_last_one_takes_the_key_with_it(self, backend, redis_client):
        """Nothing of a fleet that died stays."""
        store = backend.store()
        store.say_present(word(store))
        assert 0 < redis_client.pttl(backend.keys.replicas) <= KEPT_MS


class TestWhoseViewDiffers:
    """`replicas`, from words and records."""

    def test_in_step(self, at, opened):
        """As the record is; and a provider of which it says nothing is no matter of its."""
        store = at(60_000)
        store.say_present(word(store, view={"openai": "open 2"}))
        other = at(60_000, "gw-2")
        other.say_present(word(other, view={"not one of ours": "closed 1"}))
        assert [(each.name, each.state) for each in replicas(store)] == [
            ("gw-1", ViewState.IN_STEP),
            ("gw-2", ViewState.IN_STEP),
        ]

    @pytest.mark.parametrize(
        ("ms", "state"), [(KNOWN_AFTER_MS - 1, ViewState.IN_STEP), (KNOWN_AFTER_MS, ViewState.BEHIND)]
    )
    def test_behind(self, at, opened, ms, state):
        """It spoke some seconds after the circuit opened, and saw it closed: then it did not know."""
        store = at(ms)
        store.say_present(word(store, view={"openai": "closed 1"}))
        (found,) = replicas(store)
        assert (found.state, found.differs) == (state, state is not ViewState.IN_STEP)
        if found.differs:
            (difference,) = found.differences
            assert difference == type(difference)("openai", "closed 1", "open 2", ms)

    def test_who_spoke_before_is_not_behind(self, at, opened):
        """Nobody knows what it knows now."""
        store = at(-1_000)
        store.say_present(word(store, view={"openai": "closed 1"}))
        assert [each.state for each in replicas(at(SILENT_MS - 1_000))] == [ViewState.IN_STEP]

    def test_silent(self, at, opened):
        """After three words that did not come; how long ago is told before."""
        store = at(0)
        store.say_present(word(store, view={"openai": "closed 1"}))
        for ms, state in ((12_000, ViewState.IN_STEP), (SILENT_MS + 1, ViewState.SILENT)):
            (found,) = replicas(at(ms))
            assert (found.silent_ms, found.state) == (ms, state)
        assert replicas(at(KEPT_MS + 1)) == []

    def test_alone(self, at, opened):
        """It decides by itself on a provider: that is no being behind."""
        store = at(60_000)
        store.say_present(word(store, view={"openai": "closed 1"}, own={"openai": "closed"}))
        (found,) = replicas(store)
        assert (found.state, found.own, found.differences) == (ViewState.ALONE, {"openai": "closed"}, ())

    def test_what_an_operator_said_is_to_be_known(self, at):
        """A drain changes no generation."""
        store = at(0)
        store.register(Provider("openai", ("m",)), ONCE)
        store.override("openai", "drain", 3_600_000, 0.0, "alice", "")
        later = at(KNOWN_AFTER_MS)
        later.say_present(word(later, view={"openai": "closed 1"}))
        (difference,) = replicas(later)[0].differences
        assert (difference.sees, difference.record) == ("closed 1", "closed 1 drain")

    def test_a_record_that_went_back_is_a_difference(self, at, opened):
        """A higher generation than the record's: Redis lost what that process knows."""
        store = at(60_000)
        store.say_present(word(store, view={"openai": "open 9"}))
        assert replicas(store)[0].state is ViewState.BEHIND

    def test_the_moments_are_redis_s(self, at):
        """Since when, and until when it was alone: from durations."""
        store = at(0)
        store.say_present(word(store, up_ms=60_000, alone_ms=5_000, back_ms=3_000))
        (found,) = replicas(at(2_000))
        assert (found.since_ms, found.seen_ms, found.alone_until_ms) == (AT - 60_000, AT, AT - 3_000)

    def test_the_sums(self, at, opened):
        """As metrics show them."""
        for ms, name, own in ((0, "gw-1", {}), (60_000, "gw-2", {}), (60_000, "gw-3", {"openai": "open"})):
            store = at(ms, name)
            store.say_present(word(store, own=own))
        there, differ = counts(replicas(at(60_000)))
        assert (there, differ) == ({"gateway": 3, "worker": 0}, {"behind": 0, "alone": 1, "silent": 1})


class TestReplicasAndWorkers:
    """What they say."""

    def test_a_replica_says_that_it_is_there_until_it_leaves(self, backend, router):
        """With its providers, and how it sees them."""
        replica = router(replica="gw-1", circuit=replace(ONCE, open_timeout=600.0))
        replica.register_provider(Provider("openai", ("m",)))
        replica.start()
        eventually(lambda: [each.view for each in backend.looking.presences()] == [{"openai": "closed 1"}])
        (found,) = replicas(backend.looking)
        assert (found.name, found.role, found.state, found.sees) == (
            "gw-1",
            "gateway",
            ViewState.IN_STEP,
            {"openai": "closed 1"},
        )
        assert found.version
        assert found.pid
        replica.close()
        assert backend.looking.presences() == []

    def test_a_replica_that_knows_a_transition_says_so(self, backend, router, monkeypatch):
        """With its next word."""
        monkeypatch.setattr("redis_router.replica.presence.SAID_EVERY", 0.1)
        replica = router(circuit=replace(ONCE, open_timeout=600.0))
        replica.register_provider(Provider("openai", ("m",)))
        replica.start()
        fail(replica, "openai", 1)
        until(replica, "openai", "open")
        eventually(lambda: [each.view for each in backend.looking.presences()] == [{"openai": "open 2"}])

    def test_a_worker_leads_or_stands_by(self, backend, checker):
        """And is gone when it was stopped."""
        first = checker(worker="w-1")
        first.start()
        eventually(lambda: first.is_leader)
        second = checker(worker="w-2")
        second.start()

        def roles():
            return {each.name: each.role for each in backend.looking.presences()}

        eventually(lambda: roles() == {"w-1": "leader", "w-2": "standby"})
        first.stop()
        eventually(lambda: roles() == {"w-2": "leader"})

    def test_a_large_view_is_told_in_part(self, backend, router, monkeypatch):
        """Those that are not closed come first."""
        monkeypatch.setattr("redis_router.replica.presence.MOST_TOLD", 2)
        monkeypatch.setattr("redis_router.replica.presence.SAID_EVERY", 0.1)
        replica = router(circuit=replace(ONCE, open_timeout=600.0))
        for name in ("a", "b", "c"):
            replica.register_provider(Provider(name, ("m",)))
        replica.start()
        fail(replica, "c", 1)
        eventually(lambda: [each.view.get("c") for each in backend.looking.presences()] == ["open 2"])
        assert all(len(each.view) == 2 for each in backend.looking.presences())

    def test_a_replica_that_hears_nothing_is_behind(self, backend, fleet, monkeypatch):
        """It goes on to speak, and sees closed what has been open for a while."""
        monkeypatch.setattr("redis_router.replica.presence.SAID_EVERY", 0.1)
        monkeypatch.setattr("redis_router.replicas.KNOWN_AFTER_MS", 300)
        deaf, hears = fleet(circuit=replace(ONCE, open_timeout=600.0))
        deafen(deaf)
        fail(hears, "openai", 1)
        until(hears, "openai", "open")
        eventually(lambda: [each.state for each in replicas(backend.looking) if each.differs] == [ViewState.BEHIND])
        (found,) = [each for each in replicas(backend.looking) if each.differs]
        assert [(each.sees, each.record) for each in found.differences] == [("closed 1", "open 2")]
        assert deaf.get_circuit_state("openai") == "closed"

    def test_a_replica_that_decides_by_itself_says_so(self, backend, router, monkeypatch):
        """Its own calls fail and nobody else complains: with `min_reporters` that opens no circuit of the fleet's."""
        monkeypatch.setattr("redis_router.replica.presence.SAID_EVERY", 0.1)
        circuit = replace(ONCE, min_reporters=2, open_timeout=600.0)
        first, second = (router(circuit=circuit) for _ in range(2))
        for replica in (first, second):
            replica.register_provider(Provider("openai", ("m",)))
            replica.start()
            replica.record_result("openai", success=True, latency_ms=5.0)
            assert replica.flush()
        fail(first, "openai", 1)
        until(first, "openai", "open")
        eventually(lambda: ViewState.ALONE in [each.state for each in replicas(backend.looking)])
        (found,) = [each for each in replicas(backend.looking) if each.differs]
        assert (found.own, found.sees["openai"]) == ({"openai": "open"}, "closed 1")

    def test_after_an_outage_it_says_that_it_was_alone(self, backend, router, outage):
        """For how long, and when that ended."""
        replica = router(result_ttl=60.0)
        replica.register_provider(Provider("openai", ("m",)))
        replica.start()
        eventually(lambda: backend.looking.presences())
        with outage():
            eventually(lambda: not replica.redis_up)
        eventually(lambda: replica.redis_up)
        eventually(lambda: [each.alone_ms > 0 for each in backend.looking.presences()] == [True])
        (found,) = replicas(backend.looking)
        assert found.alone_until_ms <= found.seen_ms
        assert found.state is ViewState.IN_STEP


class TestTheCensus:
    """What the leader shows of the fleet."""

    @staticmethod
    def shown(worker):
        """The samples of the two gauges, by name and label."""
        families = (family for family in registry_of(worker).collect() if "replicas" in family.name)
        return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}

    def test_the_leader_counts_and_a_standby_shows_none(self, backend, checker, at, opened):
        """And after it was stopped, it shows none either."""
        now_ms, _ = backend.looking.leader()
        for name, ms, own in (("gw-1", 0, {}), ("gw-2", 0, {"openai": "closed"}), ("gw-3", -SILENT_MS - 1000, {})):
            store = backend.store(name, now_ms=now_ms + ms)
            store.say_present(word(store, own=own))
        first = checker(worker="w-1")
        first.start()
        eventually(lambda: first.is_leader)
        second = checker(worker="w-2")
        second.start()
        there = {("redis_router_replicas", "gateway"): 3.0, ("redis_router_replicas", "worker"): 1.0}
        differ = {
            ("redis_router_replicas_that_differ", how): float(n)
            for how, n in (("behind", 0), ("alone", 1), ("silent", 1))
        }
        eventually(lambda: self.shown(first) == {**there, **differ})
        assert self.shown(second) == {}
        first.stop()
        assert self.shown(first) == {}
        eventually(lambda: self.shown(second))

    @pytest.mark.redis("memory refuses nothing")
    def test_a_key_of_another_type_holds_up_no_worker(self, backend, checker, redis_client, caplog):
        """It is said once, and the circuits are moved all the same."""
        redis_client.set(backend.keys.replicas, "x")
        worker = checker(worker="w-1")
        worker.start()
        eventually(lambda: worker.is_leader and worker.redis_up)
        eventually(lambda: [each for each in caplog.messages if "cannot count the fleet's replicas" in each])
        assert self.shown(worker) == {}
