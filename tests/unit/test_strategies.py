"""Each strategy's choice, and that it does not depend on how often the table changed."""

from collections import Counter

import pytest

from redis_router import Candidate, InvalidArgument, Provider, ProviderHealth
from redis_router.strategies import STRATEGIES, Latency, balanced, best_first, resolve, smooth


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


def in_flight(found, **calls):
    """With so many calls of this replica under way."""
    for candidate in found:
        candidate.in_flight.extend([None] * calls.get(candidate.provider.name, 0))
    return found


def test_p2c_takes_the_lower_load_of_two():
    """peak · (in flight + 1) / weight: 100 · 3 against 150 · 1, and against 150 · 1 / 0.25."""
    found = candidates(a={"peak_latency_ms": 100.0}, b={"peak_latency_ms": 150.0})
    assert picks("p2c", found) == {"a": 600}
    assert picks("p2c", in_flight(found, a=2)) == {"b": 600}
    light = candidates(a={"peak_latency_ms": 100.0}, b={"peak_latency_ms": 150.0, "weight": 0.25})
    assert picks("p2c", in_flight(light, a=2)) == {"a": 600}


def test_p2c_sees_calls_that_begin_later():
    """The pick was prepared before; what is under way is looked up for each choice."""
    found = candidates(a={"peak_latency_ms": 100.0}, b={"peak_latency_ms": 150.0})
    pick = resolve("p2c").prepare("m", found)
    taken = Counter()
    for _ in range(10):  # none of them ends
        candidate = pick()
        candidate.in_flight.append(None)
        taken[candidate.provider.name] += 1
    assert taken == {"a": 6, "b": 4}


def test_p2c_never_takes_the_worst_of_three():
    """It is drawn together with a better one each time; the others share its calls."""
    found = candidates(a={"peak_latency_ms": 10.0}, b={"peak_latency_ms": 20.0}, c={"peak_latency_ms": 90.0})
    taken = picks("p2c", found, times=3_000)
    assert set(taken) == {"a", "b"}
    assert abs(taken["a"] - 2_000) < 6 * (3_000 * 2 / 9) ** 0.5


def test_p2c_without_a_peak_goes_by_the_average():
    """A record of an older version."""
    found = candidates(a={"latency_ms": 100.0}, b={"latency_ms": 50.0})
    assert picks("p2c", found) == {"b": 600}


def test_the_unmeasured_begin_at_their_peers_mean():
    """Neither first nor last."""
    found = candidates(a={"latency_ms": 100.0}, b={"latency_ms": 300.0}, new={})
    assert balanced([100.0, 300.0, 0.0], found) == [100.0, 300.0, 200.0]
    assert balanced([0.0, 0.0, 0.0], found) == [1.0, 1.0, 1.0]


def test_the_idle_come_nearer_to_their_peers():
    """Half of the way in ten seconds without a result; the busy ones keep what was measured."""
    found = candidates(a={"last_result_ms": 60_000}, b={"last_result_ms": 60_000}, idle={"last_result_ms": 50_000})
    assert balanced([100.0, 200.0, 900.0], found) == [100.0, 200.0, 525.0]
    assert balanced([0.0, 0.0, 900.0], found)[2] == 900.0  # no peer to come nearer to


def test_latency_with_a_tolerance_spreads():
    """All within a fifth of the best; the rest as before."""
    found = candidates(a={"latency_ms": 100.0}, b={"latency_ms": 119.0}, c={"latency_ms": 121.0})
    taken = picks(Latency(tolerance=0.2), found)
    assert set(taken) == {"a", "b"}
    assert min(taken.values()) > 200
    with pytest.raises(InvalidArgument, match="tolerance"):
        Latency(tolerance=-1)


@pytest.mark.parametrize("weights", [(5, 1, 1), (1, 1), (3, 2, 1), (0.5, 1.5), (7, 3, 2, 1), (1,)])
def test_smooth_weighted_round_robin_is_exact_and_even(weights):
    """Each as often as its weight says in one round, and never more than one turn ahead of its share or behind."""
    turns = smooth(weights)
    share = [weight / sum(weights) for weight in weights]
    taken = [0] * len(weights)
    for number, index in enumerate(turns, 1):
        taken[index] += 1
        assert all(abs(times - number * part) <= 1 for times, part in zip(taken, share, strict=True))
    assert [times / len(turns) for times in taken] == pytest.approx(share)


def test_weights_far_apart_make_no_endless_schedule():
    """At most some ten thousand turns; the lightest keeps one."""
    turns = smooth((1e-3, 1e6, 333.333))
    assert len(turns) <= 10_003
    assert set(turns) == {0, 1, 2}


def test_weighted_round_robin_keeps_its_turn_over_table_changes():
    """The schedule is kept, and so is the place in it."""
    strategy = resolve("weighted_round_robin")
    found = candidates(a={"weight": 3.0}, b={"weight": 1.0})
    taken = Counter(strategy.prepare("m", found)().provider.name for _ in range(400))
    assert taken == {"a": 300, "b": 100}


def test_a_second_try_takes_the_least_loaded_of_all():
    """Two at random would leave the best one out now and then."""
    found = candidates(a={"peak_latency_ms": 90.0}, b={"peak_latency_ms": 10.0}, c={"peak_latency_ms": 20.0})
    again = best_first("p2c")
    assert {again.prepare("m", found)().provider.name for _ in range(50)} == {"b"}
    assert {again.prepare("m", in_flight(found, b=3))().provider.name for _ in range(50)} == {"c"}
    assert isinstance(best_first("latency"), Latency)
