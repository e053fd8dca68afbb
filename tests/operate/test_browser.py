"""The page in a real browser: an outage shows within seconds, a drain by click is in the log, and nothing runs that
came from outside.

Where no chromium can be had the tests say so; in CI that is a failure.
"""

import contextlib
import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from redis_router import CircuitConfig, Operator, Provider
from redis_router.operate.asgi import operate_app
from redis_router.store.presence import Presence
from redis_router.testing.server import free_port
from tests.docs.conftest import served
from tests.operate.conftest import TOKEN
from tests.process.conftest import workers
from tests.support import eventually, recorded, result
from tests.support.browser import Missing, browser

__all__ = ["workers"]

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.timeout(300)  # the first run fetches the browser

ENV = {"PAGE_TOKEN": TOKEN}
ONE = CircuitConfig(consecutive_failure_limit=1, open_timeout=60.0)
SECONDS = 5_000
"""How soon something shows, in ms; playwright's own patience is longer where the machine is busy."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Started once for each test process."""
    try:
        found = browser()
    except Missing as missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(missing))
    with sync_api.sync_playwright() as playwright:
        started = found.launch(playwright)
        yield started
        started.close()


@pytest.fixture
def opened(chromium, workers) -> Iterator[Callable[..., Any]]:
    """Opens a page, and sees to it that nothing went wrong in it: opened(url, width=360). Workers end after it."""
    contexts, wrong, allowed = [], [], []

    def open_page(url: str, width: int = 1280, **options: Any) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": 800}, **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
        page.allowed = allowed
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [each for each in wrong if not any(words in each for words in allowed)] == []


@pytest.fixture
def fleet(one_real):
    """Two providers of one model."""
    store = one_real.store("gw-1")
    for name in ("openai", "azure"):
        store.register(Provider(name, ("gpt-4o",)), ONE)
        recorded(store, name, 1, result(name, True, latency_ms=120.0))
    return store


@pytest.fixture
def worker(workers, fleet):
    """One with a token; its URL is `url`."""
    made = workers("--page-token-env", "PAGE_TOKEN", env=ENV)
    made.url = f"http://127.0.0.1:{made.port}/"
    return made


def row(page, name):
    return page.locator(f'tr[data-name="{name}"]')


def link_says(page, text):
    """How fresh what is shown is, by the page's own word."""
    sync_api.expect(page.locator("#link-text")).to_have_text(text, timeout=30_000)


def log_in(page):
    page.click("#log-in")
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_selector("#log-out:visible")


def events_of(one_real, name):
    with Operator(one_real.client(), one_real.namespace) as operator:
        return operator.events(name)


def test_an_outage_shows_by_itself(opened, worker, fleet):
    """Red first, why, and when the next try is; without a reload; and the headline tells those who only hear."""
    page = opened(worker.url)
    row(page, "openai").get_by_text("Well").wait_for()
    assert page.text_content("#headline") == "✔ All 2 providers are well"
    recorded(fleet, "openai", 2, result("openai", False))
    row(page, "openai").get_by_text("Down").wait_for(timeout=SECONDS)
    text = row(page, "openai").inner_text()
    assert "circuit open: consecutive_failures" in text
    assert "next try in" in text
    assert page.locator("tbody tr").first.get_attribute("data-name") == "openai"
    assert page.text_content("#headline") == "✖ 1 of 2 providers is down"
    assert page.text_content("#announce") == page.text_content("#headline")
    assert page.text_content("#link-text") == "live"
    before = row(page, "openai").locator(".until").inner_text()
    eventually(lambda: row(page, "openai").locator(".until").inner_text() != before, "it counts down")


def test_what_happened_is_below(opened, workers, fleet, one_real):
    """For a worker whose user may read the logs; the newest first, with who and why."""
    with Operator(one_real.client(), one_real.namespace, by="alice@ops-1") as operator:
        operator.drain("azure", reason="slow since noon")
    worker = workers(url=one_real.url.replace("router:password@", ""))
    page = opened(f"http://127.0.0.1:{worker.port}/")
    first = page.locator("#timeline li").first
    first.wait_for()
    assert "azure" in first.inner_text()
    assert "slow since noon by alice@ops-1" in first.inner_text()


