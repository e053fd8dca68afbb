"""What the parts of the background found out. They return it, and whoever runs them acts on it.

Told apart by their class alone: as tuples they are equal where their fields are.
"""

from collections.abc import Sequence
from typing import NamedTuple

from redis_router.circuit.outcome import Result, UnderWay
from redis_router.circuit.record import ProviderHealth
from redis_router.store.messages import Event, Reply


class Changed(NamedTuple):
    """A newer record is known; `by` is the process that caused it, '' where that is unknown. `old` None: the first."""

    old: ProviderHealth | None
    new: ProviderHealth
    by: str


class Lost(NamedTuple):
    """The store has no record of this provider any more, or an older one, and nobody deregistered it."""

    provider: str


class Deregistered(NamedTuple):
    """The provider was taken out for the whole fleet."""

    provider: str


class Outdated(NamedTuple):
    """What was heard says that everything should be read anew."""


class Heard(NamedTuple):
    """Any event, after it was taken in."""

    event: Event


class Unreadable(NamedTuple):
    """The record of this provider cannot be read, since now."""

    provider: str
    why: str


class Stored(NamedTuple):
    """The record as the store has it after what this replica did; `by` as in `Changed`."""

    health: ProviderHealth
    by: str = ""


class Led(NamedTuple):
    """A worker leads, in this term."""

    epoch: int


class Applied(NamedTuple):
    """The store took these results; the reply has the record after them.

    under_way  what this replica had under way there, as it said with them
    """

    reply: Reply
    results: Sequence[Result]
    under_way: UnderWay


class Missing(NamedTuple):
    """The store has no record for results of this provider: they wait."""

    provider: str


class Refused(NamedTuple):
    """The record of this provider is refused, or cannot be read; nobody decided on `undecided`."""

    provider: str
    why: str
    undecided: Sequence[Result] = ()


class Claimed(NamedTuple):
    """A permit for this provider is in hand."""

    provider: str


class Unclaimable(NamedTuple):
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
