"""Routing strategies: work done when the table changes, so that a pick costs the same for 3 and for 1000 providers."""

import random
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, count
from typing import Protocol

from redis_router.errors import InvalidArgument
from redis_router.model import Candidate

Pick = Callable[[], Candidate]


class Strategy(Protocol):
    """How to choose between the providers that may serve a model.

    `prepare` is called whenever one of them changed, with at least one candidate, in the order of registration; it
    returns the function that `select_provider` then calls for each request. That function runs on the request path
    and from several threads: it should only look up what `prepare` computed.
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


class Latency:
    """The lowest latency average; equals take turns.

    A provider without a sample takes turns with the best one until it has one: with the original's latency of 0 it
    would win every request, with a high one it would never be measured.
    """

    def __init__(self) -> None:
        self._turns = Turns()

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        best = min((c.health.latency_ms for c in candidates if c.health.latency_ms > 0), default=0.0)
        return self._turns.rotate(model, [c for c in candidates if c.health.latency_ms in (0.0, best)])


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


class Availability:
    """The lowest failure rate; equals take turns."""

    def __init__(self) -> None:
        self._turns = Turns()

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        best = min(c.health.failure_rate for c in candidates)
        return self._turns.rotate(model, [c for c in candidates if c.health.failure_rate == best])


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "latency": Latency,
    "round_robin": RoundRobin,
    "weighted": Weighted,
    "availability": Availability,
}


def resolve(strategy: str | Strategy) -> Strategy:
    """The strategy of that name, or the user's own object. Raises InvalidArgument, which lists the names."""
    if isinstance(strategy, str) and strategy in STRATEGIES:
        return STRATEGIES[strategy]()
    if not isinstance(strategy, str | type) and callable(getattr(strategy, "prepare", None)):
        return strategy
    raise InvalidArgument(
        f"unknown strategy {strategy!r}: choose {', '.join(STRATEGIES)}, or an object with prepare(model, candidates)"
    )
