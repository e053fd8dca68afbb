"""The SDKs, unmodified, at a gateway whose providers misbehave."""

import json
import socket
import threading
import time

import httpx
import openai
import pytest

from tests.support import eventually
from tests.support.gateways import KEY, entry, write
from tests.support.http import ANSWER
from tests.support.sdks import SDKS, Sdk

TEXT = "".join(ANSWER)
FAULTS = [
    (503, {}), (429, {"retry-after": "20"}), (401, {}), (529, {}), (408, {}),
    (200, {"content-type": "text/html"}, "<html>"), (200, {}, {"error": {"message": "no capacity", "code": 502}}),
    (307, {"location": "http://127.0.0.1:9/v1"}), "reset", "garbage", "hang", "silent",
]  # fmt: skip
EARLY = ["cut_early", "overloaded_early", "empty", "keep_alive"]
QUESTION = {"messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 9}


def api_of(sdk):
    return "anthropic" if sdk.asks == "messages" else "openai"


@pytest.fixture(params=SDKS)
def sdk(request):
    made = Sdk(*SDKS[request.param])
    yield made
    made.close()


def client_of(sdk, gateway, **options):
    base = gateway.url if sdk.asks == "messages" else f"{gateway.url}/v1"
    return sdk.client(None, base_url=base, api_key=KEY, **options)


@pytest.mark.parametrize("stream", [False, True])
def test_an_sdk_is_answered(gateway, servers, sdk, model, stream):
    name = model(api_of(sdk))
    assert sdk.ask(client_of(sdk, gateway), stream, model=name) == TEXT
    assert [len(server.asked) for server in servers] == [1, 0]
    path, heads = servers[0].heads[0]
    assert path == {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}[sdk.asks]
    shown = heads.get("x-api-key") or heads["authorization"]
    assert shown.removeprefix("Bearer ") == f"key-of-{name}-first"
    assert KEY not in str(heads)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("stream", [False, True])
def test_what_fails_before_its_content_is_answered_by_the_next(gateway, servers, model, fault, stream):
    servers[0].faults.append(fault)
    name = model("openai")
    sdk = Sdk(*SDKS["chat-sync"])
    heads = {"x-redis-router-deadline": "1.5"} if fault in ("hang", "silent") else {}
    assert sdk.ask(client_of(sdk, gateway), stream, model=name, extra_headers=heads) == TEXT
    assert [len(server.asked) for server in servers] == [1, 1]
    sdk.close()


@pytest.mark.parametrize("fault", EARLY)
@pytest.mark.parametrize("which", ["chat-async", "messages-async"])
def test_so_is_a_stream(gateway, servers, model, fault, which):
    servers[0].faults.append(fault)
    sdk = Sdk(*SDKS[which])
    heads = {"x-redis-router-deadline": "1.5"} if fault == "keep_alive" else {}
    assert sdk.ask(client_of(sdk, gateway), True, model=model(api_of(sdk)), extra_headers=heads) == TEXT
    assert [len(server.asked) for server in servers] == [1, 1]
    sdk.close()


@pytest.mark.parametrize(
    ("which", "fault"),
    [
        ("chat-sync", "cut"), ("chat-async", "overloaded"), ("responses-async", "cut"), ("messages-sync", "cut"),
        ("messages-async", "overloaded"),
    ],
)  # fmt: skip
def test_a_stream_that_breaks_ends_with_an_error(gateway, servers, model, fault, which):
    """After its content nobody continues it, and the SDK raises: it isn't taken for a whole answer."""
    servers[0].faults.append(fault)
    sdk = Sdk(*SDKS[which])
    try:
        text = sdk.ask(client_of(sdk, gateway), True, model=model(api_of(sdk)))
    except sdk.module.APIError:
        assert [len(server.asked) for server in servers] == [1, 0]
    else:  # what breaks off at once can be seen before anything was passed on: then the second one answered
        assert (text, len(servers[1].asked)) == (TEXT, 1)
    sdk.close()


@pytest.mark.parametrize("which", ["chat-sync", "messages-async"])
def test_nobody_left(gateway, servers, model, which):
    """The SDK gets the last provider's word, and doesn't try again what was tried everywhere."""
    for server in servers:
        server.faults.append((503, {}))
    sdk = Sdk(*SDKS[which])
    with pytest.raises(sdk.module.InternalServerError):
        sdk.ask(client_of(sdk, gateway), model=model(api_of(sdk)))
    assert [len(server.asked) for server in servers] == [1, 1]
    sdk.close()


def test_tools_and_what_is_not_known_here_pass_through(gateway, servers, model):
    """The body is the provider's business: it arrives as it was sent, but for the model's name."""
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    asked = {**QUESTION, "model": model("openai"), "tools": [tool], "a_new_option": {"deep": [1, 2.5, None, "ü"]}}
    assert gateway.ask(json=asked).status_code == 200
    assert servers[0].asked == [asked]


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_through_it(gateway, servers, model, stream):
    servers[0].tool = ("weather", {"city": "Bern"})
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY)
    said = client.chat.completions.create(**QUESTION, model=model("openai"), tools=[tool], stream=stream)
    if stream:
        deltas = [call.function for each in said for call in each.choices[0].delta.tool_calls or ()]
        name, arguments = ("".join(getattr(each, part) or "" for each in deltas) for part in ("name", "arguments"))
    else:
        (call,) = said.choices[0].message.tool_calls
        name, arguments = call.function.name, call.function.arguments
    servers[0].tool = None
    client.close()
    assert (name, json.loads(arguments)) == ("weather", {"city": "Bern"})


