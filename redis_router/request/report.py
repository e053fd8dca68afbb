"""Results that are reported by hand, for calls to whom `select_provider` named."""

from redis_router.circuit.machine import HALF_OPEN, NO_GENERATION
from redis_router.circuit.outcome import Outcome, Result
from redis_router.errors import InvalidArgument, UnknownProvider
from redis_router.request.classify import Verdict
from redis_router.request.context import Context
from redis_router.routing.candidate import Candidate


def report(
    context: Context, name: str, model: str | None, said: Verdict, latency_ms: float | None, *, keeps_bad: bool
) -> None:
    """Record it for the generation of this moment, and the longest trial call that was handed out.

    `keeps_bad` as `Options` has it. Raises InvalidArgument and UnknownProvider.
    """
    if latency_ms is None and said.outcome in (Outcome.SUCCESS, Outcome.FAILURE):
        raise InvalidArgument("latency_ms is missing: give what the call took, in ms, or 0 for not measured")
    candidate = _candidate(context, name, model)
    if candidate is None:
        return
    engine, record, generation = context.engine, candidate.health.name, candidate.health.generation
    permit = engine.permits.reported(record, generation)
    if permit is None and keeps_bad and candidate.health.circuit_state is HALF_OPEN:
        generation = NO_GENERATION  # it was called although it should not be
    token, hold = "" if permit is None else permit.token, said.cooldown or 0.0
    if hold:
        candidate.here.limited_until = max(candidate.here.limited_until, context.now() + hold)
    engine.outbox.put(
        Result(record, said.outcome, latency_ms or 0.0, generation, token, said.reason, cooldown_ms=hold * 1000)
    )


def _candidate(context: Context, name: str, model: str | None) -> Candidate | None:
    """Whom the result is of; None for a provider that was taken out meanwhile."""
    served, candidates = context.engine.served, context.engine.view.table.candidates
    if isinstance(name, str):
        found = candidates.get(name)
        if found is None and model is not None:
            name = f"{name}/{model}"
            found = candidates.get(name)
        if found is not None:
            return found
    if any(c.provider.name == name for c in candidates.values()):
        raise InvalidArgument(f"provider {name!r} has a circuit for each model: give model=")
    if isinstance(name, str) and name in served.retired:
        context.engine.metrics.dropped("deregistered", 1)
    elif not isinstance(name, str) or not (served.has_provider(name) or served.records_of(name)):
        raise UnknownProvider.among(name, (c.provider.name for c in candidates.values()))
    return None
