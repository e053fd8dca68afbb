"""Each quick start in an environment of its own: the page's command installs, its text is a file in an empty folder.

Of the commands one thing is ours: they install a checkout, `-e .`, and here it is the wheel that is built of it, since
the folder is empty. Of the programs the addresses are ours. All that takes minutes and the package index, so it runs
where REDIS_ROUTER_FRESH is set: in .ci/run.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from redis_router.testing.server import free_port
from tests.docs.conftest import THEIRS, URL, forget, patient
from tests.support import eventually
from tests.support.documents import ROOT, command, consoles, snippet
from tests.support.http import ANSWER, LlmServer, llm_server

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not os.environ.get("REDIS_ROUTER_FRESH"), reason="REDIS_ROUTER_FRESH=1: it installs for minutes"
    ),
]
TEXT = "".join(ANSWER)
HELLO = '[{"role": "user", "content": "Hello?"}]'
AS_EVER = f'print(client.chat.completions.create(model="gpt-4o", messages={HELLO}).choices[0].message.content)\n'
ASYNC = f"""
import asyncio


async def main() -> None:
    said = await client.chat.completions.create(model="gpt-4o", messages={HELLO})
    print(said.choices[0].message.content)


asyncio.run(main())
router.close()
"""
CLAUDE = f'print(client.messages.create(model="claude", max_tokens=9, messages={HELLO}).content[0].text)\n'


@dataclass(frozen=True)
class Start:
    """A page's program: words that only it has, the command that installs, and what a reader writes below it."""

    page: str
    words: str
    install: str
    more: str = ""
    prints: str = f"{TEXT}\n"

    def __post_init__(self) -> None:
        command(self.page, self.install)
        self.program()

    def program(self) -> str:
        return snippet(self.page, self.words) + self.more


TRANSPORTS, RECIPES = "docs/transports.md", "docs/recipes.md"
SDKS = "pip install -e . openai anthropic"
STARTS = {
    "readme": Start("README.md", "from openai import OpenAI", "pip install -e '.[worker]' openai"),
    "requests": Start("docs/requests.md", "from openai import OpenAI", "pip install -e . openai"),
    "failover": Start(TRANSPORTS, "transport = failover(router, deadline=60.0", SDKS, ASYNC),
    "anthropic": Start(TRANSPORTS, "from anthropic import Anthropic", SDKS, f"{CLAUDE}router.close()\n"),
    "guard": Start(TRANSPORTS, "transport=guard(router", SDKS, f"{AS_EVER}router.close()\n"),
    "pydantic-ai": Start(
        RECIPES, "from pydantic_ai import Agent", "pip install -e . 'pydantic-ai-slim[openai]'", "", TEXT
    ),
    "langchain": Start(RECIPES, "import ChatOpenAI", "pip install -e . langchain-openai", "", TEXT),
    "llama-index": Start(
        RECIPES,
        "llama_index.llms.openai",
        "pip install -e . llama-index-llms-openai",
        "",
        f"It rains in Bergen.\n{TEXT}",
    ),
    "litellm": Start("docs/litellm.md", "import asyncio", "pip install -e '.[litellm]'"),
}
PROXY = command("docs/litellm.md", "pip install -e '.[litellm]' 'litellm[proxy]'")
GATEWAY = command("docs/gateway.md", "pip install -e '.[gateway]'")
GATEWAYS_SDKS = command("docs/gateway.md", "pip install openai anthropic")
MASTER_KEY = snippet("docs/litellm.md", "export LITELLM_MASTER_KEY")
DEMO = snippet("README.md", "redis-router demo")
WORKER = snippet("README.md", "redis-router worker")
TUTORIAL = "docs/tutorial.md"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (made,) = folder.glob("*.whl")
    return made


