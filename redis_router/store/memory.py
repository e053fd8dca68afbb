"""The shared state in memory: what `redis.py` offers, for the routers of one process, and for one that is cut off.

Several stores on one `Memory` share its records as replicas share Redis's. Each method does in one step, under one
lock, what a Lua script does in Redis, by the same rules: `circuit/machine.py`.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from redis_router.checks import NO_PROBE
from redis_router.circuit import machine, overrides
from redis_router.circuit.config import CircuitConfig
from redis_router.circuit.generations import made_alone
from redis_router.circuit.record import CircuitState, ProviderHealth, Transition, changed
from redis_router.circuit.resetting import reset
from redis_router.errors import RouterError
from redis_router.probe import Probe
from redis_router.provider import Provider
from redis_router.store.contract import Batch
from redis_router.store.memory_reading import MemoryReading
from redis_router.store.memory_records import Memory, differs
from redis_router.store.messages import Event, Leader, Reply, Spec, Status
from redis_router.store.presence import KEPT_MS, Presence

COOLING_LOGGED_EVERY_MS = 600_000
"""So many cooldowns would push what matters out of the log."""
COOLING_NEWS_MS = 1000
"""A cooldown that grows by less is told with the averages: of many calls under way, each says a few ms more."""


class MemoryStore(MemoryReading):
    """One namespace of a memory. See `contract.Store` for what each method promises.

    With a `clock` (ms) it is one replica's alone: its word is enough to open a circuit, and its transitions are marked
    as its own.
    """

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
        super().__init__(memory, namespace, now_ms, clock)
        self.writer = writer
        self.session = f"{writer}.{random.getrandbits(32):08x}"
        self.push_interval_ms = push_interval_ms
        self.jitter: Callable[[], float] = random.random

    # Registration

    def register(
        self, provider: Provider, config: CircuitConfig, circuit_version: int = 0, *, observe: bool = False
    ) -> Reply:
        with self._lock:
            old = self._here.specs.get(provider.name) or Spec()
            probe = old.probe if provider.probe is None else provider.probe
            self._write_spec(provider, probe)
            entry = self._here.entries[provider.name]
            if entry.health is not None:
                return self._join(entry.health, provider, config, circuit_version)
            new = ProviderHealth(
                provider.name,
                generation=old.generation + 1,
                weight=provider.weight,
                circuit_version=circuit_version,
                config=config,
            )
            if observe:
                new = changed(new, overrides.observed(self.writer) | {"override_since_ms": self._now})
            return Reply(Status.CREATED, (), self._save(new, "registered"))

    def _join(self, health: ProviderHealth, provider: Provider, config: CircuitConfig, version: int) -> Reply:
        if version > health.circuit_version:
            newer = replace(health, config=config, circuit_version=version)
            return Reply(Status.UPDATED, (), self._save(newer, "updated"))
        settings = f"{hash((config, provider.weight)):x}"
        alike = health.config == config and health.weight == provider.weight
        if alike or version < health.circuit_version or health.declined_settings == settings:
            return Reply(Status.JOINED, (), health)
        return Reply(Status.DECLINED, (), self._save(replace(health, declined_settings=settings), "declined"))

    def restore(self, provider: Provider, copy: ProviderHealth) -> Reply:
        with self._lock:
            spec = self._here.specs.get(provider.name)
            if spec is not None and spec.deregistered:
                return Reply(Status.DEREGISTERED, (), None)
            self._write_spec(provider, provider.probe if spec is None else spec.probe)
            entry = self._here.entries[provider.name]
            if entry.health is not None and not copy.supersedes(entry.health):
                return Reply(Status.JOINED, (), entry.health)
            return Reply(Status.CREATED, (), self._save(copy, "restored"))

    def _write_spec(self, provider: Provider, probe: str | Probe | None) -> None:
        found = None if probe in (None, NO_PROBE) else Probe(probe) if isinstance(probe, str) else probe
        self._here.specs[provider.name] = Spec(tuple(provider.models), found, provider.whole.name)

    def deregister(self, name: str) -> bool:
        with self._lock:
            entry = self._here.entries[name]
            existed, generation = entry.health is not None, entry.health.generation if entry.health else 0
            entry.health = None
            entry.permits.clear()
            entry.in_flight.clear()
            entry.summed_ms = None
            entry.reporters.clear()
            self._here.specs[name] = Spec(deregistered=True, generation=generation + 2, at_ms=self._now)
            entry.log("deregistered", self.writer, {"detail": ""}, self._now)
            self._tell("deregistered", name)
            return existed

    def seen(self, names: Iterable[str], now_ms: int) -> None:
        with self._lock:
            self._here.seen.update(dict.fromkeys(names, now_ms))

    def say_present(self, said: Presence) -> None:
        with self._lock:
            now = self._now
            recent = {who: it for who, it in self._here.present.items() if abs(now - it.seen_ms) <= KEPT_MS}
            self._here.present = {**recent, self.session: said.at(now)}

    def say_gone(self) -> None:
        with self._lock:
            self._here.present.pop(self.session, None)

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
            return Reply(Status.MISSING, (), None)
        seq, did = entry.applied.get(self.session, (-1, None))
        if batch.seq <= seq:
            before = did if did is not None and batch.seq == seq else Reply(Status.OK, (), None)
            return replace(before, status=Status.REPLAYED, health=entry.health)
        health, changes, word = entry.health, list[Transition](), None
        health = entry.say_in_flight(health, self.session, batch.under_way, now)
        others = None if self._clock is not None else entry.other_reporters(self.session, health.config, now)
        cooling, jitter = health.cooling_for_ms(now), self.jitter()
        for result in batch.results:
            says = machine.complains(health, result, now)
            word = word if says is None else says
            health, change = self._own(machine.fold(health, result, now, jitter=jitter, others=others))
            changes += [change] if change else []
            entry.permits.pop(result.permit, None)
        entry.note_word(self.session, word, bool(changes), now)
        more = health.cooling_for_ms(now) - cooling
        is_news = more > 0 and (cooling == 0 or more >= COOLING_NEWS_MS)
        health, said = overrides.lapsed(health, now)
        is_quiet = health.cooling_logged_ms and abs(now - health.cooling_logged_ms) < COOLING_LOGGED_EVERY_MS
        if is_news:
            said.append(("cooling", {} if is_quiet else {"detail": f"{health.cooldown_until_ms - now} ms"}))
            health = health if is_quiet else replace(health, cooling_logged_ms=now)
        health = self._here.save(health, changes, said, now, self.writer, self.push_interval_ms)
        reply = Reply(Status.OK, tuple(changes), health, len(batch.results))
        entry.note_batch(self.session, batch.seq, reply)
        return reply

    def _own(self, step: machine.Step) -> machine.Step:
        health, change = step
        return step if self._clock is None or change is None else (made_alone(health), change)

    def claim(self, name: str, tokens: Sequence[str], ttl_ms: int) -> tuple[int, list[str]]:
        with self._lock:
            entry, now = self._here.entries.get(name), self._now
            if entry is None or entry.health is None:
                return 0, []
            health = entry.health
            in_service = not overrides.acting(health, now).is_drained
            takes = health.circuit_state is CircuitState.HALF_OPEN and in_service
            free = health.config.half_open_max_probes if takes and not health.cooling_for_ms(now) else 0
            return health.generation, entry.claim(tokens, free, now, ttl_ms)

    # Transitions and settings

    def half_open(self, name: str, epoch: int = 0) -> Reply:
        with self._lock:
            entry = self._here.entries.get(name)
            if entry is None or entry.health is None:
                return Reply(Status.MISSING, (), None)
            if 0 < epoch < entry.health.leader_epoch:
                return Reply(Status.FENCED, (), entry.health)
            health, change = self._own(machine.half_open(entry.health, self._now))
            if change is None:
                return Reply(Status.NOT_DUE, (), health)
            health = replace(health, leader_epoch=max(health.leader_epoch, epoch))
            health, said = overrides.lapsed(health, self._now)
            health = self._here.save(health, [change], said, self._now, self.writer, self.push_interval_ms)
            return Reply(Status.OK, (change,), health)

    def update(
        self,
        name: str,
        fields: Mapping[str, str],
        source: Literal["operator", "probe"] = "operator",
        epoch: int = 0,
        *,
        by: str = "",
        reason: str = "",
    ) -> Reply:
        with self._lock:
            entry = self._here.entries.get(name)
            if entry is None or entry.health is None:
                return Reply(Status.MISSING, (), None)
            if 0 < epoch < entry.health.leader_epoch:
                return Reply(Status.FENCED, (), entry.health)
            old, said = overrides.lapsed(entry.health, self._now)
            health = machine.updated(old, fields, source, self._now)
            if old.override_until_ms and not health.override_until_ms:
                said += overrides.end_state(old, "available=1")[1]
            detail = differs(old, health, fields)
            said += [("updated", {"detail": detail} | ({"reason": reason} if reason else {}))] if detail else []
            health = replace(health, leader_epoch=max(health.leader_epoch, epoch))
            health = self._here.save(health, (), said, self._now, by or self.writer, self.push_interval_ms)
            return Reply(Status.OK, (), health)

    def override(self, name: str, word: str, lasts_ms: float, weight: float, by: str, reason: str) -> Reply:
        with self._lock:
            entry = self._here.entries.get(name)
            if entry is None or entry.health is None:
                return Reply(Status.MISSING, (), None)
            health, said = overrides.overridden(entry.health, word, lasts_ms, weight, by, reason, self._now)
            return Reply(Status.OK, (), self._here.save(health, (), said, self._now, by, self.push_interval_ms))

    def reset(self, name: str, by: str, reason: str) -> Reply:
        with self._lock:
            entry = self._here.entries.get(name)
            if entry is None or entry.health is None:
                return Reply(Status.MISSING, (), None)
            health, changes, said = reset(entry.health, reason, self._now)
            entry.reporters.clear()
            return Reply(Status.OK, (), self._here.save(health, changes, said, self._now, by, self.push_interval_ms))

    # Election

    def campaign(self, lease_ms: int, seen: int = 0) -> tuple[str, Leader]:
        with self._lock:
            status, leader = self._here.lease.campaign(self.writer, self.session, self._now, lease_ms, seen)
            if status == "elected":
                self._tell("elected")
            return status, leader

    def resign(self, epoch: int) -> bool:
        with self._lock:
            resigned = self._here.lease.resign(epoch, self._now)
            if resigned:
                self._tell("resigned")
            return resigned

    def note_told(self, epoch: int, entries: Mapping[str, str]) -> bool:
        with self._lock:
            leader = self._here.lease.leader
            if leader is None or leader.epoch != epoch:
                return False
            self._here.told.update(entries)
            return True

    # Saving

    def _save(self, health: ProviderHealth, action: str, changes: Sequence[Transition] = ()) -> ProviderHealth:
        said = [(action, {"detail": ""})] if action else []
        return self._here.save(health, changes, said, self._now, self.writer, self.push_interval_ms)

    def _tell(self, kind: str, name: str = "") -> None:
        self._here.tell(Event(kind, name, self.writer, None))
