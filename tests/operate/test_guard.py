"""Who may look, and who may act: tokens, sessions, forged requests, other sites, guessing."""

import json
import re

import pytest

from redis_router.errors import InvalidArgument
from redis_router.operate import guard
from redis_router.operate.guard import COOKIE, TRIES, Guard, check_token
from redis_router.operate.http import Refused, Request
from redis_router.operate.service import Service
from redis_router.operate.stream import Stream
from tests.operate.conftest import BEARER, TOKEN, Asked

DRAIN = {"provider": "openai", "action": "drain"}


@pytest.fixture
def page():
    """On memory, with nothing in it: an action that may be made ends with 404."""
    made = []

    def make(**options):
        made.append(Service("memory://guarded", "t", **{"token": TOKEN, "open_to_look": True, **options}))
        return Asked(made[-1])

    yield make
    for each in made:
        each.close()


def acts(ask, **headers):
    """Was it let through?"""
    status, found = ask("/api/v1/actions", DRAIN, **headers)
    assert status in (401, 403, 404, 429), found
    return status == 404


def log_in(ask, **headers):
    """The cookie as a browser sends it, and the csrf."""
    answer = ask.answer("/api/v1/login", {"token": TOKEN}, **headers)
    assert answer.status == 200
    cookie = dict(answer.headers)["Set-Cookie"]
    return cookie.partition(";")[0], json.loads(answer.body)["csrf"], cookie


def test_without_a_token_nobody_acts(page):
    """And it says what to do."""
    ask = page(token=None)
    status, found = ask("/api/v1/actions", DRAIN, **BEARER)
    assert status == 403
    assert "--page-token-env" in found["error"]["message"]
    assert ask("/api/v1/login", {"token": ""})[0] == 403
    assert ask("/api/v1/fleet")[0] == 200
    assert ask("/api/v1/session")[1] == {"can_log_in": False, "may_look": True, "may_act": False, "csrf": None}


def test_a_bearer_token(page):
    """The right one, whatever the case of the word; no other, and none."""
    ask = page()
    assert acts(ask, authorization=f"Bearer {TOKEN}")
    assert acts(ask, authorization=f"bearer  {TOKEN}")
    for wrong in ("Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer \xff"):
        assert not acts(ask, authorization=wrong)
    assert not acts(ask)


def test_a_session(page):
    """The cookie and the csrf act together, and neither does alone."""
    ask = page()
    cookie, csrf, _ = log_in(ask)
    assert acts(ask, cookie=cookie, x_csrf_token=csrf)
    assert acts(ask, cookie=f"other=1; {cookie}", x_csrf_token=csrf)
    assert not acts(ask, cookie=cookie)
    assert not acts(ask, cookie=cookie, x_csrf_token="x" + csrf[1:])
    assert not acts(ask, x_csrf_token=csrf)
    other, its_csrf, _ = log_in(ask)
    assert not acts(ask, cookie=other, x_csrf_token=csrf)
    assert acts(ask, cookie=other, x_csrf_token=its_csrf)
    assert ask("/api/v1/session", cookie=cookie)[1]["csrf"] == csrf


def test_the_cookie(page):
    """No script reads it, no other site makes it be sent, and it goes to the API alone."""
    *_, cookie = log_in(page())
    assert re.fullmatch(rf"{COOKIE}=[\w.]+; Max-Age=43200; HttpOnly; SameSite=Strict", cookie)
    guarded = Guard(TOKEN, True)
    cookie, _ = guarded.log_in(TOKEN, Request("POST", "/api/v1/login", secure=True, peer="127.0.0.1"))
    assert cookie.endswith("; Secure")


def test_a_session_that_is_not_ours(page, monkeypatch):
    """Invented, changed, over, or of another token."""
    ask = page()
    cookie, csrf, _ = log_in(ask)
    until, rest = cookie.partition("=")[2].split(".", 1)
    for forged in (f"{int(until) + 9}.{rest}", "", "..", "a.b.c", f"{until}.{rest[:-1]}0x", "9" * 5000, '"\\377"'):
        assert not acts(ask, cookie=f"{COOKIE}={forged}", x_csrf_token=csrf)
    assert not acts(page(token="another token of 24 char"), cookie=cookie, x_csrf_token=csrf)
    monkeypatch.setattr(guard.time, "time", lambda: int(until) + 1)
    assert not acts(ask, cookie=cookie, x_csrf_token=csrf)


@pytest.mark.parametrize("other", ['a={"x": 1}', "a=b c", "a", 'a="', "a@b=1", "x=\xe9", f"{COOKIE}=9.x.y", "=;;="])
def test_cookies_of_other_services_at_this_host(page, other):
    """A browser sends them here, too, before ours or behind it: the session holds."""
    ask = page()
    cookie, csrf, _ = log_in(ask)
    assert acts(ask, cookie=f"{other}; {cookie}", x_csrf_token=csrf)
    assert acts(ask, cookie=f"{cookie}; {other}", x_csrf_token=csrf)
    assert not acts(ask, cookie=other, x_csrf_token=csrf)


