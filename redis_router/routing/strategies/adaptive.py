"""The default: the quickest provider, as long as it has room, by what the whole fleet knows.

Each provider has an expected time: its usual latency and how far calls are from it, the waiting that its calls under
way make likely, and what its failures cost. The least wins. Every replica reckons with the same record, to which it
adds its own calls since. So there is nothing to agree on, and a replica that sees a provider fill up goes elsewhere
before anybody's answer was late. `docs/how-choosing-works.md` reckons an example.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redis_router.circuit.capacity import FIRST_LIMIT
from redis_router.circuit.record import ProviderHealth
from redis_router.routing.candidate import Candidate
from redis_router.routing.strategies.base import Pick

DEVIATIONS = 1.5
"""A provider's latency counts with so many of its mean deviations: one that spreads less has the better p99."""
BECAME_QUICK, BECAME_SLOW = 0.6, 1.6
"""Where calls at low load take so many times the usual, the provider has changed, and they count in its place."""
OPTIMISM = 0.5
"""So much of a latency is doubted, over √(samples + 1): who had one slow call gets another."""
FAILURE_COSTS_MS = 5000.0
"""What a failure is worth in latency: linkerd's penalty."""
SURCHARGE = 0.5
"""Of the latency, for a call above the limit: before there is a queue its end is uncertain."""
FIRST_LOOK_MS, LAST_LOOK_MS = 2000.0, 300_000.0
"""An idle provider is looked at again after twice the time between its last two results, within these."""
LOOKS = 0.002
"""So much of the calls goes to providers that were never better than the one in use, to see what became of them."""


class Adaptive:
    """See the module. `now_ms` is Redis's clock."""

    def __init__(self, now_ms: Callable[[], float] | None = None) -> None:
        self._now_ms = now_ms

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        rows = [_row(candidate) for candidate in random.sample(candidates, len(candidates))]
        rows.sort(key=lambda row: row.expected)
        if len(rows) == 1:
            only = rows[0].candidate
            return lambda: only
        best = rows[0]
        calls, room, first = best.candidate.in_flight, best.room, best.candidate
        idle = self._idle(rows)
        if not idle:
            return lambda: first if len(calls) < room else _least(rows)
        promising = [row for row in idle if row.promise < best.expected]
        others = [row.candidate for row in idle if row not in promising]
        hopeful = [row.candidate for row in promising]
        draw = random.random

        def pick() -> Candidate:
            found = first if len(calls) < room else _least(rows)
            looks_at = hopeful if hopeful else others if draw() < LOOKS else None
            if looks_at:
                try:
                    candidate = looks_at.pop()  # atomic: one caller gets it
                except IndexError:
                    return found
                if candidate is not found and not candidate.load:
                    return candidate
            return found

        return pick

    def _idle(self, rows: Sequence["Row"]) -> list["Row"]:
        """Those to be looked at now, the longest idle last."""
        if self._now_ms is None:
            return []
        now = self._now_ms()
        idle = [row for row in rows if row.candidate.health.samples and not row.candidate.load and _is_due(row, now)]
        return sorted(idle, key=lambda row: row.candidate.health.last_result_ms, reverse=True)


@dataclass(frozen=True, slots=True)
class Row:
    """One provider as it is reckoned with, in ms.

    expected  until an answer, without waiting
    promise   the same, as it used to be
    room      so many calls of this replica fit in, beside those of the others
    limit     calls at once that it takes without making them wait
    per_call  waiting, for each call above the limit
    """

    candidate: Candidate
    expected: float
    promise: float
    elsewhere: int
    limit: int
    room: int
    per_call: float

    def waits(self) -> float:
        """Ms more than `expected` for one more call now."""
        over = self.elsewhere + len(self.candidate.in_flight) + 1 - self.limit
        return over * self.per_call + SURCHARGE * self.expected if over > 0 else 0.0


def _row(candidate: Candidate) -> Row:
    health, elsewhere = candidate.health, candidate.elsewhere
    if not health.samples:  # one call, to see
        return Row(candidate, 0.0, 0.0, elsewhere, 1, 1 - elsewhere, 1e6)
    limit = max(1, math.floor((health.concurrency_limit or FIRST_LIMIT) + 0.1))
    usual = health.usual_latency_ms
    changed = not BECAME_QUICK * usual < health.floor_latency_ms < BECAME_SLOW * usual
    latency = health.floor_latency_ms if changed else usual
    expected = _with_spread(health, latency) / health.weight
    per_call = max(health.call_ms, health.floor_latency_ms) / max(1.0, health.concurrency_limit)
    return Row(candidate, expected, usual, elsewhere, limit, limit - elsewhere, per_call)


def _with_spread(health: ProviderHealth, latency_ms: float) -> float:
    spread = DEVIATIONS * min(health.latency_deviation_ms, 2 * latency_ms)
    doubted = 1 - OPTIMISM / math.sqrt(health.samples + 1)
    return (latency_ms + spread) * doubted + FAILURE_COSTS_MS * health.failure_rate


def _is_due(row: Row, now_ms: float) -> bool:
    health = row.candidate.health
    wait = min(max(2.0 * health.result_gap_ms, FIRST_LOOK_MS), LAST_LOOK_MS)
    return abs(now_ms - health.last_result_ms) >= wait * random.uniform(1.0, 1.5)


def _least(rows: Sequence[Row]) -> Candidate:
    """The least expected time with its waiting; `rows` are in order, so that most are not looked at."""
    best, least = rows[0], math.inf
    for row in rows:
        if row.expected >= least:
            break
        time = row.expected + row.waits()
        if time < least:
            best, least = row, time
    return best.candidate
