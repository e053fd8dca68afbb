"""The circuit's state machine in pure Python: the mirror of `lua/_circuit.lua`, function for function in one order.

It is the oracle that the Lua scripts are tested against. Everything that decides a circuit's state lives in these
two files and nowhere else. (Here `cooling_for_ms` and `due_in_ms` are methods of the record, `longest_opening_ms` of
its thresholds.) Each function takes a record and returns the record after it, with the transition if the circuit
changed.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from redis_router.circuit import capacity, overrides
from redis_router.circuit.config import CircuitConfig
from redis_router.circuit.generations import is_local
from redis_router.circuit.outcome import Outcome, Result
from redis_router.circuit.record import CircuitState, ProviderHealth, TakenOutBy, Transition, changed

Step = tuple[ProviderHealth, Transition | None]

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
BUCKETS = 10
MOSTLY_FAILS = 0.4
"""From this failure rate on a provider is no better than nobody."""
REOPENINGS = 30


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


def still_answers(health: ProviderHealth, answered: bool, rate: float) -> bool:
    """Do calls that need no permit go well although the circuit is not closed?

    `answered`: a call was answered now, or else it failed; `rate` is the failure rate after it. The circuit opened by a
    run of bad luck then, or a part of the calls fails. The answer to a call that began before counts, too.
    """
    if health.circuit_state is CLOSED or rate >= MOSTLY_FAILS:
        return health.still_answers and answered
    return health.still_answers or (answered and health.circuit_state is OPEN)


def is_slow(config: CircuitConfig, latency_ms: float) -> bool:
    """Did this call take longer than it should? Never, where the rule is off."""
    return config.slow_call_rate_threshold > 0 and latency_ms > round(config.slow_call_duration_threshold * 1000)


def buckets_of(text: str) -> list[int]:
    """One of the window's counts: a number a bucket, newest last."""
    return [int(number) for number in re.findall("[0-9]{1,15}", text)]


def count(health: ProviderHealth, success: bool, slow: bool, now_ms: int) -> ProviderHealth:
    """Count a call in closed: in the window or, where there is none, up to `minimum_calls`."""
    if not health.config.window:
        if health.calls >= health.config.minimum_calls:
            return health
        return replace(health, calls=min(health.calls + 1, max(health.calls, health.config.minimum_calls)))
    bucket = now_ms * BUCKETS // round(health.config.window * 1000)
    passed = bucket - health.window_bucket
    if -BUCKETS < passed < 0:
        passed, bucket = 0, health.window_bucket  # Redis's clock was set back a little

    def counted(text: str, one: bool) -> str:
        buckets = buckets_of(text)[passed : passed + BUCKETS] if abs(passed) < BUCKETS else []
        buckets += [0] * (BUCKETS - len(buckets))
        buckets[-1] += one
        return " ".join(map(str, buckets))

    return replace(
        health,
        window_bucket=bucket,
        window_calls=counted(health.window_calls, True),
        window_failures=counted(health.window_failures, not success),
        window_slow=counted(health.window_slow, slow),
    )


def rule_fired(health: ProviderHealth, success: bool, slow: bool) -> str:
    """The rule that opens a closed circuit after this call, '' for none. Rates wait for `minimum_calls`."""
    config, windowed = health.config, bool(health.config.window)
    calls, failures, slow_calls = (
        sum(buckets_of(text)) for text in (health.window_calls, health.window_failures, health.window_slow)
    )
    enough = (calls if windowed else health.calls) >= config.minimum_calls
    if not success:
        if enough and health.failure_rate > config.failure_rate_threshold:
            return "failure_rate"
        if health.consecutive_failures >= config.consecutive_failure_limit:
            return "consecutive_failures"
        if windowed and enough and 0 < config.window_failure_rate_threshold <= failures / calls:
            return "window_failure_rate"
    if slow and windowed and enough and slow_calls / calls >= config.slow_call_rate_threshold:
        return "slow_calls"
    return ""


