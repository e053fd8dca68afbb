"""Which provider a request goes to: in memory, by the table of this moment, and what this replica knows itself."""

from collections.abc import Collection, Iterable

from redis_router.replica.engine import Engine
from redis_router.replica.permits import Permit
from redis_router.routing import table as tables
from redis_router.routing.candidate import Candidate
from redis_router.routing.refusal import nobody, unknown_model
from redis_router.routing.strategies import Strategy

Choice = tuple[Candidate, Permit | None]
"""A provider, and the half-open permit for it; None for an ordinary call."""


class Chooser:
    """Chooses for one router. `further` orders a request's further tries; `least_bad`: rather anybody than nobody."""

    def __init__(self, engine: Engine, further: Strategy, *, least_bad: bool) -> None:
        self._engine = engine
        self._view = engine.view
        self._further = further
        self._least_bad = least_bad

    def choose(self, model: str, tried: Collection[str] = (), excluded: Collection[str] = ()) -> Choice:
        """A provider of this model whose record is in neither. Raises NoProviderAvailable, which says why."""
        selector = self._view.table.find(model)
        if selector is None:
            raise unknown_model(model, self._view.table)
        passed_over = {*tried, *excluded}
        if selector.on_trial:
            trial = self._engine.trial(selector, passed_over)
            if trial is not None:
                return trial
        if selector.pick is not None:
            if not passed_over:
                candidate = selector.pick()
                if not is_limited(candidate):
                    return candidate, None
            left = [c for c in selector.routable if c.health.name not in passed_over]
            rest = [c for c in left if not is_limited(c)] or (left if self._least_bad else [])
            if rest:
                return tables.pick_from(self._further, selector.model, rest), None
        self._engine.want(selector.model)
        raise nobody(model, selector, self._engine.now_ms(), tried, excluded)

    def serving(self, model: str) -> list[str]:
        """The names of the records that serve a model, whatever their state."""
        selector = self._view.table.find(model)
        return [c.health.name for c in selector.candidates] if selector is not None else []

    def records_of(self, model: str, providers: Iterable[str]) -> list[str]:
        """The names of these providers' records for a model; of those that are not known here, nothing."""
        selector, named = self._view.table.find(model), frozenset(providers)
        candidates = selector.candidates if selector is not None else ()
        return [c.health.name for c in candidates if c.provider.name in named or c.health.name in named]

    def is_callable(self, model: str, without: Collection[str]) -> bool:
        """May a call for this model go now, without a permit, to somebody whose record is not among these?"""
        selector = self._view.table.find(model)
        routable = selector.routable if selector is not None else ()
        return any(c.health.name not in without and not is_limited(c) for c in routable)


def is_limited(candidate: Candidate) -> bool:
    """Was this replica told of a rate limit that is not over, and that the record may not show yet?"""
    if not candidate.here.limited_until:
        return False
    if candidate.here.limited_for > 0:
        return True
    candidate.here.limited_until = 0.0
    return False
