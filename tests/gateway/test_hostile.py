"""Clients and providers that nobody would invent, byte by byte; and files that would open what was closed."""

import json
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest
import yaml

from tests.gateway.conftest import KEYS
from tests.support import eventually
from tests.support.gateways import KEY, GatewayProcess, entry, write
from tests.support.http import openai_answer

CHAT = "/v1/chat/completions"
QUESTION = {"messages": [{"role": "user", "content": "Hello?"}]}
CONTENT = json.dumps(openai_answer()).encode()
JSON = b"content-type: application/json\r\n"
EVENT = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'


def raw_answer(status, headers=JSON, content=CONTENT, length=None):
    length = len(content) if length is None else length
    return b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n%b" % (status, headers, length, content)


@pytest.fixture
def answering(started, tmp_path):
    """Starts a gateway, whose only provider answers each request with the same bytes and hangs up."""
    servers = []

    def start(said, *, reads_all=True):
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                seen = connection.recv(65536)
                while reads_all and not seen.endswith(b"}"):
                    seen += connection.recv(65536)
                connection.sendall(said)
                if reads_all:
                    connection.close()
                else:
                    servers.append(connection)

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        path = write(tmp_path / "config.yaml", [entry("a", "one", url)], gateway_settings={"keys": KEYS})
        return started(path, "--drain-seconds", "0")

    yield start
    for server in servers:
        server.close()


def has_no_traceback(gateway):
    return not any("Traceback" in line or "uvicorn" in line for line in gateway.log)


# What providers answer


@pytest.mark.parametrize("status", [b"999 Odd", b"600 Odd", b"101 Switching Protocols"])
def test_a_status_that_cannot_be_passed_on_is_a_failure(answering, status):
    gateway = answering(raw_answer(status))
    answer = gateway.ask(CHAT, json={**QUESTION, "model": "a"})
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "ROUTER_PROVIDER_FAILED"
    eventually(lambda: 'failures_total{provider="one",reason="connection"} 1.0' in gateway.ask("/metrics").text)
    assert has_no_traceback(gateway)


@pytest.mark.parametrize(
    "said",
    [
        raw_answer(b"200 Pr\xe9t"),
        raw_answer(b"200 OK", JSON + b"x-ratelimit-a: 1\x012\r\n"),
        raw_answer(b"200 OK", JSON + b"x-ratelimit-a: 1\x7f2\r\n"),
    ],
    ids=["reason", "control", "delete"],
)
def test_an_answer_with_odd_bytes_in_its_head_is_one(answering, said):
    gateway = answering(said)
    answer = gateway.ask(CHAT, json={**QUESTION, "model": "a"})
    assert (answer.status_code, answer.json()) == (200, openai_answer())
    assert "x-ratelimit-a" not in answer.headers
    assert has_no_traceback(gateway)


@pytest.mark.parametrize("status", [400, 500])
@pytest.mark.parametrize("size", [2, 3 << 20])
def test_of_an_error_the_client_gets_what_there_is(answering, status, size):
    """Its body broke off, or is longer than what is kept of it."""
    gateway = answering(raw_answer(b"%d Sorry" % status, JSON, b"x" * size, length=max(size, 500)))
    answer = gateway.ask(CHAT, json={**QUESTION, "model": "a"})
    assert answer.status_code == status
    assert set(answer.text) == {"x"}
    assert answer.headers["x-redis-router-provider"] == "one"
    assert answer.headers["x-redis-router-attempts"] == "1"
    assert has_no_traceback(gateway)


def test_a_provider_cannot_say_who_it_is(answering):
    spoofed = b"x-redis-router-provider: evil key=admin\r\nx-redis-router-attempts: 99\r\n"
    gateway = answering(raw_answer(b"400 Bad", JSON + spoofed))
    answer = gateway.ask(CHAT, json={**QUESTION, "model": "a"})
    assert answer.headers.get_list("x-redis-router-provider") == ["one"]
    eventually(lambda: any("400" in line and "provider=one attempts=1" in line for line in gateway.log))
    assert not any("evil" in line for line in gateway.log)


@pytest.mark.parametrize("length", [None, 500], ids=["ends early", "breaks off"])
def test_a_stream_with_a_length_can_end_with_an_error(answering, length):
    gateway = answering(raw_answer(b"200 OK", b"content-type: Text/Event-Stream\r\n", EVENT, length))
    answer = gateway.ask(CHAT, json={**QUESTION, "model": "a", "stream": True})
    assert answer.content.startswith(EVENT)
    assert "stream_broke_off" in answer.text
    assert has_no_traceback(gateway)


