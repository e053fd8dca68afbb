"""What operators say for a time: the table of docs/operating.md, row by row, on every store."""

from dataclasses import fields, replace

import pytest

from redis_router import CircuitConfig, InvalidArgument, NoProviderAvailable, Operator, Provider, UnknownProvider
from redis_router.circuit.overrides import END, FOR_EVER_MS, LAPSE
from redis_router.circuit.record import CircuitState, ProviderHealth
from redis_router.circuit.resetting import LEARNED
from redis_router.runtime.names import operator_name
from redis_router.store.messages import Status
from tests.support import eventually, metric
from tests.support.fleet import AZURE, OPENAI, QUICK, fail, half_open, recorded, result, until

A_MOMENT = 1.0
"""Seconds: an override of a test that waits for its end."""


def serves(replica, *names, model="gpt-4o"):
    """Do calls for this model go to exactly these, in many turns?"""
    try:
        return {replica.select_provider(model).name for _ in range(12)} == set(names)
    except NoProviderAvailable:
        return not names


class TestTakesOut:
    @pytest.mark.parametrize("word", ["drain", "force_open"])
    def test_no_new_calls_in_the_whole_fleet_and_back_again(self, pair, word):
        """Those under way end, and count."""
        first, second = pair
        with first.attempt("gpt-4o-mini") as attempt:
            second.override("openai", word, reason="maintenance", by="alice")
            eventually(lambda: serves(first, "azure") and serves(second, "azure"))
            assert attempt.provider == OPENAI
        assert first.flush()
        assert metric(first, "requests_total", provider="openai", outcome="success") == 1
        with pytest.raises(NoProviderAvailable, match=rf"{word} by alice until .*\(maintenance\)"):
            first.select_provider("gpt-4o-mini")
        first.end_override("openai")
        eventually(lambda: serves(first, "openai", "azure") and serves(second, "openai", "azure"))

    def test_it_ends_by_itself_without_traffic(self, pair):
        """On Redis's clock, and nobody need say so."""
        first, second = pair
        first.drain("openai", seconds=A_MOMENT)
        eventually(lambda: serves(second, "azure"))
        eventually(lambda: second._view.picks and serves(second, "openai", "azure"))

    def test_an_open_circuit_behaves_by_the_rules_of_that_moment_when_it_ends(self, pair):
        """Never by the state of the time when it began."""
        first, second = pair
        first.drain("openai")
        eventually(lambda: serves(second, "azure"))
        fail(second, "openai", 3)
        until(first, "openai", "open")
        first.end_override("openai")
        eventually(lambda: not second.get_health_status()["openai"].override)
        assert serves(second, "azure")

    @pytest.mark.parametrize("word", ["drain", "force_open"])
    def test_no_trial_calls_in_half_open(self, backend, word):
        """Who holds a permit keeps it until its call ends; nobody gets a new one, until the end."""
        store = half_open_record(backend)
        assert store.claim("openai", ["a"], 60_000)[1] == ["a"]
        store.override("openai", word, 1000, 0, "alice", "")
        assert store.claim("openai", ["a", "b"], 60_000)[1] == ["a"]
        store.now_ms += 1000
        assert store.claim("openai", ["a", "b"], 60_000)[1] == ["a", "b"]

    def test_trial_calls_begin_when_it_ends(self, alone_on_openai, checker):
        """A circuit that became half-open meanwhile: permits are claimed at that moment, without traffic before."""
        replica = alone_on_openai()
        half_open(replica, checker())
        replica.drain("openai", seconds=A_MOMENT)
        assert serves(replica)
        eventually(lambda: serves_a_trial(replica))

    def test_least_bad_does_not_call_it(self, alone_on_openai):
        """An operator's word is no circuit: nobody is better than somebody who is taken out."""
        replica = alone_on_openai(when_all_open="least_bad")
        replica.drain("openai")
        assert serves(replica)

    def test_a_permanent_word_stands_beside(self, pair):
        """`available=False` outlasts a drain that ends; `available=True` ends it."""
        first, _ = pair
        first.update_health("openai", available=False)
        first.drain("openai")
        first.end_override("openai")
        assert serves(first, "azure")
        first.drain("openai")
        first.update_health("openai", available=True)
        assert serves(first, "openai", "azure")


