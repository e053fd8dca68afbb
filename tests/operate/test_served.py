"""The page as a worker serves it: a real process, over real HTTP, and attacks on it."""

import http.client
import json
import socket
import time
import urllib.request
from contextlib import ExitStack, closing

import pytest

from redis_router import CircuitConfig, Operator, Provider
from redis_router.cli import main
from redis_router.operate.service import Service
from redis_router.operate.wsgi import WsgiPage
from redis_router.testing.server import EmbeddedServer
from redis_router.worker.endpoints import MOST_CONNECTIONS, Endpoints
from tests.operate.conftest import TOKEN
from tests.process.conftest import workers
from tests.support import eventually

__all__ = ["workers"]

BEARER = {"Authorization": f"Bearer {TOKEN}"}
DRAIN = {"provider": "openai", "action": "drain", "by": "alice", "reason": "slow"}
ENV = {"PAGE_TOKEN": TOKEN}


@pytest.fixture
def fleet(one_real):
    """Two providers."""
    store = one_real.store("gw-1")
    for name in ("openai", "azure"):
        store.register(Provider(name, ("gpt-4o",)), CircuitConfig())
    return one_real


@pytest.fixture
def worker(workers, fleet):
    """One with a token."""
    return workers("--page-token-env", "PAGE_TOKEN", env=ENV)


def ask(worker, method, path, body=None, *, raw=None, **headers):
    """Status, headers and body; header names with `_` for `-`."""
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if data is not None:
        sent.setdefault("Content-Type", "application/json")
    with closing(http.client.HTTPConnection("127.0.0.1", worker.port, timeout=20)) as connection:
        connection.request(method, path, data, sent)
        answer = connection.getresponse()
        text = answer.read().decode()
    is_json = answer.headers["Content-Type"] == "application/json"
    return answer.status, answer.headers, json.loads(text) if is_json and text else text


def drained(fleet):
    return fleet.record().override


def test_by_json_alone(worker, fleet):
    """An operator's evening: seen, drained with a reason, waited, back, and told next week."""
    status, _, found = ask(worker, "GET", "/api/v1/fleet")
    assert (status, {each["name"] for each in found["providers"]}) == (200, {"openai", "azure"})
    status, _, found = ask(worker, "POST", "/api/v1/actions", DRAIN, **BEARER)
    assert (status, found["providers"][0]["override"]["by"]) == (200, "alice")
    assert drained(fleet) == "drain"
    _, _, found = ask(worker, "GET", "/api/v1/providers/openai")
    assert (found["in_flight"], found["level"]) == (0, "held")
    assert ask(worker, "POST", "/api/v1/actions", {**DRAIN, "action": "ready"}, **BEARER)[0] == 200
    assert drained(fleet) == ""
    with Operator(fleet.client(), fleet.namespace) as operator:
        told = [(each.event, each.by, each.details.get("to")) for each in operator.events("openai")]
    assert told[-2:] == [("override", "alice", "drain"), ("override", "alice", "")]


def test_the_page_is_beside_the_metrics(worker):
    """With the headers of security; what was there before is as it was."""
    status, headers, text = ask(worker, "GET", "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "<title>redis_router</title>" in text
    assert worker.get("/healthz") == (200, "alive")
    assert "redis_router_leader" in worker.get("/metrics")[1]
    assert worker.get("/elsewhere")[0] == 404
    assert ask(worker, "GET", "/page.js")[1]["X-Content-Type-Options"] == "nosniff"


def test_a_get_changes_nothing(worker, fleet):
    """As a link in a mail would try it, with the token, too."""
    for path in (
        "/api/v1/actions?provider=openai&action=drain",
        "/api/v1/actions/drain/openai",
        "/drain?provider=openai",
    ):
        for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
            assert ask(worker, method, path, **BEARER)[0] in (404, 405, 501)
    assert drained(fleet) == ""


def test_nobody_acts_without_the_token(worker, fleet):
    """None, a wrong one, the wrong kind."""
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": TOKEN},
        {"Cookie": f"redis_router_page={TOKEN}"},
    ):
        assert ask(worker, "POST", "/api/v1/actions", DRAIN, **headers)[0] == 401
    assert drained(fleet) == ""


def session(worker):
    status, headers, found = ask(worker, "POST", "/api/v1/login", {"token": TOKEN})
    assert status == 200
    return headers["Set-Cookie"].partition(";")[0], found["csrf"]


