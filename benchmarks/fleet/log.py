"""What one run writes down, measured or simulated. All moments are seconds since the run began."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when it was due, how long it took, and whether its user saw it fail.

    `lag` is how many seconds late it was sent.
    """

    at: float
    seconds: float
    has_failed: bool
    lag: float = 0.0


@dataclass(frozen=True, slots=True)
class Call:
    """One call at a provider, and the number of the request that it is for; -1 where that is not known."""

    at: float
    provider: str
    request: int = -1


@dataclass(frozen=True, slots=True)
class Log:
    """All requests and all calls of one run, and the CPU seconds of its gateways together."""

    requests: Sequence[Request]
    calls: Sequence[Call]
    cpu: float = 0.0
