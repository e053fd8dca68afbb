"""A live copy of the fleet's records: pushes keep it current, refreshes heal what a lost connection missed.

A thread subscribes, refreshes everything on each (re)subscription and from time to time, and orders what arrives by
generation and version: an older record never overwrites a newer one. What Redis holds may itself be older than the
copy here, after a failover or a restart: then the owner is told that the record was lost.
"""

import random
import threading
import time
from collections.abc import Callable, Collection
from typing import Protocol

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    wait_random_exponential,
)

from redis_router.circuit.record import ProviderHealth
from redis_router.errors import RedisUnavailable, RouterError
from redis_router.replica.link import PUSH, Link
from redis_router.runtime.alarm import Flag
from redis_router.runtime.background import Background
from redis_router.runtime.log import log
from redis_router.store.contract import Snapshot, Store, Subscription
from redis_router.store.messages import Event, Spec

PING_INTERVAL = 0.25
"""Seconds of silence before a ping, and at least until its answer is overdue: a hung server is noticed after two."""
PATIENCE = 4.0
"""So many round trips, as measured, may pass until an answer is overdue: on a slow link that is more."""
CONFIRM_SECONDS = 1.0
REST = 5.0
"""So many times as long as it took nobody reads everything again, where many providers are registered at once."""
STUCK_SECONDS, STUCK_TRIPS = 1.0, 8.0
"""A thread that got no answer for so long, and for so many round trips, is held up: by a look-up of a name, say."""


class Listener(Protocol):
    """Who owns a mirror. Called on the mirror's thread, or on that of whoever applied a record."""

    def changed(self, old: ProviderHealth | None, new: ProviderHealth, by: str) -> None:
        """A newer record is in the mirror; `by` is the process that caused it, '' where that is unknown."""

    def lost(self, name: str) -> None:
        """Redis has no record of this provider any more, or an older one, and nobody deregistered it."""

    def deregistered(self, name: str) -> None:
        """The provider was taken out of the fleet."""

    def heard(self, event: Event) -> None:
        """Any event, after it was applied."""

    def unusable(self, name: str) -> None:
        """The record of this provider cannot be read, or is refused."""


def reconnecting(
    stop: Flag,
    on_failure: Callable[[BaseException], None],
    meanwhile: Callable[[float], None] | None = None,
) -> Retrying:
    """How we wait for Redis: backoff with full jitter from 0.1 s up to 2 s, until it answers or `stop` is set.

    `meanwhile` is given the seconds of each wait, and may return early; without it the thread sleeps.
    """

    def sleep(seconds: float) -> None:
        stop.wait(seconds)

    def failed(state: RetryCallState) -> None:
        if state.outcome is not None and (error := state.outcome.exception()) is not None:
            on_failure(error)

    return Retrying(
        retry=retry_if_exception_type(RouterError),
        wait=wait_random_exponential(multiplier=0.1, max=2.0),
        sleep=meanwhile or sleep,
        stop=lambda state: stop.is_set(),
        before_sleep=failed,
        reraise=True,
    )


