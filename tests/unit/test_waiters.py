"""Who waits for a provider is woken, and no ring is lost."""

from redis_router.replica.waiters import Waiters

FOREVER = 600.0
"""Seconds; more than a test has."""


def test_a_ring_while_one_looks_is_not_lost():
    """It is woken for it, and where it leaves, the next one is."""
    waiters = Waiters()
    with waiters.in_thread(["m"]) as first, waiters.in_thread(["m"]) as second:
        waiters.ring(["m"], 1)
        first(FOREVER)
        waiters.ring(["m"], 1)  # while the first one looks
        first(FOREVER)
        waiters.ring(["m"], 1)
        waiters.ring(["m"], 1)
        second(FOREVER)
    with waiters.in_thread(["m"]) as last:
        with waiters.in_thread(["m"]):
            pass
        with waiters.in_thread(["other"]):
            waiters.ring(["m"], 1)
        last(FOREVER)
