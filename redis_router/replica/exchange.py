"""One exchange with the store: what waits to be told, what should be done, and what is to be looked at."""

import random
import time
from collections.abc import Iterator

from redis_router.circuit.machine import OPEN
from redis_router.circuit.outcome import GONE
from redis_router.circuit.record import ProviderHealth
from redis_router.errors import AccessDenied, RedisRefused
from redis_router.replica.facts import Fact, Lost, Refused, Stored
from redis_router.replica.parts import Parts
from redis_router.replica.presence import decided_here
from redis_router.replica.registration import REFUSED_SECONDS
from redis_router.routing.candidate import Candidate
from redis_router.runtime.log import log
from redis_router.store.contract import Batch
from redis_router.store.presence import COUNTED_FOR_MS, GATEWAY

LOST_INTERVAL = 1.0
"""Seconds between looks at whether the records of open and half-open circuits, which nobody writes, are there."""
SAY_INTERVAL = 0.25
"""Seconds after which a call that began, or is overdue, is told of at the latest, where no result goes before."""
SAY_AGAIN_INTERVAL = 20.0
"""Seconds between words on calls that last: the fleet forgets those of a replica that says nothing for a minute."""
SILENT_SECONDS = 2.0
"""After so long without news of a provider that calls of others fill, it is asked whether they are still there."""
LOOKED_AT_ONCE = 100
"""So many of them at most."""


class Exchange:
    """What the thread that talks to the store does, again and again."""

    def __init__(self, parts: Parts) -> None:
        self._store = parts.store
        self._metrics = parts.metrics
        self._safety_net_after = parts.options.safety_net_after
        self._served = parts.served
        self._view = parts.view
        self._records = parts.records
        self._outbox = parts.outbox
        self._permits = parts.permits
        self._registration = parts.registration
        self._demand = parts.demand
        self._present = parts.present
        self._overdue_at: dict[str, float] = {}  # when an overdue circuit is looked at again
        self._say_at = self._say_again_at = 0.0
        self._ask_at: dict[str, float] = {}  # when calls of others are asked for again
        self._look_at = 0.0
        self._try_at = 0.0

    def turn(self) -> Iterator[Fact]:
        """Everything that is to be done now. Raises RedisUnavailable, and AccessDenied."""
        yield from self._registration.put_right(self._store)
        yield from self._outbox.send(self._store, self._view.table.candidates)
        if self._registration.busy:  # there were results of providers without a record
            yield from self._registration.put_right(self._store)
            yield from self._outbox.send(self._store, self._view.table.candidates)
        yield from self._say_in_flight()
        self._registration.say_seen(self._store)
        self._say_present()
        trials = self._view.fleet_trials
        yield from self._permits.tend(self._store, trials, self._demand.among(trials, self._view.table.models))
        yield from self._half_open_overdue()
        yield from self._look_for_lost()
        yield from self._try_refused()

    def _say_in_flight(self) -> Iterator[Fact]:
        """How many calls are under way, where the fleet does not know and no result tells it."""
        now = time.monotonic()
        if now < self._say_at:
            return
        self._say_at, to_say = now + SAY_INTERVAL, list[Candidate]()
        again = now >= self._say_again_at
        if again:
            self._say_again_at = now + SAY_AGAIN_INTERVAL
        unusable, redis_now = self._records.unusable, self._records.redis_now_ms()
        for name, candidate in self._view.table.candidates.items():
            is_told = candidate.under_way(now) == candidate.here.told and not (again and candidate.in_flight)
            if name not in unusable and (not is_told or self._is_silent(candidate, redis_now, now)):
                to_say.append(candidate)
        yield from self._outbox.say_in_flight(self._store, to_say)

    def _is_silent(self, candidate: Candidate, redis_now: float | None, now: float) -> bool:
        """Calls of others fill it, and nothing was heard of it since: are they still there? Who died says nothing."""
        name = candidate.health.name
        if not candidate.here.elsewhere or redis_now is None or now < self._ask_at.get(name, 0.0):
            return False
        if redis_now - candidate.health.version / 1000 < SILENT_SECONDS * 1000:
            return False
        self._ask_at[name] = now + SILENT_SECONDS * random.uniform(1.0, 2.0)
        return True

    def _say_present(self) -> None:
        """That this replica is there, and how it sees the fleet's circuits."""
        alone = self._view.alone
        if self._present.is_due(GATEWAY, self._records.copies, alone):
            shown = [candidate.health for candidate in self._view.table.candidates.values()]
            own = decided_here(shown, alone)
            self._present.say(self._store, GATEWAY, self._records.copies.copy(), own, alone)

    def say_goodbye(self) -> None:
        """This replica leaves: nothing of it is under way, and it is asked no more how a provider is."""
        redis_now = self._records.redis_now_ms() or 0.0
        called = [
            name
            for name, candidate in self._view.table.candidates.items()
            if candidate.here.told.calls or redis_now - candidate.health.last_result_ms < COUNTED_FOR_MS
        ]
        self._store.record([Batch(name, self._outbox.number(), (), GONE) for name in called])
        self._present.say_gone(self._store)

    def _half_open_overdue(self) -> Iterator[Fact]:
        """Make a due transition where no worker has held the lease for a while: the safety net."""
        redis_now, now, leads_checked = self._records.redis_now_ms(), time.monotonic(), not self._store.has_workers
        grace = 0.0 if leads_checked else self._safety_net_after
        names = self._view.timing.open.copy()
        self._overdue_at = {name: at for name, at in self._overdue_at.items() if name in names}
        for name in names:
            health = self._records.copies.get(name)
            if health is None or health.circuit_state is not OPEN or redis_now is None:
                continue
            overdue_ms = -health.due_in_ms(redis_now)
            if overdue_ms < grace * 1000 or now < self._overdue_at.get(name, 0.0):
                continue
            self._overdue_at[name] = now + grace * random.uniform(0.5, 1.0)
            if not leads_checked:
                _, leader = self._store.leader()
                if leader is not None and leader.remaining_ms > -grace * 1000:
                    return
                leads_checked = True
            yield from self._half_open(health)

    def _half_open(self, health: ProviderHealth) -> Iterator[Fact]:
        try:
            reply = self._store.half_open(health.name)
        except AccessDenied:
            raise
        except RedisRefused as error:
            yield Refused(health.name, str(error))
            return
        for change in reply.transitions:
            self._metrics.transition(change, reply.health)
            if self._store.has_workers:
                self._metrics.safety_net_used(health.name)
                log.warning(
                    "no worker leads, so this replica moved %s to half_open: start `redis-router worker`", health.name
                )
        if reply.health is not None:
            yield Stored(reply.health)

    def _look_for_lost(self) -> Iterator[Fact]:
        """Records that nobody writes now: an open circuit gets no results that would show that Redis lost it."""
        now = time.monotonic()
        names = [
            name for name in {*self._view.timing.open, *self._view.timing.on_trial} if name in self._records.copies
        ]
        if not names or now < self._look_at:
            return
        self._look_at = now + LOST_INTERVAL * random.uniform(0.5, 1.0)
        for name in self._store.lost(random.sample(names, min(len(names), LOOKED_AT_ONCE))):
            yield Lost(name)

    def _try_refused(self) -> Iterator[Fact]:
        """Is a record that was refused usable again? Who gets no calls would not learn it by a result."""
        now = time.monotonic()
        if now >= self._try_at and self._records.unusable:
            self._try_at = now + REFUSED_SECONDS * random.uniform(0.5, 1.0)
            known = self._view.table.candidates
            yield from self._outbox.say_in_flight(
                self._store, [known[name] for name in list(self._records.unusable) if name in known]
            )
