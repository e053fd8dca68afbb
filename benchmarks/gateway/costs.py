"""What a gateway adds and takes: latency, CPU, requests a second, memory, the time to start."""

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gateway import processes
from benchmarks.gateway.load import Target, singly, together
from benchmarks.gateway.processes import KEY, Server
from benchmarks.gateway.provider import EVENTS
from benchmarks.measure import quantile
from benchmarks.report import number
from redis_router.testing.server import EmbeddedServer

DIRECT, OURS = "the provider itself", "redis-router gateway"
STREAMS = 8
"""At a time, where the CPU for an event is measured."""
MORE = 1e3
"""Milliseconds in a second."""


@dataclass(frozen=True)
class Size:
    """How much is asked in one round."""

    requests: int
    streams: int
    connections: tuple[int, ...]
    seconds: float


FULL = Size(requests=400, streams=200, connections=(32, 256), seconds=5.0)
QUICK = Size(requests=30, streams=15, connections=(8,), seconds=1.0)


@dataclass
class Costs:
    """The samples of each figure, by who was asked, one for each round.

    A figure is named with its unit behind the last comma.
    """

    samples: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    def add(self, figure: str, who: str, value: float) -> None:
        """One more."""
        self.samples[figure][who].append(value)

    def median(self, figure: str, who: str) -> float:
        """Of its rounds. Raises KeyError."""
        return statistics.median(dict(self.samples[figure])[who])

    def table(self) -> str:
        """In Markdown: medians, with the least and the most in brackets."""
        names = list(dict.fromkeys(who for found in self.samples.values() for who in found))
        lines = [f"| | {' | '.join(names)} |", f"|{'---|' * (len(names) + 1)}"]
        for figure, found in self.samples.items():
            cells = [_cell(found.get(who, [])) for who in names]
            lines.append(f"| {figure} | {' | '.join(cells)} |")
        return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    spread = f" ({number(min(values))} to {number(max(values))})" if len(values) > 1 else ""
    return number(statistics.median(values)) + spread


def measured(rounds: int, size: Size, *, litellm: bool) -> Costs:
    """Each round starts the processes afresh, and asks all of them in turn."""
    costs = Costs()
    with EmbeddedServer() as redis, processes.provider() as port:
        for turn in range(rounds):
            with started(port, redis.url, litellm=litellm) as servers:
                _round(costs, port, servers, size)
            print(f"round {turn + 1} of {rounds}\n{costs.table()}\n", flush=True)
    return costs


@contextmanager
def started(port: int, redis: str, *, litellm: bool) -> Iterator[list[Server]]:
    """Our gateway and, where it is wanted, LiteLLM's proxy without and with Redis, one starting after the other."""
    with ExitStack() as block:
        folder = Path(block.enter_context(tempfile.TemporaryDirectory(prefix="gateways-")))
        entries = processes.models(["m"], [f"http://127.0.0.1:{port}"])
        servers = [processes.ours(folder, entries, redis)]
        block.callback(servers[0].end)
        for with_redis in (None, redis) if litellm else ():
            servers.append(processes.litellm(folder, entries, with_redis))
            block.callback(servers[-1].end)
        yield servers


def _round(costs: Costs, port: int, servers: list[Server], size: Size) -> None:
    targets = [Target(DIRECT, port), *(Target(server.name, server.port, KEY) for server in servers)]
    singly(targets, 3)
    idle = {server.name: server.rss() for server in servers}
    asked = singly(targets, size.requests)
    _latency(costs, "one request at a time", asked)
    streamed = singly(targets, size.streams, stream=True, max_tokens=3)
    _latency(costs, "first content of a stream", streamed)
    for connections in size.connections:
        _load(costs, targets, servers, connections, size.seconds)
    for target, server in zip(targets[1:], servers, strict=True):
        before = server.cpu()
        streams, _ = together(target, STREAMS, size.seconds, stream=True)
        each = (server.cpu() - before) / (streams * EVENTS)
        costs.add(f"CPU for a streamed event, {STREAMS} streams at a time, µs", server.name, each * 1e6)
    for server in servers:
        costs.add("memory after the first requests, MB", server.name, idle[server.name])
        costs.add("memory after the load, MB", server.name, server.rss())
        costs.add("from the start until it is ready, s", server.name, server.start_seconds)


def _latency(costs: Costs, what: str, asked: dict[str, list[float]]) -> None:
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        floor = quantile(asked[DIRECT], share)
        costs.add(f"{what}: {name}, ms", DIRECT, floor * MORE)
        for who, seconds in asked.items():
            if who != DIRECT:
                costs.add(f"{what}: {name}, ms", who, quantile(seconds, share) * MORE)
                costs.add(f"{what}: added at {name}, ms", who, (quantile(seconds, share) - floor) * MORE)


def _load(costs: Costs, targets: list[Target], servers: list[Server], connections: int, seconds: float) -> None:
    done, took = together(targets[0], connections, seconds / 5)
    costs.add(f"{connections} connections: requests, 1/s", DIRECT, done / took)
    for target, server in zip(targets[1:], servers, strict=True):
        before = server.cpu()
        done, took = together(target, connections, seconds)
        cpu = server.cpu() - before
        costs.add(f"{connections} connections: requests, 1/s", server.name, done / took)
        costs.add(f"{connections} connections: requests for a second of CPU", server.name, done / cpu)
        costs.add(f"{connections} connections: CPU for a request, ms", server.name, cpu / done * MORE)
