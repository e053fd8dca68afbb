"""Random worlds are what they say, the same for everybody, and their oracle is hard to beat."""

import csv
import importlib.util
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import pytest

from benchmarks.measure import quantile
from benchmarks.quality.worlds import command, timeline
from benchmarks.quality.worlds.draw import LEAST_LEFT, arrivals, world
from benchmarks.quality.worlds.ground import Ground
from benchmarks.quality.worlds.knowing import ORACLES
from benchmarks.quality.worlds.players import ENVOY, GUIDED, LITELLM, ORACLE, ORIGINAL, OURS, TOLD, maker
from benchmarks.quality.worlds.report import tables, write
from benchmarks.quality.worlds.score import Played, Row, best_of, play, why
from benchmarks.quality.worlds.shape import KINDS, Shape, Site, Trouble, parts_left
from redis_router.testing.server import EmbeddedServer

SEED = 7
WORLDS = [world(SEED, number) for number in range(1, 201)]
QUICK = [*OURS, ORIGINAL, "LiteLLM least-busy", "LiteLLM usage-based-routing", ENVOY]
"""Who plays without LiteLLM."""


def small(number: int, requests: int = 400) -> Shape:
    """The beginning of a world."""
    shape = WORLDS[number - 1]
    return replace(shape, length=min(shape.length, requests / shape.rate))


def of_one_provider(**trouble) -> Shape:
    """A fast provider that something befalls from 20 to 60 s of 100, and a slow one with room for all."""
    sites = (Site("a", 0.5, 0.2, 20), Site("b", 1.5, 0.2, 40))
    return Shape(SEED, 0, 100.0, 3, 5.0, 0.5, sites, (Trouble("test", 20.0, 60.0, "a", **trouble),), timeout=5.0)


class TestDraw:
    def test_a_world_is_the_same_by_its_seed_and_number(self):
        """Whatever was drawn before, and different from the next."""
        random.seed(3)
        assert world(SEED, 5) == WORLDS[4] != world(SEED, 6) != world(SEED + 1, 6)
        assert arrivals(world(SEED, 5)) == arrivals(WORLDS[4])

    def test_values_are_within_their_bounds(self):
        """As the module says, in two hundred worlds."""
        for shape in WORLDS:
            assert 2 <= len(shape.sites) <= 12
            assert 1 <= shape.replicas <= 40
            assert 0 <= len(shape.troubles) <= 3
            assert 0.02 <= shape.load <= 0.9
            assert shape.rate >= 1.0
            assert len(arrivals(shape)) < 8000
            for trouble in shape.troubles:
                assert 0 <= trouble.begin < trouble.end <= shape.length
                assert trouble.replica is None or trouble.replica < shape.replicas
            for site in shape.sites:
                assert site.slots >= 1
                assert site.quantile(2.33) < shape.timeout  # whoever is in health keeps it

    def test_what_is_left_can_carry_the_peak(self):
        """When the sick are out, the load is at most 90 % at any moment."""
        for shape in WORLDS:
            stream, names = shape.stream_mean, [site.name for site in shape.sites]
            capacities = {site.name: site.capacity(stream) for site in shape.sites}
            as_parts = [
                t if t.limit is None else replace(t, limit=t.limit / capacities[t.provider]) for t in shape.troubles
            ]
            left = parts_left(list(capacities.values()), names, as_parts, shape.replicas)
            assert shape.peak <= 0.95 * sum(capacities.values()) * left + 0.5
            assert left > LEAST_LEFT / 2  # slots are whole numbers

    def test_worlds_are_as_different_as_they_should_be(self):
        """Latencies over an order of magnitude, hidden limits, streams, swells, every number of incidents and kind."""
        medians = [site.median for shape in WORLDS for site in shape.sites]
        assert max(medians) > 30 * min(medians)
        assert {trouble.kind for shape in WORLDS for trouble in shape.troubles} == set(KINDS)
        assert {len(shape.troubles) for shape in WORLDS} == {0, 1, 2, 3}
        assert {len(shape.sites) for shape in WORLDS} == set(range(2, 13))
        says = {site.retry_after for shape in WORLDS for site in shape.sites if site.limit is not None}
        assert None in says
        assert len(says) > 1
        for is_so in (
            lambda shape: shape.stream > 0,
            lambda shape: shape.swell > 0,
            lambda shape: shape.bursts,
            lambda shape: shape.deadline is not None,
            lambda shape: shape.crowded > 0,
        ):
            assert 10 < sum(bool(is_so(shape)) for shape in WORLDS) < 190


