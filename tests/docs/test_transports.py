"""docs/transports.md, and the examples of transports: each as it is printed, before servers that misbehave."""

import asyncio
import os
import subprocess
import sys

import pytest

from redis_router import Router
from redis_router.testing.server import EmbeddedServer
from tests.support.documents import ROOT, snippet
from tests.support.http import ANSWER, llm_server

SEVERAL = snippet("docs/transports.md", "transport = failover(router, deadline=60.0")
ANTHROPIC = snippet("docs/transports.md", "from anthropic import Anthropic, DefaultHttpxClient")
ONE = snippet("docs/transports.md", "transport=guard(router")
TEXT = "".join(ANSWER)
HELLO = [{"role": "user", "content": "Hello?"}]


@pytest.fixture
def servers(monkeypatch):
    """In place of the providers; keys are set."""
    for name in ("OPENAI", "AZURE", "ANTHROPIC", "SECOND"):
        monkeypatch.setenv(f"{name}_API_KEY", f"key-of-{name.lower()}")
    with llm_server() as first, llm_server() as second:
        yield first, second


def run(code, one_real, **places):
    """A snippet as it is printed, but for where Redis and the providers are."""
    for printed, here in {"redis://localhost:6379/0": one_real.url, **places}.items():
        assert printed in code
        code = code.replace(printed, here)
    scope = {"__name__": "printed"}
    exec(code, scope)
    return scope


def leave(router: Router) -> None:
    for name in router.get_health_status():
        router.deregister_provider(name, everywhere=True)
    router.close()


@pytest.mark.parametrize("stream", [False, True])
def test_several_providers_behind_one_client(one_real, servers, stream):
    """Five lines, then the SDK as ever; one of the two is down."""
    first, second = servers
    first.faults.extend([(503, {})] * 9)
    places = {"https://api.openai.com": first.url, "https://example.openai.azure.com/openai": second.url}
    scope = run(SEVERAL, one_real, **places)

    async def ask():
        async with scope["client"] as client:
            said = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=stream)
            if not stream:
                return said.choices[0].message.content
            return "".join([part.choices[0].delta.content or "" async for part in said])

    try:
        assert asyncio.run(ask()) == TEXT
    finally:
        leave(scope["router"])
    assert second.heads[-1][1]["authorization"] == "Bearer key-of-azure"


def test_the_same_for_anthropic(one_real, servers):
    """With another name for the model at the second provider."""
    first, second = servers
    first.faults.extend([(503, {})] * 9)
    places = {"https://api.anthropic.com": first.url, "https://claude.example": second.url}
    scope = run(ANTHROPIC, one_real, **places)
    try:
        with scope["client"] as client:
            said = client.messages.create(model="claude", max_tokens=9, messages=HELLO)
        assert said.content[0].text == TEXT
    finally:
        leave(scope["router"])
    assert second.asked[-1]["model"] == "claude-eu"
    _, headers = second.heads[-1]
    assert "key-of-second" in (headers.get("x-api-key") or headers["authorization"])  # as the SDK's version has it


def test_one_provider_behind_a_client(one_real, servers, monkeypatch):
    """The base URL is the client's own."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{servers[0].url}/v1")
    scope = run(ONE, one_real)
    try:
        with scope["client"] as client:
            said = client.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert said.choices[0].message.content == TEXT
        scope["router"].flush()
        assert scope["router"].get_health_status()["openai"].latency_ms > 0
    finally:
        leave(scope["router"])


@pytest.mark.parametrize("name", ["openai_failover", "anthropic_guard"])
def test_the_examples_run(name, servers):
    """As a user runs them, and shorter than 40 lines; of two providers one is down."""
    path = ROOT / "examples" / f"{name}.py"
    assert len(path.read_text().splitlines()) < 40
    first, second = servers
    with EmbeddedServer() as redis:
        places = {"OPENAI_URL": f"{first.url}/v1", "AZURE_URL": f"{second.url}/v1", "ANTHROPIC_URL": second.url}
        env = {**os.environ, **places, "REDIS_ROUTER_URL": redis.url, "PYTHONPATH": str(ROOT)}
        first.faults.extend([(503, {})] * 9)
        done = subprocess.run([sys.executable, path, "Hello?"], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, TEXT), done.stderr
