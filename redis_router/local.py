"""The breaker of one replica alone, for the time that Redis is away: `circuit.py` on its own copies of the records.

What it decides is forgotten when Redis is back. Its generations lie far above Redis's: a call that began under a
decision made here is late for the fleet's circuit, so it moves the averages and never the circuit.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from redis_router import circuit
from redis_router.model import ProviderHealth, Result

GENERATIONS = 1 << 50
"""Added to the generation at the first transition made here; Redis's own count transitions from 1."""

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
        for name, outcome, latency_ms, generation, _ in results:
            old = self.records.get(name)
            if old is None:
                continue
            new = self._take(circuit.record(old, outcome, latency_ms, generation, now))
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
