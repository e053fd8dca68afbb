"""What is told of one provider, on every store: permits, reporters, calls and replicas, in words and as JSON."""

from dataclasses import replace

import pytest

from redis_router import CircuitConfig, Outcome, Provider
from redis_router.circuit.outcome import Result, UnderWay
from redis_router.circuit.record import ProviderHealth
from redis_router.operate import words
from redis_router.operate.account import NOT_ALLOWED, Account
from redis_router.replicas import compared
from redis_router.store.contract import Batch
from redis_router.store.presence import COUNTED_FOR_MS, GATEWAY, Calls, Presence, Surroundings
from tests.support import recorded, result

AT = 1_000_000_000
CIRCUIT = CircuitConfig(consecutive_failure_limit=2, half_open_max_probes=3, open_timeout=10.0, min_reporters=2)


class Told:
    """What happens to openai on one store, moment by moment, and the account of it."""

    def __init__(self, backend):
        self._backend = backend
        self._stores = {}
        self.by("gw-1", 0).register(Provider("openai", ("m",), weight=2.0), CIRCUIT)

    def by(self, name, ms):
        """The store of that replica at that moment."""
        store = self._stores.setdefault(name, self._backend.store(name, now_ms=AT))
        store.now_ms = AT + ms
        return store

    def says(self, name, ms, seq, *outcomes, calls=0, overdue=0, answering=0):
        """One batch of it."""
        results = [Result("openai", each, 10.0, 1, reason="http_503") for each in outcomes]
        self.by(name, ms).record([Batch("openai", seq, results, UnderWay(calls, overdue, answering))])

    def account(self, ms):
        """As a user who may read everything."""
        store = self._backend.operator()
        store.now_ms = AT + ms
        said = store.presences()
        snapshot = store.snapshot()
        return Account.of("openai", snapshot, store.surroundings("openai"), compared(said, snapshot))

    def line(self, what, ms):
        return dict(self.account(ms).lines).get(what)


@pytest.fixture
def told(backend):
    return Told(backend)