class Fresh:
    """An environment and an empty folder."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.bin, self.folder, self._wheel = folder / "venv" / "bin", folder / "empty", wheel
        self.folder.mkdir()
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        ours = {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME"}
        self.env = {name: value for name, value in os.environ.items() if name not in ours}
        self.env["PATH"] = f"{self.bin}:{self.env['PATH']}"

    def install(self, command: str) -> None:
        """What a page says, with the wheel in place of the checkout."""
        words = [word for word in shlex.split(command) if word != "-e"]
        assert any(re.match(r"\.(\[|$)", word) for word in words)
        command = shlex.join([re.sub(r"^\.(?=\[|$)", str(self._wheel), word) for word in words])
        self.run(command)

    def begin(self, command: str, **env: str) -> "subprocess.Popen[str]":
        """One that goes on; what it says is in the file `log`."""
        with (self.folder / "log").open("w") as log:
            return subprocess.Popen(
                [str(self.bin / (words := shlex.split(command))[0]), *words[1:]],
                cwd=self.folder, env={**self.env, **env}, stdout=log, stderr=log, text=True,
            )  # fmt: skip

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def run(self, command: str, **env: str) -> str:
        """In the folder; what it printed. An exit code that is not 0 is a failure."""
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env={**self.env, **env}, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def fresh(tmp_path: Path, wheel: Path) -> Fresh:
    return Fresh(tmp_path, wheel)


@pytest.fixture
def servers() -> Iterator[tuple[LlmServer, LlmServer]]:
    """In place of openai and azure, or the like: the first is down, both want the tool of the recipes."""
    with llm_server() as first, llm_server() as second:
        first.tool = second.tool = ("weather", {"city": "Bergen"})
        yield first, second


@pytest.fixture
def ours(one_real, servers) -> Iterator[Callable[[str], str]]:
    """A text with our addresses."""
    first, second = (server.url for server in servers)
    places = dict(zip(THEIRS, (f"{first}/v1", f"{second}/v1"), strict=True))
    places |= {"https://api.anthropic.com": first, "https://claude.example": second, URL: patient(one_real.url)}

    def put(text: str) -> str:
        for theirs, here in places.items():
            text = text.replace(theirs, here)
        return text

    yield put
    forget(one_real.url)


def keys(servers: tuple[LlmServer, LlmServer], redis: str) -> dict[str, str]:
    """What the pages tell to set; OPENAI_BASE_URL is for a program that leaves the SDK's own address."""
    first, second = (f"{server.url}/v1" for server in servers)
    names = ("OPENAI_API_KEY", "AZURE_API_KEY", "ANTHROPIC_API_KEY", "SECOND_API_KEY")
    return {
        **dict.fromkeys(names, "none"),
        "OPENAI_URL": first, "AZURE_URL": second, "OPENAI_BASE_URL": second, "REDIS_ROUTER_URL": patient(redis),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }  # fmt: skip


@pytest.mark.parametrize("name", STARTS)
def test_a_quick_start_works_in_a_fresh_environment(fresh, ours, servers, one_real, name):
    """Of the two providers the first is down, so that it fails over."""
    start = STARTS[name]
    servers[0].faults.extend([(503, {})] * 20)
    fresh.install(start.install)
    (fresh.folder / "main.py").write_text(ours(start.program()))
    said = fresh.run("python main.py", **keys(servers, one_real.url))
    assert said.strip() == start.prints.strip()
    assert servers[1].asked


def test_the_proxy_works_in_a_fresh_environment(fresh, ours, servers, one_real):
    """Its two files and its command; a question to it, while one deployment is down."""
    servers[0].faults.extend([(503, {})] * 20)
    fresh.install(PROXY)
    (fresh.folder / "fleet.py").write_text(ours(snippet("docs/litellm.md", "breaker = FleetBreaker")))
    (fresh.folder / "config.yaml").write_text(ours(snippet("docs/litellm.md", "litellm_settings:")))
    port, key = free_port(), fresh.run(f"{MASTER_KEY}printenv LITELLM_MASTER_KEY").strip()
    run = f"{snippet('docs/litellm.md', 'litellm --config').strip()} --host 127.0.0.1 --port {port}"
    proxy = fresh.begin(run, LITELLM_MASTER_KEY=key, **keys(servers, one_real.url))
    question = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello?"}]}
    try:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"

        def answered():
            assert proxy.poll() is None, fresh.log()
            with suppress(httpx.TransportError):
                return httpx.post(url, json=question, headers={"authorization": f"Bearer {key}"}, timeout=30)

        said = eventually(answered, "the proxy answers", 200)
        assert said.json()["choices"][0]["message"]["content"] == TEXT, fresh.log()
    finally:
        end(proxy)


