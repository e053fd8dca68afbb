"""Below the transports, with the SDKs and real servers: what is sent on, how long spans last, whose they are."""

import asyncio
import gc
from typing import Any

import httpx
import httpx2
import openai
import pytest
from opentelemetry import trace
from opentelemetry.baggage import set_baggage
from opentelemetry.context import attach, detach
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.trace import StatusCode

from redis_router import CircuitConfig
from redis_router.integrations.httpx import Upstream, failover, guard
from tests.integrations.opentelemetry.conftest import events_of
from tests.support import eventually
from tests.support.http import ANSWER
from tests.support.sdks import QUESTION

TEXT = "".join(ANSWER)
ONE = CircuitConfig(consecutive_failure_limit=1, open_timeout=60.0)
BOTH = ("request m", "attempt first")


def traceparent(span: Any) -> str:
    context = span.context
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


@pytest.fixture
def router(started, servers):
    first, second = servers
    return started({"first": Upstream(f"{first.url}/v1"), "second": Upstream(f"{second.url}/v1")})


@pytest.fixture(params=["sync", "async"])
def ask(request, traces):
    """A question by httpx, below a span of the caller's, which stays the current one; returns the answer's text."""

    def ask_in_thread(transport, stream):
        with (
            traces.tracer.start_as_current_span("caller") as caller,
            httpx.Client(transport=transport, timeout=2.0) as client,
            client.stream("POST", "http://llm/v1/chat/completions", json={**QUESTION, "stream": stream}) as response,
        ):
            assert trace.get_current_span() is caller
            said = b"".join(response.iter_bytes())
            assert trace.get_current_span() is caller
            return said.decode()

    async def ask_in_task(transport, stream):
        with traces.tracer.start_as_current_span("caller") as caller:
            async with (
                httpx.AsyncClient(transport=transport, timeout=2.0) as client,
                client.stream(
                    "POST", "http://llm/v1/chat/completions", json={**QUESTION, "stream": stream}
                ) as response,
            ):
                assert trace.get_current_span() is caller
                said = b"".join([part async for part in response.aiter_bytes()])
                assert trace.get_current_span() is caller
                return said.decode()

    if request.param == "sync":
        return ask_in_thread
    return lambda transport, stream: asyncio.run(ask_in_task(transport, stream))


@pytest.mark.parametrize("stream", [False, True])
def test_failing_over(router, servers, traces, ask, stream):
    """One request, two attempts, and not a word of it to the providers."""
    servers[0].faults.append((503, {}))
    assert "Hello" in ask(failover(router), stream)
    assert traces.tree() == ["caller", "  request m", "    attempt first", "    attempt second"]
    assert traces.named("attempt first").attributes["error.type"] == "503"
    assert traces.named("request m").attributes["redis_router.provider"] == "second"
    for server in servers:
        assert not {"traceparent", "tracestate", "baggage"} & set(server.heads[-1][1])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("make", ["failover", "guard"])
def test_a_provider_that_may_know_of_the_trace(started, servers, traces, ask, make, stream):
    """It gets the attempt's `traceparent`, and not the caller's baggage."""
    server = servers[0]
    router = started({"first": Upstream(f"{server.url}/v1")}, propagate=["first"])
    if make == "failover":
        transport = failover(router)
    else:
        router.deregister_provider("first")
        transport = guard(router, "first", transport=_At(server.url))
    token = attach(set_baggage("user", "someone"))
    try:
        assert "Hello" in ask(transport, stream)
    finally:
        detach(token)
    _, headers = server.heads[-1]
    assert headers["traceparent"] == traceparent(traces.named("attempt first"))
    assert "baggage" not in headers


class _At(httpx.HTTPTransport, httpx.AsyncHTTPTransport):
    """Of both kinds, whatever the host of a request is: there."""

    def __init__(self, url: str) -> None:
        self._there = httpx.URL(url)
        self._sync, self._async = httpx.HTTPTransport(), httpx.AsyncHTTPTransport()

    def _moved(self, request: httpx.Request) -> httpx.Request:
        request.url = request.url.copy_with(host=self._there.host, port=self._there.port)
        return request

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._sync.handle_request(self._moved(request))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._async.handle_async_request(self._moved(request))

    def close(self) -> None:
        self._sync.close()

    async def aclose(self) -> None:
        await self._async.aclose()


@pytest.mark.parametrize("stream", [False, True])
def test_below_the_instrumentation_of_httpx(router, traces, ask, stream):
    """Its span of HTTP is a child of the attempt's."""
    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=traces.provider)
    try:
        ask(failover(router), stream)
    finally:
        instrumentor.uninstrument()
    assert traces.tree() == ["caller", "  request m", "    attempt first", "      POST"]


FAULTS = [
    ("cut", "failure", "connection", True),
    ("overloaded", "failure", "overloaded", False),
    ("short", "failure", "incomplete", False),
]


