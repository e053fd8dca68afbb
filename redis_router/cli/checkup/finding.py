"""What a check looks at, and what it says."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from redis_router.store.connect import Client
from redis_router.store.contract import Snapshot, Store
from redis_router.store.server import Info, Node, nodes

Status = Literal["ok", "warning", "error"]

OK: Status = "ok"
WARNING: Status = "warning"
ERROR: Status = "error"


@dataclass(frozen=True, slots=True)
class Said:
    """What was found, with its value, and what to do: a sentence; '' where there is nothing to do."""

    status: Status
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """The same, with the name of the check: as `redis-router doctor --json` prints it."""

    check: str
    status: Status
    found: str
    advice: str


class Patient:
    """One namespace in one Redis, read once each. Each property raises RedisUnavailable or RedisRefused."""

    def __init__(self, url: str, client: Client, store: Store) -> None:
        self.url = url
        self.client = client
        self.store = store

    @cached_property
    def nodes(self) -> list[Node]:
        """The server, or the masters of a cluster."""
        return nodes(self.client)

    @cached_property
    def infos(self) -> list[tuple[Node, Info]]:
        """What each says of itself."""
        return [(node, node.info()) for node in self.nodes]

    @cached_property
    def snapshot(self) -> Snapshot:
        """The records, and who leads."""
        return self.store.snapshot()

    def each(self, judge: Callable[[Node, Info], Iterator[Said]]) -> Iterator[Said]:
        """What is said of each server, as `folded` tells it."""
        yield from folded([(node, said) for node, info in self.infos for said in judge(node, info)])


def folded(every: Sequence[tuple[Node, Said]]) -> Iterator[Said]:
    """What was said of one server; of a cluster, what is wrong, else what was said of its first."""
    if not any(node.name for node, _ in every):
        yield from (said for _, said in every)
        return
    for node, said in [each for each in every if each[1].status != OK] or every[:1]:
        yield Said(said.status, f"{node.name}: {said.found}", said.advice)
