"""The worker on every backend: elections, due transitions at their time, probes over real HTTP and TCP."""

import copy
import json
import logging
import math
import socket

import pytest
from prometheus_client import CollectorRegistry

from redis_router import CircuitConfig, CircuitState, InvalidArgument, Probe, Provider, RouterError
from tests.support import eventually, metric, recorded, result, target
from tests.support.fleet import forget, knows, probes_running

QUICK = CircuitConfig(consecutive_failure_limit=1, open_timeout=0.05)


def register(store, name="openai", probe=None, config=QUICK):
    store.register(Provider(name, ("m",), probe=probe), config)


def trip(store, name="openai", seq=1):
    """Open the circuit with one failure; the record as it was then."""
    generation = store.snapshot([name]).records[name].generation
    health = recorded(store, name, seq, result(name, False, generation)).health
    assert health.circuit_state is CircuitState.OPEN
    return health


def state(store, name="openai"):
    return store.snapshot([name]).records[name].circuit_state


class TestRunOnce:
    def test_moves_a_due_circuit_and_tells(self, backend, checker):
        """Campaign, transition, report; a second pass finds nothing to do."""
        store, worker = backend.store(), checker()
        register(store)
        trip(store)
        done = eventually(lambda: (done := worker.run_once()).half_opened and done)
        assert (done.leader, done.half_opened, done.probed) == (True, ("openai",), {})
        assert state(store) == "half_open"
        assert worker.run_once().half_opened == ()

    def test_moves_it_again_as_soon_as_it_is_due_again(self, backend, checker):
        """The next pass after it moves it, however short the time since the last: a short open_timeout is kept, too."""
        store, worker = backend.store(), checker()
        register(store, config=CircuitConfig(consecutive_failure_limit=1, open_timeout=0.001))
        for seq in range(1, 6):
            opened = trip(store, seq=seq)
            due_ms = opened.last_state_change_ms + 300  # the worker's estimate of the clock may be behind
            eventually(lambda due_ms=due_ms: store.leader()[0] > due_ms, "it is due")
            assert worker.run_once().half_opened == ("openai",)

    def test_a_record_that_is_lost_while_its_circuit_is_moved(self, backend, checker, monkeypatch):
        """Its copy is dropped just then: the run goes on."""
        store, worker = backend.store(), checker()
        register(store)
        trip(store)
        moves = type(store).half_open

        def half_open(store, name, epoch):
            reply = moves(store, name, epoch)
            forget(worker, name)
            return reply

        monkeypatch.setattr(type(store), "half_open", half_open)
        eventually(lambda: worker.run_once().half_opened)

    def test_leaves_a_circuit_that_is_not_due(self, backend, checker):
        """open_timeout is a promise."""
        store, worker = backend.store(), checker()
        register(store, config=CircuitConfig(consecutive_failure_limit=1, open_timeout=60))
        trip(store)
        assert worker.run_once().half_opened == ()
        assert state(store) == "open"

    def test_a_standby_does_nothing(self, backend, checker):
        """One worker acts at a time."""
        first, second, store = checker(), checker(), backend.store()
        assert first.run_once().leader is True
        register(store, probe="http://127.0.0.1:1/")
        trip(store)
        done = second.run_once()
        assert (done.leader, done.half_opened, done.probed) == (False, (), {})
        first.stop()
        assert second.run_once().leader is True

    def test_says_what_to_do_where_nothing_is_registered(self, checker, caplog):
        """Once, and not at each pass."""
        worker = checker()
        for _ in range(3):
            worker.run_once()
        said = [r.getMessage() for r in caplog.records if "no provider is registered" in r.getMessage()]
        assert len(said) == 1
        assert "register_provider" in said[0]

    def test_a_stopped_one_is_stopped_for_good(self, checker):
        """And says so."""
        worker = checker()
        worker.stop()
        for call in (worker.start, worker.run_once):
            with pytest.raises(RouterError, match="stopped"):
                call()

    def test_two_of_one_name_are_two(self, checker):
        """The lease is the process's, not the name's."""
        first, second = checker(worker="w"), checker(worker="w")
        assert (first.run_once().leader, second.run_once().leader, first.run_once().leader) == (True, False, True)

    def test_a_record_that_is_gone_is_asked_for_once(self, backend, checker, monkeypatch, redis_client):
        """No busy loop: the copy is dropped until a replica puts the record back."""
        store, worker = backend.store(), checker(interval=60.0, lease=60.0)
        register(store)
        register(store, "azure")
        asked = []
        moves = type(store).half_open

        def half_open(store, name, epoch):
            asked.append(name)
            if name == "openai":
                redis_client.delete(store.keys.health(name))
            return moves(store, name, epoch)

        monkeypatch.setattr(type(store), "half_open", half_open)
        worker.start()
        eventually(lambda: worker.is_leader and knows(worker, "openai"))
        trip(store)
        eventually(lambda: asked == ["openai"])
        for seq in range(1, 4):  # it goes on to work
            trip(store, "azure", seq)
            eventually(lambda: state(store, "azure") == "half_open")
        assert asked.count("openai") == 1


