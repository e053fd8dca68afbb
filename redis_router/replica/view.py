"""What this replica routes by: its providers, and the table made of their records.

Records come from the store or, while Redis is away, from this replica's own. One that changes where calls
may go is in the table at once; mere averages are folded in together, at most every `SETTLE_INTERVAL`.
"""

import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping

from redis_router.circuit.config import CircuitConfig
from redis_router.circuit.generations import fleet_generation, is_local
from redis_router.circuit.machine import reason_of
from redis_router.circuit.outcome import Result
from redis_router.circuit.record import ProviderHealth, Transition
from redis_router.provider import ANY_MODEL, Provider
from redis_router.replica.alone import Alone
from redis_router.replica.models import Models
from redis_router.replica.news import News
from redis_router.replica.served import Served
from redis_router.replica.timing import Timing
from redis_router.replica.waiters import Waiters
from redis_router.routing.strategies import Pick
from redis_router.routing.table import EMPTY, RoutingTable, Tables
from redis_router.telemetry.listeners import Listener
from redis_router.telemetry.metrics import Metrics

SETTLE_INTERVAL = 0.05
"""Seconds between tables that differ in averages alone."""
NEWS_MS = 1000
"""A cooldown that ends so much later, or earlier, is in the table at once."""
SETTLE_SHARE = 0.05
"""And at most this share of the time goes into making them: large tables are made less often."""
QUICK_SECONDS = 0.005
"""A table that takes longer is made half of the time at most, also where it changes where calls may go."""


