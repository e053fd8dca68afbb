"""What a strategy chooses between: a provider, its health, and what this replica alone knows of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from redis_router.circuit.outcome import NOTHING, UnderWay
from redis_router.circuit.record import ProviderHealth
from redis_router.provider import Provider

FEWEST_SAMPLES = 3
"""Of a provider that answered less often nobody knows how long an answer takes."""
OVERDUE_MS, OVERDUE_TIMES, OVERDUE_DEVIATIONS, OVERDUE_LONGEST = 500.0, 2.0, 4.0, 1.2
"""An answer is overdue after so many ms, after so many times the average and so many mean deviations, and after so many
times the longest of some hundreds: one call in twenty may be a long one."""
SEVERAL, UNLIKELY = 2, 5.0
"""So many calls that wait together are overdue sooner: where the chance of that is below exp(-5), which is 0.7 %."""
STEEPNESS, STEEPEST = 1.45, 8.0
"""Of a log-logistic distribution, for each average over the mean deviation: about right for lognormal latencies."""


@dataclass(slots=True)
class Here:
    """What this replica alone knows of a provider: the same object in every table.

    in_flight      each attempt of this replica that is under way, by its id: the monotonic moment in s since which its
                   answer is waited for; infinite where that has begun
    told           what of them the fleet's record counts, as this replica said last
    elsewhere      calls under way at other replicas, by the record that was taken in last
    limited_until  a rate limit that this replica was told of and the fleet's record may not show yet: monotonic
                   seconds, 0 for none
    looked_at_ms   when a call was sent here only to see how it is, on Redis's clock
    answered_at    when the last answer to this replica came, or began to: monotonic seconds
    """

    in_flight: dict[int, float] = field(default_factory=dict)
    told: UnderWay = NOTHING
    elsewhere: int = 0
    limited_until: float = 0.0
    looked_at_ms: float = 0.0
    answered_at: float = 0.0

    def heard(self, in_flight: int) -> None:
        """So many calls are under way over the fleet, those counted in that this replica said last."""
        self.elsewhere = max(0, in_flight - self.told.calls)

    def limited_for(self, now: float) -> float:
        """Seconds for which it wants no calls, as this replica knows itself; 0 for none. `now` is monotonic, in s."""
        return max(0.0, self.limited_until - now)

    def is_free(self, now: float) -> bool:
        """May it be called, as far as this replica knows itself? A limit that is over is forgotten."""
        if self.limited_until > now:
            return False
        self.limited_until = 0.0
        return True

    def may_look(self, now_ms: float, every_ms: float) -> bool:
        """May a call be sent here only to see how it is? Once in `every_ms`, and not where one is under way."""
        if self.in_flight or abs(now_ms - self.looked_at_ms) < every_ms:
            return False
        self.looked_at_ms = now_ms
        return True


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a strategy chooses between: a provider together with its health as this replica knows it."""

    provider: Provider
    health: ProviderHealth
    here: Here = field(default_factory=Here, compare=False, repr=False)

    @property
    def in_flight(self) -> dict[int, float]:
        """Each attempt of this replica that is under way, and since when it waits for its answer: see `Here`."""
        return self.here.in_flight

    @property
    def elsewhere(self) -> int:
        """Calls under way at other replicas, as they said last."""
        return self.here.elsewhere

    @property
    def load(self) -> int:
        """Calls that the whole fleet has under way, as far as it is known here."""
        return self.here.elsewhere + len(self.here.in_flight)

    def under_way(self, now: float) -> UnderWay:
        """What this replica has under way there at this monotonic moment, in s."""
        since, health = list(self.here.in_flight.values()), self.health
        waiting = [began for began in since if began < now]
        answering = sum(began == math.inf for began in since)
        if not waiting or health.samples < FEWEST_SAMPLES:
            return UnderWay(len(since), 0, answering)
        average = max(health.usual_latency_ms, health.floor_latency_ms, health.near_latency_ms)
        deviations = OVERDUE_DEVIATIONS * health.latency_deviation_ms
        longest = OVERDUE_LONGEST * health.longest_latency_ms
        unanswered = [1000 * (now - began) for began in waiting if began >= self.here.answered_at]
        if is_unlikely(unanswered, average, health.latency_deviation_ms):
            patience_ms = max(OVERDUE_MS, average)
        else:
            patience_ms = max(OVERDUE_MS, OVERDUE_TIMES * average + deviations, longest)
        latest = now - patience_ms / 1000
        return UnderWay(len(since), sum(began < latest for began in waiting), answering)


def is_unlikely(waits_ms: Sequence[float], average_ms: float, deviation_ms: float) -> bool:
    """Do several calls, of which none was answered, wait for longer than they would by chance?

    A call waits longer than t with a chance of 1 / (1 + (t / average) ^ steepness), by the log-logistic distribution.
    """
    if average_ms <= 0 or len(waits_ms) < SEVERAL:
        return False
    steepness = STEEPEST
    if STEEPEST * deviation_ms > STEEPNESS * average_ms:
        steepness = max(1.0, STEEPNESS * average_ms / deviation_ms)
    return sum(math.log1p((wait / average_ms) ** steepness) for wait in waits_ms) > UNLIKELY
