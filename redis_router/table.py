"""Health records -> the immutable table that requests are routed by, one selector for each model.

Model names come from end users, so the table knows only those that a provider was registered with; every other name
is served by the selector of the providers that serve "*", without leaving a trace.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

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
    """What `select_provider` reads: replaced as a whole, never changed.

    serving   the names of the providers for each model, in the order of registration
    picks     by model, where no provider is on trial: then a choice is no more than this
    """

    candidates: Mapping[str, Candidate]
    serving: Mapping[str, tuple[str, ...]]
    selectors: Mapping[str, Selector]
    picks: Mapping[str, Pick]

    def find(self, model: str) -> Selector | None:
        """The selector for a model name, None where no provider serves it. Raises InvalidArgument."""
        try:
            return self.selectors[model]
        except (KeyError, TypeError):
            if not isinstance(model, str):
                raise InvalidArgument(f"model is {model!r}: give its name, a string") from None
            return self.selectors.get(ANY_MODEL)


EMPTY = RoutingTable({}, {}, {}, {})


def build(providers: Iterable[Provider], records: Mapping[str, ProviderHealth], strategy: Strategy) -> RoutingTable:
    """The table for these providers; one without a record yet counts as new."""
    candidates = {
        p.name: Candidate(p, records.get(p.name) or ProviderHealth(p.name, weight=p.weight)) for p in providers
    }
    serving: dict[str, list[str]] = {model: [] for c in candidates.values() for model in c.provider.models}
    for name, candidate in candidates.items():
        for model in serving if ANY_MODEL in candidate.provider.models else candidate.provider.models:
            serving[model].append(name)
    names = {model: tuple(found) for model, found in serving.items()}
    return _with_selectors(RoutingTable(candidates, names, {}, {}), names, strategy)


def updated(table: RoutingTable, records: Iterable[ProviderHealth], strategy: Strategy) -> RoutingTable:
    """The table with newer records: only the selectors of the models they serve are made again."""
    candidates = dict(table.candidates)
    touched: set[str] = set()
    for health in records:
        if health.name in candidates:
            candidates[health.name] = Candidate(candidates[health.name].provider, health)
            touched.update(candidates[health.name].provider.models)
    if not touched:
        return table
    models = table.serving if ANY_MODEL in touched else touched
    return _with_selectors(replace(table, candidates=candidates), models, strategy)


def _with_selectors(table: RoutingTable, models: Iterable[str], strategy: Strategy) -> RoutingTable:
    selectors, picks = dict(table.selectors), dict(table.picks)
    pools: dict[tuple[str, ...], Pool] = {}  # many models are served by the same providers
    for model in models:
        names = table.serving[model]
        pool = pools.get(names)
        if pool is None:
            pool = pools[names] = _pool([table.candidates[name] for name in names])
        pick = prepare(strategy, model, pool.routable) if pool.routable else None
        selectors[model] = Selector(model, pool.candidates, pool.on_trial, pick)
        picks.pop(model, None)
        if pick is not None and not pool.on_trial:
            picks[model] = pick
    return replace(table, selectors=selectors, picks=picks)


@dataclass(frozen=True, slots=True)
class Pool:
    """Providers, and which of them may be called without a permit or with one."""

    candidates: tuple[Candidate, ...]
    routable: tuple[Candidate, ...]
    on_trial: tuple[Candidate, ...]


def _pool(candidates: Sequence[Candidate]) -> Pool:
    routable = tuple(c for c in candidates if is_routable(c.health))
    return Pool(tuple(candidates), routable, tuple(c for c in candidates if is_on_trial(c.health)))


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
