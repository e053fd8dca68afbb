"""The picture of the operators' page: `python -m benchmarks.screenshot docs/page.png`.

A fleet on an embedded server, a minute of calls under way, one provider that begins to fail; and a browser that looks
at it as an operator would. It takes the chromium that the tests take, and about a minute.
"""

import argparse
import random
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from types import SimpleNamespace
from typing import Any

from playwright.sync_api import sync_playwright

from redis_router import CircuitConfig, HealthChecker, Operator, Provider, Router
from redis_router.operate import feed, known
from redis_router.operate.service import Service
from redis_router.operate.wsgi import WsgiPage
from redis_router.testing.server import EmbeddedServer
from redis_router.worker.endpoints import Endpoints
from tests.support.browser import browser

PROVIDERS = {"openai": 420.0, "azure": 310.0, "anthropic": 640.0, "bedrock": 520.0, "mistral": 240.0}
"""By name: how long a call takes, ms."""
MODELS = {
    "openai": ("gpt-4o", "gpt-4o-mini"),
    "azure": ("gpt-4o",),
    "anthropic": ("claude-sonnet",),
    "bedrock": ("claude-sonnet",),
    "mistral": ("mistral-large",),
}
FAILS_AFTER = 0.85
"""Of the time that is played."""


def main(argv: Sequence[str] | None = None) -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("to", help="the file, a PNG")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of calls before the picture is taken (default: 60)"
    )
    parser.add_argument("--width", type=int, default=1280, help="of the window (default: 1280)")
    parser.add_argument("--dark", action="store_true", help="in dark colours")
    arguments = parser.parse_args(argv)
    known.SAMPLE_MS = feed.IDLE_SECONDS = 1  # a minute is enough for a line
    with fleet() as (url, router):
        play(router, arguments.seconds)
        with ExitStack() as calls:
            for model in ("claude-sonnet", "claude-sonnet", "claude-sonnet", "gpt-4o"):
                calls.enter_context(router.attempt(model))  # under way
            time.sleep(0.5)  # until the router has said so
            picture(url, arguments.to, arguments.width, "dark" if arguments.dark else "light")


@contextmanager
def fleet() -> Iterator[tuple[str, Router[Any]]]:
    """The page's address, and a gateway's router."""
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        worker = HealthChecker(server.url, worker="worker-1")
        stack.callback(worker.stop)
        worker.start()
        service = stack.enter_context(
            closing(Service(server.url, "rr", token=secrets.token_hex(16), open_to_look=True))
        )
        service.start()
        checker: Any = SimpleNamespace(alive=True, redis_up=True, is_leader=True)
        served = stack.enter_context(closing(Endpoints("127.0.0.1", 0, checker, WsgiPage(service))))
        routers = [stack.enter_context(gateway(server.url, f"gateway-{number}")) for number in (1, 2, 3)]
        with Operator(server.url, by="alice@ops-1") as operator:
            operator.drain("mistral", seconds=1800, reason="maintenance, ticket 4711")
            operator.override("bedrock", "weight", weight=0.2, reason="a first tenth of the traffic", seconds=14400)
            yield f"{served.url}/", routers[0]


def gateway(url: str, replica: str) -> Router[Any]:
    """One that has registered its providers."""
    router: Router[Any] = Router(url, replica=replica, circuit=CircuitConfig(open_timeout=30.0))
    for name, models in MODELS.items():
        router.register_provider(Provider(name, models=models))
    return router


def play(router: Router[Any], seconds: float) -> None:
    """Calls end well; near the end openai fails, and azure begins to."""
    chance, began = random.Random(7), time.monotonic()
    while (share := (time.monotonic() - began) / seconds) < 1:
        for name, latency_ms in PROVIDERS.items():
            fails = share > FAILS_AFTER and chance.random() < {"openai": 1.0, "azure": 0.12}.get(name, 0.0)
            took = latency_ms * chance.uniform(0.7, 1.4) * (1 + (share if name in ("openai", "azure") else 0.0))
            if name != "mistral":
                router.record_result(name, success=not fails, latency_ms=took, reason="http_503" if fails else "")
        time.sleep(0.2)
    router.flush(5.0)


def picture(url: str, to: str, width: int, scheme: Any) -> None:
    """What a browser shows, the whole page."""
    found = browser()
    with sync_playwright() as playwright:
        chromium = found.launch(playwright)
        page = chromium.new_page(viewport={"width": width, "height": 600}, color_scheme=scheme)
        page.goto(url)
        page.wait_for_selector("tbody tr")
        page.get_by_text("live", exact=True).wait_for()
        page.screenshot(path=to, full_page=True)
        chromium.close()


if __name__ == "__main__":
    main()