class TestProbes:
    def test_an_answer_that_never_ends_passes(self, backend, checker):
        """The status is the answer; the body of a stream is not waited for."""
        store, worker = backend.store(), checker(probe_timeout=5.0)
        with target() as provider:
            provider.endless = True
            register(store, probe=provider.url)
            assert worker.run_once().probed == {"openai": None}

    def test_a_probe_that_drips_for_ever_has_failed(self, backend, checker):
        """A header line now and then, and never an end: it holds up neither the pass nor the circuit's fate."""
        store, worker = backend.store(), checker(probe_timeout=0.3)
        with target() as provider:
            provider.drips = True
            register(store, probe=provider.url)
            assert "no answer within" in worker.run_once().probed["openai"]
            assert "no answer within" in worker.run_once().probed["openai"]
            assert provider.asked <= 2

    def test_a_probe_that_is_taken_away_takes_its_mark_along(self, backend, checker):
        """Nobody else would."""
        store, worker = backend.store(), checker()
        register(store, probe="http://127.0.0.1:1/")
        for _ in range(3):
            worker.run_once()
        assert store.snapshot(["openai"]).records["openai"].unavailable_reason == "probe"
        register(store, probe="none")
        worker.run_once()
        assert store.snapshot(["openai"]).records["openai"].available is True

    def test_three_fails_mark_and_two_passes_unmark(self, backend, checker):
        """Seen in the record, and counted."""
        registry = CollectorRegistry()
        store, worker = backend.store(), checker(registry=registry)

        def available():
            record = store.snapshot(["openai"]).records["openai"]
            return record.available, record.unavailable_reason

        with target() as provider:
            register(store, probe=provider.url)
            provider.status = 503
            seen = []
            for _ in range(3):
                assert worker.run_once().probed == {"openai": "HTTP 503"}
                seen.append(available())
            assert seen == [(True, ""), (True, ""), (False, "probe")]
            provider.status = 204
            worker.run_once()
            assert available() == (False, "probe")
            worker.run_once()
            assert available() == (True, "")
        assert metric(registry, "probes_total", provider="openai", result="fail") == 3
        assert metric(registry, "probes_total", provider="openai", result="pass") == 2

    def test_what_it_says_is_in_the_record_and_in_the_log(self, backend, checker, caplog):
        """Why it fails, that the provider is taken out, and that it is back; written on the edges only."""
        store, worker = backend.store(), checker()

        def said():
            return store.snapshot(["openai"]).records["openai"].probe_result

        with target() as provider, caplog.at_level(logging.INFO, "redis_router"):
            register(store, probe=provider.url)
            provider.status = 503
            worker.run_once()
            assert said() == "HTTP 503"
            provider.status = 500
            worker.run_once()
            assert said() == "HTTP 503", "one more failure is no news"
            worker.run_once()
            assert "3 times in a row: it is taken out of service until it passes 2 times; HTTP 500" in caplog.text
            provider.status = 200
            worker.run_once()
            assert said() == "passes"
            assert "probe of openai passes again" in caplog.text
            worker.run_once()
            assert "passed 2 times in a row: it is back in service" in caplog.text

    def test_a_probe_has_a_method_and_a_status_of_its_own(self, backend, checker):
        """`/v1/models` without a key: 401 says that somebody is there."""
        store, worker = backend.store(), checker()
        with target() as provider:
            register(store, probe=Probe(provider.url, method="HEAD", status=401))
            verdicts = []
            for status in (200, 401):
                provider.status = status
                verdicts.append(worker.run_once().probed["openai"])
            assert (verdicts, provider.method) == (["HTTP 200, expected 401", None], "HEAD")

    @pytest.mark.parametrize(
        ("allowed", "value", "text"),
        [((), "x", "--probe-env TEST_PROBE_KEY"), (("TEST_PROBE_KEY",), "", "no usable TEST_PROBE_KEY"),
         (("TEST_PROBE_KEY",), "two\nlines", "no usable TEST_PROBE_KEY")],
    )  # fmt: skip
    def test_a_variable_that_may_not_be_filled_in_is_no_verdict(
        self, backend, checker, caplog, monkeypatch, allowed, value, text
    ):
        """Whoever can write to Redis must not learn the worker's environment; the provider stays as it is."""
        monkeypatch.setenv("TEST_PROBE_KEY", value)
        store, worker = backend.store(), checker(probe_env=allowed)
        with target() as provider:
            register(store, probe=Probe(provider.url, headers={"Authorization": "Bearer ${TEST_PROBE_KEY}"}))
            for _ in range(3):
                assert worker.run_once().probed == {}
            assert (provider.asked, text in caplog.text) == (0, True)
        found = store.snapshot(["openai"]).records["openai"]
        assert found.available
        assert found.probe_result.startswith("cannot: ")

    def test_a_mark_does_not_outlive_the_worker_that_could_probe(self, backend, checker, monkeypatch):
        """The next leader cannot: it says so, and lifts it."""
        monkeypatch.setenv("TEST_PROBE_KEY", "x")
        store, first = backend.store(), checker(probe_env=["TEST_PROBE_KEY"])
        register(store, probe=Probe("http://127.0.0.1:1/", headers={"Authorization": "${TEST_PROBE_KEY}"}))
        for _ in range(3):
            first.run_once()
        assert store.snapshot(["openai"]).records["openai"].unavailable_reason == "probe"
        first.stop()
        second = checker()
        for _ in range(2):
            second.run_once()
        found = store.snapshot(["openai"]).records["openai"]
        assert (found.available, found.probe_result[:8]) == (True, "cannot: ")

    def test_a_probe_of_a_newer_version_leaves_the_rest_of_the_spec(self, backend, redis_client):
        """Fields that are not known yet, and a probe that is none."""
        store, client = backend.store(), redis_client
        newer = {"url": "http://h/", "body": "ping"}
        for probe, expected in ((newer, Probe("http://h/")), (7, None), ({"method": "GET"}, None)):
            client.hset(store.keys.providers, "openai", json.dumps({"models": ["m"], "probe": probe, "provider": "x"}))
            spec = store.specs()["openai"]
            assert (spec.models, spec.probe, spec.provider) == (("m",), expected, "x")

    @pytest.mark.parametrize(
        "bad",
        [
            {"url": "ftp://x"},
            {"url": "http://user:secret@x"},
            {"method": "DELETE"},
            {"status": 42},
            {"status": True},
            {"headers": ["a"]},
            {"headers": {"Authorization": "Bearer in-clear"}},
            {"headers": {"x-api-key": "in-clear"}},
            {"headers": {"X-Version": "two\nlines"}},
            {"headers": {"no good": "1"}},
            {"url": "tcp://h:1", "status": 200},
        ],
    )
    def test_bad_probes_are_refused(self, bad):
        """Before they are stored; a secret is not repeated."""
        with pytest.raises(InvalidArgument) as caught:
            Probe(**{"url": "http://h/", **bad})
        assert "in-clear" not in str(caught.value)
        assert "secret" not in str(caught.value)

    def test_a_probe_travels(self):
        """As JSON, copied, in a set."""
        probe = Probe("http://h/", "HEAD", {"A": "1"}, 204)
        assert Probe.from_json(json.loads(json.dumps(probe.to_json()))) == probe == copy.deepcopy(probe)
        assert len({probe, copy.copy(probe)}) == 1
        assert Probe("http://h/").to_json() == "http://h/"

    def test_redirects_pass_and_client_errors_do_not(self, backend, checker):
        """Below 400 passes."""
        store, worker = backend.store(), checker()
        with target() as provider:
            register(store, probe=provider.url)
            verdicts = []
            for provider.status in (200, 302, 404, 500):
                verdicts.append(worker.run_once().probed["openai"])
        assert verdicts == [None, None, "HTTP 404", "HTTP 500"]

    def test_a_failing_probe_keeps_the_circuit_open(self, backend, checker):
        """Not half-open before the provider answers its probe again."""
        store, worker = backend.store(), checker()
        with target() as provider:
            register(store, probe=provider.url)
            trip(store)
            provider.status = 500
            redis_now = store.leader()[0]
            eventually(lambda: store.leader()[0] > redis_now + 100, "the circuit is due")
            assert worker.run_once().half_opened == ()
            assert state(store) == "open"
            provider.status = 200
            assert worker.run_once().half_opened == ("openai",)

    def test_tcp(self, backend, checker):
        """A connection that is accepted passes; one that is refused does not."""
        store, worker = backend.store(), checker()
        with target() as provider:
            register(store, probe=provider.tcp)
            assert worker.run_once().probed == {"openai": None}
        assert "refused" in worker.run_once().probed["openai"]

    def test_a_hung_provider_fails_by_its_timeout_and_delays_nobody(self, backend, checker):
        """It accepts and never answers; the other circuit moves at its time."""
        store = backend.store()
        with socket.create_server(("127.0.0.1", 0), backlog=50) as hung:
            register(store, "hung", probe=f"http://127.0.0.1:{hung.getsockname()[1]}/")
            register(store, "openai")
            worker = checker(interval=0.05, probe_timeout=30.0)
            worker.start()
            eventually(lambda: probes_running(worker), "the probe hangs")
            trip(store)
            eventually(lambda: state(store) == "half_open", timeout=10)
            worker.stop()
            quick = checker(probe_timeout=0.05)
            assert "no answer within" in quick.run_once().probed["hung"]

    def test_a_new_leader_unmarks_what_the_old_one_marked(self, backend, checker):
        """The mark is in Redis; the counts need not be."""
        store, first, second = backend.store(), checker(), checker()
        with target() as provider:
            register(store, probe=provider.url)
            provider.status = 500
            for _ in range(3):
                first.run_once()
            first.stop()
            provider.status = 200
            for _ in range(2):
                second.run_once()
        assert store.snapshot(["openai"]).records["openai"].available is True


