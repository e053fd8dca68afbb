"""What this replica routes by: its providers, and the table made of their records.

Records come from the mirror or, while Redis is away, from a breaker of this replica's own. One that changes where calls
may go is in the table at once; mere averages are folded in together, at most every `SETTLE_INTERVAL`.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping

from redis_router.circuit.config import CircuitConfig
from redis_router.circuit.machine import OPEN, reason_of
from redis_router.circuit.outcome import Result
from redis_router.circuit.record import CLOCK_SKEW_MS, ProviderHealth, Transition
from redis_router.provider import ANY_MODEL, Provider
from redis_router.replica.local import LocalBreaker, OwnView, fleet_generation, is_local
from redis_router.replica.waiters import Bell
from redis_router.routing.strategies import Pick
from redis_router.routing.table import EMPTY, RoutingTable, Tables, changes_in_ms, depends_on_time, is_half_open
from redis_router.runtime.log import log
from redis_router.telemetry.metrics import Metrics

SETTLE_INTERVAL = 0.05
"""Seconds between tables that differ in averages alone."""
NEWS_MS = 1000
"""A cooldown that ends so much later, or earlier, is in the table at once."""
SETTLE_SHARE = 0.05
"""And at most this share of the time goes into making them: large tables are made less often."""
QUICK_SECONDS = 0.005
"""A table that takes longer is made half of the time at most, also where it changes where calls may go."""
RETIRED_SECONDS = 3600.0
"""For so long a provider that was taken out is remembered."""


class View:
    """Read by the request path, changed by the background; every change of a circuit is told once.

    `tell` is given each change that the table shows; `wake` asks for a call of `settle`, and for work that a change
    brings.
    """

    def __init__(
        self,
        tables: Tables,
        metrics: Metrics,
        tell: Callable[[Transition], None],
        wake: Callable[[], None],
        bell: Bell,
        replica: str,
    ) -> None:
        self._replica = replica
        self.picks: Mapping[str, Pick] = {}
        """The table's, for a choice that is no more than this: empty while the table is outdated."""
        self._table = EMPTY
        self._is_outdated = False
        self._records_of: dict[str, dict[str, None]] = {}
        self.providers: dict[str, Provider] = {}
        self.configs: dict[str, CircuitConfig] = {}
        self.retired: dict[str, float] = {}
        """Providers that were taken out, and when: results of calls still under way are no mistake."""
        self.on_trial: dict[str, ProviderHealth] = {}
        """The half-open ones that take trial calls."""
        self.open: set[str] = set()
        self._tables = tables
        self._metrics = metrics
        metrics.watch_providers(self)
        self._tell = tell
        self._wake = wake
        self._lock = threading.RLock()
        self._bell = bell
        self._local: LocalBreaker | None = None
        self._own = OwnView(tables.now_ms)
        self._clock_offset = 0.0  # Redis's clock, from this process's monotonic one, in ms
        self._by_time: dict[str, tuple[float, ProviderHealth]] = {}  # what time alone will change, and when, in ms
        self._unsettled: dict[str, ProviderHealth] = {}
        self._unshown: dict[str, ProviderHealth] = {}
        self._unsaid: deque[tuple[int, str]] = deque()  # log lines and their levels
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
            for part in parts:
                self.retired.pop(part.name, None)
                self.configs[part.name] = config
                self.providers[part.name] = part
                self._records_of.setdefault(part.whole.name, {})[part.name] = None
            self._outdate()

    def has_provider(self, name: str) -> bool:
        """Is it routed to here?"""
        return name in self.providers

    def remove(self, name: str) -> bool:
        """Route there no more; False where nobody did."""
        with self._lock:
            now = time.monotonic()
            self.retired[name] = now
            while (oldest := next(iter(self.retired))) and now - self.retired[oldest] > RETIRED_SECONDS:
                del self.retired[oldest]
            part = self.providers.pop(name, None)
            if part is None:
                return False
            records = self._records_of[part.whole.name]
            records.pop(name, None)
            if not records:
                del self._records_of[part.whole.name]
            for kept in (self.configs, self._unsettled, self._unshown, self._by_time, self.on_trial):
                kept.pop(name, None)
            self.open.discard(name)
            self._own.forget(name)
            self._metrics.forget(name)
            self._outdate()
        return True

    def records_of(self, provider: str) -> list[str]:
        """The names of this provider's records here: its own, or one for each model; [] where it is not registered."""
        return list(self._records_of.get(provider, ()))

    def _outdate(self) -> None:
        self._is_outdated = True
        self.picks = {}  # whoever chooses finds nothing there, and reads the table
        self._bell.ring()

    def _publish(self, table: RoutingTable) -> None:
        self._table = table
        self.picks = {} if self._is_outdated else table.picks

    def take_over(self, parent: "View", records: Mapping[str, ProviderHealth]) -> None:
        """In a forked child: begin with the parent's providers and the fleet's records.

        Not with the parent's table: what it decided alone would stay, as this view does not know it for a local word.
        """
        self.retired = parent.retired
        self.providers.update(parent.providers)
        self.configs.update(parent.configs)
        self._records_of.update(parent._records_of)
        self._unsettled = dict(records)
        self._rebuild()

    def new_record(self, name: str) -> ProviderHealth:
        """The record of a provider of which nothing is known yet."""
        return ProviderHealth(name, weight=self.providers[name].weight, config=self.configs[name])

    def _rebuild(self) -> None:
        began = time.monotonic()
        known = {name: candidate.health for name, candidate in self._table.candidates.items()} | self._unsettled
        records = {name: known.get(name) or self.new_record(name) for name in self.providers}
        if self._local is not None:
            self._local.records = dict(records)
        self.on_trial = {name: health for name, health in records.items() if is_half_open(health)}
        self.open = {name for name, health in records.items() if health.circuit_state is OPEN}
        self._by_time = {}
        self._note_states(records.values())
        table = self._tables.build(list(self.providers.values()), records, self._table)
        self._is_outdated = False
        self._publish(table)
        self._settled(began)

    # Records

    def take(self, health: ProviderHealth, *, first: bool, by: str = "") -> None:
        """The fleet's newer record of a provider; what is read for the first time is no change.

        `by` is the process that caused it, '' where that is unknown.
        """
        with self._lock:
            if self._local is None:  # else its word counts again when we are back as a whole
                self._show([self._own.shown(health)], told=not first, by=by)

    def _show(self, records: Iterable[ProviderHealth], *, told: bool = True, by: str = "") -> None:
        was_settled = not self._unsettled
        for new in records:
            candidate = self._table.candidates.get(new.name)
            if new.name not in self.providers:
                continue
            old = self._unsettled.get(new.name) or (candidate.health if candidate else self.new_record(new.name))
            self._unsettled[new.name] = new
            if not _routes_alike(old, new):
                self._moved.add(new.name)
            if told and old.circuit_state is not new.circuit_state:
                self._changes.append((old, new, by))
            if told and new.cooldown_until_ms - old.cooldown_until_ms >= NEWS_MS:
                self._note_cooldown(new, by)
        if self._is_time() and self._took <= QUICK_SECONDS:  # large tables are made by the thread that calls `settle`
            self._settle()
        elif was_settled or self._moved:
            self._wake()

    def _is_time(self) -> bool:
        return time.monotonic() >= (self._moves_at if self._moved else self._settle_at)

    def settle(self, *, now: bool = False) -> None:
        """Make the table of what changed if it is time for that, or `now`; and show it in the metrics."""
        with self._lock:
            due = self._due()
            self._unsettled = due | self._unsettled
            if self._is_outdated and (now or time.monotonic() >= self._moves_at):
                self._rebuild()
            elif now or self._is_time():
                self._settle()
            if due:
                self._ring(due)
            if self._unshown:
                self._metrics.health(self._unshown.values())
                self._unshown = {}

    def _ring(self, names: Iterable[str]) -> None:
        """Wake those who wait for a model of these providers that somebody may be called for now."""
        models = {model for name in names for model in self._table.models.get(name, ())}
        if ANY_MODEL in models:
            self._bell.ring()
        else:
            self._bell.ring([model for model in models if self._table.selectors[model].routable])

    def unsettled_for(self) -> float | None:
        """Seconds until `settle` has something to do; None where nothing changed, and time will change nothing."""
        now = self._tables.now_ms() if self._by_time else 0.0
        waits = [0.0] if self._unsettled else [(at - now) / 1000 for at, _ in list(self._by_time.values())]
        if self._is_outdated or self._moved:
            return max(0.0, self._moves_at - time.monotonic())
        return max(0.0, self._settle_at - time.monotonic(), min(waits)) if waits else None

    def _due(self) -> dict[str, ProviderHealth]:
        """Those whose rate limit is over, or whose share grows; all that go by it, where the clock was set."""
        now = self._tables.now_ms()
        offset = now - time.monotonic() * 1000
        if abs(offset - self._clock_offset) > CLOCK_SKEW_MS / 2:  # or is known for the first time
            self._clock_offset = offset
            return {n: c.health for n, c in self._table.candidates.items() if depends_on_time(c.health)}
        return {name: health for name, (at, health) in self._by_time.items() if at <= now}

    def _settle(self) -> None:
        if not self._unsettled:
            return
        began = time.monotonic()
        records = list(self._unsettled.values())
        self._note_states(records)  # before the table: what it leaves out for a time is looked at again
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
            if self.on_trial or self._by_time or self._unsaid:
                self._wake()  # to claim permits, to look up in time, or to say it

    def _note_states(self, records: Iterable[ProviderHealth]) -> None:
        # the engine's thread reads these without the lock: what stays in them is in them at every moment
        now = self._tables.now_ms()
        for health in records:
            if is_half_open(health):
                self.on_trial[health.name] = health
            else:
                self.on_trial.pop(health.name, None)
            wait = changes_in_ms(health, now)
            if wait is not None:
                self._by_time[health.name] = now + wait, health
            else:
                self._by_time.pop(health.name, None)
            if health.circuit_state is OPEN:
                self.open.add(health.name)
            else:
                self.open.discard(health.name)
            self._unshown[health.name] = health

    def _announce(self, old: ProviderHealth, new: ProviderHealth, by: str) -> None:
        here_alone = self._local is not None or new.name in self._own.unusable or is_local(new)
        change = Transition(
            new.name, old.circuit_state, new.circuit_state, reason_of(new), fleet_generation(new.generation), here_alone
        )
        if here_alone:
            self._metrics.local_transition(change)
        self._tell(change)
        text = f"{change.provider} is {change.to_state} ({change.reason}), was {change.from_state}"
        self._unsaid.append((self._level(new, by, logging.WARNING), f"{text}; {self._seen_by(new, by)}"))

    def _note_cooldown(self, health: ProviderHealth, by: str) -> None:
        seconds = health.cooling_for_ms(self._tables.now_ms()) / 1000
        if seconds > 0:
            text = f"{health.name} is rate limited: no calls for {seconds:.1f} s; {self._seen_by(health, by)}"
            self._unsaid.append((self._level(health, by, logging.INFO), text))

    def _level(self, health: ProviderHealth, by: str, level: int) -> int:
        """Who caused it says it aloud; who merely heard of it, one step lower."""
        alone = self._local is not None or health.name in self._own.unusable or is_local(health)
        caused_here = alone or by == self._replica
        return level if caused_here else level - 10

    def _seen_by(self, health: ProviderHealth, by: str) -> str:
        if self._local is not None:
            return f"decided by {self._replica} alone, while Redis is away"
        if health.name in self._own.unusable:
            return f"decided by {self._replica} alone, as its record cannot be used"
        if is_local(health):
            return f"for {self._replica} alone, as fewer than min_reporters={health.config.min_reporters} complain"
        return f"seen by {by}" if by else "read from Redis"

    def say(self) -> None:
        """Log what was announced. By a thread without a lock: a log handler may take its time, and call the router."""
        while self._unsaid:
            try:
                level, text = self._unsaid.popleft()
            except IndexError:  # another thread said it
                return
            log.log(level, "%s", text)

    # Without Redis

    @property
    def alone(self) -> bool:
        """Does this replica decide for itself?"""
        return self._local is not None

    @property
    def decides(self) -> bool:
        """Has this replica's own breaker anything to decide on?"""
        return self.alone or bool(self._own.records)

    def go_alone(self, now_ms: Callable[[], float]) -> None:
        """From here on this replica's own breaker decides, on Redis's clock as last estimated."""
        with self._lock:
            self._settle()
            records = {name: candidate.health for name, candidate in self.table.candidates.items()}
            self._local = LocalBreaker(records, now_ms)
            self._own.forget_all()  # it goes on from there, and begins anew with the fleet's word

    def decides_apart(self, name: str) -> bool:
        """Is this provider's circuit this replica's own, as its record cannot be used?"""
        return self._local is not None or name in self._own.unusable

    def decide_apart(self, name: str, results: Iterable[Result]) -> None:
        """Until a record of the fleet's comes again, this replica's own breaker decides on this provider.

        `results` are those of it that nobody decided on yet.
        """
        with self._lock:
            candidate = self.table.candidates.get(name)
            if candidate is not None and self._local is None:
                self._own.take_apart(self._unsettled.get(name, candidate.health))
                self._show(self._own.decide(results))

    def decide(self, results: Iterable[Result]) -> None:
        """What this replica's own breaker makes of these results and of the time.

        Where it is alone, of all providers; else of those whose circuit one replica cannot open for the fleet.
        """
        with self._lock:
            if self._local is not None:
                changes = self._local.fold(results) + self._local.half_open_due()
                self._show(new for _, new in changes)
            else:
                self._show(self._own.decide(results))

    def rejoin(self, records: Mapping[str, ProviderHealth], unusable: Collection[str] = ()) -> None:
        """The fleet's word counts again, but for the providers whose record cannot be used.

        What was decided here on the others is forgotten.
        """
        with self._lock:
            local, self._local = self._local, None
            for name in unusable:
                if local is not None and name in local.records:
                    self._own.take_apart(local.records[name])
            back = [name for name in self.providers if name not in self._own.unusable]
            self._show([self._own.shown(records.get(name) or self.new_record(name)) for name in back])
            self._settle()


def _routes_alike(old: ProviderHealth, new: ProviderHealth) -> bool:
    """Do two records of a provider differ in averages alone?"""
    return (
        old.generation == new.generation
        and old.circuit_state is new.circuit_state
        and old.available is new.available
        and old.unavailable_reason == new.unavailable_reason
        and old.weight == new.weight
        and abs(old.cooldown_until_ms - new.cooldown_until_ms) < NEWS_MS  # of many calls each says a few ms more
        and old.config == new.config
    )
