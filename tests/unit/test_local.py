"""The breaker of one replica alone: the same machine as in Redis, and nothing of it can pass for Redis's word."""

import dataclasses

from redis_router import CircuitConfig, CircuitState, Outcome, ProviderHealth
from redis_router.circuit.outcome import Result
from redis_router.replica.local import GENERATIONS, LocalBreaker

CONFIG = CircuitConfig(consecutive_failure_limit=2, half_open_success_threshold=1, open_timeout=10)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def breaker(**fields):
    clock = Clock()
    return LocalBreaker({"p": ProviderHealth("p", config=CONFIG, generation=7, **fields)}, clock), clock


def result(outcome, generation):
    return Result("p", outcome, 5.0, generation)


def test_opens_half_opens_and_closes():
    """As the fleet's breaker would, on Redis's clock."""
    alone, clock = breaker()
    (change,) = alone.fold([result(Outcome.FAILURE, 7)] * 2)
    assert (change[0].circuit_state, change[1].circuit_state) == ("closed", "open")
    clock.now += 9_999
    assert alone.half_open_due() == []
    clock.now += 1
    ((_, half_open),) = alone.half_open_due()
    assert half_open.circuit_state is CircuitState.HALF_OPEN
    ((_, closed),) = alone.fold([result(Outcome.SUCCESS, half_open.generation)])
    assert closed.circuit_state is CircuitState.CLOSED
    assert closed.available


def test_its_generations_are_never_redis_ones():
    """Until its first transition it counts as Redis does: calls under way are judged. After it, they are late."""
    alone, _ = breaker()
    alone.fold([result(Outcome.FAILURE, 7)])
    assert alone.records["p"].generation == 7
    ((_, opened),) = alone.fold([result(Outcome.FAILURE, 7)])
    assert opened.generation == GENERATIONS + 8
    late = dataclasses.replace(opened, circuit_state=CircuitState.CLOSED)
    alone.records["p"] = late
    alone.fold([result(Outcome.FAILURE, 8)] * 5)
    assert alone.records["p"].circuit_state is CircuitState.CLOSED


def test_takes_over_an_open_circuit_with_its_remaining_time():
    """What the fleet knew when Redis went away still counts."""
    alone, clock = breaker(circuit_state=CircuitState.OPEN, last_state_change_ms=500)
    clock.now = 10_499
    assert alone.half_open_due() == []
    clock.now = 10_500
    assert len(alone.half_open_due()) == 1


def test_each_transition_is_told():
    """Also where one batch holds two; averages are told once."""
    alone, _ = breaker(circuit_state=CircuitState.HALF_OPEN)
    changes = alone.fold([result(Outcome.SUCCESS, 7)] + [result(Outcome.FAILURE, GENERATIONS + 8)] * 2)
    assert [(old.circuit_state, new.circuit_state) for old, new in changes] == [
        ("half_open", "closed"),
        ("closed", "open"),
    ]
    assert alone.fold([Result("stranger", Outcome.FAILURE, 5.0, 1)]) == []
