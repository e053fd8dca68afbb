"""Oracles: they know every provider, every queue and every incident of this moment, and no draw.

What an answer takes is drawn after the choice, for them as for everybody. None of them is the best in every world: the
one by time keeps the mean low, the one by the tail keeps away from wide spreads, the one by health never tries its
luck. A world's oracle has for each figure the best of them. A policy may still beat it in p50, by leaving a few
requests to wait: none of them does that.
"""

from collections.abc import Callable, Mapping

from benchmarks.quality.worlds.ground import Ground
from benchmarks.quality.worlds.providers import Live
from benchmarks.quality.worlds.tries import ByCall

TAIL = 2.33
"""Standard deviations: 99 % of the answers take less."""


class Oracle(ByCall):
    """Takes whoever is the least bad now."""

    def choose(self, replica: int, tried: frozenset[str]) -> tuple[str, object] | None:
        left = [self.ground.all[name] for name in self.left(tried)]
        return (min(left, key=lambda live: self.badness(live, replica)).name, None) if left else None

    def badness(self, live: Live, replica: int) -> tuple[float, float]:
        raise NotImplementedError

    def chance(self, live: Live, replica: int) -> float:
        """Of a failure now."""
        if live.refuses() is not None:
            return 1.0
        return max((t.chance for t in live.troubles(replica)), default=0.0)

    def waits(self, live: Live, replica: int) -> float:
        """Seconds in the queue, about: slots come free one after the other."""
        ahead = live.busy + len(live.waiting) + 1 - live.slots
        if ahead <= 0:
            return 0.0
        holds = live.site.mean * live.slowdown(replica) + self.ground.shape.stream_mean
        return holds * ahead / live.slots

    def answers(self, live: Live, replica: int, deviations: float) -> float:
        """Seconds from the beginning of service; the strain is that with one call more."""
        more = 1 + live.site.strain / live.slots if live.busy < live.slots else 1.0
        return live.site.quantile(deviations) * live.slowdown(replica) * more


class ByHealth(Oracle):
    """Never a provider that may fail while another does not; then the shortest time."""

    def badness(self, live: Live, replica: int) -> tuple[float, float]:
        deviations = live.site.sigma / 2  # the mean
        return self.chance(live, replica), self.waits(live, replica) + self.answers(live, replica, deviations)


class ByTail(Oracle):
    """As `ByHealth`, by the time that 99 % of the answers keep."""

    def badness(self, live: Live, replica: int) -> tuple[float, float]:
        return self.chance(live, replica), self.waits(live, replica) + self.answers(live, replica, TAIL)


class ByTime(Oracle):
    """The shortest time to an answer, a failure and the next try included, and what it costs those in service."""

    def badness(self, live: Live, replica: int) -> tuple[float, float]:
        time, chance = self.waits(live, replica) + self.answers(live, replica, live.site.sigma / 2), 0.0
        for each in live.troubles(replica):
            if each.chance:
                lost = self.ground.shape.timeout if each.status == 0 else each.after
                time, chance = (1 - each.chance) * time + each.chance * (lost + 2 * time), max(chance, each.chance)
        if live.refuses() is not None:
            chance = 1.0
        return float(chance > 0.5), time + live.busy * live.site.mean * live.site.strain / live.slots


ORACLES: Mapping[str, Callable[[Ground], Oracle]] = {
    "oracle by health": ByHealth,
    "oracle by tail": ByTail,
    "oracle by time": ByTime,
}
