"""Puts records into the store: joined when a provider is registered here, restored where the store lost one."""

import time
from collections.abc import Iterator

from redis_router.circuit.config import CircuitConfig
from redis_router.circuit.record import ProviderHealth
from redis_router.errors import AccessDenied, RedisRefused
from redis_router.provider import Provider
from redis_router.replica.facts import Deregistered, Fact, Refused, Stored
from redis_router.replica.records import Records
from redis_router.replica.served import Served
from redis_router.runtime.log import log
from redis_router.store.contract import Store
from redis_router.store.messages import Status

REFUSED_SECONDS = 5.0
"""Until a record that Redis refused is tried again."""
SEEN_SECONDS = 300.0
"""Between two times that a replica says which providers it serves."""


class Registration:
    """What waits for it; the thread that talks to the store does it."""

    def __init__(self, served: Served, records: Records, circuit_version: int, observe: bool) -> None:
        self._served = served
        self._records = records
        self._circuit_version = circuit_version
        self._observe = observe
        self._seen_at = -SEEN_SECONDS
        self._to_join: dict[str, object] = {}
        self._to_restore: dict[str, object] = {}
        self._try_again_at: dict[str, float] = {}

    def join(self, *names: str) -> None:
        """These providers' records are joined at the next `put_right`."""
        self._to_join.update({name: object() for name in names})

    def restore(self, name: str) -> None:
        """The store lost this record: it is put back at the next `put_right`."""
        self._to_restore[name] = object()

    def joins(self, name: str) -> bool:
        """Does this provider wait to be joined?"""
        return name in self._to_join

    def forget(self, name: str) -> None:
        """This provider is no more."""
        for kept in (self._to_join, self._to_restore, self._try_again_at):
            kept.pop(name, None)

    @property
    def busy(self) -> bool:
        """Does anything wait?"""
        return bool(self._to_join or self._to_restore)

    def put_right(self, store: Store) -> Iterator[Fact]:
        """Join and restore what waits; a record that is refused waits on and holds up no other.

        Raises RedisUnavailable, and AccessDenied, which is no matter of one record.
        """
        now = time.monotonic()
        for waiting, act in ((self._to_join, self._join), (self._to_restore, self._restore)):
            for name, asked in list(waiting.items()):
                if now < self._try_again_at.get(name, 0.0):
                    continue
                try:
                    yield from act(store, name)
                except AccessDenied:
                    raise
                except RedisRefused as error:
                    yield Refused(name, str(error))
                    self._try_again_at[name] = now + REFUSED_SECONDS
                else:
                    if waiting.get(name) is asked:  # else it was asked for once more meanwhile
                        waiting.pop(name, None)

    def say_seen(self, store: Store) -> None:
        """Tell the fleet from time to time which providers are served here. Raises RedisUnavailable."""
        now, redis_now, names = time.monotonic(), self._records.redis_now_ms(), list(self._served.providers)
        if now - self._seen_at < SEEN_SECONDS or redis_now is None or not names:
            return
        self._seen_at = now
        try:
            store.seen(names, round(redis_now))
        except RedisRefused as error:
            log.warning("cannot note which providers are in use, for `redis-router purge`: %s", error)

    def _join(self, store: Store, name: str) -> Iterator[Fact]:
        provider, config = self._served.providers.get(name), self._served.configs.get(name)
        if provider is None or config is None:
            return
        reply = store.register(provider, config, self._circuit_version, observe=self._observe)
        if reply.health is None:
            raise RedisRefused(reply.unreadable)
        yield Stored(reply.health, store.writer)
        self._seen_at = -SEEN_SECONDS
        if reply.status is Status.UPDATED:
            log.warning("provider %s has the settings of circuit_version %d now", name, self._circuit_version)
        elif reply.status is Status.DECLINED:
            _say_declined(provider, config, reply.health)

    def _restore(self, store: Store, name: str) -> Iterator[Fact]:
        provider, copy = self._served.providers.get(name), self._records.copies.get(name)
        if provider is None or copy is None:
            return
        reply = store.restore(provider, copy)
        if reply.unreadable:
            raise RedisRefused(reply.unreadable)
        if reply.health is None:
            yield Deregistered(name)
            return
        if reply.status is Status.CREATED:
            log.warning("Redis had lost the record of %s: it is %s again", name, reply.health.circuit_state)
        yield Stored(reply.health)


def _say_declined(provider: Provider, config: CircuitConfig, health: ProviderHealth) -> None:
    differing = health.config.differences(config)
    if health.weight != provider.weight:
        differing.append(f"weight {health.weight:g} -> {provider.weight:g}")
    log.warning(
        "provider %s keeps the settings of its record: %s not taken; Router(circuit_version=%d) makes the"
        " thresholds given here count, set_circuit_config and update_health(name, weight=...) change them",
        provider.name,
        ", ".join(differing),
        health.circuit_version + 1,
    )
