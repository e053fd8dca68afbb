"""Whatever is lost on the way, there or back: each result is applied once, in order, or counted as dropped."""

import threading
import time
from types import SimpleNamespace
from unittest import mock

import fakeredis
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from redis_router import CircuitConfig, Outcome, Provider, errors
from redis_router.circuit.outcome import Result
from redis_router.replica import outbox as courier
from redis_router.replica.outbox import Courier
from redis_router.store.redis import Store
from redis_router.telemetry.metrics import Metrics
from tests.support import metric

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 130)),
        st.tuples(st.sampled_from(["carry", "lose_request", "lose_reply"]), st.just(0)),
        st.tuples(st.just("wait"), st.floats(0.1, 4.0)),
    ),
    max_size=25,
)


class Line(Store):
    """A store whose line to the server drops what it is told to."""

    trouble = ""

    def record(self, batches):
        trouble, self.trouble = self.trouble, ""
        if trouble == "lose_request":
            raise errors.RedisUnavailable("lost on the way there")
        replies = super().record(batches)
        if trouble == "lose_reply":
            raise errors.RedisUnavailable("lost on the way back")
        return replies


def play(steps, line=Line):
    """Latencies are numbers in the order of recording: the record's last sample tells what came last."""
    clock = SimpleNamespace(now=100.0)
    with mock.patch.object(courier, "time", SimpleNamespace(monotonic=lambda: clock.now)):
        return _play(steps, line, clock)


def _play(steps, line, clock):
    registry = CollectorRegistry()
    store = line(fakeredis.FakeRedis(server=fakeredis.FakeServer()), "rr", "gw", now_ms=1)
    store.register(Provider("p", ("m",)), CircuitConfig())
    applied = []
    carrier = Courier(store, Metrics(registry), 10_000, 5.0, lambda reply, results: applied.append(reply), print, print)
    recorded = 0
    for step, value in [*steps, ("carry", 0), ("carry", 0)]:
        if step == "put":
            for _ in range(value):
                recorded += 1
                carrier.put(Result("p", Outcome.SUCCESS, float(recorded), 1))
        elif step == "wait":
            clock.now += value
            carrier.drain()
        else:
            store.trouble = "" if step == "carry" else step
            carrier.drain()
            try:
                carrier.carry()
            except errors.RedisUnavailable:
                continue
    counted = metric(registry, "requests_total", provider="p", outcome="success")
    dropped = metric(registry, "results_dropped_total", reason="expired")
    in_redis = store.snapshot(["p"]).records["p"].consecutive_successes
    assert carrier.pending == 0
    return recorded, counted, dropped, in_redis


@given(STEPS)
def test_applied_once_or_counted_as_dropped(steps):
    """What Redis counted, what we say was applied, and what we say was dropped add up."""
    recorded, counted, dropped, in_redis = play(steps)
    assert in_redis == counted
    assert recorded == counted + dropped


def test_it_can_fail():
    """Without sequence numbers a lost reply counts twice."""

    class Forgetful(Line):
        def record(self, batches):
            self.session += "x"
            return super().record(batches)

    _, counted, _, in_redis = play([("put", 3), ("lose_reply", 0)], Forgetful)
    assert in_redis > counted


def test_results_younger_than_the_limit_are_delivered():
    """And those older are not, however often the line broke."""
    steps = [("put", 2), ("lose_request", 0), ("wait", 4.0), ("put", 3), ("lose_request", 0), ("wait", 2.0)]
    assert play(steps) == (5, 3, 2, 3)


def test_an_old_batch_in_doubt_is_asked_for():
    """Its reply was lost: it was applied, and is counted so, however late we learn it."""
    assert play([("put", 2), ("lose_reply", 0), ("wait", 4.0), ("wait", 4.0)]) == (2, 2, 0, 2)


def test_recording_takes_no_lock():
    """A signal handler, or the garbage collector, may come in while this very thread holds the courier's lock."""
    store = Store(fakeredis.FakeRedis(), "rr", "gw")
    carrier = Courier(store, Metrics(CollectorRegistry()), 10, 5.0, print, print, print)
    held, over = threading.Event(), threading.Event()

    def hold():
        with carrier._lock:
            held.set()
            over.wait(30.0)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert held.wait(5.0)
    for outcome in Outcome:
        carrier.put(Result("p", outcome, 0.0, 1, "permit"))
    over.set()
    thread.join()
    assert carrier.pending == len(Outcome)


def slow_lane(limit=10_000):
    """A courier whose carrier thread is the test."""
    store = Store(fakeredis.FakeRedis(), "rr", "gw")
    for name in ("p", "q"):
        store.register(Provider(name, ("m",)), CircuitConfig())
    registry = CollectorRegistry()
    return Courier(store, Metrics(registry), limit, 5.0, lambda reply, results: None, print, print), store, registry


def applied(store):
    return sum(health.consecutive_successes for health in store.snapshot().records.values())


def test_what_a_full_batch_left_over_waits_for_company():
    """130 successes: 100 travel at once, 30 with the next round; with a marker, or a failure, all do."""
    carrier, store, _ = slow_lane()
    for _ in range(130):
        carrier.put(Result("p", Outcome.SUCCESS, 1.0, 1))
    carrier.sleep(0.0, 0.001)
    carrier.drain()
    carrier.carry()
    assert (applied(store), carrier.pending) == (100, 30)
    carrier.sleep(60.0, 0.001)  # returns for what was left
    carrier.drain()
    carrier.carry()
    assert (applied(store), carrier.pending) == (130, 0)
    for _ in range(130):
        carrier.put(Result("p", Outcome.SUCCESS, 1.0, 1))
    carrier.mark()
    carrier.sleep(60.0, 60.0)
    carrier.drain()
    carrier.carry()
    assert (applied(store), carrier.pending) == (260, 0)


def test_company_is_not_awaited_until_the_buffer_is_full():
    """However many providers there are: what waits never comes near the limit."""
    carrier, _, registry = slow_lane(limit=100)
    carrier._in_use = 50
    for _ in range(60):
        carrier.put(Result("p", Outcome.SUCCESS, 1.0, 1))
    waits = []
    carrier._alarm = SimpleNamespace(wait=waits.append, ring=lambda: None)
    carrier.sleep(60.0, 0.01)
    assert waits == [0.01]
    assert metric(registry, "results_dropped_total", reason="buffer_full") == 0


def test_company_does_not_hold_up_what_must_be_looked_at():
    """A permit is renewed in time, whatever `flush_interval` is."""
    carrier, _, _ = slow_lane()
    carrier.put(Result("p", Outcome.SUCCESS, 1.0, 1))
    began = time.monotonic()
    carrier.sleep(0.05, 60.0)
    assert time.monotonic() - began < 30.0
