"""The table "What each does when…" of docs/operating.md: each cell, under each word, on every store.

A provider stands under each word, and serves a model of its own: who is called is seen word by word.
"""

from dataclasses import replace

import pytest

from redis_router import CircuitConfig, NoProviderAvailable, Provider
from redis_router.circuit.overrides import acting
from redis_router.circuit.record import CircuitState
from tests.support import eventually, metric, recorded, result
from tests.support.documents import rows, section
from tests.support.fleet import QUICK, fail, until

DRAIN, FORCE_OPEN, FORCE_CLOSED, OBSERVE = "drain", "force_open", "force_closed", "observe"
NOTHING, MORE = "weight-0", "weight-3"
WORDS = (DRAIN, FORCE_OPEN, FORCE_CLOSED, OBSERVE, NOTHING, MORE)
LET_IN = {FORCE_CLOSED, OBSERVE}
IN_SERVICE = {*LET_IN, MORE}
"""Those that leave the rules, or let calls in whatever these say."""


def said(word):
    """As `override` takes it."""
    name, _, weight = word.partition("-")
    return {"override": name, "weight": float(weight) if weight else None}


def say(replica, **how):
    """Each provider comes under its word."""
    for word in WORDS:
        replica.override(word, **said(word), **{"reason": "as told", "by": "alice", **how})


def called(replica):
    """The words under which a provider is called now."""
    return {word for word in WORDS if _is_called(replica, word)}


def _is_called(replica, word):
    try:
        return replica.select_provider(word).name == word
    except NoProviderAvailable:
        return False


@pytest.fixture
def started(router):
    """Makes a replica that knows a provider for each word."""

    def make(**options):
        circuit = replace(QUICK, open_timeout=60.0)
        replica = router(**{"circuit": circuit, "when_all_open": "raise", "strategy": "round_robin", **options})
        for word in WORDS:
            replica.register_provider(Provider(word, (word,)))
        replica.start()
        return replica

    return make


@pytest.fixture
def store(backend):
    """At its own moment: a record whose circuit is half-open, with one permit in use of two."""
    made = backend.store(now_ms=1000)
    made.register(Provider("openai", ("m",)), replace(QUICK, open_timeout=1.0))
    recorded(made, "openai", 1, *[result("openai", False)] * 3)
    made.now_ms += 1000
    assert made.half_open("openai").health.circuit_state is CircuitState.HALF_OPEN
    assert made.claim("openai", ["held"], 60_000)[1] == ["held"]
    return made


def test_closed(started):
    """Only what lets calls in, or leaves them a weight, does."""
    replica, other = started(), started()
    say(replica)
    assert called(replica) == IN_SERVICE
    eventually(lambda: called(other) == IN_SERVICE)


def test_closed_with_another_weight(router):
    """Under a strategy that goes by weights it has that share."""
    replica = router(strategy="weighted")
    for name in ("a", "b"):
        replica.register_provider(Provider(name, ("m",)))
    replica.start()
    replica.override("a", "weight", weight=3.0)
    shares = [replica.select_provider("m").name for _ in range(400)].count("a")
    assert shares == pytest.approx(300, abs=40)


def test_open(started):
    """A weight is nobody's leave."""
    replica = started()
    say(replica)
    for word in WORDS:
        fail(replica, word)
        until(replica, word, "open")
    assert called(replica) == LET_IN


@pytest.mark.parametrize("word", WORDS)
def test_open_until_half_open(backend, word):
    """The time until then runs under each."""
    store = backend.store(now_ms=1000)
    store.register(Provider("openai", ("m",)), CircuitConfig(consecutive_failure_limit=1, open_timeout=1.0))
    recorded(store, "openai", 1, result("openai", False))
    how = said(word)
    store.override("openai", how["override"], 0, how["weight"] or 0.0, "alice", "")
    store.now_ms += 999
    assert store.half_open("openai").transitions == ()
    store.now_ms += 1
    assert store.half_open("openai").health.circuit_state is CircuitState.HALF_OPEN


def test_half_open(started, checker):
    """No trial calls; all calls without a permit; or, with a weight left, trial calls."""
    replica, worker = started(circuit=replace(QUICK, half_open_success_threshold=100)), checker()
    say(replica)
    worker.run_once()  # it leads
    for word in WORDS:
        fail(replica, word)
    eventually(lambda: worker.run_once() and all(_is_half_open(replica, word) for word in WORDS))
    flowing = {word: [replica.attempt(word) for _ in range(10)] for word in LET_IN}
    assert {attempt.permit for attempts in flowing.values() for attempt in attempts} == {None}
    for attempt in (attempt for attempts in flowing.values() for attempt in attempts):
        attempt.discard()
    trial = eventually(lambda: _attempt(replica, MORE))
    assert trial.permit is not None
    trial.discard()
    assert {word for word in (DRAIN, FORCE_OPEN, NOTHING) if _attempt(replica, word)} == set()


def _is_half_open(replica, word):
    return replica.get_circuit_state(word) == "half_open"


