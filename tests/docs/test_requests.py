"""docs/requests.md: attempts, streams over real HTTP, and results that are reported by hand."""

import asyncio
import json
import time
from contextlib import asynccontextmanager
from functools import partial

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from redis_router import NoProviderAvailable, Outcome, Provider, Router, classify
from tests.docs.conftest import served
from tests.support import eventually
from tests.support.documents import snippet

EVERYTHING = snippet("docs/requests.md", "fallbacks=")
LIFESPAN = snippet("docs/requests.md", "async def lifespan")
BY_HAND = snippet("docs/requests.md", "provider, began = router.select_provider")
STREAM = snippet("docs/requests.md", "async def stream(question)")
FASTAPI_STREAM = snippet("docs/requests.md", "async def rest(first, parts)")


def test_a_request_with_everything_runs(one_real):
    """Deadline, fallbacks and waiting: the lines as printed."""
    with Router(one_real.url, namespace=one_real.namespace) as router:
        router.register_provider(Provider("openai", ("gpt-4o",), client="down"))
        router.register_provider(Provider("anthropic", ("claude-sonnet",), client="up"))

        def ask(client, model, timeout):
            assert 0 < timeout <= 20.0
            if client == "down":
                raise OSError
            return model

        scope = {"router": router, "ask": ask}
        exec(EVERYTHING, scope)
    assert scope["answer"] == "claude-sonnet"


async def broken(question):
    """A provider's stream; the question says how it ends."""
    if question == "nothing":
        raise ConnectionError("refused")
    yield "The answer"
    if question == "half":
        raise ConnectionError("cut")
    yield " is 42."


@pytest.fixture
def streaming(one_real):
    """The page's streaming application on a router with two such providers; what was asked of them."""
    asked = []

    async def client(question):
        asked.append(question)
        if question == "second":  # the first one asked does not answer
            question = "nothing" if len(asked) == 1 else "all"
        async for part in broken(question):
            yield part

    app = FastAPI()
    router = Router(one_real.url, namespace=one_real.namespace)
    scope = {"app": app, "router": router, "json": json, "asyncio": asyncio}
    scope |= {"Request": Request, "Response": Response, "JSONResponse": JSONResponse}
    scope |= {"StreamingResponse": StreamingResponse, "NoProviderAvailable": NoProviderAvailable}
    exec(STREAM, scope)
    exec(FASTAPI_STREAM, scope)
    with router:
        for name in "ab":
            router.register_provider(Provider(name, ("gpt-4o",), client=client))
        with served(app) as url:
            yield partial(httpx.post, f"{url}/v1/chat/completions"), asked, router


@pytest.mark.parametrize(
    ("question", "calls", "data"),
    [
        ("all", 1, ["The answer", " is 42.", "[DONE]"]),
        ("second", 2, ["The answer", " is 42.", "[DONE]"]),
        ("half", 1, ["The answer", {"error": {"message": "the answer broke off: ConnectionError('cut')"}}]),
    ],
)
def test_a_stream_is_one_providers(streaming, question, calls, data):
    """Over real HTTP: it goes to the next provider before its first part, and to nobody after it."""
    ask, asked, _ = streaming
    said = ask(json={"question": question})
    events = [line.removeprefix("data: ") for line in said.text.splitlines() if line]
    assert said.status_code == 200
    assert [each if each == "[DONE]" else json.loads(each) for each in events] == data
    assert len(asked) == calls


def test_a_stream_that_nobody_begins_is_a_status(streaming):
    """Nothing went out yet."""
    ask, asked, router = streaming
    for name in "ab":
        router.update_health(name, available=False)
    assert ask(json={"question": "all"}).status_code == 503
    assert asked == []


def test_a_stream_that_fails_everywhere_is_a_status(streaming):
    """Of ours: what the providers said of our key is not the user's."""
    ask, _, router = streaming
    said = ask(json={"question": "nothing"})
    assert (said.status_code, said.json()["error"]["message"]) == (502, "ConnectionError")
    assert router.flush()
    assert sorted(h.consecutive_failures for h in router.get_health_status().values()) == [1, 1]


def test_by_hand_as_printed(one_real):
    """A success, a failure with its reason, a rate limit with its time."""
    scope = {"time": time, "classify": classify, "Outcome": Outcome}
    with Router(one_real.url, namespace=one_real.namespace) as router:
        router.register_provider(Provider("openai", ("gpt-4o",)))
        answers = iter(["well", httpx.ConnectError("refused"), limited("30")])

        def call(client, model, timeout):
            said = next(answers)
            if isinstance(said, Exception):
                raise said
            return said

        exec(BY_HAND, scope | {"router": router, "ask": call})
        for _ in range(2):
            with pytest.raises(httpx.HTTPError):
                exec(BY_HAND, scope | {"router": router, "ask": call})
        assert router.flush()
        found = router.get_health_status()["openai"]
        assert (found.last_failure, found.consecutive_failures, found.cooldown_ms > 29_000) == ("connection", 1, True)


def limited(seconds):
    """A 429 as httpx raises it."""
    request = httpx.Request("GET", "http://127.0.0.1/")
    response = httpx.Response(429, headers={"retry-after": seconds}, request=request)
    return httpx.HTTPStatusError("429", request=request, response=response)


def test_the_lifespan_runs(one_real):
    """The router starts and ends with the application."""
    scope = {"asynccontextmanager": asynccontextmanager, "FastAPI": FastAPI, "Provider": Provider}
    scope["router"] = Router(one_real.url, namespace=one_real.namespace)
    exec(LIFESPAN, scope)
    with served(scope["app"]):
        eventually(lambda: scope["router"].redis_up)
        assert scope["router"].select_provider("gpt-4o").name == "openai"
