"""One broken value in Redis: the neighbour is served, and the circuit works."""

import logging

import pytest

from redis_router import NoProviderAvailable
from redis_router.store.connect import connect
from redis_router.store.redis import RedisStore
from tests.faults.attacked import CONFIG, HEALTHY, fail, record_of, said, until
from tests.support import eventually, metric
from tests.support.fleet import new_router, refresh

MANGLED = [
    {"circuit_state": "foo"},
    {"circuit_state": b"\xff\xfe"},
    {b"\xff": b"\xff"},
    {"cooldown_until_ms": "1e17", "cooldown_ms": "1e17"},
    {"cooldown_until_ms": "253402300800000000", "cooldown_ms": "9e15"},
    {"latency_ms": "nan"},
    {"latency_ms": "-5"},
    {"failure_rate": "inf"},
    {"failure_rate": "NOPERM no permissions"},
    {"weight": "nan"},
    {"weight": "-1"},
    {"generation": "9" * 400},
    {"version": "x"},
    {"open_timeout_ms": "1e999"},
    {"window_calls": "9" * 5000},
    {"schema": "x"},
    {"schema": "2", "circuit_state": "forced", "generation": "a word"},
]


class TestOneBadValue:
    """Written by hand into one record."""

    @pytest.mark.parametrize("fields", MANGLED, ids=lambda fields: str(next(iter(fields.items())))[:40])
    def test_the_neighbour_is_served_and_the_circuit_works(self, admin, router, made, caplog, fields):
        """In a router that runs and in one that starts; and when the value is put right, the fleet's word counts."""
        caplog.set_level(logging.INFO, "redis_router")
        right = record_of(admin)
        key = "rr:{broken}:health"
        admin.hset(key, mapping=fields)
        for each in (router, made()):
            for _ in range(20):
                each.select_provider("m")
            fail(each)
            fail(each)
            until(each, "open")
            assert {each.select_provider("m").name for _ in range(50)} == {"healthy"}
            each.record_result("healthy", success=True, latency_ms=5.0)
            assert each.flush()
            assert each.redis_up
            assert metric(each, "requests_total", provider="healthy", outcome="success") == 1
            with pytest.raises(NoProviderAvailable, match="open"):
                list(each.attempts("m", wait=False)) and each.attempt("m", exclude=["healthy"])
        assert not said(caplog, "failed, and goes on")
        for field in fields:
            admin.hset(key, field, right[field]) if field in right else admin.hdel(key, field)
        eventually(lambda: router.get_circuit_state("broken") == record_of(admin)["circuit_state"], "the fleet's word")

    def test_weight_0_drains(self, admin, router, caplog):
        """By hand or by `update_health`: no calls, no trial calls, no tracebacks."""
        for zero in (
            lambda: admin.hset("rr:{broken}:health", "weight", "0"),
            lambda: router.update_health("broken", weight=0),
        ):
            zero()
            router.record_result("broken", success=True, latency_ms=5.0)
            assert router.flush()
            assert {router.select_provider("m").name for _ in range(50)} == {"healthy"}
            with pytest.raises(NoProviderAvailable, match="drained: its weight is 0"):
                router.attempt("m", exclude=["healthy"])
            router.update_health("broken", weight=1)
            eventually(lambda: {router.select_provider("m").name for _ in range(50)} == {"healthy", "broken"})
        assert not said(caplog, "failed")


