"""A live copy of the fleet's records: pushes keep it current, refreshes heal what a lost connection missed.

A thread subscribes, refreshes everything on each (re)subscription and from time to time, and orders what arrives by
`version`: an older record never overwrites a newer one. It is also the judge of whether Redis is up.
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

from redis_router.connect import where
from redis_router.errors import RedisUnavailable, RouterError
from redis_router.metrics import Metrics
from redis_router.model import Leader, ProviderHealth
from redis_router.store import Event, Spec, Store, Subscription

log = logging.getLogger("redis_router")

PING_INTERVAL = 0.25
"""Seconds of silence before a ping, and until its answer is overdue: a hung server is noticed after two of them."""


class Listener(Protocol):
    """Who owns a mirror. Called on the mirror's thread, or on that of whoever applied a record."""

    def changed(self, old: ProviderHealth | None, new: ProviderHealth) -> None:
        """A newer record is in the mirror."""

    def lost(self, name: str) -> None:
        """Redis has no record of this provider any more, and nobody deregistered it."""

    def deregistered(self, name: str) -> None:
        """The provider was taken out of the fleet."""

    def heard(self, event: Event) -> None:
        """Any event, after it was applied."""


def reconnecting(stop: threading.Event, on_failure: Callable[[BaseException], None]) -> Retrying:
    """How we wait for Redis: backoff with full jitter from 0.1 s up to 2 s, until it answers or `stop` is set."""

    def failed(state: RetryCallState) -> None:
        if state.outcome is not None and (error := state.outcome.exception()) is not None:
            on_failure(error)

    return Retrying(
        retry=retry_if_exception_type(RouterError),
        wait=wait_random_exponential(multiplier=0.1, max=2.0),
        sleep=sleep_using_event(stop),
        stop=stop_when_event_set(stop),
        before_sleep=failed,
        reraise=True,
    )


class Mirror:
    """The records of `names()`, or of every registered provider where that gives None."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        listener: Listener,
        names: Callable[[], Collection[str] | None],
        refresh_interval: float = 30.0,
    ) -> None:
        self.records: dict[str, ProviderHealth] = {}
        self.specs: dict[str, Spec] = {}
        self.leader: Leader | None = None
        self.up = False
        self._store = store
        self._metrics = metrics
        self._listener = listener
        self._names = names
        self._refresh_interval = refresh_interval
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._stale = threading.Event()
        self._clock_offset_ms: float | None = None
        self._thread: threading.Thread | None = None
        self._told = False

    # The copy

    def apply(self, health: ProviderHealth) -> None:
        """Take a record in, unless a newer one is here already."""
        with self._lock:
            old = self.records.get(health.name)
            if old is not None and old.version >= health.version:
                return
            self.records[health.name] = health
            self._metrics.health(health)
            self._listener.changed(old, health)  # under the lock: the owner sees changes in their order

    def forget(self, name: str) -> None:
        """Drop the copy of a provider that is not of interest any more."""
        with self._lock:
            if self.records.pop(name, None) is not None:
                self._metrics.forget(name)

    def redis_now_ms(self) -> float | None:
        """Redis's clock as estimated at the last refresh, None before the first."""
        return None if self._clock_offset_ms is None else time.monotonic() * 1000 + self._clock_offset_ms

    def refresh(self) -> None:
        """Read everything anew. Raises RedisUnavailable or RedisRefused."""
        before, known = time.monotonic(), set(self.records)
        snapshot = self._store.snapshot(self._names())
        self._clock_offset_ms = snapshot.now_ms - before * 1000
        self.specs, self.leader = snapshot.specs, snapshot.leader
        if snapshot.leader is not None:
            self._metrics.leader_epoch.set(snapshot.leader.epoch)
        for health in snapshot.records.values():
            self.apply(health)
        for error in snapshot.unreadable.values():
            log.error("redis_router: %s", error)
        for name in known - set(snapshot.records) - set(snapshot.unreadable):
            if name in snapshot.deregistered:
                self._listener.deregistered(name)
            else:
                self._listener.lost(name)
        self.came_up()

    # Up and down: one log line per edge

    def came_up(self) -> None:
        """Redis answered and the copy is current."""
        if not self.up:
            self.up, self._told = True, False
            self._metrics.redis_up.set(1)
            log.info("redis_router: in touch with Redis at %s", where(self._store.client))

    def went_down(self, error: BaseException) -> None:
        """Redis did not answer: the copy stays in force, and is read anew as soon as Redis is back."""
        self._stale.set()
        if self.up or not self._told:
            self.up, self._told = False, True
            self._metrics.redis_up.set(0)
            log.warning(
                "redis_router: out of touch with Redis at %s, going on with the last known state: %s",
                where(self._store.client),
                error,
            )

    # The thread

    def start(self) -> None:
        """Begin to listen, in a daemon thread."""
        self._thread = threading.Thread(target=self._run, name="redis-router-mirror", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; returns within about a second."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            subscription = None
            try:
                subscription = reconnecting(self._stop, self.went_down)(self._store.subscribe)
                self._listen(subscription)
            except RouterError as error:
                self.went_down(error)
            except Exception:
                log.exception("redis_router: the listener failed, and starts again")
                self._stop.wait(1.0)
            finally:
                if subscription is not None:
                    subscription.close()

    def _listen(self, subscription: Subscription) -> None:
        pinged = False
        refresh_at = float("inf")  # the first message says that we are subscribed, and brings the first refresh
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
            if message == "subscribed" or self._stale.is_set() or time.monotonic() >= refresh_at:
                self._stale.clear()
                reconnecting(self._stop, self.went_down)(self.refresh)
                refresh_at = time.monotonic() + self._refresh_interval * random.uniform(0.8, 1.2)

    def _take(self, event: Event) -> None:
        names = self._names()
        if event.provider and names is not None and event.provider not in names:
            return
        if event.health is not None:
            self.apply(event.health)
        if event.kind == "deregistered":
            self._listener.deregistered(event.provider)
        elif event.kind in ("registered", "restored") and event.provider not in self.specs:
            self._stale.set()  # the provider's spec is not in the message
        self._listener.heard(event)