def test_a_forged_request_of_another_site(worker, fleet):
    """The browser sends the cookie; the site knows no csrf, and the browser says where it comes from."""
    cookie, csrf = session(worker)
    forged = [
        {},
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"X_CSRF_Token": "guess"},
        {"X_CSRF_Token": csrf, "Origin": "http://evil.example"},
        {"X_CSRF_Token": csrf, "Sec_Fetch_Site": "cross-site"},
    ]
    for headers in forged:
        assert ask(worker, "POST", "/api/v1/actions", DRAIN, Cookie=cookie, **headers)[0] in (403, 415)
    assert drained(fleet) == ""
    assert ask(worker, "POST", "/api/v1/actions", DRAIN, Cookie=cookie, X_CSRF_Token=csrf)[0] == 200


def test_another_sites_name_for_this_machine(worker, fleet):
    """DNS rebinding: it reads nothing and does nothing; what Prometheus asks for does not look at names."""
    for path in ("/", "/api/v1/fleet", "/api/v1/stream"):
        assert ask(worker, "GET", path, Host="evil.example:9464")[0] == 421
    assert ask(worker, "POST", "/api/v1/actions", DRAIN, Host="evil.example:9464", **BEARER)[0] == 421
    assert ask(worker, "GET", "/metrics", Host="worker.monitoring.svc")[0] == 200
    assert drained(fleet) == ""


def test_a_name_that_was_given(workers, fleet):
    """Behind a name of one's own."""
    named = workers("--page-host", "ops.example.com")
    assert ask(named, "GET", "/api/v1/fleet", Host="ops.example.com")[0] == 200
    assert ask(named, "GET", "/api/v1/fleet", Host="other.example.com")[0] == 421


def test_guessing_is_slowed_down(worker):
    """Hundreds of guesses a second come to a few."""
    statuses = [ask(worker, "POST", "/api/v1/login", {"token": f"guess {n}"})[0] for n in range(30)]
    assert statuses[:10] == [401] * 10
    assert 429 in statuses
    assert statuses.count(401) < 30


@pytest.mark.parametrize("said", ["20000", "999999999999", "-5", "x", "1e3"])
def test_a_body_that_is_too_long(worker, said):
    """By what is announced: nothing of that size is read into memory."""
    with socket.create_connection(("127.0.0.1", worker.port), timeout=10) as client:
        client.sendall(f"POST /api/v1/actions HTTP/1.0\r\nContent-Length: {said}\r\n\r\n".encode() + b"x" * 20_000)
        client.shutdown(socket.SHUT_WR)
        assert b" 413 " in client.recv(4096).partition(b"\r\n")[0]


def test_half_a_body_is_no_action(worker, fleet):
    """Also where that half is an action: the client died before it had sent all that it announced."""
    body = b'{"provider": "openai", "action": "drain", "yes": true}'
    head = f"POST /api/v1/actions HTTP/1.0\r\nAuthorization: {BEARER['Authorization']}\r\nHost: localhost\r\n"
    with socket.create_connection(("127.0.0.1", worker.port), timeout=20) as client:
        client.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 200\r\n\r\n".encode() + body)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(65536).startswith(b"HTTP/1.0 408")
    assert not drained(fleet)


def test_paths_lead_nowhere_else(worker):
    """Files have names that are known beforehand."""
    for path in (
        "/../worker/endpoints.py",
        "/static/page.html",
        "/page.html",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/page.js/",
    ):
        assert ask(worker, "GET", path)[0] == 404


def test_what_came_from_outside_is_no_markup(worker, fleet):
    """A reason with a script is text in JSON, whose type no browser takes for a page."""
    nasty = "</script><script>alert(1)</script>"
    ask(worker, "POST", "/api/v1/actions", {**DRAIN, "reason": nasty}, **BEARER)
    _, headers, found = ask(worker, "GET", "/api/v1/fleet")
    assert headers["Content-Type"] == "application/json"
    assert found["providers"][0]["override"]["reason"] == nasty
    status, headers, found = ask(worker, "GET", "/api/v1/providers/%3Cscript%3E")
    assert (status, headers["Content-Type"], "<script>" in found["error"]["message"]) == (404, "application/json", True)


def test_without_a_token_one_looks(workers, fleet):
    """And hears what to do in order to act."""
    worker = workers()
    assert ask(worker, "GET", "/api/v1/fleet")[0] == 200
    status, _, found = ask(worker, "POST", "/api/v1/actions", DRAIN, **BEARER)
    assert (status, "--page-token-env" in found["error"]["message"]) == (403, True)
    assert ask(worker, "POST", "/api/v1/login", {"token": ""})[0] == 403


