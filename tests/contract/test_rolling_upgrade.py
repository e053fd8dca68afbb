"""Versions that follow each other on one Redis: records without a schema, replicas that know none, a newer schema.

`data/before_schema` holds what the last version without a schema left in Redis, and its scripts.
"""

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from redis_router import CircuitConfig, Outcome, Provider, ProviderHealth, RedisRefused
from redis_router.circuit.outcome import Result
from redis_router.circuit.record import SCHEMA
from redis_router.store import messages, scripts
from redis_router.store.commands import Commands
from redis_router.store.contract import Batch
from redis_router.store.memory import Memory, MemoryStore
from redis_router.store.redis import RedisStore
from tests.contract.records import CONFIG
from tests.support import eventually, recorded, result

BEFORE = Path(__file__).parent.parent / "data" / "before_schema"
RECORDS = json.loads((BEFORE / "records.json").read_text())
OPENAI, AZURE = Provider("openai", ("m",)), Provider("azure", ("m",))
NOW_MS = 1_002_000
"""Two seconds after those records were written."""
FAILED_TWICE = [result("openai", False)] * 2
NEWER = {"circuit_state": "forced", "schema": str(SCHEMA + 1), "generation": "many"}


@pytest.fixture
def keeps(backend, redis_client):
    """What Redis keeps of a provider: `keeps(name)` reads its record, `keeps(name, fields)` first puts one there."""

    def fields_of(name="openai", written=None):
        key = backend.keys.health(name)
        if written is not None:
            redis_client.delete(key)
            redis_client.hset(key, mapping=written)
        return messages.pairs(redis_client.hgetall(key))

    return fields_of


LEARNED = (
    "result_gap_ms", "answers_per_s", "calls_per_s", "paced_until_ms", "in_flight", "concurrency_limit", "limit_growth",
    "samples", "usual_latency_ms",
    "latency_deviation_ms", "floor_latency_ms", "near_latency_ms", "near_load", "longest_latency_ms", "call_ms",
    "overdue", "answering", "still_answers",
)  # fmt: skip
"""What the version before does not know of, and leaves as it is."""


