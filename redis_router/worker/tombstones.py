"""Tombstones: what `rr:providers` keeps of providers that were deregistered, so that no replica brings one back."""

from redis_router.store.contract import Store

KEPT_MS = 7 * 86_400_000
"""For so long, as its log of events."""


def remove_old_tombstones(store: Store) -> list[str]:
    """Remove those of providers that were deregistered more than a week ago; their names.

    One without a moment was written by an older version: it stays until an operator purges it. Where a provider is
    registered in this very moment its new entry may go instead: its replicas notice, and write it anew.
    Raises RedisUnavailable or RedisRefused.
    """
    now_ms, _ = store.leader()
    old = [
        name
        for name, spec in store.specs().items()
        if spec.deregistered and spec.at_ms and now_ms - spec.at_ms > KEPT_MS
    ]
    for name in old:
        store.forget(name)
    return old
