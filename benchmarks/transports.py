"""What the transports of `redis_router.integrations.httpx` add: `python -m benchmarks.transports`.

The microseconds of CPU that a call takes, over an inner transport that answers at once. What they spare is told by
`benchmarks.path`.
"""

import argparse
import importlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

from prometheus_client import CollectorRegistry

from redis_router import Provider, Router
from redis_router.integrations.httpx import Upstream, failover, guard
from tests.support.http import openai_answer

QUESTION: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello? " * 200}]}
URL = "https://router/v1/chat/completions"


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and requests")
    quick = parser.parse_args().quick
    for name in ("httpx", "httpx2"):
        if importlib.util.find_spec(name) is not None:
            print(f"\n{name}: microseconds of CPU for a call, medians")
            for what, us in added(importlib.import_module(name), 6 if quick else 60).items():
                print(f"  {what:35} {us:8.1f}")


if __name__ == "__main__":
    main()
