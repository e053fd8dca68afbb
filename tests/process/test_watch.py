"""`redis-router watch` on a terminal, as somebody on call sees it."""

import os
import re
import signal
import subprocess
import sys

import pytest

from redis_router import CircuitConfig, Operator, Outcome, Provider
from redis_router.circuit.outcome import Result, UnderWay
from redis_router.store.connect import connect
from redis_router.store.contract import Batch
from redis_router.store.redis import RedisStore
from redis_router.testing.server import EmbeddedServer
from tests.conftest import REAL
from tests.process.test_cli import run
from tests.support import eventually
from tests.support.documents import consoles
from tests.support.terminal import Terminal

WATCH = [sys.executable, "-m", "redis_router", "watch", "--interval", "0.2s"]


@pytest.fixture
def store(one_real):
    """openai's circuit is open, azure is drained for ever, and claude is well, with calls under way."""
    store = one_real.store("gw")
    for name in ("azure", "claude", "openai"):
        store.register(Provider(name, ("gpt-4o",)), CircuitConfig(consecutive_failure_limit=1))
    store.record([Batch("openai", 1, [Result("openai", Outcome.FAILURE, 5.0, 1, reason="http_503")])])
    store.record([Batch("claude", 1, [Result("claude", Outcome.SUCCESS, 120.0, 1)], UnderWay(3))])
    opened = store.snapshot(["openai"]).records["openai"].last_state_change_ms
    eventually(lambda: _now_ms(one_real) > opened, "a later moment, as events of one have no order")
    store.override("azure", "drain", 0, 0, "alice", "a new contract")
    return store


def _now_ms(backend):
    seconds, microseconds = backend.client().time()
    return seconds * 1000 + microseconds // 1000


def rows(text):
    """The first words of the table's lines."""
    names = ("azure", "claude", "openai")
    return [line.split()[:3] for line in text.splitlines() if line.split()[:1] and line.split()[0] in names]


def test_the_worst_first_why_and_until_when(base, store):
    """At 80 columns; the newest event below; nothing scrolls."""
    with Terminal([*WATCH, *base]) as terminal:
        shown = terminal.until(lambda text: "drain by alice" in text and "drain for ever" in text)
        states = [["openai", "DOWN", "open"], ["claude", "ok", "closed"], ["azure", "held", "closed"]]
        assert sorted(rows(shown)) == sorted(states)
        assert rows(shown)[0] == states[0]
        told = re.sub(r"\s+", " ", shown)
        for words in ("consecutive_failures", "http_503", "next try in", "a new contract", "for ever"):
            assert words in told, shown
        assert shown.index("drain for ever") < shown.index("circuit closed -> open")
        assert len(shown.splitlines()) <= 24
        assert len(terminal.screen.history.top) == 0


def test_what_happens_is_on_it_at_once(base, store, one_real):
    """By the push channel: also where the picture is drawn every hour."""
    with Terminal([*WATCH[:-1], "1h", *base], columns=120) as terminal:
        assert "120 ms" in terminal.until(lambda text: "drain by alice" in text)
        with Operator(base[1], one_real.namespace, by="bob") as operator:
            operator.override("claude", "force_open", reason="on fire")
        terminal.until(lambda text: ["claude", "held", "closed"] in rows(text) and "force_open by bob: on fire" in text)
        terminal.until(lambda text: re.search(r"claude  force_open until \S+ \S+ \(on fire\)  by bob", text))


def test_those_that_are_asked_for(base, store):
    """And their events."""
    with Terminal([*WATCH, "claude", *base]) as terminal:
        shown = terminal.until(lambda text: rows(text))
        assert [row[0] for row in rows(shown)] == ["claude"]
        assert "openai" not in shown


def test_names_are_no_pictures(base, store):
    """A name may have colons."""
    store.register(Provider("eu:fire:1", ("m",)), CircuitConfig())
    with Terminal([*WATCH, *base]) as terminal:
        terminal.until(lambda text: any(line.split()[:2] == ["eu:fire:1", "ok"] for line in text.splitlines()))


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_leaves_the_terminal_as_it_was(base, store, how, code):
    """Its settings, the cursor, and what stood there before."""
    with Terminal([*WATCH, *base]) as terminal:
        terminal.until(rows)
        if how == signal.SIGINT:
            terminal.type("\x03")
        else:
            terminal.process.send_signal(how)
        assert terminal.ends() == code
        assert b"Traceback" not in terminal.raw
        assert terminal.is_as_before()
        assert terminal.raw.rindex(b"\x1b[?1049l") > terminal.raw.rindex(b"\x1b[?1049h")
        assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l")


