"""The fleet's records as this worker knows them, and what changed: all that the worker knows of `replica/` is here.

The replica's mirror tells of changes on its own thread. Here they become facts, which the worker's loop takes up one by
one: `next_change`, `take_resignation`.
"""

import threading
import time
from dataclasses import dataclass

from redis_router.circuit.record import ProviderHealth
from redis_router.errors import RedisRefused, RouterError
from redis_router.replica.link import COMMANDS, Link
from redis_router.replica.mirror import Mirror
from redis_router.runtime.alarm import Alarm
from redis_router.store.contract import Store
from redis_router.store.messages import Event, Reply, Spec
from redis_router.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Change:
    """Something changed about a provider; `gone` where there was no record of it for a while."""

    name: str
    gone: bool


class Fleet:
    """One thread uses it; `up` and `has_provider` may be asked by any. `wake` rings for what does not wait."""

    def __init__(self, store: Store, metrics: Metrics, refresh_interval: float, wake: Alarm) -> None:
        self._store = store
        self._metrics = metrics
        self._wake = wake
        self._lock = threading.RLock()
        self._changes: dict[str, bool] = {}
        self._resigned = False
        self._specs: dict[str, Spec] | None = None
        """As they were when all providers were looked at last."""
        self._link = Link(store.where, metrics, lambda: None)
        self._mirror = Mirror(
            store, self._link, self, lambda: None, metrics.saw_epoch, metrics.background_failed, refresh_interval
        )
        self.records = self._mirror.records
        """By name; those that cannot be read as they were last."""
        metrics.watch_providers(self)

    # The records

    @property
    def specs(self) -> dict[str, Spec]:
        """What is registered, by name."""
        return self._mirror.specs

    @property
    def is_known_to_be_empty(self) -> bool:
        """Was everything read, and is nothing registered?"""
        return self._mirror.specs_read and not self._mirror.specs

    def has_provider(self, name: str) -> bool:
        """Has it a record in the fleet, as far as this worker knows?"""
        return name in self.records

    def due_at(self, health: ProviderHealth) -> float:
        """When an open circuit is due, on our monotonic clock; a moment later rather than earlier."""
        redis_now = self._mirror.redis_now_ms()
        if redis_now is None:
            return float("inf")
        return time.monotonic() + (health.due_in_ms(redis_now) + 1) / 1000

    def refresh(self) -> None:
        """Read everything anew. Raises RedisUnavailable or RedisRefused."""
        self._mirror.refresh()

    def take_in(self, name: str, reply: Reply) -> None:
        """What the script made of a record that this worker wrote."""
        if reply.health is not None:
            self._mirror.apply(reply.health, self._store.writer, accepted=True)
        elif not reply.unreadable:
            self._forget(name)

    def refused(self, name: str, error: RedisRefused) -> None:
        """Redis refused a write on this provider's record."""
        self._mirror.cannot_use(name, str(error), refused=True)

    # What changed

    def next_change(self) -> Change | None:
        """One that was not taken up yet, in no order; None where there is none."""
        with self._lock:
            if self._specs is not self._mirror.specs:
                self._specs = self._mirror.specs
                for name in self.records.copy():
                    self.note(name)
            return Change(*self._changes.popitem()) if self._changes else None

    def drop_changes(self) -> list[str]:
        """Another worker leads: the names of those that were gone. All others are noted when this one leads again."""
        with self._lock:
            self._specs = None
            gone = [name for name, was_gone in self._changes.items() if was_gone]
            self._changes.clear()
        return gone

    def take_resignation(self) -> bool:
        """Did a leader give its lease back since this was asked last?"""
        if not self._resigned:
            return False
        self._resigned = False  # one that comes in now is answered by the same campaign
        return True

    def note(self, name: str, gone: bool = False) -> None:
        """This provider is to be looked at (again)."""
        with self._lock:
            self._changes[name] = self._changes.get(name, False) or gone

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
        """Follow the pushes, in a daemon thread."""
        self._mirror.start()

    def ask_to_stop(self) -> None:
        """Begin to end, without waiting for it."""
        self._mirror.ask_to_stop()

    def stop(self, timeout: float) -> None:
        """End; within about so many seconds."""
        self._mirror.stop(timeout)
        self._link.close()

    # The mirror's listener, on the mirror's thread or on that of `take_in`

    def changed(self, old: ProviderHealth | None, new: ProviderHealth, by: str) -> None:
        self._metrics.health([new])
        self.note(new.name)
        if old is None or old.circuit_state is not new.circuit_state:
            self._wake.ring()

    def lost(self, name: str) -> None:
        self._forget(name)

    def deregistered(self, name: str) -> None:
        self._forget(name)

    def unusable(self, name: str) -> None:
        """The mirror logged it; the replicas decide on it."""

    def heard(self, event: Event) -> None:
        if event.kind == "resigned":
            self._resigned = True
            self._wake.ring()

    def _forget(self, name: str) -> None:
        """There is no record of it any more: a replica that has a copy restores it."""
        self._mirror.forget(name)
        self._metrics.forget(name)
        self.note(name, gone=True)