def test_a_session_holds_on_every_worker_with_the_token(page):
    """And over restarts: it is kept nowhere."""
    cookie, csrf, _ = log_in(page())
    assert acts(page(), cookie=cookie, x_csrf_token=csrf)


def test_logging_out(page):
    """The browser drops the cookie."""
    answer = page().answer("/api/v1/logout", {})
    assert "Max-Age=0" in dict(answer.headers)["Set-Cookie"]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9464.evil.example"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"origin": "http://localhost:9464", "sec_fetch_site": "cross-site"},
    ],
)
def test_another_sites_request_is_refused(page, headers):
    """Though the browser sent the cookie, and the csrf leaked; and it logs nobody in."""
    ask = page()
    cookie, csrf, _ = log_in(ask)
    status, found = ask("/api/v1/actions", DRAIN, cookie=cookie, x_csrf_token=csrf, **headers)
    assert (status, "another site" in found["error"]["message"]) == (403, True)
    assert ask("/api/v1/login", {"token": TOKEN}, **headers)[0] == 403
    assert ask("/api/v1/logout", {}, **headers)[0] == 403


@pytest.mark.parametrize("headers", [{"sec_fetch_site": "cross-site"}, {"origin": "http://evil.example"}])
def test_another_site_takes_no_place_in_the_live_view(page, headers):
    """It could not read a stream; but a page of it that somebody has open would hold those of who looks on."""
    ask = page(streams=1)
    assert ask("/api/v1/stream", **headers)[0] == 403
    stream = ask.answer("/api/v1/stream", sec_fetch_site="same-origin")
    assert isinstance(stream, Stream)
    stream.close()


def test_a_browser_behind_a_proxy(page):
    """The host may be another one there: what the browser says of the site counts."""
    ask = page()
    cookie, csrf, _ = log_in(ask, origin="https://ops.example.com", sec_fetch_site="same-origin")
    assert acts(ask, cookie=cookie, x_csrf_token=csrf, origin="https://ops.example.com", sec_fetch_site="same-origin")
    assert acts(ask, cookie=cookie, x_csrf_token=csrf, origin="http://localhost:9464")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_form_is_no_action(page, kind):
    """Other sites may send those unasked."""
    ask = page()
    raw = json.dumps(DRAIN).encode()
    assert ask("/api/v1/actions", raw=raw, content_type=kind, **BEARER)[0] == 415
    assert ask("/api/v1/login", raw=raw, content_type=kind)[0] == 415


def test_guessing_takes_time(page):
    """After some wrong ones even the right one waits; elsewhere it does not, and a session goes on."""
    ask = page()
    cookie, csrf, _ = log_in(ask)
    tried = [ask("/api/v1/login", {"token": f"wrong {n}"}, peer="10.0.0.1")[0] for n in range(TRIES + 5)]
    assert tried == [401] * TRIES + [429] * 5
    answer = ask.answer("/api/v1/login", {"token": TOKEN}, peer="10.0.0.1")
    assert (answer.status, dict(answer.headers)["Retry-After"]) == (429, "2")
    assert ask("/api/v1/actions", DRAIN, peer="10.0.0.1", **BEARER)[0] == 429
    assert ask("/api/v1/login", {"token": TOKEN}, peer="10.0.0.2")[0] == 200
    assert ask("/api/v1/actions", DRAIN, peer="10.0.0.1", cookie=cookie, x_csrf_token=csrf)[0] == 404


def test_a_try_comes_back_with_time(page, monkeypatch):
    """One in two seconds."""
    ask, now = page(), [1000.0]
    monkeypatch.setattr(guard.time, "monotonic", lambda: now[0])

    def tried():
        return ask("/api/v1/login", {"token": "wrong"}, peer="10.0.0.1")[0]

    assert [tried() for _ in range(TRIES + 1)][-2:] == [401, 429]
    now[0] += 2.1
    assert [tried(), tried()] == [401, 429]
    now[0] += 1000.0
    assert [tried() for _ in range(TRIES + 1)][-2:] == [401, 429]


def test_bearer_tokens_are_no_way_around(page):
    """They are counted with the logins; so are those of who only looks."""
    ask = page(open_to_look=False)
    for number in range(TRIES):
        assert ask("/api/v1/fleet", peer="10.0.0.1", authorization=f"Bearer wrong {number}")[0] == 401
    assert ask("/api/v1/actions", DRAIN, peer="10.0.0.1", authorization="Bearer wrong")[0] == 429
    assert ask("/api/v1/login", {"token": TOKEN}, peer="10.0.0.1")[0] == 429


