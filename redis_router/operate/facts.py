"""The JSON of the page: what a snapshot says of the fleet, in the words of `redis-router status`.

Every moment is on Redis's clock, in ms since the epoch. So a fact that did not change reads the same a second later,
and whoever shows it counts the time down. `docs/page.md` describes each field.
"""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from redis_router.circuit.overrides import FOR_EVER_MS, TAKES_OUT, acting, override_of, weight_of
from redis_router.circuit.record import CircuitState, ProviderHealth, TakenOutBy
from redis_router.operate import words
from redis_router.replicas import Replica
from redis_router.store.contract import Snapshot
from redis_router.store.messages import Leader, LoggedEvent, Spec

Json = dict[str, Any]

DOWN, TROUBLE, HELD, OK = "down", "trouble", "held", "ok"
"""How a provider is: gets no calls against our will; may get worse; an operator keeps calls away; well."""
WORST_FIRST = (DOWN, TROUBLE, HELD, OK)
FAILING = 0.1
"""From this failure rate on a provider is in trouble."""


def provider(health: ProviderHealth, spec: Spec, now_ms: int) -> Json:
    """One record, as the fleet's list has it."""
    is_open = health.circuit_state is CircuitState.OPEN
    cooling = health.cooling_for_ms(now_ms)
    return {
        "name": health.name,
        "provider": spec.provider or health.name,
        "models": list(spec.models),
        "level": level(health, now_ms),
        "why": why(health, spec, now_ms),
        "circuit": health.circuit_state.value,
        "since_ms": health.last_state_change_ms or None,
        "open_reason": health.open_reason if health.circuit_state is not CircuitState.CLOSED else None,
        "next_try_at_ms": round(now_ms + health.due_in_ms(now_ms)) if is_open else None,
        "next_try": _next_try(health, now_ms),
        "available": _available(health, now_ms),
        "probe": None if spec.probe is None else words.probe(spec, health),
        "last_failure": health.last_failure or None,
        "cooldown_until_ms": health.cooldown_until_ms if cooling else None,
        "override": _override(health, now_ms),
        "weight": weight_of(health, now_ms),
        "weight_override": _weight_override(health, now_ms),
        "latency_ms": round(health.latency_ms, 1) if health.latency_ms else None,
        "failure_rate": round(health.failure_rate, 4),
        "in_flight": health.in_flight,
        "overdue": health.overdue,
        "concurrency_limit": round(health.concurrency_limit) or None,
        "calls_per_s": round(health.calls_per_s, 2) or None,
        "last_result_ms": health.last_result_ms or None,
    }


def depends_on_time(health: ProviderHealth) -> bool:
    """May its facts change without a change of the record?"""
    return bool(
        health.circuit_state is CircuitState.OPEN
        or health.cooldown_until_ms
        or health.override_until_ms
        or health.weight_override_until_ms
    )


def level(health: ProviderHealth, now_ms: int) -> str:
    """How it is, for the order in which people look."""
    seen = acting(health, now_ms)
    if seen.is_drained or override_of(health, now_ms) in TAKES_OUT:
        return HELD
    if seen.circuit_state is CircuitState.OPEN or (not seen.available and seen.unavailable_reason == TakenOutBy.PROBE):
        return DOWN
    is_well = health.circuit_state is CircuitState.CLOSED and health.available and not health.cooling_for_ms(now_ms)
    is_late = health.overdue or words.is_slow(health)
    return OK if is_well and not is_late and health.failure_rate < FAILING else TROUBLE


def why(health: ProviderHealth, spec: Spec, now_ms: int) -> list[Json]:
    """What there is to say of it, what weighs most first; each with the moment at which it ends, where that is known.

    Nothing is said of a provider that is well.
    """
    said: list[Json] = []

    def say(what: str, text: str, until_ms: int | None = None) -> None:
        said.append({"what": what, "text": text, "until_ms": until_ms})

    if override := _override(health, now_ms):
        say("override", f"{override['word']} by {_by_whom(override)}", override["until_ms"])
    if health.unavailable_reason == TakenOutBy.OPERATOR:
        say("out_of_service", "taken out of service by an operator, until ready")
    if health.circuit_state is CircuitState.OPEN:
        failed = f", last failure {health.last_failure}" if health.last_failure else ""
        until = None if words.waits_for_probe(health, now_ms) else round(now_ms + health.due_in_ms(now_ms))
        say("circuit", f"circuit open: {health.open_reason or 'no reason given'}{failed}", until)
    elif health.circuit_state is CircuitState.HALF_OPEN:
        say("circuit", f"half-open after {health.open_reason or 'an outage'}: trial calls only")
    probe = words.probe(spec, health)
    if probe not in ("-", "passes", "not yet"):
        say("probe", f"probe {probe}" if probe.startswith("fails") else f"probe {probe.replace(':', ' be made:', 1)}")
    if health.cooling_for_ms(now_ms):
        say("cooldown", "rate limited", health.cooldown_until_ms)
    if weight := _weight_override(health, now_ms):
        say("weight", f"weight {weight['weight']:g} by {_by_whom(weight)}", weight["until_ms"])
    elif health.weight == 0:
        say("weight", "weight 0: no calls")
    if health.overdue:
        say("overdue", f"{health.overdue} call{'s' * (health.overdue > 1)} overdue")
    if words.is_slow(health):
        say("slow", f"slow: {health.latency_ms:.0f} ms, usually {health.usual_latency_ms:.0f} ms")
    if health.failure_rate >= FAILING and health.circuit_state is CircuitState.CLOSED:
        failed = f", last {health.last_failure}" if health.last_failure else ""
        say("failing", f"{health.failure_rate:.0%} of its calls fail{failed}")
    return said


