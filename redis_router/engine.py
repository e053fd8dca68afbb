"""The background of a router: carries outcomes to Redis, keeps the routing table current, tends half-open permits.

One daemon thread beside the mirror's. The request path only appends to the courier's buffer and reads `table`. A
failure wakes the thread at once; successes wait for up to `flush_interval` and travel together; without traffic and
with all circuits closed the thread sleeps. Where Redis does not serve it, the thread decides by a local breaker, and
tries again from time to time.
"""

import logging
import random
import threading
import time
from collections import deque

from redis_router import table as tables
from redis_router.circuit import HALF_OPEN, OPEN, reason_of
from redis_router.connect import where
from redis_router.courier import Courier
from redis_router.errors import AccessDenied, RedisRefused, RedisUnavailable, RouterError
from redis_router.herald import Herald, TransitionListener
from redis_router.link import COMMANDS, PUSH, Link
from redis_router.local import LocalBreaker
from redis_router.metrics import Metrics
from redis_router.mirror import Mirror, reconnecting
from redis_router.model import Candidate, CircuitConfig, Provider, ProviderHealth, Transition
from redis_router.permits import Permit, Permits
from redis_router.store import Event, Reply, Result, Store
from redis_router.strategies import Strategy

log = logging.getLogger("redis_router")

DEMAND_SECONDS = 60.0
"""A replica claims permits for a provider if its models were in use here within this time."""
TEND_INTERVAL = 0.05
"""Seconds between looks at permits while a circuit is half-open or a permit is out."""
WATCH_INTERVAL = 0.5
"""Seconds between looks for overdue circuits while one is open, and at records that wait to be put right."""
REFUSED_SECONDS = 5.0
"""Until a record that Redis refused is tried again."""


