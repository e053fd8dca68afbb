"""The page in a gateway: mounted under FastAPI, on a real server."""

import asyncio
import json
import threading
import time

import httpx
import pytest
from fastapi import FastAPI

from redis_router import CircuitConfig, Provider
from redis_router.errors import InvalidArgument
from redis_router.operate.asgi import STREAMS, operate_app
from redis_router.operate.http import Request
from tests.docs.conftest import served
from tests.operate.conftest import TOKEN
from tests.support import eventually

BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def gateway(one_real):
    """A gateway with the page under /operate, and one provider; a client of its."""
    one_real.store("gw-1").register(Provider("openai", ("gpt-4o",)), CircuitConfig())
    app, page = FastAPI(), operate_app(one_real.url, one_real.namespace, token=TOKEN)
    app.mount("/operate", page)

    @app.get("/alive")
    async def alive():
        return "alive"

    with served(app) as url, httpx.Client(base_url=url, timeout=20, trust_env=False) as http:
        yield http
        page.close()


def test_the_page_and_its_files(gateway):
    """Its links are relative, so that it may lie anywhere; without the slash they would lead elsewhere."""
    said = gateway.get("/operate", follow_redirects=True)
    assert (said.status_code, said.url.path) == (200, "/operate/")
    assert said.headers["content-type"] == "text/html; charset=utf-8"
    for link in ("page.css", "page.js", "icon.svg"):
        assert f'"{link}"' in said.text
        assert gateway.get(f"/operate/{link}").status_code == 200
    assert 'href="/' not in said.text
    assert 'src="/' not in said.text
    assert gateway.head("/operate/").content == b""
    assert gateway.get("/operate/elsewhere").status_code == 404


def test_who_reaches_the_gateway_sees_nothing(gateway):
    """A gateway is open to many: to look takes the token, too."""
    assert gateway.get("/operate/api/v1/fleet").status_code == 401
    said = gateway.get("/operate/api/v1/fleet", headers=BEARER)
    assert [each["name"] for each in said.json()["providers"]] == ["openai"]


def test_a_session_and_an_action(gateway, one_real):
    """As a browser does it: the cookie goes back to the mounted API."""
    csrf = gateway.post("/operate/api/v1/login", json={"token": TOKEN}).json()["csrf"]
    assert gateway.get("/operate/api/v1/session").json()["csrf"] == csrf
    drain = {"provider": "openai", "action": "drain", "reason": "slow", "by": "alice", "yes": True}
    assert gateway.post("/operate/api/v1/actions", json=drain).status_code == 403
    said = gateway.post("/operate/api/v1/actions", json=drain, headers={"X-CSRF-Token": csrf})
    assert said.status_code == 200, said.text
    assert (one_real.record().override, one_real.record().override_by) == ("drain", "alice")


def test_a_body_that_is_too_long(gateway):
    """It is refused before all of it is in memory."""
    said = gateway.post("/operate/api/v1/actions", content=b"x" * 200_000, headers=BEARER)
    assert (said.status_code, "at most" in said.json()["error"]["message"]) == (413, True)


def test_streams_end_so_that_the_gateway_can(one_real):
    """A server that ends waits for the answers under way: a viewer keeps it for seconds, not for ever."""
    app, page = FastAPI(), operate_app(one_real.url, one_real.namespace, open_to_look=True)
    app.mount("/operate", page)
    with served(app) as url, httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
        with http.stream("GET", "/operate/api/v1/stream") as stream:
            events = [line for line in stream.iter_lines() if line.startswith("event: ")]
        assert events[0] == "event: fleet"
        assert len(events) > 3
        page.close()


def test_a_viewer_that_goes_leaves_its_place(gateway):
    """However many came before."""
    for _ in range(40):
        with gateway.stream("GET", "/operate/api/v1/stream", headers=BEARER) as stream:
            if stream.status_code == 200:
                next(stream.iter_lines())

    def comes():
        with gateway.stream("GET", "/operate/api/v1/stream", headers=BEARER) as stream:
            return stream.status_code == 200

    eventually(comes, "a place is free")


