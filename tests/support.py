"""What tests share: waiting for a condition, reading metrics, a provider to probe."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from benchmarks.servers import eventually as eventually
from redis_router import Outcome
from redis_router.circuit.outcome import Result
from redis_router.store.messages import Reply
from redis_router.store.redis import Batch, Store

TRACES = [
    json.loads(line) for line in (Path(__file__).parent / "data" / "circuit_traces.jsonl").read_text().splitlines()
]
"""Runs recorded from the original Go router."""


def metric(registry: CollectorRegistry, name: str, **labels: str) -> float:
    """The value of one redis_router_ sample, 0 where it was never touched."""
    return registry.get_sample_value(f"redis_router_{name}", labels) or 0.0


def recorded(store: Store, provider: str, seq: int, *results: Result) -> Reply:
    """Send one batch; an error is raised."""
    (reply,) = store.record([Batch(provider, seq, results)])
    if isinstance(reply, Exception):
        raise reply
    return reply


def result(provider: str, success: bool, generation: int = 1, latency_ms: float = 10.0, permit: str = "") -> Result:
    """One outcome."""
    return Result(provider, Outcome.SUCCESS if success else Outcome.FAILURE, latency_ms, generation, permit)


class Target:
    """A provider that answers GET with `status` over real HTTP; counts what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.asked = 0
        self.headers: dict[str, str] = {}
        self.method = ""
        self.endless = False
        self.drips = False
        self._ended = threading.Event()
        target = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                target.asked += 1
                target.method, target.headers = self.command, dict(self.headers)
                if target.drips:
                    self.drip()
                    return
                self.send_response(target.status)
                if not target.endless:
                    self.send_header("Content-Length", "0")
                self.end_headers()
                while target.endless and not target._ended.wait(0.02):
                    self.wfile.write(b"data: and more\n\n")

            def drip(self) -> None:
                with suppress(OSError):  # until the other side hangs up, or it is enough
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                    while target.drips and not target._ended.wait(0.05):
                        self.wfile.write(b"X-Drip: 1\r\n")
                    self.wfile.write(b"Content-Length: 0\r\n\r\n")

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *args: Any) -> None:
                """Requests are no news."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/healthz"
        self.tcp = f"tcp://127.0.0.1:{self.server.server_port}"


@contextmanager
def target() -> Iterator[Target]:
    """A Target that serves until the block ends."""
    made = Target()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made._ended.set()
        made.server.shutdown()
        made.server.server_close()
        thread.join()
