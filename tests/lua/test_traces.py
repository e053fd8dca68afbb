"""The original's recorded runs, replayed: what the Go router decided, the scripts and circuit.py decide too."""

import pytest

from redis_router import CircuitConfig, Outcome, Provider, ProviderHealth
from redis_router.circuit import machine as circuit
from redis_router.circuit.outcome import Result
from tests.support import TRACES, recorded, result

REASONS = {
    "": {""},
    "half_open_probe_failed": {"half_open_probe_failed"},
    "failure_rate_or_consecutive_failures": {"failure_rate", "consecutive_failures"},
}


def agrees(health: ProviderHealth, step: dict, changes: list[str]) -> None:
    """The original's state after a step, field by field; its EMA was an integer, up to 8 ms below ours."""
    assert health.circuit_state == step["state"]
    assert health.available == step["available"]
    assert health.failure_rate == pytest.approx(step["failure_rate"], abs=1e-9)
    assert 0 <= health.latency_ms - step["ema_latency_ms_int"] < 8
    assert health.consecutive_failures == step["consecutive_failures"]
    assert health.consecutive_successes == step["consecutive_successes"]
    assert health.open_reason in REASONS[step["open_reason"]]
    expected = ["open>half_open"] if step["op"] == "half_open" else step["changes"] or []
    assert changes == expected


def told(transitions) -> list[str]:
    return [f"{t.from_state}>{t.to_state}" for t in transitions]


@pytest.mark.parametrize("number", range(len(TRACES)))
def test_circuit_py_replays_the_original(number):
    """The oracle in Python makes the original's every move."""
    run = TRACES[number]
    health = ProviderHealth("p", config=CircuitConfig(**run["config"], open_timeout=0.001))
    for now, step in enumerate(run["steps"]):
        if step["op"] == "record":
            outcome = Outcome.SUCCESS if step["success"] else Outcome.FAILURE
            result = Result("p", outcome, step["latency_ms"], health.generation)
            health, change = circuit.fold(health, result, now * 10)
        else:
            health, change = circuit.half_open(health, now * 10)
        agrees(health, step, told([change] if change else []))


@pytest.mark.parametrize("number", range(len(TRACES)))
def test_the_scripts_replay_the_original(backend, number):
    """So do the Lua scripts, on every server, one outcome at a time."""
    run, store = TRACES[number], backend.store(now_ms=1)
    health = store.register(Provider("p", ("m",)), CircuitConfig(**run["config"], open_timeout=0.001)).health
    for seq, step in enumerate(run["steps"], 1):
        store.now_ms = seq * 10
        if step["op"] == "record":
            reply = recorded(
                store, "p", seq, result("p", step["success"], health.generation, float(step["latency_ms"]))
            )
        else:
            reply = store.half_open("p")
        health = reply.health
        agrees(health, step, told(reply.transitions))


@pytest.mark.parametrize("size", [2, 7, 100])
def test_batches_come_to_the_same(backend, size):
    """However the outcomes are cut into batches, the record ends the same."""
    for run in TRACES[:10]:
        ends = []
        for length in (1, size):
            store = backend.store(writer=f"gw{length}", now_ms=1)
            name = f"p{length}-{size}-{id(run)}"
            health = store.register(Provider(name, ("m",)), CircuitConfig(**run["config"], open_timeout=1.0)).health
            outcomes = [s for s in run["steps"] if s["op"] == "record"]
            for seq in range(0, len(outcomes), length):
                batch = [result(name, s["success"], 1, float(s["latency_ms"])) for s in outcomes[seq : seq + length]]
                health = recorded(store, name, seq + 1, *batch).health
            ends.append({**health.to_fields(), "version": ""})
        assert ends[0] == ends[1]
