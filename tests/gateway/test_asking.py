"""What comes in: keys, bounds, headers; each over real HTTP."""

import gzip
import json
import socket
import threading
import time
from contextlib import suppress

import httpx
import pytest

from tests.support.gateways import KEY

QUESTION = {"messages": [{"role": "user", "content": "my-secret-prompt"}], "max_tokens": 9}
CHAT = "/v1/chat/completions"


def error_of(answer):
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize(
    ("heads", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"authorization": f"Bearer {KEY}x"}, 401),
        ({"authorization": f"bearer {KEY}"}, 200),
        ({"authorization": f"Bearer  {KEY}"}, 200),
        ({"x-api-key": KEY}, 200),
        ({"api-key": KEY}, 200),
    ],
)
def test_who_may_ask(gateway, servers, model, heads, status):
    answer = gateway.ask(CHAT, key=None, json={**QUESTION, "model": model("openai")}, headers=heads)
    assert answer.status_code == status
    assert len(servers[0].asked) == (status == 200)
    assert gateway.ask("/v1/models", key=None, headers=heads).status_code == status


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_who_watches_needs_no_key(gateway, path):
    assert gateway.ask(path, key=None).status_code == 200


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", (400, "invalid_json")),
        (b"{", (400, "invalid_json")),
        (b"\xff\xfe", (400, "invalid_json")),
        (b"[" * 100_000, (400, "invalid_json")),
        (b"[]", (400, "missing_model")),
        (b"{}", (400, "missing_model")),
        (b'{"model": 7}', (400, "missing_model")),
        (b'{"model": ""}', (400, "missing_model")),
        (b'{"model": "no-such-model"}', (404, "model_not_found")),
        (json.dumps({"model": "x" * 50_000}).encode(), (404, "model_not_found")),
        (b'{"model": "claude-0"}', (400, "wrong_api")),
        (b'{"model": "secret", "model": "gpt-0"}', (400, "invalid_json")),
        (b'{"model": "gpt-0", "\\u006dodel": "secret"}', (400, "invalid_json")),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_no_provider_can_be_asked(gateway, servers, content, expected):
    answer = gateway.ask(CHAT, content=content)
    assert error_of(answer) == expected
    assert len(answer.content) < 1000
    assert answer.headers["x-request-id"]
    assert servers[0].asked == servers[1].asked == []


def test_anthropics_errors_have_its_shape(gateway):
    answer = gateway.ask("/v1/messages", json={"model": "gpt-0"})
    assert (answer.status_code, answer.json()["type"]) == (400, "error")
    assert gateway.ask("/v1/messages", key="wrong", json={}).json()["error"]["type"] == "authentication_error"


def test_other_paths_and_methods(gateway):
    assert error_of(gateway.ask("/v1/files")) == (404, "not_found")
    assert error_of(gateway.ask(CHAT)) == (405, "method_not_allowed")


def test_the_models(gateway):
    listed = gateway.ask("/v1/models").json()
    names = [each["id"] for each in listed["data"]]
    assert "gpt-0" in names
    assert "claude-0" in names
    assert gateway.ask("/v1/models/gpt-0").json()["id"] == "gpt-0"
    assert error_of(gateway.ask("/v1/models/none")) == (404, "model_not_found")


def test_a_body_that_is_too_long(gateway, servers):
    """Said before it is read, or as soon as it is."""
    long = 33 << 20
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        raw.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode())
        raw.sendall(f"Content-Length: {long}\r\n\r\n".encode())
        assert b" 413 " in raw.recv(1000)

    def chunks():
        for _ in range(long >> 20):
            yield bytes(1 << 20)

    with suppress(httpx.TransportError):  # it stopped to listen while we sent
        assert gateway.ask(CHAT, content=chunks()).status_code == 413
    assert servers[0].asked == []
    assert gateway.ask("/healthz").status_code == 200


def test_a_head_without_an_end(gateway):
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        raw.sendall(f"GET /healthz HTTP/1.1\r\nHost: x\r\nx-long: {'x' * 70_000}".encode())
        assert b" 431 " in raw.recv(1000)
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        answer = b""
        try:
            for number in range(10_000):
                raw.sendall(f"x-{number}: y\r\n".encode())
            answer = raw.recv(1000)
        except OSError:
            return
        assert b" 431 " in answer


def test_a_head_that_trickles_is_cut_off(gateway):
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        began = time.monotonic()
        raw.sendall(b"GET /healthz HTTP/1.1\r\n")
        raw.settimeout(0.5)
        while time.monotonic() - began < 40:
            try:
                if raw.recv(100) == b"":
                    break
            except TimeoutError:
                raw.sendall(b"x: y\r\n")
            except OSError:
                break
        else:
            pytest.fail("it is still there")


