"""Which gateways and workers are there, and whose view of the fleet differs.

Each says from time to time who it is and how it sees the circuits. Who reads it compares that with the records: what
it should have known when it spoke. A provider that a replica does not serve, or does not speak of, is no difference.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from redis_router.circuit.record import ProviderHealth, TakenOutBy
from redis_router.errors import RedisRefused
from redis_router.store.contract import Snapshot, Store
from redis_router.store.messages import Leader
from redis_router.store.presence import GATEWAY, KEPT_MS, LEADER, STANDBY, Presence

SAID_EVERY = 10.0
"""Seconds between two words of a process."""
SILENT_MS = 30_000
"""Three words of it are missing: it is dead, frozen, or cut off from Redis."""
KNOWN_AFTER_MS = 5_000
"""What changed so long before a word was said is known to whoever said it: a push takes milliseconds."""


class ViewState(StrEnum):
    """How a process's view stands to the fleet's.

    in_step  as the records
    behind   it spoke, and did not know what it should have
    alone    it decides by itself on a provider, whatever the record says
    silent   it has not spoken for half a minute
    """

    IN_STEP = "in_step"
    BEHIND = "behind"
    ALONE = "alone"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Difference:
    """One provider as a process saw it, and as its record had been for so long when it said so."""

    provider: str
    sees: str
    record: str
    for_ms: int


@dataclass(frozen=True, slots=True)
class Replica:
    """One process of the fleet, by its last word. Moments are ms since the epoch, on Redis's clock.

    name, role       as in logs; gateway, leader or standby
    version          of the library
    state            see `ViewState`; the worst that applies
    since_ms         when it began
    seen_ms          when it spoke last, `silent_ms` ago
    sees             record -> how it saw it, of up to 200: a gateway its own, a worker all; see `word_of`
    differences      for behind
    own              record -> its circuit here, where this process decides by itself
    alone_until_ms   when it was in touch again after it had been out of touch last, for `alone_ms`; 0 for never
    """

    name: str
    role: str
    version: str
    host: str
    pid: int
    session: str
    state: ViewState
    since_ms: int
    seen_ms: int
    silent_ms: int
    sees: Mapping[str, str]
    differences: tuple[Difference, ...] = ()
    own: Mapping[str, str] = field(default_factory=dict)
    alone_ms: int = 0
    alone_until_ms: int = 0

    @property
    def differs(self) -> bool:
        """Is its view, as far as is known, another one than the fleet's?"""
        return self.state is not ViewState.IN_STEP

    @property
    def is_gateway(self) -> bool:
        """Or a worker?"""
        return self.role == GATEWAY


def word_of(health: ProviderHealth) -> str:
    """How a record is seen, in short: `closed 5`, `open 6`, `closed 5 drain`, `closed 7 operator`.

    The state, the generation, and what keeps calls away beside the circuit.
    """
    by = health.unavailable_reason if health.unavailable_reason in (TakenOutBy.OPERATOR, TakenOutBy.PROBE) else ""
    return " ".join(part for part in (health.circuit_state, str(health.generation), health.override, by) if part)


def replicas(store: Store) -> list[Replica]:
    """Who is there, by name. Raises RedisUnavailable or RedisRefused."""
    said = store.presences()  # first: what a process knew by then, the records below know, too
    return compared(said, store.snapshot())


def presences(store: Store) -> list[Presence] | None:
    """The words of all; None where Redis refuses them: the records are what matters. Raises RedisUnavailable."""
    try:
        return store.presences()
    except RedisRefused:
        return None


def compared(said: Iterable[Presence], snapshot: Snapshot) -> list[Replica]:
    """The same, from what was read; the words before the records."""
    found = [_compared(each, snapshot) for each in said if abs(snapshot.now_ms - each.seen_ms) <= KEPT_MS]
    found = _with_leader(found, snapshot.leader)
    return sorted(found, key=lambda each: (not each.is_gateway, each.name, each.since_ms))


def _with_leader(found: Sequence[Replica], leader: Leader | None) -> list[Replica]:
    """The lease says who leads, not an old word: of those that died, several may have led."""
    leads = leader.worker if leader is not None and leader.remaining_ms > 0 else None
    workers = [each for each in found if each.role in (LEADER, STANDBY)]
    named = [each for each in workers if each.name == leads]
    session = max(named, key=lambda each: each.seen_ms).session if named else None
    roles = {each.session: LEADER if each.session == session else STANDBY for each in workers}
    return [replace(each, role=roles.get(each.session, each.role)) for each in found]


def counts(fleet: Collection[Replica]) -> tuple[dict[str, int], dict[str, int]]:
    """How many there are, gateways and workers, and how many of them differ, in each way."""
    gateways = sum(each.is_gateway for each in fleet)
    ways = [way for way in ViewState if way is not ViewState.IN_STEP]
    differ = {str(way): sum(each.state is way for each in fleet) for way in ways}
    return {"gateway": gateways, "worker": len(fleet) - gateways}, differ


def _compared(said: Presence, snapshot: Snapshot) -> Replica:
    silent_ms = max(0, snapshot.now_ms - said.seen_ms)
    differences = tuple(
        difference
        for name, word in sorted(said.view.items())
        if name not in said.own and name in snapshot.records
        if (difference := _difference(word, snapshot.records[name], said.seen_ms)) is not None
    )
    if silent_ms > SILENT_MS:
        state = ViewState.SILENT
    elif differences:
        state = ViewState.BEHIND
    else:
        state = ViewState.ALONE if said.own else ViewState.IN_STEP
    return Replica(
        said.name,
        said.role,
        said.version,
        said.host,
        said.pid,
        said.session,
        state,
        since_ms=said.seen_ms - said.up_ms,
        seen_ms=said.seen_ms,
        silent_ms=silent_ms,
        sees=said.view,
        differences=differences,
        own=said.own,
        alone_ms=said.alone_ms,
        alone_until_ms=said.seen_ms - said.back_ms if said.alone_ms else 0,
    )


def _difference(sees: str, health: ProviderHealth, seen_ms: int) -> Difference | None:
    """None where it saw the record as it is, or could not know better yet."""
    record = word_of(health)
    if sees == record:
        return None
    generation = _generation(sees)
    if generation != health.generation:  # a higher one: Redis lost what it knew
        record = f"{health.circuit_state} {health.generation}"  # since when the rest of the word holds is not known
        changed_ms = health.last_state_change_ms if generation < health.generation else seen_ms - KNOWN_AFTER_MS
    else:  # what an operator or a probe said; results may have come since, and then it cannot be told
        changed_ms = health.version // 1000
    for_ms = seen_ms - changed_ms
    return Difference(health.name, sees, record, for_ms) if for_ms >= KNOWN_AFTER_MS else None


def _generation(word: str) -> int:
    number = word.split(" ")[1:2]
    return int(number[0]) if number and number[0].isdecimal() and len(number[0]) < 16 else 0
