"""The strategies by the names that `Router(strategy=…)` takes."""

from collections.abc import Callable

from redis_router.errors import InvalidArgument
from redis_router.routing.strategies.adaptive import Adaptive, Quickest
from redis_router.routing.strategies.base import Strategy
from redis_router.routing.strategies.by_best import Availability, Latency
from redis_router.routing.strategies.by_turns import RoundRobin, Weighted, WeightedRoundRobin
from redis_router.routing.strategies.idle import Looking
from redis_router.routing.strategies.p2c import LeastLoad, PowerOfTwoChoices

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "adaptive": Adaptive,
    "latency": Latency,
    "round_robin": RoundRobin,
    "weighted": Weighted,
    "weighted_round_robin": WeightedRoundRobin,
    "availability": Availability,
    "p2c": PowerOfTwoChoices,
}


def best_first(strategy: str | Strategy) -> Strategy:
    """What orders a request's further tries: an instance of its own, so that they use up no turns of the first ones."""
    found = resolve(strategy)
    if isinstance(found, Adaptive):
        return Quickest()
    return LeastLoad() if isinstance(found, PowerOfTwoChoices) else found


def looking(strategy: Strategy, now_ms: Callable[[], float]) -> Strategy:
    """The strategy, so that it starves nobody; those that go by turns or weights starve nobody anyway."""
    if isinstance(strategy, Adaptive):
        return Adaptive(now_ms)
    measures = isinstance(strategy, Latency | Availability | PowerOfTwoChoices)
    return Looking(strategy, now_ms) if measures else strategy


def resolve(strategy: str | Strategy) -> Strategy:
    """The strategy of that name, or the user's own object. Raises InvalidArgument, which lists the names."""
    if isinstance(strategy, str) and strategy in STRATEGIES:
        return STRATEGIES[strategy]()
    if not isinstance(strategy, str | type) and callable(getattr(strategy, "prepare", None)):
        return strategy
    raise InvalidArgument(
        f"unknown strategy {strategy!r}: choose {', '.join(STRATEGIES)}, or an object with prepare(model, candidates)"
    )
