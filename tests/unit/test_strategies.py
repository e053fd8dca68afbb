"""Each strategy's choice, and that it does not depend on how often the table changed."""

import math
import random
from collections import Counter
from itertools import pairwise

import pytest

from redis_router import Candidate, InvalidArgument, Outcome, Provider, ProviderHealth
from redis_router.circuit import machine as circuit
from redis_router.circuit.outcome import Result, UnderWay
from redis_router.routing.strategies import (
    STRATEGIES,
    Latency,
    alias_table,
    best_first,
    looking,
    or_mean,
    resolve,
    smooth,
)
from redis_router.routing.table import EMPTY, Tables


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


def begin(candidate, since=math.inf):
    """One more call of this replica is under way, and waits for its answer since this moment."""
    candidate.in_flight[len(candidate.in_flight)] = since


def in_flight(found, **calls):
    """With so many calls of this replica under way."""
    for candidate in found:
        for _ in range(calls.get(candidate.provider.name, 0)):
            begin(candidate)
    return found


def test_p2c_equals_share():
    """Averages of equal providers differ by chance: within a quarter of each other they get the same, five sigma."""
    taken = picks("p2c", candidates(a={"latency_ms": 100.0}, b={"latency_ms": 124.0}), times=4_000)
    assert abs(taken["a"] - 2_000) < 5 * (4_000 / 4) ** 0.5


def test_p2c_follows_the_shares():
    """Three times as slow: (1.25 / 3)³ = 0.072 of the best one's draws. A tenth of failures costs 500 ms."""
    for slow in ({"latency_ms": 750.0}, {"latency_ms": 250.0, "failure_rate": 0.1}):
        taken = picks("p2c", candidates(fast={"latency_ms": 250.0}, slow=slow), times=8_000)
        expected = 8_000 * 0.0723 / 1.0723
        assert abs(taken["slow"] - expected) < 5 * expected**0.5


@pytest.mark.parametrize("shares", [(1.0,), (1, 1), (3, 1), (0.005, 1, 1), (5, 1, 1e-9, 2), tuple(range(1, 400))])
def test_draws_by_share_are_exact(shares):
    """What each index keeps of its own, and gets of the others', is its share of the whole."""
    kept, other_of = alias_table(shares)
    parts = [min(1.0, part) for part in kept]
    for index, other in enumerate(other_of):
        parts[other] += max(0.0, 1.0 - kept[index]) if other != index else 0.0
    assert [part / len(shares) for part in parts] == pytest.approx([share / sum(shares) for share in shares])


def test_p2c_prefers_the_one_with_fewer_calls_in_flight():
    """Of two that are drawn; by weight. Only who is drawn twice gets one all the same."""
    found = in_flight(candidates(a={"latency_ms": 100.0}, b={"latency_ms": 100.0}), a=2)
    taken = picks("p2c", found, times=4_000)
    assert abs(taken["a"] - 1_000) < 5 * (4_000 * 3 / 16) ** 0.5
    heavy = in_flight(candidates(a={"weight": 3.0}, b={}), a=2, b=1)  # 2 / 3 against 1
    taken = picks("p2c", heavy, times=4_000)
    assert abs(taken["a"] - 4_000 * 15 / 16) < 5 * (4_000 * 15 / 256) ** 0.5


def test_p2c_sees_calls_that_begin_later():
    """The pick was prepared before; what is under way is looked up for each choice."""
    found = candidates(a={"latency_ms": 100.0}, b={"latency_ms": 100.0})
    pick = resolve("p2c").prepare("m", found)
    taken = Counter()
    for _ in range(200):  # none of them ends
        candidate = pick()
        begin(candidate)
        taken[candidate.provider.name] += 1
    assert abs(taken["a"] - taken["b"]) < 20  # by chance alone it would be up to 70


@pytest.mark.parametrize("size", [2, 3, 12])
def test_p2c_leaves_a_trickle_to_the_slowest(size):
    """However slow, one draw in two hundred of the best one's."""
    found = candidates(slow={"latency_ms": 9e6}, **{f"p{n}": {"latency_ms": 1.0} for n in range(size - 1)})
    assert picks("p2c", found, times=20_000 * size)["slow"] > 20


def test_the_unmeasured_begin_at_their_peers_mean():
    """Neither first nor last."""
    assert or_mean([100.0, 300.0, 0.0]) == [100.0, 300.0, 200.0]
    assert or_mean([0.0, 0.0, 0.0]) == [1.0, 1.0, 1.0]


