"""docs/choosing.md: the guide is what was simulated, the figures are those of the last run, the snippets run."""

import json
import re
from typing import Any

from benchmarks.quality.policies import GUIDE
from redis_router import Latency, Provider, Router
from redis_router.routing.strategies import STRATEGIES
from tests.support.documents import ROOT, section, snippet

GUIDE_AS_PRINTED = snippet("docs/choosing.md", "circuit = CircuitConfig(")
OWN_STRATEGY = snippet("docs/choosing.md", "class Cheapest")


def test_the_guide_is_what_was_simulated(as_a_user):
    """Its thresholds are those of the benchmark's policy, and the lines run."""
    scope: dict[str, Any] = {}
    exec(f"from redis_router import Router\n{GUIDE_AS_PRINTED}", scope)
    assert scope["circuit"] == GUIDE
    assert scope["router"].options.strategy == "p2c"


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
