"""Why nobody may be called for a model, in the words of NoProviderAvailable."""

from collections.abc import Collection
from datetime import UTC, datetime

from redis_router.circuit.record import CircuitState
from redis_router.errors import NoProviderAvailable, Why
from redis_router.routing.candidate import Candidate
from redis_router.routing.table import RoutingTable, Selector


def unknown_model(model: str, table: RoutingTable) -> NoProviderAvailable:
    """No provider serves it."""

    def why() -> Why:
        known = ", ".join(sorted(table.serving)[:10]) or "no provider is registered"
        reasons = dict.fromkeys(table.candidates, "model unknown: it does not serve it")
        return reasons, None, f"no provider serves it; registered: {known}"

    return NoProviderAvailable.because(model, why)


def nobody(
    model: str, selector: Selector, now_ms: float, tried: Collection[str], excluded: Collection[str]
) -> NoProviderAvailable:
    """A reason for each provider that serves it, and when the first may be back; `now_ms` is on Redis's clock."""

    def why() -> Why:
        reasons: dict[str, str] = {}
        waits: list[float] = []
        for candidate in selector.candidates:
            name, wait = candidate.health.name, None
            if name in excluded:
                reason = "excluded by the caller"
            elif name in tried:
                reason = "tried already"
            else:
                reason, wait = _why_not(candidate, now_ms)
            reasons[name] = reason
            if wait is not None:
                waits.append(wait)
        return reasons, min(waits, default=None), ""

    return NoProviderAvailable.because(model, why)


def _why_not(candidate: Candidate, now_ms: float) -> tuple[str, float | None]:
    """And in how many seconds it may be back, None where that is unknown."""
    health = candidate.health
    cooling = max(health.cooling_for_ms(now_ms) / 1000, candidate.here.limited_for)
    if health.unavailable_reason == "operator":
        return "drained: taken out of service by an operator", None
    if health.is_drained:
        return "drained: its weight is 0", None
    if health.circuit_state is CircuitState.OPEN:
        wait = max(cooling, health.due_in_ms(now_ms) / 1000, 0.0)
        failure = f"; last failure: {health.last_failure}" if health.last_failure else ""
        return f"circuit open until {_moment(now_ms, wait)} ({health.open_reason}{failure})", wait
    if cooling:
        return f"cooling until {_moment(now_ms, cooling)} (rate limited)", cooling
    if health.circuit_state is CircuitState.HALF_OPEN:
        return "circuit half-open, its trial calls are taken", None
    if not health.available:
        return f"unavailable ({health.unavailable_reason})", None
    return "back in service a moment ago", None


def _moment(now_ms: float, wait: float) -> str:
    """A time of day, and in how many seconds."""
    return f"{datetime.fromtimestamp(now_ms / 1000 + wait, UTC):%H:%M:%SZ}, in {wait:.1f} s"