class Game:
    """Calls one after the other to providers whose latency in ms is given; their records are the fleet's arithmetic.

    A new table every half second, as pushes bring it; `replicas` take turns, each with a table of its own.
    """

    def __init__(self, strategy, latencies, replicas=1, **records):
        self.now_ms = 1_000_000.0
        self.latencies = latencies
        self.records = {name: ProviderHealth(name, **records.get(name, {})) for name in latencies}
        self.tables = [
            Tables(looking(resolve(strategy), lambda: self.now_ms), lambda: self.now_ms) for _ in range(replicas)
        ]
        self.shown = [EMPTY] * replicas
        self.built_ms = 0.0
        self.calls: dict[str, list[float]] = {name: [] for name in latencies}

    def play(self, seconds, per_second):
        for number in range(int(seconds * per_second)):
            self.now_ms += 1000 / per_second
            if self.now_ms - self.built_ms >= 500:
                self.built_ms = self.now_ms
                parts = [Provider(name, ("m",)) for name in self.latencies]
                self.shown = [t.build(parts, self.records, old) for t, old in zip(self.tables, self.shown, strict=True)]
            health = self.shown[number % len(self.shown)].picks["m"]().health
            self.calls[health.name].append(self.now_ms / 1000)
            result = Result(health.name, Outcome.SUCCESS, self.latencies[health.name](), 1)
            self.records[health.name], _ = circuit.fold(self.records[health.name], result, int(self.now_ms))

    def longest_gap(self, name, began):
        moments = [began, *self.calls[name], self.now_ms / 1000]
        return max(later - earlier for earlier, later in pairwise(moments))


STALE = {
    "one failure": {"failure_rate": 0.1, "latency_ms": 50.0},
    "a slow cold call": {"latency_ms": 4_000.0},
}


@pytest.mark.parametrize("stale", STALE)
@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@pytest.mark.parametrize("per_second", [1, 30, 500])
@pytest.mark.parametrize("others", [1, 3])
@pytest.mark.parametrize("replicas", [1, 7])
def test_nobody_is_starved(strategy, stale, per_second, others, replicas):
    """Well ever after one bad call, it gets calls again within seconds."""
    random.seed(1)
    names = ["stale", *"abc"[:others]]
    records = {name: {"latency_ms": 50.0, "last_result_ms": 1_000_000} for name in names}
    game = Game(
        strategy, dict.fromkeys(names, lambda: 50.0), replicas, **{**records, "stale": records["stale"] | STALE[stale]}
    )
    game.play(120 if per_second == 1 else 15, per_second)
    # one call a second, over seven replicas: each of them has one in seven seconds to spend on a look
    assert game.longest_gap("stale", 1_000.0) < (8.0 if per_second >= 30 else 30.0)


@pytest.mark.parametrize("strategy", ["p2c", "latency"])
@pytest.mark.parametrize("latency", [1.0, 5.0])
def test_looks_do_not_take_the_calls_over(strategy, latency):
    """A provider that is truly slow gets few calls: at 50 a second one or two in a hundred."""
    game = Game(strategy, {"fast": lambda: 1.0, "slow": lambda: 20.0 * latency})
    game.play(10, 50)
    before = len(game.calls["slow"])
    game.play(100, 50)
    assert 15 <= len(game.calls["slow"]) - before < 100


def test_p2c_equals_share_though_their_latencies_vary():
    """Lognormal, as an LLM's: over a minute each has its part, and in no ten seconds one has nearly all."""
    draw = random.Random(7)
    game = Game("p2c", dict.fromkeys("ab", lambda: draw.lognormvariate(0, 0.5) * 800))
    game.play(120, 20)
    assert 0.4 < len(game.calls["a"]) / 2_400 < 0.6
    for second in range(1_000, 1_120, 10):
        part = sum(second < moment <= second + 10 for moment in game.calls["a"])
        assert 20 < part < 180


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
    found = candidates(a={"latency_ms": 90.0}, b={"latency_ms": 10.0}, c={"latency_ms": 20.0})
    again = best_first("p2c")
    assert {again.prepare("m", found)().provider.name for _ in range(50)} == {"b"}
    assert {again.prepare("m", in_flight(found, b=3))().provider.name for _ in range(50)} == {"c"}
    assert isinstance(best_first("latency"), Latency)


MEASURED = {"samples": 63, "usual_latency_ms": 100.0, "floor_latency_ms": 100.0, "latency_ms": 100.0, "call_ms": 100.0}


@pytest.mark.parametrize("strategy", ["adaptive", "latency"])
def test_the_quickest_has_the_calls_until_it_is_full(strategy):
    """Calls elsewhere count; above the limit the next one is taken where that is the sooner answer."""
    slower = {key: 1.3 * value if key.endswith("_ms") else value for key, value in MEASURED.items()}
    found = candidates(a=MEASURED | {"concurrency_limit": 4.0}, b=slower | {"concurrency_limit": 4.0})
    pick = resolve(strategy).prepare("m", found)
    taken = []
    for _ in range(8):
        taken.append(pick())
        begin(taken[-1])
    assert [each.provider.name for each in taken] == list("aaaabbbb")
    found[0].in_flight.clear()
    found[0].here.heard(4)
    assert resolve(strategy).prepare("m", found)().provider.name == "a", "both are full, and this one is the quicker"


@pytest.mark.parametrize("strategy", ["adaptive", "latency"])
@pytest.mark.parametrize(("times", "is_alike"), [(1.05, True), (1.2, False)])
def test_those_alike_share_the_calls(strategy, times, is_alike):
    """Two deployments of one model are never equal to the last digit; and one in reserve is not for load."""
    slower = {key: times * value if key.endswith("_ms") else value for key, value in MEASURED.items()}
    found = candidates(a=MEASURED | {"concurrency_limit": 50.0}, b=slower | {"concurrency_limit": 50.0})
    taken = picks(strategy, found, times=2_000)
    assert taken["a"] + taken["b"] == 2_000
    assert (900 < taken["b"] < 1_100) if is_alike else taken["b"] == 0


