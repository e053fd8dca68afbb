"""Each strategy's choice, and that it does not depend on how often the table changed."""

from collections import Counter

import pytest

from redis_router import Candidate, InvalidArgument, Provider, ProviderHealth
from redis_router.strategies import STRATEGIES, resolve


def candidates(**fields):
    """Candidates by name, with these health fields."""
    return [Candidate(Provider(name, ("m",)), ProviderHealth(name, **health)) for name, health in fields.items()]


def picks(strategy, found, times=600):
    """How often each was picked."""
    pick = resolve(strategy).prepare("m", found)
    return Counter(pick().provider.name for _ in range(times))


def test_latency_takes_the_lowest():
    """All requests to the one with the lowest average."""
    found = candidates(slow={"latency_ms": 90.0}, fast={"latency_ms": 30.0}, mid={"latency_ms": 60.0})
    assert picks("latency", found) == {"fast": 600}


def test_latency_lets_the_unmeasured_take_turns():
    """Neither everything, as in the original, nor nothing: until it has a sample it shares with the best."""
    found = candidates(slow={"latency_ms": 90.0}, fast={"latency_ms": 30.0}, new={})
    taken = picks("latency", found, times=1_000)
    assert set(taken) == {"fast", "new"}
    assert min(taken.values()) > 400  # six sigma


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_no_favourite_among_equals(strategy):
    """At random or in turn: nobody gets the ties alone."""
    taken = picks(strategy, candidates(a={}, b={}, c={}), times=3_000)
    assert all(abs(times - 1_000) < 6 * (3_000 * 2 / 9) ** 0.5 for times in taken.values())
    assert set(taken) == {"a", "b", "c"}


def test_round_robin_keeps_its_turn_over_table_changes():
    """A table made anew for each request still alternates; each model counts for itself."""
    strategy, found = resolve("round_robin"), candidates(a={}, b={})
    taken = Counter()
    for _ in range(100):
        for model in ("m", "n"):
            taken[model, strategy.prepare(model, found)().provider.name] += 1
    assert set(taken.values()) == {50}


def test_weighted_follows_the_weights():
    """1 : 3, within what chance allows at 8,000 draws (five sigma)."""
    taken = picks("weighted", candidates(a={"weight": 1.0}, b={"weight": 3.0}), times=8_000)
    assert abs(taken["a"] - 2_000) < 5 * (8_000 * 0.25 * 0.75) ** 0.5


def test_availability_takes_the_lowest_failure_rate():
    """All requests to the most reliable."""
    found = candidates(bad={"failure_rate": 0.3}, good={"failure_rate": 0.01}, worse={"failure_rate": 0.5})
    assert picks("availability", found) == {"good": 600}


@pytest.mark.parametrize("strategy", ["fastest", "", None, 3, object(), STRATEGIES["latency"]])
def test_an_unknown_strategy_is_refused_with_the_list(strategy):
    """The class instead of an object counts as unknown, too."""
    with pytest.raises(InvalidArgument, match=", ".join(STRATEGIES)):
        resolve(strategy)


def test_a_users_own_object_is_accepted():
    """Anything with `prepare`."""

    class Last:
        def prepare(self, model, candidates):
            return lambda: candidates[-1]

    assert picks(Last(), candidates(a={}, b={})) == {"b": 600}
