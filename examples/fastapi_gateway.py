"""A gateway on FastAPI: one router for the life of the application, the same lines as in sync code.

pip install redis-llm-router fastapi uvicorn httpx
uvicorn fastapi_gateway:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
    body = await request.json()
    try:
        for attempt in router.attempts(body["model"]):
            with attempt:
                answer = await app.state.http.post(f"{attempt.provider.client}/chat/completions", json=body)
                answer.raise_for_status()
    except NoProviderAvailable as error:
        headers = {"Retry-After": str(round(error.retry_after))} if error.retry_after is not None else {}
        return JSONResponse({"error": {"code": error.code, "message": str(error)}}, 503, headers)
    return JSONResponse(answer.json())
