"""What concerns one thing concerns nothing else: a lost right, a broken value, a slow link, a look-up of a name that
hangs, a log handler that raises, a signal handler that calls the router."""

import asyncio
import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from prometheus_client import CollectorRegistry

from redis_router import CircuitConfig, NoProviderAvailable, Provider, Router
from redis_router.demo.server import EmbeddedServer
from redis_router.replica.waiters import Bell
from redis_router.store.connect import connect
from redis_router.store.redis import Store
from tests.conftest import RIGHTS
from tests.support import eventually, metric
from tests.support.servers import Proxy

BROKEN, HEALTHY = Provider("broken", ("m",)), Provider("healthy", ("m",))
CONFIG = CircuitConfig(consecutive_failure_limit=3, open_timeout=60)


@pytest.fixture
def server():
    with EmbeddedServer() as server:
        let_in(server)
        yield server


def let_in(server):
    """The README's user, whom a server that starts again does not know."""
    with connect(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "router", "on", ">password", "~rr:*", "&rr:events", *RIGHTS.split())


@pytest.fixture
def admin(server):
    with connect(f"{server.url}?socket_timeout=20") as admin:
        yield admin


@pytest.fixture
def made(server):
    """Makes routers that serve both providers, as the README's user; closes them."""
    routers = []

    def make(url=f"redis://router:password@127.0.0.1:{server.port}/0", **options):
        router = Router(url, **{"circuit": CONFIG, "registry": CollectorRegistry(), **options})
        routers.append(router)
        router.register_provider(BROKEN)
        router.register_provider(HEALTHY)
        router.start()
        assert router.flush()
        return router

    yield make
    for router in routers:
        router.close()


@pytest.fixture
def router(made):
    return made()


def fail(router, name="broken", times=3):
    for _ in range(times):
        router.record_result(name, success=False, latency_ms=5.0)


def until(router, state, name="broken"):
    eventually(lambda: router.get_circuit_state(name) == state, f"{name} is {state}")


def record_of(admin, name="broken"):
    return dict(admin.hgetall(f"rr:{{{name}}}:health").items())


def said(caplog, text):
    return [r for r in caplog.records if text in r.getMessage()]


