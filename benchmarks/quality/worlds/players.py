"""Who plays every world, by name."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace

from benchmarks.quality.policies import GUIDE
from benchmarks.quality.worlds.fleet import ToldFleet, ours
from benchmarks.quality.worlds.ground import Ground, Player
from benchmarks.quality.worlds.knowing import ORACLES
from benchmarks.quality.worlds.others import Envoy, OneByOne, litellm
from benchmarks.quality.worlds.shape import Shape
from redis_router import CircuitConfig
from redis_router.options import Options
from redis_router.routing.strategies import STRATEGIES

ORACLE, ORIGINAL, ENVOY = "oracle", "the original", "Envoy, least request"
DEFAULT = Options().strategy
assert isinstance(DEFAULT, str)
GUIDED = "p2c, guide"
OURS = list(dict.fromkeys([DEFAULT, "p2c", GUIDED, "latency"]))
"""The default strategy with default thresholds comes first."""
TOLD = f"{DEFAULT}, told"
"""What the same strategy would reach if it had nothing to learn: the bound for what is learned."""
LITELLM = {
    f"LiteLLM {name}": name for name in ("simple-shuffle", "latency-based-routing", "least-busy", "usage-based-routing")
}


def names() -> list[str]:
    """All who can play here, but for the oracles, which always do."""
    peers = (
        LITELLM
        if importlib.util.find_spec("litellm")
        else [f"LiteLLM {n}" for n in ("least-busy", "usage-based-routing")]
    )
    return [*OURS, ORIGINAL, *peers, ENVOY]


def guide(shape: Shape) -> CircuitConfig:
    """The guide as one who knows the providers would set it: slow is what 99 % of the calls keep, at any provider.

    With one replica there is nobody to agree with.
    """
    slow = max(site.quantile(2.33) * (1 + site.strain) for site in shape.sites)
    reporters = GUIDE.min_reporters if shape.replicas > 1 else 0
    return replace(GUIDE, slow_call_duration_threshold=round(slow, 2), min_reporters=reporters)


def maker(name: str, url: str = "") -> Callable[[Ground], Player]:
    """The player of that name: one of `names`, an oracle, or any strategy of ours. Ours use the server at `url`."""
    if name in ORACLES:
        return ORACLES[name]
    if name == ORIGINAL:
        return OneByOne
    if name == ENVOY:
        return Envoy
    if name == TOLD:
        return ours(DEFAULT, lambda shape: Options().circuit, url, ToldFleet)
    if name in LITELLM:
        return litellm(LITELLM[name])
    if name.partition(", guide")[0] in STRATEGIES:
        strategy, guided, _ = name.partition(", guide")
        return ours(strategy, guide if guided else lambda shape: Options().circuit, url)
    raise ValueError(f"unknown policy {name!r}: choose {', '.join([*names(), *STRATEGIES])}")
