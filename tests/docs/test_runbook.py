"""The tables of docs/operations.md that explain symptoms: each line of the log, each metric, each alert."""

import re
from pathlib import Path

import yaml

from tests.docs.collectors import SERIES
from tests.docs.log_lines import lines
from tests.support.documents import PAGES, rows, section

ROOT = Path(__file__).parents[2]
PAGE = PAGES["docs/operations.md"]


def test_every_line_of_the_log_is_explained():
    """All lines at WARNING and above, word for word, with their level; and none that the code does not have."""
    documented = {row[0].strip("`").strip(): row[1] for row in rows(section("docs/operations.md", "Log lines"))}
    assert documented == lines()


def test_lines_in_the_other_tables_are_those_of_the_code():
    """A shortened line begins as one of the code does."""
    known = [*lines(), "in touch with …", "worker … leads, epoch …"]
    info = (ROOT / "redis_router" / "replica" / "link.py").read_text()
    assert '"in touch with %s"' in info
    assert '"worker %s leads, epoch %d"' in (ROOT / "redis_router" / "worker" / "election.py").read_text()
    quoted = [
        line.strip().removesuffix("…").strip()
        for title in ("What happens when…", "Runbook")
        for line in re.findall(r"``?([^`]*…[^`]*(?:`[^`]+` )?)``?(?!`)", section("docs/operations.md", title))
    ]
    assert len(quoted) > 6
    for line in quoted:
        assert any(each.startswith(line) for each in known), line


def test_metrics_in_the_tables_exist():
    """Those that tell of what happens."""
    named = set(re.findall(r"redis_router_\w+", PAGE))
    assert len(named) >= 6
    assert named <= SERIES.keys()


def test_the_runbook_has_every_alert():
    """A paragraph under its name, in their order, and no other: alerts link to it."""
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"]]
    page = section("docs/operations.md", "Runbook")
    assert re.findall(r"^### (.+)$", page, re.MULTILINE) == [*alerts, "Symptoms without an alert"]
    for alert in alerts:
        assert re.fullmatch(
            r"\n\n\*\*Look at\.\*\* .+\n\n\*\*Do\.\*\* .+\n\n", section("docs/operations.md", alert), re.DOTALL
        )