class TestRights:
    """An ACL that changes while the router runs."""

    @pytest.mark.parametrize("right", ["hset", "set", "hgetall", "evalsha", "publish", "get"])
    def test_a_lost_right_means_deciding_alone(self, admin, router, caplog, right):
        """Said once; in Redis, waiting or counted; and when it is back, nothing was applied twice."""
        caplog.set_level(logging.INFO, "redis_router")
        admin.execute_command("ACL", "SETUSER", "router", f"-{right}")
        fail(router)
        until(router, "open")
        eventually(lambda: not router.redis_up)
        assert not router.flush(0.2)
        assert metric(router._registry, "requests_total", provider="broken", outcome="failure") == 0
        assert router.select_provider("m").name == "healthy"
        admin.execute_command("ACL", "SETUSER", "router", f"+{right}")
        eventually(lambda: router.redis_up)
        assert router.flush()
        counted = metric(router._registry, "requests_total", provider="broken", outcome="failure")
        dropped = metric(router._registry, "results_dropped_total", reason="expired")
        assert counted + dropped == 3
        assert int(record_of(admin)["consecutive_failures"]) == counted
        assert len(said(caplog, "out of touch")) == 1

    def test_what_was_refused_is_not_taken_for_written(self, admin, router):
        """The note of a batch is written before the record: it counts only where the record was written, too."""
        admin.execute_command("ACL", "SETUSER", "router", "-hset")
        for _ in range(100):
            router.record_result("healthy", success=True, latency_ms=5.0)
        eventually(lambda: not router.redis_up)
        admin.execute_command("ACL", "SETUSER", "router", "+hset")
        eventually(lambda: router.redis_up)
        assert router.flush()
        dropped = metric(router._registry, "results_dropped_total", reason="expired")
        assert int(record_of(admin, "healthy")["consecutive_successes"]) == 100 - dropped


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
            assert metric(each._registry, "requests_total", provider="healthy", outcome="success") == 1
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
        listener = router._engine.mirror.thread.ident
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
        assert router._engine.mirror.thread.ident == listener
        assert not said(caplog, "out of touch")

    def test_a_client_that_decodes_survives_it_too(self, server, admin):
        """A redis-py client of the user's own, with decode_responses=True."""
        import redis

        client = redis.Redis(port=server.port, decode_responses=True, socket_timeout=0.5, socket_connect_timeout=0.5)
        with Router(client, circuit=CONFIG, registry=CollectorRegistry()) as router:
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
        router._engine.mirror.refresh()
        assert router.redis_up

    @pytest.mark.parametrize("spoil", ["type", "epoch"])
    def test_a_lease_that_is_none(self, server, admin, router, spoil, caplog):
        """Routers go on, and a worker heals what it can and names what it cannot."""
        admin.delete("rr:{leader}")
        if spoil == "type":
            admin.set("rr:{leader}", "x")
        else:
            admin.hset("rr:{leader}", mapping={"worker": b"\xff", "epoch": "abc", "until_ms": "nan", "lease_ms": "-1"})
        router._engine.mirror.refresh()
        fail(router)
        assert router.flush()
        assert router.redis_up
        status, leader = None, None
        if spoil == "epoch":
            status, leader = Store(connect(server.url), "rr", "w").campaign(1000)
            assert (status, leader.worker) == ("elected", "w")

    @pytest.mark.parametrize("key", ["health", "permits", "events", "reporters", "seq"])
    def test_a_key_of_another_type_concerns_its_provider(self, admin, router, key):
        """What is refused is counted, the provider is decided on here, the neighbour in the fleet."""
        name = f"rr:{{broken}}:{key}"
        if key == "seq":
            name = f"rr:{{broken}}:seq:{router._engine.store.session}"
        admin.delete(name)
        admin.lpush(name, "x")
        fail(router)
        until(router, "open")
        fail(router, "healthy")
        until(router, "open", "healthy")
        assert router.flush()
        assert record_of(admin, "healthy")["circuit_state"] == "open"
        counted = metric(router._registry, "requests_total", provider="broken", outcome="failure")
        assert counted + metric(router._registry, "results_dropped_total", reason="refused") == 3
        assert router.redis_up


def test_when_every_record_is_refused_the_replica_is_alone(admin, router):
    """And says so in `redis_up`; it is back when they can be used."""
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
    router._engine.mirror._stale = True
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


