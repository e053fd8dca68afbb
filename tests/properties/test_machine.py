"""Random histories on Redis and in memory: the same replies, records and transitions, always.

Memory decides by `circuit/machine.py`, so this is where the Lua scripts meet their oracle.
"""

from dataclasses import replace
from itertools import count

import fakeredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redis_router import CircuitConfig, CircuitState, Outcome, Provider
from redis_router.circuit import machine as circuit
from redis_router.circuit.outcome import GONE, Result, UnderWay
from redis_router.circuit.overrides import END, LAPSE, WEIGHT, Override
from redis_router.store.contract import Batch
from redis_router.store.memory import MemoryStore
from redis_router.store.memory_records import Memory
from redis_router.store.redis import RedisStore

configs = st.builds(
    CircuitConfig,
    failure_rate_threshold=st.floats(0.0, 1.0),
    consecutive_failure_limit=st.integers(1, 8),
    half_open_success_threshold=st.integers(1, 4),
    half_open_max_probes=st.integers(1, 4),
    open_timeout=st.sampled_from([0.001, 0.05, 1.0]),
)
rules = st.fixed_dictionaries(
    {
        "minimum_calls": st.integers(0, 6),
        "window": st.sampled_from([0.1, 0.7, 3.0]),
        "window_failure_rate_threshold": st.one_of(st.just(0.0), st.floats(0.05, 1.0)),
        "open_timeout_multiplier": st.sampled_from([0.0, 1.0, 1.7, 3.0]),
        "open_timeout_jitter": st.floats(0.0, 1.0),
        "min_reporters": st.integers(0, 3),
    }
)
slowness = st.sampled_from([{}, {"slow_call_duration_threshold": 0.02, "slow_call_rate_threshold": 0.4}])
limits = st.sampled_from([{}, {"open_timeout_max": 2.0}])


@st.composite
def demanding_configs(draw):
    """With every rule beside the original's, and the original's made rare enough to let them fire."""
    lenient = {"failure_rate_threshold": draw(st.sampled_from([0.5, 1.0])), "consecutive_failure_limit": 50}
    return replace(
        draw(configs), **draw(rules), **draw(slowness), **draw(limits), **draw(st.sampled_from([{}, lenient]))
    )


milliseconds = st.one_of(st.just(0.0), st.floats(0.001, 600_000.0).map(lambda ms: float(f"{ms:.9g}")))  # as it travels
outcomes = st.tuples(
    st.sampled_from([*Outcome, Outcome.SUCCESS, Outcome.SUCCESS]),
    milliseconds,
    st.sampled_from([0, 0, 0, 0, -1, -2, 1]),  # the generation of the call, from the record's
    st.one_of(st.sampled_from([0, -1]), st.integers(1, 60)),  # its load
    milliseconds,  # how long the whole call took
)
settings_ = st.sampled_from(
    [{"available": "0"}, {"available": "1"}, {"weight": "0"}, {"weight": "2.5"}, {"open_timeout_ms": "20"}]
)
words = st.sampled_from([*map(str, Override), WEIGHT, WEIGHT, END, LAPSE])
batches = st.lists(outcomes, min_size=1, max_size=12)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("record"), batches),
        st.tuples(st.just("record by another"), batches),
        st.tuples(st.just("record again"), st.none()),
        st.tuples(st.just("half_open"), st.integers(0, 3)),
        st.tuples(st.just("claim"), st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True)),
        st.tuples(st.just("update"), st.tuples(settings_, st.sampled_from(["operator", "probe"]), st.integers(0, 3))),
        st.tuples(st.just("override"), st.tuples(words, st.integers(0, 3_000), st.sampled_from([0.0, 0.3, 2.0]))),
        st.tuples(st.just("reset"), st.sampled_from(["", "why"])),
        st.tuples(st.just("register"), st.tuples(configs, st.integers(0, 2))),
        st.tuples(st.just("restore"), st.integers(0, 100)),
        st.tuples(st.just("deregister"), st.none()),
        st.tuples(st.just("wait"), st.one_of(st.integers(1, 2_000), st.integers(1, 100_000))),
        st.tuples(st.just("back"), st.integers(1, 5_000)),  # the store's clock may be set back
    ),
    max_size=40,
)
names = count()
WHY = {0: "timeout", 1: "w", -1: "wh", -2: "w"}


