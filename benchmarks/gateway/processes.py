"""The processes that are measured: the fake provider, our gateway, and LiteLLM's proxy. Each is ended by its id."""

import hashlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import yaml

from redis_router.testing.server import free_port
from tests.support.gateways import entry

KEY = "sk-of-the-benchmark-0123456789"
_TICKS = os.sysconf("SC_CLK_TCK")
_PRODUCTION = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_PROXY": "*",
}
"""Of LiteLLM's page for production; the last three keep it from asking the Internet."""


def has_litellm() -> bool:
    """Is its proxy installed?"""
    return all(importlib.util.find_spec(name) is not None for name in ("litellm", "apscheduler", "orjson", "backoff"))


class Server:
    """One process that serves at `port`, and how long it took until it was ready."""

    def __init__(
        self, name: str, command: Sequence[str], port: int, ready: str, log: IO[bytes], env: Mapping[str, str]
    ) -> None:
        self.name = name
        self.port = port
        began = time.monotonic()
        self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **env})
        self._wait(ready, log)
        self.start_seconds = time.monotonic() - began

    def _wait(self, ready: str, log: IO[bytes]) -> None:
        until = time.monotonic() + 120
        with httpx.Client(trust_env=False, timeout=5) as client:
            while True:
                try:
                    if client.get(f"http://127.0.0.1:{self.port}{ready}").status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                if self.process.poll() is not None or time.monotonic() > until:
                    self.end()
                    raise RuntimeError(f"{self.name} did not start: {Path(log.name).read_text()[-2000:]}")
                time.sleep(0.02)

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def rss(self) -> float:
        """MB of memory."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1000

    def end(self) -> None:
        """As an operator does; by force where that takes too long."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def provider() -> Iterator[int]:
    """The fake one, in a process of its own; gives its port."""
    command = [sys.executable, "-m", "benchmarks.gateway.provider"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def models(names: Sequence[str], urls: Sequence[str]) -> list[dict[str, Any]]:
    """A `model_list` for both: each model at each of these providers."""
    return [entry(name, f"{name}-{number}", url) for name in names for number, url in enumerate(urls, 1)]


def ours(folder: Path, entries: list[dict[str, Any]], redis: str, **settings: Any) -> Server:
    """`redis-router gateway`, with one worker, a key, and Redis."""
    keys = [{"name": "benchmark", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}]
    said = {"model_list": entries, "gateway_settings": {"keys": keys}, "litellm_settings": settings}
    port = free_port()
    path = _written(folder / f"ours-{port}.yaml", said)
    command = [sys.executable, "-m", "redis_router", "gateway", "-c", str(path), "--port", str(port)]
    command += ["--redis", redis, "--workers", "1", "--drain-seconds", "1"]
    with (folder / f"ours-{port}.log").open("wb") as log:
        return Server("redis-router gateway", command, port, "/readyz", log, {})


def litellm(folder: Path, entries: list[dict[str, Any]], redis: str | None, **settings: Any) -> Server:
    """LiteLLM's proxy, with one worker, a key, as its page for production says, with Redis or without."""
    routing: dict[str, Any] = {}
    if redis is not None:
        host, _, port = redis.removeprefix("redis://").partition("/")[0].partition(":")
        routing = {"redis_host": host, "redis_port": int(port), "redis_password": ""}
    said = {
        "model_list": entries,
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"set_verbose": False, "json_logs": True, **settings},
        "router_settings": routing,
    }
    own = free_port()
    path = _written(folder / f"litellm-{own}.yaml", said)
    command = [str(Path(sys.executable).with_name("litellm")), "--config", str(path), "--host", "127.0.0.1"]
    command += ["--port", str(own), "--num_workers", "1"]
    name = "LiteLLM's proxy" + (" with Redis" if redis else "")
    with (folder / f"litellm-{own}.log").open("wb") as log:
        return Server(name, command, own, "/health/readiness", log, _PRODUCTION)


def _written(path: Path, said: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(said))
    return path