def test_a_hung_redis_does_not_hold_up_the_gateway(one_real):
    """What waits for it does so in threads, a few; the event loop goes on."""
    app, page = FastAPI(), operate_app(one_real.url, one_real.namespace, open_to_look=True)
    app.mount("/operate", page)

    @app.get("/alive")
    async def alive():
        return "alive"

    with served(app) as url, httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
        assert http.get("/operate/api/v1/fleet").status_code == 200
        statuses = []

        def ask():
            with httpx.Client(base_url=url, timeout=60, trust_env=False) as other:
                while (status := other.get("/operate/api/v1/fleet").status_code) == 200:
                    pass  # what was found a moment before is told once more
                statuses.append(status)

        with one_real.away():
            asking = [threading.Thread(target=ask) for _ in range(8)]
            for each in asking:
                each.start()
            waits = []
            while any(each.is_alive() for each in asking):
                began = time.monotonic()
                assert http.get("/alive").status_code == 200
                waits.append(time.monotonic() - began)
            for each in asking:
                each.join()
        assert statuses == [503] * 8
        assert min(waits) < 0.2, "the loop answers while others wait"
        page.close()


def test_what_it_takes():
    """A page that would be of no use, and a token that everybody guesses, are refused."""
    with pytest.raises(InvalidArgument, match="open_to_look=True"):
        operate_app("redis://localhost:6379/0")
    with pytest.raises(InvalidArgument, match="openssl rand"):
        operate_app("redis://localhost:6379/0", token="secret")


@pytest.mark.parametrize(
    ("root", "path"),
    [("", "/api/v1/session"), ("/operate", "/operate/api/v1/session"), ("/operate", "/api/v1/session")],
)
def test_servers_differ_in_what_the_path_is(root, path):
    """With the root in it, as the specification has it, or without, as older ones did."""
    app = operate_app("memory://asgi", open_to_look=True)
    sent = []

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "root_path": root, "headers": []}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 200
    assert json.loads(sent[1]["body"])["may_look"] is True
    app.close()


def asked(app, path, received, *, method="GET", headers=()):
    """What a server with these messages would get back; the last one does not end where it is no end."""
    sent, more = [], iter(received)

    async def receive():
        if (message := next(more, None)) is None:
            await asyncio.sleep(60)
        return message

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


@pytest.mark.parametrize("then", [(), ({"type": "http.disconnect"},)])
def test_half_a_body_is_no_action(monkeypatch, then):
    """Of a client that says no more, or hangs up: it is refused, and is no failure of the gateway's."""
    monkeypatch.setattr("redis_router.operate.asgi.PATIENCE_SECONDS", 0.05)
    app = operate_app("memory://asgi", token=TOKEN)
    headers = [(b"authorization", f"Bearer {TOKEN}".encode()), (b"content-type", b"application/json")]
    half = {"type": "http.request", "body": b'{"provider": "*", "action": "drain"}', "more_body": True}
    status, found = asked(app, "/api/v1/actions", (half, *then), method="POST", headers=headers)
    assert (status, "send the request again" in found["error"]["message"]) == (408, True)
    app.close()


def test_cookies_in_headers_of_their_own():
    """As HTTP/2 has them."""
    app, end = operate_app("memory://asgi", token=TOKEN), {"type": "http.request", "body": b""}
    cookie, _ = app._service._guard.log_in(TOKEN, Request("POST", "/api/v1/login", peer="127.0.0.1"))
    cookies = [(b"cookie", b"a=1"), (b"cookie", cookie.partition(";")[0].encode()), (b"cookie", b"b=2")]
    assert asked(app, "/api/v1/session", (end,), headers=cookies)[1]["may_act"] is True
    app.close()


def test_a_client_that_goes_before_the_answer_leaves_no_stream(monkeypatch):
    """A middleware cancels what it waits for: the place in the live view is free all the same."""
    app = operate_app("memory://asgi", open_to_look=True)
    begun, goes_on, answer = threading.Event(), threading.Event(), app._service.answer

    def slow(request):
        begun.set()
        goes_on.wait(20)
        return answer(request)

    monkeypatch.setattr(app._service, "answer", slow)

    async def comes_and_goes():
        async def receive():
            return {"type": "http.request"}

        async def send(message):
            raise AssertionError("nobody is there")

        scope = {"type": "http", "method": "GET", "path": "/api/v1/stream", "headers": []}
        task = asyncio.create_task(app(scope, receive, send))
        await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert app._waiting == 0

    asyncio.run(comes_and_goes())
    goes_on.set()
    app._threads.shutdown(wait=True)
    assert app._service._places._free == STREAMS
    app.close()


def test_by_itself_it_lives_and_ends():
    """Served without a gateway around it, it hears when the server ends."""
    app = operate_app("memory://asgi", open_to_look=True)
    said = iter(["lifespan.startup", "lifespan.shutdown"])
    sent = []

    async def receive():
        return {"type": next(said)}

    async def send(message):
        sent.append(message["type"])

    asyncio.run(app({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
