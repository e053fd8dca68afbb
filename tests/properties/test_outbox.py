"""Whatever is lost on the way, there or back: each result is applied once, in order, or counted as dropped."""

import threading
from types import SimpleNamespace
from unittest import mock

import fakeredis
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from redis_router import CircuitConfig, Outcome, Provider, errors
from redis_router.circuit.outcome import Result
from redis_router.replica import outbox as outboxes
from redis_router.replica.outbox import Outbox
from redis_router.store.redis import RedisStore
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


class Line(RedisStore):
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
    with mock.patch.object(outboxes, "time", SimpleNamespace(monotonic=lambda: clock.now)):
        return _play(steps, line, clock)


def _play(steps, line, clock):
    registry = CollectorRegistry()
    store = line(fakeredis.FakeRedis(server=fakeredis.FakeServer()), "rr", "gw", now_ms=1)
    store.register(Provider("p", ("m",)), CircuitConfig())
    outbox = Outbox(Metrics(registry), 10_000, 5.0, 0.02)
    recorded = 0
    for step, value in [*steps, ("carry", 0), ("carry", 0)]:
        if step == "put":
            for _ in range(value):
                recorded += 1
                outbox.put(Result("p", Outcome.SUCCESS, float(recorded), 1))
        elif step == "wait":
            clock.now += value
            outbox.drain()
        else:
            store.trouble = "" if step == "carry" else step
            outbox.mark()
            outbox.drain()
            try:
                list(outbox.send(store, {}))
            except errors.RedisUnavailable:
                continue
    counted = metric(registry, "requests_total", provider="p", outcome="success")
    dropped = metric(registry, "results_dropped_total", reason="expired")
    in_redis = store.snapshot(["p"]).records["p"].consecutive_successes
    assert outbox.pending == 0
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
    """A signal handler, or the garbage collector, may come in while this very thread holds the outbox's lock."""
    outbox = Outbox(Metrics(CollectorRegistry()), 10, 5.0, 0.02)
    held, over = threading.Event(), threading.Event()

    def hold():
        with outbox._queues.lock:
            held.set()
            over.wait(30.0)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert held.wait(5.0)
    for outcome in Outcome:
        outbox.put(Result("p", outcome, 0.0, 1, "permit"))
    over.set()
    thread.join()
    assert outbox.pending == len(Outcome)


class Lane:
    """An outbox whose threads are the test: `round` does what both do, once."""

    def __init__(self, limit=10_000, flush_interval=0.001):
        self.store = RedisStore(fakeredis.FakeRedis(), "rr", "gw")
        for name in ("p", "q"):
            self.store.register(Provider(name, ("m",)), CircuitConfig())
        self.registry = CollectorRegistry()
        self.outbox = Outbox(Metrics(self.registry), limit, 5.0, flush_interval)

    def put(self, number, provider="p", outcome=Outcome.SUCCESS):
        for _ in range(number):
            self.outbox.put(Result(provider, outcome, 1.0, 1))

    def round(self, nap=60.0):
        self.outbox.sleep(nap)
        self.outbox.drain()
        list(self.outbox.send(self.store, {}))

    @property
    def applied(self):
        return sum(health.consecutive_successes for health in self.store.snapshot().records.values())


def test_what_a_full_batch_left_over_waits_for_company():
    """130 successes: 100 travel at once, 30 with the next round; with a marker all do."""
    lane = Lane()
    lane.put(130)
    lane.round()
    assert (lane.applied, lane.outbox.pending) == (100, 30)
    lane.round()  # returns for what was left
    assert (lane.applied, lane.outbox.pending) == (130, 0)
    lane.put(130)
    lane.outbox.mark()
    lane.round()
    assert (lane.applied, lane.outbox.pending) == (260, 0)


def test_what_must_not_wait_does_not_while_another_round_is_under_way():
    """It may be recorded just when the other thread sends, and is not sorted yet: the next round takes it."""
    lane = Lane(flush_interval=60.0)
    lane.put(1, "q", Outcome.FAILURE)
    list(lane.outbox.send(lane.store, {}))  # woken for something else
    lane.round()
    assert lane.store.snapshot().records["q"].consecutive_failures == 1


def test_what_must_not_wait_takes_only_its_own_providers_results_along():
    """A failure travels at once, behind what was recorded of its provider before; the others wait for company."""
    lane = Lane(flush_interval=60.0)
    lane.put(3, "p")
    lane.put(3, "q")
    lane.put(1, "q", Outcome.FAILURE)
    lane.round()
    records = lane.store.snapshot().records
    assert (records["q"].consecutive_failures, records["p"].consecutive_successes) == (1, 0)
    assert lane.outbox.pending == 3


def test_company_is_not_awaited_until_the_buffer_is_full():
    """However many providers there are: what waits never comes near the limit."""
    lane = Lane(limit=100, flush_interval=60.0)
    lane.outbox._queues.in_use = 50
    lane.put(60)
    lane.round()
    assert lane.applied == 60
    assert metric(lane.registry, "results_dropped_total", reason="buffer_full") == 0


def test_company_does_not_hold_up_what_must_be_looked_at():
    """A permit is renewed in time, whatever `flush_interval` is."""
    lane = Lane(flush_interval=600.0)  # more than the test has
    lane.put(1)
    lane.round(nap=0.05)
    assert lane.outbox.pending == 1
