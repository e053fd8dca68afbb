"""What one call says about its provider."""

from enum import StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    """What one call says about its provider.

    success       it answered
    failure       it did not, or not well: that may open its circuit
    rate_limited  it asks to be left alone for a while: no verdict on its circuit, nor on its averages
    ignored       nothing: the caller's own mistake, cancellation or deadline
    begun         its answer begins: how fast, not how well; what became of it follows
    paced         a call begins where the fleet keeps a pace: the next one may follow after `cooldown_ms`
    """

    SUCCESS = "success"
    FAILURE = "failure"
    RATE_LIMITED = "rate_limited"
    IGNORED = "ignored"
    BEGUN = "begun"
    PACED = "paced"


ON_THE_WAY = (Outcome.BEGUN, Outcome.PACED)
"""What an attempt says of a call that did not end."""


class Result(NamedTuple):
    """One outcome on its way to Redis.

    latency_ms   what the averages are made of: the time to the first token where it was marked
    generation   the circuit's when the call began
    permit       the token of a trial call, or ''
    reason       of a failure: one word that says why, or ''
    duration_ms  of the whole call, for the metrics; 0 where that is `latency_ms`
    cooldown_ms  for how long the provider wants no calls: of rate_limited, or of a success that was the last to fit;
                 of paced, until the next one
    load         calls that the fleet had under way there when this one began, itself included; 0 where that is
                 unknown, below 0 where its answer's beginning was told before

    A tuple, not a dataclass: it is made on the request path, where a frozen dataclass costs five times as much.
    """

    provider: str
    outcome: Outcome
    latency_ms: float
    generation: int
    permit: str = ""
    reason: str = ""
    duration_ms: float = 0.0
    cooldown_ms: float = 0.0
    load: float = 0.0


made = tuple.__new__
"""`made(Result, values)`: all of them, in their order, at half of what the class's own constructor costs."""


TOLD_BEFORE = -1.0
"""As `load`: what the beginning of the answer says was told when it began."""


class UnderWay(NamedTuple):
    """What one replica has under way at a provider, as it tells the fleet.

    calls      that did not end
    overdue    of these, so many wait for an answer for longer than chance explains
    answering  of so many the answer has begun: they are in service, and wait for nobody
    """

    calls: int = 0
    overdue: int = 0
    answering: int = 0


NOTHING = UnderWay()
GONE = UnderWay(-1)
"""This replica leaves: it has none, and counts no more as one that calls the provider."""


def is_request(result: Result) -> bool:
    """Or merely a permit that is handed back unused, or the beginning of a call or of an answer?"""
    if result.outcome in ON_THE_WAY:
        return False
    return result.outcome is not Outcome.IGNORED or result.latency_ms > 0 or not result.permit
