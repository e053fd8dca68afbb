"""docs/performance.md is what `python -m benchmarks.page` prints, misses included."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.page import MISSES, SHOWN, page

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "performance.md").read_text()
SAID = json.loads((ROOT / "benchmarks" / "results" / "benchmark.json").read_text())


def test_the_page_is_what_the_command_prints():
    """As a contributor makes it; nobody edits it by hand."""
    command = [sys.executable, "-m", "benchmarks.page"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == PAGE


def test_every_miss_is_in_the_page_and_explained():
    """None is left out, whatever part it is of; and each part that missed has its reason."""
    missed = [row for row in SAID["rows"] if row["met"] is False]
    explained = PAGE.partition("## What the misses mean")[2]
    for row in missed:
        assert f"- {row['what']}: " in explained
        assert MISSES[row["part"]]
    assert {row["part"] for row in missed} == MISSES.keys(), "a part that missed nothing needs no reason"


def test_the_page_says_what_was_measured_where_and_when():
    """The commit, the date, the machine, the server."""
    for what in ("commit", "date", "machine", "server", "command"):
        assert SAID[what] in PAGE


def test_a_row_that_is_gone_is_no_page():
    """A benchmark that no longer measures a figure of the table must be noticed here."""
    rows = [row for row in SAID["rows"] if row["what"] != SHOWN[0]]
    with pytest.raises(KeyError, match=SHOWN[0]):
        page({**SAID, "rows": rows})


def test_the_pictures_and_reports_are_there():
    """Every relative link leads to a file of the repository."""
    for link in re.findall(r"\]\((\.\./[^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).is_file(), link


def test_the_command_of_the_page_exists():
    """The one snippet takes a quarter of an hour: its extra and its module are checked instead."""
    assert "pip install -e '.[bench]' && python -m benchmarks" in PAGE
    assert "\nbench = [" in (ROOT / "pyproject.toml").read_text()
    assert (ROOT / "benchmarks" / "__main__.py").is_file()
