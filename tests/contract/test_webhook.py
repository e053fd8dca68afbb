"""What the leader tells a webhook, on every store: a real receiver over HTTP hears it."""

import base64
import hashlib
import hmac
import json
import logging
from dataclasses import replace

import pytest

from redis_router import InvalidArgument, Provider, Webhook
from redis_router.circuit.overrides import FOR_EVER_MS
from redis_router.worker import notifier
from tests.support import eventually, metric, recorded, result
from tests.support.fleet import OPENAI, QUICK, new_worker
from tests.support.http import receiver

SECRET = "whsec_" + base64.b64encode(b"sixteen bytes at least").decode()
SLOW = replace(QUICK, open_timeout=60.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """As little waiting as the tests can do with."""
    monkeypatch.setattr(notifier, "TOGETHER_SECONDS", 0.1)
    monkeypatch.setattr(notifier, "BETWEEN_SECONDS", 0.0)
    monkeypatch.setattr(notifier, "_WAITS", lambda state: 0.02)


@pytest.fixture
def hears():
    with receiver() as made:
        yield made


@pytest.fixture
def reached(backend):
    """For a worker: its user may read logs."""
    return backend.url if backend.name == "memory" else backend.client()


@pytest.fixture
def worker(backend, hears, reached):
    """Makes workers that lead and tell; stops them."""
    made = []

    def make(**options):
        webhook = Webhook(hears.url, SECRET)
        found = new_worker(reached, **{"namespace": backend.namespace, "webhook": webhook, "worker": "w1", **options})
        made.append(found)
        found.start()
        eventually(lambda: found.is_leader)
        eventually(lambda: "*" in backend.operator().told())
        return found

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def store(backend):
    """Of an operator, with openai registered."""
    made = backend.operator()
    made.register(OPENAI, SLOW)
    return made


def trip(store, name="openai", seq=1):
    recorded(store, name, seq, *[result(name, False)] * 3)


def test_a_transition_is_told_once_with_why_and_until_when(worker, store, hears):
    """By the leader, whoever caused it; and nothing of what was before the webhook."""
    store.override("openai", "drain", 0, 0, "alice", "before")
    store.override("openai", "end", 0, 0, "alice", "before")
    said_ms = store.events("openai")[-1].at_ms
    eventually(lambda: store.leader()[0] > said_ms + 1)  # what happens in the millisecond of its beginning is told
    tells = worker()
    trip(store)
    eventually(lambda: hears.changes)
    (change,) = hears.changes
    text = change.pop("text")
    entry = next(event for event in store.events("openai") if event.event == "transition")
    record = store.snapshot(["openai"]).records["openai"]
    assert change == {
        "id": f"{store.keys.namespace}:openai:{entry.id}",
        "provider": "openai",
        "event": "transition",
        "at_ms": entry.at_ms,
        "by": "operator",
        "from": "closed",
        "to": "open",
        "reason": "consecutive_failures",
        "generation": record.generation,
        "until_ms": record.last_state_change_ms + 60_000,
        "override": "",
    }
    assert text.startswith("openai is open (consecutive_failures), was closed, trial calls from ")
    (message,) = hears.messages
    assert message["text"] == f"{store.keys.namespace}: {text}"
    assert (message["namespace"], message["worker"], message["left_out"]) == (store.keys.namespace, "w1", 0)
    eventually(lambda: metric(tells, "webhook_deliveries_total", result="delivered") == 1)


def test_overrides_are_told_with_who_why_and_until_when(worker, store, hears):
    """Their ends, too, also of those that end by themselves; and what is said for good."""
    worker()
    store.override("openai", "drain", 3_600_000, 0, "alice", "slow <!channel> & more")
    store.override("openai", "end", 0, 0, "bob", "all well")
    store.override("openai", "weight", 0, 0.5, "bob", "")
    store.update("openai", {"available": "0", "weight": "3.0"})
    store.override("openai", "weight", 200, 0.25, "bob", "")
    eventually(lambda: len(hears.changes) >= 7)
    members = ("event", "from", "to", "reason", "by")
    assert sorted(hears.told(*members)) == sorted(
        [
            ("override", "", "drain", "slow <!channel> & more", "alice"),
            ("override", "drain", "", "all well", "bob"),
            ("weight_override", "2", "0.5", "", "bob"),
            ("weight_override", "0.5", "0.25", "", "bob"),
            ("weight_override", "0.25", "3", "expired", "w1"),
            ("availability", "available", "unavailable", "operator", "operator"),
            ("weight", "2", "3", "", "operator"),
        ]
    )
    assert hears.changes[0]["until_ms"] - hears.changes[0]["at_ms"] == pytest.approx(3_600_000, abs=100)
    assert FOR_EVER_MS in [until for (until,) in hears.told("until_ms")]
    text = "\n".join(message["text"] for message in hears.messages)
    assert "openai is under drain until " in text
    assert "(slow &lt;!channel&gt; &amp; more); by alice at " in text
    assert "<" not in text
    assert "openai has weight 0.5 for ever, had 2; by bob" in text


def test_what_moves_no_calls_is_told_as_that(worker, store, hears):
    """Under observe."""
    worker()
    store.override("openai", "observe", 0, 0, "alice", "")
    trip(store)
    eventually(lambda: len(hears.changes) == 2)
    assert hears.told("event", "override") == [("override", ""), ("transition", "observe")]
    assert "openai would be open but for observe (consecutive_failures)" in hears.changes[1]["text"]


def test_the_signature_is_that_of_standard_webhooks(worker, store, hears):
    """Over id, timestamp and body, reckoned anew here."""
    worker()
    trip(store)
    eventually(lambda: hears.asked)
    headers, body = hears.asked[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert headers["webhook-id"] == json.loads(body)["id"]
    assert headers["content-type"] == "application/json"


def test_without_a_secret_it_is_not_signed(worker, store, hears):
    """As for Slack, which would not look."""
    worker(webhook=Webhook(hears.url))
    trip(store)
    eventually(lambda: hears.asked)
    assert "webhook-signature" not in hears.asked[0][0]


@pytest.mark.parametrize("answer", [500, 503, 408, (429, {"retry-after": "0"})])
def test_a_receiver_in_trouble_is_asked_again(worker, store, hears, answer):
    """The same message under the same id, until it is taken; and then no more."""
    tells = worker()
    hears.answers.extend([answer] * 3)
    trip(store)
    eventually(lambda: len(hears.asked) == 4)
    eventually(lambda: metric(tells, "webhook_deliveries_total", result="delivered") == 1)
    assert len({headers["webhook-id"] for headers, _ in hears.asked}) == 1
    assert len({body for _, body in hears.asked}) == 1
    assert metric(tells, "webhook_deliveries_total", result="failed") == 3
    store.override("openai", "drain", 0, 0, "alice", "")
    eventually(lambda: len(hears.asked) == 5)
    assert [change["event"] for change in hears.messages[-1]["changes"]] == ["override"]


def test_retry_after_is_honoured(worker, store, hears, monkeypatch):
    """A second and more, where else it would be some milliseconds."""
    waited = []
    monkeypatch.setattr(notifier.Notifier, "_sleep", lambda self, seconds: waited.append(seconds))
    worker()
    hears.answers.extend([(429, {"retry-after": "7"}), (503, {"retry-after": "99999"})])
    trip(store)
    eventually(lambda: len(hears.asked) == 3)
    assert waited == [7.0, 300.0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (404, "HTTP 404"),
        (403, "HTTP 403"),
        ((302, {"location": "/elsewhere"}), "HTTP 302: redirects are not followed"),
    ],
)
def test_a_refusal_is_final(worker, store, hears, caplog, answer, said):
    """Said once, counted, and what comes after is told."""
    caplog.set_level(logging.INFO)
    tells = worker()
    hears.answers.extend([answer] * 2)
    for number, word in enumerate(("drain", "force_open"), start=1):
        store.override("openai", word, 0, 0, "alice", "")
        eventually(lambda number=number: metric(tells, "webhook_dropped_total", reason="refused") == number)
    store.override("openai", "end", 0, 0, "alice", "")
    eventually(lambda: "is told again what happens" in caplog.text)
    assert metric(tells, "webhook_deliveries_total", result="delivered") == 1
    assert [change["to"] for change in hears.changes] == ["drain", "force_open", ""]
    lines = [record.getMessage() for record in caplog.records if "the webhook at" in record.getMessage()]
    assert len(lines) == 2
    assert said in lines[0]
    assert lines[1] == "the webhook at 127.0.0.1 is told again what happens"
    assert "a-secret" not in caplog.text


def test_many_at_once_are_one_message(worker, store, hears, monkeypatch):
    """Fifty providers that open together: one page that names them all."""
    names = [f"p{number:02}" for number in range(50)]
    for name in names:
        store.register(Provider(name, ("m",)), SLOW)
    monkeypatch.setattr(notifier, "TOGETHER_SECONDS", 1.0)
    worker()
    for name in names:
        trip(store, name)
    eventually(lambda: len(hears.changes) == 50)
    assert len(hears.messages) <= 2
    text = "\n".join(message["text"] for message in hears.messages)
    assert all(name in text for name in names)
    assert len(text.splitlines()) < 50


def test_after_a_long_time_it_is_a_summary(worker, store, hears):
    """Of hundreds the last of each provider and kind, and how many are left out."""
    tells = worker()
    hears.answers.append((503, {"retry-after": "1"}))
    trip(store)
    eventually(lambda: hears.asked)
    tells.stop()
    for number in range(150):
        store.override("openai", ("drain", "force_open")[number % 2], 0, 0, "alice", str(number))
    worker(worker="w2")
    eventually(lambda: len(hears.messages) == 2)
    last = hears.messages[1]
    assert [(change["event"], change["reason"]) for change in last["changes"]] == [
        ("transition", "consecutive_failures"),
        ("override", "149"),
    ]
    assert last["left_out"] == 149
    assert "149 older ones are left out" in last["text"]


def test_what_happened_between_two_leaders_is_told_by_the_next(worker, store, hears):
    """And nothing of what the first one told, under whatever name it comes back."""
    first = worker()
    trip(store)
    eventually(lambda: metric(first, "webhook_deliveries_total", result="delivered") == 1)
    first.stop()
    store.override("openai", "drain", 0, 0, "alice", "")
    worker()
    eventually(lambda: len(hears.changes) == 2)
    assert hears.told("event") == [("transition",), ("override",)]


def test_a_log_that_cannot_be_read_holds_up_no_other(worker, store, hears, redis_client):
    """Nor does an entry that is none of ours."""
    store.register(Provider("azure", ("m",)), SLOW)
    redis_client.delete(store.keys.events("azure"))
    redis_client.set(store.keys.events("azure"), "no log")
    worker()
    redis_client.xadd(store.keys.events("openai"), {"event": "transition", b"\xff": b"\xff"})
    redis_client.xadd(store.keys.events("openai"), {"event": "override", "to": "drain", "until_ms": "9" * 5000})
    trip(store, "azure")
    trip(store)
    eventually(lambda: ("openai", "closed") in hears.told("provider", "from"))
    assert {name for (name,) in hears.told("provider")} == {"openai"}


def test_a_user_that_may_not_read_logs(real, hears, caplog):
    """Is told once which right it lacks, and leads all the same."""
    checker = new_worker(real.connect(), namespace=real.namespace, webhook=Webhook(hears.url))
    real.operator().register(OPENAI, replace(QUICK, open_timeout=0.2))
    checker.start()
    eventually(lambda: "'xrevrange'" in caplog.text)
    trip(real.operator())
    eventually(lambda: real.record().circuit_state == "half_open")
    checker.stop()
    assert caplog.text.count("is not told what happens; Redis: ") == 1
    assert hears.asked == []


def test_one_run_tells_too(backend, store, hears, reached):
    """From cron: what happened since the last run."""

    def run():
        once = new_worker(reached, namespace=backend.namespace, webhook=Webhook(hears.url))
        assert once.run_once().leader
        once.stop()

    run()
    trip(store)
    hears.answers.append(503)
    for asked in (1, 2, 2):
        run()
        assert len(hears.asked) == asked
    assert hears.told("to") == [("open",)] * 2
    assert hears.changes[0] == hears.changes[1]


def test_a_stale_leader_takes_nothing_back(backend):
    """What a newer one noted stays."""
    store = backend.store(now_ms=1000)
    _, first = store.campaign(1000)
    assert store.note_told(first.epoch, {"*": "1-0", "openai": "5-0"})
    store.now_ms = 3000
    _, second = backend.store("other", now_ms=3000).campaign(1000)
    assert second.epoch > first.epoch
    assert not store.note_told(first.epoch, {"openai": "2-0"})
    assert store.told() == {"*": "1-0", "openai": "5-0"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("ftp://example.com/x",), "http"),
        (("https://user:secret-word@example.com/x",), "without user"),
        (("https:///x",), "http"),
        (("http://example.com:99999/x",), "http"),
        (("http://example.com/a b",), "http"),
        ((7,), "http"),
        (("https://example.com/x", "secret-word"), "at least 16"),
        (("https://example.com/x", "whsec_secret-word-of-length"), "base64"),
    ],
)
def test_what_cannot_be_used_is_refused_and_not_shown(given, said):
    """At once."""
    with pytest.raises(InvalidArgument, match=said) as refused:
        Webhook(*given)
    assert "secret-word" not in str(refused.value)
    assert "example" not in repr(Webhook("https://example.com/x", "a secret that is long"))
