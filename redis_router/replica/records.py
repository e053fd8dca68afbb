"""A live copy of the fleet's records: what arrives is ordered by `supersedes`, and an older record overwrites none.

What Redis holds may itself be older than the copy here, after a failover or a restart: then the record was lost, and
is put back from here. One thread at a time: the owner holds a lock.
"""

import time
from collections.abc import Collection, Iterator, Mapping

from redis_router.circuit.record import ProviderHealth
from redis_router.replica.facts import Changed, Deregistered, Fact, Heard, Led, Lost, Outdated, Unreadable
from redis_router.store.contract import Snapshot
from redis_router.store.messages import Event, Spec


class Records:
    """The records of the providers that are `wanted`, or of all where that is None."""

    def __init__(self, wanted: Collection[str] | None) -> None:
        self.wanted = wanted
        self.copies: dict[str, ProviderHealth] = {}
        self.specs: dict[str, Spec] = {}
        self.unusable: dict[str, bool] = {}
        """Providers whose record cannot be used -> was it refused, so that reading it is not enough?"""
        self._clock_offset_ms: float | None = None

    def _wants(self, name: str) -> bool:
        return self.wanted is None or name in self.wanted

    @property
    def were_read(self) -> bool:
        """Was there a snapshot yet?"""
        return self._clock_offset_ms is not None

    def redis_now_ms(self) -> float | None:
        """Redis's clock as estimated at the last snapshot, None before the first."""
        return None if self._clock_offset_ms is None else time.monotonic() * 1000 + self._clock_offset_ms

    def now_ms(self) -> float:
        """Redis's clock as last estimated; this machine's where Redis was never there."""
        return self.redis_now_ms() or time.time() * 1000

    def apply(self, health: ProviderHealth, by: str = "", *, accepted: bool = False) -> Iterator[Fact]:
        """Take a record in, unless a newer one is here. `accepted`: Redis just took results for it."""
        name = health.name
        old = self.copies.get(name)
        if not self._wants(name):
            return
        if old is not None and health.version > old.version and old.supersedes(health):
            yield Lost(name)
            old = self.copies.get(name)  # gone where the owner has no use for its copy
        is_usable_again = name in self.unusable and (accepted or not self.unusable[name])
        if is_usable_again:
            del self.unusable[name]
        if old is None or health.supersedes(old):
            self.copies[name] = health
            yield Changed(old, health, by)
        elif is_usable_again:
            yield Changed(old, old, by)

    def take_snapshot(self, snapshot: Snapshot, known: Mapping[str, ProviderHealth], asked_at: float) -> Iterator[Fact]:
        """Take everything in. `known` are the copies of the monotonic moment `asked_at`, when it was asked for."""
        self._clock_offset_ms = snapshot.now_ms - asked_at * 1000
        self.specs = snapshot.specs
        if snapshot.leader is not None:
            yield Led(snapshot.leader.epoch)
        for name, error in snapshot.unreadable.items():
            if self.cannot_use(name, refused=False):
                yield Unreadable(name, str(error))
        for name, copy in known.items():
            if name in snapshot.deregistered:
                if self.copies.get(name) is copy:
                    yield Deregistered(name)
                elif name in self.copies:  # registered again while we read, or just changed: look again
                    yield Outdated()
            elif name not in snapshot.unreadable and self._was_lost(name, copy, snapshot):
                yield Lost(name)
        for name, health in snapshot.records.items():
            if name not in snapshot.deregistered:
                yield from self.apply(health)

    def _was_lost(self, name: str, copy: ProviderHealth, snapshot: Snapshot) -> bool:
        """Was something lost of what we knew of this provider before the snapshot was taken?"""
        health = snapshot.records.get(name)
        return health is None or copy.supersedes(health) or name not in snapshot.specs

    def take_event(self, event: Event) -> Iterator[Fact]:
        """Take a push in."""
        if event.provider and not self._wants(event.provider):
            return
        unknown = event.kind in ("registered", "restored") and event.provider not in self.specs
        if event.kind == "deregistered" or unknown:
            yield Outdated()  # rr:providers says whether that still holds, and has the spec
        elif event.health is not None:
            yield from self.apply(event.health, event.by)
        yield Heard(event)

    def cannot_use(self, name: str, *, refused: bool) -> bool:
        """A provider's record was refused, or cannot be read; was that news?"""
        is_news = name not in self.unusable
        self.unusable[name] = refused or self.unusable.get(name, False)
        return is_news

    def forget(self, name: str) -> None:
        """Drop the copy of a provider that is not wanted any more."""
        self.copies.pop(name, None)
        self.unusable.pop(name, None)
