"""Half-open: permits are claimed ahead, spent, renewed and given back, and results count for their own time."""

import dataclasses
import threading

import pytest

from redis_router import NoProviderAvailable
from tests.support import eventually, metric
from tests.support.fleet import (
    AZURE,
    OPENAI,
    QUICK,
    chosen,
    fail,
    half_open,
    until,
)


class TestHalfOpen:
    def test_select_spends_permits_and_record_returns_them(self, alone_on_openai, checker):
        """Also without attempts, trial calls are bounded and close the circuit."""
        replica = alone_on_openai(circuit=dataclasses.replace(QUICK, half_open_max_probes=1))
        half_open(replica, checker())
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
        half_open(first, checker())
        eventually(lambda: metric(first, "half_open_permits_total", provider="openai") == 1, "a permit was granted")
        assert first.flush(), "whoever claimed it has it in hand"
        with first.attempt("gpt-4o") as attempt:
            assert (attempt.provider.name, attempt.permit is not None) == ("openai", True)

    def test_unused_permits_are_given_back(self, alone_on_openai, checker, backend):
        """I-6: a replica without traffic does not sit on one."""
        replica = alone_on_openai(permit_ttl=1.0)
        half_open(replica, checker())
        eventually(lambda: len(backend.permits()) == 1, "a permit is claimed")
        eventually(lambda: backend.permits() == {}, "it is given back")

    def test_a_running_call_keeps_its_permit(self, alone_on_openai, checker, backend):
        """I-6: renewed for as long as it runs, many times its ttl; then free."""
        replica = alone_on_openai(circuit=dataclasses.replace(QUICK, half_open_max_probes=1), permit_ttl=1.0)
        half_open(replica, checker())
        store = backend.store()
        with eventually(lambda: chosen(replica, "gpt-4o")) as attempt:
            first = eventually(lambda: backend.permits().get(attempt.permit))
            eventually(lambda: backend.permits().get(attempt.permit, 0) > first + 900, "renewed three times over")
            assert store.claim("openai", ["another"], 1_000)[1] == []
        replica.flush()
        assert attempt.permit not in backend.permits()

    def test_a_late_failure_does_not_reopen(self, alone_on_openai, checker):
        """I-5: the call began while the circuit was closed and ends in half-open."""
        replica = alone_on_openai()

        def late_call():
            with replica.attempt("gpt-4o"):
                half_open(replica, checker())
                raise TimeoutError

        with pytest.raises(TimeoutError):
            late_call()
        replica.flush()
        assert replica.get_circuit_state("openai") == "half_open"

    def test_a_result_of_today_is_not_taken_for_a_trials(self, alone_on_openai, checker):
        """A trial that nobody reported does not hide later results: the circuit opens at its limit."""
        replica = alone_on_openai(circuit=dataclasses.replace(QUICK, half_open_max_probes=2))
        half_open(replica, checker())
        eventually(lambda: self.selected(replica), "a trial call that nobody will report")
        for _ in range(2):
            with eventually(lambda: chosen(replica, "gpt-4o"), "a trial call"):
                pass
        until(replica, "openai", "closed")
        fail(replica, "openai")
        eventually(lambda: replica.get_circuit_state("openai") != "closed", "it opened; half-open follows soon")

    def test_what_was_chosen_and_not_begun_is_given_back(self, router, checker, backend):
        """A loop that is left after a failure has chosen the next attempt already: its permit is free at once."""
        replica = router(circuit=QUICK, permit_ttl=60.0)
        for provider in (OPENAI, AZURE):
            replica.register_provider(provider)
        replica.start()
        turns = iter(replica.attempts("gpt-4o"))
        first = next(turns)
        other = "azure" if first.provider is OPENAI else "openai"
        half_open(replica, checker(), other)
        eventually(lambda: len(backend.permits(other)) == 1, "a permit was granted")
        assert replica.flush(), "whoever claimed it has it in hand"
        with first:
            raise OSError
        eventually(lambda: len(backend.permits(other)) == 2, "the next attempt has it, and another one is in hand")
        turns.close()
        replica.close()
        assert backend.permits(other) == {}

    def test_closing_hands_permits_back_and_claims_no_more(self, alone_on_openai, checker, backend):
        """The fleet need not wait for them to expire."""
        replica = alone_on_openai(permit_ttl=60.0)
        half_open(replica, checker())
        eventually(lambda: len(backend.permits()) == 1)
        replica.close()
        assert backend.permits() == {}

    @pytest.mark.redis("in memory there is no delay that a safety net would shorten: see TestInMemory")
    def test_without_a_worker_a_replica_makes_the_transition(self, alone_on_openai, backend, monkeypatch):
        """I-9: the safety net, logged and counted; with a worker in office it stays out."""
        worker = backend.store("worker")
        worker.campaign(60_000)
        replica = alone_on_openai(circuit=QUICK, safety_net_after=0.1)
        fail(replica, "openai")
        assert metric(replica, "safety_net_transitions_total", provider="openai") == 0
        looked = threading.Event()
        leader = type(worker).leader

        def looks(store):
            looked.set()
            return leader(store)

        monkeypatch.setattr(type(worker), "leader", looks)
        assert looked.wait(10), "the replica looked who leads"
        assert replica.get_circuit_state("openai") == "open"
        worker.resign(worker.leader()[1].epoch)
        until(replica, "openai", "half_open")
        eventually(lambda: metric(replica, "safety_net_transitions_total", provider="openai") == 1)