def test_on_an_address_that_others_reach(workers, fleet):
    """Nothing is shown without a token, and with one looking takes it; `open` shows it to all; `off` to nobody."""
    for options, path, status in (
        (("--metrics-host", "0.0.0.0"), "/api/v1/fleet", 404),
        (("--metrics-host", "0.0.0.0", "--page-token-env", "PAGE_TOKEN"), "/api/v1/fleet", 401),
        (("--metrics-host", "0.0.0.0", "--page-token-env", "PAGE_TOKEN"), "/", 200),
        (("--metrics-host", "0.0.0.0", "--page", "open"), "/api/v1/fleet", 200),
        (("--page", "off"), "/", 404),
    ):
        worker = workers(*options, env=ENV)
        assert ask(worker, "GET", path)[0] == status, options
        assert worker.get("/healthz") == (200, "alive")


def test_a_stream_does_not_take_what_scrapes_need(worker):
    """As many viewers as like to come: /metrics and /healthz are answered, and so is who only asks."""
    with ExitStack() as stack:
        for _ in range(MOST_CONNECTIONS - 4):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", worker.port), timeout=10))
            client.sendall(b"GET /api/v1/stream HTTP/1.0\r\n\r\n")
        for _ in range(5):
            assert worker.get("/healthz") == (200, "alive")
            assert worker.get("/metrics")[0] == 200
        assert ask(worker, "GET", "/api/v1/fleet")[0] == 200
        status, headers, _ = ask(worker, "GET", "/api/v1/stream")
        assert (status, headers["Retry-After"]) == (503, "5")


def test_streams_end_with_the_worker(worker):
    """SIGTERM: it exits 0 at once, whoever looks on."""
    with socket.create_connection(("127.0.0.1", worker.port), timeout=20) as client:
        client.sendall(b"GET /api/v1/stream HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.0 200")
        worker.process.terminate()
        assert worker.process.wait(20) == 0
        while client.recv(65536):
            pass


def test_a_viewer_that_does_not_read_is_cut_off(fleet, monkeypatch):
    """Its place is free again, and no thread stays with it."""
    from types import SimpleNamespace

    from redis_router.worker import endpoints

    monkeypatch.setattr(endpoints, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr("redis_router.operate.stream.LASTS_SECONDS", 1000.0)
    service = Service(fleet.url, fleet.namespace, token=None, open_to_look=True, streams=1)
    checker = SimpleNamespace(alive=True, redis_up=True, is_leader=True)
    with ExitStack() as stack:
        stack.enter_context(closing(service))
        served = stack.enter_context(closing(Endpoints("127.0.0.1", 0, checker, WsgiPage(service))))
        client = stack.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=20))
        client.sendall(b"GET /api/v1/stream HTTP/1.0\r\n\r\n")
        assert client.recv(20)
        eventually(service._places.take, "the place is free")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--page-token-env", "NOWHERE_SET"], "--page-token-env NOWHERE_SET: the environment has no such variable"),
        (["--page-token-env", "SHORT"], "the token in $SHORT is not usable (5 characters)"),
    ],
)
def test_a_token_that_is_none(monkeypatch, capsys, options, words):
    """Exit 2 before anything begins; the token is not shown."""
    monkeypatch.setenv("SHORT", "hello")
    assert main(["worker", *options]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "hello" not in said


def test_the_token_stands_in_no_argument_and_no_log(worker):
    """Process lists show arguments."""
    assert TOKEN not in " ".join(worker.process.args)
    ask(worker, "POST", "/api/v1/login", {"token": TOKEN})
    worker.process.terminate()
    assert TOKEN not in worker.process.stderr.read() + "".join(worker.log)


def test_without_redis_the_page_says_so(workers, one_real):
    """It is there, with the error, and works when Redis is."""
    with EmbeddedServer() as server:
        server.stop()
        worker = workers("--lease", "1", url=server.url)
        status, _, found = ask(worker, "GET", "/api/v1/fleet")
        assert (status, found["error"]["code"], found["now_ms"]) == (503, "ROUTER_REDIS_UNAVAILABLE", None)
        assert ask(worker, "GET", "/")[0] == 200
        server.start()
        eventually(lambda: ask(worker, "GET", "/api/v1/fleet")[0] == 200, "it works")


def test_a_stream_over_http(worker, fleet):
    """Server-sent events, with what happens meanwhile."""
    with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/api/v1/stream", timeout=20) as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        assert stream.headers["Cache-Control"] == "no-store"
        assert stream.readline().startswith(b"retry: ")
        assert stream.readline() == b"event: fleet\n"
        ask(worker, "POST", "/api/v1/actions", DRAIN, **BEARER)
        deadline = time.monotonic() + 20
        while b'"word": "drain"' not in stream.readline():
            assert time.monotonic() < deadline
