"""docs/choosing.md: the defaults are what the page says, the figures are those of the last run, the snippets run."""

import json
import re
from dataclasses import fields, replace
from typing import Any

from benchmarks.quality.policies import GUIDE
from redis_router import RECOMMENDED, CircuitState, Latency, Outcome, Provider, ProviderHealth, Router
from redis_router.circuit.machine import fold
from redis_router.circuit.outcome import Result
from redis_router.routing.strategies import STRATEGIES
from tests.support.documents import ROOT, section, snippet

DEFAULTS = snippet("docs/choosing.md", "same = Router(")
CHANGED = snippet("docs/choosing.md", "circuit = replace(")
OWN_STRATEGY = snippet("docs/choosing.md", "class Cheapest")


def test_the_defaults_are_spelled_out():
    """With these two arguments a router is the one without any."""
    scope: dict[str, Any] = {}
    exec(DEFAULTS, scope)
    assert scope["same"].options == scope["router"].options
    assert scope["router"].options.circuit is RECOMMENDED


def opened_after(successes: str) -> int | None:
    """By so many calls, 1 for a success and 0 for a failure, with the default thresholds; None for not at all."""
    health = replace(ProviderHealth("openai"), config=RECOMMENDED)
    for number, success in enumerate(successes, 1):
        outcome = Outcome.SUCCESS if success == "1" else Outcome.FAILURE
        health, _ = fold(health, Result("openai", outcome, 10.0, 1), 1_000)
        if health.circuit_state is CircuitState.OPEN:
            return number
    return None


def test_what_the_page_says_of_the_default_thresholds():
    """Three failures in a row, two replicas, five seconds, twice as long; four of five calls; never in turn."""
    assert opened_after("00000") == 3
    assert opened_after("00100") == 5
    assert opened_after("01" * 500) is None
    said = (RECOMMENDED.min_reporters, RECOMMENDED.open_timeout, RECOMMENDED.open_timeout_multiplier)
    assert said == (2, 5.0, 2.0)


def test_changing_some_thresholds():
    """As printed: the rest stays, and the guide of the simulation has the same window, slow calls and slow start."""
    scope: dict[str, Any] = {}
    exec(CHANGED, scope)
    new = [field.name for field in fields(RECOMMENDED) if getattr(RECOMMENDED, field.name) == 0]
    assert [name for name in new if getattr(scope["circuit"], name)] == new
    assert scope["circuit"] == replace(RECOMMENDED, **{name: getattr(GUIDE, name) for name in new})
    assert scope["router"].options.circuit == scope["circuit"]


def test_the_figures_are_those_of_the_simulation():
    """Each cell is one scenario under one policy of the last run."""
    said = json.loads((ROOT / "benchmarks" / "results" / "quality.json").read_text())
    scores = {(each["scenario"], each["policy"]): each for each in said["scores"]}
    rows = re.findall(r"^\|.+\|$", section("docs/choosing.md", "Simulated"), re.MULTILINE)
    head, *lines = [line.strip("|").split(" | ") for line in rows]
    policies = [cell.strip() for cell in head[1:]]
    assert len(lines[1:]) == len({scenario for scenario, _ in scores}) == 9
    for scenario, *cells in lines[1:]:
        for policy, cell in zip(policies, cells, strict=True):
            score = scores[scenario.strip(), policy]
            assert cell.strip() == f"{score['failed_percent']:.1f} %, {score['p99']:.2f} s", (scenario, policy)


def test_what_is_said_of_the_simulation_holds():
    """Who is how far from the oracle, and where the default is the best."""
    said = json.loads((ROOT / "benchmarks" / "results" / "quality.json").read_text())
    text = " ".join(section("docs/choosing.md", "Simulated").split())
    assert f"(`--seeds {said['about']['seeds']}`)" in text
    by_scenario: dict[str, dict[str, float]] = {}
    for each in said["scores"]:
        assert each["policy"] != "adaptive" or each["failed_percent"] == 0.0
        by_scenario.setdefault(each["scenario"], {})[each["policy"]] = each["p99"]

    def farthest(policy: str) -> str:
        return f"{max(p99s[policy] / p99s['oracle'] for p99s in by_scenario.values()):.2f} times"

    assert f"at most {farthest('adaptive')} that of an oracle" in text
    assert f"at most {farthest('p2c, guide')} the oracle's with the guide's settings" in text
    assert f"and {farthest('p2c')} without" in text
    assert f"at most {farthest('latency')} the oracle's. In" in text
    best = {name: min(p99s.keys() - {"oracle"}, key=p99s.__getitem__) for name, p99s in by_scenario.items()}
    assert {name for name, policy in best.items() if policy == "adaptive"} == {
        "steady",
        "hard down",
        "poisoned replica",
    }
    assert {name for name, policy in best.items() if policy == "latency"} == {"slow ramp", "mass restart"}
    assert {name for name, policy in best.items() if policy == "p2c, guide"} == {"brown-out", "fast 500s"}
    assert {name for name, policy in best.items() if "shuffle" in policy} == {"rate limits", "flapping"}
    assert all(p99s["adaptive"] <= 1.05 * p99s[best[name]] for name, p99s in by_scenario.items())


def test_the_measured_figures_are_those_of_the_report():
    """Of real processes, and of the same in virtual time: each is a cell of the report."""
    report = (ROOT / "benchmarks" / "results" / "fleet.md").read_text()
    measured = report.partition("### The whole run\n")[2].partition("\n### ")[0]
    beside = report.partition("### The whole run, beside\n")[2].partition("\n### ")[0]
    _head, _rule, *lines = re.findall(r"^\|.+\|$", section("docs/choosing.md", "Measured"), re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        policy, failed, p99, simulated = (cell.strip() for cell in line.strip("|").split(" | "))
        cells = re.search(rf"^\| {policy} \|(.+)\|$", measured, re.MULTILINE)[1].split("|")
        assert cells[1].split()[0] == failed
        assert f"{cells[3].split()[0]} s" == p99
        pair = re.search(rf"^\| {policy} \|(.+)\|$", beside, re.MULTILINE)[1].split("|")[2]
        assert pair.split("=")[0].split("/")[1].strip() + " s" == simulated


def test_every_strategy_is_in_the_table():
    """By its name, and no other name."""
    named = re.findall(r'^\| `"(\w+)"`', section("docs/choosing.md", "Strategies"), re.MULTILINE)
    assert sorted(named) == sorted(STRATEGIES)
    assert Latency(tolerance=0.2)


def test_a_strategy_of_ones_own_chooses():
    """The one of the page prefers azure."""
    code = OWN_STRATEGY.replace('"redis://localhost:6379/0"', '"memory://cheapest"')
    scope: dict[str, Any] = {"Router": Router}
    exec(code, scope)
    with scope["router"] as router:
        for name in ("mistral", "openai", "azure"):
            router.register_provider(Provider(name, ("m",)))
        assert router.flush()
        assert {router.select_provider("m").name for _ in range(20)} == {"azure"}
        router.update_health("azure", available=False)
        assert {router.select_provider("m").name for _ in range(20)} == {"openai"}