class TestLetsIn:
    @pytest.mark.parametrize("word", ["force_closed", "observe"])
    def test_calls_flow_while_the_rules_count(self, pair, word):
        """An open circuit takes nobody out, and says what it would have done; at the end it counts."""
        first, second = pair
        first.override("openai", word)
        eventually(lambda: second.get_health_status()["openai"].override == word)
        fail(second, "openai", 3)
        until(first, "openai", "open")
        assert serves(first, "openai", "azure")
        labels = {"provider": "openai", "from_state": "closed", "to_state": "open"}
        assert metric(second, "observed_state_changes_total", **labels) == 1
        first.end_override("openai")
        eventually(lambda: serves(first, "azure") and serves(second, "azure"))

    @pytest.mark.parametrize("word", ["force_closed", "observe"])
    def test_in_half_open_calls_take_no_permit_and_close_the_circuit(self, backend, word):
        """Their results are those of the circuit's generation."""
        store = half_open_record(backend)
        health = store.override("openai", word, 0, 0, "alice", "").health
        results = [result("openai", True, health.generation)] * 2
        assert recorded(store, "openai", 9, *results).health.circuit_state is CircuitState.CLOSED

    def test_a_failing_probe_does_not_take_it_out(self, pair, backend):
        """The probe is a rule, too."""
        first, _ = pair
        first.override("openai", "force_closed")
        backend.store().update("openai", {"available": "0"}, "probe")
        eventually(lambda: not first.get_health_status()["openai"].available)
        assert serves(first, "openai", "azure")
        first.end_override("openai")
        assert serves(first, "azure")

    def test_a_rate_limit_holds(self, pair):
        """That is the provider's own word, and no rule of ours."""
        first, second = pair
        first.override("openai", "force_closed")
        first.record_result("openai", outcome="rate_limited", cooldown=60.0)
        assert first.flush()
        eventually(lambda: serves(first, "azure") and serves(second, "azure"))

    def test_what_an_operator_took_out_for_good_stays_out(self, pair):
        """An override is above rules, not above people."""
        first, _ = pair
        first.update_health("openai", available=False)
        first.override("openai", "force_closed")
        assert serves(first, "azure")

    def test_the_log_says_what_would_have_happened(self, pair, caplog):
        """Aloud; who said so stands one step lower."""
        caplog.set_level("INFO")
        first, _ = pair
        first.override("openai", "observe", seconds=None, reason="a first week", by="alice")
        fail(first, "openai", 3)
        until(first, "openai", "open")
        eventually(lambda: "openai would be open" in caplog.text)
        eventually(lambda: "openai: override observe for ever, by alice: a first week" in caplog.text)


class TestObserveFromTheFirstDay:
    def test_new_registrations_begin_under_it(self, router, circuit, backend):
        """Until somebody ends it; who registers it again does not bring it back."""
        for _ in range(2):
            replica = router(circuit=circuit, observe=True)
            replica.register_provider(OPENAI)
            replica.start()
        assert backend.record().override == "observe"
        fail(replica, "openai", 3)
        until(replica, "openai", "open")
        assert serves(replica, "openai")
        replica.end_override("openai")
        assert serves(replica)
        last = router(circuit=circuit, observe=True)
        last.register_provider(OPENAI)
        last.start()
        assert backend.record().override == ""

    @pytest.mark.redis("there is no Redis to be away")
    def test_while_redis_is_away_from_the_beginning(self, router, circuit, outage):
        """It holds at once."""
        with outage():
            replica = router(circuit=circuit, observe=True)
            replica.register_provider(OPENAI)
            replica.start()
            fail_quietly(replica, "openai", 9)
            eventually(lambda: replica.get_circuit_state("openai") == "open")
            assert serves(replica, "openai")