class TestGround:
    @pytest.mark.parametrize("name", [*QUICK, *ORACLES])
    def test_a_run_is_the_same_twice(self, name):
        """Policies draw from streams of their own, which are seeded."""
        shape = small(3)
        first, random_state = Ground(shape).play(maker(name)), random.random()
        assert Ground(shape).play(maker(name)) == first
        assert random.random() == random_state
        assert first.requests == len(first.seconds) == len(arrivals(shape))

    @pytest.mark.skipif(not importlib.util.find_spec("litellm"), reason="the bench extra")
    def test_litellm_plays(self):
        """Where it is installed; in a process of its own, as it leaves event loops behind."""
        few = min(WORLDS, key=lambda shape: shape.rate * shape.length + 500 * shape.replicas).number
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            first, again = pool.map(play, [(SEED, few, list(LITELLM), "memory")] * 2)
        assert first == again
        assert set(first.rows) == {ORACLE, *LITELLM}

    def test_a_hidden_limit_is_answered_by_429(self):
        """Of what comes above it."""
        shape = of_one_provider(limit=1.0, retry_after=5.0)
        tally = Ground(shape).play(maker("oracle by health"))
        assert 429 not in tally.statuses  # it knows the limit
        assert tally.calls["b"] > 50
        tally = Ground(shape).play(maker("LiteLLM least-busy"))
        assert tally.statuses[429] > 0

    def test_a_hang_lasts_until_the_client_gives_up(self):
        """And the next provider answers."""
        tally = Ground(of_one_provider(status=0, chance=1.0)).play(maker(ORIGINAL))
        assert tally.statuses[0] > 0
        assert tally.failed == 0
        assert max(tally.seconds) > 5.0

    def test_a_stream_does_not_count_and_keeps_its_slot(self):
        """Times are those to the first token; the provider is busy until the end."""
        shape = replace(of_one_provider(), stream=4.0)
        whole, streamed = (Ground(each).play(maker("oracle by health")) for each in (of_one_provider(), shape))
        assert max(streamed.seconds) < 4.0
        assert streamed.calls["b"] > whole.calls["b"] == 0  # the twenty slots of a are taken

    def test_operators_change_the_fleet(self):
        """A new provider gets calls from then on, a drained one no more, and restarts forget nobody."""
        kinds = [("new provider", "a"), ("drain", "a"), ("restart of all", ""), ("deploys one by one", "")]
        for name in (OURS[0], ORIGINAL, ENVOY, "LiteLLM least-busy", "oracle by time"):
            for kind, provider in kinds:
                trouble = Trouble(kind, 50.0, 100.0, provider, chance=1.0 if kind == "drain" else 0.0)
                ended = []
                ground = Ground(replace(of_one_provider(), troubles=(trouble,)), ended.append)
                assert ground.play(maker(name)).failed == 0, (name, kind)
                at = [call.at for call in ended if call.provider == "a"]
                assert kind != "new provider" or min(at) > 50.0, name
                assert kind != "drain" or max(at) < 50.0, name
                assert kind == "drain" or max(at) > 90.0, name


class TestOracle:
    @pytest.mark.parametrize("number", [2, 5, 8])
    def test_nobody_beats_it_by_far(self, number):
        """In p99 or in failures."""
        shape = small(number, 800)
        oracle = best_of([Row.of(Ground(shape).play(maker(name))) for name in ORACLES])
        for name in QUICK:
            row = Row.of(Ground(shape).play(maker(name)))
            assert row.p99 > 0.9 * oracle.p99, name
            assert row.failed >= oracle.failed, name


