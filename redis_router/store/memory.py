"""The shared state in memory: what `redis.py` offers, for the routers of one process, and for one that is cut off.

Several stores on one `Memory` share its records as replicas share Redis's. Each method does in one step, under one
lock, what a Lua script does in Redis, by the same rules: `circuit/machine.py`.
"""

import random
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Literal

from redis_router.checks import NO_PROBE
from redis_router.circuit import machine
from redis_router.circuit.config import CircuitConfig
from redis_router.circuit.record import CLOCK_SKEW_MS, CircuitState, ProviderHealth, Transition
from redis_router.errors import RouterError
from redis_router.probe import Probe
from redis_router.provider import Provider
from redis_router.store.contract import Batch, Snapshot
from redis_router.store.keys import Keys
from redis_router.store.messages import Event, Leader, Reply, Spec

EVENTS_KEPT = 1000
COOLING_NEWS_MS = 1000
"""A cooldown that grows by less is told with the averages: of many calls under way, each says a few ms more."""
REPORTS_KEPT_MS = 60_000
"""A replica's word counts for so long at least, where `min_reporters` is asked for."""


@dataclass(slots=True)
class _Entry:
    """All that is kept of one provider."""

    health: ProviderHealth | None = None
    permits: dict[str, float] = field(default_factory=dict)
    applied: dict[str, tuple[int, Reply]] = field(default_factory=dict)
    """By session: its last batch, and what it did."""
    reporters: dict[str, float] = field(default_factory=dict)
    events_ms: "deque[float]" = field(default_factory=lambda: deque(maxlen=EVENTS_KEPT))
    pushed_ms: float = 0.0


@dataclass(slots=True)
class _Namespace:
    entries: "defaultdict[str, _Entry]" = field(default_factory=lambda: defaultdict(_Entry))
    specs: dict[str, Spec] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    leader: Leader | None = None
    leads: str = ""
    """The session that holds the lease."""
    listeners: "list[SimpleQueue[Event | Literal['subscribed', 'alive']]]" = field(default_factory=list)


