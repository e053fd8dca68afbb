"""docs/litellm.md: its quick starts run as printed, the Router's and the proxy's; its settings are those of LiteLLM."""

import importlib.util
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError

import pytest

from redis_router import Operator
from redis_router.store.connect import connect
from redis_router.store.redis import RedisStore
from redis_router.testing.server import free_port
from tests.docs.conftest import THEIRS, URL, forget, patient
from tests.support import eventually
from tests.support.documents import ROOT, rows, section, snippet
from tests.support.http import llm_server

ROUTER = snippet("docs/litellm.md", "import asyncio")
CALLBACK = snippet("docs/litellm.md", "breaker = FleetBreaker")
CONFIG = snippet("docs/litellm.md", "litellm_settings:")
COMMAND = snippet("docs/litellm.md", "litellm --config")
MESSAGE = snippet("docs/litellm.md", "no deployment available")
ASKED_FOR = os.environ.get("REDIS_ROUTER_NEEDS_LITELLM", "")
"""Where this is set a part that is missing is a failure: see .ci/run."""
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no download at import
KEY = "sk-of-the-tests-0123456789abcdef"
QUESTION = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello?"}]}


@pytest.fixture(autouse=True)
def _litellm_is_there():
    if not importlib.util.find_spec("litellm"):
        (pytest.fail if ASKED_FOR else pytest.skip)("pip install -e '.[litellm]'")


@pytest.fixture
def servers():
    """The two providers of the page."""
    with llm_server() as openai, llm_server() as azure:
        yield openai, azure


@pytest.fixture
def ours(one_real, servers):
    """A snippet with our addresses in place of the page's."""

    def put(text):
        for theirs, server in zip(THEIRS, servers, strict=True):
            text = text.replace(theirs, f"{server.url}/v1")
        return text.replace(URL, patient(one_real.url))

    yield put
    forget(one_real.url)


def environment():
    return {
        **os.environ,
        "OPENAI_API_KEY": "none",
        "AZURE_API_KEY": "none",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": KEY,
        "PYTHONPATH": str(ROOT),
    }


def test_the_routers_quick_start_runs(tmp_path, servers, ours):
    """As printed, while one of the two deployments is down."""
    servers[0].faults.extend([(503, {})] * 10)
    (tmp_path / "snippet.py").write_text(ours(ROUTER))
    command = [sys.executable, str(tmp_path / "snippet.py")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=90)
    assert done.stdout == "Hello from here\n", done.stderr
    assert "went on without" not in done.stderr


@contextmanager
def proxy(folder):
    """The command of the page, on a free port; its URL."""
    command, port = shlex.split(COMMAND), free_port()
    command[0] = str(Path(sys.executable).with_name(command[0]))
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: process.poll() is not None or is_up(url), "the proxy is up", timeout=90)
        said = (folder / "log").read_text()
        if process.poll() is not None and "litellm[proxy]" in said and "[proxy]" not in ASKED_FOR:
            pytest.skip("the proxy of this LiteLLM is not installed: pip install 'litellm[proxy]'")
        assert process.poll() is None, said
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_up(url):
    with suppress(OSError), urllib.request.urlopen(f"{url}/health/liveliness", timeout=5) as answer:
        return answer.status == 200
    return False


def ask(url, **more):
    """Status, headers and body."""
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps({**QUESTION, **more}).encode(),
        {"content-type": "application/json", "authorization": f"Bearer {KEY}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read().decode()


def test_the_proxys_quick_start_runs(tmp_path, servers, ours, one_real):
    """The real process: one deployment fails until its circuit is open; then somebody drains the other."""
    openai = servers[0]
    openai.faults.extend([(503, {})] * 100)
    (tmp_path / "fleet.py").write_text(ours(CALLBACK))
    (tmp_path / "config.yaml").write_text(ours(CONFIG))
    with ExitStack() as stack, Operator(patient(one_real.url)) as operator, connect(one_real.url) as client:
        store = RedisStore(client, "rr", "test")
        url = stack.enter_context(proxy(tmp_path))

        def opened():
            assert ask(url)[0] == 200
            return store.snapshot(["openai"]).records["openai"].circuit_state == "open"

        eventually(opened, "the circuit is open", timeout=60)
        failed = len(openai.asked)
        for stream in (False, True):
            for _ in range(5):
                status, _, body = ask(url, stream=stream)
                assert status == 200
                assert "Hello" in body
        assert len(openai.asked) == failed
        operator.drain("azure", reason="maintenance")
        status, headers, body = eventually(lambda: (said := ask(url))[0] != 200 and said, "nobody is left")
        assert status == 503
        assert re.search(r"no deployment available for model 'gpt-4o': .*openai: circuit open until", body)
        assert "maintenance" in body
        assert 0 < int({name.lower(): value for name, value in headers.items()}["retry-after"]) <= 60
    assert "LiteLLM goes on without it" not in (tmp_path / "log").read_text()


def test_the_message_is_what_users_read():
    """In the words of the code."""
    from redis_router.integrations.litellm import NobodyAvailable

    reasons = dict(re.findall(r"(\w+): ((?:circuit|cooling)[^;]*(?:; last[^;]*)?\))(?:;| \(retry)", MESSAGE))
    assert reasons.keys() == {"openai", "azure"}
    assert NobodyAvailable("gpt-4o", reasons, 9.6).message == MESSAGE.rstrip()


def test_its_settings_are_litellms():
    """Each name in the table's first column is a parameter of its Router, or one of the proxy's."""
    import litellm

    names = {
        name for row in rows(section("docs/litellm.md", "Each setting")) for name in re.findall(r"`(\w+)`", row[0])
    }
    known = set(inspect.signature(litellm.Router.__init__).parameters) | {"rpm", "tpm", "health_check_interval"}
    assert len(names) > 15
    assert names <= known