def test_adaptive_leaves_a_provider_where_calls_hang():
    """Long before they time out; where nobody else answers quicker than these hang, it stays."""
    slower = {key: 3 * value if key.endswith("_ms") else value for key, value in MEASURED.items()}
    limits = {"concurrency_limit": 50.0}
    hanging = candidates(a=MEASURED | limits | {"in_flight": 20, "overdue": 16}, b=slower | limits)
    one_of_many = candidates(a=MEASURED | limits | {"in_flight": 20, "overdue": 1}, b=slower | limits)
    for found in (hanging, one_of_many):
        for each in found:
            each.here.heard(each.health.in_flight)
    assert resolve("adaptive").prepare("m", hanging)().provider.name == "b"
    assert resolve("adaptive").prepare("m", one_of_many)().provider.name == "a"
    own = candidates(a=MEASURED | limits | {"in_flight": 40, "overdue": 4}, b=slower | limits)
    own[0].here.told = UnderWay(4, 4)  # this replica's own calls hang, those of others do not
    own[0].here.heard(40)
    assert resolve("adaptive").prepare("m", in_flight(own, a=4))().provider.name == "b"


def test_a_call_is_overdue_after_a_time_that_goes_by_its_providers_answers():
    """Twice the average and four deviations, at least half a second; never where its answer began.

    Where some calls always took long, those of today may, too. Others were answered meanwhile.
    """
    (quick, slow, unknown, varied) = candidates(
        quick=MEASURED | {"latency_deviation_ms": 10.0},
        slow=MEASURED | {"usual_latency_ms": 1_000.0, "latency_deviation_ms": 500.0},
        unknown={},
        varied=MEASURED | {"latency_deviation_ms": 10.0, "longest_latency_ms": 5_000.0},
    )
    for candidate in (quick, slow, unknown, varied):
        candidate.here.answered_at = 99.9
        for since in (90.0, 95.0, 99.0, 99.6, math.inf):
            begin(candidate, since)
    assert quick.under_way(100.0) == UnderWay(5, 3, 1)
    assert slow.under_way(100.0) == UnderWay(5, 2, 1)
    assert unknown.under_way(100.0) == UnderWay(5, 0, 1)
    assert varied.under_way(100.0) == UnderWay(5, 1, 1)


def test_calls_that_wait_together_are_overdue_sooner():
    """Two that wait for twice the average each; not one alone, and not where an answer came meanwhile."""
    (a,) = candidates(a=MEASURED | {"usual_latency_ms": 1_000.0, "latency_deviation_ms": 300.0})
    begin(a, 98.0)
    assert a.under_way(100.0) == UnderWay(1, 0)
    begin(a, 98.1)
    assert a.under_way(100.0) == UnderWay(2, 2)
    begin(a, 99.5)  # too young to be overdue
    assert a.under_way(100.0) == UnderWay(3, 2)
    a.here.answered_at = 99.0
    assert a.under_way(100.0) == UnderWay(3, 0)


def test_calls_that_wait_together_say_nothing_where_nothing_is_known():
    """Averages of 0, as a hand may write them, or latencies that never differed."""
    zeros = {"samples": 5, "usual_latency_ms": 0.0, "floor_latency_ms": 0.0, "near_latency_ms": 0.0}
    a, b = candidates(a=MEASURED | zeros, b=MEASURED | {"latency_deviation_ms": 0.0})
    for each in (a, b):
        for since in (99.9, 99.9, 99.95):
            begin(each, since)
    assert a.under_way(100.0).overdue == 0
    assert b.under_way(100.0).overdue == 0
    assert b.under_way(1e9) == UnderWay(3, 3)


@pytest.mark.parametrize("strategy", ["adaptive", "latency"])
def test_one_without_a_sample_gets_one_call_at_a_time(strategy):
    """It may hang: others take what comes meanwhile."""
    found = candidates(new={}, a=MEASURED | {"concurrency_limit": 50.0})
    pick = looking(resolve(strategy), lambda: 1_000_000.0).prepare("m", found)
    for _ in range(40):
        begin(pick())
    assert len(found[0].in_flight) == 1


def test_a_record_of_zeros_breaks_no_choice():
    """As a hand may write it."""
    zeros = {"samples": 5, "concurrency_limit": 0.0}
    assert picks("adaptive", candidates(a=zeros, b=zeros | {"usual_latency_ms": 5.0, "floor_latency_ms": 5.0}), 50)


def test_replicas_that_only_record_results_do_not_herd():
    """Nobody knows what is under way: shares by the fourth power of the latency."""
    slower = {key: 2 * value if key.endswith("_ms") else value for key, value in MEASURED.items()}
    taken = picks("adaptive", candidates(a=MEASURED, b=slower), times=1_700)
    assert 50 < taken["b"] < 150
