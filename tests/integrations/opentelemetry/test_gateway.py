"""A gateway of one's own, on a real server: streams that are read, and streams whose client hangs up."""

import httpx
import pytest
from opentelemetry import trace
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tests.docs.conftest import served
from tests.support import eventually
from tests.support.http import LlmServer, llm_server

QUESTION = {"model": "m", "stream": True}


@pytest.fixture
def provider():
    with llm_server() as made:
        yield made


@pytest.fixture
def gateway(started, traces, provider: LlmServer):
    """Two ways to stream: a generator in threads, and one in asyncio. Each request has a span of the gateway's own."""
    router = started({"first": f"{provider.url}/v1/chat/completions"})
    left = []

    def in_threads():
        for attempt in router.attempts("m"):
            with (
                attempt,
                httpx.Client(timeout=30.0) as client,
                client.stream("POST", attempt.provider.client, json=QUESTION) as answer,
            ):
                for part in answer.iter_bytes():
                    attempt.first_token()
                    yield part

    async def in_asyncio():
        async for attempt in router.attempts("m"):
            with attempt:
                async with (
                    httpx.AsyncClient(timeout=30.0) as client,
                    client.stream("POST", attempt.provider.client, json=QUESTION) as answer,
                ):
                    async for part in answer.aiter_bytes():
                        attempt.first_token()
                        yield part

    async def chat(request):
        with traces.tracer.start_as_current_span("chat") as span:
            parts = in_threads() if request.query_params["way"] == "threads" else in_asyncio()
            left.append(trace.get_current_span() is span)
            return StreamingResponse(parts, media_type="text/event-stream")

    with served(Starlette(routes=[Route("/chat", chat)])) as url:
        yield url
    assert all(left)


@pytest.mark.parametrize("way", ["threads", "asyncio"])
def test_a_stream_that_is_read(gateway, traces, way):
    """Its spans end with it, and the next request begins with nothing of it."""
    for _ in range(2):
        assert "Hello" in httpx.get(f"{gateway}/chat", params={"way": way}).text
    eventually(lambda: len(traces.names) == 6, "all ended")
    assert sorted(traces.names) == sorted(["chat", "request m", "attempt first"] * 2)
    assert len({span.context.trace_id for span in traces.spans if span.name == "chat"}) == 2
    outcomes = {span.attributes.get("redis_router.outcome") for span in traces.spans if span.name != "chat"}
    assert outcomes == {"success"}


def test_a_client_that_hangs_up(gateway, traces, provider):
    """The gateway's task is cancelled: both spans end, and no provider is blamed."""
    provider.faults.append("keep_alive")
    with httpx.stream("GET", f"{gateway}/chat", params={"way": "asyncio"}) as answer:
        next(answer.iter_bytes())
    eventually(lambda: len(traces.names) == 3, "all ended")
    ended = [span for span in traces.spans if span.name != "chat"]
    assert {span.attributes["redis_router.outcome"] for span in ended} == {"ignored"}
    assert len(ended) == 2
