"""Who is there, and whose view differs: in words and as JSON, for `redis-router replicas` and for the page."""

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from redis_router.operate.words import lasted
from redis_router.replicas import Replica, ViewState, counts

MOST_NAMED = 3
LONG_MS = 1000
"""Who was alone for less is not worth a word."""


def state(replica: Replica) -> str:
    """in step, behind, alone or silent."""
    return replica.state.replace("_", " ")


def view(replica: Replica, now_ms: int) -> str:
    """What is to be said of its view; '' where there is nothing: openai: sees closed 5, is open 6 for 14 s."""
    said = []
    if replica.state is ViewState.SILENT:
        said.append("dead, frozen or cut off from Redis")
    for each in replica.differences[:MOST_NAMED]:
        said.append(f"{each.provider}: saw {each.sees}, was {each.record} for {lasted(each.for_ms)}")
    for provider, circuit in sorted(replica.own.items())[:MOST_NAMED]:
        said.append(f"{provider}: decides by itself, {circuit}")
    more = max(0, len(replica.differences) - MOST_NAMED) + max(0, len(replica.own) - MOST_NAMED)
    said += [f"and {more} more"] if more else []
    if replica.alone_ms >= LONG_MS:  # a frozen process was alone for a moment, as far as it can tell
        back = lasted(max(0, now_ms - replica.alone_until_ms))
        said.append(f"was alone for {lasted(replica.alone_ms)}, until {back} ago")
    return "; ".join(said)


def summary(replicas: Collection[Replica]) -> str:
    """replicas: 3, workers: 2, differ: 1 behind."""
    there, ways = counts(replicas)
    differ = ", ".join(f"{number} {way}" for way, number in ways.items() if number) or "none"
    return f"replicas: {there['gateway']}, workers: {there['worker']}, differ: {differ}"


def as_json(replica: Replica) -> dict[str, Any]:
    """Every field, and whether it differs."""
    return {**asdict(replica), "state": str(replica.state), "differs": replica.differs}
