"""--workers: several processes that are one gateway to whoever asks, reads its log, scrapes it or ends it."""

import os
import re
import subprocess
import sys

import httpx

from tests.gateway.conftest import KEYS
from tests.support import eventually
from tests.support.gateways import KEY, entry, write

QUESTION = {"model": "a", "messages": [{"role": "user", "content": "Hello?"}]}
HEADS = {"authorization": f"Bearer {KEY}"}
SETTINGS = {"gateway_settings": {"keys": KEYS}}


def several(started, servers, tmp_path, drain):
    path = write(tmp_path / "config.yaml", [entry("a", "one", servers[0].url)], **SETTINGS)
    return started(path, "--workers", "2", "--drain-seconds", drain)


def fresh(gateway, path):
    """Status and text over a connection of its own, from whichever process takes it; 0 where nobody listens."""
    try:
        answer = httpx.get(gateway.url + path, trust_env=False, timeout=10)
    except httpx.TransportError:  # refused, or reset: it came at the very moment of the end
        return 0, ""
    return answer.status_code, answer.text


def test_they_drain_together_and_let_go_of_the_port(started, servers, tmp_path):
    """All say that they are not ready, and answer; then new connections are refused while a stream is finished."""
    gateway = several(started, servers, tmp_path, "8")
    servers[0].faults.append("paused")
    asked = {**QUESTION, "stream": True}
    with gateway.http.stream("POST", f"{gateway.url}/v1/chat/completions", json=asked, headers=HEADS) as answer:
        lines = answer.iter_lines()
        next(lines)
        gateway.process.terminate()
        eventually(lambda: {fresh(gateway, "/readyz")[0] for _ in range(10)} == {503})
        with httpx.Client(trust_env=False, headers=HEADS) as client:
            assert client.post(f"{gateway.url}/v1/chat/completions", json=QUESTION).status_code == 200
        eventually(lambda: fresh(gateway, "/readyz")[0] == 0, "it listens no more")
        servers[0].goes_on.set()
        assert list(lines)[-2] == "data: [DONE]"
    assert gateway.process.wait(20) == 0


def test_the_log_and_the_metrics_are_of_all(started, servers, tmp_path):
    """A line for each request, whoever answered; the counters are sums, whoever is scraped."""
    gateway = several(started, servers, tmp_path, "0")
    for _ in range(8):
        with httpx.Client(trust_env=False, headers=HEADS) as client:
            assert client.post(f"{gateway.url}/v1/chat/completions", json=QUESTION).status_code == 200
    counted = 'redis_router_gateway_requests_total{key="tests",path="/v1/chat/completions",status="200"} 8.0'
    eventually(lambda: all(counted in fresh(gateway, "/metrics")[1] for _ in range(5)))
    line = r"INFO redis_router: \w{32} /v1/chat/completions 200 \d+ ms key=tests provider=one attempts=1\n"
    eventually(lambda: len(re.findall(line, "".join(gateway.log))) == 8)


def test_a_folder_for_metrics_that_is_not_there(tmp_path):
    """Said at once, not by each process with a traceback."""
    config = write(tmp_path / "config.yaml", [entry("a", "one", "http://127.0.0.1:9")])
    command = [sys.executable, "-m", "redis_router", "gateway", "-c", str(config), "--port", "0", "--workers", "2"]
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "none")}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "PROMETHEUS_MULTIPROC_DIR" in ended.stderr
    assert "Traceback" not in ended.stderr
