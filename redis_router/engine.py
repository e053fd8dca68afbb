"""The background of a router: carries outcomes to Redis, keeps the routing table current, tends half-open permits.

One daemon thread beside the mirror's. The request path only appends to a buffer and reads `table`. A failure wakes
the thread at once; successes wait for up to `flush_interval` and travel together; without traffic and with all
circuits closed the thread sleeps.
"""

import logging
import random
import threading
import time
from collections import deque
from itertools import count

from redis_router import table as tables
from redis_router.circuit import HALF_OPEN, OPEN, reason_of
from redis_router.errors import RedisRefused, RedisUnavailable, RouterError
from redis_router.herald import Herald, TransitionListener
from redis_router.metrics import Metrics
from redis_router.mirror import Mirror, reconnecting
from redis_router.model import Candidate, CircuitConfig, Outcome, Provider, ProviderHealth, Transition
from redis_router.permits import Permit, Permits
from redis_router.store import Batch, Event, Reply, Result, Store
from redis_router.strategies import Strategy

log = logging.getLogger("redis_router")

BATCH_LIMIT = 100
DEMAND_SECONDS = 60.0
"""A replica claims permits for a provider if its models were in use here within this time."""
TEND_INTERVAL = 0.05
"""Seconds between looks at permits while a circuit is half-open or a permit is out."""
WATCH_INTERVAL = 0.5
"""Seconds between looks for overdue circuits while one is open."""


