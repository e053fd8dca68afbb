"""The JSON of the page, over every store: the fleet, a provider, events, and the stream."""

import json
import time

import pytest

from redis_router import CircuitConfig, Operator, Provider
from redis_router.operate.service import Service
from redis_router.operate.stream import Stream
from tests.operate.conftest import BEARER, Asked
from tests.support import eventually, recorded, result
from tests.support.documents import said_once

ONE = CircuitConfig(consecutive_failure_limit=1, open_timeout=30.0)


@pytest.fixture
def store(backend):
    """With two providers."""
    made = backend.store("gw-1")
    for name in ("openai", "azure"):
        made.register(Provider(name, ("gpt-4o",)), ONE)
    return made


def events_of(backend, found):
    """Without the right to read logs the page says so."""
    if backend.name in ("memory", "fakeredis"):
        assert found["events_error"] is None
        return found["events"]
    assert "xrevrange" in found["events_error"].lower()
    return None


def messages(stream, until):
    """What a viewer gets, until that is true of the last one."""
    found = []

    def comes():
        for line in stream.take().decode().splitlines():
            if line.startswith("event: "):
                found.append([line.removeprefix("event: ")])
            if line.startswith("data: "):
                found[-1].append(json.loads(line.removeprefix("data: ")))
        return found and until(found[-1][1])

    eventually(comes, "the message")
    return found


def test_the_fleet_worst_first(backend, page, store):
    """With the clock, the leader, history and events."""
    recorded(store, "openai", 1, result("openai", False))
    status, found = page()("/api/v1/fleet")
    assert status == 200
    assert [(each["name"], each["level"]) for each in found["providers"]] == [("openai", "down"), ("azure", "ok")]
    assert found["leader"] is None
    assert found["error"] is None
    assert abs(found["now_ms"] - store.leader()[0]) < 60_000
    assert found["history"]["openai"]["latency_ms"] == [10.0]
    if (events := events_of(backend, found)) is not None:
        assert {each["event"] for each in events} == {"registered", "transition"}
        assert events[0]["at_ms"] >= events[-1]["at_ms"]


def test_one_provider(backend, page, store):
    """All fields of its record, its events and its history; a name with a slash; one that nobody has."""
    store.register(Provider("azure/gpt-4o", ("gpt-4o",)), ONE)
    ask = page()
    status, found = ask("/api/v1/providers/azure/gpt-4o")
    assert (status, found["name"]) == (200, "azure/gpt-4o")
    assert found["record"]["config"]["consecutive_failure_limit"] == 1
    assert found["history"]["at_ms"]
    if (events := events_of(backend, found)) is not None:
        assert [each["event"] for each in events] == ["registered"]
    status, found = ask("/api/v1/providers/nobody")
    assert (status, found["error"]["code"]) == (404, "ROUTER_UNKNOWN_PROVIDER")
    assert "openai" in found["error"]["message"]


def test_events_of_some_and_of_all(backend, page, store):
    """Of a provider, of so many seconds, at most so many; a number that is none is refused."""
    ask = page()
    if (events := events_of(backend, ask("/api/v1/events")[1])) is None:
        return
    assert {each["provider"] for each in events} == {"openai", "azure"}
    for number in range(3):  # at one moment, mostly
        store.override("openai", "drain", 0, 0.0, f"alice-{number}", "")
    events = events_of(backend, ask("/api/v1/events")[1])
    ask.service.feed.look(0.0)
    for shown in (events, ask("/api/v1/fleet")[1]["events"]):
        said = [event["by"] for event in shown if event["provider"] == "openai"]
        assert said[:3] == ["alice-2", "alice-1", "alice-0"]
    for most in range(1, 4):
        found = ask("/api/v1/events", query=f"most={most}")[1]["events"]
        assert [event["at_ms"] for event in found] == [event["at_ms"] for event in events[:most]]
    assert {e["provider"] for e in ask("/api/v1/events", query="provider=azure&since=60")[1]["events"]} == {"azure"}
    assert ask("/api/v1/events", query="since=soon")[0] == 400
    assert ask("/api/v1/events", query="most=1001")[0] == 400
    assert ask("/api/v1/events", query="provider=nobody")[0] == 404


def test_what_happened_while_nobody_looked(backend, page, store):
    """It is there at the next look, though no push was heard."""
    ask = page()
    if events_of(backend, ask("/api/v1/fleet")[1]) is None:
        return
    ask.service.feed.close()
    recorded(store, "openai", 1, result("openai", False))
    store.override("azure", "drain", 60_000, 0.0, "alice", "slow")
    ask.service.feed.look(0.0)
    found = ask.service.feed.fleet()["events"]
    assert {(each["provider"], each["event"]) for each in found[:2]} == {
        ("openai", "transition"),
        ("azure", "override"),
    }


