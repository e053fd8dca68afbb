"""Calls that are sent only to see how an idle provider is, so that no strategy starves one for ever."""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count

from redis_router.routing.candidate import Candidate
from redis_router.routing.strategies.base import Pick, Strategy
from redis_router.routing.strategies.p2c import PowerOfTwoChoices

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