def test_while_redis_is_away_it_says_so_and_tries_on():
    """What was known last stays; it comes back by itself."""
    with EmbeddedServer(next(iter(REAL.values()))) as running, connect(running.url) as client:
        RedisStore(client, "rr", "gw").register(Provider("openai", ("m",)), CircuitConfig())
        with Terminal([*WATCH, "--redis", running.url]) as terminal:
            terminal.until(lambda text: "registered" in text and "OUT OF TOUCH" not in text)
            running.process.send_signal(signal.SIGSTOP)
            try:
                shown = terminal.until(lambda text: "OUT OF TOUCH for" in text)
                assert rows(shown) == [["openai", "ok", "closed"]]
            finally:
                running.process.send_signal(signal.SIGCONT)
            terminal.until(lambda text: "OUT OF TOUCH" not in text and rows(text))
            client.hset("rr:{openai}:health", "weight", "0")
            terminal.until(lambda text: ["openai", "held", "closed"] in rows(text))


def test_where_redis_never_was():
    """It waits for it."""
    with Terminal([*WATCH, "--redis", "redis://127.0.0.1:1"]) as terminal:
        terminal.until(lambda text: "OUT OF TOUCH for" in text)
        terminal.type("\x03")
        assert terminal.ends() == 130


def test_many_providers_on_a_small_terminal(base, one_real):
    """The worst are on it; of the others it says how many there are."""
    store = one_real.store("gw")
    for number in range(60):
        store.register(Provider(f"p-{number:02}", ("m",)), CircuitConfig(consecutive_failure_limit=1))
    store.record([Batch("p-59", 1, [Result("p-59", Outcome.FAILURE, 5.0, 1)])])
    with Terminal([*WATCH, *base]) as terminal:
        shown = terminal.until(
            lambda text: "p-59" in text and "more, all ok" in text and "circuit closed -> open" in text
        )
        table = [line.split()[0] for line in shown.splitlines() if line.strip().startswith("p-")]
        assert (table[0], len(table) > 5) == ("p-59", True)
        assert f"and {60 - len(table)} more, all ok" in shown
        assert len(terminal.screen.history.top) == 0


def test_what_a_hand_wrote_is_no_escape(base, store, one_real):
    """It is shown as it would be written in code."""
    one_real.client().hset(one_real.keys.health("openai"), "last_failure", "\x1b]0;mine\x07[bold]x")
    with Terminal([*WATCH, *base], columns=160) as terminal:
        terminal.until(lambda text: r"\x1b]0;mine\x07[bold]x" in text)
        assert b"\x1b]0;" not in terminal.raw


@pytest.mark.parametrize("names", [(), ("opneai",)])
def test_nobody_is_there(base, names):
    """It says what to look at."""
    with Terminal([*WATCH, *names, *base]) as terminal:
        terminal.until(lambda text: "registered: check the names" in text)


def test_the_page_shows_what_it_draws(base, one_real):
    """docs/command-line.md: head, table and order; the numbers are of the moment."""
    ((_, shown),) = [each for each in consoles("docs/command-line.md") if each[0] == "redis-router watch"]
    store = one_real.store("gw")
    for name in ("openai", "azure", "anthropic"):
        store.register(Provider(name, ("gpt-4o",)), CircuitConfig(consecutive_failure_limit=1))
    store.record([Batch("openai", 1, [Result("openai", Outcome.FAILURE, 5.0, 1, reason="http_503")])])
    store.record([Batch("azure", 1, [Result("azure", Outcome.SUCCESS, 120.0, 1)], UnderWay(3))])
    store.override("anthropic", "drain", 1_800_000, 0, "alice@ops-1", "a new contract")
    with Terminal([*WATCH, *base]) as terminal:
        drawn = terminal.until(lambda text: "drain until" in text)
    moment = re.compile(r"\d+ s|\d\S+ \d\d:\S+")
    for pattern in (
        r" PROVIDER .*",
        r" openai .*\n.*\n.*",
        r" anthropic  held.*\n.*",
        r" azure .*",
        r"  anthropic  drain until .*",
    ):
        of_the_page, today = (moment.sub("N", re.search(pattern, text)[0]) for text in (shown, drawn))
        assert of_the_page == today


def test_without_a_terminal(base):
    """It says what to take instead."""
    code, out, err = run("watch", *base)
    assert (code, out, "status" in err, "events --follow" in err) == (2, "", True, True)


def test_without_rich(base):
    """With what to install."""
    code = "import sys; sys.modules['rich'] = None; from redis_router.cli import main; sys.exit(main(sys.argv[1:]))"
    asked = subprocess.run([sys.executable, "-c", code, "watch", *base], capture_output=True, text=True, timeout=60)
    assert (asked.returncode, "pip install 'redis-llm-router[watch]'" in asked.stderr) == (2, True), asked.stderr
    assert os.linesep not in asked.stderr.rstrip()
