"""`redis-router purge`: what nobody uses any more in a namespace, and taking it away."""

import re
from dataclasses import dataclass

from redis_router.store import Snapshot, Store

_OURS = r"(providers|seen|\{leader\}|\{.+\}:(health|permits|reporters|events|seq:.+))"


@dataclass(frozen=True, slots=True)
class Leftover:
    """A provider's record that no replica serves, or the mark of one that was deregistered; `days` since then."""

    provider: str
    deregistered: bool
    days: float

    def __str__(self) -> str:
        what = "deregistered" if self.deregistered else "registered by no replica"
        return f"{self.provider}: {what} for {self.days:.1f} days"


def leftovers(store: Store, unused_ms: float) -> list[Leftover]:
    """What was not used for so long. Raises RedisUnavailable or RedisRefused."""
    snapshot, seen = store.snapshot(), store.last_seen()
    found = [Leftover(name, False, _ms_unused(store, name, snapshot, seen) / 86_400_000) for name in snapshot.specs]
    found += [Leftover(n, True, (snapshot.now_ms - at_ms) / 86_400_000) for n, at_ms in snapshot.deregistered.items()]
    return sorted((each for each in found if each.days * 86_400_000 >= unused_ms), key=lambda each: each.provider)


def _ms_unused(store: Store, name: str, snapshot: Snapshot, seen: dict[str, int]) -> float:
    """Since a replica said that it serves it; those of an older version do not: since anything happened to it."""
    health = snapshot.records.get(name)
    used = max(seen.get(name, 0), health.last_result_ms if health is not None else 0) or store.last_event_ms(name)
    return snapshot.now_ms - used


def remove(store: Store, leftover: Leftover) -> None:
    """Take it away; its log of events stays for a week. Raises RedisUnavailable or RedisRefused."""
    if not leftover.deregistered:
        store.deregister(leftover.provider)
    store.forget(leftover.provider)


def all_keys(store: Store) -> list[str]:
    """Every key of the namespace. Raises RedisUnavailable or RedisRefused."""
    ours = re.compile(re.escape(f"{store.keys.namespace}:") + _OURS)
    return sorted(key for key in store.scan() if ours.fullmatch(key))
