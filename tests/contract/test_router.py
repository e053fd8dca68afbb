"""The router as a gateway uses it, on every backend."""

import asyncio
import dataclasses
import math
import pickle
import threading

import pytest
from prometheus_client import CollectorRegistry

from redis_router import (
    CircuitConfig,
    CircuitState,
    InvalidArgument,
    NoProviderAvailable,
    Provider,
    ProviderHealth,
    RegisteredModel,
    RouterError,
    UnknownProvider,
)
from redis_router.circuit.record import Transition
from tests.support import eventually, metric

OPENAI = Provider("openai", models=("gpt-4o", "gpt-4o-mini"), weight=2.0, client="the client")
AZURE = Provider("azure", models=("gpt-4o",))
QUICK = CircuitConfig(
    consecutive_failure_limit=3, half_open_success_threshold=2, half_open_max_probes=2, open_timeout=0.05
)


def fail(router, name, times=3):
    """Record failures, and see them through."""
    for _ in range(times):
        router.record_result(name, success=False, latency_ms=10.0)
    assert router.flush()


def until(router, name, state):
    """Wait until this replica sees that state."""
    eventually(lambda: router.get_circuit_state(name) == state, f"{name} is {state}")


@pytest.fixture
def pair(router):
    """Two started replicas that know openai and azure."""
    replicas = [router(circuit=QUICK, strategy="round_robin") for _ in range(2)]
    for replica in replicas:
        replica.register_provider(OPENAI)
        replica.register_provider(AZURE)
        replica.start()
    return replicas


