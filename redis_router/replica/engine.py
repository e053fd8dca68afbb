"""The background of a router: carries outcomes to Redis, keeps its view of the fleet current, tends half-open permits.

Three daemon threads. One decides and never waits for Redis: it sorts what was recorded, and where Redis does not serve,
it decides by this replica's own store. One exchanges with Redis, and may be held up there by whatever can hold up a
connection. One listens to the push channel. The parts return facts, and `Reactions` is the one place that acts on them.
The request path only appends to the outbox and reads `view.table`.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from redis_router.circuit.config import CircuitConfig
from redis_router.circuit.record import ProviderHealth
from redis_router.errors import RedisUnavailable, RouterError
from redis_router.options import Options
from redis_router.provider import Provider
from redis_router.replica.exchange import Exchange
from redis_router.replica.facts import Fact
from redis_router.replica.link import COMMANDS, PUSH
from redis_router.replica.parts import Parts
from redis_router.replica.push import Look
from redis_router.replica.reactions import Reactions
from redis_router.runtime.alarm import Alarm, Flag
from redis_router.runtime.background import Background
from redis_router.runtime.log import log
from redis_router.store.backoff import backoff
from redis_router.store.contract import Store
from redis_router.store.messages import Event
from redis_router.telemetry.listeners import Listener, TransitionListener
from redis_router.telemetry.metrics import Metrics

TEND_INTERVAL = 0.05
"""Seconds between looks at permits while a circuit is half-open or a permit is out."""
LOOK_INTERVAL = 0.25
"""Seconds between looks at what else is to be done: calls that began and are to be told of, overdue circuits, records
that wait to be put right, and whether the thread that talks to Redis is held up."""


class Engine:
    """One replica's link to the fleet."""

    def __init__(
        self, store: Store, metrics: Metrics, options: Options, on_transition: TransitionListener | None
    ) -> None:
        self.store = store
        self.metrics = metrics
        self._listener = Listener(on_transition, metrics)
        parts = Parts.make(store, metrics, options, self._listener)
        self.waiters = parts.waiters
        self.served = parts.served
        self.records = parts.records
        self.view = parts.view
        self.outbox = parts.outbox
        self.permits = parts.permits
        self.link = parts.link
        self.now_ms = parts.records.now_ms
        self._demand = parts.demand
        self._registration = parts.registration
        self._push = parts.push
        self._reactions = Reactions(parts)
        self._exchange = Exchange(parts)
        self._failures = {COMMANDS: 0, PUSH: 0}  # in a row
        self._retry_at = 0.0
        self._leaves = parts.leaves
        self._stop = Flag()
        self._work = Alarm()
        self._decider = Background("engine", self._decide, metrics)
        self._talker = Background("exchange", self._talk, metrics)
        self._hearer = Background("push", self._hear, metrics)
        self._started = False

    def want(self, model: str) -> None:
        """A call for this model would have gone to one on trial: claim permits as soon as there are some."""
        if self._demand.asked(model):
            self.outbox.urge()

    # What the router asks for

    def start(self) -> None:
        """Join the fleet, then run in the background. Without Redis it goes on alone; a refused login is raised."""
        self._registration.join(*self.served.providers)
        try:
            self._reactions.act_on(self._registration.put_right(self.store))
            self._take_look(self._push.connect())
        except RedisUnavailable as error:
            self.link.failed(PUSH, error)
        self._start_threads()

    def take_over(self, parent: "Engine") -> None:
        """In a forked child: go on where the parent's engine stood, with the records as it knew them; does no I/O."""
        self.records.copies.update(parent.records.copies)
        self.view.take_over(parent.view, self.records.copies)
        if parent.running:
            self._registration.join(*self.served.providers)
            self._start_threads()
        elif parent.closed:
            self._leaves.set()
            self._stop.set()
            self.outbox.close()
            self.link.close()

    def _start_threads(self) -> None:
        self._started = True
        for thread in self._threads:
            thread.start()
        self._listener.start()
        self.outbox.urge()

    @property
    def _threads(self) -> tuple[Background, ...]:
        return self._hearer, self._talker, self._decider

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
        return self.running and not self._is_ours and self.outbox.mark().was_settled(timeout)

    @property
    def _is_ours(self) -> bool:
        """Is this a thread of our own that asks?"""
        return any(thread.is_current for thread in (*self._threads, self._listener.thread))

    def stop(self, timeout: float) -> bool:
        """Hand permits back, carry the rest to Redis, end the threads; False where results were left behind."""
        if self.closed:
            return True
        deadline = time.monotonic() + timeout
        self._leaves.set()
        self.permits.give_back_all()
        if not self._is_ours:  # first, as it may take a moment: what is recorded meanwhile is carried, too
            self._hearer.join(min(0.3, timeout * 0.2))
        left = deadline - time.monotonic()
        flushed = self.flush(max(left * 0.5, left - 0.6))  # the rest is for a command that hangs
        self._stop.set()
        self.waiters.ring()  # nobody will come back here
        self.outbox.urge()
        self._work.ring()
        for thread in () if self._is_ours else self._threads:
            thread.join(deadline - time.monotonic())
        if flushed and self.link.up:  # now that nobody else sends: a later batch must not overtake an earlier one
            with suppress(RouterError):
                self._exchange.say_goodbye()
        self._listener.stop(0.0 if self._is_ours else deadline - time.monotonic())
        dropped = self.outbox.close()
        if dropped:
            log.warning("closed with %d results that did not reach Redis", dropped)
        self.link.close()
        self.metrics.pending_changed()
        return flushed

    def add(self, parts: Sequence[Provider], config: CircuitConfig) -> None:
        """Route to these from now on; their records are joined in the background."""
        with self._reactions.lock:
            self.view.add(parts, config)
            if self.running:
                self._registration.join(*(part.name for part in parts))
        self.outbox.urge()

    def remove(self, name: str) -> bool:
        """Stop routing to a provider; False where nobody did."""
        return self._reactions.remove(name)

    def apply(self, health: ProviderHealth, by: str = "") -> None:
        """Take in what the store answered about a provider; `by` is the process that caused it."""
        self._take_in(self.records.apply(health, by))
        self.view.settle(now=True)  # whoever asked for it routes by it at once
        self.view.news.say()

    # The thread that decides

    def _decide(self) -> bool:
        self.outbox.sleep(self._nap(), self.view.unsettled_for())
        self.view.calls = False  # whatever there is, it is looked at now
        drained = self.outbox.drain()
        self._demand.used(name for name in drained if name in self.served.providers)
        self._notice_trouble()
        alone = self.view.alone
        if self.link.is_down and not alone.on_all:
            self.view.go_alone()
            self.view.decide(self.outbox.unsettled())  # what Redis did not take, it did not decide on
        elif alone.decides:
            # on the others when the store took them: the fleet's word comes first
            apart = [results for name, results in drained.items() if alone.decides_on(name)]
            self.view.decide([result for results in apart for result in results])
        if own_trials := self.view.own_trials:
            self._reactions.act_on(self.permits.tend(alone.store, own_trials, own_trials.keys()))
        self.view.settle(now=alone.on_all and self.outbox.awaited)
        if self._has_trials or self._registration.busy or self.outbox.is_due:
            self._work.ring()
        self.view.news.say()
        self._reactions.forget_gone()
        return not self._stop.is_set()

    def _nap(self) -> float:
        """Seconds until there is something to look at, where nobody wakes us."""
        return TEND_INTERVAL if self._has_trials else LOOK_INTERVAL

    @property
    def _has_trials(self) -> bool:
        due_here = self.view.timing.open and (self.view.alone.on_all or not self.store.has_workers)
        return bool(self.view.timing.on_trial or not self.permits.idle or due_here)

    def _notice_trouble(self) -> None:
        """What holds up the other threads is trouble, too: they cannot say so themselves."""
        if not self.link.is_down and self._push.holds_up(self._talker.ident):
            self.link.failed(COMMANDS, RedisUnavailable("no answer for a while"))
        listens = not self._leaves.is_set()  # else it has ended, or is about to
        if listens and not self.link.is_down and self._push.holds_up(self._hearer.ident, listens=True):
            self.link.failed(PUSH, RedisUnavailable("no answer for a while"))
            self._push.give_up()

    # The thread that exchanges

    def _talk(self) -> bool:
        self._work.wait(min(self._nap(), max(0.0, self._retry_at - time.monotonic()) or LOOK_INTERVAL))
        if self.link.push_up is False or time.monotonic() < self._retry_at:
            return not self._stop.is_set()  # without the push channel there is nothing to try
        began = time.monotonic()
        try:
            self._reactions.act_on(self._exchange.turn())
            if (served := self.served.providers) and self.records.unusable.keys() >= served.keys():
                raise RedisUnavailable("every record is refused, or cannot be read")
        except RouterError as error:
            self._failed(COMMANDS, error)
            self._retry_at = time.monotonic() + backoff(self._failures[COMMANDS])
        else:
            self._served(began)
        self._see_to_the_view()
        self.metrics.pending_changed()
        return not self._stop.is_set()

    def _served(self, began: float) -> None:
        """Redis served an exchange that began at this monotonic moment."""
        self._failures[COMMANDS] = 0
        if self.link.works(COMMANDS):
            self.outbox.urge()
        if self.view.alone.on_all and self.link.up:
            with self._reactions.lock:  # no record may come in between: the view takes none while it is alone
                self.view.rejoin(self.records.copies, list(self.records.unusable))
        self.view.settle(now=self.outbox.awaited)
        self.view.news.say()
        if not self.view.alone.on_all:
            self.outbox.tell_settled(began)

    def _failed(self, side: str, error: BaseException) -> None:
        self._failures[side] += 1
        if not self._stop.is_set() and not self._leaves.is_set():
            self.link.failed(side, error)
            self.outbox.urge()  # and the other thread decides alone

    # The thread that listens

    def _hear(self) -> bool:
        try:
            for said in self._push.listen():
                if isinstance(said, Event):
                    self._take_in(self.records.take_event(said))
                    self.view.news.say()
                else:
                    self._take_look(said)
        except RouterError as error:
            self._leaves.wait(backoff(self._failures[PUSH]))
            self._failed(PUSH, error)
        except Exception:
            if not self._leaves.is_set():  # else the connection was closed under it, and redis-py may raise anything
                raise
        return not self._leaves.is_set()

    def _take_look(self, look: Look) -> None:
        self._take_in(self.records.take_snapshot(look.snapshot, look.known, look.asked_at))
        self._failures[PUSH], was_down = 0, self.link.push_up is False
        if was_down:
            self._retry_at = 0.0
        if self.link.works(PUSH):
            self.outbox.urge()
            self._work.ring()  # both sides may be back now
        self.view.news.say()

    def _take_in(self, facts: Iterator[Fact]) -> None:
        self._reactions.take_in(facts)
        self._see_to_the_view()

    def _see_to_the_view(self) -> None:
        if self.view.calls:
            self.view.calls = False
            self.outbox.urge()
