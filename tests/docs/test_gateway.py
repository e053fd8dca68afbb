"""docs/gateway.md: its quick start as a user follows it, and its tables against the code."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from redis_router.gateway import app, protocol, question, relay
from tests.support.documents import PAGES, consoles, rows, section, snippet
from tests.support.gateways import GatewayProcess
from tests.support.http import ANSWER, llm_server

PAGE = "docs/gateway.md"
TEXT = PAGES[PAGE]
FILE, OPENAI, ANTHROPIC = (snippet(PAGE, words) for words in ("model_list:", "from openai", "from anthropic"))
LINE = snippet(PAGE, "attempts=1")
INSTALL, CHECK, SERVE, NEW_KEY, SHARED, _, TRACED = (command for command, _ in consoles(PAGE))
KEYS = {"OPENAI_API_KEY": "openai's", "AZURE_API_KEY": "azure's", "ANTHROPIC_API_KEY": "anthropic's"}


def run(*command, **options):
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60, **options)


def names_in(heading):
    """What the first cells of a section's tables name."""
    return set(re.findall(r"`([^`]+)`", " ".join(row[0] for row in rows(section(PAGE, heading)))))


def told(command, file):
    """The arguments of one of the page's commands, with this file."""
    _, *arguments = shlex.split(command)
    return ["-m", "redis_router", *(str(file) if each == "config.yaml" else each for each in arguments)]


@pytest.fixture
def file(tmp_path):
    """The file of the quick start."""
    made = tmp_path / "config.yaml"
    made.write_text(FILE)
    return made


def test_the_file_is_in_order(file):
    checked = run(*told(CHECK, file), env=KEYS)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout == f"{file}: 3 providers, 2 models, 0 keys\n"
    assert run(*told(CHECK, file), env={}).returncode == 2


def test_the_quick_start(file, tmp_path):
    """Both clients get their answer; only the providers' addresses are others than in the page."""
    with llm_server() as provider:
        said = yaml.safe_load(file.read_text())
        for entry in said["model_list"]:
            of_openai = entry["litellm_params"]["model"].startswith("openai/")
            entry["litellm_params"]["api_base"] = provider.url + ("/v1" if of_openai else "")
        file.write_text(yaml.safe_dump(said))
        gateway = GatewayProcess(file, "--drain-seconds", "0", env=KEYS).wait_ready()
        for code in (OPENAI, ANTHROPIC):
            script = tmp_path / "ask.py"
            script.write_text(code.replace("127.0.0.1:4000", f"127.0.0.1:{gateway.port}"))
            asked = run(str(script))
            assert asked.stdout.strip() == "".join(ANSWER), asked.stderr
        assert gateway.end() == 0
    paths = {path for path, _ in provider.heads}
    azures = "/openai/deployments/my-deployment/chat/completions?api-version=2024-10-21"
    assert "/v1/messages" in paths
    assert paths <= {"/v1/messages", "/v1/chat/completions", azures}


def test_a_new_key_opens_the_gateway(file):
    """What the command prints goes into the file as it is."""
    made = run(*told(NEW_KEY, file))
    key, lines = made.stdout.strip(), made.stderr.partition("For the file:\n")[2]
    assert key not in lines
    with llm_server() as provider:
        said = yaml.safe_load(file.read_text())
        said["gateway_settings"] |= yaml.safe_load(lines)["gateway_settings"]
        said["model_list"][0]["litellm_params"]["api_base"] = f"{provider.url}/v1"
        file.write_text(yaml.safe_dump(said))
        gateway = GatewayProcess(file, "--host", "0.0.0.0", "--drain-seconds", "0", env=KEYS).wait_ready()
        codes = [gateway.ask("/v1/models", key=shown).status_code for shown in (key, "other", None)]
        assert codes == [200, 401, 401]
        assert gateway.end() == 0


def test_the_commands_are_the_gateways(file):
    """Those that serve differ from what the tests above start by the address alone."""
    assert INSTALL == "pip install -e '.[gateway]'"
    assert told(SERVE, file) == ["-m", "redis_router", "gateway", "-c", str(file)]
    gateway = GatewayProcess(file, *told(SHARED, file)[5:], "--redis", "memory://", "--host", "127.0.0.1", env=KEYS)
    assert gateway.wait_ready().end() == 0


