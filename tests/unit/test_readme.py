"""What the README and the compose file promise: the examples run, the commands and the named tests exist."""

import asyncio
import json
import re
import shlex
import socket
import threading
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from benchmarks.measure import Row
from benchmarks.quality.policies import GUIDE
from benchmarks.report import number
from redis_router import NoProviderAvailable, Provider, Router, cli
from redis_router.demo import gateway, provider
from tests.support import eventually

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def names(one_real):
    """What the examples take for granted, on a server of ours."""

    async def call_async(prompt):
        return f"answer to {prompt}"

    def on_our_server(url, **options):
        assert url == "redis://localhost:6379/0"
        return Router(one_real.url, namespace=one_real.namespace, **options)

    return {
        "call_openai": lambda prompt: "openai",
        "call_azure": lambda prompt: "azure",
        "call_openai_async": call_async,
        "on_our_server": on_our_server,
    }


def test_the_sync_quick_start_runs(names):
    """Line by line as printed."""
    code = PYTHON[0].replace("Router(", "on_our_server(")
    exec(code, names)
    assert names["answer"] in ("openai", "azure")


def test_the_asyncio_quick_start_runs(names):
    """With a provider that is awaited."""
    scope = {**names, "Provider": Provider}
    exec(PYTHON[1].replace("Router(", "on_our_server("), scope)
    assert asyncio.run(scope["main"]()) == "answer to Hello?"


@contextmanager
def served(app):
    """An ASGI application over real HTTP; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            eventually(lambda: server.started)
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


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
        exec(next(code for code in PYTHON if "fallbacks" in code), scope)
    assert scope["answer"] == "claude-sonnet"


def test_the_stream_runs(one_real):
    """A generator that goes to the next provider where the first one breaks before it said anything."""
    asked = []

    async def client(question):
        asked.append(question)
        if len(asked) == 1:
            raise ConnectionError
        for part in ("He", "llo"):
            yield part

    async def main():
        async with Router(one_real.url, namespace=one_real.namespace) as router:
            for name in "ab":
                router.register_provider(Provider(name, ("gpt-4o",), client=client))
            scope = {"router": router}
            exec(next(code for code in PYTHON if "first_token" in code), scope)
            return [part async for part in scope["stream"]("Hello?")]

    assert asyncio.run(main()) == ["He", "llo"]
    assert len(asked) == 2


def test_the_readmes_lifespan_runs(one_real):
    """The router starts and ends with the application."""
    scope = {"asynccontextmanager": asynccontextmanager, "FastAPI": FastAPI, "Provider": Provider}
    scope["router"] = Router(one_real.url, namespace=one_real.namespace)
    exec(PYTHON[2], scope)
    with served(scope["app"]):
        eventually(lambda: scope["router"].redis_up)
        assert scope["router"].select_provider("gpt-4o").name == "openai"


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
            assert 20 <= int(refused.headers["Retry-After"]) <= 30
            for name in ("openai", "azure"):
                example["router"].deregister_provider(name, everywhere=True)


def test_the_tests_in_the_parity_table_exist():
    """Each feature of the original names the test that shows it."""
    table = README.split("## What it does that the original did")[1].split("\n## ")[0]
    texts = {path.name: path.read_text() for path in ROOT.glob("tests/**/test_*.py")}
    named = re.findall(r"`(test_\w+\.py)((?:::\w+)*)`", table)
    assert len(named) >= 15
    for file, path in named:
        for name in path.split("::")[1:]:
            assert re.search(rf"^\s*(?:class|def|async def) {name}\b", texts[file], re.MULTILINE), f"{file}{path}"


def test_options_in_the_readme_are_the_constructors():
    """The configuration tables name every option, and no other."""
    import dataclasses
    import inspect

    from redis_router import CircuitConfig

    tables = README.split("## Configuration")[1].split("\n## ")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", tables, re.MULTILINE)) - {"CircuitConfig"}
    options = {p for p in inspect.signature(Router).parameters if p != "redis"}
    assert documented == options | {field.name for field in dataclasses.fields(CircuitConfig)}


def test_compose_commands_are_understood():
    """Every service of ours starts a module that exists, with options that it knows."""
    import yaml

    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    parsers = {
        "redis_router": cli.parser(),
        "redis_router.demo.gateway": gateway.parser(),
        "redis_router.demo.provider": provider.parser(),
    }
    ours = {name: s["command"] for name, s in compose["services"].items() if s["image"] == "redis-router-demo"}
    assert sum("worker" in name for name in ours) == 2
    assert sum("gateway" in name for name in ours) == 3
    for command in ours.values():
        module, *options = shlex.split(command)
        parsers[module].parse_args(options)
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
    targets = [
        t.partition(":")[0] for job in scraped["scrape_configs"] for c in job["static_configs"] for t in c["targets"]
    ]
    assert set(targets) == {name for name in ours if "gateway" in name or "worker" in name}


def test_the_guides_figures_are_those_of_the_simulation():
    """Each cell is one scenario under one policy of the last run, and the guide's settings are those simulated."""
    said = json.loads((ROOT / "benchmarks" / "results" / "quality.json").read_text())
    scores = {(each["scenario"], each["policy"]): each for each in said["scores"]}
    section = README.partition("## Which strategy")[2].partition("\n## ")[0]
    head, *lines = [line.strip("|").split(" | ") for line in re.findall(r"^\|.+\|$", section, re.MULTILINE)]
    policies = [cell.strip() for cell in head[1:]]
    assert len(lines[1:]) == len({scenario for scenario, _ in scores}) == 9
    for scenario, *cells in lines[1:]:
        for policy, cell in zip(policies, cells, strict=True):
            score = scores[scenario.strip(), policy]
            assert cell.strip() == f"{score['failed_percent']:.1f} %, {score['p99']:.2f} s", (scenario, policy)
    scope: dict[str, Any] = {}
    exec(re.search(r"```python\n(from redis_router import CircuitConfig.*?)router = ", section, re.DOTALL)[1], scope)
    assert scope["circuit"] == GUIDE


def test_performance_figures_are_those_of_the_report():
    """Each row of the table is a row of the last real run, digit for digit, misses included."""
    said = json.loads((ROOT / "benchmarks" / "results" / "benchmark.json").read_text())
    rows = {each["what"]: Row(**each) for each in said["rows"]}
    section = README.partition("## Performance")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| [^|]*\| ([^|]+) \| ([^|]+) \| ([^|]*) ?\|$", section, re.MULTILINE)[1:]
    assert len(lines) > 20
    for what, figure, bound in lines:
        row = rows[what]
        assert figure == f"{number(row.median)} {row.unit}".strip(), what
        assert bound.strip() == (f"**{row.target}**" if row.met is False else row.target), what