class TestTheAccount:
    def test_of_a_provider_that_nothing_happened_to(self, told):
        """A line for each thing all the same."""
        assert dict(told.account(0).lines) == {
            "circuit": "closed, generation 1",
            "next try": "-",
            "last failure": "-",
            "available": "yes",
            "probe": "-",
            "rate limit": "-",
            "override": "-",
            "weight": "2",
            "permits": "-",
            "reporters": "0 of 2 that it takes",
            "calls": "-",
            "results": "none yet",
            "replicas": "0 serve it",
            "models": "m",
        }

    def test_who_has_calls_under_way(self, told):
        """The most first, for a minute after it said so."""
        told.says("gw-1", 0, 1, calls=1)
        told.says("gw-2", 0, 1, calls=3, overdue=2, answering=1)
        assert told.line("calls", 0) == "4 (2 overdue): gw-2 3 (2 overdue), gw-1 1"
        assert told.account(0).facts["calls"][0] == {
            "replica": "gw-2",
            "calls": 3,
            "overdue": 2,
            "answering": 1,
            "said_ms": AT,
        }
        assert told.account(COUNTED_FOR_MS + 1).facts["calls"] == []

    def test_who_complains(self, told):
        """With `min_reporters`, until the circuit opens."""
        told.says("gw-2", 0, 1, calls=1)
        told.says("gw-1", 0, 1, Outcome.FAILURE, Outcome.FAILURE, calls=1)
        assert told.line("reporters", 3_000) == "1 of 2 that it takes: gw-1 3 s ago"
        assert told.account(0).facts["reporters"] == [{"replica": "gw-1", "at_ms": AT}]
        told.says("gw-2", 4_000, 2, Outcome.FAILURE)
        assert told.line("reporters", 4_000) == "0 of 2 that it takes"

    def test_one_that_asks_nobody_has_no_line_for_it(self, told):
        """`min_reporters` is off."""
        told.by("gw-1", 0).update("openai", {"min_reporters": "0"})
        assert told.line("reporters", 0) is None

    def test_who_holds_permits(self, told):
        """While it is half-open; those that expired are none."""
        told.by("gw-1", 0).update("openai", {"min_reporters": "0"})
        told.says("gw-1", 0, 1, Outcome.FAILURE, Outcome.FAILURE)
        assert told.line("circuit", 2_000) == "open for 2 s, generation 2; opened by consecutive_failures"
        assert told.line("next try", 2_000) == "in 8 s"
        assert told.line("last failure", 2_000) == "http_503"
        store = told.by("gw-1", 10_000)
        store.half_open("openai")
        assert store.claim("openai", [f"{store.session}:1"], 5_000)[1]
        assert told.line("permits", 11_000) == "1 of 3 in use: gw-1 for 4 s more"
        assert told.account(11_000).facts["permits"] == [{"replica": "gw-1", "until_ms": AT + 15_000}]
        assert told.line("permits", 15_000) == "0 of 3 in use"
        circuit = "half_open for 5 s, generation 3; opened by consecutive_failures; 0 of 3 trial calls went well"
        assert told.line("circuit", 15_000) == circuit

    def test_what_an_operator_said(self, told):
        """By whom, until when, and why."""
        store = told.by("gw-1", 0)
        store.override("openai", "drain", 1_800_000, 0.0, "alice", "slow since noon")
        store.override("openai", "weight", 0, 0.5, "bob", "a first half")
        assert told.line("override", 60_000) == "drain by alice, 29 min left: slow since noon"
        assert told.line("weight", 60_000) == "2, 0.5 by bob, for ever: a first half"
        store.update("openai", {"available": "0"})
        assert told.line("override", 60_000) == "available=False, until available=True"

    def test_a_rate_limit(self, told):
        """Until when, and of how long."""
        limited = Result("openai", Outcome.RATE_LIMITED, 10.0, 1, cooldown_ms=60_000)
        told.by("gw-1", 0).record([Batch("openai", 1, [limited])])
        assert told.line("rate limit", 15_000) == "ends in 45 s, of 60 s"

    def test_who_serves_it_and_sees_it_otherwise(self, told):
        """By what each said last."""
        told.by("gw-1", 0).update("openai", {"min_reporters": "0"})
        told.says("gw-1", 0, 1, Outcome.FAILURE, Outcome.FAILURE)
        for name, role, ms, word, own in (
            ("gw-1", GATEWAY, 6_000, "open 2", {}),
            ("gw-2", GATEWAY, 14_000, "closed 1", {}),
            ("gw-3", GATEWAY, 14_000, "open 2", {"openai": "closed"}),
            ("w-1", "leader", 14_000, "open 2", {}),
        ):
            store = told.by(name, ms)
            view = {"openai": word}
            store.say_present(Presence(store.session, name, role, "1", "h", 1, 0, view=view, own=own))
        said = "3 serve it: gw-2 saw closed 1, was open 2 for 14 s, gw-3 decides by itself, closed"
        assert told.line("replicas", 14_000) == said
        assert told.line("replicas", 40_000) == f"{said}, gw-1 silent for 34 s"
        assert {"replica": "gw-2", "sees": "closed 1"} in told.account(14_000).facts["replicas"]

    def test_results(self, told):
        """How they went last."""
        told.says("gw-1", 0, 1, Outcome.FAILURE)
        assert told.line("results", 3_000) == "last 3 s ago, failure rate 10.0%, latency 10.0 ms, failures in a row: 1"

    def test_answers_a_second(self, told):
        """Ten of them tell of one a second, over ten seconds; a minute later there are none."""
        for seq in range(1, 11):
            told.says("gw-1", 0, seq, Outcome.SUCCESS)
        assert ", 1.0 answers/s, successes in a row: 10" in told.line("results", 0)
        assert "answers/s" not in told.line("results", 60_000)

    def test_where_its_user_may_not_look(self, told):
        """The rest is told."""
        account = told.account(0)
        denied = replace(account, around=Surroundings(denied="no"))
        assert dict(denied.lines)["reporters"] == NOT_ALLOWED
        assert (denied.facts["permits"], denied.facts["reporters"], denied.facts["calls"]) == (None, None, [])


class TestSurroundings:
    def test_there_are_none(self, backend):
        """Of a provider that nobody knows."""
        assert backend.operator().surroundings("nobody") == Surroundings()

    def test_what_the_librarys_own_user_may_not_read(self, real):
        """Sorted sets take a right of an operator's: the calls are told all the same."""
        store = real.store("gw-1")
        store.register(Provider("openai", ("m",)), CIRCUIT)
        recorded(store, "openai", 1, result("openai", True))
        store.record([Batch("openai", 2, (), UnderWay(2))])
        around = store.surroundings("openai")
        assert "zrange" in around.denied
        assert (around.permits, around.reporters) == ({}, {})
        assert [each.calls for each in around.calls.values()] == [2]

    @pytest.mark.redis("memory keeps values, not texts")
    def test_what_a_hand_writes_is_passed_over(self, backend, redis_client):
        """In the hash of calls."""
        for said in ("", "x", "1 2", "1 2 3", "1 2 3 4 5", "1 -1 0 3", "1 1 0 99999999999999999999", b"\xff"):
            redis_client.hset(backend.keys.in_flight("openai"), f"{said!r}", said)
        redis_client.hset(backend.keys.in_flight("openai"), "gw.1", "1 0 0 5")
        assert backend.operator().surroundings("openai").calls == {"gw.1": Calls(1, 0, 0, 5)}


def test_a_latency_that_is_slow():
    """With what is usual, in `status` and in the full account."""
    health = ProviderHealth("openai", samples=20, usual_latency_ms=100.0, latency_deviation_ms=25.0, latency_ms=301.0)
    assert words.latency(health) == "301.0 ms, usually 100.0 ms"
    assert words.latency(replace(health, latency_ms=299.0)) == "299.0 ms"
