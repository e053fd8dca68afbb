"""Results on their way from the request path to the store: in batches, each applied exactly once or counted as dropped.

The request path appends to a deque, and rings where something must not wait. One thread sorts what was recorded
(`sleep`, `drain`) and never waits for Redis; another carries it there (`send`). A batch that got no answer keeps
its number and is sent again under it, and what came after waits: results arrive in their order. What grew older than
`ttl` is dropped, but not the number: the next reply says whether it had been applied after all.
"""

import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from redis_router.circuit.outcome import Outcome, Result, is_request
from redis_router.errors import AccessDenied, RedisRefused, RouterError
from redis_router.replica.facts import Applied, Fact, Missing, Refused
from redis_router.replica.queues import BATCH_LIMIT, Queues
from redis_router.routing.candidate import Candidate
from redis_router.runtime.alarm import Alarm
from redis_router.runtime.log import log
from redis_router.store.contract import Batch, Store
from redis_router.store.messages import Reply, Status
from redis_router.telemetry.metrics import Metrics

_UNHURRIED = (Outcome.SUCCESS, Outcome.BEGUN)
CHUNK = 100
"""So many results at most are counted twice for a moment, on their way out of the buffer."""
ENOUGH = 40
"""So many results for each provider are worth a command; fewer wait for company."""
COMPANY_ROUNDS = 5
"""So many flush intervals at most."""


class Marker(threading.Event):
    """Set when all that was recorded before it is settled, or when nobody will settle it any more."""

    settled = False
    drained_at = math.inf

    def was_settled(self, timeout: float) -> bool:
        """Wait for it, so many seconds at most."""
        return self.wait(timeout) and self.settled


