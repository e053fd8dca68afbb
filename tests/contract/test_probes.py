"""The worker and its probes, where there are many: endpoints that hang or drip, one URL of several providers."""

import json
import logging
import socket
import time

from prometheus_client import CollectorRegistry

from redis_router import CircuitConfig, Probe, Provider
from redis_router.errors import AccessDenied
from redis_router.worker import prober
from redis_router.worker.probes import Asker, NotAsked
from tests.support import eventually, metric, recorded, result, target
from tests.support.fleet import an_hour_later, probes_running, refresh, threads_of_ours

QUICK = CircuitConfig(consecutive_failure_limit=1, open_timeout=0.05)


def register(store, name, probe, config=QUICK):
    store.register(Provider(name, ("m",), probe=probe), config)


def trip(store, *names):
    """Open these circuits, and wait until they are due."""
    for name in names:
        generation = store.snapshot([name]).records[name].generation
        recorded(store, name, 1, result(name, False, generation))
    redis_now = store.leader()[0]
    eventually(lambda: store.leader()[0] > redis_now + 100, "the circuits are due")


def states(store):
    return {name: health.circuit_state.value for name, health in store.snapshot().records.items()}


def test_sixteen_models_of_one_url_that_drips(backend, checker, router):
    """It is asked once and fails for each of them; the provider beside it has a verdict of its own."""
    models = tuple(f"m{number}" for number in range(16))
    worker, store = checker(probe_timeout=1.0), backend.store()
    with target() as dripping, target() as good:
        dripping.drips = True
        gateway = router()
        gateway.register_provider(Provider("vendor", models, circuit_per_model=True, probe=dripping.url))
        gateway.register_provider(Provider("other", ("m0",), probe=good.url))
        gateway.start()
        eventually(lambda: len(store.snapshot().records) == 17, "all are registered")
        for number in range(1, 4):
            probed = worker.run_once().probed
            assert dripping.asked <= number, "more than one probe for all of its models"
            assert {probed.pop(f"vendor/{model}") for model in models} == {"no answer within 1 s"}
            assert set(probed) == {"other"}
        assert dripping.asked > 0
    records = store.snapshot().records
    assert {record.unavailable_reason for name, record in records.items() if name != "other"} == {"probe"}


def test_two_hundred_that_hang_cost_nobody_a_verdict(backend, checker):
    """Nor a request: the one that answers is probed, its circuit moved, and none is marked that was not asked."""
    store, worker = backend.store(), checker(interval=0.1, probe_timeout=3600.0)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening, target() as good:
        for number in range(200):
            register(store, f"hung-{number}", f"http://127.0.0.1:{listening.getsockname()[1]}/{number}")
        register(store, "good", good.url)
        trip(store, "good")
        worker.start()
        eventually(lambda: states(store)["good"] == "half_open")
        eventually(lambda: good.asked > 3, "it is probed on")
        assert all(record.unavailable_reason != "probe" for record in store.snapshot().records.values())
        worker.stop()
        eventually(lambda: not threads_of_ours(), "no thread waits for probes that have an hour")


def test_a_probe_that_did_not_run_is_no_verdict(backend, checker, monkeypatch):
    """There is no room for it: neither counted nor in the record; it runs when there is."""
    monkeypatch.setattr(prober, "AT_ONCE", 2)
    registry = CollectorRegistry()
    store, worker = backend.store(), checker(interval=3600.0, probe_timeout=3600.0, registry=registry)
    with target() as good:
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
            for number in range(2):
                register(store, f"hung-{number}", f"http://127.0.0.1:{listening.getsockname()[1]}/{number}")
            worker.start()
            eventually(lambda: probes_running(worker) == 2)
            register(store, "good", good.url)
            trip(store, "good")
            eventually(lambda: probes_running(worker) == 3)
            assert good.asked == 0
            assert store.snapshot().records["good"].probe_result == ""
            assert states(store)["good"] == "open"
        # whoever closes a socket resets what it never accepted
        eventually(lambda: states(store)["good"] == "half_open")
    assert metric(registry, "probes_total", provider="good", result="fail") == 0
    assert metric(registry, "probes_total", provider="good", result="pass") == 1


def test_what_was_not_asked_is_not_classified(backend, checker, monkeypatch, caplog):
    """This machine is short of something: the provider stays as it is, and its circuit where it is."""
    caplog.set_level(logging.INFO)
    store, worker = backend.store(), checker()

    async def ask(asker, probe):
        raise NotAsked("Too many open files")

    with target() as good:
        register(store, "good", good.url)
        trip(store, "good")
        with monkeypatch.context() as short:
            short.setattr(Asker, "ask", ask)
            for _ in range(4):
                done = worker.run_once()
                assert (done.half_opened, done.probed) == ((), {})
        record = store.snapshot().records["good"]
        assert (record.probe_result, record.unavailable_reason) == ("", "circuit")
        assert "Too many open files" in caplog.text
        assert worker.run_once().half_opened == ("good",)


def test_one_probe_moves_all_circuits_that_share_it(backend, checker):
    """It began when both were due."""
    store, worker = backend.store(), checker()
    with target() as good:
        for name in ("a", "b"):
            register(store, name, good.url)
        register(store, "c", Probe(good.url, headers={"X": "1"}))
        trip(store, "a", "b", "c")
        assert sorted(worker.run_once().half_opened) == ["a", "b", "c"]
        assert good.asked == 2