def test_an_empty_fleet(page):
    """It is one, too."""
    ask = page()
    assert ask("/api/v1/fleet")[1]["providers"] == []
    assert ask("/api/v1/events")[1]["events"] == []


def test_a_stream_begins_with_all_and_goes_on_with_what_changed(page, store):
    """Beats between say that it is alive."""
    ask = page()
    stream = ask.answer("/api/v1/stream")
    assert isinstance(stream, Stream)
    kind, first = messages(stream, lambda found: True)[0]
    assert kind == "fleet"
    assert {each["name"] for each in first["providers"]} == {"openai", "azure"}
    messages(stream, lambda found: found["providers"] == [])  # a beat
    recorded(store, "azure", 1, result("azure", False))
    kind, last = messages(stream, lambda found: found["providers"])[-1]
    assert kind == "changes"
    assert [(each["name"], each["circuit"]) for each in last["providers"]] == [("azure", "open")]
    stream.close()


def test_a_viewer_that_comes_back_gets_what_it_missed(page, store):
    """By the last event that it saw; one of another worker, or an invented one, begins with all."""
    ask = page()
    stream = ask.answer("/api/v1/stream")
    text = stream.take().decode()
    (mark,) = [line.removeprefix("id: ") for line in text.splitlines() if line.startswith("id: ")]
    stream.close()
    recorded(store, "openai", 1, result("openai", False))
    eventually(lambda: ask("/api/v1/fleet")[1]["providers"][0]["circuit"] == "open")
    again = ask.answer("/api/v1/stream", last_event_id=mark)
    ((kind, found),) = messages(again, lambda found: True)
    assert (kind, [each["name"] for each in found["providers"]]) == ("changes", ["openai"])
    again.close()
    for invented in ("x.1.1", mark + "9999", "..", "a.b.c", mark.partition(".")[0] + ".-1.0", "9" * 5000):
        other = ask.answer("/api/v1/stream", last_event_id=invented)
        assert messages(other, lambda found: True)[0][0] == "fleet"
        other.close()


def test_a_provider_that_goes_is_gone(page, store):
    """Who had it gets all anew."""
    ask = page()
    stream = ask.answer("/api/v1/stream")
    messages(stream, lambda found: len(found["providers"]) == 2)
    store.deregister("azure")
    found = messages(stream, lambda found: len(found["providers"]) == 1)
    assert found[-1][0] == "fleet"
    stream.close()


def test_a_stream_has_an_end_and_so_has_the_page(page, store, monkeypatch):
    """Browsers come back; a server that ends waits for nobody."""
    monkeypatch.setattr("redis_router.operate.stream.LASTS_SECONDS", 0.05)
    ask = page()
    stream = ask.answer("/api/v1/stream")
    eventually(lambda: stream.is_over)
    stream.close()
    monkeypatch.setattr("redis_router.operate.stream.LASTS_SECONDS", 500.0)
    stream = ask.answer("/api/v1/stream")
    assert not stream.is_over
    ask.service.close()
    assert stream.is_over


def test_as_many_streams_as_may(page, store):
    """One more is told to ask again and again; a place that is given back twice is one place."""
    ask = page(streams=2)
    first, second = (ask.answer("/api/v1/stream") for _ in range(2))
    status, found = ask("/api/v1/stream")
    assert (status, dict(ask.answer("/api/v1/stream").headers)["Retry-After"]) == (503, "5")
    assert "api/v1/fleet" in found["error"]["message"]
    first.close()
    first.close()
    third = ask.answer("/api/v1/stream")
    assert isinstance(third, Stream)
    assert ask("/api/v1/stream")[0] == 503
    second.close()
    third.close()


def test_a_slow_viewer_holds_up_nobody(page, store):
    """It reads nothing for long; others get each change, and it gets the last state at once."""
    ask = page()
    slow, quick = (ask.answer("/api/v1/stream") for _ in range(2))
    slow.take()
    for number in range(1, 4):
        recorded(store, "openai", number, result("openai", True, latency_ms=1000.0 * number))
        latency = store.snapshot(["openai"]).records["openai"].latency_ms
        messages(
            quick, lambda found, seen=latency: [e for e in found["providers"] if e["latency_ms"] == round(seen, 1)]
        )
    (kind, found), *more = messages(slow, lambda found: True)
    assert (kind, [each["latency_ms"] for each in found["providers"]], more) == ("changes", [round(latency, 1)], [])
    slow.close()
    quick.close()


