"""Outcomes on their way to `lua/record.lua`, which says what each argument is."""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from redis_router.circuit.outcome import Outcome, Result

_KIND = itemgetter(1, 3, 4, 5)  # a result's outcome, generation, permit and reason


def outcomes(results: Sequence[Result]) -> list[str | int]:
    """Those alike in a row together, four arguments each."""
    args: list[str | int] = []
    for (outcome, generation, permit, reason), run in groupby(results, key=_KIND):
        kind = f"{outcome.value}:{reason}" if reason else outcome.value
        number = _cooldown if outcome in (Outcome.RATE_LIMITED, Outcome.PACED) else _measured
        args += (kind, generation, permit, " ".join([number(result) for result in run]))
    return args


# Nine digits are finer than any clock, and cost a third of all seventeen.


def _cooldown(result: Result) -> str:
    return f"{result.cooldown_ms:.9g}:{result.load:.9g}"


def _measured(result: Result) -> str:
    """Its latency; where they are known, the load when it began, the duration of the whole call, and the cooldown."""
    if result.cooldown_ms:
        return f"{result.latency_ms:.9g}:{result.load:.9g}:{result.duration_ms:.9g}:{result.cooldown_ms:.9g}"
    if result.duration_ms and result.duration_ms != result.latency_ms:
        return f"{result.latency_ms:.9g}:{result.load:.9g}:{result.duration_ms:.9g}"
    return f"{result.latency_ms:.9g}:{result.load:.9g}" if result.load else f"{result.latency_ms:.9g}"
