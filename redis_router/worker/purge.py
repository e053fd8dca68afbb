"""`redis-router purge`: what nobody uses any more in a namespace, and taking it away."""

import re
from dataclasses import dataclass

from redis_router.store.contract import Snapshot, Store

_OURS = r"(providers|seen|\{leader\}|\{.+\}:(health|permits|reporters|events|seq:.+))"


LEAST_UNUSED_MS = 900_000
"""Replicas say every five minutes what they serve: who was silent for less is not gone."""

MARK_MS = 7 * 86_400_000
"""So long a provider that was deregistered is known as such: as long as its log of events stays."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A provider's record that no replica serves, or the mark of one that was deregistered, and for how long."""

    provider: str
    deregistered: bool
    unused_ms: float

    def __str__(self) -> str:
        what = "deregistered" if self.deregistered else "registered by no replica"
        return f"{self.provider}: {what} for {_words(self.unused_ms)}"


def leftovers(store: Store, unused_ms: float) -> list[Leftover]:
    """What was not used for so long. Raises RedisUnavailable or RedisRefused."""
    snapshot, seen = store.snapshot(), store.last_seen()
    found = [Leftover(name, False, _ms_unused(store, name, snapshot, seen)) for name in snapshot.specs]
    found += [Leftover(name, True, snapshot.now_ms - at_ms) for name, at_ms in snapshot.deregistered.items()]
    return sorted((each for each in found if each.unused_ms >= unused_ms), key=lambda each: each.provider)


def in_use(store: Store) -> list[str]:
    """A line for each provider that a replica served not long ago. Raises RedisUnavailable or RedisRefused."""
    (now_ms, _), seen = store.leader(), store.last_seen()
    ages = {name: now_ms - at_ms for name, at_ms in sorted(seen.items())}
    return [f"{name}: a replica served it {_words(age)} ago" for name, age in ages.items() if age < LEAST_UNUSED_MS]


def _ms_unused(store: Store, name: str, snapshot: Snapshot, seen: dict[str, int]) -> float:
    """Since a replica said that it serves it; those of an older version do not: since anything happened to it."""
    health = snapshot.records.get(name)
    used = max(seen.get(name, 0), health.last_result_ms if health is not None else 0) or store.last_event_ms(name)
    return snapshot.now_ms - used


def remove(store: Store, leftover: Leftover) -> None:
    """Take it away; its log of events stays for a week. Raises RedisUnavailable or RedisRefused.

    The mark that it was deregistered stays until a later purge: a replica that was silent must not bring it back.
    """
    if leftover.deregistered:
        store.forget(leftover.provider)
    else:
        store.deregister(leftover.provider)


def drop_marks(store: Store) -> list[str]:
    """Remove the marks of providers that were deregistered more than a week ago; their names.

    One without a moment was written by an older version: it stays until an operator purges it. Where a provider is
    registered in this very moment its new entry may go instead: its replicas notice, and write it anew.
    Raises RedisUnavailable or RedisRefused.
    """
    now_ms, _ = store.leader()
    old = [
        name
        for name, spec in store.specs().items()
        if spec.deregistered and spec.at_ms and now_ms - spec.at_ms > MARK_MS
    ]
    for name in old:
        store.forget(name)
    return old


def all_keys(store: Store) -> list[str]:
    """Every key of the namespace. Raises RedisUnavailable or RedisRefused."""
    ours = re.compile(re.escape(f"{store.keys.namespace}:") + _OURS)
    return sorted(key for key in store.scan() if ours.fullmatch(key))


def _words(ms: float) -> str:
    for unit, size in (("days", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if ms >= 2 * size:
            return f"{ms / size:.0f} {unit}"
    return f"{ms / 1000:.0f} s"
