"""Actions of the page, over every store: what they do, who did it, and what is refused before anything is done."""

import pytest

from redis_router import CircuitConfig, Provider, overriding
from redis_router.circuit.overrides import FOR_EVER_MS
from tests.support import recorded, result


@pytest.fixture
def store(backend):
    """With two providers of one model."""
    made = backend.store("gw-1")
    for name in ("openai", "azure"):
        made.register(Provider(name, ("gpt-4o",)), CircuitConfig(consecutive_failure_limit=1))
    return made


@pytest.mark.parametrize(
    ("action", "word"),
    [("drain", "drain"), ("open", "force_open"), ("close", "force_closed"), ("observe", "observe")],
)
def test_an_override(backend, page, store, action, word):
    """In the record with its end, who and why; the answer shows it."""
    status, found = page().act(
        provider="openai", action=action, seconds=60, reason="slow <b>since</b> noon", by="alice@ops-1"
    )
    assert (status, found["action"], found["by"]) == (200, action, "alice@ops-1")
    assert found["providers"][0]["override"]["word"] == word
    record = backend.record()
    assert (record.override, record.override_by, record.override_reason) == (
        word,
        "alice@ops-1",
        "slow <b>since</b> noon",
    )
    assert 0 < record.override_until_ms - found["now_ms"] <= 60_000
    event = backend.operator().events("openai")[-1]
    assert (event.event, event.by, event.details["reason"]) == ("override", "alice@ops-1", "slow <b>since</b> noon")


def test_for_an_hour_and_for_ever(backend, page, store):
    """An hour where nothing is said; for ever must be said."""
    ask = page()
    _, found = ask.act(provider="openai", action="drain")
    assert 3_590_000 < backend.record().override_until_ms - found["now_ms"] <= 3_600_000
    ask.act(provider="openai", action="drain", seconds=None)
    assert backend.record().override_until_ms == FOR_EVER_MS


def test_a_weight_and_its_end(backend, page, store):
    """`end` ends both kinds."""
    ask = page()
    assert ask.act(provider="openai", action="weight", weight=0.2, by="bob")[1]["providers"][0]["weight"] == 0.2
    ask.act(provider="openai", action="observe")
    ask.act(provider="openai", action="end", reason="all well")
    record = backend.record()
    assert (record.override, record.weight_override_until_ms) == ("", 0)


def test_ready_puts_it_back_in_service(backend, page, store):
    """Also where somebody said available=False; nobody's name is `page`."""
    store.update("openai", {"available": "0"})
    ask = page()
    ask.act(provider="openai", action="drain")
    status, found = ask.act(provider="openai", action="ready")
    assert (status, found["providers"][0]["level"], found["by"]) == (200, "ok", "page")
    assert backend.record().available
    assert {each.by for each in backend.operator().events("openai")} == {"gw-1", "page"}


def test_ready_tells_why(backend, page, store):
    """Also where there was no override to end, but an available=False."""
    store.update("openai", {"available": "0"})
    page().act(provider="openai", action="ready", by="alice", reason="mended")
    event = backend.operator().events("openai")[-1]
    assert (event.event, event.by, event.details["reason"]) == ("updated", "alice", "mended")


@pytest.mark.parametrize("action", ["drain", "ready"])
def test_all_of_a_large_fleet_at_once(page, store, monkeypatch, action):
    """In an emergency: each is not looked up among all, which would take a minute for two thousand."""
    for number in range(20):
        store.register(Provider(f"p{number}", ("m",)), CircuitConfig())
    looked, of = [], overriding.names_in_fleet
    monkeypatch.setattr(overriding, "names_in_fleet", lambda *a, **k: looked.append(1) or of(*a, **k))
    _, found = page().act(provider="*", action=action, yes=True)
    assert {each["level"] for each in found["providers"]} == {"held" if action == "drain" else "ok"}
    assert (len(found["providers"]), len(looked) < 5) == (22, True)


def test_a_reset(backend, page, store):
    """The circuit closes, an operator's word stays, and the log says who and why."""
    recorded(store, "openai", 1, result("openai", False))
    ask = page()
    ask.act(provider="openai", action="observe", by="bob")
    status, found = ask.act(provider="openai", action="reset", reason="mended", by="alice")
    assert (status, found["providers"][0]["circuit"], backend.record().override) == (200, "closed", "observe")
    told = [(each.by, each.details.get("reason")) for each in backend.operator().events("openai")]
    assert ("alice", "mended") in told


def test_the_last_one_is_not_taken_out_by_mistake(backend, page, store):
    """Where nobody would be left for a model, it takes yes: true; so it does for all at once."""
    ask = page()
    recorded(store, "azure", 1, result("azure", False))
    for asked in ({"provider": "openai", "action": "drain"}, {"provider": "*", "action": "open"}):
        status, found = ask.act(**asked)
        assert (status, found["error"]["left_alone"]) == (409, ["gpt-4o"])
    assert ask.act(provider="openai", action="weight", weight=0)[0] == 409
    assert backend.record().override == ""
    assert ask.act(provider="*", action="open", yes=True)[0] == 200
    assert {backend.record(name).override for name in ("openai", "azure")} == {"force_open"}


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        ({"provider": "nobody", "action": "drain"}, 404, "openai"),
        ({"provider": "openai", "action": "explode"}, 400, "give one of drain, open"),
        ({"provider": "openai"}, 400, "'action' is missing"),
        ({"provider": ["openai"], "action": "drain"}, 400, "give a provider's name"),
        ({"provider": "openai", "action": "drain", "for": 5}, 400, "unknown field 'for'"),
        ({"provider": "openai", "action": "drain", "seconds": -1}, 400, "seconds is -1"),
        ({"provider": "openai", "action": "drain", "seconds": "1h"}, 400, "seconds is '1h'"),
        ({"provider": "openai", "action": "drain", "seconds": 1e300}, 400, "up to"),
        ({"provider": "openai", "action": "weight"}, 400, "give weight="),
        ({"provider": "openai", "action": "drain", "weight": 2}, 400, "only there"),
        ({"provider": "openai", "action": "weight", "weight": True}, 400, "weight is True"),
        ({"provider": "openai", "action": "drain", "reason": "x" * 201}, 400, "at most 200"),
        ({"provider": "openai", "action": "drain", "reason": "two\nlines"}, 400, "on one line"),
        ({"provider": "openai", "action": "drain", "reason": 5}, 400, "reason is 5"),
        ({"provider": "openai", "action": "drain", "by": "<script>"}, 400, "'<script>' is not usable"),
        ({"provider": "openai", "action": "drain", "by": "\ud800"}, 400, "by is"),
        ({"provider": "openai", "action": "drain", "yes": "no"}, 400, "True or False"),
        (["openai", "drain"], 400, "no JSON object"),
        (None, 400, "no JSON object"),
    ],
)
def test_what_is_refused(backend, page, store, said, status, words):
    """With the value and the remedy, before anything is done."""
    before = backend.record()
    from tests.operate.conftest import BEARER

    found = page()("/api/v1/actions", raw=__import__("json").dumps(said).encode(), **BEARER)
    assert found[0] == status, found
    assert words in found[1]["error"]["message"]
    assert backend.record() == before


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 10_000, b'{"provider": NaN}'])
def test_a_body_that_is_no_json(page, store, raw):
    """It fails nothing."""
    from tests.operate.conftest import BEARER

    status, found = page()("/api/v1/actions", raw=raw, **BEARER)
    assert (status, found["error"]["code"]) == (400, "ROUTER_INVALID_ARGUMENT")
