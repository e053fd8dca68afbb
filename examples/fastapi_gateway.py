"""A gateway on FastAPI: one router for the life of the application, the same lines as in sync code.

pip install -e . fastapi uvicorn httpx
uvicorn fastapi_gateway:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from redis_router import NoProviderAvailable, Provider, Router
from redis_router.telemetry.exposition import CONTENT_TYPE_LATEST, generate_latest, scrape_registry

router = Router(os.environ.get("REDIS_ROUTER_URL", "redis://localhost:6379/0"))


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


@app.get("/metrics")
def metrics() -> Response:
    return Response(generate_latest(scrape_registry()), media_type=CONTENT_TYPE_LATEST)


@app.post("/v1/chat/completions")
async def complete(request: Request) -> Response:
    try:
        body = await request.json()
        model = str(body["model"])
    except (ValueError, KeyError, TypeError):
        return JSONResponse({"error": {"code": "BAD_REQUEST", "message": "send JSON with a model"}}, 400)
    try:
        for attempt in router.attempts(model, deadline=60.0):
            with attempt:
                url = f"{attempt.provider.client}/chat/completions"
                answer = await app.state.http.post(url, json=body, timeout=attempt.timeout)
                attempt.classify(answer)  # 5xx and 429: on to the next; the last answer is the caller's
    except NoProviderAvailable as error:
        headers = {"Retry-After": str(ceil(error.retry_after))} if error.retry_after is not None else {}
        return JSONResponse({"error": {"code": error.code, "message": str(error)}}, 503, headers)
    except httpx.HTTPError as error:
        return JSONResponse({"error": {"code": "PROVIDER_FAILED", "message": str(error)}}, 502)
    return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))