class View:
    """Read by the request path, changed by the background; every change of a circuit is told once."""

    def __init__(
        self, tables: Tables, metrics: Metrics, listener: Listener, waiters: Waiters, served: Served, writer: str
    ) -> None:
        self.picks: Mapping[str, Pick] = {}
        """The table's, for a choice that is no more than this: empty while the table is outdated."""
        self.served = served
        self.timing = Timing(tables.now_ms)
        self.alone = Alone(writer, tables.now_ms)
        self.news = News(writer, self.alone)
        self.calls = False
        """There is something to do soon: to settle, to claim permits, to say. Whoever sees to it takes it back."""
        self._table = EMPTY
        self._models = Models(metrics, served)
        self._is_outdated = False
        self._tables = tables
        self._metrics = metrics
        metrics.watch_providers(served)
        self._listener = listener
        self._waiters = waiters
        self._lock = threading.RLock()
        self._unsettled: dict[str, ProviderHealth] = {}
        self._unshown: dict[str, ProviderHealth] = {}
        self._settle_at = 0.0  # averages
        self._moves_at = 0.0  # what changes where calls may go
        self._took = 0.0  # to make the last table
        self._moved: set[str] = set()
        self._changes: deque[tuple[ProviderHealth, ProviderHealth, str]] = deque()

    # Providers

    @property
    def table(self) -> RoutingTable:
        """What requests are routed by."""
        if self._is_outdated:
            with self._lock:
                if self._is_outdated:
                    self._rebuild()
        return self._table

    def add(self, parts: Iterable[Provider], config: CircuitConfig) -> None:
        """Route to these from now on, as to new ones until their records come. The table follows when it is read."""
        with self._lock:
            self.served.add(parts, config)
            self._outdate()

    def remove(self, name: str) -> bool:
        """Route there no more; False where nobody did."""
        with self._lock:
            if not self.served.remove(name):
                return False
            self._unsettled.pop(name, None)
            self._unshown.pop(name, None)
            self.timing.forget(name)
            self.alone.forget(name)
            self._metrics.forget(name)
            self._outdate()
        return True

    def _outdate(self) -> None:
        self._is_outdated = True
        self.picks = {}  # whoever chooses finds nothing there, and reads the table
        self._waiters.ring()

    def _publish(self, table: RoutingTable) -> None:
        self._table = table
        self.picks = {} if self._is_outdated else table.picks

    def take_over(self, parent: "View", records: Mapping[str, ProviderHealth]) -> None:
        """In a forked child: begin with the parent's providers and the fleet's records.

        Not with the parent's table: what it decided alone would stay, as this view does not know it for a local word.
        """
        self.served.take_over(parent.served)
        self._unsettled = dict(records)
        self._rebuild()

    def _rebuild(self) -> None:
        began = time.monotonic()
        known = {name: candidate.health for name, candidate in self._table.candidates.items()} | self._unsettled
        records = {name: known.get(name) or self.served.new_record(name) for name in self.served.providers}
        if self.alone.on_all:
            self.alone.begin(records)
        self._note(records.values())
        table = self._tables.build(list(self.served.providers.values()), records, self._table)
        self._is_outdated = False
        self._publish(table)
        self._settled(began)

    # Records

    def take(self, health: ProviderHealth, *, first: bool, by: str = "") -> None:
        """The fleet's newer record of a provider; what is read for the first time is no change.

        `by` is the process that caused it, '' where that is unknown.
        """
        with self._lock:
            if not self.alone.on_all:  # else its word counts again when we are back as a whole
                self._show([self.alone.shown(health)], told=not first, by=by)

    def _show(self, records: Iterable[ProviderHealth], *, told: bool = True, by: str = "") -> None:
        was_settled = not self._unsettled
        for new in records:
            candidate = self._table.candidates.get(new.name)
            if new.name not in self.served.providers:
                continue
            if candidate is not None:
                candidate.here.heard(new.in_flight)
            old = self._unsettled.get(new.name) or (candidate.health if candidate else self.served.new_record(new.name))
            self._unsettled[new.name] = new
            if not _routes_alike(old, new):
                self._moved.add(new.name)
            if told and old.circuit_state is not new.circuit_state:
                self._changes.append((old, new, by))
            if told:
                self.news.override(old, new, by, self._tables.now_ms())
            cools = new.cooldown_until_ms - old.cooldown_until_ms >= NEWS_MS
            if told and cools and new.cooldown_ms > 2 * new.pause_ms:  # it is more than the pace that is kept
                self.news.cooldown(new, by, self._tables.now_ms())
        if self._is_time() and self._took <= QUICK_SECONDS:  # large tables are made by the thread that calls `settle`
            self._settle()
        elif was_settled or self._moved:
            self.calls = True

    def _is_time(self) -> bool:
        return time.monotonic() >= (self._moves_at if self._moved else self._settle_at)

    def settle(self, *, now: bool = False) -> None:
        """Make the table of what changed if it is time for that, or `now`; and show it in the metrics."""
        with self._lock:
            due = self.timing.due(candidate.health for candidate in self._table.candidates.values())
            self._unsettled = due | self._unsettled
            if self._is_outdated and (now or time.monotonic() >= self._moves_at):
                self._rebuild()
            elif now or self._is_time():
                self._settle()
            if due:
                self._ring(due)
                self.calls = self.calls or bool(self.timing.on_trial)  # an override ended: to claim permits
            if self._unshown:
                self._metrics.health(self._unshown.values())
                self._unshown = {}
            self._models.show(self._table, self._tables.now_ms())

    def _ring(self, names: Iterable[str]) -> None:
        """Wake those who wait for a model of these providers that somebody may be called for now."""
        models = {model for name in names for model in self._table.models.get(name, ())}
        if ANY_MODEL in models:
            self._waiters.ring()
        else:
            self._waiters.ring([model for model in models if self._table.selectors[model].routable])

    def unsettled_for(self) -> float | None:
        """Seconds until `settle` has something to do; None where nothing changed, and time will change nothing."""
        if self._is_outdated or self._moved:
            return max(0.0, self._moves_at - time.monotonic())
        wait = 0.0 if self._unsettled else self.timing.seconds_left()
        return None if wait is None else max(0.0, self._settle_at - time.monotonic(), wait)

    def _settle(self) -> None:
        if not self._unsettled:
            return
        began = time.monotonic()
        records = list(self._unsettled.values())
        self._note(records)  # before the table: what it leaves out for a time is looked at again
        self._publish(self._tables.updated(self._table, records))
        self._settled(began)

    def _settled(self, began: float) -> None:
        """The table shows what changed: say so, and take a rest that goes by how long it took to make."""
        ended = time.monotonic()
        self._settle_at = began + max(SETTLE_INTERVAL, (ended - began) / SETTLE_SHARE)
        self._took = ended - began
        self._moves_at = ended + self._took if self._took > QUICK_SECONDS else 0.0
        # what a table that is outdated does not have yet is in the next one
        self._unsettled = {n: h for n, h in self._unsettled.items() if n not in self._table.candidates}
        while self._changes:
            self._announce(*self._changes.popleft())
        if self._moved:
            self._ring(self._moved)
            self._moved = set()
            if self.timing.on_trial or self.timing.waits:
                self.calls = True  # to claim permits, or to look up in time

    def _note(self, records: Collection[ProviderHealth]) -> None:
        self.timing.note(records)
        self._unshown.update((health.name, health) for health in records)

    def _announce(self, old: ProviderHealth, new: ProviderHealth, by: str) -> None:
        is_own, generation = self.news.is_of_this_replica(new), fleet_generation(new.generation)
        change = Transition(new.name, old.circuit_state, new.circuit_state, reason_of(new), generation, is_own)
        if is_own:
            self._metrics.local_transition(change)
        self._listener.tell(change)
        self.news.transition(change, new, by)

    # Decided by this replica alone

    @property
    def fleet_trials(self) -> dict[str, ProviderHealth]:
        """Those on trial by the fleet's word."""
        return {name: health for name, health in self.timing.on_trial.copy().items() if not self._is_own(health)}

    @property
    def own_trials(self) -> dict[str, ProviderHealth]:
        """Those that this replica alone has on trial."""
        return {name: health for name, health in self.timing.on_trial.copy().items() if self._is_own(health)}

    def _is_own(self, health: ProviderHealth) -> bool:
        return self.alone.on_all or is_local(health.generation)

    def go_alone(self) -> None:
        """Redis is away: from here on this replica decides on all, and goes on from the records that it shows."""
        with self._lock:
            self._settle()
            self.alone.begin({name: candidate.health for name, candidate in self.table.candidates.items()})

    def decide_apart(self, name: str, results: Iterable[Result]) -> None:
        """Until a record of the fleet's comes again, this replica decides on this provider.

        `results` are those of it that nobody decided on yet.
        """
        with self._lock:
            candidate = self.table.candidates.get(name)
            if candidate is not None and not self.alone.decides_on(name):
                self.alone.take_apart(self._unsettled.get(name, candidate.health))
                self._show(self.alone.decide(results))

    def decide(self, results: Iterable[Result]) -> None:
        """What this replica makes of these results and of the time, where its own word counts."""
        with self._lock:
            self._show(self.alone.decide(results))

    def rejoin(self, records: Mapping[str, ProviderHealth], unusable: Collection[str] = ()) -> None:
        """The fleet's word counts again, but for the providers whose record cannot be used.

        What was decided here on the others is forgotten.
        """
        with self._lock:
            self.alone.end(unusable)
            back = [name for name in self.served.providers if name not in self.alone.unusable]
            self._show([self.alone.shown(records.get(name) or self.served.new_record(name)) for name in back])
            self._settle()


def _routes_alike(old: ProviderHealth, new: ProviderHealth) -> bool:
    """Do two records of a provider differ in averages alone?"""
    return (
        old.generation == new.generation
        and old.circuit_state is new.circuit_state
        and old.available is new.available
        and old.unavailable_reason == new.unavailable_reason
        and old.weight == new.weight
        and (old.override, old.override_until_ms) == (new.override, new.override_until_ms)
        and old.weight_override_until_ms == new.weight_override_until_ms
        and old.weight_override == new.weight_override
        and old.still_answers is new.still_answers
        and abs(old.cooldown_until_ms - new.cooldown_until_ms) < NEWS_MS  # of many calls each says a few ms more
        and old.config == new.config
    )
