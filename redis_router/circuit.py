"""The circuit's state machine in pure Python: the mirror of `lua/_prelude.lua`, line for line.

It is the oracle that the Lua scripts are tested against. Everything that decides a circuit's state lives in these
two files and nowhere else. Each function takes a record and returns the record after it, with the transition if the
circuit changed.
"""

from dataclasses import replace

from redis_router.model import CircuitState, Outcome, ProviderHealth, Transition

Step = tuple[ProviderHealth, Transition | None]

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


def latency_average(average: float, sample: float) -> float:
    """The original's moving average, (7·old + new) / 8, in ms: the first sample whole, samples <= 0 not at all."""
    if sample <= 0:
        return average
    return sample if average == 0 else (average * 7 + sample) / 8


def failure_rate_average(rate: float, success: bool) -> float:
    """The original's moving average: halved by a success (0 below 0.01), 0.9·rate + 0.1 by a failure."""
    if success:
        return 0.0 if rate * 0.5 < 0.01 else rate * 0.5
    return min(rate * 0.9 + 0.1, 1.0)


def record(health: ProviderHealth, outcome: Outcome, latency_ms: float, generation: int, now_ms: int) -> Step:
    """Fold one outcome, of a call that began in `generation`, into the record and decide on the circuit."""
    if outcome is Outcome.IGNORED:
        return health, None
    success = outcome is Outcome.SUCCESS
    health = replace(
        health,
        latency_ms=latency_average(health.latency_ms, latency_ms),
        failure_rate=failure_rate_average(health.failure_rate, success),
        last_check_ms=now_ms,
    )
    if generation != health.generation or health.circuit_state is OPEN:
        return health, None  # a late result moves the averages, never the circuit
    if success:
        health = replace(health, consecutive_successes=health.consecutive_successes + 1)
        if health.circuit_state is CLOSED:
            return replace(health, consecutive_failures=0), None
        if health.consecutive_successes >= health.config.half_open_success_threshold:
            return transition(health, CLOSED, "half_open_successes", now_ms)
        return health, None
    health = replace(health, consecutive_failures=health.consecutive_failures + 1, consecutive_successes=0)
    if health.circuit_state is HALF_OPEN:
        return transition(health, OPEN, "half_open_probe_failed", now_ms)
    if health.failure_rate > health.config.failure_rate_threshold:
        return transition(health, OPEN, "failure_rate", now_ms)
    if health.consecutive_failures >= health.config.consecutive_failure_limit:
        return transition(health, OPEN, "consecutive_failures", now_ms)
    return health, None


def half_open(health: ProviderHealth, now_ms: int) -> Step:
    """Move an open circuit to half-open once its time is due; leave any other as it is."""
    if health.circuit_state is not OPEN or not health.is_due(now_ms):
        return health, None
    return transition(health, HALF_OPEN, "open_timeout", now_ms)


def reason_of(health: ProviderHealth) -> str:
    """The rule that brought a record into the state it is in."""
    return {OPEN: health.open_reason, HALF_OPEN: "open_timeout", CLOSED: "half_open_successes"}[health.circuit_state]


def transition(health: ProviderHealth, to: CircuitState, reason: str, now_ms: int) -> Step:
    """The one place where a circuit changes its state."""
    change = Transition(health.name, health.circuit_state, to, reason, health.generation + 1)
    health = replace(health, circuit_state=to, generation=health.generation + 1, last_state_change_ms=now_ms)
    by_operator = health.unavailable_reason == "operator"  # an operator's word outlives what the circuit does
    if to is OPEN:
        health = replace(health, open_reason=reason)
        if not by_operator:
            health = replace(health, available=False, unavailable_reason="circuit")
    elif to is HALF_OPEN:
        health = replace(health, consecutive_failures=0, consecutive_successes=0)
    else:
        health = replace(health, consecutive_failures=0, failure_rate=0.0)
        if not by_operator:
            health = replace(health, available=True, unavailable_reason="")
    return health, change