def test_no_content_with_a_length(answering):
    gateway = answering(b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n")
    assert gateway.ask(CHAT, json={**QUESTION, "model": "a"}).status_code == 204
    assert has_no_traceback(gateway)


def test_what_a_provider_sends_in_place_of_http_is_told_to_no_client(answering):
    gateway = answering(raw_answer(b"200 OK", JSON + b"x-internal: my-secret" + b"x" * 20000 + b"\r\n"))
    answer = gateway.ask(CHAT, json={**QUESTION, "model": "a"})
    assert answer.status_code == 502
    assert "my-secret" not in answer.text
    assert "http://" not in answer.text


def test_an_answer_before_the_whole_question_was_read_is_whole(answering):
    """The client has it: nobody hung up."""
    gateway = answering(raw_answer(b"200 OK"), reads_all=False)
    answer = gateway.ask(CHAT, json={**QUESTION, "model": "a", "long": "x" * (20 << 20)})
    assert answer.json() == openai_answer()
    eventually(lambda: any(f"{CHAT} 200" in line for line in gateway.log))
    assert not any(" 499 " in line for line in gateway.log)


# What clients ask


def exchange(gateway, *parts, until=b"\r\n\r\n"):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as raw:
        for part in parts:
            raw.sendall(part)
        seen = b""
        while until not in seen and (part := raw.recv(65536)):
            seen += part
    return seen


@pytest.mark.parametrize("is_cut", [False, True])
def test_who_asks_for_http2_is_answered_in_http1(gateway, servers, model, is_cut):
    """As Java's client does with each request: its body must not be lost. Twice in one connection."""
    body = json.dumps({**QUESTION, "model": model("openai")}).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        f"HTTP2-Settings: AAMAAABk\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    for _ in range(2):
        assert exchange(gateway, *([head, body] if is_cut else [head + body])).startswith(b"HTTP/1.1 200 ")
    assert len(servers[0].asked) == 2
    assert not any("uvicorn" in line for line in gateway.log)


@pytest.mark.parametrize("first", [b"0\r\n", b"0\r\na: "], ids=["many", "one"])
def test_headers_after_the_body_have_an_end(gateway, first):
    """They are kept by nobody, and who sends more than a head may have is cut off. No key is needed to try."""
    resident = re.compile(r"VmRSS:\s+(\d+)")
    status = Path(f"/proc/{gateway.process.pid}/status")
    before = int(resident.search(status.read_text())[1])
    unit = b"ab: cdefghijk\r\n" * 4000 if first == b"0\r\n" else b"x" * 60000
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + first)
        with pytest.raises(OSError):  # noqa: PT012
            for _ in range(1000):
                raw.sendall(unit)
    assert int(resident.search(status.read_text())[1]) - before < 30_000


