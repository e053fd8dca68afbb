"""An operator has the rules begin anew: the mirror of `lua/reset.lua`."""

from dataclasses import replace

from redis_router.circuit.machine import transition
from redis_router.circuit.overrides import Said, lapsed
from redis_router.circuit.record import CircuitState, ProviderHealth, Transition, changed

LEARNED = (
    "open_reason",
    "last_failure",
    "latency_ms",
    "failure_rate",
    "consecutive_failures",
    "consecutive_successes",
    "calls",
    "window_bucket",
    "window_calls",
    "window_failures",
    "window_slow",
    "times_opened",
    "open_timeout_factor",
    "result_gap_ms",
    "answers_per_s",
    "calls_per_s",
    "paced_until_ms",
    "concurrency_limit",
    "limit_growth",
    "samples",
    "usual_latency_ms",
    "latency_deviation_ms",
    "floor_latency_ms",
    "near_latency_ms",
    "near_load",
    "longest_latency_ms",
    "call_ms",
)
"""What calls taught, by the fields that hold it."""
_NEW = ProviderHealth("")


def reset(health: ProviderHealth, reason: str, now_ms: int) -> tuple[ProviderHealth, list[Transition], list[Said]]:
    """The circuit is closed, and nothing is known of the provider, as of one that was just registered.

    Settings, overrides, what an operator or a probe said of it, and a rate limit stay. A generation begins in any case:
    calls under way are of what was, and so is what a replica decided alone.
    """
    changes, state = list[Transition](), health.circuit_state
    health, said = lapsed(health, now_ms)
    if state is CircuitState.CLOSED:
        health = replace(health, generation=health.generation + 1)
    else:
        health, change = transition(health, CircuitState.CLOSED, "reset", now_ms)
        changes = [change] if change else []
    health = changed(health, {name: getattr(_NEW, name) for name in LEARNED} | {"last_check_ms": now_ms})
    return health, changes, [*said, ("reset", {"from": state, "to": CircuitState.CLOSED, "reason": reason})]
