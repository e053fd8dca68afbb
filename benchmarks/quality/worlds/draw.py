"""Worlds from a seed. Nothing here knows a policy."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.quality.worlds.shape import KINDS, OPERATORS, TO_ALL, Shape, Site, Trouble, parts_left

FEWEST, MOST = 1500, 3500
"""Requests of a world, about: fewer say nothing of a p99, as each provider must be met once."""
SHORTEST = 80.0
LEAST_LEFT = 0.2
"""So much of the capacity is there at any moment: else it is not the choice that fails requests."""


def world(seed: int, number: int) -> Shape:
    """World `number` of this seed."""
    draw = random.Random(f"{seed} {number} world")
    replicas = round(_log_uniform(draw, 1, 40))
    rate = _log_uniform(draw, 1, 40)
    length = max(SHORTEST, draw.uniform(FEWEST, MOST) / rate)
    names = [f"p{n}" for n in range(1, draw.randint(2, 12) + 1)]
    shares = [_log_uniform(draw, 1, 10) for _ in names]
    speeds = [_log_uniform(draw, 1, 10) for _ in names]
    troubles, left = _troubles(draw, names, shares, speeds, replicas, length)
    load = _log_uniform(draw, 0.02, 0.2) if draw.random() < 0.25 else draw.uniform(0.2, 0.9)
    shape = Shape(seed, number, length, replicas, rate, load, ())
    shape = _with_rhythm(draw, shape)
    stream = _log_uniform(draw, 1, 15) if draw.random() < 0.5 else 0.0
    shape = replace(shape, stream=stream, stream_sigma=draw.uniform(0.2, 0.8))
    sites = _sites(draw, shape, names, shares, speeds, left)
    shape = replace(shape, sites=sites, troubles=tuple(_limits_in_requests(troubles, sites, shape.stream_mean)))
    return _with_patience(draw, shape)


def arrivals(shape: Shape) -> list[tuple[float, int]]:
    """When requests come, and to which replica: the same for every policy."""
    draw, now, peak = random.Random(f"{shape.seed} {shape.number} arrivals"), 0.0, shape.peak
    found = []
    while (now := now + draw.expovariate(peak)) < shape.length:
        replica = 0 if draw.random() < shape.crowded else draw.randrange(shape.replicas)
        if draw.random() * peak < shape.rate_at(now):
            found.append((now, replica))
    return found


def _log_uniform(draw: random.Random, least: float, most: float) -> float:
    return math.exp(draw.uniform(math.log(least), math.log(most)))


def _with_rhythm(draw: random.Random, shape: Shape) -> Shape:
    """Swells, bursts, and a replica that gets more than its share."""
    swell = draw.uniform(0.2, 0.7) if draw.random() < 0.5 else 0.0
    bursts = []
    for _ in range(draw.choice((0, 0, 1, 2))):
        begin = draw.uniform(0.05, 0.85) * shape.length
        bursts.append((begin, begin + draw.uniform(2.0, 15.0), draw.uniform(1.3, 3.0)))
    crowded = draw.uniform(0.1, 0.5) if draw.random() < 0.2 else 0.0
    period = shape.length / draw.uniform(1.0, 3.0)
    return replace(shape, swell=swell, period=period, bursts=tuple(bursts), crowded=crowded)


def _sites(
    draw: random.Random,
    shape: Shape,
    names: Sequence[str],
    shares: Sequence[float],
    speeds: Sequence[float],
    left: float,
) -> tuple[Site, ...]:
    """As large together that the peak is `load` of what is left at the worst moment."""
    fastest, total = _log_uniform(draw, 0.2, 1.5), shape.peak / (shape.load * left)
    found = []
    for name, share, speed in zip(names, shares, speeds, strict=True):
        sigma = draw.uniform(0.1, 0.7)
        site = Site(name, fastest * speed, sigma, 1, draw.uniform(0.2, 1.0) if draw.random() < 0.3 else 0.0)
        requests = total * share / sum(shares)
        slots = max(1, math.ceil(requests * site.holds(shape.stream_mean)))
        if draw.random() < 0.15:
            limit, window = max(0.5, requests), draw.choice((1.0, 10.0))
            says = draw.choice((None, 1.0, 5.0, 20.0))
            site = replace(site, slots=3 * slots, limit=limit, limit_window=window, retry_after=says)
        else:
            site = replace(site, slots=slots)
        found.append(site)
    return tuple(found)


def _with_patience(draw: random.Random, shape: Shape) -> Shape:
    """Time-outs that every provider in good health keeps for nearly all of its calls."""
    timeout = max(3.0, *(each.quantile(2.6) * (1 + each.strain) for each in shape.sites)) * draw.uniform(1.2, 2.5)
    shared = not shape.stream and draw.random() < 0.5
    return replace(shape, timeout=timeout, deadline=3 * timeout if shared else None)


# Incidents


def _troubles(
    draw: random.Random,
    names: Sequence[str],
    shares: Sequence[float],
    speeds: Sequence[float],
    replicas: int,
    length: float,
) -> tuple[list[Trouble], float]:
    """None to three, at once or one after the other, and what they leave of the capacity.

    They befall fast providers more often, which have most of the calls; and several at once are often of one kind.
    """
    number = draw.choices((0, 1, 2, 3), (0.12, 0.38, 0.3, 0.2))[0]
    while True:
        at_once = draw.random() < 0.5
        kind = draw.choice(TO_ALL) if at_once and draw.random() < 0.4 else None
        begin, found = draw.uniform(0.1, 0.3) * length, list[Trouble]()
        for place, name in enumerate(_some(draw, names, speeds, number, at_once)):
            end = min(begin + _log_uniform(draw, 10.0, 0.4 * length), 0.9 * length)
            found.append(_trouble(draw, kind or draw.choice(KINDS), name, begin, end, replicas, length))
            begin = begin + draw.uniform(0.0, 3.0) if at_once else end + draw.uniform(0.0, 15.0)
            begin = min(begin, (0.55 + 0.1 * place) * length)
        left = parts_left(shares, names, found, replicas)
        if left >= LEAST_LEFT and _are_compatible(found):
            return found, left


def _some(
    draw: random.Random, names: Sequence[str], speeds: Sequence[float], number: int, are_different: bool
) -> list[str]:
    if not are_different:
        return draw.choices(names, [1 / speed for speed in speeds], k=number)
    order = sorted(zip(names, speeds, strict=True), key=lambda each: draw.expovariate(1 / each[1]))
    return [name for name, _ in order[:number]]


def _are_compatible(troubles: Sequence[Trouble]) -> bool:
    """A provider is new or drained once, and then nothing else befalls it."""
    moved = [each.provider for each in troubles if each.kind in ("new provider", "drain")]
    return all([each.provider for each in troubles].count(name) == 1 for name in moved)


def _trouble(
    draw: random.Random, kind: str, name: str, begin: float, end: float, replicas: int, length: float
) -> Trouble:
    if kind in OPERATORS:
        return _by_operator(kind, name, begin, end, length)
    base = Trouble(kind, begin, end, name)
    how = draw.random()
    if kind == "down" or kind == "half as large afterwards":
        status = draw.choice((0, 503))
        after = draw.choice((0.02, 1.0))
        gone = replace(base, status=status, chance=1.0, after=after)
        return replace(gone, slots_after=0.5) if kind != "down" else gone
    if kind == "hang of a part":
        return replace(base, status=0, chance=0.05 + 0.55 * how)
    if kind == "brown-out":
        return replace(base, status=503, chance=0.15 + 0.6 * how, after=draw.uniform(0.05, 1.0))
    if kind.startswith("slow"):
        return replace(base, slowdown=2 + 8 * how, gradual=kind.endswith("by"))
    if kind == "fast errors":
        return replace(base, status=500, chance=1.0)
    if kind.startswith("rate limit"):
        says = draw.choice((1.0, 5.0, 20.0)) if kind.endswith("After") else None
        return replace(base, limit=0.1 + 0.6 * how, retry_after=says)
    if kind == "flapping":
        ups = draw.uniform(3.0, 10.0), draw.uniform(2.0, 8.0)
        return replace(base, status=draw.choice((0, 503)), chance=1.0, up_for=ups[0], down_for=ups[1])
    return replace(base, status=draw.choice((401, 500, 0)), chance=1.0, replica=draw.randrange(replicas))


def _by_operator(kind: str, name: str, begin: float, end: float, length: float) -> Trouble:
    if kind == "drain":  # some seconds later it is switched off
        return Trouble(kind, min(begin + 10.0, end), length, name, status=503, chance=1.0)
    return Trouble(kind, begin, end, name if kind == "new provider" else "")


def _limits_in_requests(troubles: Sequence[Trouble], sites: Sequence[Site], stream: float) -> list[Trouble]:
    """A limit is drawn as a part of its provider's capacity."""
    capacity = {each.name: each.capacity(stream) for each in sites}
    return [t if t.limit is None else replace(t, limit=t.limit * capacity[t.provider]) for t in troubles]
