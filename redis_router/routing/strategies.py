"""Routing strategies: work done when the table changes, so that a pick costs the same for 3 and for 1000 providers."""

import random
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, count
from math import gcd
from typing import Protocol

from redis_router.checks import check_number
from redis_router.errors import InvalidArgument
from redis_router.routing.candidate import Candidate

Pick = Callable[[], Candidate]


class Strategy(Protocol):
    """How to choose between the providers that may serve a model.

    `prepare` is called whenever one of them changed, with at least one candidate, in the order of registration; it
    returns the function that `select_provider` then calls for each request. That function runs on the request path
    and from several threads: it should only look up what `prepare` computed. It is also called with a part of
    them, for a request's further tries and in slow start: it should keep nothing that the next call must agree with.
    """

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick: ...


class Turns:
    """A rising number per model, kept over table changes; random at first, so that replicas do not march in step."""

    def __init__(self) -> None:
        self._counts: dict[str, Iterator[int]] = {}

    def rotate(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        """Take the candidates in turn. `next` on a count is atomic, so threads need no lock."""
        chosen, size = tuple(candidates), len(candidates)
        if size == 1:
            only = chosen[0]
            return lambda: only
        turn = self._counts.setdefault(model, count(random.randrange(1 << 16))).__next__
        return lambda: chosen[turn() % size]


def at_random(candidates: Sequence[Candidate]) -> Pick:
    """Any of them: replicas that see the same figures must not all take the first."""
    chosen, size, draw = tuple(candidates), len(candidates), random.random
    if size == 1:
        only = chosen[0]
        return lambda: only
    return lambda: chosen[int(draw() * size)]


class Latency:
    """The lowest latency average; equals are taken at random.

    A provider without a sample counts as equal to the best until it has one: with the original's latency of 0 it
    would win every request, with a high one it would never be measured.

    With a `tolerance` of 0.2 all within 20 % of the lowest are equals. Then a provider without a sample begins at its
    peers' mean.
    """

    def __init__(self, tolerance: float = 0.0) -> None:
        self._tolerance = check_number("tolerance", tolerance, most=100.0)

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        if self._tolerance:
            averages = or_mean([c.health.latency_ms for c in candidates])
            most = min(averages) * (1 + self._tolerance)
            return at_random([c for c, average in zip(candidates, averages, strict=True) if average <= most])
        best = min((c.health.latency_ms for c in candidates if c.health.latency_ms > 0), default=0.0)
        return at_random([c for c in candidates if c.health.latency_ms in (0.0, best)])


FAILURE_COSTS_MS = 5000.0
"""What a failure is worth in latency: linkerd's penalty."""
EQUALS = 1.25
"""Averages within so many times the lowest count as equal: those of two equal providers differ by so much."""
STEEPNESS = 3
LEAST_SHARE = 0.005
"""Of the best one's share: what a healthy provider gets at least, however slow it was."""


class PowerOfTwoChoices:
    """Of two drawn at random by their shares, the one with fewer calls in flight here.

    A share is weight · min(1, 1.25 · lowest figure / figure)³, where the figure is the average latency + 5 s · failure
    rate. So those within a quarter of the best are equals, one that is three times as slow is drawn for one call in
    fifteen, and nobody less than for one in two hundred. Calls in flight are this replica's own, counted between the
    beginning and the end of an attempt's `with` block.
    """

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        if len(candidates) == 1:
            return at_random(candidates)
        costs = _costs(candidates)
        lowest = min(costs) * EQUALS
        shares = [
            c.health.weight * max(LEAST_SHARE, min(1.0, lowest / cost) ** STEEPNESS)
            for c, cost in zip(candidates, costs, strict=True)
        ]
        rows = [(c, c.here.in_flight, c.health.weight) for c in candidates]
        kept, other_of = alias_table(shares)
        size, draw = len(rows), random.random

        def pick() -> Candidate:
            at = draw() * size
            index = int(at)
            one, calls, weight = rows[index if at - index < kept[index] else other_of[index]]
            at = draw() * size
            index = int(at)
            other, other_calls, other_weight = rows[index if at - index < kept[index] else other_of[index]]
            return one if len(calls) * other_weight <= len(other_calls) * weight else other

        return pick


def alias_table(shares: Sequence[float]) -> tuple[list[float], list[int]]:
    """For draws by share that cost the same for 3 and for 1000: Walker's alias method, as Vose builds it.

    Of each index drawn evenly: the part in which it is kept, and the index that gets the rest.
    """
    mean = sum(shares) / len(shares)
    kept, other_of = [share / mean for share in shares], list(range(len(shares)))
    small = [index for index, part in enumerate(kept) if part < 1]
    large = [index for index, part in enumerate(kept) if part >= 1]
    while small and large:
        index, other = small.pop(), large[-1]
        other_of[index] = other
        kept[other] -= 1 - kept[index]
        if kept[other] < 1:
            small.append(large.pop())
    return kept, other_of


class LeastLoad:
    """The lowest load of all, as p2c has it: for the second try of a request, when the first choice failed."""

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        costs = _costs(candidates)
        lowest = min(costs) * EQUALS
        rows = [
            (max(cost, lowest) / c.health.weight, c.here.in_flight, c)
            for c, cost in zip(candidates, costs, strict=True)
        ]
        return lambda: min(random.sample(rows, len(rows)), key=lambda row: row[0] * (len(row[1]) + 1))[2]


def _costs(candidates: Sequence[Candidate]) -> list[float]:
    """Each one's average latency in ms, with what its failures cost."""
    averages = or_mean([c.health.latency_ms for c in candidates])
    return [average + FAILURE_COSTS_MS * c.health.failure_rate for average, c in zip(averages, candidates, strict=True)]


def or_mean(latencies: Sequence[float]) -> list[float]:
    """For what was not measured its peers' mean; all 1 where none was."""
    measured = [latency for latency in latencies if latency > 0]
    mean = sum(measured) / len(measured) if measured else 1.0
    return [latency if latency > 0 else mean for latency in latencies]


class RoundRobin:
    """Each in turn, in the order of registration, counted for each model by itself."""

    def __init__(self) -> None:
        self._turns = Turns()

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        return self._turns.rotate(model, candidates)


class Weighted:
    """At random, in proportion to the records' weights."""

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        chosen, bounds = tuple(candidates), list(accumulate(c.health.weight for c in candidates))
        total, last, draw = bounds[-1], len(bounds) - 1, random.random
        return lambda: chosen[bisect(bounds, draw() * total, 0, last)]


class WeightedRoundRobin:
    """In turn, in proportion to the records' weights, the turns of each spread evenly: smooth, as nginx's.

    The schedule is worked out when a weight changes, so that a pick is a look-up: each provider's k-th turn is due at
    (k + 1/2) / weight, and all are sorted by that.
    """

    def __init__(self) -> None:
        self._turns = Turns()
        self._schedules: dict[tuple[float, ...], list[int]] = {}

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        weights = tuple(c.health.weight for c in candidates)
        schedule = self._schedules.get(weights)
        if schedule is None:
            if len(self._schedules) >= 100:
                self._schedules.clear()  # weights that nobody has any more
            schedule = self._schedules[weights] = smooth(weights)
        return self._turns.rotate(model, [candidates[index] for index in schedule])


MOST_TURNS = 10_000


def smooth(weights: Sequence[float]) -> list[int]:
    """Indices in turn, each as often as its weight says and evenly spread; weights count to three digits."""
    least = min(weights)
    turns = [max(1, round(weight / least * 1000)) for weight in weights]
    shrink = max(1.0, sum(turns) / gcd(*turns) / MOST_TURNS) * gcd(*turns)
    turns = [max(1, round(each / shrink)) for each in turns]
    due = [((k + 0.5) / each, index) for index, each in enumerate(turns) for k in range(each)]
    return [index for _, index in sorted(due)]


class Availability:
    """The lowest failure rate; equals are taken at random."""

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        best = min(c.health.failure_rate for c in candidates)
        return at_random([c for c in candidates if c.health.failure_rate == best])


IDLE_MS = 5000.0
"""A provider that nobody in the fleet called for so long is looked at."""
LEAST_WEIGHT = 0.1
"""Of the heaviest one's: with less of it nobody is looked at by a strategy that goes by weights, too."""
CALLS_BETWEEN_LOOKS = 5
"""At most one call in so many is such a look, so that few calls are not all spent on it."""


class Looking:
    """A strategy by what was measured, which looks now and then at a provider that it would never choose.

    Without a call nothing new is measured: one slow call, or one failure, would keep a provider out for ever.
    """

    def __init__(self, strategy: Strategy, now_ms: Callable[[], float]) -> None:
        self._strategy = strategy
        self._now_ms = now_ms
        self._by_weight = isinstance(strategy, PowerOfTwoChoices)
        self._calls: dict[str, Iterator[int]] = {}

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        """The strategy's pick; where somebody is idle, with looks at them, the longest idle first."""
        pick, now = self._strategy.prepare(model, candidates), self._now_ms()
        heaviest = max(c.health.weight for c in candidates)
        # who was given hardly any weight is to be idle
        wanted = [c for c in candidates if not self._by_weight or c.health.weight >= LEAST_WEIGHT * heaviest]
        long_ago = [c for c in wanted if not abs(now - c.health.last_result_ms) < IDLE_MS]
        if not long_ago or len(candidates) == 1:
            return pick
        idle = sorted(long_ago, key=lambda c: c.health.last_result_ms, reverse=True)
        call = self._calls.setdefault(model, count(random.randrange(CALLS_BETWEEN_LOOKS))).__next__

        def looking() -> Candidate:
            if idle and call() % CALLS_BETWEEN_LOOKS == 0:
                try:
                    candidate = idle.pop()  # atomic: one caller gets it
                except IndexError:
                    return pick()
                if candidate.here.may_look(self._now_ms(), IDLE_MS):
                    return candidate
            return pick()

        return looking


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "latency": Latency,
    "round_robin": RoundRobin,
    "weighted": Weighted,
    "weighted_round_robin": WeightedRoundRobin,
    "availability": Availability,
    "p2c": PowerOfTwoChoices,
}


def best_first(strategy: str | Strategy) -> Strategy:
    """What orders a request's further tries: an instance of its own, so that they use up no turns of the first ones."""
    found = resolve(strategy)
    return LeastLoad() if isinstance(found, PowerOfTwoChoices) else found


def looking(strategy: Strategy, now_ms: Callable[[], float]) -> Strategy:
    """The strategy, so that it starves nobody; those that go by turns or weights starve nobody anyway."""
    measures = isinstance(strategy, Latency | Availability | PowerOfTwoChoices)
    return Looking(strategy, now_ms) if measures else strategy


def resolve(strategy: str | Strategy) -> Strategy:
    """The strategy of that name, or the user's own object. Raises InvalidArgument, which lists the names."""
    if isinstance(strategy, str) and strategy in STRATEGIES:
        return STRATEGIES[strategy]()
    if not isinstance(strategy, str | type) and callable(getattr(strategy, "prepare", None)):
        return strategy
    raise InvalidArgument(
        f"unknown strategy {strategy!r}: choose {', '.join(STRATEGIES)}, or an object with prepare(model, candidates)"
    )