class TestWeight:
    def test_another_weight_for_a_time(self, router, circuit):
        """Beside an override of the state, and above the permanent weight."""
        replica = router(circuit=circuit, strategy="weighted")
        for provider in (OPENAI, AZURE):
            replica.register_provider(provider)
        replica.start()
        replica.override("openai", "weight", weight=0, seconds=A_MOMENT)
        assert serves(replica, "azure")
        replica.update_health("openai", weight=1.0)
        assert serves(replica, "azure")
        eventually(lambda: serves(replica, "openai", "azure"))


class TestTroubles:
    def test_while_redis_is_away_it_holds_and_ends(self, pair, outage):
        """Each replica knows until when, and goes by its estimate of Redis's clock."""
        first, second = pair
        first.drain("openai", seconds=3.0)
        eventually(lambda: serves(second, "azure"))
        with outage():
            eventually(lambda: not metric(second, "redis_up"))
            assert (
                serves(second, "azure")
                or second._engine.now_ms() > second.get_health_status()["openai"].override_until_ms
            )
            eventually(lambda: serves(second, "openai", "azure"))

    def test_it_comes_back_with_a_lost_record(self, pair, redis_client, backend):
        """As settings do."""
        first, second = pair
        first.drain("openai", reason="maintenance")
        eventually(lambda: serves(second, "azure"))
        redis_client.delete(backend.keys.health("openai"))
        fail(first, "azure", 1)
        second.record_result("openai", success=True, latency_ms=1.0)
        found = backend.looking.snapshot
        eventually(lambda: (it := found().records.get("openai")) is not None and it.override == "drain")
        assert backend.record().override_reason == "maintenance"
        assert serves(first, "azure")

    def test_deregistering_ends_it_and_keeps_the_log(self, pair, backend):
        """A provider that comes back begins without an override."""
        first, _ = pair
        first.drain("openai", by="alice")
        first.deregister_provider("openai", everywhere=True)
        first.register_provider(OPENAI)
        eventually(lambda: serves(first, "openai", "azure"))
        told = [(event.event, event.by) for event in backend.operator().events("openai")]
        assert ("override", "alice") in told
        assert "deregistered" in dict(told)


KEPT = {
    *("name", "circuit_state", "still_answers", "available", "unavailable_reason", "probe_result", "generation"),
    *("cooldown_until_ms", "cooldown_ms", "cooling_logged_ms", "weight", "last_state_change_ms", "last_check_ms"),
    *(
        "last_result_ms",
        "in_flight",
        "overdue",
        "answering",
        "override",
        "override_until_ms",
        "override_by",
        "override_reason",
    ),
    *("weight_override", "weight_override_until_ms", "weight_override_by", "weight_override_reason", "config"),
    *("override_since_ms", "weight_override_since_ms"),
    *("circuit_version", "declined_settings", "leader_epoch", "version"),
}
"""What a reset does not forget, or what the transition sees to."""


