"""Results on their way from the request path to the store: in batches, each applied exactly once or counted as dropped.

The request path appends to a deque, and rings where something must not wait. One thread sorts what was recorded
(`sleep`, `drain`) and never waits for Redis; another carries it there (`exchange`). A batch that got no answer keeps
its number and is sent again under it, and what came after waits: results arrive in their order. What grew older than
`ttl` is dropped, but not the number: the next reply says whether it had been applied after all.
"""

import math
import threading
import time
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, repeat

from redis_router.circuit.outcome import Outcome, Result, is_request
from redis_router.errors import AccessDenied, RedisRefused, RouterError
from redis_router.replica.facts import Applied, Fact, Missing, Refused
from redis_router.runtime.alarm import Alarm
from redis_router.runtime.log import log
from redis_router.store.contract import Batch, Store
from redis_router.store.messages import Reply
from redis_router.telemetry.metrics import Metrics

_SUCCESS = Outcome.SUCCESS
BATCH_LIMIT = 100
ENOUGH = 25
"""So many results for each provider are worth a command; fewer wait for company."""
COMPANY_ROUNDS = 5
"""So many flush intervals at most."""


@dataclass(slots=True)
class Parcel:
    """Results under one number, with the monotonic moments at which they were drained."""

    seq: int
    results: list[Result]
    drained_at: list[float]
    refused: str = ""
    """Why Redis refused it: then it is asked for without outcomes, as it may have been applied all the same."""


