"""Carries results from the request path to Redis: in batches, each applied exactly once or counted as dropped.

The request path appends to a deque and may ring an alarm. One thread sorts what was recorded (`sleep`, `drain`) and
never waits for Redis; another carries it there (`carry`). A batch that got no answer keeps its number and is sent again
under it, and what came after waits: results arrive in their order. What grew older than `ttl` is dropped, but not the
number: the next reply says whether it had been applied after all.
"""

import math
import threading
import time
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count, repeat

from redis_router.circuit.outcome import Outcome, Result, is_request
from redis_router.errors import AccessDenied, RedisRefused, RouterError
from redis_router.runtime.alarm import Alarm
from redis_router.runtime.log import log
from redis_router.store.contract import Batch, Store
from redis_router.store.messages import Reply
from redis_router.telemetry.metrics import Metrics

_SUCCESS = Outcome.SUCCESS
BATCH_LIMIT = 100
ENOUGH, COMPANY_ROUNDS = 25, 5


@dataclass(slots=True)
class Parcel:
    """One provider's results under one number, with the monotonic moments at which they were drained."""

    seq: int
    results: list[Result]
    drained_at: list[float]
    refused: str = ""
    """Why Redis refused it: then it is asked for without outcomes, as it may have been applied all the same."""


class Waiting:
    """One provider's results that no batch has taken yet, and the monotonic moments at which they were drained."""

    def __init__(self) -> None:
        self.results: deque[Result] = deque()
        self.drained_at: deque[float] = deque()

    def add(self, results: Sequence[Result], now: float) -> None:
        """Behind the others."""
        self.results.extend(results)
        self.drained_at.extend(repeat(now, len(results)))

    def take(self, most: int) -> tuple[list[Result], list[float]]:
        """The oldest, and their moments."""
        number = min(len(self.results), most)
        results, moments = self.results.popleft, self.drained_at.popleft
        return [results() for _ in range(number)], [moments() for _ in range(number)]


class Marker(threading.Event):
    """Set when all that was recorded before it is settled, or when nobody will settle it any more."""

    settled = False

    def was_settled(self, timeout: float) -> bool:
        """Wait for it, so many seconds at most."""
        return self.wait(timeout) and self.settled