class Outbox:
    """One router's results on their way; they are dropped `ttl` seconds after they were recorded."""

    def __init__(self, metrics: Metrics, limit: int, ttl: float, flush_interval: float) -> None:
        self._metrics = metrics
        self._limit = limit
        self._ttl = ttl
        self._flush_interval = flush_interval
        self._buffer: deque[Result] = deque()
        self._queues = Queues()
        self._markers: deque[Marker] = deque()
        self._due_markers: list[Marker] = []
        self._alarm = Alarm()
        self._rings_at = 0  # so many results are in the buffer, and the next one wakes the thread
        self._urgent = False
        self._in_a_hurry: set[str] = set()  # providers with a result in their queue that must not wait
        self._send_all = False  # what waited for company has waited long enough
        self._closed = False
        self._told_full = False
        metrics.watch_pending(self)

    # The request path

    def put(self, result: Result) -> None:
        """Take a result in; it is counted as dropped where the buffer is full or the router was closed."""
        size = len(self._buffer)
        if size + self._queues.size >= self._limit:
            self._drop_full(result)
            return
        self._buffer.append(result)
        if result.outcome not in _UNHURRIED or result.permit:
            self.urge()
        elif size >= self._rings_at:
            self._alarm.ring()
        if self._closed:
            self._abandon_buffer()  # nobody would come for it

    def _drop_full(self, result: Result) -> None:
        self._drop("buffer_full", [result])
        if not self._told_full:
            self._told_full = True
            log.warning("%d results wait, so new ones are dropped: was start() called, is Redis there?", self._limit)

    def urge(self) -> None:
        """Wake the thread now."""
        self._urgent = True
        self._alarm.ring()

    def mark(self) -> Marker:
        """A marker behind everything that was recorded so far."""
        marker = Marker()
        self._markers.append(marker)
        if self._closed:
            marker.set()
        self.urge()
        return marker

    @property
    def pending(self) -> int:
        """Results that are recorded and not yet acknowledged by the store."""
        return len(self._buffer) + self._queues.size

    # The thread that decides

    @property
    def awaited(self) -> bool:
        """Does anybody wait for what was drained?"""
        return bool(self._due_markers)

    @property
    def is_due(self) -> bool:
        """Is there anything to be sent now?"""
        return self._send_all or bool(self._in_a_hurry) or self.awaited

    def sleep(self, nap: float, settle_in: float | None = None) -> None:
        """Wait until there is something to do, at most `nap` seconds, or `settle_in` where nothing is recorded.

        A success waits for others: a flush interval, and a few more while they are so few that a command for each
        provider would carry less than `ENOUGH` of them.
        """
        now, rounds = time.monotonic(), COMPANY_ROUNDS * self._flush_interval
        enough, half = min(ENOUGH * self._queues.in_use, self._limit // 2), self._limit // 2
        # where all is to be sent, the other thread has it already
        company_until = (math.inf if self._send_all else self._queues.waits_since()) + rounds
        self._wait_for(1, min(now + nap, now + (nap if settle_in is None else settle_in), company_until))
        if self._buffer:
            began = time.monotonic()
            company_until = min(company_until, began + rounds)
            self._wait_for(enough, min(now + nap, company_until))
            self._wait_for(half, min(now + nap, company_until, began + self._flush_interval))
        self._rings_at = self._limit
        if time.monotonic() >= company_until or len(self._buffer) >= enough:
            self._send_all = True
        self._urgent = False

    def _wait_for(self, number: int, until: float) -> None:
        """Wait for so many results, for something that must not wait, or for this monotonic moment."""
        self._rings_at = number - 1
        while not self._urgent and len(self._buffer) < number and (left := until - time.monotonic()) > 0:
            self._alarm.wait(left)

    def drain(self) -> dict[str, list[Result]]:
        """Sort the buffer by provider, drop what grew too old; returns what was in the buffer, by provider."""
        with self._queues.lock:
            now, drained = time.monotonic(), defaultdict[str, list[Result]](list)
            for _ in range(len(self._markers)):  # before the buffer: what a marker waits for is in it
                marker = self._markers.popleft()
                marker.drained_at = now
                self._due_markers.append(marker)
            left = len(self._buffer)
            while number := min(left, CHUNK):
                left -= number
                self._queues.size += number  # before they leave the buffer: each is counted at every moment
                for result in [self._buffer.popleft() for _ in range(number)]:
                    if result.outcome is Outcome.IGNORED and not result.permit:
                        self._metrics.results(result.provider, [result])
                        self._queues.size -= 1
                    else:
                        drained[result.provider].append(result)
                        if result.outcome not in _UNHURRIED or result.permit:
                            self._in_a_hurry.add(result.provider)
            self._queues.add(drained, now)
            self._drop("expired", self._queues.expire(now - self._ttl))
            return drained

    # The thread that carries

    def send(self, store: Store, known: Mapping[str, Candidate]) -> Iterator[Fact]:
        """Send what was drained and must not wait, or has waited for long enough; tells what came of it.

        With it goes what is under way at each, of those in `known`.

        What has no record in the store stays, after it was told. What is refused for good is dropped.
        Raises RedisUnavailable where the store did not serve, after all that it did serve; and AccessDenied, which is
        no matter of one record.
        """
        held: set[str] = set()
        trouble: RouterError | None = None
        everything, self._send_all = self._send_all or self.awaited, False
        with self._queues.lock:
            hurried, self._in_a_hurry = self._in_a_hurry, set()
        least = 1
        while batches := self._batches(held, least, None if everything else hurried, known):
            least = BATCH_LIMIT  # what a full batch left over waits for the next round
            for batch, reply in zip(batches, store.record(batches), strict=True):
                if isinstance(reply, RedisRefused) and not isinstance(reply, AccessDenied):
                    yield from self._refused_once_more(batch.provider, str(reply))
                elif isinstance(reply, RouterError):
                    held.add(batch.provider)
                    trouble = reply
                elif reply.status is Status.MISSING:
                    yield Missing(batch.provider)
                    held.add(batch.provider)
                else:
                    yield from self._settle(batch.provider, reply)
            if self.awaited:
                least, everything = 1, True
        if trouble is not None:
            with self._queues.lock:
                self._send_all, self._in_a_hurry = self._send_all or everything, self._in_a_hurry | hurried
            raise trouble

    def _batches(
        self, held: set[str], least: int, only: set[str] | None, known: Mapping[str, Candidate]
    ) -> list[Batch]:
        return self._queues.batches(held, least, only, time.monotonic() - self._ttl, known)

    def number(self) -> int:
        """For a batch that carries nothing."""
        return self._queues.number()

    def say_in_flight(self, store: Store, candidates: Iterable[Candidate]) -> Iterator[Fact]:
        """Send a batch without outcomes for each of which nothing is on its way; tells of what is taken."""
        now = time.monotonic()
        batches = [
            Batch(c.health.name, self._queues.number(), (), c.under_way(now))
            for c in candidates
            if not self.carries(c.health.name)
        ]
        for batch, reply in zip(batches, store.record(batches) if batches else (), strict=True):
            if isinstance(reply, Reply) and not reply.unreadable:
                yield Applied(reply, (), batch.under_way)

    def tell_settled(self, until: float) -> None:
        """Set the markers of what was drained up to this monotonic moment, but for those of what still waits."""
        with self._queues.lock:
            oldest = self._queues.oldest()
            due, self._due_markers = self._due_markers, []
            for marker in due:
                if marker.drained_at <= until and marker.drained_at < oldest:
                    marker.settled = True
                    marker.set()
                else:
                    self._due_markers.append(marker)

    def give_up(self, provider: str, reason: str) -> list[Result]:
        """Drop the batch of this provider that got no answer, and count it; returns it and what waits behind it."""
        sent, undecided = self._queues.settle(provider)
        if sent is not None:
            self._drop(reason, sent.results)
        return undecided

    def unsettled(self) -> list[Result]:
        """What is on its way or waits for it."""
        return self._queues.all()

    def carries(self, provider: str) -> bool:
        """Are results of this provider on their way, or waiting for it?"""
        return self._queues.carries(provider)

    def _refused_once_more(self, provider: str, why: str) -> Iterator[Fact]:
        sent = self._queues.sent(provider)
        if sent is None or sent.refused:
            yield Refused(provider, why, self.give_up(provider, "refused"))
        else:
            sent.refused = why

    def close(self) -> int:
        """Take no more; returns how many results were left behind, counted as dropped."""
        self._closed = True
        with self._queues.lock:
            left = self._queues.clear()
            for marker in [*self._markers, *self._due_markers]:
                marker.set()
        return self._drop("closed", left) + self._abandon_buffer()

    def _settle(self, provider: str, reply: Reply) -> Iterator[Fact]:
        sent, undecided = self._queues.settle(provider)
        if sent is None:
            return  # closed meanwhile, and counted as dropped
        for change in reply.transitions:
            self._metrics.transition(change, reply.health)
        expired = len(sent.results) - reply.applied
        self._drop("refused" if sent.refused else "expired", sent.results[:expired])
        self._metrics.results(provider, sent.results[expired:])
        if why := sent.refused or reply.unreadable:
            yield Refused(provider, why, undecided)
        else:
            yield Applied(reply, sent.results, sent.under_way)

    def _abandon_buffer(self) -> int:
        left: list[Result] = []
        while True:
            try:
                left.append(self._buffer.popleft())
            except IndexError:
                break
        return self._drop("closed", left)

    def _drop(self, reason: str, results: Sequence[Result]) -> int:
        number = sum(map(is_request, results))
        if number:
            self._metrics.dropped(reason, number)
        return number
