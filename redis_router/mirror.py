"""A live copy of the fleet's records: pushes keep it current, refreshes heal what a lost connection missed.

A thread subscribes, refreshes everything on each (re)subscription and from time to time, and orders what arrives by
generation and version: an older record never overwrites a newer one. What Redis holds may itself be older than the
copy here, after a failover or a restart: then the owner is told that the record was lost.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Collection
from typing import Protocol

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_when_event_set,
    wait_random_exponential,
)

from redis_router.errors import RedisUnavailable, RouterError
from redis_router.link import PUSH, Link
from redis_router.messages import Event, Spec
from redis_router.model import ProviderHealth
from redis_router.store import Snapshot, Store, Subscription

log = logging.getLogger("redis_router")

PING_INTERVAL = 0.25
"""Seconds of silence before a ping, and until its answer is overdue: a hung server is noticed after two of them."""
CONFIRM_SECONDS = 1.0


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


def reconnecting(
    stop: threading.Event,
    on_failure: Callable[[BaseException], None],
    meanwhile: Callable[[float], None] | None = None,
) -> Retrying:
    """How we wait for Redis: backoff with full jitter from 0.1 s up to 2 s, until it answers or `stop` is set.

    `meanwhile` is given the seconds of each wait, and may return early; without it the thread sleeps.
    """

    def failed(state: RetryCallState) -> None:
        if state.outcome is not None and (error := state.outcome.exception()) is not None:
            on_failure(error)

    return Retrying(
        retry=retry_if_exception_type(RouterError),
        wait=wait_random_exponential(multiplier=0.1, max=2.0),
        sleep=meanwhile or sleep_using_event(stop),
        stop=stop_when_event_set(stop),
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
        self._stop = threading.Event()
        self._stale = False
        self._clock_offset_ms: float | None = None
        self._unreadable: set[str] = set()
        self._subscription: Subscription | None = None
        self._thread: threading.Thread | None = None

    # The copy

    def apply(self, health: ProviderHealth, by: str = "") -> None:
        """Take a record in, unless a newer one is here already or the provider is of no interest any more.

        `by` is the process that caused it, '' where that is unknown.
        """
        with self.lock:
            names, old = self._names(), self.records.get(health.name)
            if names is not None and health.name not in names:
                return
            if old is not None and health.version > old.version and health.is_remnant_of(old):
                self._listener.lost(health.name)
                old = self.records.get(health.name)  # gone where the owner has no use for its copy
            if old is not None and not health.is_newer_than(old):
                return
            self.records[health.name] = health
            self._listener.changed(old, health, by)  # under the lock: the owner sees changes in their order

    def forget(self, name: str) -> None:
        """Drop the copy of a provider that is not of interest any more."""
        with self.lock:
            self.records.pop(name, None)

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
            if name not in self._unreadable:
                log.error("the record of provider %s cannot be read: %s", name, error)
        self._unreadable = set(snapshot.unreadable)
        for name, copy in known.items():
            if name in snapshot.deregistered:
                self._was_deregistered(name, copy)
            elif name not in self._unreadable and self._was_lost(name, copy, snapshot):
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
        return health is None or health.is_remnant_of(copy) or copy.is_newer_than(health) or name not in snapshot.specs

    # The thread

    def connect(self) -> None:
        """Subscribe and read everything, before the thread begins. Raises RedisUnavailable or RedisRefused."""
        self._subscription = self._subscribe()

    def start(self) -> None:
        """Begin to listen, in a daemon thread."""
        self._thread = threading.Thread(target=self._run, name="redis-router-mirror", daemon=True)
        self._thread.start()

    def ask_to_stop(self) -> None:
        """The thread ends within about a quarter of a second."""
        self._stop.set()

    def stop(self, timeout: float = 2.0) -> None:
        """End the thread, and wait for it up to `timeout` seconds."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stop.is_set():
            subscription, self._subscription = self._subscription, None
            try:
                if subscription is None:
                    subscription = reconnecting(self._stop, self._failed)(self._subscribe)
                self._listen(subscription)
            except RouterError as error:
                self._failed(error)
            except Exception:
                log.exception("the listener failed, and starts again")
                self._stop.wait(1.0)
            finally:
                if subscription is not None:
                    subscription.close()

    def _failed(self, error: BaseException) -> None:
        if not self._stop.is_set():
            self._link.failed(PUSH, error)

    def _subscribe(self) -> Subscription:
        """Subscribe first and read everything then, so that no change falls between the two."""
        subscription = self._store.subscribe()
        try:
            deadline = time.monotonic() + CONFIRM_SECONDS
            while subscription.next(PING_INTERVAL) != "subscribed":
                if time.monotonic() > deadline or self._stop.is_set():
                    raise RedisUnavailable("Redis did not confirm the subscription")
            self.refresh()
        except BaseException:
            subscription.close()
            raise
        return subscription

    def _listen(self, subscription: Subscription) -> None:
        pinged = False
        refresh_at = self._next_refresh()
        while not self._stop.is_set():
            message = subscription.next(PING_INTERVAL)
            if isinstance(message, Event):
                self._take(message)
            if message != "silence":
                pinged = False
            elif pinged:
                raise RedisUnavailable("Redis did not answer a ping on the push channel")
            else:
                subscription.ping()
                pinged = True
            # "subscribed": redis-py reconnected by itself, and pushes were lost meanwhile
            if message == "subscribed" or self._stale or time.monotonic() >= refresh_at:
                self._stale = False
                self.refresh()
                refresh_at = self._next_refresh()

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
