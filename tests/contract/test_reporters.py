"""With `min_reporters` a replica whose own calls fail opens its own view, and not the fleet's."""

from dataclasses import replace

from redis_router import NoProviderAvailable
from tests.support import eventually, metric
from tests.support.fleet import OPENAI, QUICK, fail, until


def speak_well(replica):
    """It calls the provider, too: so that the others are not alone with their word."""
    replica.record_result("openai", success=True, latency_ms=1.0)
    assert replica.flush()


class TestReporters:
    CONFIG = replace(QUICK, min_reporters=2, open_timeout=0.2)

    def test_a_poisoned_replica_opens_its_own_view_only(self, fleet, backend):
        """Its own calls fail, it stops making them; the others go on; and it comes back by trial calls of its own."""
        poisoned, other = fleet(circuit=self.CONFIG)
        speak_well(other)
        fail(poisoned, "openai")
        until(poisoned, "openai", "open")
        assert {poisoned.select_provider("gpt-4o").name for _ in range(10)} == {"azure"}
        assert backend.record().circuit_state == "closed"
        assert other.get_circuit_state("openai") == "closed"
        assert metric(poisoned, "local_state_changes_total", provider="openai", from_state="closed", to_state="open")
        until(poisoned, "openai", "half_open")

        def trial():
            with poisoned.attempt("gpt-4o") as attempt:
                return attempt.provider is OPENAI

        eventually(trial)
        eventually(lambda: trial() and poisoned.flush() and poisoned.get_circuit_state("openai") == "closed")
        assert backend.record().generation == 1
        fail(poisoned, "openai")
        until(poisoned, "openai", "open")  # once more, from the beginning

    def test_what_redis_missed_is_forgotten(self, fleet, outage):
        """Away from Redis the replica decides for itself; back, it begins with the fleet's word."""
        poisoned, other = fleet(circuit=replace(self.CONFIG, open_timeout=30.0))
        speak_well(other)
        fail(poisoned, "openai")
        until(poisoned, "openai", "open")
        with outage():
            eventually(lambda: not poisoned.redis_up)
            assert poisoned.get_circuit_state("openai") == "open"
        until(poisoned, "openai", "closed")
        assert poisoned.redis_up

    def test_the_fleets_trial_takes_the_fleets_permits(self, fleet, checker):
        """A replica whose own view was open, too, counts against the limit, and its success is a verdict."""
        first, second = fleet(circuit=replace(self.CONFIG, half_open_max_probes=1))
        speak_well(second)
        for replica in (first, second):
            replica.update_health("azure", available=False)
        worker = checker()
        worker.run_once()  # it leads
        fail(first, "openai")
        fail(second, "openai")
        eventually(lambda: "openai" in worker.run_once().half_opened)

        def trial(replica):
            try:
                return replica.attempt("gpt-4o")
            except NoProviderAvailable:
                return None

        eventually(lambda: any(trial(replica) for replica in (first, second)), "a permit for one of them")
        assert not any(trial(replica) for replica in (first, second)), "and none for the other"

    def test_two_open_it_for_all(self, fleet, backend):
        """And the fleet's word replaces the replica's own."""
        first, second = fleet(circuit=replace(self.CONFIG, open_timeout=30.0))
        speak_well(second)
        fail(first, "openai")
        until(first, "openai", "open")
        assert second.get_circuit_state("openai") == "closed"
        fail(second, "openai", 1)
        for replica in (first, second):
            until(replica, "openai", "open")
            eventually(lambda replica=replica: replica.get_health_status()["openai"] == backend.record())
        assert (backend.record().circuit_state, backend.record().generation) == ("open", 2)
