"""Routing strategies: work done when the table changes, so that a pick costs the same for 3 and for 1000 providers.

base      what a strategy is
adaptive  adaptive, the default
by_turns  round_robin, weighted, weighted_round_robin
room      who is the quickest and has room
adaptive  the default: by the fleet's calls in flight and learned limits
by_best   latency, availability
p2c       p2c, and the least loaded of all for a request's further tries
idle      looks at providers that a strategy by figures would never choose
named     all of them by name
"""

from redis_router.routing.strategies.base import Pick, Strategy, at_random, or_mean
from redis_router.routing.strategies.by_best import Availability, Latency
from redis_router.routing.strategies.by_turns import RoundRobin, Weighted, WeightedRoundRobin, smooth
from redis_router.routing.strategies.idle import Looking
from redis_router.routing.strategies.named import STRATEGIES, best_first, looking, resolve
from redis_router.routing.strategies.p2c import LeastLoad, PowerOfTwoChoices, alias_table

__all__ = [
    "STRATEGIES",
    "Availability",
    "Latency",
    "LeastLoad",
    "Looking",
    "Pick",
    "PowerOfTwoChoices",
    "RoundRobin",
    "Strategy",
    "Weighted",
    "WeightedRoundRobin",
    "alias_table",
    "at_random",
    "best_first",
    "looking",
    "or_mean",
    "resolve",
    "smooth",
]
