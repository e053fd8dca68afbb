"""Three providers that serve one model, and what befalls the best of them."""

from benchmarks.quality.world import Incident, Provider, Scenario

REPLICAS, RATE, LENGTH = 6, 75.0, 150.0
"""Requests come at 75 a second and keep half of the 135 slots busy: two providers can just do without the third."""


def providers() -> list[Provider]:
    """Fresh ones. The best cannot serve everybody."""
    return [Provider("a", 0.8, 45), Provider("b", 0.9, 45), Provider("c", 1.0, 45)]


BEGIN, END = 40.0, 80.0
SCENARIOS = [
    Scenario("steady"),
    Scenario("hard down", [Incident("a", BEGIN, END, status=0, chance=1.0)]),
    Scenario("brown-out", [Incident("a", BEGIN, END, status=503, chance=0.5, after=0.6)]),
    Scenario("slow ramp", [Incident("a", BEGIN, END, slowdown=6.0)]),
    Scenario("fast 500s", [Incident("a", BEGIN, END, chance=1.0)]),
    Scenario("rate limits", [Incident("a", BEGIN, END, limit=10.0)]),
    Scenario("flapping", [Incident("a", BEGIN, END, status=503, chance=1.0, up_for=5.0, down_for=3.0)]),
    Scenario("poisoned replica", [Incident("a", BEGIN, END, status=401, chance=1.0, replica=0)]),
    Scenario("mass restart", [Incident("a", BEGIN, END, status=0, chance=1.0)], restart_at=60.0),
]
