"""How fast a provider answers, and how many calls at once it takes: learned from calls that went well.

The mirror of `lua/_capacity.lua`, where `learn` is one function; the tests play random histories through both. A call
tells how long its answer took, and how many calls the fleet had under way there when it began, itself included: its
load. From that are learned

usual   the average latency of calls that did not wait, over about 64 of them, and how far they are from it
floor   the average latency of calls at low load, over about 8: it follows a provider that becomes slow, or quick again
longest the longest latency, which is forgotten over some 256 answers
near    the average latency, and the load, of calls near the limit, over about 12
limit   calls at once that it takes without making them wait
pace    calls a second, for a while after a rate limit

The limit grows while calls near it take about as long as those at low load; once it was cut, only by calls that fill
it, as TCP's window does (RFC 7661): a quick answer with room to spare says nothing of one call more. Where calls take
longer they wait, and so many are in service as are answered while a call is, by Little's law: limit = load · call /
(call + wait). So TCP Vegas and Netflix's concurrency-limits read a queue from latencies. By the same law answers a
second · call are in service, also where most calls time out; a limit below that would leave a full provider idle. TCP
BBR bounds its window so. Durations are in ms.
"""

import math

from redis_router.circuit.record import ProviderHealth

SAMPLES_KEPT = 64
GROWTH_COUNTED = 1_000_000
LONGEST_KEPT = 256
FIRST_LIMIT = 2.0
"""Of a provider of which nothing is known yet."""
LOW, NEAR = 0.5, 0.75
"""Below this part of the usual load a call says how fast the provider is; above this part of the limit, how full."""
ANSWERS_WITHIN_MS = 5000.0
"""A provider that is full answers somebody within this, or within two calls' time."""
COUNTED_OVER_MS = 10_000.0
"""Answers a second are an average over about so long."""
LESS = 0.7
"""After a rate limit so many of the calls at once that met it."""
AT_FIRST, SLOWER, FASTER = 2.0, 0.85, 0.005
"""After the first rate limit so many times the calls a second that met it; after each further one, so much of them;
and after each answer so many calls a second more."""
FASTEST = 5.0
"""Calls a second: above this a fleet's replicas would hear of each other's calls too late to keep a pace."""
PAUSES_PACED = 5
"""A pace holds for so many times the pause that the provider asked for, after it: then the limit may be over."""
TOLERATED, UNSURE = 1.25, 1.5
"""Calls near the limit wait where they take so many times the floor: 1.25, and 1.5 / √samples for the noise."""


def learned(health: ProviderHealth, latency_ms: float, load: float, now_ms: float) -> dict[str, float]:
    """What changes in the record by an answer that took so long, of a call that began at this load, 0 where unknown."""
    samples, limit = health.samples + 1, health.concurrency_limit
    if limit == 0 and load > 0:
        limit = FIRST_LIMIT
    elif load == 0:  # who says nothing of calls under way forgets the limit by and by: nobody would keep within it
        limit = 0.9 * limit if limit > 1.2 else 0.0
    load_at_answer = load  # at least so many were in service, when this one was answered
    if load > 0:
        limit, load_at_answer = max(limit, health.answering), max(load, health.answering)
    is_low = samples <= 8 or load <= max(1.0, LOW * min(limit, health.near_load or limit))
    is_near = load_at_answer > max(1.0, NEAR * limit)
    averages = _averages(health, latency_ms, samples, counts=is_low or not is_near, is_low=is_low)
    changes = averages | {"samples": min(samples, SAMPLES_KEPT - 1), "concurrency_limit": limit}
    if is_near:
        floor, near = averages["floor_latency_ms"], averages["near_latency_ms"]
        near_load = health.near_load + (load - health.near_load) / 12 if health.near_load else load
        growth = health.limit_growth
        if near > (TOLERATED + UNSURE / math.sqrt(samples)) * floor:
            call = max(health.call_ms, floor)
            served = near_load * call / (call + near - floor)
            limit, growth = cut(health, limit, served, now_ms), 1
        elif latency_ms <= 2 * floor and (growth == 0 or load_at_answer >= within(limit)):
            limit, growth = grown(limit, growth, load_at_answer)
        changes |= {"near_load": near_load, "concurrency_limit": limit, "limit_growth": growth}
    return changes


def _averages(
    health: ProviderHealth, latency_ms: float, samples: int, *, counts: bool, is_low: bool
) -> dict[str, float]:
    """The averages of latencies after this one; `counts`: it did not wait, `is_low`: hardly anybody was before it."""
    usual, deviation = health.usual_latency_ms, health.latency_deviation_ms
    floor, near, longest = health.floor_latency_ms, health.near_latency_ms, health.longest_latency_ms
    if samples == 1:
        usual = floor = near = latency_ms
    if counts:
        bounded = min(latency_ms, 4 * usual)
        usual += (bounded - usual) / samples
        deviation += (abs(bounded - usual) - deviation) / samples if samples > 1 else 0.0
    if is_low:
        floor += (min(latency_ms, 8 * floor) - floor) / min(samples, 8)
        near += (floor - near) / 12
    else:
        near += (min(latency_ms, 8 * floor) - near) / 12
        floor += min(0.0, near - floor) / 16
    return {
        "usual_latency_ms": usual,
        "latency_deviation_ms": deviation,
        "floor_latency_ms": floor,
        "near_latency_ms": near,
        "longest_latency_ms": max(latency_ms, longest + (usual - longest) / LONGEST_KEPT),
    }


