"""A gateway on FastAPI: one router for the life of the application, the same lines as in sync code.

pip install redis-llm-router fastapi uvicorn httpx
uvicorn fastapi_gateway:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from redis_router import NoProviderAvailable, Provider, Router

router = Router(os.environ.get("REDIS_ROUTER_URL", "redis://localhost:6379/0"), strategy="latency")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with httpx.AsyncClient(timeout=60) as http:
        for name in ("openai", "azure"):
            url = os.environ.get(f"{name.upper()}_URL", f"https://{name}.example/v1")
            router.register_provider(Provider(name, models=("gpt-4o",), client=url))
        app.state.http = http
        async with router:
            yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/chat/completions")
async def complete(request: Request) -> JSONResponse:
    try:
        body = await request.json()
        model = str(body["model"])
    except (ValueError, KeyError, TypeError):
        return JSONResponse({"error": {"code": "BAD_REQUEST", "message": "send JSON with a model"}}, 400)
    try:
        for attempt in router.attempts(model):
            with attempt:
                answer = await app.state.http.post(f"{attempt.provider.client}/chat/completions", json=body)
                if answer.status_code == 429 or answer.status_code >= 500:  # the provider's fault: on to the next
                    answer.raise_for_status()
    except NoProviderAvailable as error:
        headers = {"Retry-After": str(ceil(error.retry_after))} if error.retry_after is not None else {}
        return JSONResponse({"error": {"code": error.code, "message": str(error)}}, 503, headers)
    except httpx.HTTPError as error:
        return JSONResponse({"error": {"code": "PROVIDER_FAILED", "message": str(error)}}, 502)
    return JSONResponse(answer.json(), answer.status_code)
