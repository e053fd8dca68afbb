"""Gateway processes of `benchmarks.path`: a line of stdin is a request, a line of stdout says what became of it.

python -m benchmarks.gateways KIND REDIS BAD GOOD
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from redis_router import Provider, Router
from redis_router.integrations.httpx import Upstream, failover

MODEL = "gpt-4o"
TIMEOUT = 2.0
"""Seconds that a call may take; with `failover` the whole request."""
QUESTION: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello?"}]}

Ask = Callable[[bool], Awaitable[bool]]
Make = Callable[[str, dict[str, str]], AbstractAsyncContextManager[Ask]]


async def read(said: Any, stream: bool) -> bool:
    """Did a whole answer come? Raises what its stream does."""
    if not stream:
        return bool(said.choices[0].message.content)
    parts = [part async for part in said]
    return bool(parts[-1].choices[0].finish_reason) if parts else False


@asynccontextmanager
async def sdk(redis: str, urls: dict[str, str]) -> AsyncIterator[Ask]:
    """A client for each provider, in turn, with the retries of the SDK."""
    import openai

    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(openai.AsyncOpenAI(base_url=url, api_key="-", timeout=TIMEOUT))
            for url in urls.values()
        ]
        turn = count()

        async def ask(stream: bool) -> bool:
            client = clients[next(turn) % len(clients)]
            return await read(await client.chat.completions.create(**QUESTION, stream=stream), stream)

        yield ask


@asynccontextmanager
async def over_failover(redis: str, urls: dict[str, str]) -> AsyncIterator[Ask]:
    """One client over both, in turn as well."""
    import openai

    router: Router[Upstream] = Router(redis, strategy="round_robin")
    for name, url in urls.items():
        router.register_provider(Provider(name, models=(MODEL,), client=Upstream(url)))
    transport = failover(router, deadline=TIMEOUT)
    http = openai.DefaultAsyncHttpxClient(transport=transport)
    async with router, openai.AsyncOpenAI(api_key="-", http_client=http) as client:
        router.start_health_checker()

        async def ask(stream: bool) -> bool:
            return await read(await client.chat.completions.create(**QUESTION, stream=stream), stream)

        yield ask


def in_litellm(breaker: bool) -> Make:
    """LiteLLM's Router, two retries, and Redis; with the fleet's breaker, or with its own cooldowns."""

    @asynccontextmanager
    async def make(redis: str, urls: dict[str, str]) -> AsyncIterator[Ask]:
        os.environ.setdefault("LITELLM_LOG", "CRITICAL")
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no download at import
        import litellm

        litellm.suppress_debug_info = True
        deployments: list[dict[str, Any]] = [
            {
                "model_name": MODEL,
                "litellm_params": {"model": f"openai/{MODEL}", "api_key": "none", "api_base": url},
                "model_info": {"id": name},
            }
            for name, url in urls.items()
        ]
        fleet = None
        if breaker:
            from redis_router.integrations.litellm import FleetBreaker

            fleet = FleetBreaker(redis)
            litellm.callbacks = [fleet]
            fleet.register(deployments)
        router = litellm.Router(
            model_list=deployments, redis_url=redis, num_retries=2, timeout=TIMEOUT, disable_cooldowns=breaker
        )

        async def ask(stream: bool) -> bool:
            return await read(await router.acompletion(**QUESTION, stream=stream), stream)

        yield ask
        if fleet is not None:
            await asyncio.to_thread(fleet.router.close)

    return make


@dataclass(frozen=True)
class Kind:
    """How a gateway is made, the module that it needs, and whether it records."""

    make: Make
    needs: str
    ours: bool


KINDS = {
    "SDK alone": Kind(sdk, "openai", False),
    "failover": Kind(over_failover, "openai", True),
    "LiteLLM": Kind(in_litellm(breaker=False), "litellm", False),
    "LiteLLM with FleetBreaker": Kind(in_litellm(breaker=True), "litellm", True),
}


async def serve(kind: str, redis: str, urls: dict[str, str]) -> None:
    """Until a line says that it ends; then what is under way is ended, and all is closed."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks = set[asyncio.Task[None]]()
    async with KINDS[kind].make(redis, urls) as ask:
        print(json.dumps({"ready": True}), flush=True)
        while "number" in (said := json.loads(await reader.readline() or "{}")):
            task = asyncio.create_task(_answer(ask, said["number"], said["stream"]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)


async def _answer(ask: Ask, number: int, stream: bool) -> None:
    try:
        answered = await ask(stream)
    except Exception:  # whatever it is, the user has no answer
        answered = False
    print(json.dumps({"number": number, "answered": answered}), flush=True)


if __name__ == "__main__":
    _, kind, redis, *places = sys.argv
    asyncio.run(serve(kind, redis, dict(zip(("bad", "good"), (f"{url}/v1" for url in places), strict=True))))
