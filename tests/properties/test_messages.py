"""Whatever stands in Redis, it becomes a value or a refusal by name, and the neighbour is served."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from redis_router import (
    InvalidArgument,
    NoProviderAvailable,
    Outcome,
    Provider,
    RedisRefused,
)
from redis_router.circuit import machine as circuit
from redis_router.circuit.outcome import Result
from redis_router.circuit.record import ProviderHealth
from redis_router.cli import status
from redis_router.replica.alone import Alone
from redis_router.routing.refusal import NobodyNow
from redis_router.routing.strategies import STRATEGIES, resolve
from redis_router.routing.table import Tables, changes_in_ms
from redis_router.store import messages
from redis_router.store.messages import Spec
from redis_router.store.redis import Snapshot
from redis_router.telemetry.metrics import Metrics

NOW = 1_800_000_000_000.0
GOOD = {k.encode(): v.encode() for k, v in ProviderHealth("broken", version=7).to_fields().items()}
NASTY = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(str.encode),
    st.integers(-(10**20), 10**20).map(lambda n: str(n).encode()),
    st.floats().map(lambda n: repr(n).encode()),
    st.sampled_from(
        [
            b"nan",
            b"inf",
            b"-inf",
            b"1e17",
            b"1e999",
            b"0x10",
            b"-0",
            b"9" * 5000,
            b"\xff",
            b"",
            b"closed",
            b"open",
            b"0",
        ]
    ),
)
RECORDS = st.dictionaries(st.one_of(st.sampled_from(sorted(GOOD)), st.binary(max_size=10)), NASTY, max_size=6).map(
    lambda changed: GOOD | changed
)


def flat(mapping):
    return [part for pair in mapping.items() for part in pair]


@given(RECORDS)
@settings(max_examples=400, deadline=None)
@example(GOOD | {b"cooldown_until_ms": b"253402300799000", b"cooldown_ms": b"604800000"})
@example(GOOD | {b"circuit_state": b"open", b"open_timeout_factor": b"9e15", b"open_timeout_multiplier": b"100"})
@example(GOOD | {b"weight": b"0", b"circuit_state": b"half_open"})
def test_a_record_is_a_value_that_everybody_can_use_or_a_refusal(fields):
    """Table, choice, refusal, metrics, status, the local breaker and the pushes: none of them raises."""
    try:
        health = messages.health("broken", fields)
    except RedisRefused:
        return
    assert messages.reply("broken", [b"ok", b"", b"1", *flat(fields)]).health == health
    pushed = {name.decode(errors="replace"): text.decode(errors="replace") for name, text in fields.items()}
    event = messages.event(json.dumps({"event": "averages", "provider": "broken", "health": pushed}).encode())
    assert event.health == health
    neighbour, models = ProviderHealth("healthy"), ("m",)
    for strategy in STRATEGIES:
        tables = Tables(resolve(strategy), lambda: NOW)
        table = tables.build(
            [Provider("broken", models), Provider("healthy", models)], {"broken": health, "healthy": neighbour}
        )
        assert {table.picks["m"]().provider.name for _ in range(5)} <= {"broken", "healthy"} if table.picks else True
        assert "healthy" in {c.health.name for c in table.find("m").routable}
    refusal = NobodyNow("m", table.find("m").candidates, {}, NOW, 0.0)
    assert set(refusal.reasons) == {"broken", "healthy"}
    assert str(NoProviderAvailable.because("m", refusal.why))
    changes_in_ms(health, NOW)
    Metrics(CollectorRegistry()).health([health])
    snapshot = Snapshot(int(NOW), None, {"broken": Spec(models)}, {}, {}, {"broken": health})
    assert status.as_table(snapshot, [])
    json.loads(status.as_json(snapshot, [], {}))
    alone = Alone("gw", lambda: NOW)
    alone.begin({"broken": health})
    for outcome in Outcome:
        alone.decide([Result("broken", outcome, 5.0, health.generation, cooldown_ms=5.0)] * 3)
    circuit.fold(
        circuit.half_open(health, int(NOW))[0], Result("broken", Outcome.SUCCESS, 5.0, health.generation + 1), int(NOW)
    )


ANYTHING = st.recursive(
    st.one_of(st.none(), st.integers(), NASTY, st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


@given(st.one_of(st.lists(ANYTHING, max_size=10), ANYTHING))
@settings(max_examples=300, deadline=None)
def test_a_reply_is_a_value_or_a_refusal(raw):
    """Of a script on a record, of a campaign, of a pipeline's HGETALL."""
    for read in (lambda: messages.reply("p", raw), lambda: messages.leader(raw), lambda: messages.health("p", raw)):
        try:
            read()
        except RedisRefused:
            continue


WORDS = [
    "event",
    "provider",
    "health",
    "by",
    "models",
    "probe",
    "deregistered",
    "generation",
    "at_ms",
    "url",
    "headers",
]
JSON = st.recursive(
    st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(WORDS), inner, max_size=6)),
    max_leaves=10,
).map(lambda said: json.dumps(said).encode())


@given(st.one_of(NASTY, st.binary(max_size=200), JSON))
@settings(max_examples=400, deadline=None)
@example(b"[" * 100_000)
@example(b'{"deregistered": 1, "generation": 1e999}')
@example(b'{"models": ["m"], "probe": {"url": "http://x", "headers": {"a": 1}}}')
def test_a_message_and_a_spec_are_values(data):
    """A push that is not ours is passed over; a spec that is not ours has no models."""
    messages.event(data)
    assert isinstance(messages.spec("p", messages.text(data)), Spec)


@given(st.text(max_size=80))
def test_a_name_is_one_or_refused(said):
    """So that no name from Redis reaches another key, a label or a terminal."""
    try:
        assert messages.name(said) == said
    except RedisRefused:
        with pytest.raises(InvalidArgument, match="is not usable"):
            Provider(said, ("m",))


def test_who_is_refused_is_named():
    """The provider, the value and what to do."""
    with pytest.raises(RedisRefused, match=r"'broken'.*'foo' is not a valid CircuitState.*delete it"):
        messages.health("broken", GOOD | {b"circuit_state": b"foo"})
    assert NoProviderAvailable("m", {"p": "why"}).reasons == {"p": "why"}
