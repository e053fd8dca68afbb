"""The fleet's records as this worker knows them, and what changed: all that the worker knows of `replica/` is here.

A thread follows the push channel. What it finds is kept until the worker's loop takes it up: `next_change`,
`take_resignation`.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from operator import attrgetter

from redis_router.circuit.overrides import next_end_ms
from redis_router.circuit.record import ProviderHealth
from redis_router.errors import RedisRefused, RouterError
from redis_router.replica.facts import Changed, Deregistered, Fact, Heard, Led, Lost, Outdated, Unreadable
from redis_router.replica.link import COMMANDS, PUSH, Link
from redis_router.replica.push import Look, PushChannel
from redis_router.replica.records import Records
from redis_router.runtime.alarm import Alarm, Flag
from redis_router.runtime.background import Background
from redis_router.runtime.log import log
from redis_router.store.backoff import backoff
from redis_router.store.contract import Store
from redis_router.store.messages import Event, Reply, Spec
from redis_router.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Change:
    """Something changed about a provider; `gone` where there was no record of it for a while."""

    name: str
    gone: bool


class Fleet:
    """The worker's loop uses it; any thread may ask `up` and `has_provider`.

    `wake` rings for what is urgent, `news` for what people are told.
    """

    def __init__(self, store: Store, metrics: Metrics, refresh_interval: float, wake: Alarm, news: Alarm) -> None:
        self._store = store
        self._metrics = metrics
        self._wake = wake
        self._news = news
        self._link = Link(store.where, metrics)
        self._records = Records(None)
        self._stop = Flag()
        self._push = PushChannel(store, self._records, self._stop, refresh_interval)
        self._thread = Background("push", self._hear, metrics)
        self._failures = 0
        self._lock = threading.RLock()
        """Held while records are taken in, and while changes are."""
        self._changes: dict[str, bool] = {}
        self._resigned = False
        self._specs: dict[str, Spec] | None = None
        """As they were when all providers were looked at last."""
        self.records = self._records.copies
        """By name; those that cannot be read as they were last."""
        metrics.watch_providers(self)

    # The records

    @property
    def specs(self) -> dict[str, Spec]:
        """What is registered, by name."""
        return self._records.specs

    @property
    def is_known_to_be_empty(self) -> bool:
        """Was everything read, and is nothing registered?"""
        return self._records.were_read and not self.specs

    def has_provider(self, name: str) -> bool:
        """Has it a record in the fleet, as far as this worker knows?"""
        return name in self.records

    def due_at(self, health: ProviderHealth) -> float:
        """When an open circuit is due, on our monotonic clock; a moment later rather than earlier."""
        return self._moment(health.due_in_ms)

    def override_ends_at(self, health: ProviderHealth) -> float:
        """The same of the first of its overrides; infinity where none ends."""
        return self._moment(lambda now_ms: next_end_ms(health) - now_ms)

    def _moment(self, left_ms: Callable[[float], float]) -> float:
        redis_now = self._records.redis_now_ms()
        return inf if redis_now is None else time.monotonic() + (left_ms(redis_now) + 1) / 1000

    def refresh(self) -> None:
        """Read everything anew. Raises RedisUnavailable or RedisRefused."""
        self._take_look(self._push.look())

    def take_in(self, name: str, reply: Reply) -> None:
        """What a script made of a record that this worker wrote."""
        if reply.health is not None:
            self._act_on(self._records.apply(reply.health, self._store.writer, accepted=True))
        elif not reply.unreadable:
            self.forget(name)

    def refused(self, name: str, error: RedisRefused) -> None:
        """Redis refused a write on this provider's record."""
        with self._lock:
            is_news = self._records.cannot_use(name, refused=True)
        if is_news:
            _say_unusable(name, str(error))

    def forget(self, name: str) -> None:
        """There is no record of it any more: a replica that has a copy restores it."""
        with self._lock:
            self._records.forget(name)
            self.note(name, gone=True)
        self._metrics.forget(name)

    # What changed

    def next_change(self) -> Change | None:
        """One that was not taken up yet, in no order; None where there is none."""
        with self._lock:
            if self._specs is not self.specs:
                self._specs = self.specs
                for name in self.records:
                    self.note(name)
            return Change(*self._changes.popitem()) if self._changes else None

    def drop_changes(self) -> list[str]:
        """Another worker leads: the names of those that were gone. All others are noted when this one leads again."""
        with self._lock:
            self._specs = None
            gone = [name for name, was_gone in self._changes.items() if was_gone]
            self._changes.clear()
        return gone

    def note(self, name: str, gone: bool = False) -> None:
        """This provider is to be looked at (again)."""
        with self._lock:
            self._changes[name] = self._changes.get(name, False) or gone

    def take_resignation(self) -> bool:
        """Did a leader give its lease back since this was asked last?"""
        if not self._resigned:
            return False
        self._resigned = False  # one that comes in now is answered by the same campaign
        return True

    # Redis

    @property
    def up(self) -> bool:
        """Are commands served, and does the push channel work?"""
        return self._link.up

    def served(self) -> None:
        """Redis served this worker's commands."""
        self._link.works(COMMANDS)

    def failed(self, error: RouterError) -> None:
        """It did not."""
        self._link.failed(COMMANDS, error)

    def start(self) -> None:
        """Follow the push channel."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Begin to end, without waiting for it."""
        self._stop.set()

    def stop(self, timeout: float) -> None:
        """End; within about so many seconds."""
        self._stop.set()
        self._thread.join(timeout)
        self._link.close()

    # The thread

    def _hear(self) -> bool:
        try:
            for said in self._push.listen():
                if isinstance(said, Event):
                    self._act_on(self._records.take_event(said))
                else:
                    self._take_look(said)
        except RouterError as error:
            if not self._stop.is_set():
                self._link.failed(PUSH, error)
            self._failures += 1
            self._stop.wait(backoff(self._failures))
        return not self._stop.is_set()

    def _take_look(self, look: Look) -> None:
        self._act_on(self._records.take_snapshot(look.snapshot, look.known, look.asked_at))
        self._failures = 0
        self._link.works(PUSH)

    def _act_on(self, facts: Iterable[Fact]) -> None:
        unreadable = []
        with self._lock:
            for fact in facts:
                self._act(fact)
                if isinstance(fact, Unreadable):
                    unreadable.append(fact)
        for each in unreadable:
            _say_unusable(each.provider, each.why)

    def _act(self, fact: Fact) -> None:
        match fact:
            case Changed(old, new):
                self._metrics.health([new])
                self.note(new.name)
                if old is None or old.circuit_state is not new.circuit_state:
                    self._wake.ring()
                if old is None or _WHAT_PEOPLE_HEAR(old) != _WHAT_PEOPLE_HEAR(new):
                    self._news.ring()
            case Lost(name) | Deregistered(name):
                self.forget(name)
                self._news.ring()
            case Outdated():
                self._push.look_again()
            case Led(epoch):
                self._metrics.saw_epoch(epoch)
            case Heard(event) if event.kind == "resigned":
                self._resigned = True
                self._wake.ring()


_WHAT_PEOPLE_HEAR = attrgetter(
    "generation", "available", "weight", "override", "override_until_ms", "weight_override", "weight_override_until_ms"
)


def _say_unusable(name: str, why: str) -> None:
    log.error("the record of provider %s cannot be used: %s", name, why)
