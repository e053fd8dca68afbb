"""What a run comes to: as a whole, and while each incident lasts; and several runs of one policy together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.fleet.log import Log
from benchmarks.measure import quantile
from benchmarks.quality.worlds.shape import Shape

WHOLE = "the whole run"


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the requests that came in one time of a run.

    p50, p99     seconds from the moment that a request was due to its answer, or until it failed for good
    to_the_sick  calls at the provider that the incident is about; of the whole run: in all its incidents
    to_the_dead  those of them that could only fail
    """

    requests: int
    failed: int
    p50: float
    p99: float
    to_the_sick: int
    to_the_dead: int


@dataclass(frozen=True, slots=True)
class Scored:
    """One run: figures by incident, the whole run first.

    lag  the p99 of how late requests were sent, seconds
    cpu  of the gateways for a request, ms
    """

    figures: dict[str, Figures]
    lag: float
    cpu: float

    @classmethod
    def of(cls, log: Log, shape: Shape) -> "Scored":
        found = {WHOLE: _figures(log, shape, 0.0, shape.length)}
        for each in shape.troubles:
            found[each.kind] = _figures(log, shape, each.begin, each.end)
        lag = quantile([each.lag for each in log.requests], 0.99)
        return cls(found, lag, 1000 * log.cpu / len(log.requests))


def _figures(log: Log, shape: Shape, begin: float, end: float) -> Figures:
    requests = [each for each in log.requests if begin <= each.at < end]
    seconds = [each.seconds for each in requests] or [0.0]
    sick = dead = 0
    for call in log.calls:
        ailing = [t for t in shape.troubles if t.provider == call.provider and t.hits(call.at, None)]
        if ailing and begin <= call.at < end:
            sick += 1
            dead += any(each.chance == 1.0 for each in ailing)
    failed = sum(each.has_failed for each in requests)
    return Figures(len(requests), failed, quantile(seconds, 0.5), quantile(seconds, 0.99), sick, dead)


@dataclass(frozen=True, slots=True)
class Spread:
    """Over the rounds."""

    median: float
    least: float
    most: float

    def text(self, digits: int) -> str:
        if self.least == self.most:
            return f"{self.median:.{digits}f}"
        return f"{self.median:.{digits}f} ({self.least:.{digits}f} to {self.most:.{digits}f})"


def over(runs: Sequence[Scored], window: str, of: Callable[[Figures], float]) -> Spread:
    """One figure of one window over all rounds."""
    found = [of(each.figures[window]) for each in runs]
    return Spread(quantile(found, 0.5), min(found), max(found))
