"""What the parts of the background found out. They return it, and whoever runs them acts on it."""

from collections.abc import Sequence
from dataclasses import dataclass

from redis_router.circuit.outcome import Result
from redis_router.circuit.record import ProviderHealth
from redis_router.store.messages import Event, Reply


@dataclass(frozen=True, slots=True)
class Changed:
    """A newer record is known; `by` is the process that caused it, '' where that is unknown. `old` None: the first."""

    old: ProviderHealth | None
    new: ProviderHealth
    by: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The store has no record of this provider any more, or an older one, and nobody deregistered it."""

    provider: str


@dataclass(frozen=True, slots=True)
class Deregistered:
    """The provider was taken out for the whole fleet."""

    provider: str


@dataclass(frozen=True, slots=True)
class Outdated:
    """What was heard says that everything should be read anew."""


@dataclass(frozen=True, slots=True)
class Heard:
    """Any event, after it was taken in."""

    event: Event


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The record of this provider cannot be read, since now."""

    provider: str
    why: str


@dataclass(frozen=True, slots=True)
class Stored:
    """The record as the store has it after what this replica did; `by` as in `Changed`."""

    health: ProviderHealth
    by: str = ""


@dataclass(frozen=True, slots=True)
class Led:
    """A worker leads, in this term."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Applied:
    """The store took these results; the reply has the record after them."""

    reply: Reply
    results: Sequence[Result]


@dataclass(frozen=True, slots=True)
class Missing:
    """The store has no record for results of this provider: they wait."""

    provider: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The record of this provider is refused, or cannot be read; nobody decided on `undecided`."""

    provider: str
    why: str
    undecided: Sequence[Result] = ()


@dataclass(frozen=True, slots=True)
class Claimed:
    """A permit for this provider is in hand."""

    provider: str


@dataclass(frozen=True, slots=True)
class Unclaimable:
    """No permit can be had for this provider, as its record or its permits are refused."""

    provider: str
    why: str


Fact = (
    Changed
    | Lost
    | Deregistered
    | Outdated
    | Heard
    | Unreadable
    | Led
    | Stored
    | Applied
    | Missing
    | Refused
    | Claimed
    | Unclaimable
)
