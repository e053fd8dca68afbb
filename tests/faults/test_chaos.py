"""The soak, for a minute; and that it would see what it looks for."""

import subprocess
import sys

import pytest


def soak(*options):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", *options], capture_output=True, text=True, timeout=240
    )


@pytest.mark.long
@pytest.mark.timeout(300)
def test_every_promise_is_kept():
    """Six replicas, two workers, a master with its replica, and a fault of every kind."""
    done = soak("--minutes", "1", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("kept   ") == 9


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("mutation", "promise", "faults"),
    [
        ("sequence", "no outcome is applied twice", ["server_frozen", "connections_cut"]),
        ("generation", "late results move no circuit", ["server_frozen", "connections_cut"]),
        ("limit", "trial calls stay within the limit", ["leader_killed", "scripts_flushed"]),
    ],
)
def test_a_bug_put_in_on_purpose_is_found(mutation, promise, faults):
    """A lost reply that counts twice, a late failure that re-opens a circuit, a permit for everybody."""
    done = soak("--minutes", "0.35", "--seed", "5", "--mutate", mutation, "--faults", *faults)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"BROKEN {promise}" in done.stdout
