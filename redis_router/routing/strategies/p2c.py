"""The power of two choices: the better of two that are drawn by their shares, so that replicas do not herd."""

import random
from collections.abc import Sequence

from redis_router.routing.candidate import Candidate
from redis_router.routing.strategies.base import FAILURE_COSTS_MS, Pick, at_random, or_mean

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
