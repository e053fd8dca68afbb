"""docs/gateway-measured.md has the figures that `python -m benchmarks.gateway` found, and the command runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gateway.__main__ import markdown
from benchmarks.gateway.costs import Costs

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gateway-measured.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"
SAID = json.loads((RESULTS / "gateway.json").read_text())
OURS, THEIRS = "redis-router gateway", "LiteLLM's proxy"


def test_the_report_is_of_the_samples():
    assert markdown(SAID) == (RESULTS / "gateway.md").read_text()


def test_each_row_of_the_page_is_in_the_report():
    """Nobody edits a figure by hand."""
    report = (RESULTS / "gateway.md").read_text().splitlines()
    figures = PAGE.partition("## What neither table shows")[0]
    rows = [line for line in figures.splitlines() if line.startswith("| ") and not line.startswith("| |")]
    assert len(rows) > 25
    assert [row for row in rows if row not in report] == []


@pytest.mark.parametrize("part", ["costs", "path"])
def test_the_page_says_where_and_when(part):
    for what in ("commit", "machine", "LiteLLM"):
        assert SAID[part]["about"][what] in PAGE


def test_the_ratio_that_the_page_claims():
    costs = Costs(SAID["costs"]["samples"])
    for connections in (32, 256):
        figure = f"{connections} connections: requests for a second of CPU"
        theirs = max(costs.median(figure, f"{THEIRS}{with_redis}") for with_redis in ("", " with Redis"))
        assert costs.median(figure, OURS) >= 15 * theirs
    assert round(costs.median("one request at a time: added at p50, ms", OURS), 1) == 0.9
    readme = " ".join((ROOT / "README.md").read_text().split())
    for text in ("15 times", "0.9 ms"):
        assert text in PAGE
        assert text in readme


def test_the_command_runs(tmp_path):
    """Few requests, our gateway alone: what LiteLLM's proxy takes to start is longer than a test should be."""
    command = [sys.executable, "-m", "benchmarks.gateway", "--quick", "--without-litellm", "--results", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=100, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = json.loads((tmp_path / "gateway.json").read_text())
    costs = Costs(found["costs"]["samples"])
    assert costs.median("8 connections: requests for a second of CPU", OURS) > 0
    assert costs.median("one request at a time: p50, ms", OURS) > costs.median(
        "one request at a time: p50, ms", "the provider itself"
    )
    seen = {(each["incident"], each["who"]): each for each in found["path"]["seen"]}
    assert seen["answers 503", OURS]["failed"] == 0
    assert seen["answers 503", "No gateway"]["failed"] > 0
    assert (tmp_path / "gateway.md").read_text() == markdown(found)
