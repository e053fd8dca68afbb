"""Routing strategies: work done when the table changes, so that a pick costs the same for 3 and for 1000 providers."""

import random
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, count
from math import gcd
from typing import Protocol

from redis_router.checks import check_number
from redis_router.errors import InvalidArgument
from redis_router.model import Candidate

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
    peers' mean, and one that is idle comes nearer to it, so that it is measured again.
    """

    def __init__(self, tolerance: float = 0.0) -> None:
        self._tolerance = check_number("tolerance", tolerance, most=100.0)

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        if self._tolerance:
            averages = balanced([c.health.latency_ms for c in candidates], candidates)
            most = min(averages) * (1 + self._tolerance)
            return at_random([c for c, average in zip(candidates, averages, strict=True) if average <= most])
        best = min((c.health.latency_ms for c in candidates if c.health.latency_ms > 0), default=0.0)
        return at_random([c for c in candidates if c.health.latency_ms in (0.0, best)])


class PowerOfTwoChoices:
    """Of two at random, the one with the lower load: peak latency · (calls in flight + 1) / weight.

    The peak latency is the fleet's, where a failure counts as a slow call; the calls in flight are this replica's own,
    counted between the beginning and the end of an attempt's `with` block. As in Finagle and tower.
    """

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        if len(candidates) == 1:
            return at_random(candidates)
        rows = _costs(candidates)
        size, others, draw = len(rows), len(rows) - 1, random.random

        def pick() -> Candidate:
            first, second = int(draw() * size), int(draw() * others)
            one, calls, cost = rows[first]
            other, other_calls, other_cost = rows[second if second < first else second + 1]
            return one if cost * (len(calls) + 1) <= other_cost * (len(other_calls) + 1) else other

        return pick


class LeastLoad:
    """The lowest load of all, as p2c has it: for the second try of a request, when the first choice failed."""

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        rows = _costs(candidates)
        return lambda: min(rows, key=lambda row: row[2] * (len(row[1]) + 1))[0]


def _costs(candidates: Sequence[Candidate]) -> list[tuple[Candidate, list[None], float]]:
    """Each with its calls in flight, and its peak latency by weight."""
    peaks = balanced([c.health.peak_latency_ms or c.health.latency_ms for c in candidates], candidates)
    return [(c, c.in_flight, peak / c.health.weight) for c, peak in zip(candidates, peaks, strict=True)]


IDLE_TAU_MS = 10_000.0
"""How fast the figure of a provider that gets no calls comes nearer to its peers'."""


def balanced(latencies: Sequence[float], candidates: Sequence[Candidate]) -> list[float]:
    """Latencies fit for comparison: the peers' mean for what was not measured, and nearer to it for what is idle.

    A provider is idle since its last result, counted from the latest of its peers'. All 1 where none was measured.
    """
    measured = [latency for latency in latencies if latency > 0]
    if not measured:
        return [1.0] * len(latencies)
    total, latest = sum(measured), max(c.health.last_result_ms for c in candidates)
    found = []
    for latency, candidate in zip(latencies, candidates, strict=True):
        if latency <= 0:
            found.append(total / len(measured))
        elif len(measured) == 1:
            found.append(latency)
        else:
            mean = (total - latency) / (len(measured) - 1)
            kept = IDLE_TAU_MS / (IDLE_TAU_MS + latest - candidate.health.last_result_ms)
            found.append(mean + (latency - mean) * kept)
    return found


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


def resolve(strategy: str | Strategy) -> Strategy:
    """The strategy of that name, or the user's own object. Raises InvalidArgument, which lists the names."""
    if isinstance(strategy, str) and strategy in STRATEGIES:
        return STRATEGIES[strategy]()
    if not isinstance(strategy, str | type) and callable(getattr(strategy, "prepare", None)):
        return strategy
    raise InvalidArgument(
        f"unknown strategy {strategy!r}: choose {', '.join(STRATEGIES)}, or an object with prepare(model, candidates)"
    )
