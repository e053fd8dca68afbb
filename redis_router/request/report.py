"""Results that are reported by hand, for calls to whom `select_provider` named."""

from redis_router.circuit.generations import NO_GENERATION
from redis_router.circuit.machine import HALF_OPEN
from redis_router.circuit.outcome import Outcome, Result, made
from redis_router.circuit.overrides import acting
from redis_router.errors import InvalidArgument, UnknownProvider
from redis_router.options import Options
from redis_router.request.classify import Verdict
from redis_router.request.context import Context
from redis_router.routing.candidate import Candidate


def report(
    context: Context, name: str, model: str | None, said: Verdict, latency_ms: float | None, options: Options
) -> None:
    """Record it for the generation of this moment, and the longest trial call that was handed out.

    Raises InvalidArgument and UnknownProvider.
    """
    if latency_ms is None and said.outcome in (Outcome.SUCCESS, Outcome.FAILURE):
        raise InvalidArgument("latency_ms is missing: give what the call took, in ms, or 0 for not measured")
    engine = context.engine
    candidate = engine.view.table.candidates.get(name) if isinstance(name, str) else None
    if candidate is None:
        candidate = _by_model(context, name, model)
        if candidate is None:
            return
    health = candidate.health
    record, generation = health.name, health.generation
    permit = engine.permits.reported(record, generation)
    is_kept = options.keeps_bad or (options.panics and health.still_answers)
    if permit is None and is_kept and acting(health, engine.now_ms()).circuit_state is HALF_OPEN:
        generation = NO_GENERATION  # it was called although it should not be
    token, hold = "" if permit is None else permit.token, said.cooldown or 0.0
    if hold:
        candidate.here.limited_until = max(candidate.here.limited_until, context.now() + hold)
    result = (record, said.outcome, latency_ms or 0.0, generation, token, said.reason, 0.0, hold * 1000, 0.0)
    engine.outbox.put(made(Result, result))


def _by_model(context: Context, name: str, model: str | None) -> Candidate | None:
    """Whom a result is of that no record bears the name of; None for a provider that was taken out meanwhile."""
    served, candidates = context.engine.served, context.engine.view.table.candidates
    if isinstance(name, str) and model is not None:
        name = f"{name}/{model}"
        if (found := candidates.get(name)) is not None:
            return found
    if any(c.provider.name == name for c in candidates.values()):
        raise InvalidArgument(f"provider {name!r} has a circuit for each model: give model=")
    if isinstance(name, str) and name in served.retired:
        context.engine.metrics.dropped("deregistered", 1)
    elif not isinstance(name, str) or not (served.has_provider(name) or served.records_of(name)):
        raise UnknownProvider.among(name, (c.provider.name for c in candidates.values()))
    return None