class TestSharing:
    def test_what_one_replica_trips_every_replica_avoids(self, pair):
        """The point of it all: one breaker for the fleet."""
        first, second = pair
        fail(first, "openai")
        until(second, "openai", "open")
        for replica in pair:
            assert {replica.select_provider("gpt-4o").name for _ in range(10)} == {"azure"}

    def test_failures_add_up_over_replicas(self, pair):
        """Each replica alone stays below the limit."""
        first, second = pair
        fail(first, "openai", 2)
        fail(second, "openai", 1)
        until(first, "openai", "open")

    def test_recovery_is_shared_and_counted_once(self, pair, checker):
        """Open, half-open by the worker, closed by trial calls of one replica: both see it, the counters are exact."""
        first, second = pair
        worker = checker(registry=(workers := CollectorRegistry()))
        fail(first, "openai")
        until(second, "openai", "open")
        eventually(lambda: worker.run_once().half_opened == ("openai",), "the worker moved it")
        until(second, "openai", "half_open")
        trials = 0
        while second.get_circuit_state("openai") != "closed":
            with second.attempt("gpt-4o") as attempt:
                trials += attempt.permit is not None
            second.flush()
        until(first, "openai", "closed")
        assert trials == QUICK.half_open_success_threshold
        registries = [first._registry, second._registry, workers]
        counted = {
            (a, b): sum(
                metric(r, "circuit_state_changes_total", provider="openai", from_state=a, to_state=b)
                for r in registries
            )
            for a, b in [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]
        }
        assert set(counted.values()) == {1.0}

    def test_a_new_replica_joins_an_open_circuit(self, pair, router):
        """I-8: it never sends a call to a provider that the fleet knows to be down."""
        fail(pair[0], "openai")
        late = router()
        late.register_provider(OPENAI)
        late.register_provider(AZURE)
        late.start()
        assert late.get_circuit_state("openai") == "open"
        assert late.get_health_status()["openai"].config == QUICK

    def test_a_lost_record_comes_back_open(self, pair, backend):
        """I-8: FLUSHALL does not close a circuit."""
        first, second = pair
        fail(first, "openai")
        generation = first.get_health_status()["openai"].generation
        backend.client().flushall()
        first.record_result("openai", success=False, latency_ms=1.0)
        assert first.flush()
        record = first._engine.store.snapshot(["openai"]).records["openai"]
        assert (record.circuit_state, record.generation) == ("open", generation)
        until(second, "openai", "open")

    @pytest.mark.parametrize("left", ["older", "anew"])
    def test_what_a_loss_left_behind_is_put_right(self, pair, router, backend, left):
        """I-8: after a failover Redis holds an older record; after FLUSHALL a new replica has written a fresh one."""
        first, second = pair
        store = first._engine.store
        older = store.snapshot(["openai"]).records["openai"]
        fail(first, "openai")
        until(second, "openai", "open")
        if left == "older":
            backend.client().hset(store.keys.health("openai"), mapping=older.to_fields())
            second._engine.mirror.refresh()
        else:
            backend.client().flushall()
            late = router(circuit=QUICK)
            late.register_provider(OPENAI)
            late.start()
        eventually(lambda: store.snapshot(["openai"]).records["openai"].circuit_state == "open", "it is open again")
        assert first.flush()
        assert store.snapshot(["openai"]).records["openai"].generation == 2

    def test_a_lost_spec_is_put_back(self, pair, backend):
        """Without it no worker would know the provider."""
        backend.client().delete(pair[0]._engine.store.keys.providers)
        pair[0]._engine.mirror.refresh()
        assert pair[0].flush()
        assert pair[0]._engine.store.snapshot().specs["openai"].models == OPENAI.models

    def test_a_replica_starts_again_under_its_name(self, router):
        """Its results count: sequence numbers are the process's, not the name's."""
        for times in (1, 2, 3):
            with router(replica="gw-1") as replica:
                replica.register_provider(OPENAI)
                replica.record_result("openai", success=True, latency_ms=1.0)
                assert replica.flush()
                assert replica.get_health_status()["openai"].consecutive_successes == times

    def test_a_record_that_is_none_disturbs_no_other(self, pair, backend):
        """Somebody wrote a string where the hash should be: that provider's results are dropped, azure's are not."""
        key = pair[0]._engine.store.keys.health("openai")
        backend.client().set(key, "surprise")
        for name in ("openai", "azure"):
            pair[0].record_result(name, success=True, latency_ms=1.0)
        assert pair[0].flush()
        assert pair[0].get_health_status()["azure"].consecutive_successes == 1
        assert metric(pair[0]._registry, "results_dropped_total", reason="refused") == 1
        pair[0]._engine.mirror.refresh()
        assert pair[0].redis_up

    def test_a_record_that_is_none_keeps_no_gateway_from_starting(self, router, backend):
        """The others are served; the bad one is tried again."""
        replica = router()
        backend.client().set(replica._engine.store.keys.health("openai"), "surprise")
        for provider in (OPENAI, AZURE):
            replica.register_provider(provider)
        replica.start()
        replica.record_result("azure", success=True, latency_ms=1.0)
        assert replica.flush()
        assert replica.get_health_status()["azure"].consecutive_successes == 1
        backend.client().delete(replica._engine.store.keys.health("openai"))
        eventually(lambda: "openai" in replica._engine.store.snapshot().records, "it is joined after all")

    def test_a_log_that_cannot_be_written_undoes_nothing(self, pair, backend):
        """What is decided and saved stands, is announced, and is counted once."""
        first, second = pair
        backend.client().set(first._engine.store.keys.events("openai"), "surprise")
        fail(first, "openai")
        until(second, "openai", "open")
        assert metric(first._registry, "requests_total", provider="openai", outcome="failure") == 3
        assert metric(first._registry, "results_dropped_total", reason="refused") == 0

    def test_replicas_may_serve_other_providers(self, pair, router):
        """News of a provider that is not registered here changes nothing here."""
        other = router(circuit=QUICK)
        other.register_provider(Provider("other", ("m",)))
        other.start()
        fail(other, "other")
        pair[0].flush()
        assert set(pair[0].get_health_status()) == {"openai", "azure"}


