"""What a strategy is, and what several of them need."""

import random
from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Protocol

from redis_router.routing.candidate import Candidate

Pick = Callable[[], Candidate]
FAILURE_COSTS_MS = 5000.0
"""What a failure is worth in latency: linkerd's penalty."""


class Strategy(Protocol):
    """How to choose between the providers that may serve a model.

    `prepare` is called whenever one of them changed, with at least one candidate, in the order of registration; it
    returns the function that `select_provider` then calls for each request. That function runs on the request path
    and from several threads: it should only look up what `prepare` computed. It is also called with a part of
    them, for a request's further tries and in slow start: it should keep nothing that the next call must agree with.
    """

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        """What is called for each request, and gives one of these candidates."""
        ...


def at_random(candidates: Sequence[Candidate]) -> Pick:
    """Any of them: replicas that see the same figures must not all take the first."""
    chosen, size, draw = tuple(candidates), len(candidates), random.random
    if size == 1:
        only = chosen[0]
        return lambda: only
    return lambda: chosen[int(draw() * size)]


def by_share(candidates: Sequence[Candidate], shares: Sequence[float]) -> Pick:
    """At random, each in proportion to its share."""
    chosen, bounds = tuple(candidates), list(accumulate(shares))
    total, last, draw = bounds[-1], len(bounds) - 1, random.random
    return lambda: chosen[bisect(bounds, draw() * total, 0, last)]


def or_mean(latencies: Sequence[float]) -> list[float]:
    """For what was not measured its peers' mean; all 1 where none was."""
    measured = [latency for latency in latencies if latency > 0]
    mean = sum(measured) / len(measured) if measured else 1.0
    return [latency if latency > 0 else mean for latency in latencies]
