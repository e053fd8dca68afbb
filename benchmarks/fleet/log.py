"""What one run writes down, measured or simulated. All moments are seconds since the run began."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when it was due, how long it took, whether its user saw it fail, and how late it was sent (`lag`)."""

    at: float
    seconds: float
    has_failed: bool
    lag: float = 0.0


@dataclass(frozen=True, slots=True)
class Call:
    """One call at a provider."""

    at: float
    provider: str


@dataclass(frozen=True, slots=True)
class Log:
    """All requests and all calls of one run."""

    requests: Sequence[Request]
    calls: Sequence[Call]