def test_other_paths(gateway, servers, model):
    for path in ("/v1/embeddings", "/v1/completions"):
        assert gateway.ask(path, json={"model": model("openai"), "input": "x"}).status_code == 200
        assert servers[0].heads[-1][0] == path


def test_a_client_that_hangs_up_ends_the_call(gateway, servers, model):
    """And says nothing about the provider."""
    name = model("openai")
    servers[0].faults.append("keep_alive")
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        body = json.dumps({**QUESTION, "model": name, "stream": True}).encode()
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s"
            % (KEY.encode(), len(body), body)
        )
        eventually(lambda: len(servers[0].asked) == 1)
    eventually(lambda: any(" 499 " in line for line in gateway.log))
    ignored = f'requests_total{{outcome="ignored",provider="{name}-first"}} 1.0'
    eventually(lambda: ignored in gateway.ask("/metrics").text)
    assert len(servers[1].asked) == 0


def test_what_trickles_reaches_the_client_as_it_comes(gateway, servers, model):
    servers[0].faults.append("slow")
    asked = {**QUESTION, "model": model("openai"), "stream": True}
    with gateway.http.stream(
        "POST", f"{gateway.url}/v1/chat/completions", json=asked, headers={"authorization": f"Bearer {KEY}"}
    ) as answer:
        assert answer.headers["x-redis-router-attempts"] == "1"
        parts = list(answer.iter_raw())
    assert len(parts) >= 3
    assert b"".join(parts).endswith(b"data: [DONE]\n\n")


def test_a_stream_may_pause_for_longer_than_its_content_may_take_to_begin(gateway, servers, model):
    servers[0].faults.append("paused")
    asked = {**QUESTION, "model": model("openai"), "stream": True}
    heads = {"authorization": f"Bearer {KEY}", "x-redis-router-first-token-timeout": "0.5"}
    with gateway.http.stream("POST", f"{gateway.url}/v1/chat/completions", json=asked, headers=heads) as answer:
        parts = answer.iter_raw()
        seen = [next(parts)]
        time.sleep(1)  # the pause itself
        servers[0].goes_on.set()
        seen += parts
    assert b"".join(seen).endswith(b"data: [DONE]\n\n")


def test_the_answer_says_who_and_how_often(gateway, servers, model):
    servers[0].faults.append((503, {}))
    name = model("openai")
    answer = gateway.ask(json={**QUESTION, "model": name}, headers={"x-request-id": "mine-1"})
    assert answer.headers["x-redis-router-provider"] == f"{name}-second"
    assert answer.headers["x-redis-router-attempts"] == "2"
    assert answer.headers["x-request-id"] == "mine-1"
    assert servers[1].heads[0][1]["x-request-id"] == "mine-1"


@pytest.mark.parametrize(("which", "marks"), [("chat", "[DONE]"), ("messages", "message_stop")])
def test_a_stream_that_ends_too_early_says_so(gateway, servers, model, which, marks):
    """It ended well, half way: what SDKs take for a whole answer."""
    servers[0].faults.append("short")
    path = "/v1/messages" if which == "messages" else "/v1/chat/completions"
    asked = {**QUESTION, "model": model("anthropic" if which == "messages" else "openai"), "stream": True}
    text = gateway.ask(path, json=asked).text
    assert marks not in text
    assert "stream_broke_off" in text.splitlines()[-2]


def test_half_an_answer_is_cut_off(started, tmp_path):
    """It must not look whole. It is the provider's failure: the log has a line of it, and no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as provider:
        gateway = started(write(tmp_path / "config.yaml", [entry("a", "one", f"http://127.0.0.1:{port_of(provider)}")]))

        def answer():
            connection, _ = provider.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 99999\r\n\r\nhalf")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(httpx.TransportError):
            gateway.ask(json={**QUESTION, "model": "a"})
        eventually(lambda: any("/v1/chat/completions 200" in line for line in gateway.log))
        failed = 'failures_total{provider="one",reason="connection"} 1.0'
        eventually(lambda: failed in gateway.ask("/metrics").text)
        assert not any("Traceback" in line or "uvicorn" in line for line in gateway.log)


def port_of(server):
    return server.getsockname()[1]


def test_a_client_that_leaves_with_the_whole_answer_did_not_hang_up(gateway, servers, model):
    """Sync SDKs close the connection at `[DONE]`, where the provider has not closed the answer yet."""
    servers[0].faults.append("lingers")
    name = model("openai")
    body = json.dumps({**QUESTION, "model": name, "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: left\r\nAuthorization: Bearer %s\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (KEY.encode(), len(body), body)
        )
        seen = b""
        while b"[DONE]" not in seen:
            seen += raw.recv(65536)
    eventually(lambda: any(line for line in gateway.log if " left " in line))
    (line,) = [line for line in gateway.log if " left " in line]
    assert " 200 " in line
    servers[0].goes_on.set()