class Engine:
    """One replica's link to the fleet."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        *,
        strategy: Strategy,
        flush_interval: float,
        refresh_interval: float,
        buffer_limit: int,
        result_ttl: float,
        permit_ttl: float,
        safety_net_after: float,
        on_transition: TransitionListener | None,
    ) -> None:
        self.table = tables.EMPTY
        self._providers_lock = threading.Lock()
        self._table_lock = threading.Lock()
        self.store = store
        self.strategy = strategy
        self.providers: dict[str, Provider] = {}
        self.configs: dict[str, CircuitConfig] = {}
        self.retired: set[str] = set()
        """Providers that were taken out: results of calls still under way are no mistake."""
        self.metrics = metrics
        self.courier = Courier(store, metrics, buffer_limit, result_ttl, self._applied, self._missing)
        self.link = Link(where(store.client), metrics, self.courier.urge)
        self.mirror = Mirror(store, metrics, self.link, self, self.providers.keys, refresh_interval)
        self.permits = Permits(store, metrics, self.courier.put, self.courier.say_refused, permit_ttl)
        self._flush_interval = flush_interval
        self._safety_net_after = safety_net_after
        self._herald = Herald(on_transition)
        self._to_join: deque[str] = deque()
        self._to_restore: deque[str] = deque()
        self._local: LocalBreaker | None = None
        """While Redis is away: what routes here. Set by the engine's thread alone, under the table's lock."""
        self._last_used: dict[str, float] = {}
        self._net_check_at: dict[str, float] = {}
        self._try_again_at: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # The request path

    def trial(self, selector: tables.Selector, tried: frozenset[str] | set[str]) -> tuple[Candidate, Permit] | None:
        """Spend a permit for a half-open provider of this model; where none is in hand, one is claimed later."""
        for candidate in selector.on_trial:
            name = candidate.provider.name
            if name in tried:
                continue
            permit = self.permits.take(name)
            if permit is not None:
                self.courier.urge()  # to claim the next
                return candidate, permit
            self.want(name)
        return None

    def want(self, name: str) -> None:
        """A call would have gone to this provider: claim a permit for it as soon as there is one."""
        now = time.monotonic()
        if now - self._last_used.get(name, -DEMAND_SECONDS) >= DEMAND_SECONDS:
            self.courier.urge()
        self._last_used[name] = now

    # What the router asks for

    def start(self) -> None:
        """Join the fleet, then run in the background. Without Redis it goes on alone; a refused login is raised."""
        self._to_join.extend(self.providers)
        try:
            self._put_right(access_denied_is_raised=True)
            self.mirror.connect()
        except RedisUnavailable as error:
            self.link.failed(PUSH, error)
        self._start_threads()

    def take_over(self, parent: "Engine") -> None:
        """In a forked child: go on where the parent's engine stood, with the records as it knew them; does no I/O."""
        self.retired = parent.retired
        self.providers.update(parent.providers)
        self.configs.update(parent.configs)
        self.mirror.records.update(parent.mirror.records)
        self._rebuild()
        if parent.running:
            self._to_join.extend(self.providers)
            self._start_threads()
        elif parent.closed:
            self._stop.set()
            self.courier.close()
            self.link.close()

    def _start_threads(self) -> None:
        self._herald.start()
        self.mirror.start()
        self._thread = threading.Thread(target=self._run, name="redis-router-engine", daemon=True)
        self._thread.start()
        self.courier.urge()

    @property
    def running(self) -> bool:
        return self._thread is not None and not self._stop.is_set()

    @property
    def closed(self) -> bool:
        return self._stop.is_set()

    def flush(self, timeout: float) -> bool:
        """Wait until all that was recorded before is in Redis and in the table; False where time ran out."""
        return self.running and self.courier.mark().wait(timeout)

    def stop(self, timeout: float) -> bool:
        """Hand permits back, carry the rest to Redis, end the threads; False where results were left behind."""
        if self.closed:
            return True
        deadline = time.monotonic() + timeout
        self.mirror.ask_to_stop()
        self.permits.give_back_all()
        flushed = self.flush(max(timeout * 0.5, timeout - 0.6))  # the rest is for a command that hangs
        self._stop.set()
        self.courier.urge()
        if self._thread is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        self.mirror.stop(max(0.0, deadline - time.monotonic()))
        self._herald.stop(max(0.0, deadline - time.monotonic()))
        dropped = self.courier.close()
        if dropped:
            log.warning("closed with %d results that did not reach Redis", dropped)
        self.link.close()
        return flushed

    def add(self, provider: Provider, config: CircuitConfig) -> None:
        """Route to a provider from now on; its record is joined in the background."""
        with self._providers_lock:
            self.retired.discard(provider.name)
            self.configs[provider.name] = config
            self.providers[provider.name] = provider
            if self.running:
                self._to_join.append(provider.name)
        self._rebuild()
        self.courier.urge()

    def remove(self, name: str) -> None:
        """Stop routing to a provider."""
        with self._providers_lock:
            self.retired.add(name)
            self.providers.pop(name, None)
        self.mirror.forget(name)
        self._rebuild()
        self.courier.urge()

    # The table

    def _rebuild(self) -> None:
        with self._table_lock:
            providers = list(self.providers.values())
            known = self.mirror.records if self._local is None else self._local.records
            records = {p.name: known.get(p.name) or self._new_record(p) for p in providers}
            if self._local is not None:
                self._local.records = records
            self.table = tables.build(providers, records, self.strategy)

    def _new_record(self, provider: Provider) -> ProviderHealth:
        return ProviderHealth(provider.name, weight=provider.weight, config=self.configs[provider.name])

    def _announce(self, old: ProviderHealth, new: ProviderHealth) -> Transition | None:
        """Tell where a circuit changed; returns the change."""
        if old.circuit_state is new.circuit_state:
            return None
        change = Transition(new.name, old.circuit_state, new.circuit_state, reason_of(new), new.generation)
        level = logging.WARNING if new.circuit_state is OPEN else logging.INFO
        log.log(level, "%s is %s (%s), was %s", new.name, new.circuit_state, change.reason, old.circuit_state)
        self._herald.tell(change)
        self.courier.urge()
        return change

    # What the mirror tells

    def changed(self, old: ProviderHealth | None, new: ProviderHealth) -> None:
        with self._table_lock:
            if self._local is not None:
                return  # its word counts again when we are back as a whole
            self.table = tables.updated(self.table, [new], self.strategy)
        if old is not None:
            self._announce(old, new)

    def lost(self, name: str) -> None:
        if name not in self._to_restore:
            self._to_restore.append(name)
        self.courier.urge()

    def deregistered(self, name: str) -> None:
        with self._providers_lock:
            if name not in self.providers or name in self._to_join:  # registered again meanwhile
                return
            self.retired.add(name)
            del self.providers[name]
        log.warning("provider %s was deregistered for the whole fleet", name)
        self.mirror.forget(name)
        self._rebuild()

    def heard(self, event: Event) -> None:
        """Nothing more to do: the record was applied."""

    # The thread

    def _run(self) -> None:
        while not self._stop.is_set():
            self.courier.sleep(self._nap(), self._flush_interval)
            try:
                reconnecting(self._stop, self._failed, self._work_alone)(self._cycle)
            except RouterError as error:
                log.debug("stopped while out of touch with Redis: %s", error)
            except Exception:
                log.exception("the engine failed, and goes on")
                self._stop.wait(1.0)

    def _nap(self) -> float | None:
        """Seconds to sleep where nobody wakes us; None: for as long as nothing happens."""
        records = self.mirror.records if self._local is None else self._local.records
        states = {health.circuit_state for health in list(records.values())}
        if HALF_OPEN in states or not self.permits.idle or (self._local is not None and OPEN in states):
            return TEND_INTERVAL
        return WATCH_INTERVAL if OPEN in states or self._to_join or self._to_restore else None

    def _cycle(self) -> None:
        if self.link.push_up is False:
            raise RedisUnavailable("the push channel is down")
        self._drain()
        self._put_right()
        self.courier.carry()
        if self._to_join or self._to_restore:  # the courier met providers without a record
            self._put_right()
            self.courier.carry()
        self.permits.tend(self._on_trial(), self._in_demand)
        self._safety_net()
        self.link.works(COMMANDS)
        if self._local is not None and self.link.up:
            self._rejoin()
        if self._local is None:
            self.courier.tell_settled()

    def _drain(self) -> None:
        now, drained = time.monotonic(), self.courier.drain()
        for result in drained:
            self._last_used[result.provider] = now
        self._decide(drained)

    def _on_trial(self) -> list[ProviderHealth]:
        return [c.health for c in self.table.candidates.values() if tables.is_on_trial(c.health)]

    # Without Redis

    def _failed(self, error: BaseException) -> None:
        """Redis does not serve us: from here on this replica decides for itself."""
        self.link.failed(COMMANDS, error)
        if self._local is not None:
            return
        with self._table_lock:
            records = {name: candidate.health for name, candidate in self.table.candidates.items()}
            self._local = LocalBreaker(records, self.now_ms)
        self._decide(self.courier.unsettled())  # what Redis did not take, it did not decide on

    def _work_alone(self, seconds: float) -> None:
        """Decide alone for so long, or until the push channel is back."""
        retry_at, push_was_up = time.monotonic() + seconds, self.link.push_up
        while not self._stop.is_set() and self._local is not None:
            if self.link.push_up and (not push_was_up or time.monotonic() >= retry_at):
                return
            nap = self._nap() or WATCH_INTERVAL
            if self.link.push_up:
                nap = min(nap, max(0.0, retry_at - time.monotonic()))
            self.courier.sleep(nap, self._flush_interval)
            self._drain()
            self.permits.serve_alone(self._on_trial())

    def _decide(self, results: list[Result]) -> None:
        """Where this replica is alone: route by what its breaker makes of these results and of the time."""
        with self._table_lock:
            if self._local is None:
                return
            changes = self._local.fold(results) + self._local.half_open_due()
            self.table = tables.updated(self.table, [new for _, new in changes], self.strategy)
        for old, new in changes:
            self.metrics.health(new)
            change = self._announce(old, new)
            if change is not None:
                self.metrics.local_transition(change)

    def _rejoin(self) -> None:
        """Redis's word counts again; what was decided here is forgotten."""
        before = self.table.candidates
        with self._table_lock:
            self._local = None
        self._rebuild()
        for name, candidate in self.table.candidates.items():
            self.metrics.health(candidate.health)
            if name in before:
                self._announce(before[name].health, candidate.health)

    def now_ms(self) -> float:
        """Redis's clock as last estimated; this machine's where Redis was never there."""
        return self.mirror.redis_now_ms() or time.time() * 1000

    # Putting records right

    def _put_right(self, *, access_denied_is_raised: bool = False) -> None:
        """Join and restore what is waiting for it; a record that Redis refuses waits on and holds up no other."""
        now = time.monotonic()
        for queue, act in ((self._to_join, self._join), (self._to_restore, self._restore)):
            for _ in range(len(queue)):
                name = queue[0]
                try:
                    if now >= self._try_again_at.get(name, 0.0):
                        act(name)
                    else:
                        queue.append(name)
                except RedisRefused as error:
                    if access_denied_is_raised and isinstance(error, AccessDenied):
                        raise
                    self.courier.say_refused(name, str(error))
                    self._try_again_at[name] = now + REFUSED_SECONDS
                    queue.append(name)
                queue.popleft()

    def _join(self, name: str) -> None:
        provider, config = self.providers.get(name), self.configs[name]
        if provider is None:
            return
        health = self.store.register(provider, config).health
        if health is None:
            return
        self.mirror.apply(health)
        if health.config != config or health.weight != provider.weight:
            log.warning(
                "provider %s keeps its record's settings (%s, weight %g), not those given here;"
                " change them with set_circuit_config or update_health(name, weight=...)",
                name,
                health.config,
                health.weight,
            )

    def _restore(self, name: str) -> None:
        provider, copy = self.providers.get(name), self.mirror.records.get(name)
        if provider is None or copy is None:
            return
        reply = self.store.restore(provider, copy)
        if reply.health is None:
            self.deregistered(name)
            return
        if reply.status == "created":
            log.warning("Redis had lost the record of %s: it is %s again", name, reply.health.circuit_state)
        self.mirror.apply(reply.health)

    def _applied(self, reply: Reply) -> None:
        if reply.health is not None:
            self.mirror.apply(reply.health)

    def _missing(self, name: str) -> None:
        if name not in self.providers:
            self.courier.give_up(name, "deregistered", "it was deregistered")
        elif name in self.mirror.records:
            self.lost(name)  # then the batch goes once more, under its number
        elif name not in self._to_join:
            self._to_join.append(name)

    def _in_demand(self, name: str) -> bool:
        """Were this provider or one that could stand in for it in use here lately?"""
        since = time.monotonic() - DEMAND_SECONDS
        peers = {name}
        provider = self.providers.get(name)
        for model in provider.models if provider is not None else ():
            selector = self.table.find(model)
            peers.update(c.provider.name for c in (selector.candidates if selector else ()))
        return any(self._last_used.get(peer, 0.0) > since for peer in peers)

    def _safety_net(self) -> None:
        """Make a due transition where no worker has held the lease for a while."""
        redis_now, now = self.mirror.redis_now_ms(), time.monotonic()
        grace_ms = self._safety_net_after * 1000
        for health in list(self.mirror.records.values()):
            if health.circuit_state is not OPEN or redis_now is None or health.due_in_ms(redis_now) > -grace_ms:
                continue
            if now < self._net_check_at.get(health.name, 0.0):
                continue
            self._net_check_at[health.name] = now + self._safety_net_after * random.uniform(0.5, 1.0)
            _, leader = self.store.leader()
            if leader is not None and leader.remaining_ms > -grace_ms:
                continue
            try:
                reply = self.store.half_open(health.name)
            except RedisRefused as error:
                self.courier.say_refused(health.name, str(error))
                continue
            for change in reply.transitions:
                self.metrics.transition(change)
                self.metrics.safety_net_used(health.name)
                log.warning(
                    "no worker leads, so this replica moved %s to half_open: start `redis-router worker`",
                    health.name,
                )
            if reply.health is not None:
                self.mirror.apply(reply.health)