class TestOtherKeys:
    """Beside the records."""

    def test_junk_on_the_channel_is_passed_over(self, admin, router, caplog):
        """No listener begins anew for it, whatever it is."""
        listener = [client["id"] for client in admin.client_list(_type="pubsub")]
        junk = [
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"event": 1e999}',
            b'{"event": "transition", "provider": "broken"}',
            b"\0",
        ]
        junk += [b'{"event":"averages","provider":"broken","by":"x","health":{"circuit_state":"open"}}', b"null", b"3"]
        for each in junk:
            admin.publish("rr:events", each)
        admin.hset("rr:{healthy}:health", "weight", "7")
        router.update_health("healthy", available=True)
        eventually(lambda: router.get_health_status()["healthy"].weight == 7)
        assert router.redis_up
        assert [client["id"] for client in admin.client_list(_type="pubsub")] == listener
        assert not said(caplog, "out of touch")

    def test_a_client_that_decodes_survives_it_too(self, server, admin):
        """A redis-py client of the user's own, with decode_responses=True."""
        import redis

        client = redis.Redis(port=server.port, decode_responses=True, socket_timeout=0.5, socket_connect_timeout=0.5)
        with new_router(client, circuit=CONFIG) as router:
            router.register_provider(HEALTHY)
            assert router.flush()
            admin.publish("rr:events", b"\xff\xfe")
            admin.hset("rr:{healthy}:health", b"\xff", b"\xff")
            admin.hset("rr:providers", b"\xff", b"\xff")
            fail(router, "healthy")
            assert router.flush()
            assert router.get_circuit_state("healthy") == "open"
            assert router.redis_up
        client.close()

    def test_entries_of_providers_that_are_not_ours(self, admin, router, made):
        """Names that are no names, and specs that are no specs."""
        for name, spec in {
            b"\xff\xfe": b"{}",
            "deep": "[" * 100_000,
            "far": '{"models": ["m"], "generation": 1e999, "deregistered": true}',
            "a}b": '{"models": ["m"]}',
            "odd": '{"models": 7}',
            "number": "7",
            "": "{}",
        }.items():
            admin.hset("rr:providers", name, spec)
        second = made()
        assert second.redis_up
        assert second.select_provider("m").name in ("broken", "healthy")
        refresh(router)
        assert router.redis_up

    @pytest.mark.parametrize("spoil", ["type", "epoch"])
    def test_a_lease_that_is_none(self, server, admin, router, spoil, caplog):
        """Routers go on, and a worker heals what it can and names what it cannot."""
        admin.delete("rr:{leader}")
        if spoil == "type":
            admin.set("rr:{leader}", "x")
        else:
            admin.hset("rr:{leader}", mapping={"worker": b"\xff", "epoch": "abc", "until_ms": "nan", "lease_ms": "-1"})
        refresh(router)
        fail(router)
        assert router.flush()
        assert router.redis_up
        status, leader = None, None
        if spoil == "epoch":
            status, leader = RedisStore(connect(server.url), "rr", "w").campaign(1000)
            assert (status, leader.worker) == ("elected", "w")

    @pytest.mark.parametrize("key", ["health", "permits", "events", "reporters", "seq"])
    def test_a_key_of_another_type_concerns_its_provider(self, admin, router, key):
        """What is refused is counted, the provider is decided on here, the neighbour in the fleet."""
        name = f"rr:{{broken}}:{key}"
        if key == "seq":
            fail(router, times=1)
            assert router.flush()
            (name,) = admin.keys("rr:{broken}:seq:*")
        admin.delete(name)
        admin.lpush(name, "x")
        fail(router)
        until(router, "open")
        fail(router, "healthy")
        until(router, "open", "healthy")
        assert router.flush()
        assert record_of(admin, "healthy")["circuit_state"] == "open"
        counted = metric(router, "requests_total", provider="broken", outcome="failure")
        assert counted + metric(router, "results_dropped_total", reason="refused") == 3 + (key == "seq")
        assert router.redis_up


def test_when_every_record_is_refused_the_replica_is_alone(admin, made):
    """And says so in `redis_up`; it is back when they can be used."""
    router = made(refresh_interval=0.5)
    right = {name: record_of(admin, name) for name in ("broken", "healthy")}
    for name in right:
        admin.delete(f"rr:{{{name}}}:health")
        admin.set(f"rr:{{{name}}}:health", "x")
        fail(router, name)
    for name in right:
        until(router, "open", name)
    eventually(lambda: not router.redis_up)
    for name, fields in right.items():
        admin.delete(f"rr:{{{name}}}:health")
        admin.hset(f"rr:{{{name}}}:health", mapping=fields)
    eventually(lambda: router.redis_up)
    for name in right:
        until(router, "closed", name)


def test_a_lost_open_record_is_back_at_once(admin, made):
    """Evicted or deleted: nobody writes it, so that nobody would notice by a result."""
    router = made(refresh_interval=3600.0)
    fail(router)
    assert router.flush()
    assert record_of(admin)["circuit_state"] == "open"
    admin.delete("rr:{broken}:health")
    eventually(lambda: record_of(admin).get("circuit_state") == "open", "it is back", 15)