def test_the_gateway_works_in_a_fresh_environment(fresh, ours, servers):
    """Its file and its commands, on a port of ours; then a reader's client, with the SDK that the page names."""
    servers[0].faults.extend([(503, {})] * 20)
    fresh.install(GATEWAY)
    text = snippet("docs/gateway.md", "model_list:").replace(
        "{model: openai/gpt-4o, ", "{model: openai/gpt-4o, api_base: 'https://api.openai.com/v1', "
    )
    text = ours(text.replace("https://example.openai.azure.com", servers[1].url))
    (fresh.folder / "config.yaml").write_text(text)
    secrets = dict.fromkeys(("OPENAI_API_KEY", "AZURE_API_KEY", "ANTHROPIC_API_KEY"), "none")
    said = [words for words, _ in consoles("docs/gateway.md")]
    check, serve = [words for words in said if words.startswith("redis-router gateway -c config.yaml")][:2]
    fresh.run(check, **secrets)
    port = free_port()
    gateway = fresh.begin(f"{serve} --port {port}", **secrets)
    try:
        eventually(lambda: gateway.poll() is not None or is_up(f"http://127.0.0.1:{port}/healthz"), "it is up", 60)
        fresh.run(GATEWAYS_SDKS)
        code = snippet("docs/gateway.md", "from openai import OpenAI").replace("127.0.0.1:4000", f"127.0.0.1:{port}")
        (fresh.folder / "ask.py").write_text(code)
        assert fresh.run("python ask.py") == f"{TEXT}\n", fresh.log()
    finally:
        end(gateway)


def is_up(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(url).is_success
    return False


def test_the_readmes_demo_works_in_a_fresh_environment(fresh):
    """The first command that a reader tries, as it is."""
    install, run = DEMO.strip().split(" && ")
    fresh.install(install)
    assert "every replica" in fresh.run(run)


def test_the_readmes_worker_works_in_a_fresh_environment(fresh, ours, one_real):
    """With the extra of the quick start it leads, on a port of ours."""
    fresh.install(STARTS["readme"].install)
    worker = fresh.begin(f"{ours(WORKER).strip()} --metrics-port 0")
    try:
        eventually(lambda: worker.poll() is not None or "leads" in fresh.log(), "it leads", 60)
    finally:
        end(worker)
    assert worker.returncode == 0, fresh.log()


def test_the_tutorial_works_in_a_fresh_environment(fresh, ours, one_real):
    """Its programs, with its first command; then its second one, for the worker."""
    first, second = (words for words, _ in consoles(TUTORIAL) if words.startswith("pip install"))
    fresh.install(first)
    for name, words in (
        ("first.py", "from redis_router import NoProviderAvailable"),
        ("gateway.py", "def tell"),
        ("fallback.py", "fallbacks="),
    ):
        (fresh.folder / name).write_text(snippet(TUTORIAL, words))
    assert "calls go to {'azure'}" in fresh.run("python first.py")
    assert fresh.run("python fallback.py") == "an answer of claude-sonnet\n"
    gateway = fresh.begin("python gateway.py memory://")
    (fresh.folder / "openai-is-down").touch()
    try:
        eventually(lambda: "openai: closed -> open" in fresh.log(), "it fails over", 60)
    finally:
        end(gateway, signal.SIGINT)
    fresh.install(second)
    worker = fresh.begin(f"redis-router worker --redis {shlex.quote(ours(URL))} --metrics-port 0")
    try:
        eventually(lambda: worker.poll() is not None or "leads" in fresh.log(), "it leads", 60)
    finally:
        end(worker, signal.SIGINT)
    assert "leads" in fresh.log()


def end(process: "subprocess.Popen[str]", how: signal.Signals = signal.SIGTERM) -> None:
    process.send_signal(how)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
