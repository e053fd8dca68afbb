"""Random histories through the Lua scripts and through circuit.py: the same record and the same transitions, always."""

from dataclasses import replace
from itertools import count

import fakeredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redis_router import CircuitConfig, CircuitState, Outcome, Provider
from redis_router.circuit import machine as circuit
from redis_router.circuit.outcome import Result
from redis_router.store.redis import Batch, Store

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


outcomes = st.tuples(
    st.sampled_from([Outcome.FAILURE, Outcome.SUCCESS, Outcome.SUCCESS, Outcome.IGNORED, Outcome.RATE_LIMITED]),
    st.one_of(st.just(0.0), st.floats(0.001, 600_000.0).map(lambda ms: float(f"{ms:.9g}"))),  # as it travels
    st.sampled_from([0, 0, 0, 0, -1, -2, 1]),  # the generation of the call, from the record's
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("record"), st.lists(outcomes, min_size=1, max_size=12)),
        st.tuples(st.just("record by another"), st.lists(outcomes, min_size=1, max_size=12)),
        st.tuples(st.just("half_open"), st.none()),
        st.tuples(st.just("wait"), st.one_of(st.integers(1, 2_000), st.integers(1, 100_000))),
        st.tuples(st.just("back"), st.integers(1, 5_000)),  # Redis's clock may be set back
    ),
    max_size=40,
)
names = count()


class Reporters:
    """Whose last word was a failure or slow, and when: the model of the sorted set in Redis."""

    def __init__(self, config: CircuitConfig) -> None:
        self.config = config
        self.since: dict[str, int] = {}

    def others(self, session: str, now_ms: int) -> int:
        config = self.config
        kept_ms = max(60, config.window, 2 * config.open_timeout, 2 * config.open_timeout_max) * 1000
        self.since = {name: at for name, at in self.since.items() if now_ms - kept_ms <= at <= now_ms + 1_000}
        return len(self.since.keys() - {session})

    def word(self, health, one):
        """What a result says of its provider; None where it says nothing of today's circuit."""
        if one.outcome not in (Outcome.SUCCESS, Outcome.FAILURE) or one.generation != health.generation:
            return None
        if health.circuit_state is CircuitState.OPEN:
            return None
        return one.outcome is Outcome.FAILURE or circuit.is_slow(self.config, one.latency_ms)

    def heard(self, session: str, words, transitions, now_ms: int) -> None:
        said = [word for word in words if word is not None]
        if transitions:
            self.since = {}
        elif said and said[-1]:
            self.since[session] = now_ms
        elif said:
            self.since.pop(session, None)


def check_history(store: Store, config: CircuitConfig, history) -> None:
    """Play a history of two replicas on both machines and compare after each step."""
    name = f"p{next(names)}"
    store.now_ms, store.jitter = 1_000, lambda: 0.25
    other = Store(store.client, store.keys.namespace, "other")
    other.jitter = store.jitter
    seen = store.register(Provider(name, ("m",)), config).health
    mirror, versions, reporters = seen, [seen.version], Reporters(config)
    for seq, (step, given_) in enumerate(history, 1):
        transitions = []
        if step == "wait":
            store.now_ms += given_
            continue
        if step == "back":
            store.now_ms = max(0, store.now_ms - given_)
            continue
        if step == "half_open":
            reply = store.half_open(name)
            mirror, change = circuit.half_open(mirror, store.now_ms)
            transitions += [change] if change else []
        else:
            writer = store if step == "record" else other
            writer.now_ms = store.now_ms
            others = reporters.others(writer.session, store.now_ms) if config.min_reporters > 1 else 0
            batch = [
                Result(name, outcome, number, mirror.generation + offset, reason="why"[:offset], cooldown_ms=number)
                for outcome, number, offset in given_
            ]
            (reply,) = writer.record([Batch(name, seq, batch)])
            words = []
            for one in batch:
                words.append(reporters.word(mirror, one))
                mirror, change = circuit.record(mirror, one, store.now_ms, jitter=0.25, others=others)
                transitions += [change] if change else []
            reporters.heard(writer.session, words, transitions, store.now_ms)
        assert list(reply.transitions) == transitions
        assert replace(reply.health, version=0) == replace(mirror, version=0)
        versions.append(reply.health.version)
        check_invariants(reply.health)
    assert versions == sorted(versions)


def check_invariants(health) -> None:
    """What holds in every state."""
    assert 0.0 <= health.failure_rate <= 1.0
    assert health.latency_ms >= 0.0
    assert health.available == (health.unavailable_reason == "")
    assert health.available == (health.circuit_state is CircuitState.CLOSED)
    assert health.circuit_state is CircuitState.CLOSED or health.open_reason


either = st.one_of(configs, demanding_configs())


@settings(max_examples=60, deadline=None)
@given(config=either, history=steps)
def test_lua_and_python_agree_on_fakeredis(config, history):
    """Floats to the last bit: the scripts write the shortest text that reads back the same."""
    check_history(Store(fakeredis.FakeRedis(), "rr", "gw"), config, history)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=either, history=steps)
def test_lua_and_python_agree_on_a_real_server(real, config, history):
    """And on each real server found."""
    check_history(real.store(), config, history)


@given(st.integers(1, 200), st.floats(0.0, 1.0))
def test_folding_formulas(failures, rate):
    """k failures come to 1 - (1 - rate)·0.9^k, the closed form of the original's average."""
    folded = rate
    for _ in range(failures):
        folded = circuit.failure_rate_average(folded, success=False)
    assert folded == pytest.approx(1 - (1 - rate) * 0.9**failures)