def test_nobody_is_let_in_by_oversight(file):
    refused = run("-m", "redis_router", "gateway", "-c", str(file), "--host", "0.0.0.0", env=KEYS)
    assert refused.returncode == 2
    assert "--new-key" in refused.stderr


def test_the_paths_are_all_there():
    own = {"/v1/models", "/v1/models/{model}", "/healthz", "/readyz", "/metrics"}
    said = {name.removeprefix("POST ").removeprefix("GET ") for name in names_in("What it answers")}
    assert said == {*app.PATHS, *own}


def test_the_headers_are_those_of_the_code():
    listed = TEXT.partition("To a provider go its own key,")[2].partition(", and what")[0]
    assert set(re.findall(r"`([a-z-]+)`", listed)) == {name.decode() for name in question._FORWARDED}
    told = {question.DEADLINE, question.FIRST_TOKEN, question.REQUEST_ID, relay.UPSTREAM_ID}
    said = names_in("Headers")
    assert {name.decode() for name in told} <= said


def test_the_bounds_are_those_of_the_code():
    assert f"{protocol.MOST_HEAD >> 10} KiB, within {protocol.HEAD_SECONDS:.0f} s" in TEXT
    assert f"within {question.BODY_SECONDS:.0f} s" in TEXT
    assert f"takes nothing for {protocol.TAKE_SECONDS:.0f} s" in TEXT


def test_the_log_line_has_the_shape_that_is_shown(file):
    with llm_server() as provider:
        said = yaml.safe_load(file.read_text())
        said["model_list"] = said["model_list"][:1]
        said["model_list"][0]["litellm_params"]["api_base"] = f"{provider.url}/v1"
        file.write_text(yaml.safe_dump(said))
        gateway = GatewayProcess(file, "--drain-seconds", "0", env=KEYS).wait_ready()
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json={"model": "gpt-4o"}, trust_env=False)
        assert answer.status_code == 200
        assert gateway.end() == 0
    shown = re.sub(r"\d+ ms", "N ms", LINE.strip()).split(" ", 1)[1]
    written = [line for line in gateway.log if answer.headers["x-request-id"] in line][-1]
    host = provider.url.removeprefix("http://")
    written = re.sub(r"\d+ ms", "N ms", written.strip().partition(answer.headers["x-request-id"])[2].strip())
    assert written == shown.replace("team-a", "-").replace("openai/gpt-4o", f"openai/gpt-4o@{host}")


def test_a_trace_goes_where_the_launcher_sends_it(file, tmp_path):
    """Below the client's span; the command is the page's."""
    launcher, arguments = (
        shlex.split(TRACED.partition(" redis-router ")[0]),
        shlex.split(TRACED.partition(" redis-router ")[2]),
    )
    assert arguments == ["gateway", "-c", "config.yaml", "--otel"]
    before = [str(Path(sys.executable).parent / launcher[0]), *launcher[1:]]
    trace = "0af7651916cd43dd8448eb211c80319c"
    with llm_server() as provider, (tmp_path / "spans").open("w+") as spans:
        said = yaml.safe_load(file.read_text())
        said["model_list"] = said["model_list"][:1]
        said["model_list"][0]["litellm_params"]["api_base"] = f"{provider.url}/v1"
        file.write_text(yaml.safe_dump(said))
        gateway = GatewayProcess(
            file, "--otel", "--drain-seconds", "0", env=KEYS, before=before, out=spans
        ).wait_ready()
        heads = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        assert gateway.ask(json={"model": "gpt-4o", "stream": True}, headers=heads).status_code == 200
        assert gateway.end() == 0
        spans.seek(0)
        written = spans.read()
    assert "traceparent" not in provider.heads[0][1]
    found = [json.loads(each) for each in re.findall(r"^\{.*?^\}", written, re.M | re.S)]
    ours = {each["name"].split()[0]: each for each in found if "redis_router.outcome" in each["attributes"]}
    assert {each["context"]["trace_id"] for each in ours.values()} == {f"0x{trace}"}
    assert ours["request"]["parent_id"] == "0xb7ad6b7169203331"
    assert ours["attempt"]["parent_id"] == ours["request"]["context"]["span_id"]
