"""Health records -> the immutable table that requests are routed by, one selector for each model.

Model names come from end users, so the table knows only those that a provider was registered with; every other name
is served by the selector of the providers that serve "*", without leaving a trace.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from redis_router.circuit.generations import NO_GENERATION
from redis_router.circuit.machine import CLOSED, HALF_OPEN
from redis_router.circuit.overrides import acting, left_ms
from redis_router.circuit.record import CLOCK_SKEW_MS, ProviderHealth, TakenOutBy
from redis_router.errors import InvalidArgument
from redis_router.provider import ANY_MODEL, Provider
from redis_router.routing.candidate import Candidate, Here
from redis_router.routing.strategies import Pick, RoundRobin, Strategy
from redis_router.runtime.log import log

RAMP_STEPS = 40
"""In slow start a provider's share grows in so many steps: a table is made for each."""
LEAST_RAMP = 0.1
"""Of its share of the calls, what a provider gets at once when its circuit closes: Envoy's min_weight_percent."""


def is_routable(health: ProviderHealth, now_ms: float) -> bool:
    """May calls go there without a permit? As in the original: a closed circuit, and available; and not cooling."""
    if health.circuit_state is not CLOSED or not health.available or health.weight <= 0:
        return False
    return not health.cooldown_until_ms or not health.cooling_for_ms(now_ms)


def is_half_open(health: ProviderHealth) -> bool:
    """A half-open circuit, unless an operator took the provider out."""
    return health.circuit_state is HALF_OPEN and not health.is_drained


@dataclass(frozen=True, slots=True)
class Selector:
    """Who serves one model (or "*"): all candidates, those on trial, and the pick among those that are routable.

    A trial call needs a permit.
    """

    model: str
    candidates: tuple[Candidate, ...]
    routable: tuple[Candidate, ...]
    on_trial: tuple[Candidate, ...]
    pick: Pick | None


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """What `select_provider` reads: replaced as a whole, never changed.

    candidates  by the name of their record
    models      those that each record is for
    serving     the names of the records for each model, in the order of registration
    picks       by model, where no provider is on trial: then a choice is no more than this
    """

    candidates: Mapping[str, Candidate]
    models: Mapping[str, tuple[str, ...]]
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

    def records_serving(self, model: str) -> list[str]:
        """The names of the records that serve a model, whatever their state."""
        selector = self.find(model)
        return [c.health.name for c in selector.candidates] if selector is not None else []

    def records_of(self, model: str, providers: Iterable[str]) -> list[str]:
        """The names of these providers' records for a model; of those that are not known here, nothing."""
        selector, named = self.find(model), frozenset(providers)
        candidates = selector.candidates if selector is not None else ()
        return [c.health.name for c in candidates if c.provider.name in named or c.health.name in named]


EMPTY = RoutingTable({}, {}, {}, {}, {})


