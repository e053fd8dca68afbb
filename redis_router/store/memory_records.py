"""What a memory keeps in place of a server: records, permits, the lease, and who listens. `memory.py` decides."""

import os
import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Literal
from weakref import WeakSet

from redis_router.circuit.config import CircuitConfig
from redis_router.circuit.outcome import GONE, NOTHING, UnderWay
from redis_router.circuit.overrides import Said
from redis_router.circuit.record import CLOCK_SKEW_MS, ProviderHealth, Transition
from redis_router.store.messages import Event, Leader, LoggedEvent, Reply, Spec
from redis_router.store.presence import COUNTED_FOR_MS, Presence

EVENTS_KEPT = 1000
SESSIONS_KEPT = 1000
"""Of so many sessions a provider's last batch is remembered, so that none is applied twice."""
SAID_EVERY_MS, SUMMED_EVERY_MS = 20_000, 15_000
"""As many calls under way are said again, and the sum is made anew, so often."""
REPORTS_KEPT_MS = 60_000
"""A replica's word counts for so long at least, where `min_reporters` is asked for."""

Listened = SimpleQueue[Event | Literal["subscribed", "alive"]]


def reports_kept_ms(config: CircuitConfig) -> float:
    """For how long a replica's complaint counts, where `min_reporters` is asked for: as in `lua/record.lua`."""
    return max(REPORTS_KEPT_MS, config.window * 1000, 2000 * max(config.open_timeout, config.open_timeout_max))


@dataclass(slots=True)
class Entry:
    """All that is kept of one provider."""

    health: ProviderHealth | None = None
    permits: dict[str, float] = field(default_factory=dict)
    """By token: when it expires, ms."""
    applied: dict[str, tuple[int, Reply]] = field(default_factory=dict)
    """By session, the latest last: its last batch, and what it did."""
    reporters: dict[str, float] = field(default_factory=dict)
    """By session: when it complained, ms."""
    in_flight: dict[str, tuple[UnderWay, int]] = field(default_factory=dict)
    """By session: what it has under way, and when it said so, ms."""
    summed_ms: int | None = None
    events: deque[LoggedEvent] = field(default_factory=lambda: deque(maxlen=EVENTS_KEPT))
    last_id: tuple[int, int] = (0, 0)
    pushed_ms: float = 0.0

    def log(self, event: str, by: str, details: Mapping[str, str], now: int) -> None:
        """An entry for its log, under an id as Redis gives it."""
        ms, number = self.last_id
        self.last_id = (now, 0) if now > ms else (ms, number + 1)
        self.events.append(LoggedEvent(now, event, by, details, "{}-{}".format(*self.last_id)))

    def claim(self, tokens: Sequence[str], free: int, now: int, ttl_ms: int) -> list[str]:
        """Which of these tokens hold a permit from now on, where `free` may be in flight at once."""
        self.permits = {token: until for token, until in self.permits.items() if now < until <= now + 10 * ttl_ms}
        held = []
        for token in tokens:
            if token in self.permits or len(self.permits) < free:
                self.permits[token] = now + ttl_ms
                held.append(token)
        return held

    def note_batch(self, session: str, seq: int, reply: Reply) -> None:
        """Remember what a session's last batch did."""
        self.applied.pop(session, None)
        self.applied[session] = seq, reply
        if len(self.applied) > SESSIONS_KEPT:
            del self.applied[next(iter(self.applied))]

    def say_in_flight(self, health: ProviderHealth, session: str, says: UnderWay, now: int) -> ProviderHealth:
        """The record with the fleet's sum, in which those count that said so lately: as in `lua/_capacity.lua`."""
        before, at = self.in_flight.get(session, (NOTHING, None))
        if says == GONE:
            self.in_flight.pop(session, None)
            says = NOTHING
        elif at is None or before != says or abs(now - at) >= SAID_EVERY_MS:
            self.in_flight[session] = says, now
        if self.summed_ms is not None and 0 <= now - self.summed_ms < SUMMED_EVERY_MS:
            return replace(
                health,
                in_flight=max(0, health.in_flight + says.calls - before.calls),
                overdue=max(0, health.overdue + says.overdue - before.overdue),
                answering=max(0, health.answering + says.answering - before.answering),
            )
        self.in_flight = {who: it for who, it in self.in_flight.items() if abs(now - it[1]) <= COUNTED_FOR_MS}
        self.summed_ms = now
        said = [each for each, _ in self.in_flight.values()]
        return replace(
            health,
            in_flight=sum(it.calls for it in said),
            overdue=sum(it.overdue for it in said),
            answering=sum(it.answering for it in said),
        )

    def other_reporters(self, session: str, config: CircuitConfig, now: int) -> int | None:
        """How many other replicas complain at this moment; None where that is not asked for, or more cannot."""
        if config.min_reporters <= 1:
            return None
        kept = reports_kept_ms(config)
        self.reporters = {who: at for who, at in self.reporters.items() if now - kept <= at <= now + CLOCK_SKEW_MS}
        others = len(self.reporters.keys() - {session})
        return others if len(self.in_flight) > others + 1 else None

    def note_word(self, session: str, complains: bool | None, has_moved: bool, now: int) -> None:
        """Remember what a session's results say of the provider; a transition begins anew."""
        if has_moved:
            self.reporters.clear()
        elif complains:
            self.reporters[session] = now
        elif complains is False:
            self.reporters.pop(session, None)


