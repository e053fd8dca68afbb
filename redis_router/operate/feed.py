"""The one follower of a process: it looks at the fleet for all who watch, however many they are.

While somebody watches, it looks every second, and at once when the push channel tells of a change; else every ten
seconds, for the history. Each look that finds something new is a state with a number. Who watches asks for what
changed since the number that they have. So nothing is kept for anybody, and who is slow gets several changes at once.
"""

import secrets
import threading
import time
from collections.abc import Iterator

from redis_router.circuit.record import ProviderHealth
from redis_router.errors import RedisRefused, RouterError
from redis_router.operate import facts
from redis_router.operate.facts import Json
from redis_router.operate.known import LOGGED, Known
from redis_router.operate.timeline import Timeline
from redis_router.replicas import Replica, compared, presences
from redis_router.runtime.alarm import Alarm, Flag
from redis_router.runtime.background import Background
from redis_router.store.contract import Snapshot, Store, Subscription
from redis_router.store.messages import Event, Spec
from redis_router.store.presence import Presence
from redis_router.telemetry.metrics import Metrics

WATCHED_SECONDS = 1.0
IDLE_SECONDS = 10.0
HASTE_SECONDS = 0.25
"""Between two looks, however much is pushed."""
REST = 10.0
"""So many times as long as a look took nobody looks again: a large fleet is looked at less often."""
SILENT_AFTER = 15.0
"""Seconds after the last question nobody watches any more."""
HEARD_SECONDS = 0.25


class _Failures:
    """Counted where they are for who gives no registry; nothing is registered before the first one."""

    def background_failed(self, thread: str) -> None:
        """See `Metrics`."""
        Metrics.of(None).background_failed(thread)


