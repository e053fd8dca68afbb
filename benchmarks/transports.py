"""What the transports of `redis_router.integrations.httpx` add, and what they spare: `python -m benchmarks.transports`.

First the microseconds of CPU that a call takes, over an inner transport that answers at once. Then the user's path: a
gateway's requests, through the openai SDK with its own retries, before two providers of which one misbehaves, with and
without `failover`. Everything runs on this machine; `--quick` asks less.
"""

import argparse
import importlib
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import openai
from prometheus_client import CollectorRegistry

from redis_router import Provider, Router
from redis_router.integrations.httpx import Upstream, failover, guard
from redis_router.testing.server import EmbeddedServer
from tests.support.http import LlmServer, llm_server, openai_answer

QUESTION: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello? " * 200}]}
URL = "https://router/v1/chat/completions"
TIMEOUT = 2.0
"""Seconds that the client gives a call, or a request its deadline."""


# What is added


def added(library: Any, rounds: int) -> dict[str, float]:
    """Microseconds of CPU in the calling thread, the median: alone, under `guard`, under `failover`."""
    answer = openai_answer()
    inner = library.MockTransport(lambda request: library.Response(200, json=answer))
    headers = {"content-type": "text/event-stream"}
    streaming = library.MockTransport(lambda request: library.Response(200, headers=headers, content=_events()))
    with Router(f"memory://{uuid4()}", registry=CollectorRegistry()) as router:
        router.register_provider(Provider("plain", ("m",), client=Upstream("https://x.example/v1", "key")))
        made = {
            "alone": inner,
            "guard": guard(router, "one", transport=inner),
            "failover": failover(router, transport=inner),
            "failover, deadline": failover(router, deadline=60.0, transport=inner),
            "stream of 100 events: alone": streaming,
            "stream of 100 events: failover": failover(router, transport=streaming),
        }
        return _medians({name: _asks(library, each) for name, each in made.items()}, rounds)


def _events() -> Iterator[bytes]:
    for _ in range(100):
        yield b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}\n\n'
    yield b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def _asks(library: Any, transport: Any) -> Callable[[], object]:
    client = library.Client(transport=transport)
    return lambda: client.post(URL, json=QUESTION)


