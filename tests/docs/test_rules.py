"""deploy/prometheus: rules that promtool takes, and that fire when they should and only then."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.collectors import METRICS, SERIES
from tests.docs.queries import SCRAPED, read
from tests.support import promtool as tool

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = yaml.safe_load((FOLDER / "rules.yml").read_text())
CASES = yaml.safe_load((FOLDER / "tests.yml").read_text())["tests"]
QUIET = ["a deploy", "every scrape fails", "Prometheus itself"]
"""How the cases begin in which nothing may fire."""

Promtool = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def promtool(pytestconfig: pytest.Config) -> Promtool:
    """Runs it in a folder; none at all is a failure in CI and a skip on a laptop."""
    try:
        found = tool.promtool(pytestconfig.cache.mkdir("promtool"))
    except tool.Missing as missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(missing))

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([found, *arguments], cwd=folder, capture_output=True, text=True, timeout=60)

    return run


@pytest.fixture
def altered(tmp_path, promtool) -> Callable[[str, str], str]:
    """The cases against rules that are changed; gives what promtool says, '' where it finds nothing."""

    def run(pattern: str, by: str) -> str:
        shutil.copy(FOLDER / "tests.yml", tmp_path)
        changed, times = re.subn(pattern, by, (FOLDER / "rules.yml").read_text())
        assert times
        (tmp_path / "rules.yml").write_text(changed)
        done = promtool(tmp_path, "test", "rules", "tests.yml")
        return done.stdout + done.stderr if done.returncode else ""

    return run


def test_every_alert_fires_when_it_should_and_no_other(promtool):
    """By the series of tests.yml."""
    done = promtool(FOLDER, "test", "rules", "tests.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_and_its_rules_are_taken(promtool):
    """As docker-compose starts Prometheus with them."""
    done = promtool(FOLDER, "check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    rules = sum(len(group["rules"]) for group in RULES["groups"])
    assert f"{rules} rules found" in done.stdout


def test_every_alert_has_its_cases():
    """One in which it fires, with its text; and a moment before at which it does not, where it waits for some time."""
    asked = [test for case in CASES for test in case.get("alert_rule_test", ())]
    for rule in (rule for group in RULES["groups"] for rule in group["rules"]):
        fires = [bool(test.get("exp_alerts")) for test in asked if test["alertname"] == rule["alert"]]
        assert True in fires, rule["alert"]
        assert False in fires or "for" not in rule, rule["alert"]


def test_the_quiet_cases_have_what_every_alert_reads():
    """Else it were no wonder that nothing fires there; and no case has a series that there is not."""
    for case in CASES:
        for selector in (selector for each in case["input_series"] for selector in read(each["series"]).selectors):
            labels = {matcher.name for matcher in selector.matchers.matchers}
            assert labels - SCRAPED <= METRICS[SERIES[selector.name]][1].keys(), case["name"]
    quiet = [case for case in CASES if any(case["name"].startswith(begin) for begin in QUIET)]
    assert len(quiet) == len(QUIET)
    series = {selector.name for case in quiet for each in case["input_series"] for selector in _of(each)}
    expressions = [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]
    assert {selector.name for expression in expressions for selector in read(expression).selectors} == series
    for case in quiet:
        assert [test["expr"] for test in case["promql_expr_test"]] == [
            'count_over_time(ALERTS{alertstate="firing"}[1h])'
        ]


def _of(series: dict[str, Any]) -> list[Any]:
    return read(series["series"]).selectors


@pytest.mark.parametrize(
    ("pattern", "by"),
    [(r"for: \d+[mh]", "for: 0s"), (r"> 0\n", ">= 0\n"), ('!="deregistered"', '!=""'), ("== 0", "== 1")],
    ids=["at once", "without cause", "of a deregistered provider", "the wrong way round"],
)
def test_rules_that_are_wrong_are_found(altered, pattern, by):
    """The cases tell them from the right ones."""
    assert "got:" in altered(pattern, by)


def test_a_quiet_case_hears_of_an_alert(altered):
    """Without their waits some fire in a deploy, and the expression over ALERTS sees it."""
    assert "ALERTS" in altered(r"for: \d+[mh]", "for: 0s")


def test_a_missing_promtool_is_told(monkeypatch, tmp_path):
    """With what to do."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(tool.Missing, match="install prometheus"):
        tool.promtool(tmp_path)


def test_a_package_that_cannot_be_fetched_is_told(monkeypatch, tmp_path):
    """With the command, and what it said."""
    for name in ("apt-get", "dpkg"):
        (tmp_path / name).write_text("#!/bin/sh\necho no such package >&2; exit 100\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(tool.shutil, "which", lambda name: None if name == "promtool" else str(tmp_path / name))
    with pytest.raises(tool.Missing, match=r"`apt-get download prometheus` failed: no such package"):
        tool.promtool(tmp_path)
    assert not (tmp_path / "promtool").exists()
