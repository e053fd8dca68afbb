"""Which provider a request goes to, or why nobody: decided here, and nowhere else.

From a routing table, what was tried, and the clocks to a value: `Chosen` or `Nobody`. Nothing is spent, noted or raised
here. The order, for each model that the request may ask for:

1. A provider on trial, where there is a permit for it: its circuit would never close if healthy peers got every call.
2. For a request's first call, the pick of the router's strategy.
3. The best of those not yet tried, by the strategy for further tries.
4. Nobody. Then the next model is looked at; for a fallback model, those come first that no model's call was sent to.

Whoever was told of a rate limit a moment ago is passed over although the record does not show it yet.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from redis_router.circuit.record import CircuitState
from redis_router.routing.candidate import Candidate
from redis_router.routing.refusal import EXCLUDED, TRIED, NobodyNow, Refusal, UnknownModel
from redis_router.routing.strategies import Strategy
from redis_router.routing.table import RoutingTable, Selector, pick_from

Tried = Collection[tuple[str, str]]
"""What a request may not ask again: pairs of a model and the name of a record."""
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rules:
    """How one router chooses.

    further    orders a request's further tries
    now_ms     Redis's clock, in ms
    least_bad  rather somebody who is rate limited than nobody
    monotonic  this process's clock, in seconds
    """

    further: Strategy
    now_ms: Callable[[], float]
    least_bad: bool = False
    monotonic: Callable[[], float] = time.monotonic


class Chosen(NamedTuple):
    """The provider to call. A tuple, as it is made for every request.

    model     what to ask it for
    on_trial  its circuit is half-open: the call needs a permit
    demand    models for which a trial call would have been made, had there been a permit
    """

    candidate: Candidate
    model: str
    on_trial: bool = False
    demand: tuple[str, ...] = ()


class Nobody(NamedTuple):
    """Nobody may be called: why, for each model in turn; and `demand` as in `Chosen`."""

    refusals: tuple[Refusal, ...]
    demand: tuple[str, ...] = ()


def choose(
    table: RoutingTable,
    models: Sequence[str],
    rules: Rules,
    *,
    tried: Tried = (),
    excluded: Collection[str] = (),
    without_permit: Collection[str] = (),
) -> Chosen | Nobody:
    """The provider for the first of these models that somebody may be called for.

    excluded        names of records that the caller does not want
    without_permit  names of records on trial for which there is no permit in hand

    Raises InvalidArgument for a model that is no string.
    """
    refusals: list[Refusal] = []
    demand: tuple[str, ...] = ()
    for model in models:
        selector, left_out = table.find(model), _NONE
        if selector is None:
            refusals.append(UnknownModel(model, table))
            continue
        for left_out in _left_out(model, tried):
            passed_over = {*left_out, *excluded}
            for candidate in selector.on_trial:
                if candidate.health.name not in passed_over and candidate.health.name not in without_permit:
                    return Chosen(candidate, model, True, demand)
            found = _without_permit(selector, rules, passed_over)
            if selector.on_trial or found is None:
                demand = (*demand, selector.model)
            if found is not None:
                return Chosen(found, model, False, demand)
        barred = {**dict.fromkeys(left_out, TRIED), **dict.fromkeys(excluded, EXCLUDED)}
        refusals.append(NobodyNow(model, selector.candidates, barred, rules.now_ms(), rules.monotonic()))
    return Nobody(tuple(refusals), demand)


def _left_out(model: str, tried: Tried) -> Sequence[frozenset[str]]:
    """The records to leave out for a model: at first all that were tried for any, then those tried for this one."""
    if not tried:
        return (_NONE,)
    for_any = frozenset(record for _, record in tried)
    for_this = frozenset(record for tried_for, record in tried if tried_for == model)
    return (for_any,) if for_any == for_this else (for_any, for_this)


def _without_permit(selector: Selector, rules: Rules, passed_over: Collection[str]) -> Candidate | None:
    """Somebody who may be called by anybody."""
    if selector.pick is None:
        return None
    if not passed_over:
        candidate = selector.pick()
        if not is_limited(candidate, rules):
            return candidate
    left = [c for c in selector.routable if c.health.name not in passed_over]
    rest = [c for c in left if not is_limited(c, rules)] or (left if rules.least_bad else [])
    return pick_from(rules.further, selector.model, rest) if rest else None


def is_limited(candidate: Candidate, rules: Rules) -> bool:
    """Was this replica told of a rate limit that is not over, and that the record may not show yet?"""
    return bool(candidate.here.limited_until) and candidate.here.limited_for(rules.monotonic()) > 0


def another_is_left(table: RoutingTable, models: Sequence[str], rules: Rules, tried: Tried) -> bool:
    """May a call go now, without a permit, to somebody who was not tried for that model?"""
    return any(
        (model, c.health.name) not in tried and not is_limited(c, rules)
        for model in models
        if (selector := table.find(model)) is not None
        for c in selector.routable
    )


def available(table: RoutingTable, model: str, rules: Rules) -> list[Candidate]:
    """Those that may be called now without a permit, in the order of registration."""
    selector = table.find(model)
    return [
        c
        for c in (selector.routable if selector is not None else ())
        if c.health.circuit_state is not CircuitState.HALF_OPEN and not is_limited(c, rules)
    ]


def fallbacks(table: RoutingTable, model: str, primary: str | None, rules: Rules) -> list[Candidate]:
    """The same but for the provider `primary`, the best first."""
    selector = table.find(model)
    rest = [c for c in available(table, model, rules) if c.provider.name != primary]
    ordered = []
    while rest and selector is not None:
        best = pick_from(rules.further, selector.model, rest)
        rest.remove(best)
        ordered.append(best)
    return ordered