class Engine:
    """One replica's link to the fleet."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        strategy: Strategy,
        *,
        flush_interval: float,
        refresh_interval: float,
        buffer_limit: int,
        permit_ttl: float,
        safety_net_after: float,
        on_transition: TransitionListener | None,
    ) -> None:
        self.table = tables.EMPTY
        self._table_lock = threading.Lock()
        self.store = store
        self.strategy = strategy
        self.providers: dict[str, Provider] = {}
        self.configs: dict[str, CircuitConfig] = {}
        self.metrics = metrics
        self.mirror = Mirror(store, metrics, self, self.providers.keys, refresh_interval)
        self.permits = Permits(store, metrics, self.buffer_result, permit_ttl)
        self._flush_interval = flush_interval
        self._buffer_limit = buffer_limit
        self._safety_net_after = safety_net_after
        self._herald = Herald(on_transition)
        self._buffer: deque[Result | threading.Event] = deque()
        self._drop_full = metrics.results_dropped.labels("buffer_full")
        self._drop_closed = metrics.results_dropped.labels("closed")
        self._waiting: dict[str, deque[Result]] = {}
        self._unacked: dict[str, Batch] = {}
        self._seq: dict[str, int] = {}
        self._half_open_seq = count(1)
        self._to_join: deque[str] = deque()
        self._to_restore: deque[str] = deque()
        self._last_used: dict[str, float] = {}
        self._net_check_at: dict[str, float] = {}
        self._refused: set[str] = set()
        self._wake = threading.Event()
        self._idle = True
        self._urgent = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        metrics.watch_pending(self.pending)

    # The request path

    def buffer_result(self, result: Result) -> None:
        """Take a result in; it is counted as dropped where the buffer is full or the engine has ended."""
        if len(self._buffer) >= self._buffer_limit or self._stop.is_set():
            self._drop_closed.inc() if self._stop.is_set() else self._drop_full.inc()
            return
        self._buffer.append(result)
        if result.outcome is not Outcome.SUCCESS or result.permit:
            self._urgent = True
            self._wake.set()
        elif self._idle:
            self._idle = False
            self._wake.set()

    def trial(self, selector: tables.Selector, tried: frozenset[str] | set[str]) -> tuple[Candidate, Permit] | None:
        """Spend a permit for a half-open provider of this model; where none is in hand, one is claimed later."""
        for candidate in selector.on_trial:
            name = candidate.provider.name
            if name in tried:
                continue
            permit = self.permits.take(name)
            if permit is not None:
                self.urge()  # to claim the next
                return candidate, permit
            self.want(name)
        return None

    def want(self, name: str) -> None:
        """A call would have gone to this provider: claim a permit for it as soon as there is one."""
        now = time.monotonic()
        if now - self._last_used.get(name, -DEMAND_SECONDS) >= DEMAND_SECONDS:
            self.urge()
        self._last_used[name] = now

    def urge(self) -> None:
        """Wake the thread now."""
        self._urgent = True
        self._wake.set()

    # What the router asks for

    def start(self) -> None:
        """Join the fleet, then run in the background. Without Redis it goes on alone; a refused login is raised."""
        self._to_join.extend(self.providers)
        try:
            for name in self.providers:
                self._join(name)
                self._to_join.remove(name)
            self.mirror.refresh()
        except RedisUnavailable as error:
            self.mirror.went_down(error)
        self._herald.start()
        self.mirror.start()
        self._thread = threading.Thread(target=self._run, name="redis-router-engine", daemon=True)
        self._thread.start()
        self.urge()

    @property
    def running(self) -> bool:
        return self._thread is not None and not self._stop.is_set()

    @property
    def closed(self) -> bool:
        return self._stop.is_set()

    def flush(self, timeout: float) -> bool:
        """Wait until all that was recorded before is in Redis and in the table; False where time ran out."""
        if not self.running:
            return False
        done = threading.Event()
        self._buffer.append(done)
        self.urge()
        return done.wait(timeout)

    def stop(self, timeout: float) -> bool:
        """Hand permits back, carry the rest to Redis, end the threads; False where results were left behind."""
        if not self.running:
            return True
        self.permits.give_back_all()
        flushed = self.flush(timeout)
        self._stop.set()
        self.urge()
        self.mirror.stop()
        if self._thread is not None:
            self._thread.join(timeout)
        self._herald.stop()
        left = self.pending()
        if left:
            self._drop_closed.inc(left)
            log.warning("redis_router: closed with %d results that did not reach Redis", left)
        return flushed

    def add(self, provider: Provider, config: CircuitConfig) -> None:
        """Route to a provider from now on; its record is joined in the background."""
        self.providers[provider.name] = provider
        self.configs[provider.name] = config
        self._rebuild()
        if self.running:
            self._to_join.append(provider.name)
            self.urge()

    def remove(self, name: str) -> None:
        """Stop routing to a provider."""
        self.providers.pop(name, None)
        self.mirror.forget(name)
        self._rebuild()
        self.urge()

    def pending(self) -> int:
        """Results that are recorded and not yet acknowledged by Redis."""
        unacked = sum(len(batch.results) for batch in list(self._unacked.values()))
        return len(self._buffer) + sum(map(len, list(self._waiting.values()))) + unacked

    def _rebuild(self) -> None:
        with self._table_lock:
            self.table = tables.build(list(self.providers.values()), self.mirror.records, self.strategy)

    # What the mirror tells

    def changed(self, old: ProviderHealth | None, new: ProviderHealth) -> None:
        with self._table_lock:
            self.table = tables.updated(self.table, [new], self.strategy)
        if old is None or old.circuit_state is new.circuit_state:
            return
        change = Transition(new.name, old.circuit_state, new.circuit_state, reason_of(new), new.generation)
        log.info("redis_router: %s is %s (was %s)", new.name, new.circuit_state, old.circuit_state)
        self._herald.tell(change)
        self.urge()

    def lost(self, name: str) -> None:
        if name not in self._to_restore:
            self._to_restore.append(name)
        self.urge()

    def deregistered(self, name: str) -> None:
        if name in self.providers:
            log.warning("redis_router: provider %s was deregistered for the whole fleet", name)
            self.remove(name)

    def heard(self, event: Event) -> None:
        """Nothing more to do: the record was applied."""

    # The thread

    def _run(self) -> None:
        while not self._stop.is_set():
            self._sleep()
            try:
                reconnecting(self._stop, self.mirror.went_down)(self._cycle)
            except RouterError as error:
                log.debug("redis_router: stopped while out of touch with Redis: %s", error)
            except Exception:
                log.exception("redis_router: the engine failed, and goes on")
                self._stop.wait(1.0)

    def _sleep(self) -> None:
        self._idle = True
        if self._buffer:  # recorded before `_idle` was set, so nobody woke us
            self._idle = False
        else:
            self._wake.wait(self._nap())
        self._wake.clear()
        if not self._urgent and not self._stop.is_set() and self._buffer:
            self._wake.wait(self._flush_interval)
            self._wake.clear()
        self._urgent = False

    def _nap(self) -> float | None:
        """Seconds to sleep where nobody wakes us; None: for as long as nothing happens."""
        states = {health.circuit_state for health in list(self.mirror.records.values())}
        if HALF_OPEN in states or not self.permits.idle:
            return TEND_INTERVAL
        return WATCH_INTERVAL if OPEN in states or self._to_join or self._to_restore else None

    def _cycle(self) -> None:
        self._put_right()
        self._flush()
        self.permits.tend(
            [c.health for c in self.table.candidates.values() if tables.is_on_trial(c.health)], self._in_demand
        )
        self._safety_net()

    def _put_right(self) -> None:
        """Join and restore what is waiting for it; a record that Redis refuses waits on and holds up no other."""
        for queue, act in ((self._to_join, self._join), (self._to_restore, self._restore)):
            for _ in range(len(queue)):
                name = queue[0]
                try:
                    act(name)
                except RedisRefused as error:
                    self._say_refused(name, str(error))
                    queue.append(name)
                queue.popleft()

    def _join(self, name: str) -> None:
        provider, config = self.providers.get(name), self.configs[name]
        if provider is None:
            return
        health = self.store.register(provider, config)
        self.mirror.apply(health)
        if health.config != config or health.weight != provider.weight:
            log.warning(
                "redis_router: provider %s keeps its record's settings (%s, weight %g), not those given here;"
                " change them with set_circuit_config or update_health(name, weight=...)",
                name,
                health.config,
                health.weight,
            )

    def _restore(self, name: str) -> None:
        provider, copy = self.providers.get(name), self.mirror.records.get(name)
        if provider is None or copy is None:
            return
        health = self.store.restore(provider, copy)
        if health is None:
            self.deregistered(name)
        else:
            log.warning("redis_router: Redis had lost the record of %s: it is %s again", name, health.circuit_state)
            self.mirror.apply(health)

    def _say_refused(self, name: str, why: str) -> None:
        if name not in self._refused:
            self._refused.add(name)
            log.error("redis_router: the record of provider %s cannot be used: %s", name, why)

    def _flush(self) -> None:
        """Carry everything that is in the buffer now; on an error what is left keeps its place and its numbers."""
        arrived: list[threading.Event] = []
        now = time.monotonic()
        for _ in range(len(self._buffer)):
            item = self._buffer.popleft()
            if isinstance(item, threading.Event):
                arrived.append(item)
            elif item.outcome is Outcome.IGNORED and not item.permit:
                self.metrics.results(item.provider, [(item.outcome, item.latency_ms)])
            else:
                self._waiting.setdefault(item.provider, deque()).append(item)
                self._last_used[item.provider] = now
        try:
            while self._send():
                pass
        except RouterError:
            self._buffer.extendleft(reversed(arrived))
            raise
        for event in arrived:
            event.set()

    def _send(self) -> bool:
        """One round trip with at most one batch per provider; False where there is nothing to send."""
        for name, waiting in list(self._waiting.items()):
            if name not in self._unacked:
                self._seq[name] = self._seq.get(name, 0) + 1
                results = [waiting.popleft() for _ in range(min(len(waiting), BATCH_LIMIT))]
                self._unacked[name] = Batch(name, self._seq[name], results)
            if not waiting:
                del self._waiting[name]
        if not self._unacked:
            return False
        trouble: RouterError | None = None
        batches = list(self._unacked.values())
        for batch, reply in zip(batches, self.store.record(batches), strict=True):
            if isinstance(reply, Reply):
                self._applied(batch, reply)
            elif isinstance(reply, RedisRefused):
                self._give_up(batch, "refused", str(reply))
            else:
                trouble = reply
        if trouble is not None:
            raise trouble
        self._put_right()
        stuck = {*self._to_join, *self._to_restore} & self._unacked.keys()
        if stuck:
            raise RedisRefused(f"the records of {', '.join(sorted(stuck))} are missing and cannot be put back")
        return True

    def _applied(self, batch: Batch, reply: Reply) -> None:
        if reply.status == "missing":
            if batch.provider not in self.providers:
                self._give_up(batch, "deregistered", "it was deregistered")
            elif batch.provider in self.mirror.records:
                self.lost(batch.provider)  # then the batch goes once more, under its number
            else:
                self._to_join.append(batch.provider)
            return
        del self._unacked[batch.provider]
        self._refused.discard(batch.provider)
        for change in reply.transitions:
            self.metrics.transition(change)
        self.metrics.results(
            batch.provider,
            [
                (r.outcome, r.latency_ms)
                for r in batch.results
                if not (r.outcome is Outcome.IGNORED and r.latency_ms == 0)
            ],
        )
        if reply.health is not None and batch.provider in self.providers:
            self.mirror.apply(reply.health)

    def _give_up(self, batch: Batch, reason: str, why: str) -> None:
        del self._unacked[batch.provider]
        self.metrics.results_dropped.labels(reason).inc(len(batch.results))
        self._say_refused(batch.provider, why)

    def _in_demand(self, name: str) -> bool:
        """Were this provider or one that could stand in for it in use here lately?"""
        since = time.monotonic() - DEMAND_SECONDS
        peers = {name}
        for model in self.providers[name].models if name in self.providers else ():
            selector = self.table.find(model)
            peers.update(c.provider.name for c in (selector.candidates if selector else ()))
        return any(self._last_used.get(peer, 0.0) > since for peer in peers)

    def _safety_net(self) -> None:
        """Make a due transition where no worker has held the lease for a while."""
        redis_now, now = self.mirror.redis_now_ms(), time.monotonic()
        grace_ms = self._safety_net_after * 1000
        for health in list(self.mirror.records.values()):
            if health.circuit_state is not OPEN or redis_now is None or redis_now < health.half_open_due_ms + grace_ms:
                continue
            if now < self._net_check_at.get(health.name, 0.0):
                continue
            self._net_check_at[health.name] = now + self._safety_net_after * random.uniform(0.5, 1.0)
            _, leader = self.store.leader()
            if leader is not None and leader.remaining_ms > -grace_ms:
                continue
            reply = self.store.half_open(health.name, next(self._half_open_seq), epoch=0)
            for change in reply.transitions:
                self.metrics.transition(change)
                self.metrics.safety_net.labels(health.name).inc()
                log.warning(
                    "redis_router: no worker leads, so this replica moved %s to half_open: start `redis-router worker`",
                    health.name,
                )
            if reply.health is not None:
                self.mirror.apply(reply.health)
