"""What operators tell the whole fleet through a router. Unlike requests it waits for Redis, and raises."""

from collections.abc import Callable
from functools import partial

from redis_router.circuit.config import CircuitConfig
from redis_router.circuit.generations import as_the_fleet_counts
from redis_router.circuit.record import CircuitState, ProviderHealth
from redis_router.errors import InvalidArgument, RedisRefused, RouterError, UnknownProvider
from redis_router.overriding import ALL, Overriding, check_config, names_in_fleet
from redis_router.replica.engine import Engine
from redis_router.runtime.log import log
from redis_router.store.messages import Reply

JOIN_SECONDS = 5.0
"""For so long an operator's call waits for the record of a provider that was registered a moment ago."""


class Operators:
    """For the providers that one replica knows, and those that only others serve."""

    def __init__(self, engine: Engine, replica: str) -> None:
        self._engine = engine
        self._served = engine.served
        self._replica = replica

    def check_open(self) -> None:
        """Raises RouterError where the router was closed."""
        if self._engine.closed:
            raise RouterError("this router was closed: make a new one")

    # Which records a name stands for

    def known_here(self, name: str) -> list[str]:
        """The names of a provider's records here: its own, or one for each model; [] where it is not registered."""
        if not isinstance(name, str):
            return []
        records = self._served.records_of(name)
        return [*records, name] if name in self._served.providers and name not in records else records

    def records(self, name: str) -> list[str]:
        """The same. Raises UnknownProvider."""
        found = self.known_here(name)
        if found:
            return found
        raise UnknownProvider.among(name, self._names_here())

    def records_in_fleet(self, name: str) -> list[str]:
        """The same, also of a provider, or of its models, that only others serve. Raises as `Router.update_health`."""
        self.check_open()
        fleet = {record: spec.provider for record, spec in self._engine.store.specs().items() if not spec.deregistered}
        found = [*self.known_here(name), *(record for record, whole in fleet.items() if name in (record, whole))]
        if found:
            return list(dict.fromkeys(found))
        raise UnknownProvider.among(name, {*fleet.values(), *self._names_here()}, "registered, here or in the fleet,")

    def _names_here(self) -> set[str]:
        return {candidate.provider.name for candidate in self._engine.view.table.candidates.values()}

    # Changes

    def deregister(self, name: str, *, everywhere: bool) -> None:
        """See `Router.deregister_provider`."""
        records = self.records_in_fleet(name) if everywhere else self.records(name)
        here = [record for record in records if record in self._served.providers]
        for record in here:
            self._engine.remove(record)
        if everywhere and here:
            self._engine.flush(JOIN_SECONDS)  # a join that is under way must not come after us
        for record in records if everywhere else ():
            self._engine.store.deregister(record)

    def update(self, name: str, fields: dict[str, str], by: str, reason: str) -> None:
        """See `Overriding.update_health`."""
        for record in self._meant(name):
            self._update(record, fields, by, reason)

    def override(self, name: str, word: str, lasts_ms: int, weight: float, by: str, reason: str) -> None:
        """See `Overriding.override`."""
        for record in self._meant(name):
            self._write(record, partial(self._engine.store.override, record, word, lasts_ms, weight, by, reason))

    def reset(self, name: str, by: str, reason: str) -> None:
        """See `Overriding.reset`."""
        for record in self._meant(name):
            self._write(record, partial(self._engine.store.reset, record, by, reason))

    def _meant(self, name: str) -> list[str]:
        self.check_open()
        return names_in_fleet(self._engine.store, ALL) if name == ALL else self.records_in_fleet(name)

    def set_circuit_config(self, config: CircuitConfig, provider: str | None, by: str, reason: str) -> bool:
        """See `Router.set_circuit_config`; False where it is for all that are registered here, and nobody is."""
        in_redis = self._engine.running or self._engine.closed
        if provider is None:
            records = list(self._served.providers)
        elif in_redis or not self.known_here(provider):
            records, in_redis = self.records_in_fleet(provider), True
        else:
            records = self.records(provider)
        for record in records:
            if record in self._served.providers:
                self._served.configs[record] = config
            if in_redis:
                self._update(record, config.to_fields(), by, reason)
        return bool(records)

    def _update(self, name: str, fields: dict[str, str], by: str, reason: str) -> None:
        self._write(name, partial(self._engine.store.update, name, fields, by=by, reason=reason))

    def _write(self, name: str, write: Callable[[], Reply]) -> None:
        self.check_open()
        reply = write()
        if reply.health is None and self._engine.running and self._engine.flush(JOIN_SECONDS):
            reply = write()  # it was registered a moment ago, and is joined now
        if reply.health is None:
            raise RedisRefused(f"provider {name!r} has no record in Redis: call start() on a router that registers it")
        self._engine.apply(reply.health, self._replica)


class Operated(Overriding):
    """What operators ask of a router, and say to the fleet through it."""

    _engine: Engine
    _operators: Operators
    _circuit: CircuitConfig

    def _say(self, name: str, word: str, lasts_ms: int, weight: float, by: str, reason: str) -> None:
        self._operators.override(name, word, lasts_ms, weight, by, reason)

    def _reset(self, name: str, by: str, reason: str) -> None:
        self._operators.reset(name, by, reason)

    def _update(self, name: str, fields: dict[str, str], by: str, reason: str) -> None:
        self._operators.update(name, fields, by, reason)

    def get_health_status(self) -> dict[str, ProviderHealth]:
        """Every registered provider's record as this replica knows it, all fields.

        By the record's name: a provider with `circuit_per_model` has one for each model, `name/model`.
        """
        found = {name: candidate.health for name, candidate in self._engine.view.table.candidates.items()}
        return {name: as_the_fleet_counts(health) for name, health in found.items()}

    def get_circuit_state(self, name: str, model: str | None = None) -> CircuitState:
        """The circuit of one provider as this replica knows it; of its model, with `circuit_per_model`.

        Raises UnknownProvider, and InvalidArgument where `model` is missing.
        """
        records = self._operators.records(
            name if model is None or name in self._engine.view.table.candidates else f"{name}/{model}"
        )
        if len(records) > 1:
            raise InvalidArgument(f"provider {name!r} has a circuit for each model: give model=")
        return self._engine.view.table.candidates[records[0]].health.circuit_state

    def set_circuit_config(
        self, config: CircuitConfig, provider: str | None = None, *, reason: str = "", by: str | None = None
    ) -> None:
        """Change the thresholds of one provider, or of all that are registered here; at once for the whole fleet.

        Without `provider` it also holds for those registered here later. Before `start()` it sets what records that do
        not exist yet are made with. One that is named need not be registered here. Waits and raises as `update_health`.
        """
        by = self._signed(by, reason)
        check_config(config)
        if provider is None:
            self._circuit = config
        if not self._operators.set_circuit_config(config, provider, by, reason):
            log.warning("no provider is registered here: these thresholds hold for later ones; name one of the fleet")

    def deregister_provider(self, name: str, *, everywhere: bool = False) -> None:
        """Stop routing to a provider here; `everywhere` deletes its shared record too, and every replica drops it.

        Then it need not be registered here, and its log of events stays for a week.
        Raises UnknownProvider, and with `everywhere` RedisUnavailable or RedisRefused.
        """
        self._operators.deregister(name, everywhere=everywhere)