class Fleet:
    """Two replicas on one store; `play` says what a step came to, without what goes by the store's own clock."""

    def __init__(self, one, other, reader, name: str) -> None:
        self.one, self.other, self.reader, self.name = one, other, reader, name
        self.seq, self.batch, self.under_way, self.now_ms = 0, [], UnderWay(), 1_000
        self.records = []
        for store in (one, other):
            store.jitter = lambda: 0.25

    def play(self, step: str, given_):
        self.one.now_ms = self.other.now_ms = self.now_ms
        return getattr(self, f"_{step.partition(' ')[0]}")(step, given_)

    def _reply(self, reply):
        if reply.health is None:
            return reply
        self.records.append(reply.health)
        return replace(reply, health=replace(reply.health, version=0, declined_settings=""))

    def _register(self, step, given_):
        config, version = given_
        return self._reply(self.one.register(Provider(self.name, ("m",)), config, version))

    def _restore(self, step, which):
        if not self.records:
            return None
        return self._reply(self.one.restore(Provider(self.name, ("m",)), self.records[which % len(self.records)]))

    def _deregister(self, step, _):
        return self.one.deregister(self.name)

    def _record(self, step, given_):
        generation = self.records[-1].generation if self.records else 1
        if step != "record again":
            self.seq += 1
            self.batch = [
                Result(
                    self.name,
                    outcome,
                    number,
                    generation + offset,
                    "a",
                    WHY[offset],
                    took,
                    number,
                    load,
                )
                for outcome, number, offset, load, took in given_
            ]
            calls = len(given_) % 7 - 1
            self.under_way = UnderWay(calls, max(0, calls) // 2, max(0, calls) // 3) if calls >= 0 else GONE
        writer = self.other if step == "record by another" else self.one
        (reply,) = writer.record([Batch(self.name, self.seq, self.batch, self.under_way)])
        return self._reply(reply)

    def _half_open(self, step, epoch):
        return self._reply(self.one.half_open(self.name, epoch))

    def _claim(self, step, tokens):
        generation, held = self.one.claim(self.name, tokens, 5_000)
        return generation, sorted(held)

    def _update(self, step, given_):
        return self._reply(self.one.update(self.name, *given_))

    def _override(self, step, given_):
        word, lasts_ms, weight = given_
        return self._reply(self.one.override(self.name, word, lasts_ms, weight, "alice", "why"))

    def _reset(self, step, reason):
        return self._reply(self.one.reset(self.name, "bob", reason))

    @property
    def told(self):
        """The log's entries of which both have the same details."""
        kinds = ("transition", "override", "weight_override", "reset", "cooling")
        return [replace(e, at_ms=0, id="") for e in self.reader.events(self.name) if e.event in kinds]

    def _wait(self, step, ms):
        self.now_ms += ms

    def _back(self, step, ms):
        self.now_ms = max(0, self.now_ms - ms)


def check_history(store: RedisStore, reader: RedisStore, config: CircuitConfig, history) -> None:
    """Play a history of two replicas on Redis and in memory, and compare after each step."""
    name, memory = f"p{next(names)}", Memory()
    redis = Fleet(store, RedisStore(store.client, store.keys.namespace, "other"), reader, name)
    one, other = MemoryStore(memory, "rr", "gw"), MemoryStore(memory, "rr", "other")
    here = Fleet(one, other, one, name)
    for step, given_ in [("register", (config, 0)), *history]:
        assert redis.play(step, given_) == here.play(step, given_), step
        assert redis.told == here.told
        if redis.records:
            check_invariants(redis.records[-1])


def check_invariants(health) -> None:
    """What holds in every state."""
    assert 0.0 <= health.failure_rate <= 1.0
    assert health.latency_ms >= 0.0
    assert health.concurrency_limit == 0 or health.concurrency_limit >= 1
    assert health.available == (health.unavailable_reason == "")
    assert health.circuit_state is CircuitState.CLOSED or health.open_reason


either = st.one_of(configs, demanding_configs())


@settings(max_examples=60, deadline=None)
@given(config=either, history=steps)
def test_lua_and_python_agree_on_fakeredis(config, history):
    """Floats to the last bit: the scripts write the shortest text that reads back the same."""
    store = RedisStore(fakeredis.FakeRedis(), "rr", "gw")
    check_history(store, store, config, history)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=either, history=steps)
def test_lua_and_python_agree_on_a_real_server(real, config, history):
    """And on each real server found."""
    check_history(real.store(), real.operator(), config, history)


@given(st.integers(1, 200), st.floats(0.0, 1.0))
def test_folding_formulas(failures, rate):
    """k failures come to 1 - (1 - rate)·0.9^k, the closed form of the original's average."""
    folded = rate
    for _ in range(failures):
        folded = circuit.failure_rate_average(folded, success=False)
    assert folded == pytest.approx(1 - (1 - rate) * 0.9**failures)
