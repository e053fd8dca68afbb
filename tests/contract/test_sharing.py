"""One breaker for the fleet: what one replica trips every replica avoids, and recovery is shared."""

from redis_router import Provider
from tests.support import eventually, metric
from tests.support.fleet import AZURE, OPENAI, QUICK, fail, until


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
        worker = checker()
        worker.run_once()  # it leads
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
        counted = {
            (a, b): sum(
                metric(process, "circuit_state_changes_total", provider="openai", from_state=a, to_state=b)
                for process in (first, second, worker)
            )
            for a, b in [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]
        }
        assert set(counted.values()) == {1.0}

    def test_a_new_replica_joins_an_open_circuit(self, pair, router, circuit):
        """I-8: it never sends a call to a provider that the fleet knows to be down."""
        fail(pair[0], "openai")
        late = router()
        late.register_provider(OPENAI)
        late.register_provider(AZURE)
        late.start()
        assert late.get_circuit_state("openai") == "open"
        assert late.get_health_status()["openai"].config == circuit

    def test_a_replica_starts_again_under_its_name(self, router):
        """Its results count: sequence numbers are the process's, not the name's."""
        for times in (1, 2, 3):
            with router(replica="gw-1") as replica:
                replica.register_provider(OPENAI)
                replica.record_result("openai", success=True, latency_ms=1.0)
                assert replica.flush()
                assert replica.get_health_status()["openai"].consecutive_successes == times

    def test_replicas_may_serve_other_providers(self, pair, router):
        """News of a provider that is not registered here changes nothing here."""
        other = router(circuit=QUICK)
        other.register_provider(Provider("other", ("m",)))
        other.start()
        fail(other, "other")
        pair[0].flush()
        assert set(pair[0].get_health_status()) == {"openai", "azure"}
