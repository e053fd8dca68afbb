"""Puts records into Redis: joined when a provider is registered here, restored where Redis lost one."""

import time
from collections.abc import Callable

from redis_router.errors import AccessDenied, RedisRefused
from redis_router.replica.mirror import Mirror
from redis_router.replica.view import View
from redis_router.runtime.log import log
from redis_router.store.contract import Store

REFUSED_SECONDS = 5.0
"""Until a record that Redis refused is tried again."""
SEEN_SECONDS = 300.0
"""Between two times that a replica says which providers it serves."""


class Registrar:
    """What waits for it, and the engine's thread that does it.

    `on_deregistered` is told of a provider that is not lost; `on_refused` of a record that Redis refuses to use.
    """

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        view: View,
        on_deregistered: Callable[[str], None],
        on_refused: Callable[[str, str], None],
        circuit_version: int,
    ) -> None:
        self._circuit_version = circuit_version
        self._seen_at = -SEEN_SECONDS
        self._store = store
        self._mirror = mirror
        self._view = view
        self._on_deregistered = on_deregistered
        self._on_refused = on_refused
        self._to_join: dict[str, object] = {}
        self._to_restore: dict[str, object] = {}
        self._try_again_at: dict[str, float] = {}

    def join(self, *names: str) -> None:
        """These providers' records are joined at the next `put_right`."""
        self._to_join.update({name: object() for name in names})

    def restore(self, name: str) -> None:
        """Redis lost this record: it is put back at the next `put_right`."""
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

    def put_right(self) -> None:
        """Join and restore what waits; a record that Redis refuses waits on and holds up no other.

        Raises RedisUnavailable, and AccessDenied, which is no matter of one record.
        """
        now = time.monotonic()
        for waiting, act in ((self._to_join, self._join), (self._to_restore, self._restore)):
            for name, asked in list(waiting.items()):
                if now < self._try_again_at.get(name, 0.0):
                    continue
                try:
                    act(name)
                except AccessDenied:
                    raise
                except RedisRefused as error:
                    self._on_refused(name, str(error))
                    self._try_again_at[name] = now + REFUSED_SECONDS
                else:
                    if waiting.get(name) is asked:  # else it was asked for once more meanwhile
                        waiting.pop(name, None)

    def say_seen(self) -> None:
        """Tell the fleet from time to time which providers are served here. Raises RedisUnavailable."""
        now, redis_now = time.monotonic(), self._mirror.redis_now_ms()
        if now - self._seen_at < SEEN_SECONDS or redis_now is None or not self._view.providers:
            return
        self._seen_at = now
        try:
            self._store.seen(list(self._view.providers), round(redis_now))
        except RedisRefused as error:
            log.warning("cannot note which providers are in use, for `redis-router purge`: %s", error)

    def _join(self, name: str) -> None:
        provider, config = self._view.providers.get(name), self._view.configs.get(name)
        if provider is None or config is None:
            return
        reply = self._store.register(provider, config, self._circuit_version)
        health = reply.health
        if health is None:
            raise RedisRefused(reply.unreadable)
        self._mirror.apply(health, self._store.writer)
        self._seen_at = -SEEN_SECONDS
        if reply.status == "updated":
            log.warning("provider %s has the settings of circuit_version %d now", name, self._circuit_version)
        elif reply.status == "declined":
            differing = health.config.differences(config)
            if health.weight != provider.weight:
                differing.append(f"weight {health.weight:g} -> {provider.weight:g}")
            log.warning(
                "provider %s keeps the settings of its record: %s not taken; Router(circuit_version=%d) makes the"
                " thresholds given here count, set_circuit_config and update_health(name, weight=...) change them",
                name,
                ", ".join(differing),
                health.circuit_version + 1,
            )

    def _restore(self, name: str) -> None:
        provider, copy = self._view.providers.get(name), self._mirror.records.get(name)
        if provider is None or copy is None:
            return
        reply = self._store.restore(provider, copy)
        if reply.unreadable:
            raise RedisRefused(reply.unreadable)
        if reply.health is None:
            self._on_deregistered(name)
            return
        if reply.status == "created":
            log.warning("Redis had lost the record of %s: it is %s again", name, reply.health.circuit_state)
        self._mirror.apply(reply.health)