def _by_whom(said: Json) -> str:
    return f"{said['by'] or 'somebody'}: {said['reason']}" if said["reason"] else f"{said['by'] or 'somebody'}"


def _next_try(health: ProviderHealth, now_ms: int) -> str | None:
    """`in` at `next_try_at_ms`, `due`, `after_probe`, or `now`, while half-open."""
    if health.circuit_state is CircuitState.CLOSED:
        return None
    if health.circuit_state is CircuitState.HALF_OPEN:
        return "now"
    if words.waits_for_probe(health, now_ms):
        return "after_probe"
    return "due" if health.is_due(now_ms) else "in"


def _available(health: ProviderHealth, now_ms: int) -> str:
    """In the words of `status`, without the time that is left: that stands beside it, as a moment."""
    if health.unavailable_reason != TakenOutBy.OPERATOR and (word := override_of(health, now_ms)):
        return word
    said = words.available(health, now_ms)
    return "no (rate limited)" if said.startswith("no (rate limited") else said


def _override(health: ProviderHealth, now_ms: int) -> Json | None:
    word = override_of(health, now_ms)
    return {"word": word, **_said(health, "override")} if word else None


def _weight_override(health: ProviderHealth, now_ms: int) -> Json | None:
    if health.weight_override_until_ms <= now_ms:
        return None
    return {"weight": health.weight_override, "rules_weight": health.weight, **_said(health, "weight_override")}


def _said(health: ProviderHealth, field: str) -> Json:
    until_ms = getattr(health, f"{field}_until_ms")
    return {
        "until_ms": None if until_ms >= FOR_EVER_MS else until_ms,
        "by": getattr(health, f"{field}_by"),
        "reason": getattr(health, f"{field}_reason"),
    }


def record(health: ProviderHealth, spec: Spec) -> Json:
    """Every field of a record, and its probe: for who looks at one provider."""
    probe = None if spec.probe is None else spec.probe.to_json()
    return {**asdict(health), "models": list(spec.models), "probe": probe}


def replica(replica: Replica) -> Json:
    """A gateway or a worker, by its last word, and how its view differs from the records."""
    return {
        "name": replica.name,
        "role": replica.role,
        "version": replica.version,
        "host": replica.host,
        "pid": replica.pid,
        "state": str(replica.state),
        "since_ms": replica.since_ms,
        "seen_ms": replica.seen_ms,
        "differences": [asdict(each) for each in replica.differences],
        "own": dict(replica.own),
        "alone_ms": replica.alone_ms,
        "alone_until_ms": replica.alone_until_ms or None,
    }


def leader(leader: Leader | None) -> Json | None:
    """Who holds the lease; None where nobody does."""
    if leader is None or leader.remaining_ms <= 0:
        return None
    return {"worker": leader.worker, "epoch": leader.epoch, "since_ms": leader.since_ms}


def event(name: str, entry: LoggedEvent) -> Json:
    """An entry of a provider's log."""
    details = dict(entry.details)
    return {"provider": name, "at_ms": entry.at_ms, "event": entry.event, "by": entry.by, "details": details}


def unreadable(snapshot: Snapshot) -> list[Json]:
    """The records that cannot be used, and why."""
    return [{"name": name, "error": str(error)} for name, error in sorted(snapshot.unreadable.items())]


def rank(fact: Json) -> tuple[Any, ...]:
    """Worst first; a failure rate that moves a little moves nobody."""
    return WORST_FIRST.index(fact["level"]), -round(fact["failure_rate"], 1), fact["name"]


def ranked(facts: Iterable[Json]) -> list[Json]:
    """The worst first."""
    return sorted(facts, key=rank)