def test_many_in_one_connection(gateway, servers, model):
    """Pipelined, a head cut anywhere."""
    name = model("openai")
    body = json.dumps({**QUESTION, "model": name}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    one = head.encode() + body
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        for at in range(0, len(one) * 3, 50):
            raw.sendall((one * 3)[at : at + 50])
        seen = b""
        raw.settimeout(10)
        while seen.count(b"HTTP/1.1 200") < 3:
            seen += raw.recv(65536)
    assert len(servers[0].asked) == 3


def test_compressed_bodies_are_refused(gateway):
    content = gzip.compress(json.dumps({**QUESTION, "model": "gpt-0"}).encode())
    answer = gateway.ask(CHAT, content=content, headers={"content-encoding": "gzip"})
    assert error_of(answer) == (415, "unsupported_encoding")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e9", "soon", "", "9" * 5000])
@pytest.mark.parametrize("name", ["x-redis-router-deadline", "x-redis-router-first-token-timeout"])
def test_times_that_are_none(gateway, servers, model, name, value):
    answer = gateway.ask(CHAT, json={**QUESTION, "model": "gpt-1"}, headers={name: value})
    assert error_of(answer) == (400, "invalid_header")
    assert name in answer.json()["error"]["message"]
    assert servers[0].asked == []


def test_a_deadline_by_header(gateway, servers, model):
    servers[0].faults.append("hang")
    servers[1].faults.append("hang")
    began = time.monotonic()
    answer = gateway.ask(CHAT, json={**QUESTION, "model": model("openai")}, headers={"x-redis-router-deadline": "0.6"})
    assert answer.status_code == 504
    assert time.monotonic() - began < 5


def test_a_first_token_timeout_by_header(gateway, servers, model):
    """It is for streams; the second provider answers in time."""
    servers[0].faults.append("keep_alive")
    asked = {**QUESTION, "model": model("openai"), "stream": True}
    answer = gateway.ask(CHAT, json=asked, headers={"x-redis-router-first-token-timeout": "0.4"})
    assert answer.text.endswith("data: [DONE]\n\n")
    assert [len(server.asked) for server in servers] == [1, 1]


def test_only_what_is_on_the_list_leaves_the_gateway(gateway, servers, model):
    sent = {
        "cookie": "session=secret", "x-forwarded-for": "10.1.2.3", "x-evil": "1", "x-team": "blue",
        "openai-organization": "org-1", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "connection": "x-team2", "x-team2": "hop", "x-api-key": KEY,
    }  # fmt: skip
    assert gateway.ask(CHAT, json={**QUESTION, "model": model("openai")}, headers=sent).status_code == 200
    _, heads = servers[0].heads[0]
    assert heads["x-team"] == "blue"
    assert (
        not {"cookie", "x-forwarded-for", "x-evil", "openai-organization", "x-team2", "x-api-key", "traceparent"}
        & heads.keys()
    )


def test_only_what_is_on_the_list_comes_back(gateway, servers, model):
    told = {
        "set-cookie": "session=secret", "server": "theirs", "x-request-id": "theirs",
        "x-ratelimit-remaining-requests": "7", "anthropic-ratelimit-requests-remaining": "8", "retry-after": "3",
    }  # fmt: skip
    for server in servers:
        server.faults.append((404, told))
    answer = gateway.ask(CHAT, json={**QUESTION, "model": model("openai")})
    assert answer.status_code == 404
    assert "set-cookie" not in answer.headers
    assert "server" not in answer.headers
    assert answer.headers["x-upstream-request-id"] == "theirs"
    assert answer.headers["x-request-id"] != "theirs"
    assert answer.headers["x-ratelimit-remaining-requests"] == "7"


@pytest.mark.parametrize("given", ["", "x" * 500, "a b", 'with"quote', "h\xe4h"])
def test_a_request_id_that_a_log_cannot_take_is_replaced(gateway, servers, model, given):
    answer = gateway.ask(CHAT, json={**QUESTION, "model": "gpt-2"}, headers={b"x-request-id": given.encode("latin-1")})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] not in (given, "")


def test_neither_bodies_nor_keys_are_logged(gateway, servers, model):
    name = model("openai")
    servers[0].faults.append((503, {}, {"error": {"message": "my-secret-answer"}}))
    assert (
        gateway.ask(CHAT, json={**QUESTION, "model": name}, headers={"cookie": "my-secret-cookie"}).status_code == 200
    )
    gateway.ask(
        f"{CHAT}?token=my-secret-query", json={**QUESTION, "model": name}, headers={"x-evil": "my-secret-header"}
    )
    gateway.ask(CHAT, key="my-secret-key", json={**QUESTION, "model": name})
    log = "".join(gateway.log)
    assert f"provider={name}-second" in log
    assert "my-secret" not in log
    assert KEY not in log
    assert "key-of-" not in log
    assert KEY not in gateway.ask("/metrics").text


def test_a_crowd(gateway, servers, model):
    """Two hundred at once are all answered."""
    asked, heads, codes = {**QUESTION, "model": model("openai")}, {"authorization": f"Bearer {KEY}"}, []

    def ask():
        answer = httpx.post(f"{gateway.url}{CHAT}", json=asked, headers=heads, timeout=60, trust_env=False)
        codes.append(answer.status_code)

    threads = [threading.Thread(target=ask) for _ in range(200)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert codes == [200] * 200


def test_a_model_may_be_spoken_of_elsewhere_in_the_body(gateway, servers, model):
    asked = {
        "model": model("openai"),
        "messages": [{"role": "user", "content": 'say "model"'}],
        "x": {"model": "\u00fc"},
    }
    assert gateway.ask(CHAT, content=json.dumps(asked)).status_code == 200
    assert servers[0].asked == [asked]


def test_a_header_that_comes_twice_is_one(gateway, servers, model):
    asked = {**QUESTION, "model": model("anthropic")}
    sent = [("authorization", f"Bearer {KEY}"), ("anthropic-beta", "one"), ("anthropic-beta", "two")]
    assert gateway.http.post(f"{gateway.url}/v1/messages", json=asked, headers=sent).status_code == 200
    assert servers[0].heads[0][1]["anthropic-beta"] == "one, two"
    twice = [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer other")]
    assert gateway.http.post(f"{gateway.url}{CHAT}", json=asked, headers=twice).status_code == 401