class TestSelect:
    def test_returns_the_provider_that_was_registered(self, router):
        """The same object, client included; before start() too."""
        replica = router()
        replica.register_provider(OPENAI)
        assert replica.select_provider("gpt-4o-mini") is OPENAI

    def test_no_provider_for_a_model_says_which_there_are(self, pair):
        """The code, the model and what is registered."""
        with pytest.raises(NoProviderAvailable, match=r"gpt-5.*gpt-4o, gpt-4o-mini") as caught:
            pair[0].select_provider("gpt-5")
        assert caught.value.code == "ROUTER_NO_PROVIDER_AVAILABLE"
        assert (caught.value.model, caught.value.retry_after) == ("gpt-5", None)
        assert caught.value.reasons == dict.fromkeys(("openai", "azure"), "model unknown: it does not serve it")

    def test_all_down_says_why_and_when(self, router):
        """A reason per provider, and the seconds until the first comes back."""
        replica = router(circuit=dataclasses.replace(QUICK, open_timeout=30.0))
        for provider in (OPENAI, AZURE):
            replica.register_provider(provider)
        replica.start()
        fail(replica, "openai")
        replica.update_health("azure", available=False)
        with pytest.raises(NoProviderAvailable) as caught:
            replica.select_provider("gpt-4o")
        assert "consecutive_failures" in caught.value.reasons["openai"]
        assert "operator" in caught.value.reasons["azure"]
        assert 25.0 < caught.value.retry_after <= 30.0

    def test_fallbacks_are_the_others_best_first(self, router):
        """By the router's strategy, without the primary, without what is down."""
        replica = router(circuit=QUICK)
        latencies = {"slow": 90.0, "fast": 10.0, "mid": 50.0, "down": 1.0}
        for name in latencies:
            replica.register_provider(Provider(name, ("m",)))
        replica.start()
        for name, latency in latencies.items():
            replica.record_result(name, success=True, latency_ms=latency)
        fail(replica, "down")
        assert [p.name for p in replica.get_fallback_providers("m")] == ["fast", "mid", "slow"]
        assert [p.name for p in replica.get_fallback_providers("m", primary="fast")] == ["mid", "slow"]
        assert replica.get_fallback_providers("nobody's") == []

    def test_fallbacks_use_up_no_turns(self, router):
        """Asking for them after each selection leaves the round robin round."""
        replica = router(strategy="round_robin")
        for name in "abc":
            replica.register_provider(Provider(name, ("m",)))
        seen = []
        for _ in range(6):
            seen.append(replica.select_provider("m").name)
            replica.get_fallback_providers("m", primary=seen[-1])
        assert sorted(seen) == ["a", "a", "b", "b", "c", "c"]

    def test_model_names_from_outside_leave_no_trace(self, router):
        """I-10: whatever users ask for, memory stays bounded."""
        asked = set()

        class Spy:
            def prepare(self, model, candidates):
                asked.add(model)
                return lambda: candidates[0]

        replica = router(strategy=Spy())
        for name in "ab":
            replica.register_provider(Provider(name, ("*",)))
        for number in range(50):
            replica.select_provider(f"m{number}")
            replica.get_fallback_providers(f"m{number}")
            for attempt in replica.attempts(f"m{number}"):
                with attempt:
                    if attempt.provider.name == "a":
                        raise OSError
        assert asked == {"*"}

    @pytest.mark.parametrize("model", [None, 4, [], b"gpt-4o"])
    def test_a_model_is_a_string(self, pair, model):
        """Also where a provider serves every model."""
        pair[0].register_provider(Provider("any", ("*",)))
        with pytest.raises(InvalidArgument, match="model"):
            pair[0].select_provider(model)

    def test_the_error_survives_a_pickle(self, pair):
        """Task queues send errors from process to process."""
        with pytest.raises(NoProviderAvailable) as caught:
            pair[0].select_provider("gpt-5")
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (str(copy), copy.model, copy.reasons) == (str(caught.value), "gpt-5", caught.value.reasons)

    def test_registered_models_name_their_first_owner(self, pair):
        """By model, owned by the first provider by name, without the wildcard."""
        pair[0].register_provider(Provider("any", ("*",)))
        assert pair[0].registered_models() == [
            RegisteredModel("gpt-4o", "azure"),
            RegisteredModel("gpt-4o-mini", "openai"),
        ]


