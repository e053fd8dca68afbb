"""What follows from a choice: a permit is spent, demand for one is noted, or NoProviderAvailable is raised."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

from redis_router.circuit.generations import NO_GENERATION
from redis_router.errors import NoProviderAvailable, UnknownProvider
from redis_router.replica.engine import Engine
from redis_router.replica.permits import Permit
from redis_router.routing.candidate import Candidate
from redis_router.routing.choose import Nobody, Rules, Tried, another_is_left, choose
from redis_router.routing.table import is_half_open, is_routable


class Choice(NamedTuple):
    """A provider, the half-open permit for it (None for an ordinary call), and what to ask it for."""

    candidate: Candidate
    permit: Permit | None
    model: str


class Chooser:
    """Chooses for one router, by the table of this moment."""

    def __init__(self, engine: Engine, rules: Rules) -> None:
        self.rules = rules
        self._engine = engine
        self._view = engine.view

    def choose(self, models: Sequence[str], *, tried: Tried = (), excluded: Collection[str] = ()) -> Choice:
        """As `routing.choose`, with a permit in hand where the call needs one. Raises NoProviderAvailable."""
        without_permit: set[str] = set()
        while True:
            found = choose(
                self._view.table, models, self.rules, tried=tried, excluded=excluded, without_permit=without_permit
            )
            for model in found.demand:
                self._engine.want(model)
            if isinstance(found, Nobody):
                raise NoProviderAvailable.merged(
                    [NoProviderAvailable.because(refusal.model, refusal.why) for refusal in found.refusals]
                )
            if not found.on_trial:
                return Choice(found.candidate, None, found.model)
            name = found.candidate.health.name
            permit = self._engine.permits.take(name)
            if permit is not None:
                self._engine.outbox.urge()  # to claim the next
                return Choice(found.candidate, permit, found.model)
            without_permit.add(name)  # whether there is one shows when it is taken: another thread may be faster

    def at(self, name: str, model: str) -> Choice:
        """The provider of this name, whatever its state, with a permit where it is on trial and one is in hand.

        A call that nobody should make moves the averages and no circuit. Raises UnknownProvider.
        """
        selector = self._view.table.find(model)
        serving = selector.candidates if selector is not None else ()
        candidate = next((c for c in serving if name in (c.provider.name, c.health.name)), None)
        if candidate is None:
            raise UnknownProvider.among(name, (c.provider.name for c in serving), f"for model {model!r}")
        if is_routable(candidate.health, self.rules.now_ms()):
            return Choice(candidate, None, model)
        permit = None
        if is_half_open(candidate.health):
            self._engine.want(model)
            permit = self._engine.permits.take(candidate.health.name)
        if permit is None:
            health = replace(candidate.health, generation=NO_GENERATION)
            return Choice(Candidate(candidate.provider, health, candidate.here), None, model)
        self._engine.outbox.urge()  # to claim the next
        return Choice(candidate, permit, model)

    def another_is_left(self, models: Sequence[str], tried: Tried) -> bool:
        """May a call go now, without a permit, to somebody who was not tried for that model?"""
        return another_is_left(self._view.table, models, self.rules, tried)

    def serving(self, model: str) -> list[str]:
        """The names of the records that serve a model, whatever their state."""
        return self._view.table.records_serving(model)
