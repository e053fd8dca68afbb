"""The demo is the main job: a whole fleet, half a minute of trouble, and a summary that must be right."""

import re
import subprocess
import sys


def test_the_demo_goes_as_it_should():
    """Exit 0, no failure that a user saw, no half-open overrun, everybody informed, closed in the end."""
    done = subprocess.run(
        [sys.executable, "-m", "redis_router", "demo", "--plain"], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    figures = dict(re.findall(r"^  (\S.*?)  +(\S.*)$", done.stdout.split("What this run measured")[1], re.MULTILINE))
    assert int(figures["requests answered"]) > 500
    assert figures["user-visible failures"] == "0"
    assert figures["ordinary calls to alpha after every replica knew"] == "0"
    most = re.search(r"at most (\d+) at once over the fleet \(limit (\d+)\)", figures["half-open calls let through"])
    assert 1 <= int(most[1]) <= int(most[2])
    assert figures["replicas that saw the circuit close again"] == "3 of 3"
    assert "All went as it should." in done.stdout
    assert "redis-cli -p" in done.stdout
