"""The background of a router: carries outcomes to Redis, keeps its view of the fleet current, tends half-open permits.

Two daemon threads beside the mirror's. One decides and never waits for Redis: it sorts what was recorded, and where
Redis does not serve, it decides by a local breaker. The other talks to Redis, and may be held up there by whatever can
hold up a connection. The request path only appends to the courier's buffer and reads `view.table`. A failure wakes both
at once; successes wait for company and travel together; without traffic they look up once a second.
"""

import random
import time
from collections.abc import Collection, Iterable, Sequence

from redis_router.circuit.config import CircuitConfig
from redis_router.circuit.machine import OPEN
from redis_router.circuit.outcome import Outcome, Result
from redis_router.circuit.record import ProviderHealth
from redis_router.errors import AccessDenied, RedisRefused, RedisUnavailable, RouterError
from redis_router.options import Options
from redis_router.provider import ANY_MODEL, Provider
from redis_router.replica.link import COMMANDS, PUSH, Link
from redis_router.replica.mirror import Mirror, reconnecting
from redis_router.replica.outbox import Courier
from redis_router.replica.permits import Permit, Permits
from redis_router.replica.registration import REFUSED_SECONDS, Registrar
from redis_router.replica.view import View
from redis_router.replica.waiters import Bell
from redis_router.routing.candidate import Candidate
from redis_router.routing.strategies import looking, resolve
from redis_router.routing.table import Selector, Tables
from redis_router.runtime.alarm import Alarm, Flag
from redis_router.runtime.background import Background
from redis_router.runtime.log import log
from redis_router.store.contract import Store
from redis_router.store.messages import Event, Reply
from redis_router.telemetry.listeners import Herald, TransitionListener
from redis_router.telemetry.metrics import Metrics

DEMAND_SECONDS = 60.0
"""A replica claims permits for a provider if its models were in use here within this time."""
TEND_INTERVAL = 0.05
"""Seconds between looks at permits while a circuit is half-open or a permit is out."""
WATCH_INTERVAL = 0.5
"""Seconds between looks for overdue circuits while one is open, and at records that wait to be put right."""
IDLE_INTERVAL = 1.0
"""Seconds between looks at whether there is anything of that."""
GUARD_INTERVAL = 0.25
"""Seconds between looks at whether the thread that talks to Redis is held up, while it does."""
LOST_INTERVAL = 1.0
"""Seconds between looks at whether the records of open and half-open circuits, which nobody writes, are there."""
LOOKED_AT_ONCE = 100
"""So many of them at most."""


