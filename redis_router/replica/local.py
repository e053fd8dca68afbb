"""The breaker of one replica alone: `circuit.py` on its own copies of the records.

It decides while Redis is away, and is forgotten when Redis is back; on a provider whose record cannot be used, while
that is so. And where a circuit opens for the fleet only when several replicas complain (`min_reporters`), it decides
what this replica does meanwhile. Its generations lie far above
Redis's: a call that began under a decision made here is late for the fleet's circuit, so it moves the averages and
never the circuit.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from redis_router.circuit import machine as circuit
from redis_router.circuit.outcome import Result
from redis_router.circuit.record import ProviderHealth

GENERATIONS = 1 << 50
"""Added to the generation at the first transition made here; Redis's own count transitions from 1."""


class HasGeneration(Protocol):
    """A record, or a permit."""

    @property
    def generation(self) -> int: ...


def is_local(of: HasGeneration) -> bool:
    """Is it of a state that a circuit was brought into here?"""
    return of.generation >= GENERATIONS


def fleet_generation(generation: int) -> int:
    """As it would be counted without an outage: what people are shown."""
    return generation % GENERATIONS


def as_the_fleet_counts(health: ProviderHealth) -> ProviderHealth:
    """The record with such a generation."""
    return replace(health, generation=fleet_generation(health.generation)) if is_local(health) else health


Change = tuple[ProviderHealth, ProviderHealth]
"""A record before and after."""


class LocalBreaker:
    """Begins with the last known records; `now_ms` is Redis's clock as last estimated. One thread uses it."""

    def __init__(self, records: Mapping[str, ProviderHealth], now_ms: Callable[[], float]) -> None:
        self.records = dict(records)
        self._now_ms = now_ms

    def fold(self, results: Iterable[Result]) -> list[Change]:
        """Decide on these outcomes; returns what changed, a transition each at most."""
        changes: dict[str, Change] = {}
        done: list[Change] = []
        now = int(self._now_ms())
        for result in results:
            name = result.provider
            old = self.records.get(name)
            if old is None:
                continue
            new = self._take(circuit.record(old, result, now, jitter=random.random()))
            changes[name] = (changes[name][0] if name in changes else old, new)
            if new.circuit_state is not old.circuit_state:
                done.append(changes.pop(name))
        return done + list(changes.values())

    def half_open_due(self) -> list[Change]:
        """Move the open circuits whose time has come."""
        now = int(self._now_ms())
        due = [h for h in self.records.values() if h.circuit_state is circuit.OPEN and h.is_due(now)]
        return [(old, self._take(circuit.half_open(old, now))) for old in due]

    def _take(self, step: circuit.Step) -> ProviderHealth:
        health, change = step
        if change is not None and health.generation < GENERATIONS:
            health = replace(health, generation=health.generation + GENERATIONS)
        self.records[health.name] = health
        return health


class OwnView(LocalBreaker):
    """This replica's own word on providers with `min_reporters`: worse than the fleet's perhaps, never better."""

    def __init__(self, now_ms: Callable[[], float]) -> None:
        super().__init__({}, now_ms)
        self._fleet: dict[str, ProviderHealth] = {}
        self.unusable: set[str] = set()
        """Providers whose record cannot be used: on these this replica decides as if Redis were away."""

    def decide(self, results: Iterable[Result]) -> list[ProviderHealth]:
        """Fold this replica's outcomes; returns the records to show of providers whose circuit moved here."""
        if not self.records:
            return []
        changes = self.fold(results) + self.half_open_due()
        apart = [new for _, new in changes if new.name in self.unusable]
        moved = [new.name for old, new in changes if old.circuit_state is not new.circuit_state]
        return apart + [self.shown(self._fleet[name]) for name in moved if name not in self.unusable]

    def take_apart(self, health: ProviderHealth) -> None:
        """Decide on this provider alone from here on, until `shown` is given a record of the fleet's again."""
        self.records[health.name] = self._fleet[health.name] = health
        self.unusable.add(health.name)

    def forget(self, name: str) -> None:
        """This provider is no more, or no matter of this replica's alone."""
        self.records.pop(name, None)
        self._fleet.pop(name, None)
        self.unusable.discard(name)

    def forget_all(self) -> None:
        """Begin anew."""
        self.records.clear()
        self._fleet.clear()
        self.unusable.clear()

    def shown(self, fleet: ProviderHealth) -> ProviderHealth:
        """The fleet's record, with this replica's circuit where that is not closed."""
        if fleet.config.min_reporters <= 1 or fleet.name in self.unusable:
            self.forget(fleet.name)
        if fleet.config.min_reporters <= 1:
            return fleet
        own, before = self.records.get(fleet.name), self._fleet.get(fleet.name)
        self._fleet[fleet.name] = fleet
        closed = own is None or own.circuit_state is circuit.CLOSED
        both_on_trial = own is not None and own.circuit_state is fleet.circuit_state is circuit.HALF_OPEN
        moved = before is None or before.generation != fleet.generation or before.config != fleet.config
        if own is None or moved or (closed and own.generation != fleet.generation):
            self.records[fleet.name] = ProviderHealth(fleet.name, generation=fleet.generation, config=fleet.config)
            return fleet
        if closed or both_on_trial or fleet.circuit_state is circuit.OPEN:
            return fleet  # a trial of the fleet's takes the fleet's permits
        return replace(
            fleet,
            circuit_state=own.circuit_state,
            open_reason=own.open_reason,
            open_timeout_factor=own.open_timeout_factor,
            generation=own.generation,
            last_state_change_ms=own.last_state_change_ms,
            available=False,
            unavailable_reason="operator" if fleet.unavailable_reason == "operator" else "circuit",
        )
