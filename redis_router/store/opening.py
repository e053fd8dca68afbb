"""Which store a target means: Redis by a URL or a client, or this process's memory."""

from typing import Any

from redis_router.store.connect import Client, connect
from redis_router.store.contract import Store
from redis_router.store.memory import MemoryStore
from redis_router.store.memory_records import Memory
from redis_router.store.redis import RedisStore

_MEMORY = "memory://"


def open_target(target: Any) -> Client | Memory:
    """A client for a URL, or what was given; `memory://` and `memory://name`: what this process has under that name.

    Raises InvalidArgument as `connect` does. Opens no connection.
    """
    if isinstance(target, Memory):
        return target
    if isinstance(target, str) and target.startswith(_MEMORY):
        return Memory.named(target.removeprefix(_MEMORY))
    return connect(target)


def open_store(
    opened: Client | Memory, namespace: str, writer: str, push_interval_ms: int = 500, now_ms: int | None = None
) -> Store:
    """One namespace of it, for one process. `now_ms` is a test's own moment in place of the store's clock."""
    kind: Any = MemoryStore if isinstance(opened, Memory) else RedisStore
    store: Store = kind(opened, namespace, writer, push_interval_ms, now_ms)
    return store