class Feed:
    """Any thread may ask. `start` begins to follow; without it each question looks for itself."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._looking = threading.RLock()
        """Held while somebody looks: others who need a new look wait for what that finds."""
        self._lock = threading.RLock()
        """Of what was found. Nobody waits for Redis while holding it: a stream goes on where Redis hangs."""
        self._providers: dict[str, Known] = {}
        self._timeline = Timeline(store)
        self._snapshot: Snapshot | None = None
        self._number = self._fewer_at = 0
        self._looked_at = self._look_took = 0.0
        self._failed_at = 0.0
        self._error: RouterError | None = None
        self._asked_at = float("-inf")
        self.replicas: list[Replica] | None = None
        """Who was there at the last look; None where that is unknown."""
        self._replicas: list[Json] | None = None
        self._replicas_at = 0
        self._boot = secrets.token_hex(4)
        self._is_news = False
        self._may_listen = True
        self._subscription: Subscription | None = None
        self._wake, self._stop = Alarm(), Flag()
        self._thread: Background | None = None

    # Who asks

    def start(self) -> None:
        """Follow the fleet in a daemon thread until `close`."""
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                self._thread = Background("page", self._turn, _Failures())
                self._thread.start()

    def close(self) -> None:
        """Stop following; who watches is told that it ended."""
        self._stop.set()
        self._wake.ring()
        if self._thread is not None:
            self._thread.join(2.0)

    @property
    def closed(self) -> bool:
        """Has it ended?"""
        return self._stop.is_set()

    @property
    def number(self) -> int:
        """Of the state that was seen last."""
        return self._number

    @property
    def error(self) -> RouterError | None:
        """Why the last look failed; None where it did not."""
        return self._error

    def watch(self) -> None:
        """Somebody looks on, for the next quarter of a minute at least."""
        was_idle = time.monotonic() - self._asked_at > SILENT_AFTER
        self._asked_at = time.monotonic()
        if was_idle:
            self._wake.ring()

    def look(self, max_age: float = HASTE_SECONDS) -> Snapshot:
        """The fleet as it was so many seconds ago at most; where a look takes long, ten times as many.

        0 for a new look. Raises RedisUnavailable or RedisRefused.
        """
        with self._looking:
            now = time.monotonic()
            max_age = max(max_age, REST * self._look_took) if max_age else 0.0
            if self._snapshot is None or now - self._looked_at > max_age:
                if self._error is not None and now - self._failed_at < HASTE_SECONDS:
                    raise type(self._error)(str(self._error))
                self._look()
            assert self._snapshot is not None
            return self._snapshot

    def fleet(self) -> Json:
        """All that is known, the worst first; with the error where the last look failed."""
        with self._lock:
            return self._message(whole=True)

    def changes(self, since: str) -> tuple[bool, Json, str]:
        """Is it all, or what changed; that; and the mark to give as `since` the next time. '' asks for all."""
        boot, _, numbers = since.partition(".")
        number, _, event = numbers.partition(".")
        with self._lock:
            is_ours = boot == self._boot and number.isdecimal() and event.isdecimal() and len(numbers) < 40
            is_known = is_ours and int(number) <= self._number and int(event) <= self._timeline.number
            whole = not is_known or not 0 < self._fewer_at <= int(number)
            message = self._message(True) if whole else self._message(False, int(number), int(event))
            return whole, message, f"{self._boot}.{self._number}.{self._timeline.number}"

    def history(self, name: str) -> Json | None:
        """The averages of the last minutes."""
        with self._lock:
            known = self._providers.get(name)
            return None if known is None else known.history()

    def _message(self, whole: bool, number: int = 0, event: int = 0) -> Json:
        snapshot = self._snapshot
        found = facts.ranked(each.facts for each in self._providers.values() if whole or each.number > number)
        message: Json = {
            "namespace": self._store.keys.namespace,
            "now_ms": None if snapshot is None else snapshot.now_ms,
            "age_ms": None if snapshot is None else round((time.monotonic() - self._looked_at) * 1000),
            "error": None if self._error is None else {"code": self._error.code, "message": str(self._error)},
            "leader": None if snapshot is None else facts.leader(snapshot.leader),
            "unreadable": [] if snapshot is None else facts.unreadable(snapshot),
            "providers": found,
            "events": self._timeline.entries(0 if whole else event),
            "events_error": self._timeline.refused or None,
        }
        if whole or self._replicas_at > number:
            message["replicas"] = self._replicas
        if whole:
            message["history"] = {name: each.history() for name, each in self._providers.items()}
        return message

    # The thread

    def _turn(self) -> bool:
        is_watched = time.monotonic() - self._asked_at <= SILENT_AFTER
        try:
            if is_watched:
                self._hear()
            else:
                self._hang_up()
                self._may_listen = True
                self._wake.wait(IDLE_SECONDS)
            if not self._stop.is_set():
                self.look(self._pause(is_watched))
        except RouterError as error:
            self._failed(error)
            self._hang_up()
            self._stop.wait(WATCHED_SECONDS)
        if self._stop.is_set():
            self._hang_up()
        return not self._stop.is_set()

    def _pause(self, is_watched: bool) -> float:
        if not is_watched:
            return IDLE_SECONDS / 2
        return HASTE_SECONDS if self._is_news else WATCHED_SECONDS

    def _hear(self) -> None:
        """Wait for a push, or a little while."""
        if not self._may_listen:
            self._wake.wait(HEARD_SECONDS)
            return
        try:
            if self._subscription is None:
                self._subscription = self._store.subscribe()
            said = self._subscription.next(HEARD_SECONDS)
        except RedisRefused:  # a user who may only look, as docs/operations.md has one: each look finds what is new
            self._may_listen = False
            self._hang_up()
            return
        if said == "subscribed":  # pushes may be lost: anything may have happened
            self._note(None)
            self._is_news = True
        elif isinstance(said, Event) and said.kind != "averages":
            self._note(said.provider)
            self._is_news = True

    def _note(self, name: str | None) -> None:
        """There may be something new in this provider's log, or, where it is None, in any."""
        with self._looking:
            self._timeline.note(name)

    def _hang_up(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close()

    # A look

    def _look(self) -> None:
        began = time.monotonic()
        self._is_news = False
        try:
            said = presences(self._store)  # before the records, as `replicas.compared` wants it
            snapshot = self._store.snapshot()
            self._timeline.expect({*snapshot.specs, *snapshot.deregistered})
            for name in self._spoken_of(snapshot):
                self._timeline.note(name)
            self._timeline.read()
        except RouterError as error:
            self._failed(error)
            raise
        with self._lock:
            self._snapshot, self._looked_at, self._error = snapshot, time.monotonic(), None
            self._take(snapshot)
            self._take_replicas(said, snapshot)
        self._look_took = self._looked_at - began

    def _take_replicas(self, said: list[Presence] | None, snapshot: Snapshot) -> None:
        self.replicas = None if said is None else compared(said, snapshot)
        made = None if self.replicas is None else [facts.replica(each) for each in self.replicas]
        if made != self._replicas or not self._replicas_at:
            self._replicas, self._replicas_at = made, self._number

    def _spoken_of(self, snapshot: Snapshot) -> Iterator[str]:
        """Providers whose record changed in a way that is logged: nobody listens while nobody watches."""
        before = self._snapshot
        for name, health in snapshot.records.items() if before is not None else ():
            old = before.records.get(name) if before is not None else None
            if old is None or LOGGED(old) != LOGGED(health):
                yield name

    def _failed(self, error: RouterError) -> None:
        self._failed_at, self._error = time.monotonic(), error

    def _take(self, snapshot: Snapshot) -> None:
        number, now_ms = self._number + 1, snapshot.now_ms
        known = {name: health for name, health in snapshot.records.items() if name in snapshot.specs}
        if self._providers.keys() - known.keys() or not self._fewer_at:
            self._fewer_at = number  # who has an older state needs all of the new one
        self._providers = {name: each for name, each in self._providers.items() if name in known}
        for name, health in known.items():
            self._take_one(health, snapshot.specs[name], now_ms, number)
            self._providers[name].sample(now_ms)
        self._number = number

    def _take_one(self, health: ProviderHealth, spec: Spec, now_ms: int, number: int) -> None:
        old = self._providers.get(health.name)
        if old is not None and old.health == health and old.spec == spec and not facts.depends_on_time(health):
            return
        made = facts.provider(health, spec, now_ms)
        if old is None:
            self._providers[health.name] = Known(health, spec, made, number)
            return
        old.health, old.spec = health, spec
        if made != old.facts:
            old.facts, old.number = made, number
