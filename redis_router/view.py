"""What this replica routes by: its providers, and the table made of their records.

Records come from the mirror or, while Redis is away, from a breaker of this replica's own. One that changes where calls
may go is in the table at once; mere averages are folded in together, at most every `SETTLE_INTERVAL`.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping

from redis_router.bell import Bell
from redis_router.circuit import OPEN, reason_of
from redis_router.local import LocalBreaker, OwnView, fleet_generation, is_local
from redis_router.log import log
from redis_router.metrics import Metrics
from redis_router.model import ANY_MODEL, CLOCK_SKEW_MS, CircuitConfig, Provider, ProviderHealth, Result, Transition
from redis_router.table import EMPTY, Tables, changes_in_ms, depends_on_time, is_half_open

SETTLE_INTERVAL = 0.05
"""Seconds between tables that differ in averages alone."""
NEWS_MS = 1000
"""A cooldown that ends so much later, or earlier, is in the table at once."""
SETTLE_SHARE = 0.05
"""And at most this share of the time goes into making them: large tables are made less often."""


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
        self.table = EMPTY
        self.providers: dict[str, Provider] = {}
        self.configs: dict[str, CircuitConfig] = {}
        self.retired: set[str] = set()
        """Providers that were taken out: results of calls still under way are no mistake."""
        self.on_trial: dict[str, ProviderHealth] = {}
        """The half-open ones that take trial calls."""
        self.open: set[str] = set()
        self._tables = tables
        self._metrics = metrics
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
        self._settle_at = 0.0

    # Providers

    def add(self, provider: Provider, config: CircuitConfig) -> None:
        """Route to a provider from now on, as to a new one until its record comes."""
        with self._lock:
            self.retired.discard(provider.name)
            self.configs[provider.name] = config
            self.providers[provider.name] = provider
            self._rebuild()

    def remove(self, name: str) -> bool:
        """Route there no more; False where nobody did."""
        with self._lock:
            self.retired.add(name)
            if self.providers.pop(name, None) is None:
                return False
            self._own.forget(name)
            self._rebuild()
            self._unshown.pop(name, None)
            self._metrics.forget(name)
        return True

    def take_over(self, parent: "View", records: Mapping[str, ProviderHealth]) -> None:
        """In a forked child: begin with the parent's providers and the fleet's records.

        Not with the parent's table: what it decided alone would stay, as this view does not know it for a local word.
        """
        self.retired = parent.retired
        self.providers.update(parent.providers)
        self.configs.update(parent.configs)
        self._unsettled = dict(records)
        self._rebuild()

    def new_record(self, name: str) -> ProviderHealth:
        """The record of a provider of which nothing is known yet."""
        return ProviderHealth(name, weight=self.providers[name].weight, config=self.configs[name])

    def _rebuild(self) -> None:
        known = {name: candidate.health for name, candidate in self.table.candidates.items()} | self._unsettled
        records = {name: known.get(name) or self.new_record(name) for name in self.providers}
        if self._local is not None:
            self._local.records = dict(records)
        self.on_trial = {name: health for name, health in records.items() if is_half_open(health)}
        self.open = {name for name, health in records.items() if health.circuit_state is OPEN}
        self._by_time = {}
        self._note_states(records.values())
        self.table = self._tables.build(list(self.providers.values()), records, self.table)
        self._unsettled = {}
        self._bell.ring()

    # Records

    def take(self, health: ProviderHealth, *, first: bool, by: str = "") -> None:
        """The fleet's newer record of a provider; what is read for the first time is no change.

        `by` is the process that caused it, '' where that is unknown.
        """
        with self._lock:
            if self._local is None:  # else its word counts again when we are back as a whole
                self._show([self._own.shown(health)], told=not first, by=by)

    def _show(self, records: Iterable[ProviderHealth], *, told: bool = True, by: str = "") -> None:
        moved: list[ProviderHealth] = []
        was_settled, changes = not self._unsettled, []
        for new in records:
            candidate = self.table.candidates.get(new.name)
            if candidate is None:
                continue
            old = self._unsettled.get(new.name, candidate.health)
            self._unsettled[new.name] = new
            if not _routes_alike(old, new):
                moved.append(new)
            if told and old.circuit_state is not new.circuit_state:
                changes.append((old, new))
            if told and new.cooldown_until_ms - old.cooldown_until_ms >= NEWS_MS:
                self._note_cooldown(new, by)
        if moved:
            self._settle()
            for change in changes:  # when the table shows them, and in their order
                self._announce(*change, by)
            self._ring({change.name for change in moved})
            if self.on_trial or self._by_time or self._unsaid:
                self._wake()  # to claim permits, to look up in time, or to say it
        elif time.monotonic() >= self._settle_at:
            self._settle()
        elif was_settled:
            self._wake()

    def settle(self, *, now: bool = False) -> None:
        """Make the table of what changed if it is time for that, or `now`; and show it in the metrics."""
        with self._lock:
            due = self._due()
            self._unsettled = due | self._unsettled
            if now or time.monotonic() >= self._settle_at:
                self._settle()
            if due:
                self._ring(due)
            if self._unshown:
                self._metrics.health(self._unshown.values())
                self._unshown = {}

    def _ring(self, names: Iterable[str]) -> None:
        """Wake those who wait for a model of these providers that somebody may be called for now."""
        models = {model for name in names for model in self.table.models.get(name, ())}
        if ANY_MODEL in models:
            self._bell.ring()
        else:
            self._bell.ring([model for model in models if self.table.selectors[model].routable])

    def unsettled_for(self) -> float | None:
        """Seconds until `settle` has something to do; None where nothing changed, and time will change nothing."""
        now = self._tables.now_ms() if self._by_time else 0.0
        waits = [0.0] if self._unsettled else [(at - now) / 1000 for at, _ in list(self._by_time.values())]
        return max(0.0, self._settle_at - time.monotonic(), min(waits)) if waits else None

    def _due(self) -> dict[str, ProviderHealth]:
        """Those whose rate limit is over, or whose share grows; all that go by it, where the clock was set."""
        now = self._tables.now_ms()
        offset = now - time.monotonic() * 1000
        if abs(offset - self._clock_offset) > CLOCK_SKEW_MS / 2:  # or is known for the first time
            self._clock_offset = offset
            return {n: c.health for n, c in self.table.candidates.items() if depends_on_time(c.health)}
        return {name: health for name, (at, health) in self._by_time.items() if at <= now}

    def _settle(self) -> None:
        if not self._unsettled:
            return
        began = time.monotonic()
        records = list(self._unsettled.values())
        self._note_states(records)  # before the table: what it leaves out for a time is looked at again
        self.table = self._tables.updated(self.table, records)
        self._unsettled = {}
        took = time.monotonic() - began
        self._settle_at = began + max(SETTLE_INTERVAL, took / SETTLE_SHARE)

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