def _attempt(replica, word):
    try:
        return replica.attempt(word)
    except NoProviderAvailable:
        return None


@pytest.mark.parametrize("word", [FORCE_CLOSED, OBSERVE])
@pytest.mark.parametrize(("success", "state"), [(True, "closed"), (False, "open")])
def test_half_open_results(store, word, success, state):
    """Of calls without a permit, they close or open the circuit."""
    health = store.override("openai", word, 0, 0, "alice", "").health
    results = [result("openai", success, health.generation)] * (2 if success else 1)
    assert recorded(store, "openai", 9, *results).health.circuit_state == state


@pytest.mark.parametrize("word", WORDS)
def test_permits(store, word):
    """Who has one keeps it; another one is given by none that takes out of service."""
    how = said(word)
    store.override("openai", how["override"], 0, how["weight"] or 0.0, "alice", "")
    assert store.claim("openai", ["held", "new"], 60_000)[1] == (["held", "new"] if word in IN_SERVICE else ["held"])


def test_a_probe_fails(started, backend):
    """It is a rule: only what is above rules lets calls in."""
    replica = started()
    say(replica)
    for word in WORDS:
        backend.looking.update(word, {"available": "0"}, "probe")
    eventually(lambda: called(replica) == LET_IN)
    for word in WORDS:
        assert not replica.get_health_status()[word].available


def test_a_rate_limit(started):
    """The provider's own word holds under each, and is over by itself."""
    replica = started()
    say(replica)
    for word in WORDS:
        replica.record_result(word, outcome="rate_limited", cooldown=1.5)
    assert replica.flush()
    assert called(replica) == set()
    eventually(lambda: called(replica) == IN_SERVICE)


@pytest.mark.parametrize("rule", ["least_bad", "panic"])
def test_when_all_are_open(started, rule):
    """An operator's word is no circuit: nobody is better than somebody who is taken out."""
    replica = started(when_all_open=rule)
    before = {word: [replica.attempt(word) for _ in range(3)] for word in WORDS}
    say(replica)
    for word in WORDS:
        fail(replica, word)
        until(replica, word, "open")
        for attempt in before[word]:  # calls that began before are answered: it still answers
            with attempt:
                pass
    assert replica.flush()
    eventually(lambda: called(replica) == IN_SERVICE)


def test_redis_is_away(started, outage):
    """Each holds and ends in time; then the rules count, which opened the circuits of those that let calls in."""
    replica = started()
    for word in LET_IN:
        fail(replica, word)
        until(replica, word, "open")
    say(replica, seconds=6.0)
    assert called(replica) == IN_SERVICE
    first_end = min(ends(replica))
    with outage():
        eventually(lambda: not metric(replica, "redis_up"))
        held = called(replica)
        assert held == IN_SERVICE or replica._engine.now_ms() >= first_end  # the machine was too slow to see it
        eventually(lambda: called(replica) == {*WORDS} - LET_IN)


def ends(replica):
    """When its overrides end, ms."""
    found = replica.get_health_status()
    return [found[word].override_until_ms or found[word].weight_override_until_ms for word in WORDS]


def test_its_record_was_lost(started, backend, redis_client):
    """A replica puts it back with the record: the word, its end, who and why."""
    replica = started()
    say(replica)
    before = backend.looking.snapshot(WORDS).records
    redis_client.delete(*(backend.keys.health(word) for word in WORDS))
    for word in WORDS:
        replica.record_result(word, success=True, latency_ms=1.0)
    eventually(lambda: backend.looking.snapshot(WORDS).records.keys() == set(WORDS))
    after = backend.looking.snapshot(WORDS).records
    for word in WORDS:
        for field in ("", "_since_ms", "_until_ms", "_by", "_reason"):
            name = f"{'weight_override' if '-' in word else 'override'}{field}"
            assert getattr(after[word], name) == getattr(before[word], name), (word, name)
    assert called(replica) == IN_SERVICE


def test_deregistered(started, backend):
    """It is gone, and a provider that comes back begins without one; the log stays."""
    replica = started()
    say(replica)
    for word in WORDS:
        replica.deregister_provider(word, everywhere=True)
        replica.register_provider(Provider(word, (word,)))
    assert replica.flush()
    eventually(lambda: called(replica) == set(WORDS))
    for word in WORDS:
        told = [(event.event, event.by) for event in backend.operator().events(word)]
        assert ("weight_override" if "-" in word else "override", "alice") in told
        record = backend.record(word)
        assert record == acting(record, 0), "no override is left"


def test_every_row_has_its_test():
    """By its name."""
    row = {
        "closed": test_closed,
        "open": test_open,
        "half-open": test_half_open,
        "permits": test_permits,
        "a probe fails": test_a_probe_fails,
        "a rate limit": test_a_rate_limit,
        '`when_all_open="least_bad"`, `"panic"`': test_when_all_are_open,
        "Redis is away": test_redis_is_away,
        "its record was lost": test_its_record_was_lost,
        "deregistered": test_deregistered,
    }
    assert [cells[0] for cells in rows(section("docs/operating.md", "What each does when…"))] == list(row)
