"""Whose turn it is, and when the next turn comes: nothing takes longer where there are many. Moments are monotonic."""

import heapq
from itertools import count
from typing import Generic, TypeVar

K = TypeVar("K")


class Schedule(Generic[K]):
    """Keys, each with the one moment when its turn comes."""

    def __init__(self) -> None:
        self._moments: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._numbers = count()

    def put(self, key: K, at: float) -> None:
        """Its turn comes then, and not when it was to come before."""
        if self._moments.get(key) == at:
            return
        self._moments[key] = at
        heapq.heappush(self._heap, (at, next(self._numbers), key))
        if len(self._heap) > 2 * len(self._moments) + 64:  # most are out of date
            self._heap = [(moment, next(self._numbers), each) for each, moment in self._moments.items()]
            heapq.heapify(self._heap)

    def drop(self, key: K) -> None:
        """Its turn does not come."""
        self._moments.pop(key, None)

    @property
    def next_at(self) -> float:
        """When the next turn comes; infinity where there is none."""
        while self._heap and self._moments.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")

    def pop(self, now: float) -> K | None:
        """Whose turn it is, None where it is nobody's. It has no further turn until it is put again."""
        if self.next_at > now:
            return None
        key = heapq.heappop(self._heap)[2]
        self.drop(key)
        return key