def test_who_is_told_everything_plays_by_the_same_rules():
    """The bound for what is learned: no worse than who learns it, in a world without incidents."""
    shape = of_one_provider()
    told, learned = (quantile(Ground(shape).play(maker(name)).seconds, 0.9) for name in (TOLD, OURS[0]))
    assert told <= 1.1 * learned


class TestStores:
    def test_a_real_server_decides_as_memory_does(self):
        """The same calls to the same providers, circuits that open and close included."""
        shape = of_one_provider(status=503, chance=1.0, after=0.05)
        shape = replace(shape, length=70.0)
        told = {}
        with EmbeddedServer() as server:
            for store, url in (("memory", ""), ("redis", server.url)):
                told[store] = []
                Ground(shape, told[store].append).play(maker(OURS[0], url))
        assert told["memory"] == told["redis"]
        assert {call.provider for call in told["memory"]} == {"a", "b"}
        assert 503 in {call.status for call in told["memory"]}


class TestReport:
    @staticmethod
    def row(failed: int, p99: float) -> Row:
        return Row(1000, failed, p99 / 2, p99, 0, {"p1": 1.0}, {200: 1000 - failed, 0: failed})

    def test_best_and_not_worse(self):
        """Failures come first, up to those that trip a circuit; then p99, within 5 %."""
        rows = {ORACLE: self.row(0, 1.0), "a": self.row(0, 2.0), "b": self.row(9, 2.09), "c": self.row(20, 1.0)}
        played = Played(1, "", rows)
        assert played.best(["a", "b", "c"]) == {"a", "b"}
        assert played.is_not_worse("a", "b")
        assert not played.is_not_worse("c", "a")
        assert not played.is_not_worse("a", "c")
        assert played.over("c").failed == pytest.approx(2.0)
        assert played.over("a").p99 == pytest.approx(2.0)

    def test_tables_and_files(self, tmp_path):
        """One row for each player, the worst worlds with a reason, and files that tell where they come from."""
        worlds = [play_small(number) for number in (1, 2)]
        text = tables(worlds, SEED)
        assert text.count(f"| {ORIGINAL} |") == 2
        assert f"The worst worlds for {OURS[0]}" in text
        assert "times the oracle's" in why(worlds[0], SEED, OURS[0])
        about = {"command": "c", "commit": "x", "seed": SEED}
        write(tmp_path, worlds, about)
        assert "commit x" in (tmp_path / "worlds.md").read_text()
        assert '"world": 2' in (tmp_path / "worlds.json").read_text()

    def test_a_timeline_is_written(self, tmp_path):
        """Every provider in every step, and what was thought of it."""
        shape = of_one_provider(status=503, chance=1.0)
        written = timeline.write(tmp_path, shape, [OURS[0]])
        with written[0].open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 2 * timeline.STEPS
        assert {row["state"] for row in rows if row["provider"] == "a"} >= {"", "open"}
        assert sum(int(row["calls"]) for row in rows) > 400
        assert all(path.stat().st_size > 0 for path in written)
        assert (len(written) == 2) == bool(importlib.util.find_spec("matplotlib"))

    def test_an_unknown_policy_is_refused(self):
        """With the names of all."""
        with pytest.raises(SystemExit, match=f"unknown policy 'fastest': choose .*{GUIDED}"):
            command.main(["--worlds", "1", "--policies", "fastest"])


def play_small(number: int) -> Played:
    """A world of few requests, by all oracles, ours and the original."""
    shape = small(number, 150)
    oracle = best_of([Row.of(Ground(shape).play(maker(name))) for name in ORACLES])
    rows = {name: Row.of(Ground(shape).play(maker(name))) for name in (OURS[0], ORIGINAL)}
    return Played(number, shape.text(), {ORACLE: oracle} | rows)
