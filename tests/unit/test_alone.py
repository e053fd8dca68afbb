"""What one replica decides alone: the same machine as in Redis, and nothing of it can pass for Redis's word."""

import dataclasses

from redis_router import CircuitConfig, CircuitState, Outcome, ProviderHealth
from redis_router.circuit.generations import LOCAL_GENERATIONS
from redis_router.circuit.outcome import Result
from redis_router.replica.alone import Alone

CONFIG = CircuitConfig(consecutive_failure_limit=2, half_open_success_threshold=1, open_timeout=10)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def cut_off(**fields):
    """Alone since a moment, with one record."""
    clock = Clock()
    alone = Alone("gw", clock)
    alone.begin({"p": ProviderHealth("p", config=CONFIG, generation=7, **fields)})
    return alone, clock


def result(outcome, generation):
    return Result("p", outcome, 5.0, generation)


def test_opens_half_opens_and_closes():
    """As the fleet's breaker would, on Redis's clock."""
    alone, clock = cut_off()
    opened = alone.decide([result(Outcome.FAILURE, 7)] * 2)[0]
    assert opened.circuit_state is CircuitState.OPEN
    clock.now += 9_999
    assert alone.decide([]) == []
    clock.now += 1
    (half_open,) = alone.decide([])
    assert half_open.circuit_state is CircuitState.HALF_OPEN
    closed = alone.decide([result(Outcome.SUCCESS, half_open.generation)])[0]
    assert closed.circuit_state is CircuitState.CLOSED
    assert closed.available


def test_its_generations_are_never_redis_ones():
    """Until its first transition it counts as Redis does: calls under way are judged. After it, they are late."""
    alone, _ = cut_off()
    alone.decide([result(Outcome.FAILURE, 7)])
    assert alone.records["p"].generation == 7
    opened = alone.decide([result(Outcome.FAILURE, 7)])[0]
    assert opened.generation == LOCAL_GENERATIONS + 8
    alone.begin({"p": dataclasses.replace(opened, circuit_state=CircuitState.CLOSED)})
    alone.decide([result(Outcome.FAILURE, 8)] * 5)
    assert alone.records["p"].circuit_state is CircuitState.CLOSED


def test_takes_over_an_open_circuit_with_its_remaining_time():
    """What the fleet knew when Redis went away still counts."""
    alone, clock = cut_off(circuit_state=CircuitState.OPEN, last_state_change_ms=500)
    clock.now = 10_499
    assert alone.decide([]) == []
    clock.now = 10_500
    assert len(alone.decide([])) == 1


def test_each_transition_is_told():
    """Also where one batch holds two; averages are told once."""
    alone, _ = cut_off(circuit_state=CircuitState.HALF_OPEN)
    shown = alone.decide([result(Outcome.SUCCESS, 7)] + [result(Outcome.FAILURE, LOCAL_GENERATIONS + 8)] * 2)
    assert [health.circuit_state for health in shown] == ["closed", "open", "open"]
    assert alone.decide([Result("stranger", Outcome.FAILURE, 5.0, 1)]) == []


def test_its_permits_are_its_own_and_as_few_as_the_record_says():
    """The trials of a circuit that it half-opened itself; a result brings one back."""
    alone, _ = cut_off(circuit_state=CircuitState.HALF_OPEN)
    generation, held = alone.store.claim("p", ["a", "b", "c", "d"], 5_000)
    assert (generation, held) == (7, ["a", "b", "c"])
    alone.decide([Result("p", Outcome.IGNORED, 0.0, 7, "a")])
    assert alone.store.claim("p", ["d", "e"], 5_000)[1] == ["d"]


def test_what_it_decided_is_forgotten_but_for_what_cannot_be_used():
    """When Redis is back: an unusable record stays this replica's own, all others are the fleet's again."""
    alone, _ = cut_off()
    alone.decide([result(Outcome.FAILURE, 7)] * 2)
    alone.end(["p"])
    assert alone.decides_on("p")
    assert alone.records["p"].circuit_state is CircuitState.OPEN
    alone.end([])
    assert not alone.decides


def test_overload_is_excused_here_as_in_the_fleet():
    """A time-out above the fleet's limit says nothing of this replica's own circuit."""
    alone, config = Alone("gw", Clock()), dataclasses.replace(CONFIG, min_reporters=2)
    alone.shown(ProviderHealth("p", config=config, concurrency_limit=2.0, last_result_ms=1_000, call_ms=500.0))
    above, below = (Result("p", Outcome.FAILURE, 0.0, 1, reason="timeout", load=load) for load in (9.0, 2.0))
    assert alone.decide([above] * 10) == []
    (opened,) = alone.decide([below] * 2)
    assert opened.circuit_state is CircuitState.OPEN


def test_its_own_view_of_what_answers_the_others_closes_by_one_trial_call():
    """A stream may last a minute, and three of them one after the other three: nobody has to be spared them."""
    clock = Clock()
    alone = Alone("gw", clock)
    config = dataclasses.replace(CONFIG, min_reporters=2, half_open_success_threshold=3)
    fleet = ProviderHealth("p", config=config, generation=7)
    assert alone.shown(fleet) is fleet
    (opened,) = alone.decide([result(Outcome.FAILURE, 7)] * 2)
    assert (opened.circuit_state, opened.config) == (CircuitState.OPEN, config), "the fleet's thresholds are shown"
    clock.now += 10_000
    (on_trial,) = alone.decide([])
    (closed,) = alone.decide([result(Outcome.SUCCESS, on_trial.generation)])
    assert closed.circuit_state is CircuitState.CLOSED