def test_a_user_who_may_not_read_the_log_hears_it(opened, worker):
    """The rest of the page works."""
    page = opened(worker.url)
    page.wait_for_selector("#timeline-error:visible")
    assert "cannot be shown" in page.text_content("#timeline-error")


def test_drain_by_click(opened, worker, fleet, one_real):
    """Log in, choose, say why, and it is in the fleet's log with who; the name is remembered; ready ends it."""
    page = opened(worker.url)
    log_in(page)
    row(page, "openai").get_by_role("button").click()
    page.fill("#reason", "slow since noon")
    page.fill("#by", "alice")
    page.select_option("#lasts", "1800")
    page.get_by_role("button", name="Drain", exact=True).click()
    page.get_by_text("✔ Drained openai, by alice").wait_for(timeout=SECONDS)
    page.locator("#drill-state").get_by_text("Taken out").wait_for(timeout=SECONDS)
    last = events_of(one_real, "openai")[-1]
    assert (last.event, last.by, last.details["reason"]) == ("override", "alice", "slow since noon")
    assert 1_790_000 < int(last.details["until_ms"]) - last.at_ms <= 1_800_000
    page.keyboard.press("Escape")
    row(page, "openai").get_by_text("drain by alice: slow since noon").wait_for()
    assert "left" in row(page, "openai").locator(".until").inner_text()
    page.reload()
    row(page, "openai").get_by_role("button").click()
    assert page.input_value("#by") == "alice"
    page.get_by_role("button", name="Ready", exact=True).click()
    page.get_by_text("✔ Ready: openai, by alice").wait_for(timeout=SECONDS)
    assert one_real.record().override == ""


def test_the_last_one_is_asked_about(opened, worker, fleet, one_real):
    """Nothing is done before the answer."""
    recorded(fleet, "azure", 2, result("azure", False))
    page = opened(worker.url)
    page.allowed.append("409")  # chromium tells of it in the console
    log_in(page)
    row(page, "openai").get_by_role("button").click()
    page.get_by_role("button", name="Drain", exact=True).click()
    page.get_by_text("Nobody would be left for gpt-4o.").wait_for(timeout=SECONDS)
    assert one_real.record().override == ""
    page.get_by_role("button", name="Do it all the same").click()
    page.get_by_text("✔ Drained openai").wait_for(timeout=SECONDS)
    assert one_real.record().override == "drain"


def test_a_wrong_token(opened, worker):
    """It says so, and shows no actions."""
    page = opened(worker.url)
    page.click("#log-in")
    page.fill("#token", "wrong")
    page.keyboard.press("Enter")
    page.get_by_text("the token is wrong").wait_for()
    page.allowed.append("401")
    page.click("#login-cancel")
    row(page, "openai").get_by_role("button").click()
    assert not page.is_visible("#act")
    assert page.is_visible("#act-note")


NASTY = "<img src=x onerror=alert(1)><script>alert(2)</script>"


def test_nothing_runs_that_came_from_outside(opened, worker, fleet, one_real):
    """Reasons, models, failures, a record that cannot be read, an entry of the log by hand: they are shown as text."""
    fleet.register(Provider("nasty", (NASTY, "javascript:alert(3)")), ONE)
    fleet.override("nasty", "drain", 60_000, 0.0, NASTY, NASTY)
    client = one_real.client()
    client.hset(one_real.keys.health("nasty"), "last_failure", NASTY)
    client.hset(one_real.keys.health("nasty"), "open_reason", NASTY)
    client.hset(one_real.keys.health("azure"), "failure_rate", NASTY)
    said = Presence("s", NASTY, NASTY, NASTY, NASTY, 1, 1, own={NASTY: NASTY}).to_text()
    client.hset(one_real.keys.replicas, NASTY, f"{fleet.leader()[0]} {said}")
    page = opened(worker.url + "#/" + NASTY.replace("<", "%3C"))
    row(page, "nasty").wait_for()
    assert NASTY in row(page, "nasty").inner_text()
    page.wait_for_selector("#banner:visible")
    assert page.locator("#replica-list").inner_text().count(NASTY) == 5
    page.wait_for_selector("#drill[open]")  # of the address
    page.keyboard.press("Escape")
    page.allowed.append("404")  # there is no provider of that name
    row(page, "nasty").get_by_role("button").click()
    page.wait_for_selector("#record dt", state="attached")
    assert page.locator("img").count() == 1, "ours"
    assert page.locator("script").count() == 1
    assert page.locator("#drill a").count() == 0