def back_off(health: ProviderHealth, now_ms: int, jitter: float) -> ProviderHealth:
    """How many times `open_timeout` an opening lasts, after so many before it.

    Each healthy `open_timeout` since the last one took one back, as in Envoy.
    """
    config, factor, times = health.config, 1.0, min(health.times_opened, REOPENINGS)
    if config.open_timeout_multiplier > 1:
        if health.circuit_state is CLOSED:
            times = max(0, times - max(0, now_ms - health.last_state_change_ms) // config.open_timeout_ms)
        for _ in range(times):
            factor *= config.open_timeout_multiplier
        times += 1
    else:
        times = health.times_opened
    factor = min(factor, config.longest_opening_ms / config.open_timeout_ms) * (1 + config.open_timeout_jitter * jitter)
    return replace(health, times_opened=times, open_timeout_factor=factor)


def transition(health: ProviderHealth, to: CircuitState, reason: str, now_ms: int, jitter: float = 0.0) -> Step:
    """The one place where a circuit changes its state."""
    if to is OPEN:
        health = back_off(health, now_ms, jitter)
    change = Transition(health.name, health.circuit_state, to, reason, health.generation + 1)
    health = replace(health, circuit_state=to, generation=health.generation + 1, last_state_change_ms=now_ms)
    health = replace(health, calls=0, window_bucket=0, window_calls="", window_failures="", window_slow="")
    by_operator = health.unavailable_reason == TakenOutBy.OPERATOR  # an operator's word outlives what the circuit does
    if to is not HALF_OPEN:
        health = replace(health, still_answers=False)
    if to is OPEN:
        health = replace(health, open_reason=reason)
        if not by_operator:
            health = replace(health, available=False, unavailable_reason=TakenOutBy.CIRCUIT)
    elif to is HALF_OPEN:
        health = replace(health, consecutive_failures=0, consecutive_successes=0)
    else:
        health = changed(health, {"consecutive_failures": 0, "failure_rate": 0.0} | capacity.begun_anew(health))
        if not by_operator:
            health = replace(health, available=True, unavailable_reason="")
    return health, change


def complains(health: ProviderHealth, result: Result, now_ms: float) -> bool | None:
    """What this result makes of its replica's word on the provider, given the record before it; None: nothing.

    A late result says nothing, nor does one in open. One that began under a decision of the replica alone is its word.
    """
    if result.outcome not in (Outcome.SUCCESS, Outcome.FAILURE):
        return None
    failed = result.outcome is Outcome.FAILURE
    if failed and capacity.is_overload(health, result.reason, result.load, now_ms):
        return None
    if is_local(result.generation):
        return failed
    if result.generation != health.generation or health.circuit_state is OPEN:
        return None
    return failed or is_slow(health.config, result.latency_ms)


def cool_down(health: ProviderHealth, cooldown_ms: float, now_ms: int) -> ProviderHealth:
    """A rate limit is no verdict on the circuit: nobody calls until it is over, and the longer of two holds.

    So it is after a call that was refused, and after one that was answered and was the last to fit.
    """
    until = int(now_ms + cooldown_ms)
    if until <= now_ms + health.cooling_for_ms(now_ms):
        return health
    return replace(health, cooldown_until_ms=until, cooldown_ms=until - now_ms)


def keep_pace(health: ProviderHealth, pause_ms: float, now_ms: int) -> ProviderHealth:
    """A call begins: nobody makes the next one before its time, where a pace is kept. It ends here, too."""
    if not health.calls_per_s:
        return health
    if now_ms >= health.paced_until_ms:
        return replace(health, calls_per_s=0.0)
    return cool_down(health, pause_ms, now_ms)


def _averaged(health: ProviderHealth, result: Result, success: bool, now_ms: int) -> dict[str, object]:
    rate = failure_rate_average(health.failure_rate, success)
    changes: dict[str, object] = {
        "latency_ms": latency_average(health.latency_ms, result.latency_ms),
        "failure_rate": rate,
        "answers_per_s": capacity.answer_rate(health, now_ms) + success * 1000 / capacity.COUNTED_OVER_MS,
        "last_check_ms": now_ms,
        "last_result_ms": now_ms,
        "result_gap_ms": max(0, now_ms - health.last_result_ms) if health.last_result_ms else 0,
    }
    if not success or result.load >= 0:  # else that it began to answer was told before
        changes["still_answers"] = still_answers(health, success, rate)
    if not success:
        return changes | {"last_failure": result.reason}
    if health.calls_per_s:
        changes["calls_per_s"] = capacity.faster(health, now_ms)
    changes["call_ms"] = capacity.call_lasted(health, result.duration_ms, result.latency_ms)
    if result.load >= 0 and result.latency_ms > 0:
        changes.update(capacity.learned(health, result.latency_ms, result.load, now_ms))
    return changes


def fold(
    health: ProviderHealth, result: Result, now_ms: int, *, jitter: float = 0.0, others: int | None = None
) -> Step:
    """Fold one outcome into the record and decide on the circuit.

    `jitter`, from 0 to 1, lengthens an opening; `others` is how many more replicas complain, None where that is no
    matter: a replica that decides for itself.
    """
    if result.outcome is Outcome.RATE_LIMITED:
        cooling = cool_down(health, result.cooldown_ms, now_ms)
        slower = capacity.rate_limited(health, result.load, result.cooldown_ms, now_ms)
        return changed(cooling, slower), None
    if result.outcome is Outcome.IGNORED:
        return health, None
    if result.outcome is Outcome.PACED:
        return keep_pace(health, result.cooldown_ms, now_ms), None
    if result.outcome is Outcome.BEGUN:
        changes: dict[str, object] = {"still_answers": still_answers(health, True, health.failure_rate)}
        if result.latency_ms > 0:
            changes |= capacity.learned(health, result.latency_ms, result.load, now_ms)
        return changed(health, changes), None
    success = result.outcome is Outcome.SUCCESS
    if not success and capacity.is_overload(health, result.reason, result.load, now_ms):
        return changed(health, capacity.overloaded(health, now_ms)), None
    if success and result.cooldown_ms:
        health = cool_down(health, result.cooldown_ms, now_ms)
    changes = _averaged(health, result, success, now_ms)
    if result.generation != health.generation or health.circuit_state is OPEN:
        return changed(health, changes), None  # a late result moves the averages, never the circuit
    if success:
        changes["consecutive_successes"] = health.consecutive_successes + 1
        if health.circuit_state is CLOSED:
            changes["consecutive_failures"] = 0
    else:
        changes |= {"consecutive_failures": health.consecutive_failures + 1, "consecutive_successes": 0}
    believed = others is None or health.config.min_reporters <= others + 1
    slow = is_slow(health.config, result.latency_ms)
    return _decided(changed(health, changes), success, slow, now_ms, jitter, believed=believed)


def _decided(health: ProviderHealth, success: bool, slow: bool, now_ms: int, jitter: float, *, believed: bool) -> Step:
    """What the circuit makes of this call, where enough replicas complain, or nobody asks them: `believed`."""
    if health.circuit_state is CLOSED:
        health = count(health, success, slow, now_ms)
        rule = rule_fired(health, success, slow)
        if rule and believed:
            return transition(health, OPEN, rule, now_ms, jitter)
    elif success and not slow:
        if health.consecutive_successes >= health.config.half_open_success_threshold:
            return transition(health, CLOSED, "half_open_successes", now_ms)
    else:
        health = replace(health, consecutive_successes=0)
        if believed:
            reason = "half_open_probe_slow" if success else "half_open_probe_failed"
            return transition(health, OPEN, reason, now_ms, jitter)
    return health, None


def half_open(health: ProviderHealth, now_ms: int) -> Step:
    """Move an open circuit to half-open once its time is due; leave any other as it is."""
    if health.circuit_state is not OPEN or not health.is_due(now_ms):
        return health, None
    return transition(health, HALF_OPEN, "open_timeout", now_ms)


def updated(health: ProviderHealth, fields: Mapping[str, str], source: str, now_ms: int) -> ProviderHealth:
    """The record with settings changed from outside the calls; `source` is "operator" or "probe".

    A probe takes a provider out of service where it is in service, and back in where a probe took it out.
    """
    others = {name: text for name, text in fields.items() if name != "available"}
    new = ProviderHealth.from_fields(health.name, {**health.to_fields(), **others})
    if "available" not in fields:
        return new
    available, by_operator = fields["available"] == "1", source == TakenOutBy.OPERATOR
    if by_operator or (health.available if not available else health.unavailable_reason == TakenOutBy.PROBE):
        new = replace(new, available=available, unavailable_reason="" if available else source)
        if available and by_operator:
            new = replace(new, cooldown_until_ms=0, calls_per_s=0.0)  # back in service means now
            if new.override in overrides.TAKES_OUT:
                new, _ = overrides.end_state(new, "available=1")
    return replace(new, last_check_ms=now_ms)


def reason_of(health: ProviderHealth) -> str:
    """The rule that brought a record into the state it is in."""
    closed = "half_open_successes" if health.open_reason else "reset"
    return {OPEN: health.open_reason, HALF_OPEN: "open_timeout", CLOSED: closed}[health.circuit_state]
