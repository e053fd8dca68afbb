"""The demo is the main job: a whole fleet, half a minute of trouble, and a summary that must be right."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_demo_takes_its_processes_along():
    """SIGTERM in the middle: gateways, workers, providers and the server end, and no folder is left."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "redis_router", "demo", "--plain"], stdout=subprocess.PIPE, text=True
    )
    try:
        for line in demo.stdout:
            if "every replica sees" in line:
                break
        children = [int(pid) for pid in Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()]
        folders = [
            Path(part)
            for pid in children
            for part in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if "redis-router-" in part
        ]
        assert len(children) == 9
        demo.terminate()
        demo.communicate(timeout=30)
        assert demo.returncode == 128 + signal.SIGTERM
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
        assert not [folder for folder in folders if folder.exists()]
    finally:
        demo.kill()
        demo.communicate()


@pytest.mark.long
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