class Engine:
    """One replica's link to the fleet."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        options: Options,
        on_transition: TransitionListener | None,
    ) -> None:
        self.store = store
        self.metrics = metrics
        self._herald = Herald(on_transition, metrics.background_failed)
        self.courier = Courier(
            store, metrics, options.buffer_limit, options.result_ttl, self._applied, self._missing, self._cannot_use
        )
        self.bell = Bell()
        tables = Tables(
            looking(resolve(options.strategy), self.now_ms),
            self.now_ms,
            options.least_bad,
            options.max_ejection_percent,
        )
        self.view = View(tables, metrics, self._herald.tell, self._view_changed, self.bell, store.writer)
        self.link = Link(store.where, metrics, self.courier.urge)
        self.mirror = Mirror(
            store,
            self.link,
            self,
            lambda: self.view.providers.keys(),
            metrics.saw_epoch,
            metrics.background_failed,
            options.refresh_interval,
        )
        self.permits = Permits(
            store, metrics, self.courier.put, self._cannot_claim, self._permit_claimed, options.permit_ttl
        )
        self._registrar = Registrar(
            store, self.mirror, self.view, self.deregistered, self._cannot_use, options.circuit_version
        )
        self._options = options
        self._last_used: dict[str, float] = {}  # by provider: when results of it were recorded
        self._last_asked: dict[str, float] = {}  # by model that a provider is registered for: when nobody could be had
        self._net_check_at: dict[str, float] = {}
        self._look_at = 0.0
        self._try_at = 0.0
        self._unclaimable: set[str] = set()
        self._leaving: set[str] = set()  # providers that were taken out, and of which something is still kept here
        self._stop = Flag()
        self._work = Alarm()
        self._decider = Background("engine", self._decide, metrics.background_failed)
        self._talker = Background("courier", self._talk, metrics.background_failed)
        self._started = False

    # The request path

    def trial(self, selector: Selector, tried: Collection[str]) -> tuple[Candidate, Permit] | None:
        """Spend a permit for a half-open provider of this model; where none is in hand, one is claimed later."""
        for candidate in selector.on_trial:
            name = candidate.health.name
            if name in tried:
                continue
            permit = self.permits.take(name)
            if permit is not None:
                self.courier.urge()  # to claim the next
                return candidate, permit
        self.want(selector.model)
        return None

    def want(self, model: str) -> None:
        """A call for this model would have gone to one on trial: claim permits as soon as there are some."""
        now = time.monotonic()
        if now - self._last_asked.get(model, -DEMAND_SECONDS) >= DEMAND_SECONDS:
            self.courier.urge()
        self._last_asked[model] = now

    # What the router asks for

    def start(self) -> None:
        """Join the fleet, then run in the background. Without Redis it goes on alone; a refused login is raised."""
        self._registrar.join(*self.view.providers)
        try:
            self._registrar.put_right()
            self.mirror.connect()
        except RedisUnavailable as error:
            self.link.failed(PUSH, error)
        self._start_threads()

    def take_over(self, parent: "Engine") -> None:
        """In a forked child: go on where the parent's engine stood, with the records as it knew them; does no I/O."""
        self.mirror.records.update(parent.mirror.records)
        self.view.take_over(parent.view, self.mirror.records)
        if parent.running:
            self._registrar.join(*self.view.providers)
            self._start_threads()
        elif parent.closed:
            self._stop.set()
            self.courier.close()
            self.link.close()

    def _start_threads(self) -> None:
        self._started = True
        self._herald.start()
        self.mirror.start()
        self._talker.start()
        self._decider.start()
        self.courier.urge()

    @property
    def running(self) -> bool:
        return self._started and not self._stop.is_set()

    @property
    def closed(self) -> bool:
        return self._stop.is_set()

    def flush(self, timeout: float) -> bool:
        """Wait until all that was recorded before is in Redis and in the table; False where time ran out.

        And at once on a thread of ours, which would wait for itself: a log handler may call it there.
        """
        return self.running and not self._is_ours and self.courier.mark().was_settled(timeout)

    @property
    def _is_ours(self) -> bool:
        """Is this a thread of our own that asks?"""
        threads = (self._decider, self._talker, self.mirror.thread, self._herald.thread)
        return any(thread.is_current for thread in threads)

    def stop(self, timeout: float) -> bool:
        """Hand permits back, carry the rest to Redis, end the threads; False where results were left behind."""
        if self.closed:
            return True
        deadline = time.monotonic() + timeout
        self.mirror.ask_to_stop()
        self.permits.give_back_all()
        if not self._is_ours:  # first, as it may take a moment: what is recorded meanwhile is carried, too
            self.mirror.stop(min(0.3, timeout * 0.2))
        left = deadline - time.monotonic()
        flushed = self.flush(max(left * 0.5, left - 0.6))  # the rest is for a command that hangs
        self._stop.set()
        self.bell.ring()  # nobody will come back here
        self.courier.urge()
        self._work.ring()
        for thread in () if self._is_ours else (self._decider, self._talker):
            thread.join(deadline - time.monotonic())
        self.mirror.stop(0.0 if self._is_ours else deadline - time.monotonic())
        self._herald.stop(0.0 if self._is_ours else deadline - time.monotonic())
        dropped = self.courier.close()
        if dropped:
            log.warning("closed with %d results that did not reach Redis", dropped)
        self.link.close()
        self.metrics.pending_changed()
        return flushed

    def add(self, parts: Sequence[Provider], config: CircuitConfig) -> None:
        """Route to these from now on; their records are joined in the background."""
        with self.mirror.lock:
            self.view.add(parts, config)
            if self.running:
                self._registrar.join(*(part.name for part in parts))
        self.courier.urge()

    def remove(self, name: str) -> None:
        """Stop routing to a provider."""
        with self.mirror.lock:
            self.view.remove(name)
            self.mirror.forget(name)
            self._leaving.add(name)
        self.courier.urge()

    def now_ms(self) -> float:
        """Redis's clock as last estimated; this machine's where Redis was never there."""
        return self.mirror.redis_now_ms() or time.time() * 1000

    # What the mirror tells

    def _view_changed(self) -> None:
        if not self._decider.is_current:  # which looks anyway before it sleeps
            self.courier.urge()

    def changed(self, old: ProviderHealth | None, new: ProviderHealth, by: str) -> None:
        self.view.take(new, first=old is None, by=by)

    def lost(self, name: str) -> None:
        self._registrar.restore(name)
        self.courier.urge()

    def deregistered(self, name: str) -> None:
        with self.mirror.lock:
            if self._registrar.joins(name) or not self.view.remove(name):  # registered again meanwhile
                return
            self.mirror.forget(name)
            self._leaving.add(name)
        log.warning("provider %s was deregistered for the whole fleet", name)

    def heard(self, event: Event) -> None:
        """An operator who puts a provider back into service ends the rate limit that this replica was told of, too."""
        candidate = self.view.table.candidates.get(event.provider)
        if candidate is not None and event.kind == "updated" and event.health is not None and event.health.available:
            candidate.here.limited_until = 0.0

    def unusable(self, name: str) -> None:
        if not self.view.decides_apart(name):
            self.view.decide_apart(name, [])

    # The thread that decides

    def _decide(self) -> bool:
        nap = self._nap()
        if self.store.waits_for(self._talker.ident):
            nap = min(nap, GUARD_INTERVAL)
        self.courier.sleep(nap, self._options.flush_interval, self.view.unsettled_for())
        drained = self.courier.drain()
        self._last_used.update(dict.fromkeys((n for n in drained if n in self.view.providers), time.monotonic()))
        self._notice_trouble()
        if self.link.is_down and not self.view.alone:
            self.view.go_alone(self.now_ms)
            self.view.decide(self.courier.unsettled())  # what Redis did not take, it did not decide on
        elif self.view.decides:
            self.view.decide([result for results in drained.values() for result in results])
        if self.view.alone:
            self.permits.serve_alone(self.view.on_trial.copy())
        self.view.settle(now=self.view.alone and self.courier.awaited)
        self._work.ring()
        self.view.say()
        self._forget_gone()
        return not self._stop.is_set()

    def _forget_gone(self) -> None:
        """Drop what is kept of providers that are no more, when their last results are settled."""
        for name in list(self._leaving):
            if name in self.view.providers:
                self._leaving.discard(name)
            elif not self.courier.carries(name):
                self._leaving.discard(name)
                for kept in (self._last_used, self._net_check_at):
                    kept.pop(name, None)
                self._unclaimable.discard(name)
                self.permits.forget(name)
                self._registrar.forget(name)
                self.metrics.forget(name)

    def _nap(self) -> float:
        """Seconds until there is something to look at, where nobody wakes us."""
        if self.view.on_trial or not self.permits.idle or (self.view.alone and self.view.open):
            return TEND_INTERVAL
        return WATCH_INTERVAL if self.view.open or self._registrar.busy else IDLE_INTERVAL

    def _notice_trouble(self) -> None:
        """What holds up the other threads is trouble, too: they cannot say so themselves."""
        for side, thread in ((COMMANDS, self._talker), (PUSH, self.mirror.thread)):
            if not self.link.is_down and self.mirror.is_held_up(thread):
                self.link.failed(side, RedisUnavailable("no answer for a while"))

    # The thread that talks to Redis

    def _talk(self) -> bool:
        self._work.wait(IDLE_INTERVAL)
        try:
            reconnecting(self._stop, self._failed, self._pause)(self._exchange)
        except RouterError as error:
            log.debug("stopped while out of touch with Redis: %s", error)
        return not self._stop.is_set()

    def _exchange(self) -> None:
        began = time.monotonic()
        if self.link.push_up is False:
            raise RedisUnavailable("the push channel is down")
        self._registrar.put_right()
        self.courier.carry()
        if self._registrar.busy:  # the courier met providers without a record
            self._registrar.put_right()
            self.courier.carry()
        self._registrar.say_seen()
        trials = self.view.on_trial.copy()
        self.permits.tend(trials, self._in_demand(trials))
        self._safety_net()
        self._look_for_lost()
        self.metrics.pending_changed()
        self._try_refused()
        if (records := self.view.providers) and self.mirror.unusable.keys() >= records.keys():
            raise RedisUnavailable("every record is refused, or cannot be read")
        self.link.works(COMMANDS)
        if self.view.alone and self.link.up:
            with self.mirror.lock:  # no record may come in between: the view takes none while it is alone
                self.view.rejoin(self.mirror.records, list(self.mirror.unusable))
        self.view.settle(now=self.courier.awaited)
        self.view.say()
        if not self.view.alone:
            self.courier.tell_settled(began)

    def _failed(self, error: BaseException) -> None:
        self.link.failed(COMMANDS, error)  # and the other thread decides alone
        self.courier.urge()

    def _pause(self, seconds: float) -> None:
        """Wait so long, or until the push channel is back; without it there is nothing to try."""
        retry_at, push_was_up = time.monotonic() + seconds, self.link.push_up
        while not self._stop.is_set():
            left = retry_at - time.monotonic() if self.link.push_up else IDLE_INTERVAL
            if self.link.push_up and (left <= 0 or not push_was_up):
                return
            self._work.wait(left)

    def _look_for_lost(self) -> None:
        """Records that nobody writes now: an open circuit gets no results that would show that Redis lost it."""
        now = time.monotonic()
        names = [name for name in {*self.view.open, *self.view.on_trial} if name in self.mirror.records]
        if not names or now < self._look_at:
            return
        self._look_at = now + LOST_INTERVAL * random.uniform(0.5, 1.0)
        for name in self.store.lost(random.sample(names, min(len(names), LOOKED_AT_ONCE))):
            self.lost(name)

    def _try_refused(self) -> None:
        """Is a record that was refused usable again? Who gets no calls would not learn it by a result."""
        now = time.monotonic()
        if now >= self._try_at and self.mirror.unusable:
            self._try_at = now + REFUSED_SECONDS * random.uniform(0.5, 1.0)
            self.courier.try_again([name for name in list(self.mirror.unusable) if name in self.view.providers])

    # What an exchange meets

    def _applied(self, reply: Reply, results: Sequence[Result]) -> None:
        if reply.health is None:
            return
        if reply.health.name not in self.view.providers:
            self._leaving.add(reply.health.name)  # a late result: the metrics have the provider again
            return
        self.mirror.apply(reply.health, self.store.writer, accepted=True)
        candidate = self.view.table.candidates.get(reply.health.name)
        if candidate is None or not candidate.here.limited_until or self.view.alone:
            return
        if any(result.outcome is Outcome.RATE_LIMITED for result in results):
            candidate.here.limited_until = 0.0  # from here on the record says it

    def _missing(self, name: str) -> None:
        if name not in self.view.providers:
            self.courier.give_up(name, "deregistered")
        elif name in self.mirror.records:
            self._registrar.restore(name)  # then the batch goes once more, under its number
        elif not self._registrar.joins(name):
            self._registrar.join(name)

    def _cannot_use(self, name: str, why: str, undecided: Sequence[Result] = ()) -> None:
        if name not in self.view.providers:
            return
        self.mirror.cannot_use(name, why, refused=True)
        if not self.view.decides_apart(name):
            self.view.decide_apart(name, undecided)

    def _cannot_claim(self, name: str, why: str) -> None:
        if name not in self._unclaimable:
            self._unclaimable.add(name)
            log.error("no trial calls for provider %s: %s", name, why)

    def _permit_claimed(self, name: str) -> None:
        self._unclaimable.discard(name)
        self.bell.ring(self.view.table.models.get(name, ()), 1)

    def _in_demand(self, trials: Iterable[str]) -> set[str]:
        """Those of these providers that were in use here lately, or that could stand in for one that was."""
        if not trials:
            return set()
        since, models = time.monotonic() - DEMAND_SECONDS, self.view.table.models
        asked = {model for model, at in list(self._last_asked.items()) if at > since}
        for name, at in list(self._last_used.items()):
            if at > since:
                asked.update(models.get(name, ()))
        if ANY_MODEL in asked:
            return set(trials)
        return {
            n for n in trials if not asked.isdisjoint(models.get(n, ())) or (asked and ANY_MODEL in models.get(n, ()))
        }

    def _safety_net(self) -> None:
        """Make a due transition where no worker has held the lease for a while."""
        redis_now, now = self.mirror.redis_now_ms(), time.monotonic()
        grace_ms, leader = self._options.safety_net_after * 1000 * self.store.has_workers, None
        for name in self.view.open.copy():
            health = self.mirror.records.get(name)
            if health is None or health.circuit_state is not OPEN or redis_now is None:
                continue
            if health.due_in_ms(redis_now) > -grace_ms:
                continue
            if now < self._net_check_at.get(health.name, 0.0):
                continue
            self._net_check_at[health.name] = now + self._options.safety_net_after * random.uniform(0.5, 1.0)
            if leader is None and self.store.has_workers:
                _, leader = self.store.leader()
            if leader is not None and leader.remaining_ms > -grace_ms:
                return
            try:
                reply = self.store.half_open(health.name)
            except AccessDenied:
                raise
            except RedisRefused as error:
                self._cannot_use(health.name, str(error))
                continue
            for change in reply.transitions:
                self.metrics.transition(change)
                if not self.store.has_workers:
                    continue
                self.metrics.safety_net_used(health.name)
                log.warning(
                    "no worker leads, so this replica moved %s to half_open: start `redis-router worker`",
                    health.name,
                )
            if reply.health is not None:
                self.mirror.apply(reply.health)