class Mirror:
    """The records of `names()`, or of every registered provider where that gives None."""

    def __init__(
        self,
        store: Store,
        link: Link,
        listener: Listener,
        names: Callable[[], Collection[str] | None],
        on_epoch: Callable[[int], None],
        count_failure: Callable[[str], None],
        refresh_interval: float = 30.0,
    ) -> None:
        self.records: dict[str, ProviderHealth] = {}
        self.specs: dict[str, Spec] = {}
        self._store = store
        self._on_epoch = on_epoch
        self._link = link
        self._listener = listener
        self._names = names
        self._refresh_interval = refresh_interval
        self.lock = threading.RLock()
        """Held while a record is taken in. The owner holds it while it changes which names are of interest."""
        self.unusable: dict[str, bool] = {}
        """Providers whose record cannot be used -> was it refused, so that reading it is not enough?"""
        self._stop = Flag()
        self._stale = False
        self._clock_offset_ms: float | None = None
        self._time_out = 2 * (store.time_out or 0.0)
        self._round_trip = 0.0
        self._turned_at = time.monotonic()
        self._subscription: Subscription | None = None
        self.thread = Background("mirror", self._turn, count_failure)

    # The copy

    def apply(self, health: ProviderHealth, by: str = "", *, accepted: bool = False) -> None:
        """Take a record in, unless a newer one is here already or the provider is of no interest any more.

        `by` is the process that caused it, '' where that is unknown; `accepted`: Redis just took results for it.
        """
        with self.lock:
            names, old = self._names(), self.records.get(health.name)
            if names is not None and health.name not in names:
                return
            if old is not None and health.version > old.version and old.supersedes(health):
                self._listener.lost(health.name)
                old = self.records.get(health.name)  # gone where the owner has no use for its copy
            usable_again = self._is_usable_again(health.name, accepted)
            if old is not None and not health.supersedes(old):
                if usable_again:
                    self._listener.changed(old, old, by)
                return
            self.records[health.name] = health
            self._listener.changed(old, health, by)  # under the lock: the owner sees changes in their order

    def _is_usable_again(self, name: str, accepted: bool) -> bool:
        if self.unusable.get(name, True) and not (accepted and name in self.unusable):
            return False
        del self.unusable[name]
        return True

    def cannot_use(self, name: str, why: str, *, refused: bool) -> bool:
        """A provider's record was refused, or cannot be read; was that news?"""
        with self.lock:
            is_news = name not in self.unusable
            self.unusable[name] = refused or self.unusable.get(name, False)
        if is_news:
            log.error("the record of provider %s cannot be used: %s", name, why)
        return is_news

    def forget(self, name: str) -> None:
        """Drop the copy of a provider that is not of interest any more."""
        with self.lock:
            self.records.pop(name, None)
            self.unusable.pop(name, None)

    @property
    def specs_read(self) -> bool:
        """Was there a refresh yet?"""
        return self._clock_offset_ms is not None

    def redis_now_ms(self) -> float | None:
        """Redis's clock as estimated at the last refresh, None before the first."""
        return None if self._clock_offset_ms is None else time.monotonic() * 1000 + self._clock_offset_ms

    def refresh(self) -> None:
        """Read everything anew. Raises RedisUnavailable or RedisRefused."""
        before, known = time.monotonic(), dict(self.records)
        snapshot = self._store.snapshot(self._names())
        self._clock_offset_ms = snapshot.now_ms - before * 1000
        self.specs = snapshot.specs
        if snapshot.leader is not None:
            self._on_epoch(snapshot.leader.epoch)
        for name, error in snapshot.unreadable.items():
            if self.cannot_use(name, str(error), refused=False):
                self._listener.unusable(name)
        for name, copy in known.items():
            if name in snapshot.deregistered:
                self._was_deregistered(name, copy)
            elif name not in snapshot.unreadable and self._was_lost(name, copy, snapshot):
                self._listener.lost(name)
        for name, health in snapshot.records.items():
            if name not in snapshot.deregistered:
                self.apply(health)
        self._link.works(PUSH)

    def _was_deregistered(self, name: str, copy: ProviderHealth) -> None:
        with self.lock:
            current = self.records.get(name)
            if current is copy:
                self._listener.deregistered(name)
            elif current is not None:  # registered again while we read, or just changed: look again
                self._stale = True

    def _was_lost(self, name: str, copy: ProviderHealth, snapshot: Snapshot) -> bool:
        """Was something lost of what we knew of this provider before the snapshot was taken?"""
        health = snapshot.records.get(name)
        return health is None or copy.supersedes(health) or name not in snapshot.specs

    # The thread

    def connect(self) -> None:
        """Subscribe and read everything, before the thread begins. Raises RedisUnavailable or RedisRefused."""
        self._subscription = self._subscribe()

    def start(self) -> None:
        """Begin to listen, in a daemon thread."""
        self._turned_at = time.monotonic()
        self.thread.start()

    def ask_to_stop(self) -> None:
        """The thread ends within about a quarter of a second."""
        self._stop.set()

    def stop(self, timeout: float = 2.0) -> None:
        """End the thread, and wait for it up to `timeout` seconds."""
        self._stop.set()
        self.thread.join(timeout)

    @property
    def patience(self) -> float:
        """Seconds until the answer to a ping is overdue."""
        return max(PING_INTERVAL, PATIENCE * self._round_trip)

    def is_held_up(self, thread: Background) -> bool:
        """Has this thread, ours or another that uses the store, been waiting for Redis for too long?"""
        waits = self._store.waits_for(thread.ident)
        if thread is self.thread and not waits:
            waits = time.monotonic() - self._turned_at - self.patience
        return waits > STUCK_SECONDS + STUCK_TRIPS * self._round_trip

    def _turn(self) -> bool:
        if self._stop.is_set():
            return False
        subscription, self._subscription = self._subscription, None
        try:
            if subscription is None:
                subscription = reconnecting(self._stop, self._failed)(self._subscribe)
            self._listen(subscription)
        except RouterError as error:
            self._failed(error)
        finally:
            if subscription is not None:
                subscription.close()
        return True

    def _failed(self, error: BaseException) -> None:
        if not self._stop.is_set():
            self._link.failed(PUSH, error)

    def _subscribe(self) -> Subscription:
        """Subscribe first and read everything then, so that no change falls between the two."""
        subscription = self._store.subscribe()
        try:
            asked_at = time.monotonic()
            while subscription.next(PING_INTERVAL) != "subscribed":
                if time.monotonic() > asked_at + max(CONFIRM_SECONDS, self._time_out) or self._stop.is_set():
                    raise RedisUnavailable("Redis did not confirm the subscription")
            self._took(time.monotonic() - asked_at)
            self.refresh()
        except BaseException:
            subscription.close()
            raise
        return subscription

    def _listen(self, subscription: Subscription) -> None:
        pinged_at = rested_at = 0.0
        refresh_at = self._next_refresh()
        while not self._stop.is_set():
            self._turned_at = time.monotonic()
            message = subscription.next(PING_INTERVAL)
            if isinstance(message, Event):
                self._take(message)
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
            # a push channel that was given up as held up, and is not, is back with a refresh
            again = message == "subscribed" or self._link.push_up is False
            if again or (self._stale and now >= rested_at) or now >= refresh_at:
                self._stale = False
                self.refresh()
                rested_at = time.monotonic() + REST * (time.monotonic() - now)
                refresh_at = self._next_refresh()

    def _took(self, seconds: float) -> None:
        """A round trip, as measured: the slow ones count at once, and fade."""
        self._round_trip = max(seconds, 0.8 * self._round_trip + 0.2 * seconds)

    def _next_refresh(self) -> float:
        return time.monotonic() + self._refresh_interval * random.uniform(0.8, 1.2)

    def _take(self, event: Event) -> None:
        names = self._names()
        if event.provider and names is not None and event.provider not in names:
            return
        unknown = event.kind in ("registered", "restored") and event.provider not in self.specs
        if event.kind == "deregistered" or unknown:
            self._stale = True  # rr:providers says whether that still holds, and has the spec
        elif event.health is not None:
            self.apply(event.health, event.by)
        self._listener.heard(event)
