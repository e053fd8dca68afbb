"""Strategies that measure nothing: each in turn, or by weight."""

import random
from collections.abc import Iterator, Sequence
from itertools import count
from math import gcd

from redis_router.routing.candidate import Candidate
from redis_router.routing.strategies.base import Pick, by_share


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


class RoundRobin:
    """Each in turn, in the order of registration, counted for each model by itself."""

    def __init__(self) -> None:
        self._turns = Turns()

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        return self._turns.rotate(model, candidates)


class Weighted:
    """At random, in proportion to the records' weights."""

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        return by_share(candidates, [c.health.weight for c in candidates])


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