class TestInTheBackground:
    def test_moves_a_circuit_at_its_time_not_at_the_interval(self, backend, checker):
        """Timers fed by push: with an interval of a minute, half-open comes right after open_timeout."""
        store, worker = backend.store(), checker(interval=60.0)
        worker.start()
        register(store)
        eventually(lambda: worker.is_leader and knows(worker, "openai"))
        opened = trip(store)
        eventually(lambda: state(store) == "half_open")
        record = store.snapshot(["openai"]).records["openai"]
        assert 50 <= record.last_state_change_ms - opened.last_state_change_ms < 15_000
        assert record.leader_epoch == store.leader()[1].epoch

    def test_probes_a_provider_registered_later(self, backend, checker):
        """It hears of it by push, at once."""
        store, worker = backend.store(), checker(interval=60.0)
        worker.start()
        eventually(lambda: worker.is_leader)
        with target() as provider:
            register(store, probe=provider.url)
            eventually(lambda: provider.asked)

    def test_probes_when_a_circuit_is_due(self, backend, checker):
        """The probe that decides is made then, not awaited from the interval."""
        store, worker = backend.store(), checker(interval=60.0)
        worker.start()
        with target() as provider:
            register(store, probe=provider.url)
            eventually(lambda: provider.asked == 1)
            trip(store)
            eventually(lambda: state(store) == "half_open")
            assert provider.asked == 2

    def test_a_standby_takes_over_when_the_leader_stops(self, checker, backend):
        """Resigning pushes: with a lease of a minute, the successor leads at once."""
        workers = [checker(lease=60.0) for _ in range(2)]
        for worker in workers:
            worker.start()
        leader = eventually(lambda: next((w for w in workers if w.is_leader), None))
        standby = next(w for w in workers if w is not leader)
        epoch = backend.looking.leader()[1].epoch
        eventually(lambda: metric(standby, "leader_epoch") == epoch and standby.redis_up, "it knows who leads")
        assert not standby.is_leader
        leader.stop()
        eventually(lambda: standby.is_leader)
        assert backend.looking.leader()[1].epoch > epoch

    def test_a_refused_epoch_makes_it_step_down(self, backend, checker, caplog):
        """It gives the term up and campaigns anew, with an epoch above the one it met."""
        caplog.set_level(logging.INFO)
        store, worker = backend.store(), checker(interval=60.0)
        register(store)
        worker.start()
        eventually(lambda: worker.is_leader and knows(worker, "openai"))
        newer = store.leader()[1].epoch + 3_600_000  # as after a clock that was an hour ahead
        assert store.update("openai", {"weight": "2"}, epoch=newer).status == "ok"
        trip(store)
        eventually(lambda: state(store) == "half_open")
        assert "was refused" in caplog.text
        assert store.leader()[1].epoch > newer

    def test_a_deregistered_provider_is_let_go(self, backend, checker):
        """No probe, no timer, no error."""
        store, worker = backend.store(), checker(interval=0.05)
        with target() as provider, target() as other:
            register(store, probe=provider.url)
            worker.start()
            eventually(lambda: provider.asked > 1)
            store.deregister("openai")
            eventually(lambda: not knows(worker, "openai"))
            register(store, "azure", other.url)
            eventually(lambda: other.asked > 1, "probes that were under way are over")
            before = provider.asked
            eventually(lambda: other.asked > 5)
            assert provider.asked == before
        assert worker.alive


@pytest.mark.parametrize(
    "options",
    [
        {"interval": 0},
        {"interval": math.nan},
        {"lease": 0.5},
        {"lease": math.inf},
        {"probe_timeout": 0},
        {"worker": "a b"},
    ],
)
def test_bad_options_are_refused(checker, options):
    """Each by name and value."""
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        checker(**options)
