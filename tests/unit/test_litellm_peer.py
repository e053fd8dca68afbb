"""LiteLLM's Router in virtual time: its cooldowns end when virtual time comes to it, not when the machine's does."""

import importlib.util

import pytest

from benchmarks.quality.worlds.ground import Call, Ground
from benchmarks.quality.worlds.players import maker
from benchmarks.quality.worlds.shape import Shape, Site, Trouble


@pytest.mark.skipif(not importlib.util.find_spec("litellm"), reason="the bench extra")
def test_a_cooldown_ends_in_virtual_time():
    """Who is down is left alone for most of the time, and called again soon after it is well."""
    sites = Site("a", 0.2, 0.2, 20), Site("b", 0.2, 0.2, 20)
    down = Trouble("down", 10.0, 30.0, "a", status=503, chance=1.0)
    calls = list[Call]()
    Ground(Shape(1, 0, 50.0, 2, 10.0, 0.5, sites, (down,), timeout=2.0), calls.append).play(
        maker("LiteLLM simple-shuffle")
    )

    def share(begin: float, end: float) -> float:
        seen = [each.provider for each in calls if begin <= each.at < end]
        return seen.count("a") / len(seen)

    assert share(0.0, 10.0) > 0.3
    assert share(15.0, 30.0) < 0.3
    assert share(36.0, 50.0) > 0.3
