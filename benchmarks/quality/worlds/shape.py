"""What a world is: values, drawn once, that every policy plays. All durations are in seconds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.quality.world import Timed

TO_ALL = (
    "down",
    "hang of a part",
    "brown-out",
    "slow at once",
    "slow by and by",
    "fast errors",
    "rate limit",
    "rate limit with Retry-After",
    "flapping",
    "half as large afterwards",
)
"""Kinds of incidents that every replica sees."""
OPERATORS = ("restart of all", "deploys one by one", "new provider", "drain")
"""What people do to the fleet."""
KINDS = (*TO_ALL, "one replica's own trouble", *OPERATORS)


@dataclass(frozen=True, slots=True)
class Site:
    """One provider: `slots` calls at once, the others queue.

    median       until the first token of an answer, or the whole answer where the world's do not stream
    sigma        of the lognormal spread
    strain       an answer takes (1 + strain) times as long when all slots are busy
    limit        requests a second, which nobody is told; above, 429
    limit_window seconds of its limit that a burst may take at once
    retry_after  what its 429 says; None for nothing
    """

    name: str
    median: float
    sigma: float
    slots: int
    strain: float = 0.0
    limit: float | None = None
    limit_window: float = 1.0
    retry_after: float | None = None

    @property
    def mean(self) -> float:
        """Seconds until the first token, without incidents and strain."""
        return self.median * math.exp(self.sigma**2 / 2)

    def quantile(self, deviations: float) -> float:
        """Seconds that so many standard deviations come to: 2.33 for 99 % of the answers."""
        return self.median * math.exp(self.sigma * deviations)

    def holds(self, stream: float) -> float:
        """Seconds for which a call keeps a slot busy where all slots are."""
        return self.mean * (1 + self.strain) + stream

    def capacity(self, stream: float) -> float:
        """Requests a second that it serves."""
        most = self.slots / self.holds(stream)
        return most if self.limit is None else min(most, self.limit)


@dataclass(frozen=True, slots=True)
class Trouble(Timed):
    """What befalls a provider, or the fleet, from `begin` to `end`.

    status, chance, after  so much of the calls get this after so long; status 0: no answer until the client gives up
    slowdown, gradual      answers take so many times as long, at once or growing from 1
    limit, retry_after     requests a second; above, 429
    replica                the only one that it is for
    up_for, down_for       it comes and goes
    slots_after            the part of its slots that the provider has afterwards
    """

    kind: str
    begin: float
    end: float
    provider: str = ""
    status: int = 500
    chance: float = 0.0
    after: float = 0.02
    slowdown: float = 1.0
    gradual: bool = False
    limit: float | None = None
    retry_after: float | None = None
    replica: int | None = None
    up_for: float = 0.0
    down_for: float = 0.0
    slots_after: float = 1.0

    def times(self, now: float) -> float:
        """How many times as long an answer takes that is begun now."""
        if not self.gradual:
            return self.slowdown
        return 1 + (self.slowdown - 1) * (now - self.begin) / (self.end - self.begin)

    def text(self) -> str:
        """In a few words."""
        where = f" {self.provider}" if self.provider else ""
        return f"{self.kind}{where} {self.begin:.0f} to {self.end:.0f} s"


@dataclass(frozen=True, slots=True)
class Shape:
    """One world.

    rate            requests a second, the mean without bursts
    load            the peak's part of what is left when the sick are out
    swell, period   the rate swings by this part of it, so often
    bursts          begin, end, and how many times the rate
    stream          seconds from the first token to the end of an answer, the median; 0: answers come whole
    deadline        of a request, shared by its tries as `Router.attempts` does; None: each try has `timeout`
    timeout         until the first token of a try
    crowded         the part of the requests that come to the first replica, beside its share
    """

    seed: int
    number: int
    length: float
    replicas: int
    rate: float
    load: float
    sites: tuple[Site, ...]
    troubles: tuple[Trouble, ...] = ()
    swell: float = 0.0
    period: float = 60.0
    bursts: tuple[tuple[float, float, float], ...] = ()
    stream: float = 0.0
    stream_sigma: float = 0.6
    deadline: float | None = None
    timeout: float = 10.0
    crowded: float = 0.0

    @property
    def stream_mean(self) -> float:
        return self.stream * math.exp(self.stream_sigma**2 / 2)

    def rate_at(self, now: float) -> float:
        """Requests a second at this moment."""
        times = math.prod(most for begin, end, most in self.bursts if begin <= now < end)
        return self.rate * (1 + self.swell * math.sin(2 * math.pi * now / self.period)) * times

    @property
    def peak(self) -> float:
        """The highest rate."""
        moments = [now / 2 for now in range(int(2 * self.length))]
        return max(map(self.rate_at, moments))

    @property
    def patience(self) -> float:
        """Seconds after which a request is over at the latest, but for its stream."""
        return self.deadline if self.deadline is not None else 3 * self.timeout

    def text(self) -> str:
        """In a line."""
        kind = f"streams of {self.stream:.1f} s" if self.stream else "whole answers"
        limits = sum(each.limit is not None for each in self.sites)
        return (
            f"{len(self.sites)} providers ({limits} with hidden limits), {self.replicas} replicas, {self.rate:.1f}"
            f" requests/s, {self.load:.0%} load, {kind}; "
            + ("; ".join(t.text() for t in self.troubles) or "no incident")
        )


def parts_left(shares: Sequence[float], names: Sequence[str], troubles: Iterable[Trouble], replicas: int) -> float:
    """The least part of the capacity that is left at any moment, when the sick are out.

    A provider that is rate limited is not out: it keeps its limit, which `draw` gives as a part of its capacity.
    """
    troubles = list(troubles)
    moments = {0.0} | {t.begin for t in troubles} | {t.end for t in troubles}
    least = 1.0
    for now in moments:
        left = dict(zip(names, shares, strict=True))
        for each in troubles:
            if each.provider in left:
                left[each.provider] *= _part_left(each, now, replicas)
        least = min(least, sum(left.values()) / sum(shares))
    return least


def _part_left(trouble: Trouble, now: float, replicas: int) -> float:
    if trouble.kind == "new provider":
        return 0.0 if now < trouble.begin else 1.0
    if trouble.kind == "drain":
        return 0.0 if now >= trouble.begin else 1.0
    if now >= trouble.end:
        return trouble.slots_after
    if now < trouble.begin or (trouble.replica is not None and replicas > 1):
        return 1.0
    return trouble.limit if trouble.limit is not None else 0.0
