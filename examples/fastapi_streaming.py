"""A streaming gateway on FastAPI and the openai SDK: one answer comes from one provider, or breaks and says so.

pip install -e . fastapi uvicorn openai
uvicorn fastapi_streaming:app
"""

import asyncio
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
from redis_router.request.classify import retry_after

router: Router[openai.AsyncOpenAI] = Router(os.environ.get("REDIS_ROUTER_URL", "redis://localhost:6379/0"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for name in ("openai", "azure"):
            url = os.environ.get(f"{name.upper()}_URL", f"https://{name}.example/v1")
            key = os.environ.get(f"{name.upper()}_API_KEY", "none")
            # the router tries again, elsewhere; and 30 s of silence within an answer are a failure
            client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=30.0)
            await stack.enter_async_context(client)
            router.register_provider(Provider(name, models=("gpt-4o",), client=client))
        await stack.enter_async_context(router)
        yield


app = FastAPI(lifespan=lifespan)


async def answer(model: str, messages: list[Any]) -> AsyncGenerator[str, None]:
    """The events of one answer. Until its first content another provider may step in; after that, nobody."""
    async for attempt in router.attempts(model, deadline=120.0, first_token_timeout=15.0):
        with attempt:
            # asyncio.timeout, and not the client's own: that begins anew with each byte, keep-alives included
            async with asyncio.timeout(attempt.timeout):
                chunks = await attempt.provider.client.chat.completions.create(
                    model=attempt.model, messages=messages, stream=True
                )
            held, finished = "", False
            async with chunks:
                events = aiter(chunks)
                while True:
                    async with asyncio.timeout(attempt.timeout):
                        chunk = await anext(events, None)
                    if chunk is None:
                        break
                    held += f"data: {chunk.model_dump_json()}\n\n"
                    finished = finished or any(choice.finish_reason for choice in chunk.choices)
                    if finished or any(c.delta.content or c.delta.tool_calls for c in chunk.choices):
                        attempt.first_token()
                        yield held
                        held = ""
            if not finished:
                raise ConnectionError("the stream ended before the answer did")
            yield held  # what follows the last choice, such as the usage
            return


async def rest(first: str, events: AsyncGenerator[str, None]) -> AsyncIterator[str]:
    """What follows the status line. An answer that breaks off ends with an error event, and without [DONE]."""
    async with aclosing(events):  # a client that hangs up ends the call, which says nothing about the provider
        yield first
        try:
            async for event in events:
                yield event
        except Exception as error:
            said = {"error": {"code": "PROVIDER_FAILED", "message": f"the answer broke off: {error!r}"}}
            yield f"data: {json.dumps(said)}\n\n"
        else:
            yield "data: [DONE]\n\n"


@app.post("/v1/chat/completions")
async def complete(request: Request) -> Response:
    try:
        body = await request.json()
        events = answer(str(body["model"]), list(body["messages"]))
    except (ValueError, KeyError, TypeError):
        return failed(400, "BAD_REQUEST", "send JSON with a model and messages")
    try:
        first = await anext(events, "")  # before the status line goes out: here it fails over, or fails as a whole
    except NoProviderAvailable as error:
        return failed(503, error.code, str(error), error.retry_after)
    except openai.RateLimitError as error:
        return failed(429, "RATE_LIMITED", error.message, retry_after(error.response.headers))
    except openai.BadRequestError as error:
        return failed(400, "BAD_REQUEST", error.message)
    except (openai.OpenAIError, OSError) as error:  # our key, their outage, time: none of it is the user's
        return failed(502, "PROVIDER_FAILED", type(error).__name__)
    return StreamingResponse(rest(first, events), media_type="text/event-stream")


def failed(status: int, code: str, message: str, seconds: float | None = None) -> Response:
    headers = {"Retry-After": str(ceil(seconds))} if seconds is not None else {}
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)
