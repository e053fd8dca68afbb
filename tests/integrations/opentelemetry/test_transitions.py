"""Transitions are events of the spans that they concern: of calls to that provider that did not end yet."""

from uuid import uuid4

import pytest
from opentelemetry.trace import StatusCode

from redis_router import CircuitConfig, Provider
from tests.integrations.opentelemetry.conftest import events_of
from tests.support import eventually
from tests.support.fleet import Status, fail, until

ONE = CircuitConfig(consecutive_failure_limit=1, open_timeout=60.0)


def seen(changes, provider):
    eventually(lambda: [change for change in changes if change.provider == provider], f"{provider} changed")


@pytest.fixture
def changes():
    """What the user's own listener heard, which is after the spans did."""
    return []


def test_the_request_that_tripped_a_circuit_shows_it(started, traces, changes):
    """It failed at the first, and is still under way at the second when the circuit opens."""
    router = started({"first": None, "second": None}, circuit=ONE, on_transition=changes.append)
    for attempt in router.attempts("m"):
        with attempt:
            if attempt.provider.name == "first":
                raise Status(503)
            seen(changes, "first")
    request = traces.named("request m")
    (event,) = request.events
    assert (event.name, dict(event.attributes)) == (
        "redis_router.transition",
        {
            "redis_router.provider": "first",
            "redis_router.from_state": "closed",
            "redis_router.to_state": "open",
            "redis_router.reason": "consecutive_failures",
            "redis_router.generation": 2,
            "redis_router.alone": False,
        },
    )
    assert request.status.status_code is StatusCode.UNSET
    assert events_of(traces.named("attempt first")) == ["exception"]  # it was over
    assert events_of(traces.named("attempt second")) == []  # it is of another provider


def test_a_call_that_hangs_sees_the_circuit_open(started, traces, changes):
    """The others failed meanwhile; what came later is no matter of this call."""
    router = started({"first": None}, circuit=ONE, on_transition=changes.append)
    with router.attempt("m"):
        fail(router, "first", 1)
        seen(changes, "first")
    assert events_of(traces.named("attempt first")) == ["redis_router.transition"]
    router.update_health("first", available=True)
    assert len(traces.spans) == 1


def test_another_replica_sees_it_too(started, traces, changes):
    """Whoever has a call under way there."""
    url = f"memory://{uuid4()}"
    one = started({"first": None}, redis=url, circuit=ONE)
    other = started({"first": None}, redis=url, circuit=ONE, on_transition=changes.append)
    with other.attempt("m"):
        fail(one, "first", 1)
        seen(changes, "first")
    assert events_of(traces.named("attempt first")) == ["redis_router.transition"]


def test_a_circuit_for_each_model(started, traces, changes):
    """The transition is of a record, the span of its provider."""
    router = started({}, circuit=ONE, on_transition=changes.append)
    router.register_provider(Provider("big", ("m", "n"), circuit_per_model=True))
    router.register_provider(Provider("bigger", ("n",)))
    with router.attempt("m"):
        router.record_result("big", success=False, latency_ms=1.0, model="m")
        seen(changes, "big/m")
    assert events_of(traces.named("attempt big")) == ["redis_router.transition"]


def test_a_listener_that_raises(started, traces):
    """The user's own: it is called after the spans heard of it, and logged as ever."""
    heard = []

    def listener(change):
        heard.append(change)
        raise RuntimeError("mine")

    router = started({"first": None}, circuit=ONE, on_transition=listener)
    with router.attempt("m"):
        fail(router, "first", 1)
        seen(heard, "first")
    until(router, "first", "open")
    assert events_of(traces.named("attempt first")) == ["redis_router.transition"]
