"""What a provider's record says, in words: for `redis-router status`, for the page, and for the webhook."""

from redis_router.circuit.overrides import FOR_EVER_MS, override_of
from redis_router.circuit.record import CircuitState, ProviderHealth, TakenOutBy
from redis_router.store.messages import Leader, Spec

SLOW_TIMES, SLOW_DEVIATIONS, FEWEST_SAMPLES = 2.0, 4.0, 8
"""Slow is above so many times the usual latency and so many of its mean deviations, where so many calls tell of it."""


def printable(text: str, keep: str = "") -> str:
    """Escape sequences, line ends and their like as they are written in code, except those in `keep`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def lasted(ms: float, days: str = "d") -> str:
    """A time in the largest unit that tells it: 12 s, 3 min, 5 h, 2 d."""
    for unit, size in ((days, 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if ms >= 2 * size:
            return f"{ms / size:.0f} {unit}"
    return f"{ms / 1000:.0f} s"


def ago(now_ms: int, moment_ms: int) -> str:
    """How long ago; '-' for never."""
    return lasted(max(0, now_ms - moment_ms)) if moment_ms else "-"


def calls(health: ProviderHealth) -> str:
    """Under way over the fleet, of those that it takes at once without making them wait; and those overdue."""
    overdue = f" ({health.overdue} overdue)" if health.overdue else ""
    if not health.concurrency_limit:
        return f"{health.in_flight}{overdue}" if health.in_flight else "-"
    return f"{health.in_flight}/{health.concurrency_limit:.0f}{overdue}"


def is_slow(health: ProviderHealth) -> bool:
    """Is its latency lately far above the usual? What lasts becomes the usual, after some 64 calls."""
    usual = SLOW_TIMES * health.usual_latency_ms + SLOW_DEVIATIONS * health.latency_deviation_ms
    return health.samples >= FEWEST_SAMPLES and health.latency_ms > usual


def latency(health: ProviderHealth) -> str:
    """301.0 ms; where that is slow, with what is usual."""
    if not health.latency_ms:
        return "-"
    usual = f", usually {health.usual_latency_ms:.1f} ms" if is_slow(health) else ""
    return f"{health.latency_ms:.1f} ms{usual}"


def available(health: ProviderHealth, now_ms: int) -> str:
    """Do calls go there, and who says otherwise: yes; drain by alice@ops-1, 29 min left."""
    by_operator = health.unavailable_reason == TakenOutBy.OPERATOR
    if not by_operator and (word := override_of(health, now_ms)):
        return overridden(word, health.override_until_ms, health.override_by, now_ms)
    if health.still_answers and health.unavailable_reason == TakenOutBy.CIRCUIT:
        return "if nobody else is"
    if health.circuit_state is CircuitState.HALF_OPEN and health.unavailable_reason == TakenOutBy.CIRCUIT:
        return "trial calls"
    if health.weight == 0 and not by_operator:
        return "no (weight 0)"
    if not health.available:
        return f"no ({health.unavailable_reason})"
    cooling = health.cooling_for_ms(now_ms)
    return f"no (rate limited, {cooling / 1000:.0f} s)" if cooling else "yes"


def overridden(word: str, until_ms: int, by: str, now_ms: int) -> str:
    """drain by alice@ops-1, 29 min left."""
    left = "for ever" if until_ms >= FOR_EVER_MS else f"{lasted(until_ms - now_ms)} left"
    return f"{word} by {by or 'somebody'}, {left}"


def weight(health: ProviderHealth, now_ms: int) -> str:
    """The record's, and the one that an operator gave for a time."""
    if health.weight_override_until_ms <= now_ms:
        return f"{health.weight:g}"
    until_ms, by = health.weight_override_until_ms, health.weight_override_by
    return f"{health.weight:g}, {overridden(f'{health.weight_override:g}', until_ms, by, now_ms)}"


def next_try(health: ProviderHealth, now_ms: int) -> str:
    """When an open circuit lets trial calls through."""
    if health.circuit_state is CircuitState.HALF_OPEN:
        return "now"
    if health.circuit_state is CircuitState.CLOSED:
        return "-"
    wait = health.due_in_ms(now_ms) / 1000
    if waits_for_probe(health, now_ms):
        return "after the probe"
    return f"in {wait:.0f} s" if wait > 0 else "due"


def waits_for_probe(health: ProviderHealth, now_ms: float) -> bool:
    """Is its time over, and only the probe holds it back?"""
    return health.is_due(now_ms) and health.probe_result not in ("", "passes")


def probe(spec: Spec, health: ProviderHealth) -> str:
    """What the worker's last probe said: passes; fails: HTTP 503."""
    if spec.probe is None:
        return "-"
    said = health.probe_result or "not yet"
    return said if said in ("passes", "not yet") or said.startswith("cannot: ") else f"fails: {said}"


def leads(leader: Leader | None, now_ms: int) -> str:
    """Who leads, and what to do where nobody does."""
    if leader is None:
        return "leader: none yet; start `redis-router worker`"
    if leader.remaining_ms <= 0:
        return f"leader: none since {ago(now_ms, leader.until_ms)} (last: {leader.worker}, epoch {leader.epoch})"
    return (
        f"leader: {leader.worker}, epoch {leader.epoch}, for {ago(now_ms, leader.since_ms)},"
        f" lease ends in {leader.remaining_ms / 1000:.1f} s"
    )
