"""examples/: each as it is, over real HTTP, before servers that misbehave."""

import json
import math
from functools import partial
from typing import Any

import httpx
import pytest

from redis_router import RECOMMENDED, NoProviderAvailable
from redis_router.demo import provider
from tests.docs.conftest import served
from tests.support.documents import ROOT
from tests.support.http import llm_server


@pytest.fixture
def streaming_example(one_real, monkeypatch):
    """examples/fastapi_streaming.py as it is, before two servers that misbehave."""
    with llm_server() as openai, llm_server() as azure:
        monkeypatch.setenv("REDIS_ROUTER_URL", one_real.url)
        monkeypatch.setenv("OPENAI_URL", f"{openai.url}/v1")
        monkeypatch.setenv("AZURE_URL", f"{azure.url}/v1")
        example: dict[str, Any] = {}
        code = (ROOT / "examples" / "fastapi_streaming.py").read_text()
        exec(code.replace("first_token_timeout=15.0", "first_token_timeout=1.0"), example)
        with served(example["app"]) as url:
            yield partial(httpx.post, f"{url}/v1/chat/completions", timeout=30), (openai, azure), example["router"]
            for name in ("openai", "azure"):
                example["router"].deregister_provider(name, everywhere=True)


def content(text):
    """What a user reads, and the last event."""
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if "choices" in c), events[-1]


@pytest.mark.parametrize("fault", [(503, {}), (401, {}), (429, {"retry-after": "30"}), "reset", "hang", "keep_alive"])
def test_the_streaming_example_fails_over(streaming_example, fault):
    """Before the first content: status, rate limit, cut connection."""
    ask, servers, _ = streaming_example
    for _ in range(20):  # until the one with the fault was asked first
        servers[0].faults.append(fault)
        said = ask(json={"model": "gpt-4o", "messages": []})
        assert (said.status_code, content(said.text)) == (200, ("Hello from here", "[DONE]"))
        if not servers[0].faults:
            return
        servers[0].faults.clear()
    raise AssertionError("the first server was never asked")


@pytest.mark.parametrize("fault", ["cut", "overloaded", "short"])
def test_the_streaming_example_breaks_off_and_says_so(streaming_example, fault):
    """After the first content: no second answer behind the first, an error event, no [DONE]; and it is counted."""
    ask, servers, router = streaming_example
    for server in servers:
        server.faults.append(fault)
    text, last = content(ask(json={"model": "gpt-4o", "messages": []}).text)
    assert "Hello from here".startswith(text)
    assert text
    assert json.loads(last)["error"]["code"] == "PROVIDER_FAILED"
    assert sum(len(server.asked) for server in servers) == 1
    assert router.flush()
    assert sorted(h.consecutive_failures for h in router.get_health_status().values()) == [0, 1]


def test_the_streaming_example_passes_a_bad_request_on(streaming_example):
    """With its status; and what is about our key, or a limit, with a status that fits."""
    ask, servers, _ = streaming_example
    assert ask(json={"messages": []}).status_code == 400
    for fault, status in (((400, {}), 400), ((401, {}), 502), ((429, {"retry-after": "7"}), 429)):
        for server in servers:
            server.faults.append(fault)
        said = ask(json={"model": "gpt-4o", "messages": []})
        assert (said.status_code, said.headers.get("retry-after")) == (status, "7" if status == 429 else None)
        for server in servers:
            server.faults.clear()


def test_the_fastapi_example_runs(one_real, monkeypatch):
    """The example file as it is: it fails over, and says when to come back once both are down."""
    openai, azure = provider.PretendProvider("openai", 0.0), provider.PretendProvider("azure", 0.0)
    openai.failing = True
    with served(openai.app) as openai_url, served(azure.app) as azure_url:
        monkeypatch.setenv("REDIS_ROUTER_URL", one_real.url)
        monkeypatch.setenv("OPENAI_URL", f"{openai_url}/v1")
        monkeypatch.setenv("AZURE_URL", f"{azure_url}/v1")
        example: dict = {}
        exec((ROOT / "examples" / "fastapi_gateway.py").read_text(), example)
        with served(example["app"]) as url:
            ask = partial(httpx.post, f"{url}/v1/chat/completions", json={"model": "gpt-4o", "messages": []})
            for _ in range(4):
                assert ask().json()["choices"][0]["message"]["content"] == "Hello from azure."
            for name in ("openai", "azure"):
                for _ in range(5):
                    example["router"].record_result(name, success=False, latency_ms=1.0)
            example["router"].flush()
            refused = ask()
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, NoProviderAvailable.code)
            longest = RECOMMENDED.open_timeout * (1 + RECOMMENDED.open_timeout_jitter)
            assert 1 <= int(refused.headers["Retry-After"]) <= math.ceil(longest)
            for name in ("openai", "azure"):
                example["router"].deregister_provider(name, everywhere=True)
