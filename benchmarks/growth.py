"""What grows with the number of providers, in a worker and in a router: CPU for each, which should stay the same.

`python -m benchmarks.growth` prints a line for each number.
"""

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from prometheus_client import CollectorRegistry

from redis_router import CircuitConfig, HealthChecker, NoProviderAvailable, Outcome, Probe, Provider, Router
from redis_router.circuit.outcome import Result
from redis_router.store.connect import connect
from redis_router.store.redis import Batch, RedisStore
from redis_router.testing.server import EmbeddedServer

SIZES = (100, 1_000, 10_000)
REFUSALS = 10_000
DUE = CircuitConfig(consecutive_failure_limit=1, open_timeout=0.001)


@dataclass(frozen=True)
class Cost:
    """CPU seconds of this process, and of the thread that did the work, for so many providers."""

    providers: int
    process: float
    thread: float

    @property
    def each_ms(self) -> float:
        """Milliseconds of CPU for each provider."""
        return self.process / self.providers * 1000


@dataclass(frozen=True)
class Steps:
    """CPU seconds of a router's process for each of so many providers of 50 models; a refusal in µs."""

    providers: int
    registered: float
    joined: float
    opened: float
    refusal_us: float


def router(url: str, namespace: str, providers: int) -> Steps:
    """Register so many, join the fleet, open all their circuits, and be refused."""
    made = Router(
        f"{url}?socket_timeout=60",
        namespace=namespace,
        registry=CollectorRegistry(),
        circuit=CircuitConfig(consecutive_failure_limit=1, open_timeout=600),
        buffer_limit=100_000,
        result_ttl=600.0,
    )
    models = [f"m{number}" for number in range(50)]
    moments = [time.process_time()]
    for number in range(providers):
        made.register_provider(Provider(f"p{number}", models))
    moments.append(time.process_time())
    with made:
        assert made.flush(600)
        moments.append(time.process_time())
        for number in range(providers):
            made.record_result(f"p{number}", success=False, latency_ms=5.0)
        assert made.flush(600)
        moments.append(time.process_time())
        for _ in range(REFUSALS):
            with suppress(NoProviderAvailable):
                made.select_provider("m7")
                raise AssertionError("somebody was left")
        moments.append(time.process_time())
    registered, joined, opened, refused = (after - before for before, after in pairwise(moments))
    return Steps(providers, registered, joined, opened, refused / REFUSALS * 1e6)


def worker(url: str, namespace: str, providers: int) -> Cost:
    """One pass over so many providers, each with a probe of its own and a circuit that is due: all are moved.

    The server and the endpoint are processes of their own.
    """
    patient = f"{url}?socket_timeout=60"
    with endpoint() as probed:
        with closing(connect(patient)) as client:
            fill(RedisStore(client, namespace, "growth"), providers, probed)
        checker = HealthChecker(patient, namespace, probe_timeout=600.0, registry=CollectorRegistry())
        process, thread = time.process_time(), time.thread_time()
        done = checker.run_once()
        cost = Cost(providers, time.process_time() - process, time.thread_time() - thread)
        checker.stop()
    failed = [why for why in done.probed.values() if why is not None]
    assert not failed, f"{len(failed)} of {providers} probes failed, such as by {failed[0]!r}"
    assert len(done.half_opened) == providers, f"moved {len(done.half_opened)} of {providers}"
    return cost


def fill(store: RedisStore, providers: int, url: str) -> None:
    """So many providers, all open and due; each has a path of its own there as its probe."""
    store.register(Provider("p0", ("m",), probe=Probe(f"{url}/p0")), DUE)
    store.record([Batch("p0", 1, [Result("p0", Outcome.FAILURE, 10.0, 1)])])
    record = store.client.hgetall(store.keys.health("p0"))
    spec = _text(store.client.hget(store.keys.providers, "p0"))
    for first in range(1, providers, 500):
        pipe = store.client.pipeline(transaction=False)
        for name in (f"p{number}" for number in range(first, min(first + 500, providers))):
            pipe.hset(store.keys.providers, name, spec.replace(f"{url}/p0", f"{url}/{name}"))
            pipe.hset(store.keys.health(name), mapping=record)
        pipe.execute()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@contextmanager
def endpoint() -> Iterator[str]:
    """The URL of an HTTP server that answers 200 to whatever it is asked; a process of its own."""
    command = [sys.executable, "-m", "benchmarks.growth", "--serve"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


async def _serve() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    logging.disable(logging.WARNING)  # a line for each circuit that is moved
    with EmbeddedServer() as server:
        for providers in SIZES:
            cost = worker(server.url, f"growth{providers}", providers)
            print(
                f"worker: {providers:>6} probed circuits due at once: {cost.process:6.2f} s of CPU,"
                f" {cost.each_ms:.2f} ms each, of which {cost.thread / providers * 1000:.2f} ms in its own thread"
            )
        for providers in SIZES:
            steps = router(server.url, f"router{providers}", providers)
            each = (1000 * step / providers for step in (steps.registered, steps.joined, steps.opened))
            print(
                "router: {:>6} providers of 50 models: {:.3f} ms of CPU each to register, {:.2f} to join,"
                " {:.2f} to open, {:.1f} µs a refusal".format(providers, *each, steps.refusal_us)
            )


if __name__ == "__main__":
    asyncio.run(_serve()) if sys.argv[1:] == ["--serve"] else main()