def test_names_of_events_are_text(opened, workers, fleet, one_real):
    """For a worker whose user may read the logs: somebody wrote into one by hand."""
    entry = {"event": NASTY, "by": NASTY, "detail": NASTY, NASTY: NASTY}
    one_real.client().xadd(one_real.keys.events("openai"), entry, id="9000000000000000-1")  # in the year 287168
    worker = workers(url=one_real.url.replace("router:password@", ""))
    page = opened(f"http://127.0.0.1:{worker.port}/#/openai")
    page.locator("#drill-events li").first.wait_for()
    assert page.locator("#timeline li").first.inner_text().count(NASTY) == 5
    assert page.locator("#drill-events li").first.inner_text().count(NASTY) == 5
    assert page.locator("img").count() == 1


INLINE_SCRIPT = """() => {
    const script = document.createElement("script");
    try { script.textContent = "window.ran = true"; document.body.append(script) } catch (error) { }
    return Boolean(window.ran);
}"""
DIALOGS = """() => [...document.querySelectorAll("dialog[open]")].map(
    dialog => [dialog.scrollWidth, dialog.clientWidth, dialog.getBoundingClientRect().right])"""
"""How wide what is in each is, how wide it is, and where it ends."""


def test_the_policy_refuses_what_would_run(opened, worker):
    """Were there a hole, markup would be refused: trusted types, no inline script, no other host."""
    page = opened(worker.url)
    row(page, "openai").wait_for()
    refused = page.evaluate("() => { try { document.body.innerHTML = '<b>x</b>' } catch (e) { return e.name } }")
    assert refused == "TypeError"
    loads = page.evaluate(INLINE_SCRIPT)
    assert loads is False
    page.allowed += ["Trusted", "inline script", "Content Security Policy"]


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_screen(opened, worker, fleet, width):
    """The longest names and reasons, the drill-down, and the login."""
    fleet.register(Provider(f"provider-{'x' * 50}", ("m" * 200, "gpt-4o")), ONE)
    fleet.override("openai", "drain", 60_000, 0.0, "b" * 60, "w" * 200)
    recorded(fleet, "azure", 2, result("azure", False))
    page = opened(worker.url, width)
    row(page, "azure").get_by_text("Down").wait_for()

    def fits(what):
        wide = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert wide[0] <= wide[1], what
        inside = page.evaluate(DIALOGS)
        assert all(needs <= has and right <= wide[1] + 0.5 for needs, has, right in inside), what

    fits("the table")
    log_in(page)
    for name in ("openai", f"provider-{'x' * 50}"):
        row(page, name).get_by_role("button").click()
        page.wait_for_selector("#record dt", state="attached")
        page.locator("#drill details").last.locator("summary").click()
        fits(f"{name}'s drill-down")
        page.keyboard.press("Escape")


def test_by_keyboard_alone(opened, worker, fleet):
    """Tab to a provider, Enter opens it, Escape closes it, and the focus is where it was."""
    page = opened(worker.url)
    row(page, "azure").wait_for()
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "open":
            break
    name = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    page.wait_for_selector("#drill[open]")
    assert page.text_content("#drill-title") == name
    assert page.evaluate("document.querySelector('#drill').contains(document.activeElement)")
    page.keyboard.press("Escape")
    assert not page.is_visible("#drill")
    assert page.evaluate("document.activeElement.textContent") == name
    recorded(fleet, name, 2, result(name, False))  # its row is drawn anew
    row(page, name).get_by_text("Down").wait_for(timeout=SECONDS)
    assert page.evaluate("document.activeElement.textContent") == name


