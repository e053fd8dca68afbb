"""Who asks which provider, in one gateway. A policy gives a function that answers a request: True, or it failed.

All have `TRIES` calls for a request and `TIMEOUT` for each call; beyond that each is used as its documentation says.
"""

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from benchmarks.fleet.plan import TIMEOUT
from benchmarks.fleet.wall import Wall
from benchmarks.quality.fleet import MODEL
from benchmarks.quality.policies import Original
from benchmarks.quality.world import TRIES, Answer, Tries
from benchmarks.quality.worlds.players import LITELLM, ORIGINAL
from redis_router import NoProviderAvailable, Provider, Router

OURS = "redis_router"
os.environ.setdefault("LITELLM_LOG", "CRITICAL")
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no download at import

Ask = Callable[[str], Awaitable[bool]]
Policy = Callable[[str, Mapping[str, str]], AbstractAsyncContextManager[Ask]]
"""Of the URL of the Redis server, and the providers' addresses by name."""


def body(number: str) -> dict[str, Any]:
    """What is asked of a provider."""
    return {"model": MODEL, "messages": [{"role": "user", "content": number}]}


def client() -> httpx.AsyncClient:
    """For as many calls at once as there may be."""
    return httpx.AsyncClient(timeout=TIMEOUT, limits=httpx.Limits(max_keepalive_connections=100))


@asynccontextmanager
async def ours(redis: str, addresses: Mapping[str, str]) -> AsyncIterator[Ask]:
    """This library with its defaults."""
    router: Router[str] = Router(redis)
    for name, address in addresses.items():
        router.register_provider(Provider(name, models=(MODEL,), client=address))
    async with router, client() as http:

        async def ask(number: str) -> bool:
            try:
                for attempt in router.attempts(MODEL, max_attempts=TRIES, attempt_timeout=TIMEOUT):
                    with attempt:
                        answer = await http.post(attempt.provider.client, json=body(number), timeout=attempt.timeout)
                        attempt.classify(answer)
            except (NoProviderAvailable, httpx.HTTPError):
                return False
            return answer.is_success

        yield ask


@dataclass
class OneGateway:
    """What the original's rules ask of a run: this gateway is all there is."""

    world: Wall
    providers: Mapping[str, str]
    replicas: int = 1


@asynccontextmanager
async def original(redis: str, addresses: Mapping[str, str]) -> AsyncIterator[Ask]:
    """The original's rules, without Redis."""
    rules = Original(OneGateway(Wall(), addresses))  # type: ignore[arg-type]  # it has what a run has
    async with client() as http:

        async def ask(number: str) -> bool:
            request = Tries(rules, 0)
            while (name := request.next()) is not None:
                sent = time.monotonic()
                answer = await called(http, addresses[name], number)
                request.ended(answer, time.monotonic() - sent)
                if answer.status == 200:
                    return True
            return False

        yield ask


async def called(http: httpx.AsyncClient, address: str, number: str) -> Answer:
    """How one call ends."""
    try:
        return Answer((await http.post(address, json=body(number))).status_code)
    except httpx.TransportError:
        return Answer(0)


@asynccontextmanager
async def litellm(
    redis: str, addresses: Mapping[str, str], strategy: str, breaker: Mapping[str, Any] | None = None
) -> AsyncIterator[Ask]:
    """LiteLLM's Router with its defaults, two retries among them, and the same Redis.

    `breaker`: with the fleet's breaker in place of its cooldowns, and these options of it.
    """
    import litellm
    import openai

    litellm.suppress_debug_info = True
    deployments: list[dict[str, Any]] = [
        {
            "model_name": MODEL,
            "litellm_params": {
                "model": f"openai/{MODEL}",
                "api_key": "none",
                "api_base": address.removesuffix("/chat/completions"),
            },
            "model_info": {"id": name},
        }
        for name, address in addresses.items()
    ]
    if breaker is not None:
        from redis_router.integrations.litellm import FleetBreaker

        fleet = FleetBreaker(redis, worker=False, **breaker)
        fleet.register(deployments)
        litellm.callbacks = [fleet]
    router = litellm.Router(
        model_list=deployments,
        routing_strategy=strategy,
        redis_url=redis,
        timeout=TIMEOUT,
        disable_cooldowns=breaker is not None,
    )
    warm = body("to load what is loaded with the first call")["messages"]
    await litellm.acompletion(messages=warm, **deployments[0]["litellm_params"])

    async def ask(number: str) -> bool:
        try:
            await router.acompletion(**body(number))
        except (openai.OpenAIError, ValueError):  # a ValueError where no deployment is left
            return False
        return True

    yield ask


IN_LITELLM: dict[str, Policy] = {
    "its own cooldowns": partial(litellm, strategy="simple-shuffle"),
    "FleetBreaker": partial(litellm, strategy="simple-shuffle", breaker={}),
    "FleetBreaker that chooses": partial(litellm, strategy="simple-shuffle", breaker={"chooses": True}),
}
"""LiteLLM's Router with one breaker or the other: of `benchmarks.litellm`."""
POLICIES: dict[str, Policy] = {
    OURS: ours,
    ORIGINAL: original,
    **{
        name: partial(litellm, strategy=LITELLM[name])
        for name in ("LiteLLM simple-shuffle", "LiteLLM latency-based-routing")
    },
}
