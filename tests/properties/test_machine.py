"""Random histories through the Lua scripts and through circuit.py: the same record and the same transitions, always."""

from dataclasses import replace
from itertools import count

import fakeredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redis_router import CircuitConfig, CircuitState, Outcome, Provider, circuit
from redis_router.model import Result
from redis_router.store import Batch, Store

configs = st.builds(
    CircuitConfig,
    failure_rate_threshold=st.floats(0.0, 1.0),
    consecutive_failure_limit=st.integers(1, 8),
    half_open_success_threshold=st.integers(1, 4),
    half_open_max_probes=st.integers(1, 4),
    open_timeout=st.sampled_from([0.001, 0.05, 1.0]),
)
outcomes = st.tuples(
    st.sampled_from([Outcome.FAILURE, Outcome.SUCCESS, Outcome.SUCCESS, Outcome.IGNORED]),
    st.one_of(st.just(0.0), st.floats(0.001, 600_000.0).map(lambda ms: float(f"{ms:.9g}"))),  # as it travels
    st.sampled_from([0, 0, 0, 0, -1, -2, 1]),  # the generation of the call, from the record's
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("record"), st.lists(outcomes, min_size=1, max_size=12)),
        st.tuples(st.just("half_open"), st.none()),
        st.tuples(st.just("wait"), st.integers(1, 2_000)),
        st.tuples(st.just("back"), st.integers(1, 5_000)),  # Redis's clock may be set back
    ),
    max_size=40,
)
names = count()


def check_history(store: Store, config: CircuitConfig, history) -> None:
    """Play a history on both machines and compare after each step."""
    name = f"p{next(names)}"
    store.now_ms = 1_000
    seen = store.register(Provider(name, ("m",)), config).health
    mirror, versions = seen, [seen.version]
    for seq, (step, given_) in enumerate(history, 1):
        transitions = []
        if step == "wait":
            store.now_ms += given_
            continue
        if step == "back":
            store.now_ms -= given_
            continue
        if step == "record":
            generation = mirror.generation
            batch = [Result(name, outcome, latency, generation + offset) for outcome, latency, offset in given_]
            (reply,) = store.record([Batch(name, seq, batch)])
            for one in batch:
                mirror, change = circuit.record(mirror, one.outcome, one.latency_ms, one.generation, store.now_ms)
                transitions += [change] if change else []
        else:
            reply = store.half_open(name)
            mirror, change = circuit.half_open(mirror, store.now_ms)
            transitions += [change] if change else []
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


@settings(max_examples=60, deadline=None)
@given(config=configs, history=steps)
def test_lua_and_python_agree_on_fakeredis(config, history):
    """Floats to the last bit: the scripts write the shortest text that reads back the same."""
    check_history(Store(fakeredis.FakeRedis(), "rr", "gw"), config, history)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=configs, history=steps)
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
