"""The clients that gateways use, unmodified, against servers that misbehave: SDKs and plain HTTP clients."""

import asyncio
import socket
import threading
import time
from contextlib import ExitStack
from functools import partial

import aiohttp
import anthropic
import httpx
import openai
import pytest
import requests

from redis_router import Outcome, Provider, Router, Verdict, classify
from tests.support import eventually, metric
from tests.support.fleet import new_router
from tests.support.http import ANSWER, llm_server, openai_answer

TEXT = "".join(ANSWER)
TIMEOUT = 0.5
QUESTION = {"model": "m", "messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 9}


def create(client):
    """The method that asks."""
    return client.chat.completions.create if hasattr(client, "chat") else client.messages.create


def text_of(said):
    """Of an answer, or of a part of a stream; '' where a part has none."""
    if hasattr(said, "choices"):
        choice = said.choices[0]
        return (choice.message if hasattr(choice, "message") else choice.delta).content or ""
    if hasattr(said, "content"):
        return said.content[0].text
    return getattr(getattr(said, "delta", None), "text", "") or ""


class Gateway:
    """Makes clients as their documentation does; retries are the router's matter."""

    def __init__(self, sdk):
        self.sdk = sdk
        self.clients = []

    def client(self, url):
        base = f"{url}/v1" if self.sdk is openai else url
        made = self.kind(base_url=base, api_key="none", max_retries=0, timeout=TIMEOUT)
        self.clients.append(made)
        return made


class Sync(Gateway):
    """With threads."""

    @property
    def kind(self):
        return self.sdk.OpenAI if self.sdk is openai else self.sdk.Anthropic

    def close(self):
        for client in self.clients:
            client.close()

    def ask(self, router, stream, tried):
        for attempt in router.attempts("m"):
            with attempt:
                tried.append(attempt.provider.name)
                said = create(attempt.provider.client)(**QUESTION, stream=stream)
                if not stream:
                    return text_of(said)
                parts = []
                for event in said:
                    attempt.first_token()
                    parts.append(text_of(event))
                return "".join(parts)
        raise AssertionError("an attempt answers or raises")


class Async(Gateway):
    """With asyncio, in one loop for all that it does."""

    def __init__(self, sdk):
        super().__init__(sdk)
        self.run = asyncio.Runner().run

    @property
    def kind(self):
        return self.sdk.AsyncOpenAI if self.sdk is openai else self.sdk.AsyncAnthropic

    def close(self):
        async def close():
            for client in self.clients:
                await client.close()

        self.run(close())
        self.run.__self__.close()

    def ask(self, router, stream, tried):
        return self.run(self._ask(router, stream, tried))

    async def _ask(self, router, stream, tried):
        async for attempt in router.attempts("m"):
            with attempt:
                tried.append(attempt.provider.name)
                said = await create(attempt.provider.client)(**QUESTION, stream=stream)
                if not stream:
                    return text_of(said)
                parts = []
                async for event in said:
                    attempt.first_token()
                    parts.append(text_of(event))
                return "".join(parts)
        raise AssertionError("an attempt answers or raises")


WAYS = {f"{way.__name__}-{sdk.__name__}": (way, sdk) for way in (Sync, Async) for sdk in (openai, anthropic)}


@pytest.fixture(params=WAYS)
def gateway(request):
    """Each SDK, sync and async."""
    way, sdk = WAYS[request.param]
    made = way(sdk)
    yield made
    made.close()


@pytest.fixture
def servers():
    with llm_server() as first, llm_server() as second:
        yield first, second


@pytest.fixture
def router(one_real, gateway, servers):
    """A started router; "first" is asked before "second", as it answered faster."""
    with Router(one_real.url, namespace=one_real.namespace, strategy="latency") as router:
        for name, server, latency_ms in zip(("first", "second"), servers, (1.0, 2.0), strict=True):
            router.register_provider(Provider(name, ("m",), client=gateway.client(server.url)))
            router.flush()
            router.record_result(name, success=True, latency_ms=latency_ms)
        router.flush()
        eventually(lambda: router.select_provider("m").name == "first")
        yield router


def health(router, name):
    assert router.flush()
    return router.get_health_status()[name]


FAULTS = [
    ((500, {}), "http_500"),
    ((503, {"retry-after": "1"}), "http_503"),
    ((529, {}), "http_529"),
    ((408, {}), "http_408"),
    ((401, {}), "unauthorized"),
    ((403, {}), "forbidden"),
    ("reset", "connection"),
    ("hang", "timeout"),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS, ids=[reason for _, reason in FAULTS])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_fails_goes_to_the_next(router, gateway, servers, fault, reason, stream):
    """The caller gets the other provider's answer; the record says why."""
    servers[0].faults.append(fault)
    tried = []
    assert gateway.ask(router, stream, tried) == TEXT
    assert tried == ["first", "second"]
    found = health(router, "first")
    assert (found.consecutive_failures, found.last_failure) == (1, reason)


@pytest.mark.parametrize("fault", ["cut", "overloaded"])
def test_a_stream_that_breaks_is_a_failure_that_nobody_continues(router, gateway, servers, fault):
    """After its status of 200, after its first token: by the connection, or by an error event."""
    servers[0].faults.append(fault)
    tried = []
    with pytest.raises(Exception) as caught:
        gateway.ask(router, True, tried)
    assert classify(caught.value).outcome is Outcome.FAILURE
    assert tried == ["first"]
    assert health(router, "first").consecutive_failures == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry-after": "20"}, 20), ({"retry-after-ms": "30000"}, 30), ({"x-ratelimit-reset-tokens": "1m10s"}, 70)],
)
def test_a_rate_limit_cools_the_provider_down(router, gateway, servers, headers, seconds):
    """As long as it says; nobody asks it meanwhile, and its circuit stays as it is."""
    servers[0].faults.append((429, headers))
    tried = []
    assert gateway.ask(router, False, tried) == TEXT
    found = health(router, "first")
    assert found.cooldown_ms == seconds * 1000
    assert (found.consecutive_failures, found.circuit_state) == (0, "closed")
    assert gateway.ask(router, False, tried) == TEXT
    assert tried == ["first", "second", "second"]


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_bad_request_is_the_callers(router, gateway, servers, status):
    """Passed on at once, and no word about the provider."""
    servers[0].faults.append((status, {}))
    tried = []
    with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as caught:
        gateway.ask(router, False, tried)
    assert (caught.value.status_code, tried) == (status, ["first"])
    found = health(router, "first")
    assert (found.consecutive_failures, found.consecutive_successes) == (0, 1)