@dataclass(frozen=True, slots=True)
class Tables:
    """Makes routing tables.

    now_ms                Redis's clock, in ms
    panics                where nobody may be called, those stay in play that still answer
    least_bad             where nobody may be called, the least bad one stays in play
    max_ejection_percent  of a model's providers whose circuit is not closed, so many at most are left out
    """

    strategy: Strategy
    now_ms: Callable[[], float]
    least_bad: bool = False
    panics: bool = False
    max_ejection_percent: float = 100.0

    def build(
        self, providers: Iterable[Provider], records: Mapping[str, ProviderHealth], old: RoutingTable = EMPTY
    ) -> RoutingTable:
        """The table for these providers; one without a record counts as new. `old` knows the calls in flight."""
        parts = {p.name: p for p in providers}
        candidates = {}
        for name, part in parts.items():
            health = records.get(name) or ProviderHealth(name, weight=part.weight)
            here = old.candidates[name].here if name in old.candidates else Here()
            here.heard(health.in_flight)
            candidates[name] = Candidate(part.whole, health, here)
        serving: dict[str, list[str]] = {model: [] for part in parts.values() for model in part.models}
        for name, part in parts.items():
            for model in serving if ANY_MODEL in part.models else part.models:
                serving[model].append(name)
        names = {model: tuple(found) for model, found in serving.items()}
        models = {name: tuple(part.models) for name, part in parts.items()}
        return self._with_selectors(RoutingTable(candidates, models, names, {}, {}), names)

    def updated(self, table: RoutingTable, records: Iterable[ProviderHealth]) -> RoutingTable:
        """The table with newer records: only the selectors of the models they serve are made again."""
        candidates = dict(table.candidates)
        touched: set[str] = set()
        for health in records:
            old = candidates.get(health.name)
            if old is not None:
                candidates[health.name] = Candidate(old.provider, health, old.here)
                touched.update(table.models[health.name])
        if not touched:
            return table
        models = table.serving if ANY_MODEL in touched else touched
        return self._with_selectors(replace(table, candidates=candidates), models)

    def _with_selectors(self, table: RoutingTable, models: Iterable[str]) -> RoutingTable:
        selectors, picks = dict(table.selectors), dict(table.picks)
        pools: dict[tuple[str, ...], Pool] = {}  # many models are served by the same providers
        for model in models:
            names = table.serving[model]
            pool = pools.get(names)
            if pool is None:
                pool = pools[names] = self._pool([table.candidates[name] for name in names])
            pick = self._pick(model, pool) if pool.routable else None
            selectors[model] = Selector(model, pool.candidates, pool.routable, pool.on_trial, pick)
            picks.pop(model, None)
            if pick is not None and not pool.on_trial:
                picks[model] = pick
        return replace(table, selectors=selectors, picks=picks)

    def _pool(self, candidates: Sequence[Candidate]) -> "Pool":
        now = self.now_ms()
        candidates = [_acting(candidate, now) for candidate in candidates]
        routable = [c for c in candidates if is_routable(c.health, now)]
        on_trial = tuple(c for c in candidates if is_half_open(c.health) and not c.health.cooling_for_ms(now))
        return Pool(tuple(candidates), (*routable, *self._kept(candidates, bool(routable), now)), on_trial)

    def _kept(self, candidates: Sequence[Candidate], any_routable: bool, now: float) -> list[Candidate]:
        """Those that stay in play although they should not be called: the least bad ones.

        Such a call carries generation 0: it moves the averages, never the circuit.
        """
        if self.max_ejection_percent == 100.0 and (any_routable or not (self.least_bad or self.panics)):
            return []
        in_service = [c for c in candidates if not c.health.is_drained]
        ejected = [c for c in in_service if c.health.circuit_state is not CLOSED]
        number = len(ejected) - int(len(candidates) * self.max_ejection_percent / 100)
        if number <= 0 and self.least_bad and not any_routable:
            ejected, number = in_service, 1
        bad = sorted(ejected, key=lambda c: _badness(c.health, now))[: max(0, number)]
        if self.panics and not bad and not any_routable:
            bad = [c for c in ejected if c.health.still_answers and not c.health.cooling_for_ms(now)]
        return [Candidate(c.provider, replace(c.health, generation=NO_GENERATION), c.here) for c in bad]

    def _pick(self, model: str, pool: "Pool") -> Pick:
        """The strategy's pick, eased in for providers whose circuit closed a moment ago: the newest sets the pace."""
        now = self.now_ms()
        shares = [_share(c.health, now) for c in pool.routable]
        rest = [c for c, share in zip(pool.routable, shares, strict=True) if share == 1.0]
        if not rest or len(rest) == len(shares):
            return prepare(self.strategy, model, pool.routable)
        others = prepare(self.strategy, model, rest)
        return _eased_in(min(shares), prepare(self.strategy, model, pool.routable), others)


@dataclass(frozen=True, slots=True)
class Pool:
    """Providers, and which of them may be called without a permit or with one."""

    candidates: tuple[Candidate, ...]
    routable: tuple[Candidate, ...]
    on_trial: tuple[Candidate, ...]


def _acting(candidate: Candidate, now_ms: float) -> Candidate:
    """With what operators said for this moment; in a table's candidates the records stay as they are."""
    health = acting(candidate.health, now_ms)
    return candidate if health is candidate.health else Candidate(candidate.provider, health, candidate.here)


def _badness(health: ProviderHealth, now_ms: float) -> tuple[bool, bool, float, float]:
    """Orders providers that should not be called: those whose probe fails last, then the cooling ones."""
    cooling = health.cooling_for_ms(now_ms)
    return health.unavailable_reason == TakenOutBy.PROBE, cooling > 0, health.failure_rate, health.due_in_ms(now_ms)


def _share(health: ProviderHealth, now_ms: float) -> float:
    """Slow start, Envoy's ramp with aggression 1: max(0.1, time since the circuit closed / slow_start), at most 1."""
    window, closed_at = health.config.slow_start * 1000, health.last_state_change_ms
    if window == 0 or closed_at == 0 or health.circuit_state is not CLOSED:
        return 1.0
    passed = now_ms - closed_at  # below 0 where our estimate of Redis's clock is behind
    return max(LEAST_RAMP, passed / window) if -CLOCK_SKEW_MS < passed < window else 1.0


def _eased_in(share: float, pick: Pick, others: Pick) -> Pick:
    """So much of the calls as the strategy has it; of the rest none goes to the new ones."""
    draw = random.random
    return lambda: pick() if draw() < share else others()


def depends_on_time(health: ProviderHealth) -> bool:
    """Does what a table makes of this record depend on the moment?"""
    overridden = health.override_until_ms > 0 or health.weight_override_until_ms > 0
    return overridden or health.cooldown_until_ms > 0 or health.config.slow_start > 0


def changes_in_ms(health: ProviderHealth, now_ms: float) -> float | None:
    """Milliseconds until time alone changes what a table makes of this record; None for never.

    The end of an override or of a rate limit, or a step of slow start.
    """
    left, wait = left_ms(health, now_ms), health.cooling_for_ms(now_ms) or None
    if wait is None and _share(acting(health, now_ms), now_ms) < 1:
        wait = health.config.slow_start * 1000 / RAMP_STEPS
    return min((each for each in (left, wait) if each is not None), default=None)


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