@dataclass(slots=True)
class Line:
    """One provider's results: the batch that is on its way, and those behind it, with the moments of their draining."""

    sent: Parcel | None = None
    results: deque[Result] = field(default_factory=deque)
    drained_at: deque[float] = field(default_factory=deque)

    def add(self, results: Sequence[Result], now: float) -> None:
        """Behind the others."""
        self.results.extend(results)
        self.drained_at.extend(repeat(now, len(results)))

    def take(self, most: int) -> tuple[list[Result], list[float]]:
        """The oldest of those that wait, and their moments."""
        number = min(len(self.results), most)
        results, moments = self.results.popleft, self.drained_at.popleft
        return [results() for _ in range(number)], [moments() for _ in range(number)]

    @property
    def is_empty(self) -> bool:
        """Is nothing on its way, and nothing behind it?"""
        return self.sent is None and not self.results

    @property
    def oldest(self) -> float:
        """When the oldest was drained; infinite where there is none."""
        moments = self.sent.drained_at if self.sent is not None else self.drained_at
        return moments[0] if moments else math.inf

    def all(self) -> list[Result]:
        """In their order."""
        return [*(self.sent.results if self.sent is not None else ()), *self.results]


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
        self._lock = threading.RLock()
        """Held while what waits, or is on its way, changes hands; never while the store is asked."""
        self._buffer: deque[Result] = deque()
        self._backlog = 0  # results that left the buffer and are not settled yet
        self._lines: dict[str, Line] = {}
        self._numbers = count(1)
        """Of batches: rising for each provider, and kept by nobody when it goes."""
        self._markers: deque[Marker] = deque()
        self._due_markers: list[Marker] = []
        self._alarm = Alarm()
        self._rings_at = 0  # so many results are in the buffer, and the next one wakes the thread
        self._urgent = False
        self._in_a_hurry: set[str] = set()  # providers with a result that must not wait
        self._send_all = False  # what waited for company has waited long enough
        self._in_use = 1  # providers with results when there were some last
        self._closed = False
        self._told_full = False
        metrics.watch_pending(self)

    # The request path

    def put(self, result: Result) -> None:
        """Take a result in; it is counted as dropped where the buffer is full or the router was closed."""
        size = len(self._buffer)
        if size + self._backlog >= self._limit:
            self._drop_full(result)
            return
        self._buffer.append(result)
        if result.outcome is not _SUCCESS or result.permit:
            self._in_a_hurry.add(result.provider)
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
        return len(self._buffer) + self._backlog

    # The thread that decides

    @property
    def awaited(self) -> bool:
        """Does anybody wait for what was drained?"""
        return bool(self._due_markers)

    def sleep(self, nap: float, settle_in: float | None = None) -> None:
        """Wait until there is something to do, at most `nap` seconds, or `settle_in` where nothing is recorded.

        A success waits for others: a flush interval, and a few more while they are so few that a command for each
        provider would carry less than `ENOUGH` of them.
        """
        now, rounds = time.monotonic(), COMPANY_ROUNDS * self._flush_interval
        enough, half = min(ENOUGH * self._in_use, self._limit // 2), self._limit // 2
        oldest = min((line.oldest for line in list(self._lines.values())), default=math.inf)
        company_until = oldest + rounds
        self._wait_for(1, min(now + nap, now + (nap if settle_in is None else settle_in), company_until))
        if self._buffer:
            began = time.monotonic()
            company_until = min(company_until, began + rounds)
            self._wait_for(half, min(now + nap, company_until, began + self._flush_interval))
            self._wait_for(enough, min(now + nap, company_until))
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
        with self._lock:
            return self._sort(time.monotonic())

    def _sort(self, now: float) -> dict[str, list[Result]]:
        drained = defaultdict[str, list[Result]](list)
        for _ in range(len(self._markers)):  # before the buffer: what a marker waits for is in it
            marker = self._markers.popleft()
            marker.drained_at = now
            self._due_markers.append(marker)
        take = self._buffer.popleft
        for _ in range(len(self._buffer)):
            self._backlog += 1  # before it leaves the buffer: it is counted at every moment
            result = take()
            if result.outcome is Outcome.IGNORED and not result.permit:
                self._metrics.results(result.provider, [result])
                self._backlog -= 1
            else:
                drained[result.provider].append(result)
        self._in_use = len(drained) or self._in_use
        for name, results in drained.items():
            self._lines.setdefault(name, Line()).add(results, now)
        for name, line in list(self._lines.items()):
            old, _ = line.take(bisect_left(line.drained_at, now - self._ttl))
            if old:
                self._backlog -= len(old)
                self._drop("expired", old)
            if line.is_empty:
                del self._lines[name]
        return drained

    # The thread that carries

    def exchange(self, store: Store) -> Iterator[Fact]:
        """Send what was drained and must not wait, or has waited for long enough; tells what came of it.

        What has no record in the store stays, after it was told. What is refused for good is dropped.
        Raises RedisUnavailable where the store did not serve, after all that it did serve; and AccessDenied, which is
        no matter of one record.
        """
        held: set[str] = set()
        trouble: RouterError | None = None
        everything, self._send_all = self._send_all or self.awaited, False
        hurried, self._in_a_hurry = self._in_a_hurry, set()
        least = 1
        while batches := self._next_batches(held, least, None if everything else hurried):
            least = BATCH_LIMIT  # what a full batch left over waits for the next round
            for batch, reply in zip(batches, store.record(batches), strict=True):
                if isinstance(reply, RedisRefused) and not isinstance(reply, AccessDenied):
                    yield from self._refused_once_more(batch.provider, str(reply))
                elif isinstance(reply, RouterError):
                    held.add(batch.provider)
                    trouble = reply
                elif reply.status == "missing":
                    yield Missing(batch.provider)
                    held.add(batch.provider)
                else:
                    yield from self._settle(batch.provider, reply)
            if self.awaited:
                least, everything = 1, True
        if trouble is not None:
            self._send_all, self._in_a_hurry = self._send_all or everything, self._in_a_hurry | hurried
            raise trouble

    def try_again(self, store: Store, providers: Iterable[str]) -> Iterator[Fact]:
        """Send a batch without outcomes for each of which nothing is on its way; tells of what is taken."""
        batches = [Batch(name, next(self._numbers), ()) for name in providers if not self.carries(name)]
        for reply in store.record(batches) if batches else ():
            if isinstance(reply, Reply) and not reply.unreadable:
                yield Applied(reply, ())

    def tell_settled(self, until: float) -> None:
        """Set the markers of what was drained up to this monotonic moment, but for those of what still waits."""
        with self._lock:
            oldest = min((line.oldest for line in self._lines.values()), default=math.inf)
            due, self._due_markers = self._due_markers, []
            for marker in due:
                if marker.drained_at <= until and marker.drained_at < oldest:
                    marker.settled = True
                    marker.set()
                else:
                    self._due_markers.append(marker)

    def give_up(self, provider: str, reason: str) -> list[Result]:
        """Drop the batch of this provider that got no answer, and count it; returns it and what waits behind it."""
        with self._lock:
            undecided = self.results_of(provider)
            line = self._lines.get(provider)
            if line is not None and line.sent is not None:
                parcel, line.sent = line.sent, None
                self._backlog -= len(parcel.results)
                self._drop(reason, parcel.results)
            return undecided

    def unsettled(self) -> list[Result]:
        """What is on its way or waits for it."""
        with self._lock:
            return [result for line in self._lines.values() for result in line.all()]

    def results_of(self, provider: str) -> list[Result]:
        """What is on its way or waits for it, of one provider."""
        with self._lock:
            line = self._lines.get(provider)
            return line.all() if line is not None else []

    def carries(self, provider: str) -> bool:
        """Are results of this provider on their way, or waiting for it?"""
        line = self._lines.get(provider)
        return line is not None and not line.is_empty

    def _refused_once_more(self, provider: str, why: str) -> Iterator[Fact]:
        line = self._lines.get(provider)
        if line is None or line.sent is None or line.sent.refused:
            yield Refused(provider, why, self.give_up(provider, "refused"))
        else:
            line.sent.refused = why

    def close(self) -> int:
        """Take no more; returns how many results were left behind, counted as dropped."""
        self._closed = True
        with self._lock:
            left = self.unsettled()
            self._lines.clear()
            self._backlog = 0
            for marker in [*self._markers, *self._due_markers]:
                marker.set()
        return self._drop("closed", left) + self._abandon_buffer()

    def _next_batches(self, held: set[str], least: int, only: set[str] | None) -> list[Batch]:
        """At most one batch for each provider: those without an answer first, under their old numbers.

        None for a provider of which fewer than `least` results wait, or that is not among `only`.
        """
        with self._lock:
            batches = []
            for name, line in self._lines.items():
                if name in held or (only is not None and name not in only and line.sent is None):
                    continue
                if line.sent is None and len(line.results) >= least:
                    line.sent = Parcel(next(self._numbers), *line.take(BATCH_LIMIT))
                if line.sent is not None:
                    batches.append(Batch(name, line.sent.seq, self._young(line.sent)))
            return batches

    def _young(self, parcel: Parcel) -> list[Result]:
        if parcel.refused:
            return []
        return parcel.results[bisect_left(parcel.drained_at, time.monotonic() - self._ttl) :]

    def _settle(self, provider: str, reply: Reply) -> Iterator[Fact]:
        with self._lock:
            line = self._lines.get(provider)
            if line is None or line.sent is None:
                return  # closed meanwhile, and counted as dropped
            undecided, parcel, line.sent = line.all(), line.sent, None
            self._backlog -= len(parcel.results)
            if line.is_empty:
                del self._lines[provider]
        for change in reply.transitions:
            self._metrics.transition(change)
        expired = len(parcel.results) - reply.applied
        self._drop("refused" if parcel.refused else "expired", parcel.results[:expired])
        self._metrics.results(provider, parcel.results[expired:])
        if why := parcel.refused or reply.unreadable:
            yield Refused(provider, why, undecided)
        else:
            yield Applied(reply, parcel.results)

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