def test_history_is_bounded(page, store, monkeypatch):
    """Five minutes of it, whatever happens."""
    monkeypatch.setattr("redis_router.operate.known.SAMPLE_MS", 0)
    ask = page()
    for _ in range(70):
        ask.service.feed.look(0.0)
        time.sleep(0.001)  # the clock has milliseconds
    assert len(ask("/api/v1/fleet")[1]["history"]["openai"]["at_ms"]) == 60


def test_an_operators_word_shows_at_once(page, backend, store):
    """Without waiting for the next look."""
    ask = page()
    stream = ask.answer("/api/v1/stream")
    messages(stream, lambda found: True)
    if backend.name == "memory" or backend.name == "fakeredis":
        with Operator(backend.connect(), backend.namespace, by="alice@ops-1") as operator:
            operator.drain("openai", reason="slow")
        found = messages(stream, lambda found: found["providers"] and found["events"])
        assert found[-1][1]["providers"][0]["override"]["by"] == "alice@ops-1"
        assert found[-1][1]["events"][0]["details"]["reason"] == "slow"
    stream.close()


@pytest.mark.redis("memory is never away")
def test_without_redis_it_shows_what_it_knew(backend, outage, page, store):
    """With the error and how old it is; and the status of an error, so that no program takes it for the truth."""
    ask = page()
    assert ask("/api/v1/fleet")[0] == 200
    with outage():
        _status, found = eventually(lambda: (got := ask("/api/v1/fleet"))[0] == 503 and got)
        assert found["error"]["code"] == "ROUTER_REDIS_UNAVAILABLE"
        assert {each["name"] for each in found["providers"]} == {"openai", "azure"}
        assert found["age_ms"] > 0
        assert ask("/api/v1/providers/openai")[0] == 503
    eventually(lambda: ask("/api/v1/fleet")[0] == 200, "it is back")


@pytest.mark.redis("memory has no users")
def test_a_user_who_may_only_look_needs_no_push_channel(backend, store):
    """As docs/operations.md has one for people: a change shows within a second or two all the same."""
    if backend.name == "fakeredis":
        return
    line = said_once(r"^ACL SETUSER viewer on >password ~rr:\* &rr:events (.+)$")
    client = backend.client()
    user = f"v{backend.namespace}"
    client.execute_command("ACL", "SETUSER", user, "on", ">password", "~*", "&*", *line.split())
    service = Service(backend.url.replace("router:", f"{user}:"), backend.namespace, token=None, open_to_look=True)
    ask = Asked(service)
    stream = ask.answer("/api/v1/stream")
    messages(stream, lambda found: found["error"] is None and found["events_error"] is None and found["events"])
    recorded(store, "azure", 1, result("azure", False))
    found = messages(stream, lambda found: found["providers"] and found["events"])
    assert [each[1]["error"] for each in found] == [None] * len(found)
    assert found[-1][1]["providers"][0]["circuit"] == "open"
    service.close()
    client.execute_command("ACL", "DELUSER", user)


def test_a_record_that_cannot_be_read_is_named(backend, page, store):
    """The others are shown."""
    if backend.name == "memory":
        return
    backend.client().hset(backend.keys.health("azure"), "failure_rate", "<script>alert(1)</script>")
    _, found = page()("/api/v1/fleet")
    assert [each["name"] for each in found["providers"]] == ["openai"]
    assert [each["name"] for each in found["unreadable"]] == ["azure"]
    assert page()("/api/v1/providers/azure")[0] == 502


def test_get_changes_nothing(page, store):
    """Whatever is asked for."""
    before = store.snapshot().records
    ask = page()
    for path in ("/api/v1/actions", "/api/v1/login", "/api/v1/logout"):
        status, found = ask(path, query="provider=openai&action=drain", **BEARER)
        assert (status, found["error"]["code"]) == (405, "ROUTER_REFUSED")
        assert dict(ask.answer(path).headers)["Allow"] == "POST"
    assert ask("/api/v1/fleet", {"provider": "openai"}, **BEARER)[0] == 405
    assert ask("/api/v1/fleet", method="DELETE")[0] == 405
    assert ask("/elsewhere")[0] == 404
    assert ask("/api/v1/providers/")[0] == 404
    assert store.snapshot().records == before