def _medians(asks: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """In turn, so that the noise of the machine meets all alike."""
    took: dict[str, list[float]] = {name: [] for name in asks}
    for number in range(rounds):
        for name, ask in asks.items():
            began = time.thread_time()
            for _ in range(20):
                ask()
            if number:  # the first warms up
                took[name].append((time.thread_time() - began) / 20 * 1e6)
    return {name: statistics.median(each) for name, each in took.items()}


# The user's path


INCIDENTS: dict[str, tuple[bool, Any]] = {
    "answers 503": (False, (503, {})),
    "answers 401": (False, (401, {})),
    "429, for 10 s": (False, (429, {"retry-after": "10"})),
    "hangs": (False, "hang"),
    "hangs after its headers": (True, "silent"),
    "breaks streams before the content": (True, "cut_early"),
    "breaks streams after the content": (True, "cut"),
    "ends streams with an error event": (True, "overloaded_early"),
    "answers garbage": (False, "garbage"),
}


class Always:
    """A fault for each request, as `LlmServer.faults` wants it."""

    def __init__(self, fault: Any) -> None:
        self.fault = fault

    def __bool__(self) -> bool:
        return True

    def popleft(self) -> Any:
        return self.fault


@contextmanager
def gateway(servers: list[LlmServer], redis: str, ours: bool) -> Iterator[tuple[list[Any], Any]]:
    """Clients as a gateway has them, and the router, if any: one over `failover`, or one for each provider."""
    if not ours:
        yield [openai.OpenAI(base_url=f"{s.url}/v1", api_key="-", timeout=TIMEOUT) for s in servers], None
        return
    with Router(redis, namespace=f"b{uuid4().hex}", registry=CollectorRegistry()) as router:
        for number, server in enumerate(servers):
            router.register_provider(Provider(f"p{number}", ("m",), client=Upstream(f"{server.url}/v1")))
        transport = failover(router, deadline=TIMEOUT)
        router.start_health_checker()
        yield [openai.OpenAI(api_key="-", http_client=openai.DefaultHttpxClient(transport=transport))], router


def path(redis: EmbeddedServer, name: str, number: int, *, ours: bool) -> dict[str, float]:
    """So many requests, one after the other, while the first of two providers misbehaves; then it is well again."""
    stream, fault = INCIDENTS[name]
    with llm_server() as bad, llm_server() as good, gateway([bad, good], redis.url, ours) as (clients, _):
        bad.faults = Always(fault)  # type: ignore[assignment]
        began, failed, slowest = time.perf_counter(), 0, 0.0
        for turn in range(number):
            at = time.perf_counter()
            failed += not _answered(clients[turn % len(clients)], stream)
            slowest = max(slowest, time.perf_counter() - at)
        return {
            "requests": number,
            "failed": failed,
            "calls to the bad one": len(bad.asked),
            "slowest, s": slowest,
            "all, s": time.perf_counter() - began,
        }


def recovery(redis: EmbeddedServer, number: int) -> dict[str, float]:
    """One of two was down for so many requests, and is well: until it is asked again, how long, and what fails?"""
    with llm_server() as bad, llm_server() as good, gateway([bad, good], redis.url, True) as (clients, _):
        bad.faults = Always((503, {}))  # type: ignore[assignment]
        failed = sum(not _answered(clients[0], False) for _ in range(number))
        bad.faults, asked, began = deque(), len(bad.asked), time.perf_counter()
        while len(bad.asked) == asked and time.perf_counter() - began < 60:
            failed += not _answered(clients[0], False)
            time.sleep(0.02)
        return {"failed": failed, "seconds": time.perf_counter() - began}


def restart(number: int) -> int:
    """Redis is gone for a third of the requests, and comes back: how many fail?"""
    failed = 0
    with (
        EmbeddedServer() as redis,
        llm_server() as first,
        llm_server() as second,
        gateway([first, second], redis.url, True) as (clients, _),
    ):
        for turn in range(3 * number):
            if turn == number:
                redis.stop()
            if turn == 2 * number:
                redis.start()
            failed += not _answered(clients[0], turn % 2 == 0)
    return failed


def _answered(client: Any, stream: bool) -> bool:
    try:
        said = client.chat.completions.create(**QUESTION, stream=stream)
        return bool(list(said) if stream else said.choices[0].message.content)
    except Exception:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and requests")
    quick = parser.parse_args().quick
    for name in ("httpx", "httpx2"):
        if importlib.util.find_spec(name) is not None:
            print(f"\n{name}: microseconds of CPU for a call, medians")
            for what, us in added(importlib.import_module(name), 6 if quick else 60).items():
                print(f"  {what:35} {us:8.1f}")
    number = 6 if quick else 20
    print(f"\n| The first of two providers | {number} requests without | {number} requests with `failover` |")
    print("|---|---|---|")
    with EmbeddedServer() as redis:
        for incident in INCIDENTS:
            print(f"| {incident} | {_cell(redis, incident, number, False)} | {_cell(redis, incident, number, True)} |")
        found = recovery(redis, number)
        print(f"| is well again after {number} requests | - | {found['failed']} failed; {found['seconds']:.1f} s |")
    print(f"| Redis is away for {number} of {3 * number} requests | - | {restart(number)} failed |")


def _cell(redis: EmbeddedServer, incident: str, number: int, ours: bool) -> str:
    found = path(redis, incident, number, ours=ours)
    calls = int(found["calls to the bad one"])
    return f"{int(found['failed'])} failed, slowest {found['slowest, s']:.1f} s, {calls} calls to it"


if __name__ == "__main__":
    main()
