"""What grows with the number of providers does not grow faster than it."""

import gc
import logging
from contextlib import contextmanager

from benchmarks import growth


@contextmanager
def quiet():
    """No line for each circuit; and the garbage collector passes over what other tests left, which takes it 0.1 s."""
    logging.getLogger("redis_router").setLevel(logging.ERROR)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        logging.getLogger("redis_router").setLevel(logging.NOTSET)


def test_a_pass_of_the_worker_is_linear(one_real):
    """CPU for each of 2,000 probed circuits that are due at once is about that for each of 200, and all are moved.

    Ten times as much would be quadratic; the machine may be busy, so three times as much still passes.
    """
    with quiet():
        few, many = (growth.worker(one_real.url, f"{one_real.namespace}-{n}", n) for n in (200, 2_000))
    assert many.each_ms < 3 * few.each_ms
    assert many.thread / many.providers < 3 * few.thread / few.providers


def test_a_router_is_linear(one_real):
    """To register providers, to join the fleet and to open their circuits; a refusal costs the same for any number."""
    with quiet():
        few, many = (growth.router(one_real.url, f"{one_real.namespace}-{n}", n) for n in (100, 1_000))
    for step in ("registered", "joined", "opened"):
        spent, before = getattr(many, step), getattr(few, step)
        assert spent < 40 * max(before, 0.002), f"{step}: {before:.3f} s for 100, {spent:.3f} s for 1,000"
    assert many.refusal_us < 5 * few.refusal_us
