"""The demo is the main job: a whole fleet, half a minute of trouble, and a summary that must be right."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import urllib.request
from pathlib import Path

import pyte
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
        assert len(children) == 10, "three gateways, two workers, three providers, the server and its guard"
        demo.terminate()
        demo.communicate(timeout=30)
        assert demo.returncode == 128 + signal.SIGTERM
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
        assert not [folder for folder in folders if folder.exists()]
    finally:
        demo.kill()
        demo.communicate()


def test_the_page_is_there_to_watch_and_to_act():
    """Its address and token are printed; it shows the outage, takes an action, and outlives the killed worker."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "redis_router", "demo", "--plain"], stdout=subprocess.PIPE, text=True
    )
    try:
        url = token = ""
        for line in demo.stdout:
            if found := re.search(r"page: (http://\S+/)  \(token to act: (\w+)\)", line):
                url, token = found.groups()
            if "kill -9" in line:
                break
        assert "worker-1" in line, "the one without the page"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        said = {"provider": "beta", "action": "weight", "weight": 0.5, "by": "alice", "reason": "a look"}
        request = urllib.request.Request(f"{url}api/v1/actions", json.dumps(said).encode(), headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert json.load(answer)["providers"][0]["weight"] == 0.5
        with urllib.request.urlopen(f"{url}api/v1/fleet", timeout=20) as answer:
            fleet = json.load(answer)
        assert fleet["providers"][0]["name"] == "alpha", "the one that fails"
        assert {each["event"] for each in fleet["events"]} >= {"transition", "weight_override"}
    finally:
        demo.terminate()
        demo.communicate(timeout=30)


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (120, 40)])
def test_the_live_table_stays_in_its_place(columns, lines):
    """On a real terminal's screen: one table, no piece of an older frame, no log line between; news and hints fit."""
    primary, secondary = pty.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    screen = pyte.HistoryScreen(columns, lines, history=1_000)
    stream = pyte.ByteStream(screen)
    env = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "LINES": str(lines)}
    demo = subprocess.Popen([sys.executable, "-m", "redis_router", "demo"], stdout=secondary, stderr=secondary, env=env)
    os.close(secondary)
    frames = 0
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not any("alpha closed" in line for line in screen.display):
            if select.select([primary], [], [], 0.03)[0]:
                stream.feed(os.read(primary, 65_536))
                continue  # between two frames nothing is being drawn
            heads = [line for line in screen.display if line.split()[:2] == ["replica", "alpha"]]
            assert len(heads) <= 1, "\n".join(screen.display)
            frames += len(heads)
            if any("sees alpha open" in line for line in screen.display) and frames > 10:
                break
        shown = "\n".join(screen.display)
        assert len(screen.history.top) <= 3, "the picture is higher than the screen, and scrolls"
        assert shown.count("leader: worker-") == 1, shown
        assert len(re.findall(r"^ *gateway-\d +(?:closed|open|half_open)", shown, re.MULTILINE)) == 3, shown
        assert "begins to fail" in shown
        log = re.search(r"logs of all processes: (\S+)", shown)[1]
        assert "alpha is open" not in shown, "a log line"
    finally:
        demo.terminate()
        while True:  # it restores the terminal, and would block where nobody reads
            try:
                if not os.read(primary, 65_536):
                    break
            except OSError:
                break
        demo.wait(30)
        os.close(primary)
    if "…" not in log:
        assert "alpha is open" in Path(log).read_text()
        Path(log).unlink()


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
