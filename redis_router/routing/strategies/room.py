"""Who is the quickest and has room: what strategies by latency share."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from redis_router.circuit.capacity import FIRST_LIMIT, within
from redis_router.routing.candidate import Candidate
from redis_router.routing.strategies.base import Pick

ALIKE = 1.1
"""Expected times that differ by less than this are taken for equal: nobody knows them so well."""
SURCHARGE = 0.5
"""Of the latency, for a call above the limit: how long the queue is, is never known for sure."""


@dataclass(frozen=True, slots=True)
class Row:
    """One provider as it is reckoned with, in ms.

    expected  until an answer, without waiting
    promise   the same, as it used to be
    room      so many calls of this replica fit in, beside those of the others
    per_call  waiting, for each call above the limit
    """

    candidate: Candidate
    expected: float
    promise: float
    room: int
    per_call: float


def row_of(candidate: Candidate, expected: float, promise: float) -> Row:
    """With its room and its waiting, by what is learned of it; of one that never answered, the fewest calls."""
    health = candidate.health
    if not health.samples:
        return Row(candidate, expected, promise, 1 - candidate.elsewhere, per_call=1e6)
    limit = within(health.concurrency_limit or FIRST_LIMIT)
    per_call = max(health.call_ms, health.floor_latency_ms) / max(1.0, health.concurrency_limit)
    return Row(candidate, expected, promise, limit - candidate.elsewhere, per_call)


def first_with_room(rows: Sequence[Row]) -> Pick:
    """The first of these, those alike at random, while it has room; then the least time with its waiting. In order."""
    first, ties = rows[0].candidate, sum(row.expected <= ALIKE * rows[0].expected for row in rows)
    calls, room, draw = first.in_flight, rows[0].room, random.random
    in_order = [as_tuple(row) for row in rows]
    if ties == 1:
        return lambda: first if len(calls) < room else least(in_order)

    def pick_one_of_those_alike() -> Candidate:
        _, calls, room, _, candidate = in_order[int(draw() * ties)]
        return candidate if len(calls) < room else least(in_order)

    return pick_one_of_those_alike


InOrder = tuple[float, dict[int, float], int, float, Candidate]
"""Of a row: what is expected, calls under way here, room, per call, the candidate. To unpack it is quick."""


def as_tuple(row: Row) -> InOrder:
    return row.expected, row.candidate.in_flight, row.room, row.per_call, row.candidate


def least(in_order: Sequence[InOrder]) -> Candidate:
    """The least time with its waiting; they are in order, so that most are not looked at."""
    quickest, best = math.inf, in_order[0][-1]
    for expected, calls, room, per_call, candidate in in_order:
        if expected >= quickest:
            break
        over = len(calls) + 1 - room
        time = expected if over <= 0 else (1 + SURCHARGE) * expected + over * per_call
        if time < quickest:
            quickest, best = time, candidate
    return best
