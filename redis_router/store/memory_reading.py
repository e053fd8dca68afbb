"""What is read of a memory, and what it says of itself: the part of `contract.Store` that changes no record."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from redis_router.store.contract import Snapshot
from redis_router.store.keys import Keys
from redis_router.store.memory_records import Memory, MemorySubscription
from redis_router.store.messages import Leader, LoggedEvent
from redis_router.store.presence import Calls, Presence, Surroundings


class MemoryReading:
    """See `contract.Store`. `now_ms` is a test's own time, `clock` (ms) that of a replica that is alone."""

    time_out: float | None = None
    where = "this process's memory"

    def __init__(self, memory: Memory, namespace: str, now_ms: int | None, clock: Callable[[], float] | None) -> None:
        self.keys = Keys(namespace)
        self.now_ms = now_ms
        self.is_shared = clock is None
        self._clock = clock
        self._memory = memory
        self._lock = memory.lock
        self._here = memory.namespaces[namespace]

    @property
    def has_workers(self) -> bool:
        """Only while one leads: without one there is nobody to wait for."""
        _, leader = self.leader()
        return leader is not None and leader.remaining_ms > 0

    def waits_for(self, thread: int | None) -> float:
        return 0.0

    @property
    def _now(self) -> int:
        if self._clock is not None:
            return int(self._clock())
        return time.time_ns() // 1_000_000 if self.now_ms is None else self.now_ms

    def leader(self) -> tuple[int, Leader | None]:
        with self._lock:
            now = self._now
            return now, self._here.lease.at(now)

    def snapshot(self, names: Iterable[str] | None = None) -> Snapshot:
        with self._lock:
            now, leader = self.leader()
            specs = {name: spec for name, spec in self._here.specs.items() if not spec.deregistered}
            gone = {name: spec.at_ms for name, spec in self._here.specs.items() if spec.deregistered}
            wanted = specs if names is None else names
            found = {name: self._here.entries[name].health for name in wanted if name in self._here.entries}
            return Snapshot(now, leader, specs, gone, {}, {n: h for n, h in found.items() if h is not None})

    def lost(self, names: Sequence[str]) -> list[str]:
        with self._lock:
            known = self.snapshot(names)
            return [name for name in names if name not in known.records or name not in self._here.specs]

    def last_seen(self) -> dict[str, int]:
        with self._lock:
            return dict(self._here.seen)

    def presences(self) -> list[Presence]:
        with self._lock:
            return list(self._here.present.values())

    def surroundings(self, name: str) -> Surroundings:
        with self._lock:
            entry = self._here.entries.get(name)
            if entry is None:
                return Surroundings()
            permits, reporters = (
                {who: int(at) for who, at in known.items()} for known in (entry.permits, entry.reporters)
            )
            calls = {who: Calls(*says, at) for who, (says, at) in entry.in_flight.items()}
            return Surroundings(permits, reporters, calls)

    def events(self, name: str, since_ms: int = 0, most: int = 1000) -> list[LoggedEvent]:
        with self._lock:
            entry = self._here.entries.get(name)
            return [each for each in (entry.events if entry else ()) if each.at_ms >= since_ms][-most:]

    def news(self, after: Mapping[str, str], most: int = 1000) -> dict[str, list[LoggedEvent]]:
        with self._lock:
            logs = {name: self._here.entries[name].events for name in after if name in self._here.entries}
            found = {
                name: [each for each in log if _order(each.id) > _order(after[name])] for name, log in logs.items()
            }
            return {name: entries[-most:] for name, entries in found.items() if entries}

    def told(self) -> dict[str, str]:
        with self._lock:
            return dict(self._here.told)

    def last_event_ms(self, name: str) -> int:
        with self._lock:
            entry = self._here.entries.get(name)
            return entry.events[-1].at_ms if entry is not None and entry.events else 0

    def scan(self) -> Iterator[str]:
        yield from ()

    def forget(self, name: str) -> None:
        with self._lock:
            self._here.specs.pop(name, None)
            self._here.seen.pop(name, None)
            self._here.told.pop(name, None)
            if name in self._here.entries and self._here.entries[name].health is None:
                del self._here.entries[name]

    def delete(self, keys: Iterable[str]) -> None:
        """There are no keys."""

    def subscribe(self) -> MemorySubscription:
        return MemorySubscription(self._memory, self._here.listeners)


def _order(entry: str) -> tuple[int, int]:
    ms, _, number = entry.partition("-")
    return int(ms), int(number or 0)