class Courier:
    """One router's results on their way; they are dropped `ttl` seconds after they were recorded.

    `on_missing` is told of a provider that has no record in Redis, `on_unusable` of one whose record is refused or
    cannot be read: why, and which results of it nobody decided on.
    """

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        limit: int,
        ttl: float,
        on_applied: Callable[[Reply, Sequence[Result]], None],
        on_missing: Callable[[str], None],
        on_unusable: Callable[[str, str, Sequence[Result]], None],
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._limit = limit
        self._ttl = ttl
        self._on_applied = on_applied
        self._on_missing = on_missing
        self._on_unusable = on_unusable
        self._lock = threading.RLock()
        """Held while what waits, or is on its way, changes hands; never while Redis is asked."""
        self._buffer: deque[Result] = deque()
        self._backlog = 0  # results that left the buffer and are not settled yet
        self._waiting: dict[str, Waiting] = {}
        self._unacked: dict[str, Parcel] = {}
        self._numbers = count(1)
        """Of batches: rising for each provider, and kept by nobody when it goes."""
        self._markers: deque[Marker] = deque()
        self._due_markers: list[tuple[float, Marker]] = []  # and when they were drained
        self._alarm = Alarm()
        self._idle = True
        self._urgent = False
        self._hurried = False  # the thread was woken for something that must not wait
        self._left = False  # too few for a batch of their own: they wait for company
        self._in_use = 1  # providers with results when there were some last
        self._closed = False
        self._told_full = False
        metrics.watch_pending(self)

    # The request path

    def put(self, result: Result) -> None:
        """Take a result in; it is counted as dropped where the buffer is full or the router was closed."""
        if len(self._buffer) + self._backlog >= self._limit:
            self._drop_full(result)
            return
        self._buffer.append(result)
        if result[1] is _SUCCESS and not result[4]:  # by index, and first: nearly every result
            if self._idle:
                self._idle = False
                self._alarm.ring()
        else:
            self.urge()
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
        """Results that are recorded and not yet acknowledged by Redis."""
        return len(self._buffer) + self._backlog

    # The thread that decides

    @property
    def awaited(self) -> bool:
        """Does anybody wait for what was drained?"""
        return bool(self._due_markers)

    def sleep(self, nap: float, company: float, settle_in: float | None = None) -> None:
        """Wait until there is something to do, at most `nap` seconds, or `settle_in` where nothing is recorded.

        A success waits for others: `company` seconds, and up to `COMPANY_ROUNDS` times as long while they are so few
        that a command for each provider would carry less than `ENOUGH` of them.
        """
        until = time.monotonic() + nap
        if settle_in is not None:
            nap = min(nap, settle_in)
        if self._left:
            nap = min(nap, company)
        self._idle = True
        if self._buffer:  # recorded before `_idle` was set, so nobody woke us
            self._idle = False
        elif not self._urgent:
            self._alarm.wait(nap)
        if self._buffer:
            enough = min(ENOUGH * self._in_use, self._limit // 2)
            for _ in range(COMPANY_ROUNDS):
                if not self._urgent:
                    self._alarm.wait(min(company, max(0.0, until - time.monotonic())))
                if self._urgent or self.pending >= enough or time.monotonic() >= until:
                    break
        self._hurried, self._urgent = self._hurried or self._urgent, False

    def drain(self) -> dict[str, list[Result]]:
        """Sort the buffer by provider, drop what grew too old; returns what was in the buffer, by provider."""
        with self._lock:
            return self._sort(time.monotonic())

    def _sort(self, now: float) -> dict[str, list[Result]]:
        drained = defaultdict[str, list[Result]](list)
        for _ in range(len(self._markers)):  # before the buffer: what a marker waits for is in it
            self._due_markers.append((now, self._markers.popleft()))
        take = self._buffer.popleft
        for _ in range(len(self._buffer)):
            self._backlog += 1  # before it leaves the buffer: it is counted at every moment
            result = take()
            if result[1] is Outcome.IGNORED and not result.permit:  # by index: this runs for each result
                self._metrics.results(result.provider, [result])
                self._backlog -= 1
            else:
                drained[result[0]].append(result)
        self._in_use = len(drained) or self._in_use
        for name, results in drained.items():
            if name not in self._waiting:
                self._waiting[name] = Waiting()
            self._waiting[name].add(results, now)
        for name, waiting in list(self._waiting.items()):
            old, _ = waiting.take(bisect_left(waiting.drained_at, now - self._ttl))
            if old:
                self._backlog -= len(old)
                self._drop("expired", old)
            if not waiting.results:
                del self._waiting[name]
        return drained

    # The thread that carries

    def carry(self) -> None:
        """Send all that was drained. Raises RedisUnavailable where Redis did not serve it, after all that it did serve.

        And AccessDenied, which is no matter of one record. What has no record in Redis stays, after `on_missing` was
        told; what is refused for good is dropped. Successes that a full batch left over wait for the next round, unless
        somebody waits for them.
        """
        held: set[str] = set()
        trouble: RouterError | None = None
        least, hurried, self._hurried = 1, self._hurried, False
        while batches := self._next_batches(held, least):
            least = 1 if hurried or self.awaited else BATCH_LIMIT
            for batch, reply in zip(batches, self._store.record(batches), strict=True):
                if isinstance(reply, RedisRefused) and not isinstance(reply, AccessDenied):
                    self._refused_once_more(batch.provider, str(reply))
                elif isinstance(reply, RouterError):
                    held.add(batch.provider)
                    trouble = reply
                elif reply.status == "missing":
                    self._on_missing(batch.provider)
                    if batch.provider in self._unacked:
                        held.add(batch.provider)
                else:
                    self._settle(batch.provider, reply)
        self._left = trouble is None and not held.issuperset(self._waiting)
        if trouble is not None:
            raise trouble

    def try_again(self, providers: Iterable[str]) -> None:
        """Send a batch without outcomes for each of which nothing is on its way; `on_applied` is told what is taken."""
        batches = [Batch(name, next(self._numbers), ()) for name in providers if not self.carries(name)]
        for reply in self._store.record(batches) if batches else ():
            if isinstance(reply, Reply) and not reply.unreadable:
                self._on_applied(reply, ())

    def tell_settled(self, until: float) -> None:
        """Set the markers of what was drained up to this monotonic moment, but for those of what still waits."""
        with self._lock:
            moments = [parcel.drained_at[0] for parcel in self._unacked.values()]
            moments += [waiting.drained_at[0] for waiting in self._waiting.values() if waiting.drained_at]
            oldest = min(moments, default=math.inf)
            due, self._due_markers = self._due_markers, []
            for drained_at, marker in due:
                if drained_at <= until and drained_at < oldest:
                    marker.settled = True
                    marker.set()
                else:
                    self._due_markers.append((drained_at, marker))

    def give_up(self, provider: str, reason: str) -> list[Result]:
        """Drop the batch of this provider that got no answer, and count it; returns it and what waits behind it."""
        with self._lock:
            undecided = self._unsettled_of(provider)
            parcel = self._unacked.pop(provider, None)
            if parcel is not None:
                self._backlog -= len(parcel.results)
                self._drop(reason, parcel.results)
            return undecided

    def unsettled(self) -> list[Result]:
        """What is on its way or waits for it."""
        with self._lock:
            return [result for name in {*self._unacked, *self._waiting} for result in self._unsettled_of(name)]

    def _unsettled_of(self, provider: str) -> list[Result]:
        parcel, waiting = self._unacked.get(provider), self._waiting.get(provider)
        return [*(parcel.results if parcel is not None else ()), *(waiting.results if waiting is not None else ())]

    def carries(self, provider: str) -> bool:
        """Are results of this provider on their way, or waiting for it?"""
        return provider in self._unacked or provider in self._waiting

    def _refused_once_more(self, provider: str, why: str) -> None:
        parcel = self._unacked.get(provider)
        if parcel is None or parcel.refused:
            self._on_unusable(provider, why, self.give_up(provider, "refused"))
        else:
            parcel.refused = why

    def close(self) -> int:
        """Take no more; returns how many results were left behind, counted as dropped."""
        self._closed = True
        with self._lock:
            left = self.unsettled()
            self._waiting.clear()
            self._unacked.clear()
            self._backlog = 0
            for marker in [*self._markers, *(marker for _, marker in self._due_markers)]:
                marker.set()
        return self._drop("closed", left) + self._abandon_buffer()

    def _next_batches(self, held: set[str], least: int) -> list[Batch]:
        """At most one batch for each provider: those without an answer first, under their old numbers.

        None for a provider of which fewer than `least` results wait.
        """
        with self._lock:
            for name, waiting in list(self._waiting.items()):
                if name not in self._unacked and len(waiting.results) >= least:
                    self._unacked[name] = Parcel(next(self._numbers), *waiting.take(BATCH_LIMIT))
                if not waiting.results:
                    del self._waiting[name]
            return [
                Batch(name, parcel.seq, self._young(parcel))
                for name, parcel in self._unacked.items()
                if name not in held
            ]

    def _young(self, parcel: Parcel) -> list[Result]:
        if parcel.refused:
            return []
        return parcel.results[bisect_left(parcel.drained_at, time.monotonic() - self._ttl) :]

    def _settle(self, provider: str, reply: Reply) -> None:
        with self._lock:
            undecided = self._unsettled_of(provider)
            parcel = self._unacked.pop(provider, None)
            if parcel is None:
                return  # closed meanwhile, and counted as dropped
            self._backlog -= len(parcel.results)
        for change in reply.transitions:
            self._metrics.transition(change)
        expired = len(parcel.results) - reply.applied
        self._drop("refused" if parcel.refused else "expired", parcel.results[:expired])
        self._metrics.results(provider, parcel.results[expired:])
        if why := parcel.refused or reply.unreadable:
            self._on_unusable(provider, why, undecided)
        else:
            self._on_applied(reply, parcel.results)

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