@pytest.mark.parametrize(("fault", "outcome", "reason", "raises"), FAULTS)
def test_a_stream_that_breaks(router, servers, traces, ask, fault, outcome, reason, raises):
    """The attempt and its request end then, with the reason."""
    servers[0].faults.append(fault)
    if raises:
        with pytest.raises(httpx.TransportError):
            ask(failover(router), True)
    else:
        ask(failover(router), True)
    for name in BOTH:
        span = traces.named(name)
        assert (span.attributes["redis_router.outcome"], span.attributes["redis_router.reason"]) == (outcome, reason)
        assert span.status.status_code is StatusCode.ERROR
    assert events_of(traces.named("attempt first"))[0] == "redis_router.first_token"


@pytest.mark.parametrize(
    "fault", ["hang", "reset", "garbage", (500, {}), (429, {"retry-after": "1"}), (401, {})], ids=str
)
def test_what_fails_before_the_answer(router, servers, traces, ask, fault):
    """The next provider answers; the first attempt says what it was."""
    servers[0].faults.append(fault)
    assert "Hello" in ask(failover(router, deadline=4.0), False)
    assert traces.tree()[1:] == ["  request m", "    attempt first", "    attempt second"]
    assert traces.named("attempt first").status.status_code is StatusCode.ERROR
    assert traces.named("request m").status.status_code is StatusCode.UNSET


def test_a_bad_request(router, servers, traces, ask):
    """No failure of the provider, and still an error of the request."""
    servers[0].faults.append((400, {}))
    assert "as told" in ask(failover(router), False)
    for name in BOTH:
        span = traces.named(name)
        assert (span.attributes["redis_router.outcome"], span.attributes["error.type"]) == ("ignored", "400")
    assert "as told" not in "".join(span.to_json() for span in traces.spans)


def test_nobody_is_available(started, servers, traces, ask):
    """The synthetic 503 has a span with the reasons."""
    servers[0].faults.append((500, {}))
    router = started({"first": Upstream(f"{servers[0].url}/v1")}, circuit=ONE, when_all_open="raise")
    ask(failover(router), False)
    eventually(lambda: router.get_circuit_state("first") == "open", "the circuit is open")
    traces.forget()
    assert "ROUTER_NO_PROVIDER_AVAILABLE" in ask(failover(router), False)
    assert traces.named("request").attributes["redis_router.reasons"][0].startswith("first: circuit open")


@pytest.mark.parametrize("make", ["failover", "guard"])
def test_a_client_that_hangs_up(router, servers, traces, make):
    """In the middle of a stream: both spans end, once, and nothing was wrong."""
    servers[0].faults.append("slow")
    if make == "failover":
        transport = failover(router)
    else:
        router.deregister_provider("first")
        transport = guard(router, "first")
    client = openai.OpenAI(
        api_key="-",
        base_url=f"{servers[0].url}/v1",
        http_client=openai.DefaultHttpxClient(transport=transport),
        max_retries=0,
    )
    with traces.tracer.start_as_current_span("caller") as caller, client:
        said = client.chat.completions.create(model="m", messages=QUESTION["messages"], stream=True)
        next(iter(said))
        assert trace.get_current_span() is caller
        assert traces.names == []
        said.close()
    assert traces.tree()[1:] == (["  request m", "    attempt first"] if make == "failover" else ["  attempt first"])
    for span in traces.spans[1:]:
        assert span.attributes["redis_router.outcome"] == "ignored"
        assert span.status.status_code is StatusCode.UNSET


def test_a_cancelled_task(router, servers, traces):
    """While it waits for the answer."""
    servers[0].faults.append("hang")

    async def cancel():
        async with httpx2.AsyncClient(transport=failover(router)) as client:
            task = asyncio.create_task(client.post("http://llm/v1/chat/completions", json=QUESTION))
            while not servers[0].asked:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancel())
    assert sorted(traces.names) == sorted(BOTH)
    assert {span.attributes["redis_router.outcome"] for span in traces.spans} == {"ignored"}


@pytest.mark.parametrize("make", ["failover", "guard"])
def test_a_response_that_nobody_reads(started, traces, make):
    """Its spans end with it."""
    content = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
    inner = httpx.MockTransport(
        lambda request: httpx.Response(200, headers={"content-type": "text/event-stream"}, content=iter([content] * 2))
    )
    router = started({"first": Upstream("http://llm/v1")} if make == "failover" else {})
    transport = failover(router, transport=inner) if make == "failover" else guard(router, "first", transport=inner)
    request = httpx.Request("POST", "http://llm/v1/chat/completions", json={**QUESTION, "stream": True})
    response = transport.handle_request(request)
    assert traces.names == []
    del response
    gc.collect()
    assert sorted(traces.names) == ["attempt first", *(["request m"] if make == "failover" else [])]
