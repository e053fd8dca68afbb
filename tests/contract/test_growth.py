"""What grows with the number of providers does not grow faster than it."""

import logging

from benchmarks import growth


def test_a_pass_of_the_worker_is_linear(one_real):
    """CPU for each of 2,000 probed circuits that are due at once is about that for each of 200, and all are moved.

    Ten times as much would be quadratic; the machine may be busy, so three times as much still passes.
    """
    logging.getLogger("redis_router").setLevel(logging.ERROR)  # a line for each circuit
    try:
        few, many = (growth.worker(one_real.url, f"{one_real.namespace}-{n}", n) for n in (200, 2_000))
    finally:
        logging.getLogger("redis_router").setLevel(logging.NOTSET)
    assert many.each_ms < 3 * few.each_ms
    assert many.thread / many.providers < 3 * few.thread / few.providers