class Memory:
    """What a server would hold. `named` gives the same one to all who ask for it by one name."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.namespaces: defaultdict[str, _Namespace] = defaultdict(_Namespace)

    def close(self) -> None:
        """Others may share it: nothing is closed."""

    @classmethod
    def named(cls, name: str) -> "Memory":
        """The one of this process with that name."""
        return _MEMORIES.setdefault(name, cls())


_MEMORIES: dict[str, Memory] = {}


class MemoryStore:
    """One namespace of a memory, for one process. See `contract.Store` for what each method promises.

    With a `clock` (ms) it is one replica's alone: its word is enough to open a circuit, and its transitions are marked
    as its own.
    """

    time_out: float | None = None
    has_workers = False
    where = "this process's memory"

    def __init__(
        self,
        memory: Memory,
        namespace: str,
        writer: str,
        push_interval_ms: int = 500,
        now_ms: int | None = None,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.keys = Keys(namespace)
        self.writer = writer
        self.session = f"{writer}.{random.getrandbits(32):08x}"
        self.push_interval_ms = push_interval_ms
        self.now_ms = now_ms
        self._clock = clock
        self.is_shared = clock is None
        self.jitter: Callable[[], float] = random.random
        self._lock = memory.lock
        self._here = memory.namespaces[namespace]

    def waits_for(self, thread: int | None) -> float:
        """Nobody waits."""
        return 0.0

    @property
    def _now(self) -> int:
        if self._clock is not None:
            return int(self._clock())
        return time.time_ns() // 1_000_000 if self.now_ms is None else self.now_ms

    # Registration

    def register(self, provider: Provider, config: CircuitConfig, circuit_version: int = 0) -> Reply:
        with self._lock:
            old = self._here.specs.get(provider.name) or Spec()
            probe = old.probe if provider.probe is None else provider.probe
            self._write_spec(provider, probe)
            entry = self._here.entries[provider.name]
            if entry.health is not None:
                return self._join(entry, entry.health, provider, config, circuit_version)
            new = ProviderHealth(
                provider.name,
                generation=old.generation + 1,
                weight=provider.weight,
                circuit_version=circuit_version,
                config=config,
            )
            return Reply("created", (), self._save(entry, new, "registered"))

    def _join(
        self, entry: _Entry, health: ProviderHealth, provider: Provider, config: CircuitConfig, version: int
    ) -> Reply:
        if version > health.circuit_version:
            newer = replace(health, config=config, circuit_version=version)
            return Reply("updated", (), self._save(entry, newer, "updated"))
        settings = f"{hash((config, provider.weight)):x}"
        alike = health.config == config and health.weight == provider.weight
        if alike or version < health.circuit_version or health.declined_settings == settings:
            return Reply("joined", (), health)
        return Reply("declined", (), self._save(entry, replace(health, declined_settings=settings), "declined"))

    def restore(self, provider: Provider, copy: ProviderHealth) -> Reply:
        with self._lock:
            spec = self._here.specs.get(provider.name)
            if spec is not None and spec.deregistered:
                return Reply("deregistered", (), None)
            self._write_spec(provider, provider.probe if spec is None else spec.probe)
            entry = self._here.entries[provider.name]
            if entry.health is not None and not copy.supersedes(entry.health):
                return Reply("joined", (), entry.health)
            return Reply("created", (), self._save(entry, copy, "restored"))

    def _write_spec(self, provider: Provider, probe: str | Probe | None) -> None:
        found = None if probe in (None, NO_PROBE) else Probe(probe) if isinstance(probe, str) else probe
        self._here.specs[provider.name] = Spec(tuple(provider.models), found, provider.whole.name)

    def deregister(self, name: str) -> bool:
        with self._lock:
            entry = self._here.entries[name]
            existed, generation = entry.health is not None, entry.health.generation if entry.health is not None else 0
            entry.health = None
            entry.permits.clear()
            entry.reporters.clear()
            self._here.specs[name] = Spec(deregistered=True, generation=generation + 2, at_ms=self._now)
            self._tell(Event("deregistered", name, self.writer, None))
            return existed

    def seen(self, names: Iterable[str], now_ms: int) -> None:
        self._here.seen.update(dict.fromkeys(names, now_ms))

    def specs(self) -> dict[str, Spec]:
        with self._lock:
            return dict(self._here.specs)

    def put(self, health: ProviderHealth) -> None:
        """Begin with this record, as it is."""
        with self._lock:
            self._here.entries[health.name].health = health

    def drop(self, name: str) -> None:
        """Keep nothing of this provider."""
        with self._lock:
            self._here.entries.pop(name, None)

    # Outcomes and permits

    def record(self, batches: Sequence[Batch]) -> list[Reply | RouterError]:
        with self._lock:
            return [self._record(batch) for batch in batches]

    def _record(self, batch: Batch) -> Reply:
        entry, now = self._here.entries.get(batch.provider), self._now
        if entry is None or entry.health is None:
            return Reply("missing", (), None)
        seq, did = entry.applied.get(self.session, (-1, Reply("", (), None)))
        if batch.seq <= seq:
            return replace(did if batch.seq == seq else Reply("", (), None), status="replayed", health=entry.health)
        health, changes, word = entry.health, list[Transition](), None
        others = self._others(entry, health.config, now)
        cooling = health.cooling_for_ms(now)
        for result in batch.results:
            says = machine.complains(health, result)
            word = word if says is None else says
            health, change = self._own(machine.fold(health, result, now, jitter=self.jitter(), others=others))
            changes += [change] if change else []
            entry.permits.pop(result.permit, None)
        self._note_word(entry, word, changes, now)
        more = health.cooling_for_ms(now) - cooling
        is_news = more > 0 and (cooling == 0 or more >= COOLING_NEWS_MS)
        health = self._save(entry, health, "cooling" if is_news else "", changes)
        reply = Reply("ok", tuple(changes), health, len(batch.results))
        entry.applied[self.session] = batch.seq, reply
        return reply

    def _own(self, step: machine.Step) -> machine.Step:
        health, change = step
        return step if self._clock is None or change is None else (machine.made_alone(health), change)

    def _others(self, entry: _Entry, config: CircuitConfig, now: int) -> int | None:
        """How many other replicas complain, where that counts; None where there is no other."""
        if self._clock is not None:
            return None
        if config.min_reporters <= 1:
            return 0
        kept = max(REPORTS_KEPT_MS, config.window * 1000, 2000 * max(config.open_timeout, config.open_timeout_max))
        entry.reporters = {who: at for who, at in entry.reporters.items() if now - kept <= at <= now + CLOCK_SKEW_MS}
        return len(entry.reporters.keys() - {self.session})

    def _note_word(self, entry: _Entry, word: bool | None, changes: Sequence[Transition], now: int) -> None:
        if changes:
            entry.reporters.clear()
        elif word:
            entry.reporters[self.session] = now
        elif word is False:
            entry.reporters.pop(self.session, None)

    def claim(self, name: str, tokens: Sequence[str], ttl_ms: int) -> tuple[int, list[str]]:
        with self._lock:
            entry, now = self._here.entries.get(name), self._now
            if entry is None or entry.health is None:
                return 0, []
            health = entry.health
            entry.permits = {token: until for token, until in entry.permits.items() if now < until <= now + 10 * ttl_ms}
            takes = health.circuit_state is CircuitState.HALF_OPEN and not health.is_drained
            free = health.config.half_open_max_probes if takes and not health.cooling_for_ms(now) else 0
            held = []
            for token in tokens:
                if token in entry.permits or len(entry.permits) < free:
                    entry.permits[token] = now + ttl_ms
                    held.append(token)
            return health.generation, held

    # Transitions and settings

    def half_open(self, name: str, epoch: int = 0) -> Reply:
        with self._lock:
            entry = self._here.entries.get(name)
            if entry is None or entry.health is None:
                return Reply("missing", (), None)
            if 0 < epoch < entry.health.leader_epoch:
                return Reply("fenced", (), entry.health)
            health, change = self._own(machine.half_open(entry.health, self._now))
            if change is None:
                return Reply("not_due", (), health)
            health = replace(health, leader_epoch=max(health.leader_epoch, epoch))
            return Reply("ok", (change,), self._save(entry, health, "", [change]))

    def update(
        self, name: str, fields: Mapping[str, str], source: Literal["operator", "probe"] = "operator", epoch: int = 0
    ) -> Reply:
        with self._lock:
            entry = self._here.entries.get(name)
            if entry is None or entry.health is None:
                return Reply("missing", (), None)
            if 0 < epoch < entry.health.leader_epoch:
                return Reply("fenced", (), entry.health)
            health = machine.updated(entry.health, fields, source, self._now)
            is_news = health != replace(entry.health, last_check_ms=health.last_check_ms)
            health = replace(health, leader_epoch=max(health.leader_epoch, epoch))
            return Reply("ok", (), self._save(entry, health, "updated" if is_news else ""))

    # Election

    def campaign(self, lease_ms: int, seen: int = 0) -> tuple[str, Leader]:
        with self._lock:
            now, held, status = self._now, self.leader()[1], "standby"
            if held is None or held.remaining_ms <= 0:
                epoch = max(0 if held is None else held.epoch + 1, seen + 1, now)
                held, status, self._here.leads = Leader(self.writer, epoch, now, now, 0), "elected", self.session
            elif self._here.leads == self.session:
                status = "renewed"
            if status != "standby":
                held = replace(held, until_ms=now + lease_ms, remaining_ms=lease_ms)
                self._here.leader = held
            if status == "elected":
                self._tell(Event("elected", "", self.writer, None))
            return status, held

    def resign(self, epoch: int) -> bool:
        with self._lock:
            held = self._here.leader
            if held is None or held.epoch != epoch:
                return False
            self._here.leader = replace(held, until_ms=self._now)
            self._tell(Event("resigned", "", self.writer, None))
            return True

    # Reading

    def leader(self) -> tuple[int, Leader | None]:
        with self._lock:
            now, held = self._now, self._here.leader
            return now, None if held is None else replace(held, remaining_ms=held.until_ms - now)

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
        return dict(self._here.seen)

    def last_event_ms(self, name: str) -> int:
        with self._lock:
            entry = self._here.entries.get(name)
            return int(entry.events_ms[-1]) if entry is not None and entry.events_ms else 0

    def scan(self) -> Iterator[str]:
        yield from ()

    def forget(self, name: str) -> None:
        with self._lock:
            self._here.entries.pop(name, None)
            self._here.specs.pop(name, None)
            self._here.seen.pop(name, None)

    def delete(self, keys: Iterable[str]) -> None:
        """There are no keys."""

    def subscribe(self) -> "MemorySubscription":
        with self._lock:
            listener: SimpleQueue[Event | Literal["subscribed", "alive"]] = SimpleQueue()
            listener.put("subscribed")
            self._here.listeners.append(listener)
            return MemorySubscription(self._lock, self._here.listeners, listener)

    # Saving

    def _save(
        self, entry: _Entry, health: ProviderHealth, action: str, changes: Sequence[Transition] = ()
    ) -> ProviderHealth:
        """Write the record, and tell everybody: at once of what moved, of averages now and then."""
        now = self._now
        health = replace(health, version=max(health.version + 1, now * 1000))
        entry.health = health
        for _ in changes:
            entry.events_ms.append(now)
            self._tell(Event("transition", health.name, self.writer, health))
        if action:
            entry.events_ms.append(now)
            self._tell(Event(action, health.name, self.writer, health))
        elif not changes and not 0 <= now - entry.pushed_ms < self.push_interval_ms:
            self._tell(Event("averages", health.name, self.writer, health))
        else:
            return health
        entry.pushed_ms = now
        return health

    def _tell(self, event: Event) -> None:
        for listener in self._here.listeners:
            listener.put(event)


class MemorySubscription:
    """The push channel, read by one thread."""

    def __init__(
        self,
        lock: "threading.RLock",
        listeners: "list[SimpleQueue[Event | Literal['subscribed', 'alive']]]",
        listener: "SimpleQueue[Event | Literal['subscribed', 'alive']]",
    ) -> None:
        self._lock = lock
        self._listeners = listeners
        self._listener = listener

    def next(self, timeout: float) -> Literal["subscribed", "silence", "alive"] | Event:
        try:
            return self._listener.get(timeout=timeout)
        except Empty:
            return "silence"

    def ping(self) -> None:
        self._listener.put("alive")

    def close(self) -> None:
        with self._lock:
            if self._listener in self._listeners:
                self._listeners.remove(self._listener)
