"""What the README and the compose file promise: the examples run, the commands and the named tests exist."""

import asyncio
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from openai import OpenAI
from prometheus_client import CollectorRegistry

from benchmarks.measure import Row
from benchmarks.quality.policies import GUIDE
from benchmarks.report import number
from redis_router import CircuitConfig, NoProviderAvailable, Outcome, Provider, Router, classify, cli
from redis_router.demo import gateway, provider
from redis_router.store.connect import connect
from redis_router.store.redis import RedisStore
from redis_router.telemetry.metrics import Metrics
from tests.process.llm_server import llm_server
from tests.support import eventually, recorded, result

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def as_a_user(code, tmp_path, one_real, *urls):
    """A snippet in a file of its own, run by an interpreter of its own: only the addresses are ours.

    With more patience for Redis than by default: on a machine that is busy with tests the router would begin alone.
    """
    code = code.replace("redis://localhost:6379/0", f"{one_real.url}?socket_timeout=20&socket_connect_timeout=20")
    for theirs, ours in zip(
        ("https://api.openai.com/v1", "https://example.openai.azure.com/openai/v1"), urls, strict=False
    ):
        code = code.replace(theirs, ours)
    (tmp_path / "snippet.py").write_text(code)
    env = {**os.environ, "OPENAI_API_KEY": "none", "AZURE_API_KEY": "none", "OPENAI_BASE_URL": urls[0]}
    command = [sys.executable, "-W", "error", str(tmp_path / "snippet.py")]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    finally:
        with connect(one_real.url) as client:
            store = RedisStore(client, "rr", "test")
            for name in store.specs():
                store.deregister(name)
    assert done.returncode == 0, done.stderr
    assert "deciding alone" not in done.stderr, done.stderr
    return done.stdout


def test_the_sync_quick_start_runs(one_real, tmp_path):
    """Line by line as printed, with the openai SDK; one of the two providers is down, then both."""
    with llm_server() as openai, llm_server() as azure:
        openai.faults.extend([(503, {})] * 2)
        urls = (f"{openai.url}/v1", f"{azure.url}/v1")
        assert as_a_user(PYTHON[0], tmp_path, one_real, *urls) == "Hello from here\n"
        with connect(one_real.url) as client:
            store = RedisStore(client, "rr", "test")
            for name in ("openai", "azure"):
                store.register(Provider(name, ("gpt-4o",)), CircuitConfig())
                recorded(store, name, 1, *[result(name, False, generation=g) for g in range(1, 9) for _ in range(6)])
        assert "ROUTER_NO_PROVIDER_AVAILABLE" in as_a_user(PYTHON[0], tmp_path, one_real, *urls)


def test_the_asyncio_quick_start_runs(one_real, tmp_path):
    """With the SDK's asynchronous client."""
    with llm_server() as openai:
        code = f"{PYTHON[1]}\n\nimport asyncio\n\nprint(asyncio.run(main()))\n"
        assert as_a_user(code, tmp_path, one_real, f"{openai.url}/v1") == "Hello from here\n"


def test_quick_starts_and_examples_are_typed(tmp_path):
    """mypy --strict as they stand: `attempt.provider.client` is the SDK's client."""
    reveal = "    reveal_type(attempt.provider.client)\n"
    sync = PYTHON[0].replace(
        "            with attempt:  # times", f"        {reveal}            with attempt:  # times"
    )
    (tmp_path / "sync.py").write_text(sync)
    (tmp_path / "asynchronous.py").write_text(PYTHON[1])
    files = [tmp_path / "sync.py", tmp_path / "asynchronous.py", *sorted((ROOT / "examples").glob("*.py"))]
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'Revealed type is "openai._client.OpenAI"' in done.stdout


@pytest.mark.parametrize(("retries", "answered_by"), [(0, "second"), (2, "first")])
def test_retries_of_an_sdk_cost_what_the_readme_says(one_real, retries, answered_by):
    """A provider that is limited for a second, twice: without retries the next one answers at once."""
    question = {"model": "m", "messages": [{"role": "user", "content": "Hello?"}]}
    with (
        llm_server() as first,
        llm_server() as second,
        ExitStack() as clients,
        Router(one_real.url, namespace=one_real.namespace, strategy="latency") as router,
    ):
        first.faults.extend([(429, {"retry-after": "1"})] * 2)
        for name, server, latency_ms in (("first", first, 1.0), ("second", second, 2.0)):
            client = clients.enter_context(OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=retries))
            router.register_provider(Provider(name, ("m",), client=client))
            router.flush()
            router.record_result(name, success=True, latency_ms=latency_ms)
        router.flush()
        eventually(lambda: router.select_provider("m").name == "first")
        began = time.monotonic()
        for attempt in router.attempts("m"):
            with attempt:
                attempt.provider.client.chat.completions.create(**question)
        assert attempt.provider.name == answered_by
        assert (time.monotonic() - began >= 2.0) is bool(retries)


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


def named(code_with):
    """The snippet that holds these words."""
    (found,) = [code for code in PYTHON if code_with in code]
    return found


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
    """The README's streaming application on a router with two such providers; what was asked of them."""
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
    exec(named("async def stream(question)"), scope)
    exec(named("async def rest(first, parts)"), scope)
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

        code = named("provider, began = router.select_provider")
        exec(code, scope | {"router": router, "ask": call})
        for _ in range(2):
            with pytest.raises(httpx.HTTPError):
                exec(code, scope | {"router": router, "ask": call})
        assert router.flush()
        found = router.get_health_status()["openai"]
        assert (found.last_failure, found.consecutive_failures, found.cooldown_ms > 29_000) == ("connection", 1, True)


def limited(seconds):
    """A 429 as httpx raises it."""
    request = httpx.Request("GET", "http://127.0.0.1/")
    response = httpx.Response(429, headers={"retry-after": seconds}, request=request)
    return httpx.HTTPStatusError("429", request=request, response=response)


def test_draining_as_printed(one_real, tmp_path):
    """From a process of its own, for a fleet that it is no part of."""
    with connect(one_real.url) as client:
        RedisStore(client, "rr", "test").register(Provider("openai", ("gpt-4o",)), CircuitConfig())
        assert as_a_user(named("operator = Router("), tmp_path, one_real, "http://127.0.0.1/") == ""


def test_the_readmes_metrics_of_several_processes(tmp_path, monkeypatch):
    """The endpoint as printed, over HTTP."""
    app = FastAPI()
    exec(named("scrape_registry()"), {"app": app, "Response": Response})
    with served(app) as url:
        assert "python_info" in httpx.get(f"{url}/metrics").text
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
        assert "python_info" not in httpx.get(f"{url}/metrics").text


def test_the_readmes_alerts_are_of_metrics_that_exist():
    """Names and labels, as far as they can be checked without Prometheus."""
    import yaml

    (rules,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    expressions = [rule["expr"] for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]]
    registry = CollectorRegistry()
    Metrics(registry)
    known = {family.name for family in registry.collect()}
    assert set(re.findall(r"redis_router_\w+", " ".join(expressions))) <= known


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


def test_the_readmes_lifespan_runs(one_real):
    """The router starts and ends with the application."""
    scope = {"asynccontextmanager": asynccontextmanager, "FastAPI": FastAPI, "Provider": Provider}
    scope["router"] = Router(one_real.url, namespace=one_real.namespace)
    exec(named("async def lifespan"), scope)
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