def test_nobody_listens(router, gateway):
    """A provider that is gone: refused connections."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    router.register_provider(Provider("first", ("m",), client=gateway.client(url)))
    tried = []
    assert gateway.ask(router, False, tried) == TEXT
    assert tried == ["first", "second"]
    assert health(router, "first").last_failure == "connection"


def test_all_of_them_fail(router, gateway, servers):
    """The last real error, with the first one beside it."""
    for server, status in zip(servers, (500, 503), strict=True):
        server.faults.append((status, {}))
    with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as caught:
        gateway.ask(router, False, [])
    assert caught.value.status_code == 503
    assert "first" in caught.value.__notes__[0]


@pytest.mark.parametrize("sdk", [openai, anthropic])
@pytest.mark.parametrize("how", ["cancelled", "timeout"])
def test_the_callers_own_impatience_is_no_failure(one_real, servers, sdk, how):
    """A cancelled task, and `asyncio.timeout` inside the block, while the provider takes its time."""
    first, _ = servers
    first.faults.append("hang")
    gateway = Async(sdk)
    client = gateway.client(first.url)

    async def request(router):
        with router.attempt("m"):
            async with asyncio.timeout(0.1 if how == "timeout" else 30):
                await create(client)(**QUESTION)

    async def main(router):
        task = asyncio.create_task(request(router))
        if how == "cancelled":
            await asyncio.sleep(0)
            await asyncio.to_thread(eventually, lambda: first.asked)
            task.cancel()
        with pytest.raises((asyncio.CancelledError, TimeoutError)):
            await task

    with new_router(one_real.url, namespace=one_real.namespace) as router:
        router.register_provider(Provider("first", ("m",), client=client))
        gateway.run(main(router))
        found = health(router, "first")
        assert (found.failure_rate, found.latency_ms) == (0.0, 0.0)
        assert metric(router, "requests_total", provider="first", outcome="ignored") == 1
    gateway.close()


# Clients without an SDK


def by_httpx(url):
    httpx.post(url, json={}, timeout=TIMEOUT).raise_for_status()


def by_requests(url):
    requests.post(url, json={}, timeout=TIMEOUT).raise_for_status()


def by_aiohttp(url, timeout=None):
    async def post():
        limits = aiohttp.ClientTimeout(total=TIMEOUT) if timeout is None else timeout
        async with aiohttp.ClientSession(timeout=limits) as session, session.post(url, json={}) as response:
            response.raise_for_status()

    asyncio.run(post())


by_aiohttp_read = partial(by_aiohttp, timeout=aiohttp.ClientTimeout(sock_read=TIMEOUT))
CLIENTS = {"httpx": by_httpx, "requests": by_requests, "aiohttp": by_aiohttp, "aiohttp-read": by_aiohttp_read}
EXPECTED = [
    ((500, {}), Verdict(Outcome.FAILURE, "http_500")),
    ((408, {}), Verdict(Outcome.FAILURE, "http_408")),
    ((401, {}), Verdict(Outcome.FAILURE, "unauthorized")),
    ((404, {}), Verdict(Outcome.IGNORED)),
    ((429, {"Retry-After": "7"}), Verdict(Outcome.RATE_LIMITED, cooldown=7.0)),
    ("reset", Verdict(Outcome.FAILURE, "connection")),
    ("hang", Verdict(Outcome.FAILURE, "timeout")),
    ("refused", Verdict(Outcome.FAILURE, "connection")),
]


@pytest.mark.parametrize(("fault", "expected"), EXPECTED, ids=[str(fault) for fault, _ in EXPECTED])
@pytest.mark.parametrize("client", CLIENTS)
def test_bare_clients(servers, client, fault, expected):
    """What they raise is understood without importing them."""
    server, _ = servers
    url = f"{server.url}/v1/chat/completions"
    if fault == "refused":
        with socket.create_server(("127.0.0.1", 0)) as free:
            url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    server.faults.append(fault)
    with pytest.raises(Exception) as caught:
        CLIENTS[client](url)
    assert classify(caught.value) == expected


@pytest.mark.parametrize("status", [200, 404, 429, 503])
def test_bare_responses(servers, status):
    """Of clients that do not raise."""
    server, _ = servers
    url = f"{server.url}/v1/chat/completions"
    expected = {200: "success", 404: "ignored", 429: "rate_limited", 503: "failure"}[status]
    for post in (httpx.post, requests.post):
        server.faults.append((status, {}))
        assert classify(post(url, json={})).outcome == expected


class Bucket:
    """Answers over HTTP while there is room; says what is left as openai does, and refuses what does not fit."""

    def __init__(self, limit, refill):
        self.limit, self.refill = limit, refill
        self.left, self.at = float(limit), time.monotonic()
        self.lock = threading.Lock()

    def popleft(self):
        with self.lock:
            now = time.monotonic()
            self.left, self.at = min(self.limit, self.left + (now - self.at) * self.refill), now
            if self.left < 1:
                return 429, {"retry-after": "1"}
            self.left -= 1
            full_in = (self.limit - int(self.left)) / self.refill
            said = {"remaining": int(self.left), "limit": self.limit, "reset": f"{full_in:.3f}s"}
            return 200, {f"x-ratelimit-{what}-requests": str(value) for what, value in said.items()}, openai_answer()


def by_httpx(attempt):
    """The whole response is at hand."""
    response = attempt.provider.client.post("/chat/completions", json=QUESTION)
    attempt.classify(response)
    return response.json()["choices"][0]["message"]["content"]


def by_openai(attempt):
    """What `create` returns has no headers; the raw response has them."""
    raw = attempt.provider.client.chat.completions.with_raw_response.create(**QUESTION)
    attempt.classify(raw)
    return text_of(raw.parse())


@pytest.mark.parametrize("ask", [by_httpx, by_openai])
def test_a_provider_that_says_when_it_is_full_never_refuses(one_real, ask):
    """A bucket of five calls, which fills up slowly, and a peer that takes the rest: no call meets a 429."""
    options = {"namespace": one_real.namespace, "strategy": "weighted"}
    with (
        ExitStack() as clients,
        llm_server() as limited,
        llm_server() as free,
        new_router(one_real.url, **options) as router,
    ):
        limited.faults = Bucket(5, 0.5)
        for server, name, weight in ((limited, "limited", 50.0), (free, "free", 1.0)):
            base = f"{server.url}/v1"
            made = httpx.Client if ask is by_httpx else partial(openai.OpenAI, api_key="none", max_retries=0)
            client = clients.enter_context(made(base_url=base))
            router.register_provider(Provider(name, ("m",), weight=weight, client=client))
        for _ in range(40):
            with router.attempt("m") as attempt:
                assert ask(attempt) == TEXT
        assert router.flush()
        assert metric(router, "requests_total", provider="limited", outcome="rate_limited") == 0
        assert metric(router, "requests_total", provider="limited", outcome="success") >= 5
        assert metric(router, "requests_total", provider="free", outcome="success") > 20
