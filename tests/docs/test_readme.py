"""The README: its quick start runs as printed, is typed, and says the truth about retries."""

import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from openai import OpenAI

from redis_router import CircuitConfig, Provider, Router
from redis_router.store.connect import connect
from redis_router.store.redis import RedisStore
from tests.docs.conftest import URL, patient
from tests.docs.test_recipes import RECIPES
from tests.support import eventually, recorded, result
from tests.support.documents import ROOT, snippet
from tests.support.http import llm_server

QUICK_START = snippet("README.md", "from openai import OpenAI")
WORKER = snippet("README.md", "redis-router worker")
REQUEST = snippet("docs/requests.md", "from openai import OpenAI")
ASYNCIO = snippet("docs/requests.md", "from openai import AsyncOpenAI")


@pytest.mark.parametrize("redis", [URL, "memory://"])
def test_the_quick_start_runs(as_a_user, redis):
    """Line by line as printed, with the openai SDK, also without Redis; one of the two providers is down."""
    with llm_server() as openai, llm_server() as azure:
        openai.faults.extend([(503, {})] * 2)
        said = as_a_user(QUICK_START.replace(URL, redis), f"{openai.url}/v1", f"{azure.url}/v1")
    assert said == "Hello from here\n"


def test_the_quick_start_is_short():
    """Fifteen lines, and those between them."""
    assert len([line for line in QUICK_START.splitlines() if line]) <= 15


def test_the_quick_start_says_that_nobody_is_there(as_a_user, one_real):
    """Where both circuits are open the error says so."""
    with llm_server() as openai, llm_server() as azure:
        trip_both(one_real)
        said = as_a_user(QUICK_START, f"{openai.url}/v1", f"{azure.url}/v1", fails=True)
    assert "NoProviderAvailable: no provider available for model 'gpt-4o': openai: circuit open until" in said


def trip_both(one_real):
    """openai and azure are open in the fleet's records."""
    with connect(one_real.url) as client:
        store = RedisStore(client, "rr", "test")
        for name in ("openai", "azure"):
            health = store.register(Provider(name, ("gpt-4o",)), CircuitConfig()).health
            assert health is not None
            recorded(store, name, 1, *[result(name, False, generation=health.generation)] * 5)


def test_the_request_page_begins_with_lines_that_run(as_a_user, one_real):
    """An answer, and the reasons where there is none."""
    with llm_server() as openai, llm_server() as azure:
        urls = (f"{openai.url}/v1", f"{azure.url}/v1")
        assert as_a_user(REQUEST, *urls) == "Hello from here\n"
        trip_both(one_real)
        assert "ROUTER_NO_PROVIDER_AVAILABLE" in as_a_user(REQUEST, *urls)


def test_the_asyncio_lines_run(as_a_user):
    """With the SDK's asynchronous client."""
    with llm_server() as openai:
        code = f"{ASYNCIO}\n\nimport asyncio\n\nprint(asyncio.run(main()))\n"
        assert as_a_user(code, f"{openai.url}/v1") == "Hello from here\n"


def test_quick_starts_and_examples_are_typed(tmp_path):
    """mypy --strict as they stand: `attempt.provider.client` is the SDK's client."""
    begin = "        with attempt:  # times"
    assert begin in QUICK_START
    reveal = QUICK_START.replace(begin, f"        reveal_type(attempt.provider.client)\n{begin}")
    (tmp_path / "sync.py").write_text(reveal)
    (tmp_path / "request.py").write_text(REQUEST)
    (tmp_path / "asynchronous.py").write_text(ASYNCIO)
    examples = {*(ROOT / "examples").glob("*.py")} - {ROOT / "examples" / name for name in RECIPES}
    files = [*sorted(tmp_path.glob("*.py")), *sorted(examples)]
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'Revealed type is "openai._client.OpenAI"' in done.stdout


def test_the_worker_leads(one_real):
    """By the command as printed; only the address and the port are ours."""
    name, *options = WORKER.replace(URL, patient(one_real.url)).split()
    assert name == "redis-router"
    command = [sys.executable, "-m", "redis_router", *options, "--metrics-port", "0", "--name", "readme"]
    worker = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        with connect(one_real.url) as client:
            store = RedisStore(client, "rr", "test")
            eventually(lambda: (held := store.leader()[1]) and held.worker == "readme", "it leads", 40)
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.communicate(timeout=20)[0] is None
    assert worker.returncode == 0


@pytest.mark.parametrize(("retries", "answered_by"), [(0, "second"), (2, "first")])
def test_retries_of_an_sdk_cost_what_the_page_says(one_real, retries, answered_by):
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