class TestHalfOpen:
    def half_open(self, router, worker):
        """openai half-open, as this replica sees it."""
        fail(router, "openai")
        eventually(lambda: "openai" in worker.run_once().half_opened)
        until(router, "openai", "half_open")

    def test_select_spends_permits_and_record_returns_them(self, router, checker):
        """Also without attempts, trial calls are bounded and close the circuit."""
        replica = router(circuit=dataclasses.replace(QUICK, half_open_max_probes=1))
        replica.register_provider(OPENAI)
        replica.start()
        self.half_open(replica, checker())
        for _ in range(2):
            eventually(lambda: self.selected(replica) == OPENAI)
            with pytest.raises(NoProviderAvailable, match="trial calls are taken"):
                replica.select_provider("gpt-4o")
            replica.record_result("openai", success=True, latency_ms=5.0)
            replica.flush()
        assert replica.get_circuit_state("openai") == "closed"

    @staticmethod
    def selected(replica):
        try:
            return replica.select_provider("gpt-4o")
        except NoProviderAvailable:
            return None

    def test_a_permit_is_waiting_before_the_next_call(self, pair, checker):
        """I-6: with recent demand it is claimed when the push arrives, and the next call for the model spends it."""
        first, _ = pair
        self.half_open(first, checker())
        eventually(lambda: any(first._engine.permits._in_hand.values()), "a permit is in hand")
        with first.attempt("gpt-4o") as attempt:
            assert (attempt.provider.name, attempt.permit is not None) == ("openai", True)

    def test_unused_permits_are_given_back(self, router, checker, backend):
        """I-6: a replica without traffic does not sit on one."""
        replica = router(circuit=QUICK, permit_ttl=1.0)
        replica.register_provider(OPENAI)
        replica.start()
        self.half_open(replica, checker())
        permits = replica._engine.store.keys.permits("openai")
        eventually(lambda: backend.client().zcard(permits) == 1, "a permit is claimed")
        eventually(lambda: backend.client().zcard(permits) == 0, "it is given back")

    def test_a_running_call_keeps_its_permit(self, router, checker, backend):
        """I-6: renewed for as long as it runs, many times its ttl; then free."""
        replica = router(circuit=dataclasses.replace(QUICK, half_open_max_probes=1), permit_ttl=1.0)
        replica.register_provider(OPENAI)
        replica.start()
        self.half_open(replica, checker())
        store = replica._engine.store
        eventually(lambda: any(replica._engine.permits._in_hand.values()))
        with replica.attempt("gpt-4o") as attempt:
            key, first = store.keys.permits("openai"), None
            first = eventually(lambda: backend.client().zscore(key, attempt.permit))
            eventually(
                lambda: (backend.client().zscore(key, attempt.permit) or 0) > first + 900, "renewed three times over"
            )
            assert store.claim("openai", ["another"], 1_000)[1] == []
        replica.flush()
        assert backend.client().zscore(key, attempt.permit) is None

    def test_a_late_failure_does_not_reopen(self, router, checker):
        """I-5: the call began while the circuit was closed and ends in half-open."""
        replica = router(circuit=QUICK)
        replica.register_provider(OPENAI)
        replica.start()

        def late_call():
            with replica.attempt("gpt-4o"):
                self.half_open(replica, checker())
                raise TimeoutError

        with pytest.raises(TimeoutError):
            late_call()
        replica.flush()
        assert replica.get_circuit_state("openai") == "half_open"

    def test_a_result_of_today_is_not_taken_for_a_trials(self, router, checker):
        """A trial that nobody reported does not hide later results: the circuit opens at its limit."""
        replica = router(circuit=dataclasses.replace(QUICK, half_open_max_probes=2))
        replica.register_provider(OPENAI)
        replica.start()
        self.half_open(replica, checker())
        eventually(lambda: self.selected(replica), "a trial call that nobody will report")
        for _ in range(2):
            eventually(lambda: any(replica._engine.permits._in_hand.values()))
            with replica.attempt("gpt-4o"):
                pass
        until(replica, "openai", "closed")
        fail(replica, "openai")
        assert replica.get_circuit_state("openai") == "open"

    def test_what_was_chosen_and_not_begun_is_given_back(self, router, checker, backend):
        """A loop that is left after a failure has chosen the next attempt already: its permit is free at once."""
        replica = router(circuit=QUICK, permit_ttl=60.0)
        for provider in (OPENAI, AZURE):
            replica.register_provider(provider)
        replica.start()
        attempts = replica.attempts("gpt-4o")
        turns = iter(attempts)
        first = next(turns)
        other = "azure" if first.provider is OPENAI else "openai"
        fail(replica, other)
        worker = checker()
        eventually(lambda: other in worker.run_once().half_opened)
        until(replica, other, "half_open")
        eventually(lambda: any(replica._engine.permits._in_hand.values()))
        with first:
            raise OSError
        following = attempts._next
        assert following.permit is not None
        turns.close()
        key = replica._engine.store.keys.permits(other)
        assert replica.flush()
        assert following.permit is None
        replica.close()
        assert backend.client().zcard(key) == 0

    def test_closing_hands_permits_back_and_claims_no_more(self, router, checker, backend):
        """The fleet need not wait for them to expire."""
        replica = router(circuit=QUICK, permit_ttl=60.0)
        replica.register_provider(OPENAI)
        replica.start()
        self.half_open(replica, checker())
        key = replica._engine.store.keys.permits("openai")
        eventually(lambda: backend.client().zcard(key) == 1)
        replica.close()
        assert backend.client().zcard(key) == 0

    def test_without_a_worker_a_replica_makes_the_transition(self, router, backend):
        """I-9: the safety net, logged and counted; with a worker in office it stays out."""
        worker = backend.store("worker")
        worker.campaign(60_000)
        replica = router(circuit=QUICK, safety_net_after=0.1)
        replica.register_provider(OPENAI)
        replica.start()
        fail(replica, "openai")
        assert metric(replica._registry, "safety_net_transitions_total", provider="openai") == 0
        looked = threading.Event()
        original = replica._engine.store.leader
        replica._engine.store.leader = lambda: (looked.set(), original())[1]
        assert looked.wait(10), "the replica looked who leads"
        assert replica.get_circuit_state("openai") == "open"
        worker.resign(worker.leader()[1].epoch)
        until(replica, "openai", "half_open")
        eventually(lambda: metric(replica._registry, "safety_net_transitions_total", provider="openai") == 1)


