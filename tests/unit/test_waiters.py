"""Who waits for a provider is woken, and no ring is lost."""

import time

from redis_router.replica.waiters import Bell


def test_a_ring_while_one_looks_is_not_lost():
    """It is woken for it, and where it leaves, the next one is."""
    bell = Bell()
    with bell.in_thread(["m"]) as first, bell.in_thread(["m"]) as second:
        bell.ring(["m"], 1)
        began = time.monotonic()
        first(60.0)
        bell.ring(["m"], 1)  # while the first one looks
        first(60.0)
        bell.ring(["m"], 1)
        bell.ring(["m"], 1)
        second(60.0)
        assert time.monotonic() - began < 30.0
    with bell.in_thread(["m"]) as last:
        with bell.in_thread(["m"]):
            pass
        with bell.in_thread(["other"]):
            bell.ring(["m"], 1)
        last(60.0)
    assert time.monotonic() - began < 30.0