def is_overload(health: ProviderHealth, why: str, load: float, now_ms: float) -> bool:
    """Did a call time out that began above the limit of a closed circuit? Then our own crowd made it late.

    Of a provider that is dead the calls below the limit time out, too, and these count; and so do all, where the last
    result that counted was a failure, or is too long ago: a provider that is merely full answers somebody.
    """
    if why != "timeout" or not 0 < health.concurrency_limit < load or health.circuit_state != "closed":
        return False
    answers = max(ANSWERS_WITHIN_MS, 2 * health.call_ms)
    return health.consecutive_failures == 0 and abs(now_ms - health.last_result_ms) < answers


def overloaded(health: ProviderHealth, now_ms: float) -> dict[str, float]:
    """What changes in the record by such a call: it waited, nobody knows for how long."""
    floor = health.floor_latency_ms
    near, limit = health.near_latency_ms + (8 * floor - health.near_latency_ms) / 12, health.concurrency_limit
    return {
        "near_latency_ms": near,
        "concurrency_limit": cut(health, limit, 0.5 * limit, now_ms),
        "limit_growth": 1,
    }


def rate_limited(health: ProviderHealth, load: float, cooldown_ms: float, now_ms: float) -> dict[str, float]:
    """What changes in the record where a call was refused for a rate limit, before the pause that it asks for begins.

    A pace is set, or slowed down, and it alone keeps within the limit: with long streams many calls at once are few a
    second. Where there is none, fewer calls at once do, if the call began within that limit: of many calls that are
    refused at once, one says it all.
    """
    changes = _paced(health, load, cooldown_ms, now_ms)
    if load <= 0 or changes.get("calls_per_s", health.calls_per_s) > 0 or 0 < health.concurrency_limit < load:
        return changes
    return changes | {"concurrency_limit": max(1.0, LESS * load), "limit_growth": 1}


def _paced(health: ProviderHealth, load: float, cooldown_ms: float, now_ms: float) -> dict[str, float]:
    """The pace after a rate limit: at first about what met it, by Little's law; one call in each pause at least."""
    rate = health.calls_per_s
    if load <= 0 or health.cooling_for_ms(now_ms) > health.pause_ms:
        return {}
    if rate:
        rate *= SLOWER
    else:
        rate = AT_FIRST * max(answer_rate(health, now_ms), load * 1000 / health.call_ms if health.call_ms else 0.0)
    rate = max(rate, 1000 / max(1.0, cooldown_ms))
    until = math.floor(now_ms + (1 + PAUSES_PACED) * cooldown_ms)
    return {"calls_per_s": rate, "paced_until_ms": until} if rate < FASTEST else {"calls_per_s": 0.0}


def faster(health: ProviderHealth, now_ms: float) -> float:
    """Calls a second after an answer; 0 where the pace is over: it holds for a while, or until it is no matter."""
    rate = health.calls_per_s + FASTER
    return rate if rate < FASTEST and now_ms < health.paced_until_ms else 0.0


def begun_anew(health: ProviderHealth) -> dict[str, float]:
    """What changes in the record where a circuit closes: a small limit, which grows by leaps: it may be sick yet."""
    limit = health.concurrency_limit
    return {"concurrency_limit": max(FIRST_LIMIT, limit / 4), "limit_growth": 0} if limit else {}


def within(limit: float) -> int:
    """So many whole calls at once are within a limit; one at least."""
    return max(1, math.floor(limit + 0.1))


def grown(limit: float, growth: int, load: float) -> tuple[float, int]:
    """The limit after a quick answer: at first by leaps; after a cut ever faster, the longer that is ago."""
    if growth == 0:
        return max(limit, load + max(1.0, min(0.25 * load, math.sqrt(load)))), 0
    return limit + min(1.0, (1 + growth / limit) / limit), min(growth + 1, GROWTH_COUNTED)


def cut(health: ProviderHealth, limit: float, served: float, now_ms: float) -> float:
    """The limit a part of the way down to the calls that were in service; it never grows by that.

    Below the calls that are answered at once it is not, whatever the others do.
    """
    return max(limit + min(0.0, max(1.0, served) - limit) * 0.2, in_service(health, now_ms))


def answer_rate(health: ProviderHealth, now_ms: float) -> float:
    """Answers a second, as they are at this moment: between results the average falls."""
    return health.answers_per_s * math.exp(-max(0.0, now_ms - health.last_result_ms) / COUNTED_OVER_MS)


def in_service(health: ProviderHealth, now_ms: float) -> float:
    """So many calls are being answered at once, whatever the others do."""
    served = answer_rate(health, now_ms) * max(health.call_ms, health.floor_latency_ms) / 1000
    return max(served, health.answering)


def call_lasted(health: ProviderHealth, duration_ms: float, latency_ms: float) -> float:
    """The average of whole calls in ms, streams included and waiting left out, after one that went well."""
    average, floor = health.call_ms, health.floor_latency_ms
    duration_ms = max(duration_ms, latency_ms)
    if duration_ms <= 0:
        return average
    lasted = duration_ms - max(0.0, latency_ms - floor) if floor else duration_ms
    return lasted if average == 0 else average + (lasted - average) / 16
