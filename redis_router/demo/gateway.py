"""A small LLM gateway on redis_router: one replica of the demo's fleet, and of docker-compose.yml's.

POST /v1/chat/completions   goes to a provider, and to the next one where that fails
GET  /view                  every circuit as this replica sees it
GET  /metrics               for Prometheus
"""

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from redis_router import CircuitConfig, NoProviderAvailable, Provider, Router, Transition
from redis_router.demo.web import serve, tell
from redis_router.telemetry.exposition import CONTENT_TYPE_LATEST, generate_latest, scrape_registry

MODEL = "demo-model"


class Gateway:
    """One replica: what it answers, and what it tells of itself."""

    def __init__(
        self, redis: str, namespace: str, replica: str, strategy: str, providers: dict[str, str], timeout: float
    ) -> None:
        self.requests = 0
        self.failures = 0
        self.router = Router(
            redis,
            namespace=namespace,
            replica=replica,
            strategy=strategy,
            circuit=CircuitConfig(open_timeout=timeout),
            on_transition=self.saw,
        )
        for name, url in providers.items():
            # the first one has no probe: only its half-open calls find out whether it is back
            probe = None if name == next(iter(providers)) else f"{url}/healthz"
            self.router.register_provider(Provider(name, models=(MODEL,), client=url, probe=probe))
        self.app = Starlette(
            lifespan=self.lifespan,
            routes=[
                Route("/v1/chat/completions", self.complete, methods=["POST"]),
                Route("/view", self.view),
                Route("/metrics", self.metrics),
            ],
        )

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with self.router, httpx.AsyncClient(timeout=10, trust_env=False) as self.http:
            reporter = asyncio.create_task(self.report())
            yield
            reporter.cancel()

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        self.requests += 1
        try:
            for attempt in self.router.attempts(body["model"]):
                with attempt, Told(attempt.provider.name, attempt.permit):
                    answer = await self.http.post(f"{attempt.provider.client}/v1/chat/completions", json=body)
                    answer.raise_for_status()
        except NoProviderAvailable as error:
            self.failures += 1
            return JSONResponse({"error": {"message": str(error), "code": error.code}}, 503)
        except httpx.HTTPError as error:
            self.failures += 1
            return JSONResponse({"error": {"message": str(error), "code": "PROVIDER_FAILED"}}, 502)
        return JSONResponse(answer.json())

    async def view(self, request: Request) -> Response:
        return JSONResponse({name: health.to_fields() for name, health in self.router.get_health_status().items()})

    async def metrics(self, request: Request) -> Response:
        return Response(generate_latest(scrape_registry()), media_type=CONTENT_TYPE_LATEST)

    async def report(self) -> None:
        """Tell four times a second how things look from here."""
        while True:
            states = {name: str(health.circuit_state) for name, health in self.router.get_health_status().items()}
            tell("view", states=states, requests=self.requests, failures=self.failures, redis_up=self.router.redis_up)
            await asyncio.sleep(0.25)

    def saw(self, change: Transition) -> None:
        tell("saw", provider=change.provider, to=change.to_state, reason=change.reason, generation=change.generation)


class Told:
    """Tells of half-open calls and of failed ones, for the demo's summary."""

    def __init__(self, provider: str, permit: str | None) -> None:
        self.facts = {"provider": provider, "permit": permit}

    def __enter__(self) -> None:
        if self.facts["permit"]:
            tell("trial_began", **self.facts)

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if self.facts["permit"]:
            tell("trial_ended", ok=kind is None, **self.facts)
        if kind is not None:
            tell("call_failed", **self.facts)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root.add_argument("--redis", required=True)
    root.add_argument("--namespace", default="rr")
    root.add_argument("--replica", default="")
    root.add_argument("--strategy", default="round_robin")
    root.add_argument("--open-timeout", type=float, default=4.0, help="seconds")
    root.add_argument("--provider", action="append", required=True, metavar="NAME=URL")
    root.add_argument("--host", default="127.0.0.1")
    root.add_argument("--port", type=int, default=0)
    return root


def main() -> None:
    args = parser().parse_args()
    providers = dict(pair.split("=", 1) for pair in args.provider)
    gateway = Gateway(args.redis, args.namespace, args.replica, args.strategy, providers, args.open_timeout)
    serve(gateway.app, args.host, args.port)


if __name__ == "__main__":
    main()
