"""Who waits for a provider is woken, and no ring is lost."""

import time

from redis_router.replica.waiters import Waiters


def test_a_ring_while_one_looks_is_not_lost():
    """It is woken for it, and where it leaves, the next one is."""
    waiters = Waiters()
    with waiters.in_thread(["m"]) as first, waiters.in_thread(["m"]) as second:
        waiters.ring(["m"], 1)
        began = time.monotonic()
        first(60.0)
        waiters.ring(["m"], 1)  # while the first one looks
        first(60.0)
        waiters.ring(["m"], 1)
        waiters.ring(["m"], 1)
        second(60.0)
        assert time.monotonic() - began < 30.0
    with waiters.in_thread(["m"]) as last:
        with waiters.in_thread(["m"]):
            pass
        with waiters.in_thread(["other"]):
            waiters.ring(["m"], 1)
        last(60.0)
    assert time.monotonic() - began < 30.0