def test_one_ipv6_network_is_one_guesser(page):
    """Whoever has an address there has millions."""
    ask = page()
    tried = [ask("/api/v1/login", {"token": "wrong"}, peer=f"2001:db8::{n:x}")[0] for n in range(TRIES + 1)]
    assert tried[-1] == 429
    assert ask("/api/v1/login", {"token": "wrong"}, peer="2001:db8:0:1::1")[0] == 401


def test_who_guesses_by_ipv4_locks_out_nobody_else(page):
    """Where the worker listens at `::`, all IPv4 addresses look like one IPv6 network."""
    ask = page()
    tried = [ask("/api/v1/login", {"token": "wrong"}, peer="::ffff:192.0.2.1")[0] for _ in range(TRIES + 1)]
    assert tried[-1] == 429
    assert ask("/api/v1/login", {"token": TOKEN}, peer="192.0.2.1")[0] == 429
    assert ask("/api/v1/login", {"token": TOKEN}, peer="::ffff:198.51.100.7")[0] == 200


def test_guessers_are_forgotten(page):
    """A flood of addresses fills no memory."""
    ask = page()
    for number in range(guard.MOST_PEERS + 50):
        ask("/api/v1/login", {"token": "wrong"}, peer=f"10.1.{number // 250}.{number % 250}")
    assert len(ask.service._guard._tries._spent) == guard.MOST_PEERS


def test_looking_may_take_the_token_too(page):
    """Then the page is there to log in, and nothing else is."""
    ask = page(open_to_look=False)
    for path in ("fleet", "providers/openai", "events", "stream"):
        assert ask(f"/api/v1/{path}")[0] == 401
    assert ask("/")[0] == 200
    assert ask("/api/v1/session")[1]["may_look"] is False
    cookie, *_ = log_in(ask)
    assert ask("/api/v1/fleet", cookie=cookie)[0] == 200
    assert ask("/api/v1/fleet", **BEARER)[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9464", "127.0.0.1.evil.example", "localhost.evil.example"]
)
def test_a_name_that_points_here_reads_nothing(page, host):
    """DNS rebinding: a page of another site whose name has this machine's address."""
    ask = page()
    for path in ("/", "/api/v1/fleet", "/api/v1/session"):
        status, found = ask(path, host=host)
        assert (status, "--page-host" in found["error"]["message"]) == (421, True)
    assert ask("/api/v1/actions", DRAIN, host=host, **BEARER)[0] == 421


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:80", "127.0.0.1:9464", "[::1]:9464", "10.0.0.7", "worker-1:9464", "a.localhost", ""],
)
def test_names_that_nobody_else_can_own(page, host):
    """And those that were named."""
    assert page()("/api/v1/fleet", host=host)[0] == 200
    assert page(hosts=["Ops.example.com"])("/api/v1/fleet", host="ops.EXAMPLE.com:8080")[0] == 200


def test_where_looking_takes_a_login_the_host_is_no_matter(page):
    """The session is of the name under which somebody logged in."""
    assert page(open_to_look=False)("/api/v1/fleet", host="ops.example.com", **BEARER)[0] == 200


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "ü" * 20, "line\n" * 5, 5])
def test_a_token_that_is_no_secret_is_refused(token):
    """With what would do, and without the token."""
    with pytest.raises(InvalidArgument, match="openssl rand") as error:
        check_token(token, "the token in $TOKEN")
    assert not token or str(token) not in str(error.value)


def test_tokens_are_compared_in_constant_time():
    """By hmac.compare_digest, everywhere."""
    import inspect

    source = inspect.getsource(guard)
    assert source.count("hmac.compare_digest") == 1
    assert "== self._token" not in source
    assert "self._token ==" not in source


def test_every_answer_has_the_headers_of_security(page):
    """Errors, too: no script but ours, no frame, no guessing of types, no copy kept."""
    ask = page()
    for path in ("/", "/page.js", "/page.css", "/icon.svg", "/api/v1/fleet", "/elsewhere", "/api/v1/providers/x"):
        headers = dict(ask.answer(path).all_headers)
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"


def test_a_failure_of_ours_is_no_traceback(page, monkeypatch, caplog):
    """It is in the log."""
    ask = page()
    monkeypatch.setattr(ask.service.feed, "look", lambda *_: 1 / 0)
    status, found = ask("/api/v1/fleet")
    assert (status, "ZeroDivisionError" in json.dumps(found)) == (500, False)
    assert "ZeroDivisionError" in caplog.text


def test_refusals_say_nothing_of_the_token(page):
    """Neither the right nor the wrong one."""
    said = json.dumps(page()("/api/v1/login", {"token": "my other secret"}))
    assert "secret" not in said
    assert TOKEN not in said
    assert isinstance(Refused, type)
