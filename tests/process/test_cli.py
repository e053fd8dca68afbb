"""`redis-router` on a terminal that lacks characters, and for a reader that leaves; its pages under slow clients."""

import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from contextlib import ExitStack, closing
from dataclasses import replace
from types import SimpleNamespace

import pytest

from redis_router import CircuitConfig, InvalidArgument, Provider
from redis_router.cli import status
from redis_router.worker import endpoints
from redis_router.worker.endpoints import Endpoints
from tests.support import eventually, recorded, result

ASCII = [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]


def run(*command, env=None, **streams):
    """A command that ends by itself: its exit code, and what it said."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    done = subprocess.run(
        [sys.executable, "-m", "redis_router", *command], timeout=60, env={**os.environ, **(env or {})}, **pipes
    )
    return done.returncode, (done.stdout or b"").decode(), (done.stderr or b"").decode()


@pytest.fixture
def store(one_real):
    """With two providers, one of them with a model that no ASCII terminal can show."""
    store = one_real.store("gw")
    store.register(Provider("openai", ("gpt-4o", "modèle → 模型")), CircuitConfig(consecutive_failure_limit=1))
    store.register(Provider("azure", ("m",)), CircuitConfig())
    return store


@pytest.fixture
def deaf():
    """The writing end of a pipe whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


COMMANDS = [
    ("status",),
    ("status", "--json"),
    ("status", "openai"),
    ("replicas",),
    ("doctor",),
    ("doctor", "--json"),
    ("purge",),
    ("purge", "--all"),
    ("worker", "--once"),
    ("worker", "--help"),
    ("status", "--no-such-option"),
    ("worker", "--interval", "-1"),
]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_reader_that_leaves(base, store, deaf, command, stream):
    """`redis-router status | head -1`: no traceback, and the exit code tells what it always does."""
    expected = run(*command, *base)[0]
    code, said, errors = run(*command, *base, **{stream: deaf})
    assert code == expected
    assert "Traceback" not in said + errors
    assert "Broken" not in said + errors


def test_a_purge_goes_on_without_a_reader(base, one_real, store, deaf):
    """What is removed does not depend on who looks on."""
    assert store.specs()
    assert run("purge", "--all", "--yes", *base, stdout=deaf) == (0, "", "")
    assert one_real.client().keys(f"{one_real.namespace}:*") == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_output_that_cannot_be_written_is_named(base, store):
    """A full disk: exit 2, and nothing is removed that nobody could read of."""
    with open("/dev/full", "wb") as full:
        code, _, errors = run("purge", "--all", "--yes", *base, stdout=full)
    assert code == 2
    assert "cannot write" in errors
    assert "Traceback" not in errors
    assert store.specs()


@pytest.mark.parametrize("env", ASCII, ids=["PYTHONIOENCODING", "LC_ALL"])
def test_a_terminal_of_ascii(base, one_real, store, env):
    """What it cannot show is shown as an escape."""
    code, said, errors = run("status", *base, env=env)
    assert (code, errors) == (0, "")
    assert r"mod\xe8le \u2192 \u6a21\u578b" in said
    assert json.loads(run("status", "--json", *base, env=env)[1])["providers"]["openai"]["models"][1] == "modèle → 模型"
    for command in (("worker", "--help"), ("purge", "--all", *base), ("worker", "--once", *base)):
        code, said, errors = run(*command, env=env)
        assert code == 0, errors
        assert "Traceback" not in errors
        assert "Logging error" not in errors


