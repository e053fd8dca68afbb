"""Strategies that take the best by one figure: the lowest latency, or the fewest failures."""

import random
from collections.abc import Sequence

from redis_router.checks import check_number
from redis_router.routing.candidate import Candidate
from redis_router.routing.strategies.base import Pick, at_random, or_mean
from redis_router.routing.strategies.room import first_with_room, row_of


class Latency:
    """The lowest latency average, as long as that provider has room; equals are taken at random.

    Where attempts say how many calls are under way, a provider above its learned limit counts with its waiting. Else
    every replica sends every call to the same one.

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
        if any(c.health.concurrency_limit for c in candidates):
            rows = [row_of(c, c.health.latency_ms, 0.0) for c in random.sample(candidates, len(candidates))]
            return first_with_room(sorted(rows, key=lambda row: row.expected))
        best = min((c.health.latency_ms for c in candidates if c.health.latency_ms > 0), default=0.0)
        return at_random([c for c in candidates if c.health.latency_ms in (0.0, best)])


class Availability:
    """The lowest failure rate; equals are taken at random."""

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        best = min(c.health.failure_rate for c in candidates)
        return at_random([c for c in candidates if c.health.failure_rate == best])