class TestTheWayThere:
    """Between a replica and Redis."""

    @pytest.mark.parametrize("url", ["", "?socket_timeout=3"])
    def test_a_slow_link_is_no_outage(self, server, made, caplog, url):
        """0.35 s for a round trip: up, once it was measured, and what fails opens."""
        caplog.set_level(logging.INFO, "redis_router")
        proxy = Proxy(server.port)
        proxy.delay = 0.35
        try:
            router = made(f"redis://router:password@127.0.0.1:{proxy.port}/0{url}")
            eventually(lambda: router.redis_up)
            caplog.clear()
            pings = router._engine.mirror.patience
            seen = [router.redis_up for _ in range(60) if not time.sleep(0.05)]
            assert all(seen), f"{seen.count(False)} of 60, patience {pings}"
            fail(router)
            until(router, "open")
            assert not said(caplog, "out of touch")
        finally:
            proxy.close()

    def test_deciding_does_not_wait_for_a_connect(self, server, monkeypatch, made):
        """Redis goes, and each look-up of its name hangs: the breaker of this replica decides meanwhile."""
        router = made(f"redis://router:password@localhost:{server.port}/0")
        over = threading.Event()
        resolve = socket.getaddrinfo

        def hangs(*args, **options):
            over.wait(60.0)
            return resolve(*args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", hangs)
        try:
            server.stop()
            fail(router)
            eventually(lambda: router.get_circuit_state("broken") == "open", "decided alone", 8)
            assert not router.redis_up
            assert router.select_provider("m").name == "healthy"
        finally:
            over.set()
            monkeypatch.undo()
        server.start()
        let_in(server)
        eventually(lambda: router.redis_up, "back", 20)


class TestHandlers:
    """The application's own code, on our threads."""

    @pytest.mark.parametrize("error", [RuntimeError, SystemExit])
    def test_a_log_handler_that_raises_ends_no_thread(self, server, admin, router, error):
        """Neither does a filter, nor `on_transition`."""

        def raises(record):
            raise error("a handler of the application's own")

        logger = logging.getLogger("redis_router")
        logger.addFilter(raises)
        try:
            fail(router)
            until(router, "open")
            server.stop()
            eventually(lambda: not router.redis_up)
            server.start()
            let_in(server)
            eventually(lambda: router.redis_up, "back", 20)
            fail(router, "healthy")
            until(router, "open", "healthy")
        finally:
            logger.removeFilter(raises)
        assert router.flush()

    def test_a_listener_that_ends_is_called_again(self, made):
        """SystemExit is not for our thread to end by."""
        told = []

        def listener(change):
            told.append(change.provider)
            raise SystemExit

        router = made(on_transition=listener)
        fail(router)
        fail(router, "healthy")
        eventually(lambda: sorted(told) == ["broken", "healthy"])

    @pytest.mark.parametrize("call", ["flush", "close"])
    def test_a_log_handler_may_close_or_flush(self, made, call):
        """On the thread that would have to do it, it returns at once."""
        router = made()
        took = []

        class Handler(logging.Handler):
            def emit(self, record):
                began = time.monotonic()
                getattr(router, call)()
                took.append(time.monotonic() - began)

        logger, handler = logging.getLogger("redis_router"), Handler()
        logger.addHandler(handler)
        try:
            fail(router)
            eventually(lambda: took)
        finally:
            logger.removeHandler(handler)
        assert took[0] < 1.5

    def test_a_handler_that_waits_for_an_operators_call_hangs_nobody(self, router):
        """No lock of ours is held while it runs."""
        results = []

        class Handler(logging.Handler):
            def emit(self, record):
                thread = threading.Thread(target=router.update_health, args=("healthy",), kwargs={"weight": 2.0})
                thread.start()
                thread.join(10.0)
                results.append(thread.is_alive())

        logger, handler = logging.getLogger("redis_router"), Handler()
        logger.addHandler(handler)
        try:
            fail(router)
            eventually(lambda: results)
        finally:
            logger.removeHandler(handler)
        assert not any(results)


SIGNALS = """
    import signal, sys, threading, time
    from redis_router import Router, Provider, CircuitConfig, NoProviderAvailable

    router = Router(sys.argv[1], circuit=CircuitConfig(consecutive_failure_limit=1000), buffer_limit=50)
    router.register_provider(Provider("p", ("m",)))
    router.start()
    handled = 0

    def use():
        for success in (True, False):
            router.record_result("p", success=success, latency_ms=1.0)
        for attempt in router.attempts("m"):
            with attempt:
                pass

    def handler(number, frame):
        global handled
        handled += 1
        use()
        if handled == 3000:
            signal.setitimer(signal.ITIMER_REAL, 0)
            router.close()

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
    while handled < 3000:
        use()
        router.flush(0.001)
    router.close()
    print("ended after", handled)
"""


def test_a_signal_handler_may_call_the_router(server):
    """While the main thread is inside the same call: no lock is taken twice."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SIGNALS), server.url],
        capture_output=True, text=True, timeout=100, env={**os.environ, "PYTHONFAULTHANDLER": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ended after 3000" in done.stdout


def test_registering_from_several_threads(made):
    """While others register, deregister and choose."""
    router = made()
    errors = []

    def come_and_go(number):
        try:
            for turn in range(30):
                name = f"p{number}-{turn}"
                router.register_provider(Provider(name, ("m", f"m{number}"), circuit_per_model=turn % 2 == 0))
                router.select_provider("m")
                router.get_health_status()
                router.registered_models()
                router.deregister_provider(name)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=come_and_go, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_health_checker_is_started_once(made):
    """Also by several threads at once."""
    router = made()
    before = threading.active_count()
    gate = threading.Barrier(8)

    def start():
        gate.wait()
        router.start_health_checker()

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    router.stop_health_checker()
    eventually(lambda: threading.active_count() <= before, "its threads are gone")


class TestTrials:
    """Half-open permits."""

    def test_an_attempt_that_is_never_entered_blocks_nobody(self, admin, made):
        """Its permit is back when the object is gone."""
        circuit = CircuitConfig(
            consecutive_failure_limit=1, half_open_max_probes=1, half_open_success_threshold=1, open_timeout=0.2
        )
        router = made(circuit=circuit, safety_net_after=0.2)
        router.deregister_provider("healthy")
        fail(router, times=1)
        until(router, "half_open")

        def chosen():
            try:
                return router.attempt("m")
            except NoProviderAvailable:
                return None

        attempt = eventually(chosen, "a trial call")
        assert attempt.permit
        del attempt
        with eventually(chosen, "another trial call", 15):
            pass
        until(router, "closed")

    def test_no_more_than_a_few_permits_are_made_ahead(self, server, made):
        """While Redis is away each replica makes its own."""
        circuit = CircuitConfig(consecutive_failure_limit=1, half_open_max_probes=1000, open_timeout=0.2)
        router = made(circuit=circuit)
        server.stop()
        eventually(lambda: not router.redis_up)
        fail(router, times=1)
        until(router, "half_open")
        eventually(lambda: router._engine.permits._in_hand.get("broken"))
        assert len(router._engine.permits._in_hand["broken"]) <= 3


def test_two_thousand_requests_wait_for_fifty_providers(server):
    """All are open and come back together: as many are woken as may go, and the loop has time for them."""
    circuit = CircuitConfig(consecutive_failure_limit=1, half_open_success_threshold=2, open_timeout=0.5)
    router = Router(server.url, circuit=circuit, registry=CollectorRegistry(), safety_net_after=0.1)
    names = [f"p{n}" for n in range(50)]
    for name in names:
        router.register_provider(Provider(name, ("m",)))
    served = []

    async def request():
        async for attempt in router.attempts("m", wait=True, deadline=60.0):
            with attempt:
                await asyncio.sleep(0.001)
                served.append(attempt.provider.name)

    async def everybody():
        await asyncio.gather(*(request() for _ in range(2000)))

    with router:
        assert router.flush(20)
        for name in names:
            router.record_result(name, success=False, latency_ms=1.0)
        assert router.flush(20)
        began = time.process_time()
        asyncio.run(everybody())
        took = time.process_time() - began
    assert len(served) == 2000
    assert took < 30.0, f"{took:.1f} s of CPU"


def _size(kept):
    return sum(len(family.samples) for family in kept._registry.collect())


def test_providers_that_come_and_go_leave_nothing_behind(made):
    """No series, and nothing in the router's own books."""
    router = made()

    def come_and_go(names):
        for name in names:
            router.register_provider(Provider(name, ("m",)))
            assert router.flush()
            fail(router, name)
            router.record_result(name, success=True, latency_ms=1.0)
            router.update_health(name, available=True)
            assert router.flush()
            router.deregister_provider(name, everywhere=True)
        eventually(lambda: not router._engine._leaving)

    def kept():
        parts = (router._engine, router._engine.view, router._engine.courier, router._engine.permits)
        parts += (router._engine._registrar, router._engine.mirror, router._engine.metrics, router._engine.store)
        return {
            (type(part).__name__, name): len(value)
            for part in parts
            for name, value in vars(part).items()
            if isinstance(value, dict | set) and name not in ("retired", "specs", "_asked_at", "_unsettled", "_unshown")
        }

    come_and_go([f"first{n}" for n in range(5)])
    series, books = _size(router), kept()
    come_and_go([f"then{n}" for n in range(20)])
    eventually(lambda: _size(router) == series, "the same series")
    eventually(lambda: kept() == books, "the same books")


def test_a_flush_covers_what_came_before_it_and_no_more(admin, router):
    """Under load without a pause: providers just registered have their record, results are there, and it returns."""
    over = threading.Event()

    def load():
        while not over.is_set():
            router.record_result("healthy", success=True, latency_ms=1.0)
            time.sleep(0)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(40):
            name = f"new{number}"
            router.register_provider(Provider(name, ("other",)))
            assert router.flush(10)
            assert record_of(admin, name)["generation"] == "1"
            router.record_result(name, success=False, latency_ms=1.0)
            assert router.flush(10)
            assert record_of(admin, name)["consecutive_failures"] == "1"
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_a_permit_of_a_provider_that_is_taken_out_here_goes_back(admin, made):
    """It must not block the fleet's trial calls until it runs out."""
    circuit = CircuitConfig(consecutive_failure_limit=1, half_open_max_probes=1, open_timeout=0.2)
    router = made(circuit=circuit, safety_net_after=0.2, permit_ttl=600.0)
    fail(router, times=1)
    until(router, "half_open")
    router._engine.want("m")
    eventually(lambda: admin.zcard("rr:{broken}:permits"), "a permit in hand")
    router.deregister_provider("broken")
    eventually(lambda: not admin.zcard("rr:{broken}:permits"), "it is back")


def test_a_provider_stays_in_the_metrics_while_another_router_has_it(made):
    """Two routers of one registry."""
    registry = CollectorRegistry()
    first, second = made(registry=registry), made(registry=registry)
    second.record_result("healthy", success=True, latency_ms=1.0)
    assert second.flush()
    first.deregister_provider("healthy")
    eventually(lambda: not first._engine._leaving)
    assert metric(registry, "requests_total", provider="healthy", outcome="success") == 1
    second.deregister_provider("healthy")
    eventually(lambda: not metric(registry, "requests_total", provider="healthy", outcome="success"))


def test_a_late_result_brings_no_series_back(made):
    """A call that ends after its provider was taken out."""
    router = made()
    attempt = router.attempt("m", exclude=["healthy"])
    with attempt:
        router.deregister_provider("broken")
        eventually(lambda: not router._engine._leaving)
    assert router.flush()
    eventually(lambda: not metric(router._registry, "requests_total", provider="broken", outcome="success"))
    assert "broken" not in router._engine._last_used


def test_a_flush_ends_with_the_router(server, router):
    """Nobody is left who would settle what it waits for."""
    server.stop()
    eventually(lambda: not router.redis_up)
    said = []
    router.record_result("healthy", success=True, latency_ms=1.0)
    thread = threading.Thread(target=lambda: said.append(router.flush(60.0)))
    thread.start()
    router.close(0.5)
    thread.join(20.0)
    assert said == [False]


def test_a_ring_while_one_looks_is_not_lost():
    """It is woken for it, and where it leaves, the next one is."""
    bell = Bell()
    with bell.in_thread(["m"]) as first, bell.in_thread(["m"]) as second:
        bell.ring(["m"], 1)
        began = time.monotonic()
        first(60.0)
        bell.ring(["m"], 1)  # while the first one looks
        first(60.0)
        bell.ring(["m"], 1)
        bell.ring(["m"], 1)
        second(60.0)
        assert time.monotonic() - began < 30.0
    with bell.in_thread(["m"]) as last:
        with bell.in_thread(["m"]):
            pass
        with bell.in_thread(["other"]):
            bell.ring(["m"], 1)
        last(60.0)
    assert time.monotonic() - began < 30.0
