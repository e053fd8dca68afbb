"""The fleet that is played, as a shape of the simulation: what is measured and what is simulated is one value."""

from benchmarks.quality.worlds.shape import Shape, Site, Trouble

REPLICAS = 6
RATE = 40.0
"""Requests a second, over all replicas."""
LENGTH = 70.0
"""Seconds of a run. The default thresholds keep a circuit open for 30 s: runs should be longer than that."""
SHORTEST = 5.0
TIMEOUT = 2.0
"""Seconds until a gateway gives up on a call."""
RETRY_AFTER = 5.0
SITES = (
    Site("a", 0.20, 0.4, 6),
    Site("b", 0.25, 0.4, 6),
    Site("c", 0.30, 0.4, 6),
    Site("d", 0.40, 0.4, 7),
    Site("e", 0.50, 0.4, 8),
)
"""The fastest cannot take all requests; together they have room for two and a half times as many."""
BEGINS, LASTS, EVERY = 6.0, 10.0, 16.0
"""Seconds of a run of `LENGTH`: the first incident, each of them, and from one to the next."""


def troubles(length: float) -> tuple[Trouble, ...]:
    """Four incidents, one after the other, in a run of so many seconds."""
    scale = length / LENGTH
    begins = [scale * (BEGINS + number * EVERY) for number in range(4)]
    down, hang, slow, limit = [(begin, begin + scale * LASTS) for begin in begins]
    return (
        Trouble("down", *down, "a", status=503, chance=1.0),
        Trouble("hang of a part", *hang, "b", status=0, chance=0.35),
        Trouble("slow at once", *slow, "c", slowdown=5.0),
        Trouble("rate limit with Retry-After", *limit, "a", limit=5.0, retry_after=RETRY_AFTER),
    )


def shape(seed: int, number: int, length: float = LENGTH) -> Shape:
    """Run `number` of this seed."""
    load = RATE / sum(site.capacity(0.0) for site in SITES)
    return Shape(seed, number, length, REPLICAS, RATE, load, SITES, troubles(length), timeout=TIMEOUT)