def test_each_provider_has_a_row_of_its_own(backend, checker):
    """One that comes later is not taken out of service for what its URL did before."""
    registry = CollectorRegistry()
    store, worker = backend.store(), checker(registry=registry)
    with target() as failing:
        failing.status = 500
        register(store, "a", failing.url)
        for _ in range(2):
            worker.run_once()
        register(store, "b", failing.url)
        worker.run_once()
        records = store.snapshot().records
        assert [records[name].available for name in "ab"] == [False, True]
        assert failing.asked == 3
    for name, times in (("a", 3), ("b", 1)):
        assert metric(registry, "probes_total", provider=name, result="fail") == times


def test_a_probe_that_began_too_early_is_made_again(backend, checker):
    """It passes; of a circuit that came due while it ran it says nothing yet."""
    store, worker = backend.store(), checker(interval=3600.0, probe_timeout=60.0)
    with target() as slow:
        slow.drips = True
        # longer than the worker's idea of Redis's clock can be wrong here
        register(store, "a", slow.url, CircuitConfig(consecutive_failure_limit=1, open_timeout=1.0))
        worker.start()
        eventually(lambda: slow.asked == 1, "the first probe runs")
        trip(store, "a")
        due_ms = store.leader()[0] + 1_000
        eventually(lambda: store.leader()[0] > due_ms, "the circuit is due")
        slow.drips = False
        eventually(lambda: states(store)["a"] == "half_open")
        assert slow.asked == 2


def test_a_pass_with_more_probes_than_run_at_once(backend, checker, monkeypatch):
    """All are made, and all count; those that hang have their time one after the other."""
    monkeypatch.setattr(prober, "AT_ONCE", 2)
    monkeypatch.setattr("redis_router.worker.checker.AT_ONCE", 2)
    store, worker = backend.store(), checker(probe_timeout=0.5)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        for number in range(5):
            register(store, f"hung-{number}", f"http://127.0.0.1:{listening.getsockname()[1]}/{number}")
        began = time.monotonic()
        assert set(worker.run_once().probed.values()) == {"no answer within 0.5 s"}
        assert len(worker.run_once().probed) == 5
        assert time.monotonic() - began >= 2 * 3 * 0.5


class TestMarks:
    WEEK_MS = 7 * 86_400_000

    def mark(self, backend, name, age_ms):
        """As if it had been deregistered so long ago."""
        store = backend.operator()
        store.now_ms = store.leader()[0] - age_ms
        store.deregister(name)

    def test_the_leader_removes_those_older_than_a_week(self, backend, checker, caplog):
        """A younger one stays, and a provider that is registered."""
        caplog.set_level(logging.INFO)
        store = backend.store()
        register(store, "openai", None)
        self.mark(backend, "old", self.WEEK_MS + 60_000)
        self.mark(backend, "young", self.WEEK_MS - 60_000)
        store.seen(["old"], 1)
        checker().run_once()
        assert set(store.specs()) == {"openai", "young"}
        assert store.last_seen() == {}
        assert "old was deregistered more than a week ago" in caplog.text

    def test_one_without_a_moment_stays(self, backend, checker, redis_client):
        """It was written by an older version."""
        redis_client.hset(backend.keys.providers, "old", json.dumps({"deregistered": True, "generation": 3}))
        checker().run_once()
        assert set(backend.store().specs()) == {"old"}

    def test_it_looks_once_an_hour_and_when_it_becomes_the_leader(self, backend, checker, monkeypatch):
        """A standby does not."""
        store, first, second = backend.store(), checker(), checker()
        first.run_once()
        self.mark(backend, "old", self.WEEK_MS + 60_000)
        first.run_once()
        second.run_once()
        assert set(store.specs()) == {"old"}
        an_hour_later(first)
        first.run_once()
        assert set(store.specs()) == set()
        self.mark(backend, "old", self.WEEK_MS + 60_000)
        first.stop()
        second.run_once()
        assert set(store.specs()) == set()

    def test_a_refusal_hinders_nothing_else(self, backend, checker, monkeypatch, caplog):
        """A Redis user whose rights lack `+hdel`: one line, and circuits move."""
        store, worker = backend.store(), checker()

        def forget(store, name):
            raise AccessDenied("Redis refused the command: no permissions to run the 'hdel' command")

        monkeypatch.setattr(type(store), "forget", forget)
        register(store, "openai", None)
        self.mark(backend, "old", self.WEEK_MS + 60_000)
        trip(store, "openai")
        assert worker.run_once().half_opened == ("openai",)
        worker.run_once()
        assert caplog.text.count("'hdel'") == 1

    def test_a_registration_that_was_taken_along_heals(self, backend, router):
        """Where one comes in between the leader's look and its removal, its replica notices and writes it anew."""
        store = backend.store()
        gateway = router()
        gateway.register_provider(Provider("openai", ("m",), probe="http://127.0.0.1:1/"))
        gateway.start()
        before = eventually(lambda: store.specs().get("openai"))
        record = store.snapshot().records["openai"]
        store.forget("openai")  # as the leader would
        refresh(gateway)  # as from time to time
        assert eventually(lambda: store.specs().get("openai")) == before
        assert store.snapshot().records["openai"].generation == record.generation