@contextmanager
def the_version_before():
    """In this block the stores run its scripts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scripts, "load", _script_of_before)
        args_of = RedisStore._record_args
        patch.setattr(RedisStore, "_record_args", lambda store, batch: _args_of_before(args_of(store, batch)))
        run = Commands.run
        patch.setattr(Commands, "run", lambda self, name, keys, args: run(self, name, keys, _run_args(name, args)))
        yield


def _run_args(name, args):
    """No reason for an update."""
    return [*args[:5], *args[6:]] if name == "update" else args


def _args_of_before(args):
    """Five keys, and nothing of calls in flight."""
    return [5, *args[1:6], *args[7:14], *args[17:]]


def _script_of_before(name):
    text = "".join((BEFORE / f"{part}.lua").read_text() for part in ("_prelude", name))
    return scripts.Script(name, text, scripts.sha_of(text))


class TestRecordsWithoutASchema:
    """As the version before wrote them, and one of a version still older."""

    @pytest.mark.parametrize("kind", RECORDS)
    def test_are_read_and_folded_alike_by_both_stores(self, backend, keeps, kind):
        """What comes of the next results, in Redis and in memory."""
        keeps("openai", RECORDS[kind])
        before = ProviderHealth.from_fields("openai", RECORDS[kind])
        memory, store = MemoryStore(Memory(), "rr", "gw", now_ms=NOW_MS), backend.store(now_ms=NOW_MS)
        memory.put(before)
        assert store.snapshot(["openai"]).records == memory.snapshot(["openai"]).records == {"openai": before}
        batch = Batch(
            "openai",
            1,
            [
                Result("openai", Outcome.FAILURE, 250.0, before.generation, reason="timeout"),
                Result("openai", Outcome.SUCCESS, 1500.0, before.generation),
                Result("openai", Outcome.RATE_LIMITED, 0.0, before.generation, cooldown_ms=7_000.0),
            ],
        )
        assert memory.record([batch]) == store.record([batch])
        assert keeps()["schema"] == str(SCHEMA)

    @pytest.mark.parametrize("kind", RECORDS)
    def test_get_their_schema_with_the_next_change(self, backend, keeps, kind):
        """To read them is none."""
        keeps("openai", RECORDS[kind])
        store = backend.store(now_ms=NOW_MS)
        store.snapshot(["openai"])
        store.claim("openai", ["token"], 1_000)
        store.half_open("openai")
        assert keeps() == RECORDS[kind]
        store.update("openai", {"weight": "3"})
        assert keeps()["schema"] == str(SCHEMA)

    def test_are_joined_and_served(self, keeps, router):
        """By a router that starts: the circuit and the averages are those of the record."""
        for name, kind in (("openai", "closed"), ("azure", "older")):
            keeps(name, RECORDS[kind])
        replica = router(strategy="round_robin")
        for provider in (OPENAI, AZURE):
            replica.register_provider(provider)
        replica.start()
        assert replica.flush()
        health = replica.get_health_status()
        assert {name: h.latency_ms for name, h in health.items()} == {"openai": 105.1703125, "azure": 105.1703125}
        assert {replica.select_provider("m").name for _ in range(4)} == {"openai", "azure"}


class TestReplicasOfTheVersionBefore:
    """They go on beside those of this version, and leave alone what they do not know."""

    def test_the_record_ends_as_if_all_were_of_this_version(self, backend, keeps, redis_client):
        """The two take turns, from registering to half-open; the schema stays, and so does a field that both ignore."""
        after, before = backend.store("after"), backend.store("before")
        alone = MemoryStore(Memory(), "rr", "alone")
        steps = [
            lambda store: store.register(OPENAI, CONFIG),
            lambda store: store.update("openai", {"weight": "3"}),
            *[lambda store, seq=seq: recorded(store, "openai", seq, *FAILED_TWICE[: 2 - seq % 2]) for seq in (1, 2)],
            lambda store: store.half_open("openai"),
            lambda store: store.claim("openai", ["a", "b", "c"], 1_000),
            lambda store: store.register(OPENAI, CONFIG),
            *[lambda store, seq=seq: recorded(store, "openai", seq, result("openai", True, 3)) for seq in (3, 4)],
        ]
        for number, step in enumerate(steps):
            after.now_ms = before.now_ms = alone.now_ms = 1_000 + 10_000 * number
            step(alone)
            if number % 2:
                with the_version_before():
                    step(before)
            else:
                step(after)
            redis_client.hset(backend.keys.health("openai"), "of_a_later_version", "x")
        found = keeps()
        assert (found["schema"], found["of_a_later_version"]) == (str(SCHEMA), "x")
        ended, expected = backend.record(), alone.snapshot(["openai"]).records["openai"]
        assert expected.generation == 4
        news = ("version", "declined_settings", *LEARNED)
        assert ended == replace(expected, **{name: getattr(ended, name) for name in news})

    def test_they_may_restore_a_lost_record(self, backend, keeps, redis_client):
        """It has no schema then, until a replica of this version changes it."""
        before, after = backend.store("before", now_ms=1_000), backend.store("after", now_ms=1_000)
        copy = after.register(OPENAI, CONFIG).health
        redis_client.delete(backend.keys.health("openai"))
        with the_version_before():
            assert before.restore(OPENAI, copy).status == "created"
        assert "schema" not in keeps()
        assert recorded(after, "openai", 1, result("openai", True)).status == "ok"
        assert keeps()["schema"] == str(SCHEMA)

    @pytest.mark.redis("there are no versions beside each other")
    def test_they_leave_an_override_alone_and_do_not_obey_it(self, backend):
        """It does not obey, which the page says: it gives permits. Who is of this version goes on obeying."""
        before, after = backend.store("before", now_ms=1_000), backend.store("after", now_ms=1_000)
        after.register(OPENAI, CONFIG)
        after.override("openai", "drain", 60_000, 0, "alice", "maintenance")
        with the_version_before():
            recorded(before, "openai", 1, *[result("openai", False)] * CONFIG.consecutive_failure_limit)
            before.now_ms = after.now_ms = 2_000 + round(CONFIG.open_timeout * 1000)
            assert before.half_open("openai").health.override == "drain"
            assert before.claim("openai", ["a"], 1_000)[1] == ["a"]
        assert after.claim("openai", ["b"], 1_000)[1] == []
        assert backend.record().override_reason == "maintenance"

    def test_a_field_that_is_unknown_is_read_past(self):
        """By this version, too: so a later one may add such a field."""
        fields = {**RECORDS["closed"], "colour": "red"}
        assert ProviderHealth.from_fields("p", fields) == ProviderHealth.from_fields("p", RECORDS["closed"])


class TestANewerSchema:
    """Named, whatever else such a record says; never misread, and never overwritten."""

    @pytest.mark.parametrize("newer", [NEWER, {"schema": "7"}], ids=["other words", "without a state"])
    def test_every_script_refuses_it_by_name(self, backend, keeps, newer):
        """And leaves it as it is; the batch of a neighbour beside it is applied."""
        store = backend.store(now_ms=NOW_MS)
        store.register(AZURE, CONFIG)
        copy = store.register(OPENAI, CONFIG).health
        keeps("openai", newer)
        named = rf"schema {newer['schema']} is newer than {SCHEMA}"
        for act in (
            lambda: store.register(OPENAI, CONFIG),
            lambda: store.restore(OPENAI, copy),
            lambda: store.update("openai", {"available": "0"}),
            lambda: store.half_open("openai"),
            lambda: store.claim("openai", ["token"], 1_000),
        ):
            with pytest.raises(RedisRefused, match=named):
                act()
        refused, applied = store.record([Batch(name, 1, [result(name, True)]) for name in ("openai", "azure")])
        assert isinstance(refused, RedisRefused)
        assert applied.status == "ok"
        snapshot = store.snapshot()
        assert list(snapshot.records) == ["azure"]
        with pytest.raises(RedisRefused, match=f"{named}.*: update this process"):
            raise snapshot.unreadable["openai"]
        assert keeps() == newer

    def test_a_router_decides_on_it_alone(self, keeps, router, caplog):
        """As on every record that it cannot read; the neighbour is the fleet's."""
        keeps("openai", NEWER)
        replica = router(circuit=CircuitConfig(consecutive_failure_limit=2, open_timeout=60))
        for provider in (OPENAI, AZURE):
            replica.register_provider(provider)
        replica.start()
        assert replica.flush()
        assert any(f"schema {NEWER['schema']} is newer" in line.getMessage() for line in caplog.records)
        for name in ("openai", "azure"):
            for _ in range(2):
                replica.record_result(name, success=False, latency_ms=5.0)
            eventually(lambda name=name: replica.get_circuit_state(name) == "open", f"{name} is open")
        assert replica.flush()
        assert replica.redis_up
        assert keeps("azure")["circuit_state"] == "open"
        assert keeps() == NEWER
