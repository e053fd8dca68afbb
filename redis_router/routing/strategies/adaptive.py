"""The default: the quickest provider, as long as it has room, by what the whole fleet knows.

Each provider has an expected time: its usual latency and how far calls are from it, the waiting that its calls under
way make likely, and what its failures and the calls that hang there cost. The least wins. Every replica reckons with
the same record, to which it adds its own calls since. So there is nothing to agree on, and a replica that sees a
provider fill up goes elsewhere before anybody's answer was late. `docs/how-choosing-works.md` reckons an example.
"""

import math
import random
from collections.abc import Callable, Sequence

from redis_router.circuit.record import ProviderHealth
from redis_router.routing.candidate import Candidate
from redis_router.routing.strategies.base import FAILURE_COSTS_MS, Pick, by_share
from redis_router.routing.strategies.room import Row, as_tuple, first_with_room, least, row_of

DEVIATIONS = 1.5
"""A provider's latency counts with so many of its mean deviations: one that spreads less has the better p99."""
BECAME_QUICK, BECAME_SLOW = 0.6, 1.6
"""Where calls at low load take so many times the usual, the provider has changed, and they count in its place."""
OPTIMISM = 0.5
"""So much of a latency is doubted, over √(samples + 1): who had one slow call gets another."""
FIRST_LOOK_MS, LAST_LOOK_MS = 2000.0, 300_000.0
"""An idle provider is looked at again after twice the time between its last two results, within these."""
LOOKS = 0.002
"""So much of the calls goes to idle providers that never were the better ones, to see what became of them."""
STEEPNESS = 4
"""Where nobody says how many calls are under way, a share goes by the fourth power of the latency."""


class Adaptive:
    """See the module. `now_ms` is Redis's clock; without it nobody is looked at."""

    def __init__(self, now_ms: Callable[[], float] | None = None) -> None:
        self._now_ms = now_ms

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        rows = sorted(map(_row, candidates), key=lambda row: row.expected)
        known = [row for row in rows if row.candidate.health.samples]
        pick = _pick(known or rows)
        if len(rows) == 1 or not known or self._now_ms is None:
            return pick
        hopeful, others = _idle(rows, known[0].expected, self._now_ms())
        return _looking(pick, hopeful, others, self._now_ms) if hopeful or others else pick


class Quickest:
    """The least expected time of all, for a request's further tries: no looks, no shares."""

    def prepare(self, model: str, candidates: Sequence[Candidate]) -> Pick:
        rows = sorted(map(_row, random.sample(candidates, len(candidates))), key=lambda row: row.expected)
        in_order = [as_tuple(row) for row in rows]
        return lambda: least(in_order)


def _row(candidate: Candidate) -> Row:
    health = candidate.health
    if not health.samples:
        return row_of(candidate, 0.0, 0.0)
    usual, floor = health.usual_latency_ms, health.floor_latency_ms
    latency = usual if BECAME_QUICK * usual < floor < BECAME_SLOW * usual else floor
    doubted = (1 - OPTIMISM / math.sqrt(health.samples + 1)) / health.weight
    spread = DEVIATIONS * min(health.latency_deviation_ms, 2 * latency)
    expected = (latency + spread) * doubted + FAILURE_COSTS_MS * health.failure_rate + _held_up_ms(candidate)
    return row_of(candidate, expected, usual * doubted)


def _held_up_ms(candidate: Candidate) -> float:
    """What a call may cost because calls hang there, long before their time-outs tell.

    By Little's law overdue / (calls a second) is what they add to the average call, and (calls in time) / call is how
    many a second go well. Of the fleet's calls, or of this replica's own, where it alone has the trouble.
    """
    overdue, own, health = candidate.health.overdue, candidate.here.told.overdue, candidate.health
    if not overdue and not own:
        return 0.0
    of_all = overdue / max(1, candidate.load - overdue)
    of_own = own / max(1, len(candidate.in_flight) - own)
    return max(of_all, of_own) * max(health.call_ms, health.floor_latency_ms)


def _pick(rows: Sequence[Row]) -> Pick:
    first = rows[0].candidate
    if len(rows) == 1:
        return lambda: first
    is_known = any(row.candidate.health.concurrency_limit or row.candidate.load for row in rows)
    if rows[0].expected < rows[1].expected and not is_known:
        return _by_latency(rows)
    return first_with_room(rows)


def _by_latency(rows: Sequence[Row]) -> Pick:
    """The quicker ones more often: so replicas that cannot see one another's calls do not herd."""
    least_ms = max(0.001, rows[0].expected)
    shares = [(least_ms / max(least_ms, row.expected)) ** STEEPNESS for row in rows]
    return by_share([row.candidate for row in rows], shares)


def _idle(rows: Sequence[Row], best: float, now_ms: float) -> tuple[list[Candidate], list[Candidate]]:
    """Whom to look at now, the longest idle last: who was as good as the best, or may be; and the others."""
    hopeful: list[Candidate] = []
    others: list[Candidate] = []
    for row in sorted(rows, key=lambda row: row.candidate.health.last_result_ms, reverse=True):
        health = row.candidate.health
        is_left_out = row.expected > best or not health.samples
        if is_left_out and row.candidate.load == 0 and _is_due(health, now_ms):
            (hopeful if row.promise <= best else others).append(row.candidate)
    return hopeful, others


def _is_due(health: ProviderHealth, now_ms: float) -> bool:
    wait = min(max(2.0 * health.result_gap_ms, FIRST_LOOK_MS), LAST_LOOK_MS)
    return abs(now_ms - health.last_result_ms) >= wait * random.uniform(1.0, 1.5)


def _looking(pick: Pick, hopeful: list[Candidate], others: list[Candidate], now_ms: Callable[[], float]) -> Pick:
    """The pick, but for a look at each of these: of the others rarely; at one that never answered, now and then."""
    draw = random.random

    def look() -> Candidate:
        idle = hopeful or (others if draw() < LOOKS else None)
        if idle:
            try:
                candidate = idle[-1]
                if not candidate.health.samples and not candidate.here.may_look(now_ms(), FIRST_LOOK_MS):
                    return pick()
                candidate = idle.pop()  # atomic: one caller gets it
            except IndexError:
                return pick()
            if not candidate.load:
                return candidate
        return pick()

    return look
