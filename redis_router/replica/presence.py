"""Says who this process is and how it sees the fleet: a short word in Redis every ten seconds, and at an outage's end.

Nothing of it is on the request path, and no clock of this machine counts: only how long things lasted is told.
"""

import os
import random
import socket
import time
from collections.abc import Iterable, Mapping, Sized
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from redis_router.circuit.generations import is_local
from redis_router.circuit.record import CircuitState, ProviderHealth
from redis_router.errors import RedisRefused
from redis_router.replica.alone import Alone
from redis_router.replicas import SAID_EVERY, word_of
from redis_router.runtime.log import log
from redis_router.store.contract import Store
from redis_router.store.presence import Presence

NEWS_SECONDS = 1.0
"""Between two words of providers that are registered one after the other."""
MOST_TOLD = 200
"""Of so many records at most a word tells, those that are not closed first."""


@cache
def library_version() -> str:
    """Of this library; '' where it is not installed."""
    try:
        return version("redis-llm-router")
    except PackageNotFoundError:
        return ""


class Present:
    """One process's. One thread uses it."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._said_at = self._say_at = 0.0
        self._knew = 0  # so many records
        self._was_alone: tuple[float, float] | None = None
        self._role = ""
        self._version = library_version()
        self._host = socket.gethostname()[:64]
        self._is_said = False
        self._was_refused = False

    def is_due(self, role: str, records: Sized, alone: Alone | None = None) -> bool:
        """Is it time for a word, or is there news of this process itself?"""
        if role != self._role or (alone is not None and alone.was != self._was_alone):
            return True
        now = time.monotonic()
        return now >= self._say_at or (len(records) != self._knew and now >= self._said_at + NEWS_SECONDS)

    def say(
        self,
        store: Store,
        role: str,
        records: Mapping[str, ProviderHealth],
        own: Mapping[str, str] | None = None,
        alone: Alone | None = None,
    ) -> None:
        """Say it now. Raises RedisUnavailable; where Redis refuses it, the log says so once."""
        now = time.monotonic()
        self._role, self._was_alone = role, None if alone is None else alone.was
        self._said_at, self._knew = now, len(records)
        self._say_at = now + SAID_EVERY * random.uniform(0.9, 1.1)
        began, ended = self._was_alone or (now, now)
        said = Presence(
            store.session,
            store.writer,
            role,
            self._version,
            self._host,
            os.getpid(),
            round((now - self._began) * 1000),
            round((ended - began) * 1000),
            round((now - ended) * 1000),
            told(records.values()),
            dict(own or {}),
        )
        try:
            store.say_present(said)
            self._is_said = True
        except RedisRefused as error:
            if not self._was_refused:
                log.warning("cannot tell that this process is there, for `redis-router replicas`: %s", error)
            self._was_refused = True

    def say_gone(self, store: Store) -> None:
        """This process leaves. Raises RedisUnavailable or RedisRefused."""
        if self._is_said:
            store.say_gone()


def told(records: Iterable[ProviderHealth]) -> dict[str, str]:
    """How these are seen, in words; of more than `MOST_TOLD` those that matter most."""
    every = list(records)
    if len(every) > MOST_TOLD:
        every = sorted(every, key=lambda health: health.circuit_state is CircuitState.CLOSED)[:MOST_TOLD]
    return {health.name: word_of(health) for health in every}


def decided_here(shown: Iterable[ProviderHealth], alone: Alone) -> dict[str, str]:
    """The circuits that are this replica's own word and not the fleet's, and what they are here."""
    return {
        health.name: health.circuit_state.value
        for health in shown
        if health.name in alone.unusable or is_local(health.generation)
    }
