"""The push channel of one process: what it hears, and a snapshot of everything where pushes may have been lost."""

import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from redis_router.circuit.record import ProviderHealth
from redis_router.errors import RedisUnavailable
from redis_router.replica.records import Records
from redis_router.runtime.alarm import Flag
from redis_router.store.contract import Snapshot, Store, Subscription
from redis_router.store.messages import Event

PING_INTERVAL = 0.25
"""Seconds of silence before a ping, and at least until its answer is overdue: a hung server is noticed after two."""
PATIENCE = 4.0
"""So many round trips, as measured, may pass until an answer is overdue: on a slow link that is more."""
CONFIRM_SECONDS = 1.0
REST = 5.0
"""So many times as long as it took nobody reads everything again, where many providers are registered at once."""
STUCK_SECONDS, STUCK_TRIPS = 1.0, 8.0
"""A thread that got no answer for so long, and for so many round trips, is held up: by a look-up of a name, say."""


@dataclass(frozen=True, slots=True)
class Look:
    """A snapshot; the copies that were known when it was asked for, at the monotonic moment `asked_at`."""

    snapshot: Snapshot
    known: Mapping[str, ProviderHealth]
    asked_at: float


class PushChannel:
    """Read by one thread; when `stop` is set it ends within about a quarter of a second."""

    def __init__(self, store: Store, records: Records, stop: Flag, refresh_interval: float = 30.0) -> None:
        self._store = store
        self._records = records
        self._stop = stop
        self._refresh_interval = refresh_interval
        self._confirm_seconds = max(CONFIRM_SECONDS, 2 * (store.time_out or 0.0))
        self._round_trip = 0.0
        self._turned_at = time.monotonic()
        self._subscription: Subscription | None = None
        self._is_outdated = False
        self._was_given_up = False

    def connect(self) -> Look:
        """Subscribe first and read everything then, so that no change falls between the two.

        Raises RedisUnavailable or RedisRefused.
        """
        subscription = self._store.subscribe()
        try:
            asked_at = time.monotonic()
            while subscription.next(PING_INTERVAL) != "subscribed":
                if time.monotonic() > asked_at + self._confirm_seconds or self._stop.is_set():
                    raise RedisUnavailable("Redis did not confirm the subscription")
            self._took(time.monotonic() - asked_at)
            look = self.look()
        except BaseException:
            subscription.close()
            raise
        self._turned_at = time.monotonic()
        self._subscription = subscription
        return look

    def look(self) -> Look:
        """Read everything. Raises RedisUnavailable or RedisRefused."""
        known, asked_at = dict(self._records.copies), time.monotonic()
        return Look(self._store.snapshot(self._records.wanted), known, asked_at)

    def look_again(self) -> None:
        """What was heard says that something is missing: everything is read anew, soon."""
        self._is_outdated = True

    def give_up(self) -> None:
        """It is taken for dead: where it is not, everything is read anew, at once."""
        self._was_given_up = True

    def listen(self) -> Iterator[Look | Event]:
        """What is heard, until `stop` is set. Raises RedisUnavailable or RedisRefused when the connection is lost."""
        if self._subscription is None:
            yield self.connect()
        subscription, self._subscription = self._subscription, None
        assert subscription is not None
        try:
            yield from self._hear(subscription)
        finally:
            subscription.close()

    def _hear(self, subscription: Subscription) -> Iterator[Look | Event]:
        pinged_at = rested_at = 0.0
        look_at = self._next_look()
        while not self._stop.is_set():
            self._turned_at = time.monotonic()
            message = subscription.next(PING_INTERVAL)
            if isinstance(message, Event):
                yield message
            if message != "silence":
                if pinged_at:
                    self._took(time.monotonic() - pinged_at)
                pinged_at = 0.0
            elif not pinged_at:
                subscription.ping()
                pinged_at = time.monotonic()
            elif time.monotonic() - pinged_at >= self.patience:
                raise RedisUnavailable(f"Redis did not answer a ping on the push channel for {self.patience:.2f} s")
            # "subscribed": redis-py reconnected by itself, and pushes were lost meanwhile
            now = time.monotonic()
            again = message == "subscribed" or self._was_given_up
            if again or (self._is_outdated and now >= rested_at) or now >= look_at:
                self._is_outdated = self._was_given_up = False
                yield self.look()
                rested_at = time.monotonic() + REST * (time.monotonic() - now)
                look_at = self._next_look()

    def _took(self, seconds: float) -> None:
        """A round trip, as measured: the slow ones count at once, and fade."""
        self._round_trip = max(seconds, 0.8 * self._round_trip + 0.2 * seconds)

    def _next_look(self) -> float:
        return time.monotonic() + self._refresh_interval * random.uniform(0.8, 1.2)

    @property
    def patience(self) -> float:
        """Seconds until the answer to a ping is overdue."""
        return max(PING_INTERVAL, PATIENCE * self._round_trip)

    def holds_up(self, thread: int | None, *, listens: bool = False) -> bool:
        """Has this thread been waiting for Redis for too long? `listens`: it is the one that reads this channel."""
        waits = self._store.waits_for(thread)
        if listens and not waits:
            waits = time.monotonic() - self._turned_at - self.patience
        return waits > STUCK_SECONDS + STUCK_TRIPS * self._round_trip
