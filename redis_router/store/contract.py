"""What a store of the shared state promises, whatever holds it. `redis.py` and `memory.py` keep it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from redis_router.circuit.config import CircuitConfig
from redis_router.circuit.outcome import NOTHING, Result, UnderWay
from redis_router.circuit.record import ProviderHealth
from redis_router.errors import RedisRefused, RouterError
from redis_router.provider import Provider
from redis_router.store.keys import Keys
from redis_router.store.messages import Event, Leader, LoggedEvent, Reply, Spec
from redis_router.store.presence import Presence, Surroundings


@dataclass(frozen=True, slots=True)
class Batch:
    """Results of one provider under one sequence number: applied once, however often it is sent.

    under_way  what this replica has under way there, or `GONE`
    """

    provider: str
    seq: int
    results: Sequence[Result]
    under_way: UnderWay = NOTHING


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything at one look: Redis's clock, who leads, and the records.

    A provider that was asked for was lost if it is neither deregistered nor unreadable, and has no record or no spec.

    deregistered  name -> when, ms since the epoch
    """

    now_ms: int
    leader: Leader | None
    specs: dict[str, Spec]
    deregistered: Mapping[str, int]
    unreadable: dict[str, RedisRefused]
    records: dict[str, ProviderHealth]


class Subscription(Protocol):
    """The push channel, read by one thread. All but `close` raise RedisUnavailable or RedisRefused."""

    def next(self, timeout: float) -> Literal["subscribed", "silence", "alive"] | Event:
        """The next event; "subscribed" after each (re)connect: pushes may be lost; "alive": any other sign of life."""

    def ping(self) -> None:
        """Ask for a sign of life: a hung server never breaks a connection that only listens."""

    def close(self) -> None:
        """Hang up, whatever state the connection is in."""


class Store(Protocol):
    """The shared state of one namespace. Every method raises RedisUnavailable or RedisRefused.

    `writer` names this process to people; `session` is this object's alone: sequence numbers and permits go by it, so
    that a process that starts again under its old name starts afresh.
    """

    keys: Keys
    writer: str
    session: str

    @property
    def time_out(self) -> float | None:
        """Seconds for which an answer is waited for; None for ever, or unknown."""

    @property
    def where(self) -> str:
        """What this is and where, for people: without credentials."""

    @property
    def is_shared(self) -> bool:
        """Do other replicas share it? Else it is what one decides by alone."""

    @property
    def has_workers(self) -> bool:
        """May a worker make the due transitions here? Else whoever sees that one is due makes it, at once."""

    def waits_for(self, thread: int | None) -> float:
        """Seconds for which the command that this thread sent has been on its way; 0 where there is none."""

    # Registration

    def register(
        self, provider: Provider, config: CircuitConfig, circuit_version: int = 0, *, observe: bool = False
    ) -> Reply:
        """Join the provider's record ('joined'), or write one where there is none ('created').

        'updated' where the record had settings of a lower version and has these now; 'declined' where it keeps its
        own, and nobody in the fleet has said so yet. A provider without a probe leaves the fleet's as it is;
        `NO_PROBE` takes it away. With `observe` a new record begins under that override; one that exists does not.
        """

    def restore(self, provider: Provider, copy: ProviderHealth) -> Reply:
        """Put a lost record back from this replica's copy ('created'), unless the store has a newer one ('joined').

        'deregistered', without a record: it is not lost.
        """

    def deregister(self, name: str) -> bool:
        """Take the provider out for the whole fleet; False when there was none."""

    def seen(self, names: Iterable[str], now_ms: int) -> None:
        """Say that a replica serves these providers at this moment of the store's clock."""

    def say_present(self, said: Presence) -> None:
        """Say that this process is there, at this moment of the store's clock; kept for `KEPT_MS`."""

    def say_gone(self) -> None:
        """Say that it leaves."""

    def specs(self) -> dict[str, Spec]:
        """What was registered, by the names of records; those that were deregistered, too."""

    # Outcomes and permits

    def record(self, batches: Sequence[Batch]) -> list[Reply | RouterError]:
        """Send batches, one per provider, in one round trip; an error in place of a reply concerns that batch alone."""

    def claim(self, name: str, tokens: Sequence[str], ttl_ms: int) -> tuple[int, list[str]]:
        """Claim half-open permits, or renew held ones: the record's generation and the tokens held now."""

    # Transitions and settings

    def half_open(self, name: str, epoch: int = 0) -> Reply:
        """Move an open circuit to half-open if it is due. `epoch` 0: a replica, because no worker leads.

        Called again after an error it tells what the first call did.
        """

    def update(
        self,
        name: str,
        fields: Mapping[str, str],
        source: Literal["operator", "probe"] = "operator",
        epoch: int = 0,
        *,
        by: str = "",
        reason: str = "",
    ) -> Reply:
        """Change settings of a record: `available`, `weight`, thresholds. `by` is the writer where it is ''."""

    def override(self, name: str, word: str, lasts_ms: float, weight: float, by: str, reason: str) -> Reply:
        """Say for a time what calls see of a provider: a word of `circuit/overrides.py`; `lasts_ms` 0 for ever.

        'end' ends all that is in force; 'lapse' what is over, which a worker says when its moment has come.
        """

    def reset(self, name: str, by: str, reason: str) -> Reply:
        """Close the circuit, and forget what calls taught."""

    # Election

    def campaign(self, lease_ms: int, seen: int = 0) -> tuple[str, Leader]:
        """'elected', 'renewed' or 'standby', and who leads now; a new term's epoch is above `seen`."""

    def resign(self, epoch: int) -> bool:
        """Give the lease back; False when this worker no longer held it."""

    def note_told(self, epoch: int, entries: Mapping[str, str]) -> bool:
        """Keep how far the logs were told, for the next leader; False where there is a newer one already."""

    # Reading

    def leader(self) -> tuple[int, Leader | None]:
        """The store's clock in ms, and who leads; None where nobody ever did."""

    def snapshot(self, names: Iterable[str] | None = None) -> Snapshot:
        """The records of `names`, or of every registered provider."""

    def lost(self, names: Sequence[str]) -> list[str]:
        """Those of these providers that have no record, or no spec."""

    def last_seen(self) -> dict[str, int]:
        """When a replica that serves it said so last, by provider; ms since the epoch."""

    def presences(self) -> list[Presence]:
        """The last word of each process that spoke lately; some that spoke earlier may be among them."""

    def surroundings(self, name: str) -> Surroundings:
        """What is kept of a provider beside its record. Permits and reporters take the right to `zrange`."""

    def events(self, name: str, since_ms: int = 0, most: int = 1000) -> list[LoggedEvent]:
        """A provider's log from this moment on, oldest first; the last `most` of it."""

    def news(self, after: Mapping[str, str], most: int = 1000) -> dict[str, list[LoggedEvent]]:
        """What came into these providers' logs after these entries, oldest first; the last `most` of each.

        Without those where nothing came, and without entries that cannot be read.
        """

    def told(self) -> dict[str, str]:
        """The last entry of each provider's log that was told; see `note_told`."""

    def last_event_ms(self, name: str) -> int:
        """When the last entry came into a provider's log, ms since the epoch; 0 where there is none."""

    def scan(self) -> Iterator[str]:
        """All keys that begin with the namespace, those of a longer one too."""

    def forget(self, name: str) -> None:
        """Drop what is said of a provider beside its record."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete keys, one by one: in a cluster they lie on different nodes."""

    def subscribe(self) -> Subscription:
        """Begin to listen; the first message says that the subscription stands."""