def test_a_head_may_follow_a_long_body_at_once(gateway, servers, model):
    """Pipelined: the bytes of the body are no part of the next head."""
    body = json.dumps({**QUESTION, "model": model("openai"), "long": "x" * 100_000}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    seen = exchange(gateway, head.encode() + body + b"GET /healthz HT", b"TP/1.1\r\nHost: x\r\n\r\n", until=b"alive")
    assert seen.count(b"HTTP/1.1 200") == 2


def test_half_of_an_emoji_reaches_the_provider(started, servers, tmp_path):
    """A text that was cut there; the provider has another name for the model, so that the body is written anew."""
    renamed = entry("a", "one", servers[0].url)
    renamed["litellm_params"]["model"] = "openai/theirs"
    gateway = started(write(tmp_path / "config.yaml", [renamed]), "--drain-seconds", "0")
    content = b'{"model": "a", "messages": [{"role": "user", "content": "cut \\ud83d"}]}'
    assert gateway.ask(CHAT, content=content).status_code == 200
    assert servers[0].asked[0] == {**json.loads(content), "model": "theirs"}


def test_a_header_in_any_encoding_is_passed_on(gateway, servers, model):
    asked = {**QUESTION, "model": model("openai")}
    for value in ("Zürich".encode(), b"Z\xfcrich"):
        assert gateway.ask(CHAT, json=asked, headers={b"x-team": value}).status_code == 200
    assert len(servers[0].asked) == 2


def test_a_time_that_is_too_short_is_the_clients_fault(gateway, servers, model):
    answer = gateway.ask(CHAT, json={**QUESTION, "model": "gpt-1"}, headers={"x-redis-router-deadline": "1e-9"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_header")


def test_nobody_is_sent_elsewhere(gateway):
    answer = gateway.ask(f"{CHAT}/", json=QUESTION, headers={"host": "evil.example"})
    assert answer.status_code == 404
    assert "location" not in answer.headers


# Who runs it


def test_a_file_without_keys_does_not_open_what_others_reach(started, servers, tmp_path):
    """127.1 is this machine, which the gateway does not know: it is a host as any other."""
    entries = [entry("a", "one", servers[0].url)]
    path = write(tmp_path / "config.yaml", entries, gateway_settings={"keys": KEYS})
    gateway = started(path, "--drain-seconds", "0", "--host", "127.1")
    write(path, entries)
    eventually(lambda: 'config_reloads_total{result="refused"} 1.0' in gateway.ask("/metrics").text)
    assert gateway.ask(CHAT, key=None, json={**QUESTION, "model": "a"}).status_code == 401
    assert gateway.ask(CHAT, json={**QUESTION, "model": "a"}).status_code == 200
    write(path, entries, gateway_settings={"allow_anyone": True})
    eventually(lambda: gateway.ask(CHAT, key=None, json={**QUESTION, "model": "a"}).status_code == 200)


def test_a_file_that_is_half_written_is_not_read(started, servers, tmp_path):
    """Its first half can be a file, too, which has no keys. It grows more often than it is looked at."""
    path = write(tmp_path / "config.yaml", [entry("a", "one", servers[0].url)], gateway_settings={"keys": KEYS})
    gateway = started(path, "--drain-seconds", "0")
    settings = yaml.safe_dump({"gateway_settings": {"keys": KEYS}})
    codes, until = [], time.monotonic() + 3
    with path.open("w") as file:
        file.write(yaml.safe_dump({"model_list": [entry("b", "one", servers[0].url)]}))
        while time.monotonic() < until:
            file.write("#\n")
            file.flush()
            codes.append(gateway.ask("/v1/models", key=None).status_code)
        file.write(settings)
    assert set(codes) == {401}
    eventually(lambda: gateway.ask("/v1/models").json()["data"][0]["id"] == "b")
    assert gateway.ask("/v1/models", key=None).status_code == 401


@pytest.mark.parametrize("option", ["--drain-seconds", "--end-seconds"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_an_end_that_does_not_come_is_refused(tmp_path, option, value):
    path = write(tmp_path / "config.yaml", [entry("a", "one", "http://127.0.0.1:9")])
    gateway = GatewayProcess(path, option, value)
    assert gateway.process.wait(20) == 2
    said = gateway.process.stderr.read()
    assert option in said
    assert "Traceback" not in said
    gateway.end()


def test_a_pipe_in_place_of_the_file_holds_nothing_up(started, servers, tmp_path):
    path = write(tmp_path / "config.yaml", [entry("a", "one", servers[0].url)])
    gateway = started(path, "--drain-seconds", "0")
    path.unlink()
    os.mkfifo(path)
    eventually(lambda: 'config_reloads_total{result="refused"}' in gateway.ask("/metrics").text)
    eventually(lambda: any("is a pipe" in line for line in gateway.log))
    assert gateway.end() == 0


def test_with_several_processes_each_request_has_its_line(started, servers, tmp_path):
    path = write(tmp_path / "config.yaml", [entry("a", "one", servers[0].url)])
    gateway = started(path, "--drain-seconds", "0", "--workers", "2")
    assert gateway.ask(CHAT, json={**QUESTION, "model": "a"}).status_code == 200
    eventually(lambda: any(f"{CHAT} 200" in line and "provider=one" in line for line in gateway.log))


def test_a_second_sigterm_reaches_all_processes(started, servers, tmp_path):
    path = write(tmp_path / "config.yaml", [entry("a", "one", servers[0].url)])
    gateway: GatewayProcess = started(path, "--drain-seconds", "300", "--workers", "2")
    gateway.process.send_signal(signal.SIGTERM)
    eventually(lambda: any("drains" in line for line in gateway.log))
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(20) == 0
    with pytest.raises(httpx.TransportError):
        gateway.http.get(f"{gateway.url}/healthz")