class TestReset:
    def test_each_field_is_forgotten_or_kept(self):
        """Who adds one says which."""
        assert {field.name for field in fields(ProviderHealth)} == {*LEARNED, *KEPT}
        assert not {*LEARNED} & KEPT

    def test_nothing_is_known_of_it_afterwards(self, backend):
        """Its circuit is closed; settings and overrides stay. The log has the transition, who and why."""
        store, log = backend.store(now_ms=1000), backend.operator()
        new = store.register(OPENAI, QUICK).health
        recorded(store, "openai", 1, *[result("openai", False, latency_ms=80.0)] * 3)
        store.update("openai", {"weight": "0.5"})
        store.override("openai", "observe", 0, 0, "alice", "a first week")
        old = store.snapshot().records["openai"]
        assert (old.circuit_state, old.failure_rate > 0, old.latency_ms > 0) == ("open", True, True)
        health = store.reset("openai", "bob", "moved to another region").health
        assert (health.circuit_state, health.available, health.generation) == ("closed", True, old.generation + 1)
        assert {name: getattr(health, name) for name in LEARNED} == {name: getattr(new, name) for name in LEARNED}
        assert (health.weight, health.override, health.config) == (0.5, "observe", old.config)
        told = [(e.event, e.by, *list(e.details.values())[:3]) for e in log.events("openai")[-2:]]
        assert told == [
            ("transition", "bob", "open", "closed", "reset"),
            ("reset", "bob", "open", "closed", "moved to another region"),
        ]

    def test_of_a_closed_circuit(self, backend):
        """What calls taught is forgotten. No circuit moves, and calls under way are of what was."""
        store = backend.store(now_ms=1000)
        store.register(OPENAI, QUICK)
        before = recorded(store, "openai", 1, result("openai", False)).health
        health = store.reset("openai", "bob", "").health
        assert (health.failure_rate, health.consecutive_failures) == (0.0, 0)
        assert (health.circuit_state, health.generation) == ("closed", before.generation + 1)
        assert recorded(store, "openai", 2, result("openai", False, before.generation)).health.consecutive_failures == 0
        assert recorded(store, "openai", 3, result("openai", False, health.generation)).health.consecutive_failures == 1
        assert "transition" not in [event.event for event in backend.operator().events("openai")]

    def test_an_operators_no_outlasts_it(self, backend):
        """`available=False` is no rule's."""
        store = backend.store(now_ms=1000)
        store.register(OPENAI, QUICK)
        recorded(store, "openai", 1, *[result("openai", False)] * 3)
        store.update("openai", {"available": "0"})
        health = store.reset("openai", "bob", "").health
        assert (health.circuit_state, health.unavailable_reason) == ("closed", "operator")

    def test_who_complained_is_forgotten(self, backend):
        """With `min_reporters`: it takes as many anew."""
        demanding = replace(QUICK, min_reporters=2)
        first, second = backend.store("gw-1", now_ms=1000), backend.store("gw-2", now_ms=1000)
        first.register(OPENAI, demanding)
        for store in (first, second):
            recorded(store, "openai", 1, result("openai", True))
        recorded(first, "openai", 2, result("openai", False))
        first.reset("openai", "bob", "")
        results = [result("openai", False, 2)] * 3
        assert recorded(second, "openai", 2, *results).health.circuit_state is CircuitState.CLOSED
        assert recorded(first, "openai", 3, *results).health.circuit_state is CircuitState.OPEN

    def test_what_a_replica_decided_alone_is_forgotten(self, router, circuit):
        """With `min_reporters` it may see an open circuit where the fleet's is closed."""
        replica, other = (router(circuit=replace(circuit, min_reporters=2)) for _ in range(2))
        for each in (replica, other):
            each.register_provider(OPENAI)
            each.start()
            each.record_result("openai", success=True, latency_ms=5.0)
            assert each.flush()
        fail(replica, "openai", 3)
        until(replica, "openai", "open")
        assert other.get_circuit_state("openai") == "closed"
        other.reset("openai")
        until(replica, "openai", "closed")

    def test_the_whole_fleet_calls_it_again(self, pair, caplog):
        """At once; and each replica says why."""
        caplog.set_level("INFO", "redis_router")
        first, second = pair
        fail(second, "openai", 3)
        until(first, "openai", "open")
        first.reset("openai", reason="moved", by="alice")
        eventually(lambda: serves(first, "openai", "azure") and serves(second, "openai", "azure"))
        eventually(lambda: caplog.text.count("openai is closed (reset), was open") == 2)


