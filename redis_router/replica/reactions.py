"""What follows from each fact: the one place where what a part found out changes another part."""

import threading
from collections.abc import Iterable, Iterator, Sequence

from redis_router.circuit.outcome import Outcome, Result, UnderWay
from redis_router.circuit.record import ProviderHealth
from redis_router.replica.facts import (
    Applied,
    Changed,
    Claimed,
    Deregistered,
    Fact,
    Heard,
    Led,
    Lost,
    Missing,
    Outdated,
    Refused,
    Stored,
    Unclaimable,
    Unreadable,
)
from redis_router.replica.parts import Parts
from redis_router.store.messages import Event


class Reactions:
    """Called by the background's threads."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._view = parts.view
        self._registration = parts.registration
        self._unclaimable: set[str] = set()
        self._leaving: set[str] = set()  # providers that were taken out, and of which something is still kept here
        self.lock = threading.RLock()
        """Held while a record is taken in, so that the view sees records in their order; and while it is changed which
        providers are served."""

    def take_in(self, facts: Iterator[Fact]) -> None:
        """Act on what records say, one by one in their order; these facts wait for nothing."""
        while True:
            with self.lock:
                fact = next(facts, None)
                if fact is None:
                    break
                self._act(fact)

    def act_on(self, facts: Iterable[Fact]) -> None:
        """Act on what an exchange meets, as it goes on."""
        for fact in facts:
            self._act(fact)

    def remove(self, name: str) -> bool:
        """Stop routing to a provider; False where nobody did. What is kept of it goes when its results are settled."""
        with self.lock:
            was_served = self._view.remove(name)
            self._parts.records.forget(name)
            self._leaving.add(name)
        self._parts.outbox.urge()
        return was_served

    def forget_gone(self) -> None:
        """Drop what is kept of providers that are no more, when their last results are settled."""
        for name in list(self._leaving):
            with self.lock:  # it must not be registered again in between
                if name in self._parts.served.providers:
                    self._leaving.discard(name)
                elif not self._parts.outbox.carries(name):
                    self._leaving.discard(name)
                    self._unclaimable.discard(name)
                    for part in (self._parts.demand, self._parts.permits, self._registration, self._parts.metrics):
                        part.forget(name)

    def _act(self, fact: Fact) -> None:
        match fact:
            case Changed(old, new, by):
                self._view.take(new, first=old is None, by=by)
            case Stored(health, by):
                self.take_in(self._parts.records.apply(health, by))
            case Applied(reply, results, under_way):
                self._applied(reply.health, results, under_way)
            case Missing(name):
                self._join_or_restore(name)
            case Lost(name):
                self._registration.restore(name)
                self._parts.outbox.urge()
            case Refused(name, why, undecided):
                self._cannot_use(name, why, undecided)
            case Unreadable(name, why):
                self._view.news.error(f"the record of provider {name} cannot be used: {why}")
                self._view.decide_apart(name, [])
            case Deregistered(name):
                self._deregistered(name)
            case Claimed(name):
                self._unclaimable.discard(name)
                self._parts.waiters.ring(self._view.table.models.get(name, ()), 1)
            case Unclaimable(name, why) if name not in self._unclaimable:
                self._unclaimable.add(name)
                self._view.news.error(f"no trial calls for provider {name}: {why}")
            case Heard(event):
                self._heard(event)
            case Outdated():
                self._parts.push.look_again()
            case Led(epoch):
                self._parts.metrics.saw_epoch(epoch)

    def _applied(self, health: ProviderHealth | None, results: Sequence[Result], under_way: UnderWay) -> None:
        if health is None:
            return
        name = health.name
        if name not in self._parts.served.providers:
            self._leaving.add(name)  # a late result: the metrics have the provider again
            return
        if (candidate := self._view.table.candidates.get(name)) is not None:
            candidate.here.told = under_way
        self.take_in(self._parts.records.apply(health, self._parts.store.writer, accepted=True))
        if not self._view.alone.decides_on(name):
            self._view.decide(results)
        # one that came back without a verdict is for others first
        judged = (result.permit and result.outcome is not Outcome.IGNORED for result in results)
        if name in self._view.timing.on_trial and any(judged):
            self._parts.permits.returned(name)
        if candidate is None or not candidate.here.limited_until or self._view.alone.on_all:
            return
        if any(result.cooldown_ms and result.outcome is not Outcome.PACED for result in results):
            candidate.here.limited_until = 0.0  # from here on the record says it

    def _join_or_restore(self, name: str) -> None:
        """The store has no record of it: what was recorded goes once more, under its number."""
        if name not in self._parts.served.providers:
            self._parts.outbox.give_up(name, "deregistered")
        elif name in self._parts.records.copies:
            self._registration.restore(name)
        elif not self._registration.joins(name):
            self._registration.join(name)

    def _cannot_use(self, name: str, why: str, undecided: Sequence[Result]) -> None:
        if name not in self._parts.served.providers:
            return
        if self._parts.records.cannot_use(name, refused=True):
            self._view.news.error(f"the record of provider {name} cannot be used: {why}")
        self._view.decide_apart(name, undecided)

    def _deregistered(self, name: str) -> None:
        with self.lock:
            if not self._registration.joins(name) and self.remove(name):  # else registered again meanwhile
                self._view.news.warning(f"provider {name} was deregistered for the whole fleet")

    def _heard(self, event: Event) -> None:
        """An operator who puts a provider back into service ends the rate limit that this replica was told of, too."""
        candidate = self._view.table.candidates.get(event.provider)
        if candidate is not None and event.kind == "updated" and event.health is not None and event.health.available:
            candidate.here.limited_until = 0.0
