"""How the simulated providers really are: the same for every process, from the seed and the wall clock alone."""

import random

PROVIDERS = ("alpha", "beta", "gamma")
MODEL = "m"
WINDOW = 2.5
"""Seconds for which a provider stays as it is."""
LIMIT = 3
OPEN_TIMEOUT = 0.6
PERMIT_TTL = 3.0
SUCCESSES = 3


def is_failing(seed: int, provider: str, now: float) -> bool:
    """In about three windows of ten; the providers by turns, so that there is always one that works."""
    window = int(now / WINDOW)
    draw = random.Random(f"{seed}/{window}")
    return draw.random() < 0.6 and draw.choice(PROVIDERS) == provider


def call(seed: int, provider: str, now: float, draw: random.Random) -> tuple[bool, float]:
    """Does this call fail, and how many seconds does it take? One in thirty outlives an opening."""
    seconds = draw.uniform(0.9, 1.6) if draw.random() < 0.03 else draw.uniform(0.001, 0.02)
    return is_failing(seed, provider, now) and draw.random() < 0.9, seconds