@dataclass(slots=True)
class Lease:
    """Who leads, as which session, and for how many ms the lease was given or renewed."""

    leader: Leader | None = None
    session: str = ""
    lasts_ms: int = 0

    def at(self, now: int) -> Leader | None:
        """Who leads at this moment, or led last; None where nobody ever did."""
        return None if self.leader is None else replace(self.leader, remaining_ms=self.leader.until_ms - now)

    def campaign(self, worker: str, session: str, now: int, lasts_ms: int, seen: int) -> tuple[str, Leader]:
        """Take the lease where it is free, or renew it: 'elected', 'renewed' or 'standby', and who leads."""
        held, status = self.at(now), "standby"
        # no lease lasts so long: the clock was set back, and a dead leader must not stay until it caught up
        set_back = held is not None and held.remaining_ms > 2 * self.lasts_ms
        if held is None or held.remaining_ms <= 0 or (set_back and session != self.session):
            epoch = max(0 if held is None else held.epoch + 1, seen + 1, now)
            held, status, self.session = Leader(worker, epoch, now, now, 0), "elected", session
        elif session == self.session:
            status = "renewed"
        if status != "standby":
            held = replace(held, until_ms=now + lasts_ms, remaining_ms=lasts_ms)
            self.leader, self.lasts_ms = held, lasts_ms
        return status, held

    def resign(self, epoch: int, now: int) -> bool:
        """End this term at once; False where it was over."""
        if self.leader is None or self.leader.epoch != epoch:
            return False
        self.leader = replace(self.leader, until_ms=now)
        return True


@dataclass(slots=True)
class Records:
    """One namespace."""

    entries: defaultdict[str, Entry] = field(default_factory=lambda: defaultdict(Entry))
    specs: dict[str, Spec] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    present: dict[str, Presence] = field(default_factory=dict)
    lease: Lease = field(default_factory=Lease)
    listeners: list[Listened] = field(default_factory=list)

    def tell(self, event: Event) -> None:
        """Push to everybody."""
        for listener in self.listeners:
            listener.put(event)

    def save(
        self,
        health: ProviderHealth,
        changes: Sequence[Transition],
        said: Sequence[Said],
        now: int,
        by: str,
        quiet_ms: int,
    ) -> ProviderHealth:
        """Write the record, and tell everybody: at once of what moved, of averages after `quiet_ms` of silence."""
        entry = self.entries[health.name]
        entry.health = health = replace(health, version=max(health.version + 1, now * 1000))
        for event, details in [*map(_told, changes), *said]:
            if details:
                entry.log(event, by, details, now)
            self.tell(Event(event, health.name, by, health))
        is_news = bool(changes or said)
        if not is_news and not 0 <= now - entry.pushed_ms < quiet_ms:
            self.tell(Event("averages", health.name, by, health))
            is_news = True
        if is_news:
            entry.pushed_ms = now
        return health


def _told(change: Transition) -> Said:
    words = {"from": change.from_state, "to": change.to_state, "reason": change.reason}
    return "transition", {**words, "generation": str(change.generation)}


def differs(old: ProviderHealth, new: ProviderHealth, given: Iterable[str]) -> str:
    """What an update changed, each field with its old and new value."""
    before, after, named = old.to_fields(), new.to_fields(), list[str]()
    for name in given:
        named += [name, "unavailable_reason", "cooldown_until_ms"] if name == "available" else [name]
    return " ".join(f"{name} {before[name]}>{after[name]}" for name in named if before[name] != after[name])


class Memory:
    """What a server would hold. Every step holds its lock."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.namespaces: defaultdict[str, Records] = defaultdict(Records)

        _all.add(self)

    def close(self) -> None:
        """Others may share it: nothing is closed."""

    @classmethod
    def named(cls, name: str) -> "Memory":
        """The one of this process with that name, for all who ask for it."""
        return _named.setdefault(name, cls())

    @staticmethod
    def forget(name: str) -> None:
        """Who asks for this name from now on gets a new one."""
        _named.pop(name, None)

    def after_fork(self) -> None:
        """In a child: the records are its own from here on; who held the lock, the lease, or listened, is not here."""
        self.lock = threading.RLock()
        for records in self.namespaces.values():
            records.lease = Lease()
            records.present.clear()
            records.listeners.clear()


_all: "WeakSet[Memory]" = WeakSet()
_named: dict[str, Memory] = {}


def _after_fork() -> None:
    for memory in list(_all):
        memory.after_fork()


os.register_at_fork(after_in_child=_after_fork)


class MemorySubscription:
    """The push channel, read by one thread."""

    def __init__(self, memory: Memory, listeners: list[Listened]) -> None:
        self._memory = memory
        self._listeners = listeners
        self._heard: Listened = SimpleQueue()
        self._heard.put("subscribed")
        with memory.lock:
            listeners.append(self._heard)

    def next(self, timeout: float) -> Literal["subscribed", "silence", "alive"] | Event:
        """See `contract.Subscription`."""
        try:
            return self._heard.get(timeout=timeout)
        except Empty:
            return "silence"

    def ping(self) -> None:
        """Memory answers at once."""
        self._heard.put("alive")

    def close(self) -> None:
        """Hear no more."""
        with self._memory.lock:
            self._listeners[:] = [each for each in self._listeners if each is not self._heard]
