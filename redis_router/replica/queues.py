"""Results that left the request path and are not settled yet: one queue for each provider, in the order of recording.

The oldest of a queue travel as one batch under a number. A batch that got no answer keeps its number and is sent again
under it, and what came after waits.
"""

import math
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, repeat

from redis_router.circuit.outcome import NOTHING, Result, UnderWay
from redis_router.routing.candidate import Candidate
from redis_router.store.contract import Batch

BATCH_LIMIT = 100


@dataclass(slots=True)
class Sent:
    """A batch on its way, with the monotonic moments at which its results came into the queue."""

    seq: int
    results: list[Result]
    since: list[float]
    under_way: UnderWay = NOTHING
    """What this replica had under way there when the batch was made."""
    refused: str = ""
    """Why Redis refused it: then it is asked for without outcomes, as it may have been applied all the same."""

    def younger_than(self, moment: float) -> list[Result]:
        """Those to send again; none where it was refused."""
        return [] if self.refused else self.results[bisect_left(self.since, moment) :]


@dataclass(slots=True)
class ProviderQueue:
    """One provider's results: the batch that is on its way, and those behind it, with the moments they came."""

    sent: Sent | None = None
    results: deque[Result] = field(default_factory=deque)
    since: deque[float] = field(default_factory=deque)

    def add(self, results: Sequence[Result], now: float) -> None:
        """Behind the others."""
        self.results.extend(results)
        self.since.extend(repeat(now, len(results)))

    def take(self, most: int) -> tuple[list[Result], list[float]]:
        """The oldest of those that wait, and their moments."""
        if len(self.results) <= most:
            taken = list(self.results), list(self.since)
            self.results.clear()
            self.since.clear()
            return taken
        results, moments = self.results.popleft, self.since.popleft
        return [results() for _ in range(most)], [moments() for _ in range(most)]

    @property
    def is_empty(self) -> bool:
        """Is nothing on its way, and nothing behind it?"""
        return self.sent is None and not self.results

    @property
    def oldest(self) -> float:
        """When the oldest came; infinite where there is none."""
        moments = self.sent.since if self.sent is not None else self.since
        return moments[0] if moments else math.inf

    @property
    def waits_since(self) -> float:
        """When the oldest that no batch took came; infinite where there is none."""
        try:
            return self.since[0]
        except IndexError:
            return math.inf

    def all(self) -> list[Result]:
        """In their order."""
        return [*(self.sent.results if self.sent is not None else ()), *self.results]


class Queues:
    """By provider; one thread fills them, another empties them."""

    def __init__(self) -> None:
        self.size = 0
        """Results in all queues."""
        self.in_use = 1
        """Providers with results, when there were some last."""
        self._queues: dict[str, ProviderQueue] = {}
        self._numbers = count(1)
        """Of batches: rising for each provider, and kept by nobody when it goes."""
        self.lock = threading.RLock()
        """Held while results change hands; never while the store is asked."""

    def number(self) -> int:
        """For a batch that carries nothing."""
        return next(self._numbers)

    def add(self, results: Mapping[str, Sequence[Result]], now: float) -> None:
        """Behind the others of each provider. Whoever adds them counted them in `size`, under the lock."""
        with self.lock:
            for name, more in results.items():
                self._queues.setdefault(name, ProviderQueue()).add(more, now)
            self.in_use = len(self._queues) or self.in_use

    def expire(self, until: float) -> list[Result]:
        """Take out what came before this moment and is not on its way."""
        expired: list[Result] = []
        with self.lock:
            for name, queue in list(self._queues.items()):
                expired += queue.take(bisect_left(queue.since, until))[0]
                if queue.is_empty:
                    del self._queues[name]
            self.size -= len(expired)
        return expired

    def batches(
        self, held: set[str], least: int, only: set[str] | None, since: float, known: Mapping[str, Candidate]
    ) -> list[Batch]:
        """At most one for each provider: what has no answer goes again under its old number, if it came after `since`.

        Each says what is under way there, of those in `known`. None for a provider of which fewer than
        `least` results wait, that is `held`, or that is not among `only`.
        """
        now = time.monotonic()
        with self.lock:
            batches = []
            for name, queue in self._queues.items():
                if name in held or (only is not None and name not in only and queue.sent is None):
                    continue
                if queue.sent is None and len(queue.results) >= least:
                    under_way = known[name].under_way(now) if name in known else NOTHING
                    queue.sent = Sent(next(self._numbers), *queue.take(BATCH_LIMIT), under_way)
                if queue.sent is not None:
                    young = queue.sent.younger_than(since)
                    batches.append(Batch(name, queue.sent.seq, young, queue.sent.under_way))
            return batches

    def sent(self, provider: str) -> Sent | None:
        """The batch of this provider that is on its way."""
        queue = self._queues.get(provider)
        return queue.sent if queue is not None else None

    def settle(self, provider: str) -> tuple[Sent | None, list[Result]]:
        """Take out the batch that is on its way; and what was in the queue, the batch included."""
        with self.lock:
            queue = self._queues.get(provider)
            if queue is None or queue.sent is None:
                return None, queue.all() if queue is not None else []
            before, sent, queue.sent = queue.all(), queue.sent, None
            self.size -= len(sent.results)
            if queue.is_empty:
                del self._queues[provider]
            return sent, before

    def clear(self) -> list[Result]:
        """Take everything out."""
        with self.lock:
            left = self.all()
            self._queues.clear()
            self.size = 0
            return left

    def all(self) -> list[Result]:
        """What is on its way or waits for it."""
        with self.lock:
            return [result for queue in self._queues.values() for result in queue.all()]

    def carries(self, provider: str) -> bool:
        """Is anything of this provider on its way, or waiting for it?"""
        queue = self._queues.get(provider)
        return queue is not None and not queue.is_empty

    def oldest(self) -> float:
        """When the oldest came; infinite where there is none."""
        with self.lock:
            return min((queue.oldest for queue in self._queues.values()), default=math.inf)

    def waits_since(self) -> float:
        """When the oldest that no batch took came; infinite where there is none."""
        return min((queue.waits_since for queue in list(self._queues.values())), default=math.inf)
