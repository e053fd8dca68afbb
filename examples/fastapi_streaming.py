"""A streaming gateway on FastAPI and the openai SDK: one answer comes from one provider, or breaks and says so.

pip install redis-llm-router fastapi uvicorn openai
uvicorn fastapi_streaming:app
"""

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from math import ceil
from typing import Any

import openai
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from redis_router import NoProviderAvailable, Provider, Router

router: Router[openai.AsyncOpenAI] = Router(os.environ.get("REDIS_ROUTER_URL", "redis://localhost:6379/0"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for name in ("openai", "azure"):
            url = os.environ.get(f"{name.upper()}_URL", f"https://{name}.example/v1")
            key = os.environ.get(f"{name.upper()}_API_KEY", "none")
            client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0)  # the router tries again, elsewhere
            await stack.enter_async_context(client)
            router.register_provider(Provider(name, models=("gpt-4o",), client=client))
        await stack.enter_async_context(router)
        yield


app = FastAPI(lifespan=lifespan)


async def answer(model: str, messages: list[Any]) -> AsyncGenerator[str, None]:
    """The events of one answer. Until its first content another provider may step in; after that, nobody."""
    async for attempt in router.attempts(model, deadline=120.0, first_token_timeout=15.0):
        with attempt:
            chunks = await attempt.provider.client.chat.completions.create(
                model=attempt.model, messages=messages, stream=True, timeout=attempt.timeout
            )
            held = ""
            async with chunks:
                async for chunk in chunks:
                    held += f"data: {chunk.model_dump_json()}\n\n"
                    if any(c.delta.content or c.delta.tool_calls or c.finish_reason for c in chunk.choices):
                        attempt.first_token()
                    if attempt.has_begun_to_answer:
                        yield held
                        held = ""


async def rest(first: str, events: AsyncGenerator[str, None]) -> AsyncIterator[str]:
    """What follows the status line. An answer that breaks off ends with an error event, and without [DONE]."""
    async with aclosing(events):  # a client that hangs up ends the call, which says nothing about the provider
        yield first
        try:
            async for event in events:
                yield event
        except Exception as error:
            said = {"error": {"code": "PROVIDER_FAILED", "message": f"the answer broke off: {error}"}}
            yield f"data: {json.dumps(said)}\n\n"
        else:
            yield "data: [DONE]\n\n"


@app.post("/v1/chat/completions")
async def complete(request: Request) -> Response:
    body = await request.json()
    events = answer(str(body["model"]), body["messages"])
    try:
        first = await anext(events, "")  # before the status line goes out: here it fails over, or fails as a whole
    except NoProviderAvailable as error:
        headers = {"Retry-After": str(ceil(error.retry_after))} if error.retry_after is not None else {}
        return JSONResponse({"error": {"code": error.code, "message": str(error)}}, 503, headers)
    except openai.APIStatusError as error:
        return JSONResponse({"error": {"code": "PROVIDER_FAILED", "message": error.message}}, error.status_code)
    except openai.OpenAIError as error:
        return JSONResponse({"error": {"code": "PROVIDER_FAILED", "message": str(error)}}, 502)
    return StreamingResponse(rest(first, events), media_type="text/event-stream")
