"""What a message says, and one delivery of it: times, answers, and what is kept out of logs."""

import json
import logging
import sys
import time
from email.utils import formatdate

import pytest

from redis_router import HealthChecker, InvalidArgument, Webhook
from redis_router.store.messages import LoggedEvent
from redis_router.worker import delivery, notices
from redis_router.worker.delivery import Delivery, NotTaken, TryAgain, seconds_to_wait
from redis_router.worker.notices import changes_of, compose
from tests.support.http import receiver


def drains(number, reason="why"):
    """So many drains of a provider, as entries of its log."""
    details = {"from": "", "to": "drain", "until_ms": "5000", "reason": reason}
    return [LoggedEvent(1000 + n, "override", "alice", details, f"{1000 + n}-0") for n in range(number)]


def message(*events, name="openai"):
    return compose("rr", "w1", changes_of("rr", name, events or drains(1), None))


@pytest.fixture
def hears():
    with receiver() as made:
        yield made


@pytest.fixture
def delivers(hears):
    made = Delivery(Webhook(hears.url, "a secret for the tests"))
    yield made
    made.close()


class TestMessages:
    def test_the_same_changes_are_the_same_message(self):
        """Whoever sends it: its id is theirs."""
        again = compose("rr", "w2", changes_of("rr", "openai", drains(1), None))
        assert again.id == message().id
        assert message(*drains(2)).id != message().id

    def test_a_text_has_at_most_so_many_lines(self):
        """Those before the last twenty are named by their providers."""
        changes = [change for n in range(60) for change in changes_of("rr", f"p{n:02}", drains(1), None)]
        text = _text(compose("rr", "w1", changes))
        assert len(text) == 2 + notices.MOST_LINES
        assert text[0] == "rr: 60 changes"
        assert text[1].startswith("40 before these, of p00, p01, ")
        assert text[-1].startswith("p59 is under drain until 1970-01-01 00:00:05 UTC (why); by alice at ")

    def test_what_is_no_news_is_not_told(self):
        """Rate limits, registrations, and what a probe said meanwhile."""
        quiet = [
            LoggedEvent(1, "cooling", "gw", {"detail": "5000 ms"}, "1-0"),
            LoggedEvent(1, "registered", "gw", {"detail": ""}, "1-1"),
            LoggedEvent(1, "updated", "w1", {"detail": "probe_result passes>HTTP 503"}, "1-2"),
            LoggedEvent(1, "", "", {}, "1-3"),
        ]
        assert changes_of("rr", "openai", quiet, None) == []

    def test_what_an_operator_did_for_good(self):
        """With the reason, where one was given."""
        done = [
            LoggedEvent(
                1, "updated", "alice", {"detail": "available 1>0 unavailable_reason >operator", "reason": "old"}, "1-0"
            ),
            LoggedEvent(2, "updated", "alice", {"detail": "available 0>1 unavailable_reason operator>"}, "2-0"),
            LoggedEvent(3, "reset", "bob", {"from": "open", "to": "closed", "reason": "another region"}, "3-0"),
        ]
        told = [notices.sentence(change).partition(";")[0] for change in changes_of("rr", "openai", done, None)]
        assert told == [
            "openai is out of service (old)",
            "openai is back in service",
            "openai was reset (another region): it is closed, was open",
        ]

    def test_what_a_hand_wrote_is_told_as_it_stands(self):
        """Nothing in a log raises."""
        odd = LoggedEvent(1, "transition", "", {"generation": "x", "to": "<open>"}, "1-0")
        (change,) = changes_of("rr", "openai", [odd], None)
        assert (change.generation, change.to) == (None, "<open>")
        late = LoggedEvent(2**52, "override", "a", {"to": "drain", "until_ms": "9" * 15}, "1-1")
        assert "for ever" in _text(message(late))[0]
        for digits in ("9" * 30, "9" * 5000, "\u00b2", "-1", ""):
            longest = LoggedEvent(1, "override", "a", {"to": "drain", "until_ms": digits}, "1-1")
            (change,) = changes_of("rr", "openai", [longest, LoggedEvent(1, "x", "", {}, "1-2")], None)
            assert change.until_ms is None
            (change,) = changes_of("rr", "openai", [LoggedEvent(1, "transition", "", {"generation": digits})], None)
            assert change.generation is None
        assert _text(message(odd)) == ["rr: openai is &lt;open&gt;, was ; by somebody at 1970-01-01 00:00:00 UTC"]

    def test_a_line_is_one_change(self):
        """What a hand wrote with line ends, escapes or turned text into a log forges no other one."""
        forged = drains(1, "slow\nopenai is closed; by alice\r\x1b[2K\u202e")
        (line,) = _text(message(*forged))
        assert r"(slow\nopenai is closed; by alice\r\x1b[2K\u202e); by alice at" in line
        (change,) = json.loads(message(*forged).body)["changes"]
        assert (change["reason"], change["text"].isprintable()) == (forged[0].details["reason"], True)


def _text(made):
    return json.loads(made.body)["text"].splitlines()


class TestDelivery:
    def test_it_has_its_time(self, delivers, hears, monkeypatch):
        """A receiver that hangs, and one that drips a byte now and then."""
        monkeypatch.setattr(delivery, "TIME_OUT", 0.5)
        for answer in ("hang", "drip"):
            hears.answers.append(answer)
            with pytest.raises(TryAgain, match=r"no answer within 0\.5 s"):
                delivers.post(message())

    def test_nobody_there(self, hears):
        """What the system says, and not to whom."""
        delivers = Delivery(Webhook("http://127.0.0.1:1/services/a-secret"))
        with pytest.raises(TryAgain, match="refused") as failed:
            delivers.post(message())
        assert "a-secret" not in str(failed.value)
        delivers.close()

    def test_a_redirect_is_not_followed(self, delivers, hears):
        """The address was given for a reason."""
        hears.answers.append((307, {"location": "/elsewhere"}))
        with pytest.raises(NotTaken, match="redirects are not followed"):
            delivers.post(message())
        assert len(hears.asked) == 1

    def test_httpx_does_not_log_the_address(self, delivers, hears, caplog):
        """It logs each request; those of others it goes on to log."""
        caplog.set_level(logging.DEBUG)
        caplog.set_level(logging.DEBUG, "httpx")  # whoever made it quieter in this process
        delivers.post(message())
        assert len(hears.asked) == 1
        assert "a-secret" not in caplog.text
        logging.getLogger("httpx").info("HTTP Request: GET https://example.com/")
        assert "example.com" in caplog.text

    def test_without_httpx_it_says_what_to_install(self, monkeypatch):
        """At once."""
        monkeypatch.setitem(sys.modules, "httpx", None)
        with pytest.raises(InvalidArgument, match=r"\[worker\]"):
            HealthChecker("memory://webhook", webhook=Webhook("http://127.0.0.1:1/"))

    @pytest.mark.parametrize(
        ("said", "seconds"),
        [("7", 7.0), ("0", 0.0), ("99999", 300.0), ("soon", 0.0), ("", 0.0), ("-5", 0.0), ("9" * 400, 300.0)],
    )
    def test_retry_after_in_seconds(self, said, seconds):
        """At most five minutes; nonsense is nothing."""
        assert seconds_to_wait(said) == seconds

    def test_retry_after_as_a_date(self):
        """From this machine's clock on."""
        assert seconds_to_wait(formatdate(time.time() + 60, usegmt=True)) == pytest.approx(60, abs=3)
        assert seconds_to_wait(formatdate(time.time() - 60, usegmt=True)) == 0.0
