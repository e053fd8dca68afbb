"""Health records -> the immutable table that requests are routed by, one selector for each model.

Model names come from end users, so the table knows only those that a provider was registered with; every other name
is served by the selector of the providers that serve "*", without leaving a trace.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from redis_router.errors import InvalidArgument
from redis_router.model import ANY_MODEL, Candidate, CircuitState, Provider, ProviderHealth
from redis_router.strategies import Pick, RoundRobin, Strategy

log = logging.getLogger("redis_router")


def is_routable(health: ProviderHealth) -> bool:
    """May calls go there without a permit? As in the original: a closed circuit, and available."""
    return health.circuit_state is CircuitState.CLOSED and health.available


def is_on_trial(health: ProviderHealth) -> bool:
    """May calls go there with a permit? A half-open circuit, unless an operator took the provider out."""
    return health.circuit_state is CircuitState.HALF_OPEN and health.unavailable_reason != "operator"


@dataclass(frozen=True, slots=True)
class Selector:
    """Who serves one model (or "*"): all candidates, those on trial, and the pick among those that are routable."""

    model: str
    candidates: tuple[Candidate, ...]
    on_trial: tuple[Candidate, ...]
    pick: Pick | None


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """What `select_provider` reads: replaced as a whole, never changed."""

    candidates: Mapping[str, Candidate]
    selectors: Mapping[str, Selector]
    any_model: Selector | None

    def find(self, model: str) -> Selector | None:
        """The selector for a model name, None where no provider serves it. Raises InvalidArgument."""
        try:
            return self.selectors[model]
        except (KeyError, TypeError):
            if not isinstance(model, str):
                raise InvalidArgument(f"model is {model!r}: give its name, a string") from None
            return self.any_model


EMPTY = RoutingTable({}, {}, None)


def build(providers: Iterable[Provider], records: Mapping[str, ProviderHealth], strategy: Strategy) -> RoutingTable:
    """The table for these providers; one without a record yet counts as new."""
    candidates = {
        p.name: Candidate(p, records.get(p.name) or ProviderHealth(p.name, weight=p.weight)) for p in providers
    }
    return _with_selectors(
        candidates, {}, {model for c in candidates.values() for model in c.provider.models}, strategy
    )


def updated(table: RoutingTable, records: Sequence[ProviderHealth], strategy: Strategy) -> RoutingTable:
    """The table with newer records: only the selectors of the models they serve are made again."""
    candidates = dict(table.candidates)
    touched: set[str] = set()
    for health in records:
        if health.name in candidates:
            candidates[health.name] = Candidate(candidates[health.name].provider, health)
            touched.update(candidates[health.name].provider.models)
    if not touched:
        return table
    if ANY_MODEL in touched:
        touched.update(table.selectors)
    return _with_selectors(candidates, table.selectors, touched, strategy)


def _with_selectors(
    candidates: Mapping[str, Candidate], kept: Mapping[str, Selector], models: set[str], strategy: Strategy
) -> RoutingTable:
    serving: dict[str, list[Candidate]] = {model: [] for model in models}
    for candidate in candidates.values():
        served = candidate.provider.models
        for model in models if ANY_MODEL in served else models.intersection(served):
            serving[model].append(candidate)
    selectors = {**kept, **{model: _selector(model, tuple(found), strategy) for model, found in serving.items()}}
    return RoutingTable(candidates, selectors, selectors.get(ANY_MODEL))


def _selector(model: str, candidates: tuple[Candidate, ...], strategy: Strategy) -> Selector:
    routable = [c for c in candidates if is_routable(c.health)]
    on_trial = tuple(c for c in candidates if is_on_trial(c.health))
    return Selector(model, candidates, on_trial, prepare(strategy, model, routable) if routable else None)


def prepare(strategy: Strategy, model: str, candidates: Sequence[Candidate]) -> Pick:
    """The strategy's pick; a user's strategy that fails must not stop the fleet's news, so round robin stands in."""
    try:
        pick = strategy.prepare(model, candidates)
        if not callable(pick):
            raise TypeError(f"prepare must return a function that picks a candidate, not {pick!r}")
        return pick
    except Exception:
        log.exception("strategy %r failed to prepare model %r: round_robin stands in", strategy, model)
        return RoundRobin().prepare(model, candidates)


def pick_from(strategy: Strategy, model: str, candidates: Sequence[Candidate]) -> Candidate:
    """One choice among some of a model's candidates."""
    return prepare(strategy, model, candidates)()