def test_it_says_how_old_it_is_and_comes_back(opened, workers, fleet):
    """A worker that dies: stale for so long; one at its place: live, with the login that it had."""
    port = free_port()

    def start():
        return workers("--page-token-env", "PAGE_TOKEN", "--metrics-port", str(port), env=ENV)

    first = start()
    page = opened(f"http://127.0.0.1:{port}/")
    row(page, "openai").wait_for()
    log_in(page)
    first.process.kill()
    first.process.wait()
    link_says(page, re.compile("stale for"))
    assert page.get_attribute("#link", "data-state") == "stale"
    assert page.inner_text("#headline").startswith("When last seen: ")  # nobody reads that all is well now
    assert row(page, "openai").is_visible()
    recorded(fleet, "openai", 2, result("openai", False))
    start()
    row(page, "openai").get_by_text("Down").wait_for()
    link_says(page, "live")
    page.allowed += ["ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET"]
    row(page, "azure").get_by_role("button").click()
    page.get_by_role("button", name="Observe", exact=True).click()
    page.get_by_text("✔ Observing azure").wait_for(timeout=SECONDS)


def test_without_redis_it_says_so(opened, worker, fleet, one_real):
    """What was known stays, with its age and the error."""
    page = opened(worker.url)
    row(page, "openai").wait_for()
    with one_real.away():
        page.wait_for_selector("#banner:visible")
        link_says(page, re.compile("^stale for"))
        assert page.inner_text("#headline").startswith("When last seen: ")
        assert ".." not in page.inner_text("#banner")
        assert row(page, "openai").is_visible()
    link_says(page, "live")
    assert not page.inner_text("#headline").startswith("When last seen: ")
    assert not page.is_visible("#banner")
    page.allowed.append("503")


def test_one_too_many_looks_on_all_the_same(opened, worker, fleet):
    """Where no stream is left it asks every few seconds, and says so."""
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", worker.port)))
            client.sendall(b"GET /api/v1/stream HTTP/1.0\r\n\r\n")
            client.recv(10)
        page = opened(worker.url)
        row(page, "openai").wait_for()
        link_says(page, "live, every 5 s")
    link_says(page, "live")
    page.allowed.append("503")  # the refused stream


def hide(page, hidden):
    """As if the tab went behind another one, or came back."""
    page.evaluate(
        """hidden => { Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
            document.dispatchEvent(new Event("visibilitychange")) }""",
        hidden,
    )


def test_a_tab_behind_others_holds_no_stream(opened, worker, fleet):
    """A browser has six connections for all its tabs, and a worker eight streams; in front again it is live at once."""
    page = opened(worker.url)
    row(page, "openai").get_by_text("Well").wait_for()
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/stream")):
        hide(page, True)  # it is given up
    recorded(fleet, "openai", 2, result("openai", False))
    hide(page, False)
    row(page, "openai").get_by_text("Down").wait_for(timeout=SECONDS)
    link_says(page, "live")


def test_states_differ_without_colour(opened, worker, fleet):
    """By a sign and a word."""
    recorded(fleet, "openai", 2, result("openai", False))
    fleet.override("azure", "drain", 60_000, 0.0, "alice", "")
    page = opened(worker.url, color_scheme="dark", forced_colors="active")
    row(page, "openai").get_by_text("Down").wait_for()
    badges = page.locator("tbody .badge").all_inner_texts()
    assert [text.replace("\n", "") for text in badges] == ["✖Down", "‖Taken out"]


def test_in_a_gateway(opened, fleet, one_real):
    """Mounted under a path, with the login for looking as well."""
    from fastapi import FastAPI

    app, page_app = FastAPI(), operate_app(one_real.url, one_real.namespace, token=TOKEN)
    app.mount("/operate", page_app)
    with served(app) as url:
        page = opened(f"{url}/operate")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        row(page, "openai").get_by_text("Well").wait_for()
        recorded(fleet, "openai", 2, result("openai", False))
        row(page, "openai").get_by_text("Down").wait_for(timeout=SECONDS)
        row(page, "azure").get_by_role("button").click()
        page.get_by_role("button", name="Set weight").click()
        page.get_by_text("✔ Weight set for azure").wait_for(timeout=SECONDS)
        cookies = json.dumps(page.context.cookies())
        page.context.close()
        page_app.close()
    assert one_real.record("azure").weight_override == 0.2
    assert '"path": "/operate/api/v1"' in cookies
    assert '"httpOnly": true' in cookies