@pytest.mark.parametrize("env", ASCII, ids=["PYTHONIOENCODING", "LC_ALL"])
def test_log_lines_are_ascii(one_real, env):
    """A gateway may log to stdout, and to files: settings that differ are told all the same."""
    code = (
        "import logging, sys; logging.basicConfig(stream=sys.stdout, level='INFO'); from redis_router import *\n"
        f"url, namespace = {one_real.url!r}, {one_real.namespace!r}\n"
        "for limit in (3, 7):\n"
        "    with Router(url, namespace=namespace, circuit=CircuitConfig(consecutive_failure_limit=limit)) as r:\n"
        "        r.register_provider(Provider('openai', ('m',), weight=limit)); assert r.flush()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env={**os.environ, **env}, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b"Logging error" not in done.stderr
    assert b"consecutive_failure_limit 3 -> 7" in done.stdout


def test_only_an_unreadable_record(base, one_real, store):
    """It is no empty namespace: the table and the JSON name it, and say why."""
    store.deregister("azure")
    one_real.client().hset(store.keys.health("openai"), "circuit_state", "ajar")
    code, said, _ = run("status", *base)
    assert code == 1
    assert "no provider is registered" not in said
    assert "'openai'" in said
    code, said, _ = run("status", "--json", *base)
    assert code == 1
    assert "ajar" in json.loads(said)["unreadable"]["openai"]


def test_status_shows_overrides(base, store):
    """Who said so, and for how long; of the weight beside the weight; what is over, no more."""
    store.override("openai", "drain", 1_800_000, 0, "alice", "maintenance")
    store.override("openai", "weight", 0, 0.5, "bob", "")
    store.override("azure", "observe", 1, 0, "alice", "")
    eventually(lambda: "observe" not in run("status", *base)[1])
    _, said, _ = run("status", *base)
    assert re.search(r"drain by alice, (30|29) min left", said)
    assert "0.5 by bob, for ever" in said
    store.update("openai", {"available": "0"})
    assert "no (operator)" in run("status", *base)[1]


def test_a_provider_that_is_deregistered_at_this_moment(store):
    """Its entry is gone, and its record is not yet."""
    snapshot = replace(store.snapshot(), specs={})
    assert json.loads(status.as_json(snapshot, None, {}))["providers"]["openai"]["models"] == []
    assert "openai" in status.as_table(snapshot, None)


def test_a_question_is_one_line(base, one_real, store):
    """Whatever a hand wrote as a model."""
    evil = json.dumps({"models": ["m\nazure: no override; the rules decide"]})
    one_real.client().hset(store.keys.providers, "azure", evil)
    code, said, errors = run("drain", "azure", *base, stdin=subprocess.DEVNULL)
    assert (code, said, len(errors.splitlines())) == (2, "", 1)


def test_status_shows_what_is_printable(base, one_real, store):
    """Whatever a hand wrote into a record: no escape sequence reaches the terminal, and no line is forged."""
    evil = "\x1b[2J\x07\u202egpj\nazure  open\r\x9b"
    client = one_real.client()
    recorded(store, "openai", 1, result("openai", False))
    for field in ("open_reason", "last_failure"):
        client.hset(store.keys.health("openai"), field, evil)
    client.hset(store.keys.health("azure"), "circuit_state", evil)
    client.hset(store.keys.leader, mapping={"worker": evil, "epoch": 1, "since_ms": 1, "until_ms": 2})
    client.hset(store.keys.providers, "azure", json.dumps({"models": [evil, 7]}))
    client.hset(store.keys.providers, evil, json.dumps({"models": ["m"]}))
    client.hset(store.keys.health(evil), "circuit_state", evil)
    code, said, errors = run("status", *base)
    assert code == 1
    assert errors == ""
    lines = said.splitlines()
    assert all(line.isprintable() for line in lines), lines
    assert lines[4].split()[:2] == ["openai", "open"]
    assert r"\x1b[2J\x07\u202egpj\nazure  open\r\x9b" in lines[4]
    for command in (("purge", "--unused-for", "7d"), ("purge", "--all")):
        assert all(line.isprintable() for line in run(*command, *base)[1].splitlines())


# The pages


@pytest.fixture
def pages():
    """On 127.0.0.1, or the host asked for."""
    with ExitStack() as stack:

        def make(host="127.0.0.1"):
            made = Endpoints(host, 0, SimpleNamespace(alive=True, redis_up=True, is_leader=True))
            return stack.enter_context(closing(made))

        yield make


def get(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.status, answer.read().decode().strip()


def serving():
    return [each for each in threading.enumerate() if "process_request" in each.name]


def ended(client):
    """Was this connection cut?"""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True
    except BlockingIOError:
        return False


def silent(client):
    """Connects, and that was it."""


def dripping(client):
    """A byte of a header now and then."""
    try:
        client.send(b"GET /healthz HTTP/1.1\r\nX: " if not hasattr(client, "began") else b"x")
    except (BrokenPipeError, ConnectionResetError):
        return
    client.began = True


class Client(socket.socket):
    """That takes notes."""


@pytest.mark.parametrize("how", [silent, dripping])
def test_slow_clients_are_cut_off(pages, monkeypatch, capfd, how):
    """Fifty of them: the worker is healthy all the same, and no thread stays with them."""
    monkeypatch.setattr(endpoints, "PATIENCE", 1.0)
    served = pages()
    with ExitStack() as stack:
        clients = [stack.enter_context(Client()) for _ in range(50)]
        for client in clients:
            client.connect(("127.0.0.1", served.port))
            client.setblocking(False)
            how(client)
        assert get(f"{served.url}/healthz") == (200, "alive")
        left = set(clients)

        def cut():
            for client in list(left):
                how(client)
                if ended(client):
                    left.remove(client)
            return not left

        eventually(cut, "all are cut off")
        eventually(lambda: not serving(), "no thread stays")
        assert get(f"{served.url}/healthz") == (200, "alive")
    assert capfd.readouterr().err == ""


def too_much(environ, start_response):
    """More than the buffers between two sockets take."""
    start_response("200 OK", [])
    return [b"x" * 50_000_000]


def test_a_client_that_reads_nothing_is_cut_off(pages, monkeypatch):
    """It asked, and does not take the answer."""
    monkeypatch.setattr(endpoints, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(endpoints, "make_wsgi_app", lambda registry: too_much)
    served = pages()
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.send(b"GET /metrics HTTP/1.0\r\n\r\n")
        eventually(serving, "it is served")
        eventually(lambda: not serving(), "and cut off")


def test_the_number_of_threads_is_bounded(pages, monkeypatch):
    """The oldest connection gives way: a flood ends no health check."""
    monkeypatch.setattr(endpoints, "MOST_CONNECTIONS", 10)
    served = pages()
    with ExitStack() as stack:
        for number in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            if number % 10 == 0:
                assert get(f"{served.url}/healthz") == (200, "alive")
        eventually(lambda: len(serving()) <= 10, "no more threads than connections may be open")


def test_a_client_that_hangs_up_is_no_news(pages, capfd):
    """A port scanner's reset leaves no traceback in the worker's log."""
    served = pages()
    for begun in (b"", b"GET /metrics HT"):
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            eventually(serving)
            client.send(begun)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        eventually(lambda: not serving())
    assert capfd.readouterr().err == ""


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_pages_by_ipv6(pages, host):
    """The address with or without brackets; the URL has them."""
    served = pages(host)
    assert served.url == f"http://[::1]:{served.port}"
    assert get(f"{served.url}/healthz") == (200, "alive")


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_a_worker_by_ipv6(base):
    """Its log shows a URL that can be opened."""
    command = [sys.executable, "-m", "redis_router", "worker", *base, "--metrics-host", "::1", "--metrics-port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        url = next(found[0] for line in process.stderr if (found := re.search(r"http://\[::1\]:\d+/metrics", line)))
        assert get(url)[0] == 200
        process.terminate()
        process.stderr.read()
        assert process.wait(20) == 0


@pytest.mark.parametrize("host", ["::g", "no such host", "203.0.113.7"])
def test_an_address_that_cannot_be_bound_is_named(pages, host):
    """With the remedy."""
    with pytest.raises(InvalidArgument, match="--metrics-host"):
        pages(host)