class TestAttempts:
    def test_fail_over_to_the_next_and_record_both(self, pair):
        """The first provider fails, the second answers; the user sees nothing of it."""
        first, _ = pair
        tried = []
        for attempt in first.attempts("gpt-4o"):
            with attempt:
                tried.append(attempt.provider.name)
                if len(tried) == 1:
                    raise ConnectionError
        first.flush()
        assert sorted(tried) == ["azure", "openai"]
        health = first.get_health_status()
        assert [health[name].consecutive_failures for name in tried] == [1, 0]
        assert [health[name].consecutive_successes for name in tried] == [0, 1]

    def test_the_last_error_is_passed_on(self, pair):
        """When every provider was tried once, the caller gets the real error."""
        tried = []
        with pytest.raises(ConnectionError, match="2nd"):  # noqa: PT012 - the loop is what raises
            for attempt in pair[0].attempts("gpt-4o"):
                with attempt:
                    tried.append(attempt.provider.name)
                    raise ConnectionError("1st" if len(tried) == 1 else "2nd")
        assert sorted(tried) == ["azure", "openai"]

    def test_success_ends_the_loop(self, pair):
        """One attempt; leaving the loop from inside with `break` is a success, too."""
        attempts = 0
        for attempt in pair[0].attempts("gpt-4o"):
            with attempt:
                attempts += 1
        for attempt in pair[0].attempts("gpt-4o"):
            with attempt:
                attempts += 1
                break
        assert attempts == 2
        assert pair[0].flush()
        assert sum(health.consecutive_successes for health in pair[0].get_health_status().values()) == 2

    def test_nobody_to_try(self, pair):
        """The loop does not begin."""
        with pytest.raises(NoProviderAvailable):
            next(iter(pair[0].attempts("gpt-5")))

    def test_a_single_attempt_passes_its_error_on(self, pair):
        """And counts it."""
        with pytest.raises(ValueError, match="boom"), pair[0].attempt("gpt-4o") as attempt:
            raise ValueError("boom")
        pair[0].flush()
        assert pair[0].get_health_status()[attempt.provider.name].consecutive_failures == 1

    def test_an_attempt_is_good_for_one_call(self, pair):
        """A second `with` would record a call that nobody chose."""
        with pair[0].attempt("gpt-4o") as attempt:
            pass
        with pytest.raises(RouterError, match="used already"), attempt:
            pass

    def test_latency_is_measured(self, pair):
        """In milliseconds, of the `with` block."""
        with pair[0].attempt("gpt-4o") as attempt:
            threading.Event().wait(0.03)
        pair[0].flush()
        assert 29.0 < pair[0].get_health_status()[attempt.provider.name].latency_ms < 5_000.0

    def test_the_same_lines_work_in_asyncio(self, pair):
        """No async twin: in memory there is nothing to await."""

        async def gateway():
            async with asyncio.timeout(10):
                for attempt in pair[0].attempts("gpt-4o"):
                    with attempt:
                        await asyncio.sleep(0)
                        answered.append(attempt.provider.name)

        answered = []
        asyncio.run(gateway())
        assert len(answered) == 1

    def test_cancellation_says_nothing_about_the_provider(self, pair):
        """An attempt that is cancelled is recorded as ignored: no verdict, no further attempt."""
        tried = []

        async def call():
            for attempt in pair[0].attempts("gpt-4o"):
                with attempt:
                    tried.append(attempt.provider.name)
                    await asyncio.sleep(60)

        async def client():
            task = asyncio.create_task(call())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(client())
        pair[0].flush()
        (name,) = tried
        assert pair[0].get_health_status()[name].consecutive_failures == 0
        assert metric(pair[0]._registry, "requests_total", provider=name, outcome="ignored") == 1

    def test_a_cancelled_trial_returns_its_permit(self, router, checker, backend):
        """In half-open, without a verdict: the circuit stays as it is, the next call may try."""
        replica = router(circuit=QUICK, permit_ttl=60.0)
        replica.register_provider(OPENAI)
        replica.start()
        TestHalfOpen().half_open(replica, checker())
        eventually(lambda: any(replica._engine.permits._in_hand.values()))
        with pytest.raises(asyncio.CancelledError), replica.attempt("gpt-4o") as attempt:
            raise asyncio.CancelledError
        assert replica.flush()
        assert backend.client().zscore(replica._engine.store.keys.permits("openai"), attempt.permit) is None
        assert replica.get_circuit_state("openai") == "half_open"

    def test_32_threads_on_one_router(self, pair):
        """Each attempt is recorded once, whoever made it."""

        def work():
            for _ in range(50):
                with pair[0].attempt("gpt-4o"):
                    pass

        threads = [threading.Thread(target=work) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pair[0].flush()
        assert (
            sum(health.consecutive_successes for health in pair[1]._engine.store.snapshot().records.values()) == 1_600
        )


class TestRecord:
    @pytest.mark.parametrize("latency", [-1, math.nan, math.inf, "5", None, True, 1e12])
    def test_latencies_are_checked(self, pair, latency):
        """Nothing is stored of what was refused."""
        with pytest.raises(InvalidArgument, match="latency_ms"):
            pair[0].record_result("openai", success=True, latency_ms=latency)
        pair[0].flush()
        assert pair[0].get_health_status()["openai"].last_check_ms == 0

    @pytest.mark.parametrize("success", [None, "no", 1])
    def test_success_is_true_or_false(self, pair, success):
        """ "no" would count as a success."""
        with pytest.raises(InvalidArgument, match="success"):
            pair[0].record_result("openai", success=success, latency_ms=1.0)

    def test_unknown_providers_are_refused(self, pair):
        """The error lists those that are known."""
        for call in (
            lambda: pair[0].record_result("opnai", success=True, latency_ms=1),
            lambda: pair[0].get_circuit_state("opnai"),
            lambda: pair[0].update_health("opnai", available=True),
            lambda: pair[0].set_circuit_config(QUICK, "opnai"),
            lambda: pair[0].deregister_provider("opnai"),
        ):
            with pytest.raises(UnknownProvider, match=r"'opnai'.*azure, openai"):
                call()

    def test_a_full_buffer_counts_what_it_drops(self, router):
        """Bounded memory: beyond the limit results are dropped, and counted, and the log says so once."""
        replica = router(buffer_limit=10)
        replica.register_provider(OPENAI)
        for _ in range(25):
            replica.record_result("openai", success=True, latency_ms=1.0)
        assert metric(replica._registry, "results_dropped_total", reason="buffer_full") == 15
        assert metric(replica._registry, "results_pending") == 10

    def test_after_close_results_are_counted_as_dropped(self, pair):
        """Nothing is lost silently."""
        pair[0].close()
        pair[0].record_result("openai", success=True, latency_ms=1.0)
        assert metric(pair[0]._registry, "results_dropped_total", reason="closed") == 1

    def test_every_result_is_applied(self, pair):
        """Many threads, both replicas, thousands of results: the totals agree."""

        def work(replica):
            for _ in range(500):
                replica.record_result("openai", success=True, latency_ms=1.0)

        threads = [threading.Thread(target=work, args=(replica,)) for replica in pair for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(replica.flush() for replica in pair)
        record = pair[0]._engine.store.snapshot(["openai"]).records["openai"]
        assert record.consecutive_successes == 4_000
        counted = [metric(r._registry, "requests_total", provider="openai", outcome="success") for r in pair]
        assert counted == [2_000, 2_000]


class TestSettings:
    def test_set_circuit_config_holds_for_the_fleet(self, pair):
        """At once in Redis, by push everywhere; the next failure is judged by it."""
        first, second = pair
        first.set_circuit_config(dataclasses.replace(QUICK, consecutive_failure_limit=1), "openai")
        eventually(lambda: second.get_health_status()["openai"].config.consecutive_failure_limit == 1)
        fail(second, "openai", 1)
        until(second, "openai", "open")
        assert first.get_health_status()["azure"].config == QUICK
        first.set_circuit_config(CircuitConfig())
        assert {health.config for health in first.get_health_status().values()} == {CircuitConfig()}

    def test_update_health_holds_for_the_fleet(self, pair):
        """Out of service, back in, and another weight."""
        first, second = pair
        first.update_health("openai", available=False)
        eventually(lambda: not second.get_health_status()["openai"].available)
        assert second.select_provider("gpt-4o") == AZURE
        second.update_health("openai", available=True, weight=7)
        eventually(lambda: first.get_health_status()["openai"].weight == 7.0)
        assert first.get_health_status()["openai"].available

    @pytest.mark.parametrize(
        "call",
        [
            lambda r: r.update_health("openai"),
            lambda r: r.update_health("openai", weight=math.nan),
            lambda r: r.update_health("openai", available="no"),
            lambda r: r.set_circuit_config({"open_timeout": 1}),
            lambda r: r.register_provider("openai"),
        ],
    )
    def test_bad_settings_are_refused(self, pair, call):
        """Before anything is stored."""
        before = pair[0].get_health_status()
        with pytest.raises(InvalidArgument):
            call(pair[0])
        assert pair[0].get_health_status() == before

    def test_health_status_leaves_nothing_out(self, pair):
        """All fields of all providers, the reason included."""
        fail(pair[0], "openai")
        status = pair[0].get_health_status()
        assert isinstance(status["openai"], ProviderHealth)
        assert status["openai"].open_reason == "consecutive_failures"
        assert status["openai"].last_state_change_ms > 0

    def test_deregister_here(self, pair):
        """This replica stops; results of calls still under way are counted as dropped; the other goes on."""
        first, second = pair
        first.deregister_provider("openai")
        assert set(first.get_health_status()) == {"azure"}
        first.record_result("openai", success=True, latency_ms=1.0)
        assert metric(first._registry, "results_dropped_total", reason="deregistered") == 1
        assert second.get_circuit_state("openai") == "closed"

    def test_deregister_everywhere(self, pair, backend):
        """The record goes, every replica drops the provider, and nobody restores it."""
        first, second = pair
        second.record_result("openai", success=True, latency_ms=1.0)
        first.deregister_provider("openai", everywhere=True)
        eventually(lambda: set(second.get_health_status()) == {"azure"})
        second._engine.mirror.refresh()
        second.flush()
        assert not backend.client().exists(second._engine.store.keys.health("openai"))
        second.record_result("openai", success=True, latency_ms=1.0)
        assert metric(second._registry, "results_dropped_total", reason="deregistered") >= 1

    def test_deregistered_and_registered_again(self, pair):
        """The news of the first does not undo the second, and the new record is a new one everywhere."""
        first, second = pair
        fail(first, "openai")
        until(second, "openai", "open")
        first.deregister_provider("openai", everywhere=True)
        first.register_provider(OPENAI)
        assert first.flush()
        second.register_provider(OPENAI)
        assert second.flush()
        for replica in pair:
            replica._engine.mirror.refresh()
            assert replica.get_circuit_state("openai") == "closed"

    def test_many_results_of_a_provider_that_is_gone(self, pair):
        """All are counted as dropped, and nothing waits for ever."""
        for _ in range(350):
            pair[0].record_result("openai", success=True, latency_ms=1.0)
        pair[1].deregister_provider("openai", everywhere=True)
        assert pair[0].flush()
        assert metric(pair[0]._registry, "results_pending") == 0

    def test_news_of_a_provider_that_was_removed_here(self, pair):
        """A record that arrives late brings nothing back."""
        health = pair[0].get_health_status()["openai"]
        pair[0].deregister_provider("openai")
        pair[0]._engine.mirror.apply(dataclasses.replace(health, version=health.version + 1))
        assert "openai" not in pair[0]._engine.mirror.records

    def test_before_start_settings_are_the_ones_new_records_get(self, router):
        """There is nothing in Redis to change yet."""
        replica = router()
        replica.register_provider(OPENAI)
        replica.set_circuit_config(QUICK)
        replica.start()
        assert replica.get_health_status()["openai"].config == QUICK

    def test_a_provider_may_be_registered_while_running(self, pair):
        """It can be selected at once; its record is joined in the background."""
        pair[0].register_provider(Provider("new", ("m",)))
        assert pair[0].select_provider("m").name == "new"
        assert pair[0].flush()
        assert "new" in pair[0]._engine.store.snapshot().records

    def test_other_settings_than_the_records_are_named(self, pair, router, caplog):
        """I-8: the record wins, and the log says how to change it."""
        late = router(circuit=CircuitConfig())
        late.register_provider(OPENAI)
        late.start()
        assert "set_circuit_config" in caplog.text
        assert late.get_health_status()["openai"].config == QUICK


class TestLife:
    def test_on_transition_is_called_once_each(self, router):
        """With what changed; a callback that fails disturbs nobody."""
        seen = []

        def listen(change):
            seen.append(change)
            raise RuntimeError("a user's bug")

        replica = router(circuit=QUICK, on_transition=listen)
        replica.register_provider(OPENAI)
        replica.start()
        fail(replica, "openai")
        eventually(lambda: seen)
        assert seen == [Transition("openai", CircuitState.CLOSED, CircuitState.OPEN, "consecutive_failures", 2)]

    def test_as_a_context_manager(self, router):
        """Sync and async; threads end, what was recorded is in Redis."""
        before = threading.active_count()
        with router() as replica:
            replica.register_provider(OPENAI)
            replica.record_result("openai", success=True, latency_ms=3.0)
        record = replica._engine.store.snapshot(["openai"]).records["openai"]
        assert record.consecutive_successes == 1

        async def gateway():
            async with router() as replica:
                replica.register_provider(OPENAI)
                replica.record_result("openai", success=True, latency_ms=3.0)

        asyncio.run(gateway())
        record = replica._engine.store.snapshot(["openai"]).records["openai"]
        assert record.consecutive_successes == 2
        eventually(lambda: threading.active_count() <= before + 1)  # asyncio's own executor thread may linger

    def test_start_is_once_and_close_is_for_good(self, router):
        """Starting or closing twice is no error; starting a closed router is, and says so."""
        replica = router()
        replica.start()
        replica.start()
        replica.register_provider(OPENAI)
        replica.close()
        replica.close()
        for call in (
            replica.start,
            lambda: replica.register_provider(AZURE),
            lambda: replica.update_health("openai", available=True),
            replica.start_health_checker,
        ):
            with pytest.raises(RouterError, match="closed"):
                call()
        assert replica.select_provider("gpt-4o") is OPENAI

    def test_flush_without_start_is_false(self, router):
        """Nothing carries results, and the caller is told."""
        assert router().flush(0.01) is False

    def test_redis_up(self, pair):
        """Seen and measured."""
        assert all(replica.redis_up for replica in pair)
        assert metric(pair[0]._registry, "redis_up") == 1

    def test_routers_of_one_registry_are_told_together(self, router):
        """Up while all are, results pending summed; a closed one counts no more."""
        registry = CollectorRegistry()
        up, idle = (router(registry=registry) for _ in range(2))
        for replica in (up, idle):
            replica.register_provider(OPENAI)
            replica.record_result("openai", success=True, latency_ms=1.0)
        assert metric(registry, "results_pending") == 2
        up.start()
        assert up.flush()
        assert (metric(registry, "results_pending"), metric(registry, "redis_up")) == (1, 0)
        idle.close()
        assert metric(registry, "redis_up") == 1
        up.close()
        assert metric(registry, "redis_up") == 0

    def test_a_health_checker_inside_a_replica(self, pair):
        """The same worker, in the same election; stopping frees the lease."""
        first, second = pair
        first.start_health_checker(0.05, lease=1.0)
        first.start_health_checker(0.05, lease=1.0)
        fail(second, "openai")
        until(second, "openai", "half_open")
        first.stop_health_checker()
        first.stop_health_checker()
        assert first._engine.store.leader()[1].remaining_ms <= 0


@pytest.mark.parametrize(
    "options",
    [
        {"namespace": ""}, {"namespace": "a{b}"}, {"namespace": None}, {"replica": "a b"}, {"circuit": {}},
        {"strategy": "best"}, {"flush_interval": 0}, {"push_interval": math.nan}, {"refresh_interval": -1},
        {"permit_ttl": "5"}, {"safety_net_after": None}, {"buffer_limit": 0}, {"buffer_limit": 1.5},
        {"on_transition": 5},
    ],
)  # fmt: skip
def test_bad_options_are_refused(router, options):
    """Each by name."""
    with pytest.raises(InvalidArgument):
        router(**options)
