"""`python -m benchmarks.fleet` for some seconds: its figures have the right shape, whatever their size."""

import json
import subprocess
import sys

from benchmarks.fleet.__main__ import planned
from benchmarks.fleet.plan import LENGTH, shape
from benchmarks.fleet.policies import OURS
from benchmarks.fleet.score import WHOLE
from benchmarks.quality.worlds.draw import arrivals

SEED = 3


def test_a_short_run_of_real_processes(tmp_path):
    """Every request is counted, the dead is called and then left alone, and the simulation had the same requests."""
    command = [sys.executable, "-m", "benchmarks.fleet", "--minutes", "0.2", "--seed", str(SEED)]
    ran = subprocess.run([*command, "--policies", OURS, "--out", str(tmp_path)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr
    said = json.loads((tmp_path / "fleet.json").read_text())
    rounds, length = planned(0.2, 1)
    played = shape(SEED, 1, length)
    for kind in ("measured", "simulated"):
        runs = said[kind][OURS]
        assert len(runs) == rounds == 1
        figures = runs[0]["figures"]
        assert list(figures) == [WHOLE, *(each.kind for each in played.troubles)]
        whole = figures[WHOLE]
        assert whole["requests"] == len(arrivals(played))
        assert 0 <= whole["failed"] < whole["requests"]
        assert 0.05 < whole["p50"] <= whole["p99"] < 3 * played.timeout + 1.0
        assert whole["to_the_dead"] == figures["down"]["to_the_dead"] == figures["down"]["to_the_sick"] > 0
        assert whole["to_the_dead"] < figures["down"]["requests"]
    assert said["measured"][OURS][0]["lag"] < 1.0
    assert 0.1 < said["measured"][OURS][0]["cpu"] < 50.0
    report = (tmp_path / "fleet.md").read_text()
    assert report.count(f"| {OURS} |") == 2 * len(figures) + 1


def test_rounds_fill_the_time():
    """Whole runs as often as they fit, or one round of shorter runs."""
    assert planned(15.0, 4) == (3, LENGTH)
    assert planned(5.0, 4) == (1, LENGTH)
    rounds, length = planned(1.0, 2)
    assert rounds == 1
    assert 20.0 < length < 30.0