class TestLog:
    def test_every_word_is_in_it_with_who_and_why(self, backend):
        """And so is its end, of those that end by themselves, too."""
        store, log = backend.store(now_ms=1000), backend.operator()
        store.register(OPENAI, QUICK)
        store.override("openai", "drain", 1000, 0, "alice", "maintenance")
        store.now_ms = 2500
        recorded(store, "openai", 1, result("openai", True))
        store.override("openai", "weight", 0, 0.5, "bob", "")
        store.override("openai", END, 0, 0, "bob", "done")
        told = [(e.event, e.by, *e.details.values()) for e in log.events("openai") if "override" in e.event]
        assert told == [
            ("override", "alice", "", "drain", "2000", "maintenance"),
            ("override", "gw", "drain", "", "0", "expired"),
            ("weight_override", "bob", "2", "0.5", str(FOR_EVER_MS), ""),
            ("weight_override", "bob", "0.5", "2", "0", "done"),
        ]

    def test_the_leader_writes_that_one_is_over(self, backend, pair, checker):
        """At once, without traffic; a record that nobody writes otherwise."""
        first, _ = pair
        worker = checker(interval=60.0, worker="w1")
        worker.start()
        first.drain("openai", seconds=A_MOMENT, by="alice")
        first.override("openai", "weight", weight=0.5, seconds=2 * A_MOMENT, by="alice")
        log = backend.operator()

        def ended():
            return [(e.event, e.by) for e in log.events("openai") if e.details.get("reason") == "expired"]

        eventually(lambda: ended() == [("override", "w1"), ("weight_override", "w1")])
        assert metric(worker, "override_until_timestamp_seconds", provider="openai", override="drain") == 0
        assert backend.record().override == ""

    def test_nothing_is_over_before_its_time(self, backend):
        """Whatever a worker believes."""
        store = backend.store(now_ms=1000)
        store.register(OPENAI, QUICK)
        store.override("openai", "drain", 1000, 0, "alice", "")
        store.now_ms = 1999
        assert store.override("openai", LAPSE, 0, 0, "w1", "").health.override == "drain"
        store.now_ms = 2000
        health = store.override("openai", LAPSE, 0, 0, "w1", "").health
        assert (health.override, health.override_since_ms, health.override_until_ms) == ("", 0, 0)

    def test_who_says_the_same_again_prolongs_it(self, backend):
        """Since then it is in force, for the alert on what was forgotten; another word begins anew."""
        store = backend.store(now_ms=1000)
        store.register(OPENAI, QUICK, observe=True)
        assert backend.record().override_since_ms == 1000
        moments = []
        for word, weight in [("drain", 0), ("drain", 0), ("force_open", 0), ("weight", 0.5), ("weight", 0)]:
            store.now_ms += 1000
            health = store.override("openai", word, 60_000, weight, "alice", "").health
            moments.append((health.override_since_ms, health.weight_override_since_ms))
        assert moments == [(2000, 0), (2000, 0), (4000, 0), (4000, 5000), (4000, 5000)]

    def test_an_update_is_in_it_with_old_and_new(self, backend):
        """Also of what is said for good."""
        store = backend.store(now_ms=1)
        store.register(AZURE, QUICK)
        store.update("azure", {"weight": "3.0"})
        assert backend.operator().events("azure")[-1].details["detail"].replace(".0", "") == "weight 1>3"

    def test_a_change_of_settings_has_who_and_why(self, pair, backend):
        """Through a router as through an operator; user and host where nobody said who."""
        first, _ = pair
        first.update_health("openai", weight=3.0, reason="more quota", by="alice")
        first.set_circuit_config(replace(QUICK, consecutive_failure_limit=9), "openai", reason="noisy", by="bob")
        first.update_health("openai", weight=2.0)
        told = [event for event in backend.operator().events("openai") if event.event == "updated"]
        assert [(event.by, event.details.get("reason")) for event in told] == [
            ("alice", "more quota"),
            ("bob", "noisy"),
            (operator_name(), None),
        ]
        assert "consecutive_failure_limit" in told[1].details["detail"]

    @pytest.mark.parametrize("wrong", [{"reason": "two\nlines"}, {"reason": "x" * 201}, {"by": "x" * 65}, {"by": 7}])
    def test_who_and_why_are_checked(self, pair, wrong):
        """Before anything is stored."""
        first, _ = pair
        for act in (
            lambda: first.update_health("openai", weight=3.0, **wrong),
            lambda: first.set_circuit_config(QUICK, "openai", **wrong),
            lambda: first.reset("openai", **wrong),
            lambda: first.end_override("openai", **wrong),
        ):
            with pytest.raises(InvalidArgument, match=r"by|reason"):
                act()
        assert first.get_health_status()["openai"].weight == OPENAI.weight

    def test_of_no_record(self, backend):
        """Nothing is written."""
        store = backend.store()
        assert store.override("openai", "drain", 0, 0, "alice", "").status is Status.MISSING
        assert store.reset("openai", "alice", "").status is Status.MISSING


