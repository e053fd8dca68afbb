"""What this replica decides by itself, in a memory store of its own, by the same machine as everybody.

On every provider while Redis is away. Else on those whose record cannot be used; and where a circuit opens for the
fleet only when several replicas complain (`min_reporters`), on what this replica does meanwhile: worse than the fleet's
word perhaps, never better. What it decides is forgotten when the fleet's word counts again. Its generations lie far
above the fleet's: a call that began under a decision made here moves the averages, and no circuit of the fleet's.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import count

from redis_router.circuit.capacity import is_overload
from redis_router.circuit.machine import CLOSED, HALF_OPEN, OPEN
from redis_router.circuit.outcome import ON_THE_WAY, Outcome, Result
from redis_router.circuit.record import ProviderHealth, TakenOutBy
from redis_router.errors import RouterError
from redis_router.store.contract import Batch
from redis_router.store.memory import MemoryStore
from redis_router.store.memory_records import Memory
from redis_router.store.messages import Reply

SUCCESSES = 1
"""A circuit that is open for this replica alone closes after so many trial calls that go well. A long trial, one call
after the other, spares a sick provider the fleet's calls; this one answers the others."""


class Alone:
    """One thread at a time; `clock` is Redis's, in ms, as last estimated."""

    def __init__(self, writer: str, clock: Callable[[], float]) -> None:
        self.store = MemoryStore(Memory(), "alone", writer, clock=clock)
        self.on_all = False
        """Redis is away: it decides on every provider."""
        self.was: tuple[float, float] | None = None
        """When it last began to decide on every provider, and ended; on this process's monotonic clock."""
        self.unusable: set[str] = set()
        """Providers whose record cannot be used."""
        self.records: dict[str, ProviderHealth] = {}
        self._clock = clock
        self._began = 0.0
        self._fleet: dict[str, ProviderHealth] = {}  # the fleet's record, where this replica has a word of its own
        self._numbers = count(1)

    @property
    def decides(self) -> bool:
        """Is there anything to decide on?"""
        return self.on_all or bool(self.records)

    def decides_on(self, name: str) -> bool:
        """On this provider alone, whatever the fleet says?"""
        return self.on_all or name in self.unusable

    def begin(self, records: Mapping[str, ProviderHealth]) -> None:
        """Redis is away: from here on it decides on all, and goes on from these records."""
        began = self._began if self.on_all else time.monotonic()
        self._forget_all()
        self.on_all, self._began = True, began
        for health in records.values():
            self._put(health)

    def _put(self, health: ProviderHealth) -> None:
        self.store.put(health)
        self.records[health.name] = health

    def end(self, unusable: Iterable[str]) -> None:
        """Redis is back, but for the records that cannot be used."""
        if self.on_all:
            self.was = (self._began, time.monotonic())
        kept = {name: health for name, health in self.records.items() if name in unusable}
        self._forget_all()
        for health in kept.values():
            self.take_apart(health)

    def take_apart(self, health: ProviderHealth) -> None:
        """Decide on this provider from here on, until `shown` is given a record of the fleet's again."""
        self._put(health)
        self._fleet[health.name] = health
        self.unusable.add(health.name)

    def forget(self, name: str) -> None:
        """Decide on this provider no more."""
        self.store.drop(name)
        self.records.pop(name, None)
        self._fleet.pop(name, None)
        self.unusable.discard(name)

    def _forget_all(self) -> None:
        for name in self.records:
            self.store.drop(name)
        self.records.clear()
        self._fleet.clear()
        self.unusable.clear()
        self.on_all = False

    def decide(self, results: Iterable[Result]) -> list[ProviderHealth]:
        """What it makes of these results and of the time: the records to show, each transition by itself."""
        moved: list[ProviderHealth] = []
        measured: dict[str, None] = {}
        for result in results:
            name = result.provider
            if name in self.records and not self._says_nothing(name, result):
                (reply,) = self.store.record([Batch(name, next(self._numbers), (result,))])
                measured[name] = None
                moved += self._taken(reply)
        for name in self._due():
            moved += self._taken(self.store.half_open(name))
        shown = [new if self.decides_on(new.name) else self.shown(self._fleet[new.name]) for new in moved]
        return shown + [self.records[name] for name in measured if self.decides_on(name)]

    def _says_nothing(self, name: str, result: Result) -> bool:
        """Where the fleet's averages are shown, does this result leave the replica's own circuit as it is?"""
        own, fleet = self.records[name], self._fleet.get(name)
        if self.decides_on(name):
            return False
        is_excused = fleet is not None and is_overload(fleet, result.reason, result.load, self._clock())
        if is_excused or result.outcome in ON_THE_WAY:
            return True
        if result.outcome is not Outcome.SUCCESS or own.circuit_state is not CLOSED:
            return False
        counts = own.config.window or own.calls < own.config.minimum_calls
        return not counts and own.failure_rate == 0 and own.consecutive_failures == 0

    def _taken(self, reply: Reply | RouterError) -> list[ProviderHealth]:
        """The record of a reply, where its circuit moved."""
        if isinstance(reply, RouterError) or reply.health is None:
            return []
        self.records[reply.health.name] = reply.health
        return [reply.health] if reply.transitions else []

    def _due(self) -> list[str]:
        now = int(self._clock())
        return [name for name, h in self.records.items() if h.circuit_state is OPEN and h.is_due(now)]

    def shown(self, fleet: ProviderHealth) -> ProviderHealth:
        """The fleet's record, with this replica's circuit where that is not closed."""
        name, asks_several = fleet.name, fleet.config.min_reporters > 1
        if not asks_several or name in self.unusable:
            self.forget(name)
        if not asks_several:
            return fleet
        own, before = self.records.get(name), self._fleet.get(name)
        self._fleet[name] = fleet
        closed = own is None or own.circuit_state is CLOSED
        both_on_trial = own is not None and own.circuit_state is fleet.circuit_state is HALF_OPEN
        moved = before is None or before.generation != fleet.generation or before.config != fleet.config
        if own is None or moved or (closed and own.generation != fleet.generation):
            config = replace(fleet.config, half_open_success_threshold=SUCCESSES)
            self._put(ProviderHealth(name, generation=fleet.generation, config=config))
            return fleet
        if closed or both_on_trial or fleet.circuit_state is OPEN:
            return fleet  # a trial of the fleet's takes the fleet's permits
        by_operator = fleet.unavailable_reason == TakenOutBy.OPERATOR
        return replace(
            fleet,
            circuit_state=own.circuit_state,
            open_reason=own.open_reason,
            open_timeout_factor=own.open_timeout_factor,
            generation=own.generation,
            last_state_change_ms=own.last_state_change_ms,
            available=False,
            unavailable_reason=TakenOutBy.OPERATOR if by_operator else TakenOutBy.CIRCUIT,
        )
