"""Carries results from the request path to Redis: in batches, each applied exactly once or counted as dropped.

The request path appends to a deque and may set an event. One thread, the engine's, does the rest. A batch that got no
answer keeps its number and is sent again under it, and what came after waits: results arrive in their order.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable

from redis_router.errors import RedisRefused, RouterError
from redis_router.metrics import Metrics
from redis_router.model import Outcome
from redis_router.store import Batch, Reply, Result, Store

log = logging.getLogger("redis_router")

BATCH_LIMIT = 100


class Courier:
    """One router's results on their way. `on_missing` is told of a provider that has no record in Redis."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        limit: int,
        on_applied: Callable[[Reply], None],
        on_missing: Callable[[str], None],
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._limit = limit
        self._on_applied = on_applied
        self._on_missing = on_missing
        self._buffer: deque[Result] = deque()
        self._backlog = 0  # results that left the buffer and are not settled yet
        self._waiting: dict[str, deque[Result]] = {}
        self._unacked: dict[str, Batch] = {}
        self._seq: dict[str, int] = {}
        self._markers: deque[threading.Event] = deque()
        self._refused: set[str] = set()
        self._wake = threading.Event()
        self._idle = True
        self._urgent = False
        self._closed = False
        self._told_full = False
        metrics.watch_pending(self)

    # The request path

    def put(self, result: Result) -> None:
        """Take a result in; it is counted as dropped where the buffer is full or the router was closed."""
        if len(self._buffer) + self._backlog >= self._limit:
            self._drop("buffer_full", 1)
            return
        self._buffer.append(result)
        if self._closed:
            self._abandon_buffer()  # nobody would come for it
        elif result.outcome is not Outcome.SUCCESS or result.permit:
            self._urgent = True
            self._wake.set()
        elif self._idle:
            self._idle = False
            self._wake.set()

    def urge(self) -> None:
        """Wake the thread now."""
        self._urgent = True
        self._wake.set()

    def mark(self) -> threading.Event:
        """An event that is set once everything recorded before is settled."""
        marker = threading.Event()
        self._markers.append(marker)
        self.urge()
        return marker

    @property
    def pending(self) -> int:
        """Results that are recorded and not yet acknowledged by Redis."""
        return len(self._buffer) + self._backlog

    # The engine's thread

    def sleep(self, nap: float | None, company: float) -> None:
        """Wait until there is something to do, at most `nap` seconds; a success waits `company` seconds for others."""
        self._idle = True
        if self._buffer:  # recorded before `_idle` was set, so nobody woke us
            self._idle = False
        elif not self._urgent:
            self._wake.wait(nap)
        self._wake.clear()
        if not self._urgent and self._buffer:
            self._wake.wait(company)
            self._wake.clear()
        self._urgent = False

    def drain(self) -> set[str]:
        """Sort the buffer by provider; returns the providers that had results."""
        used: set[str] = set()
        for _ in range(len(self._buffer)):
            self._backlog += 1  # before it leaves the buffer: it is counted at every moment
            result = self._buffer.popleft()
            used.add(result.provider)
            if result.outcome is Outcome.IGNORED and not result.permit:
                self._metrics.results(result.provider, [(result.outcome, result.latency_ms)])
                self._backlog -= 1
            else:
                self._waiting.setdefault(result.provider, deque()).append(result)
        return used

    def carry(self) -> None:
        """Send all that was drained. Raises RedisUnavailable where Redis did not serve it, after all that it did serve.

        What has no record in Redis stays, after `on_missing` was told; what is refused for good is dropped.
        """
        markers = [self._markers.popleft() for _ in range(len(self._markers))]
        held: set[str] = set()
        trouble: RouterError | None = None
        try:
            while batches := self._next_batches(held):
                for batch, reply in zip(batches, self._store.record(batches), strict=True):
                    if isinstance(reply, RedisRefused):
                        self.give_up(batch.provider, "refused", str(reply))
                    elif isinstance(reply, RouterError):
                        held.add(batch.provider)
                        trouble = reply
                    elif reply.status == "missing":
                        held.add(batch.provider)
                        self._on_missing(batch.provider)
                    else:
                        self._settle(batch, reply)
        finally:
            if self._unacked or self._waiting:
                self._markers.extendleft(reversed(markers))
            else:
                for marker in markers:
                    marker.set()
        if trouble is not None:
            raise trouble

    def give_up(self, provider: str, reason: str, why: str) -> None:
        """Drop the batch of this provider that got no answer, and count it."""
        batch = self._unacked.pop(provider, None)
        if batch is not None:
            self._backlog -= len(batch.results)
            self._drop(reason, len(batch.results))
            self.say_refused(provider, why)

    def say_refused(self, provider: str, why: str) -> None:
        """Log once that a provider's record cannot be used, until it can."""
        if provider not in self._refused:
            self._refused.add(provider)
            log.error("the record of provider %s cannot be used: %s", provider, why)

    def close(self) -> int:
        """Take no more; returns how many results were left behind, counted as dropped."""
        self._closed = True
        left = self._backlog
        self._drop("closed", left)
        self._backlog = 0
        self._waiting.clear()
        self._unacked.clear()
        return left + self._abandon_buffer()

    def _next_batches(self, held: set[str]) -> list[Batch]:
        """At most one batch for each provider: those without an answer first, under their old numbers."""
        for name, waiting in list(self._waiting.items()):
            if name not in self._unacked:
                self._seq[name] = self._seq.get(name, 0) + 1
                results = [waiting.popleft() for _ in range(min(len(waiting), BATCH_LIMIT))]
                self._unacked[name] = Batch(name, self._seq[name], results)
            if not waiting:
                del self._waiting[name]
        return [batch for name, batch in self._unacked.items() if name not in held]

    def _settle(self, batch: Batch, reply: Reply) -> None:
        if self._unacked.pop(batch.provider, None) is None:
            return  # closed meanwhile, and counted as dropped
        self._backlog -= len(batch.results)
        self._refused.discard(batch.provider)
        for change in reply.transitions:
            self._metrics.transition(change)
        # a permit handed back unused is no request
        done = [r for r in batch.results if r.outcome is not Outcome.IGNORED or r.latency_ms > 0]
        self._metrics.results(batch.provider, [(r.outcome, r.latency_ms) for r in done])
        self._on_applied(reply)

    def _abandon_buffer(self) -> int:
        left = 0
        while True:
            try:
                self._buffer.popleft()
            except IndexError:
                break
            left += 1
        self._drop("closed", left)
        return left

    def _drop(self, reason: str, results: int) -> None:
        if results:
            self._metrics.results_dropped.labels(reason).inc(results)
        if reason == "buffer_full" and not self._told_full:
            self._told_full = True
            log.warning("%d results wait, so new ones are dropped: was start() called, is Redis there?", self._limit)