@pytest.fixture
def operator(backend):
    with Operator(backend.url if backend.name == "memory" else backend.client(), backend.namespace, by="alice") as made:
        yield made


class TestOperator:
    def test_acts_on_the_fleet_and_looks_without_being_of_it(self, pair, operator, backend):
        """It registers nothing."""
        first, _ = pair
        operator.drain("openai", reason="maintenance")
        eventually(lambda: serves(first, "azure"))
        health = operator.status().records["openai"]
        assert (health.override, health.override_by, health.override_reason) == ("drain", "alice", "maintenance")
        assert operator.events("openai", since=600)[-1].by == "alice"
        operator.end_override("openai")
        eventually(lambda: serves(first, "openai", "azure"))
        operator.reset("openai", reason="moved")
        assert (operator.events("openai")[-1].event, operator.events("openai")[-1].by) == ("reset", "alice")
        operator.update_health("openai", available=False, reason="moved")
        eventually(lambda: serves(first, "azure"))
        operator.set_circuit_config(QUICK, "openai", by="bob")
        eventually(lambda: first.get_health_status()["openai"].config == QUICK)
        told = [(event.by, event.details.get("reason")) for event in operator.events("openai")]
        assert told[-2:] == [("alice", "moved"), ("bob", None)]

    def test_the_whole_namespace_at_once(self, pair, operator, backend):
        """`*`: how a careful team begins."""
        operator.override("*", "observe", seconds=None)
        assert {health.override for health in operator.status().records.values()} == {"observe"}

    def test_who_nobody_knows(self, pair, operator):
        """With the names that there are."""
        with pytest.raises(UnknownProvider, match=r"'opnai'.*azure, openai"):
            operator.drain("opnai")

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"override": "darin"}, "give one of drain"),
            ({"seconds": 0}, "seconds is 0"),
            ({"reason": "x" * 201}, "at most 200"),
            ({"reason": "two\nlines"}, "on one line"),
            ({"by": 7}, "by is 7"),
            ({"weight": 1.0}, "give weight="),
            ({"override": "weight"}, "give weight="),
            ({"override": "weight", "weight": -1}, "weight"),
        ],
    )
    def test_bad_words_are_refused_before_anything_is_stored(self, pair, operator, given, said):
        """The thing, the value, the remedy."""
        with pytest.raises(InvalidArgument, match=said):
            operator.override(**{"name": "openai", "override": "drain", **given})
        assert operator.status().records["openai"].override == ""


def serves_a_trial(replica):
    """Does a call with a permit go to it?"""
    try:
        with replica.attempt("gpt-4o") as attempt:
            return attempt.permit is not None
    except NoProviderAvailable:
        return False


def half_open_record(backend):
    """A store in which openai is half-open, at its own moment."""
    store = backend.store(now_ms=1000)
    store.register(Provider("openai", ("m",)), CircuitConfig(open_timeout=1.0, half_open_success_threshold=2))
    recorded(store, "openai", 1, *[result("openai", False)] * 5)
    store.now_ms += 1000
    assert store.half_open("openai").health.circuit_state is CircuitState.HALF_OPEN
    return store


def fail_quietly(replica, name, times):
    """Without Redis nothing is seen through."""
    for _ in range(times):
        replica.record_result(name, success=False, latency_ms=10.0)
