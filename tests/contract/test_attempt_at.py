"""An attempt at a provider that somebody else chose: whatever its state, and what the call then counts for."""

import pytest

from redis_router import NoProviderAvailable, UnknownProvider
from tests.support import eventually
from tests.support.fleet import QUICK, fail, half_open, health, until


class TestAttemptAt:
    def test_it_is_that_provider(self, fleet):
        """Whomever the strategy would choose, and the call counts as any other."""
        replica, _ = fleet()
        for _ in range(5):
            with replica.attempt_at("azure", "gpt-4o") as attempt:
                assert attempt.provider.name == "azure"
                attempt.fail("nonsense")
        assert health(replica, "azure").last_failure == "nonsense"
        until(replica, "azure", "open")

    def test_a_call_that_nobody_should_make_moves_no_circuit(self, fleet):
        """The circuit is open: a success closes nothing, a failure begins no new generation."""
        replica, _ = fleet()
        fail(replica, "azure")
        until(replica, "azure", "open")
        before = health(replica, "azure")
        for failed in (False, True):
            with replica.attempt_at("azure", "gpt-4o") as attempt:
                assert attempt.permit is None
                if failed:
                    attempt.fail()
        after = health(replica, "azure")
        assert (after.circuit_state, after.generation) == (before.circuit_state, before.generation)

    def test_in_half_open_it_takes_a_permit(self, alone_on_openai, checker):
        """A trial call as any other: it closes the circuit."""
        replica = alone_on_openai(circuit=QUICK)
        half_open(replica, checker())

        def is_closed():
            with replica.attempt_at("openai", "gpt-4o"):
                pass
            replica.flush()
            return replica.get_circuit_state("openai") == "closed"

        eventually(is_closed, "it is closed")

    def test_whom_nobody_knows(self, fleet):
        """By name, or for that model."""
        replica, _ = fleet()
        for name, model in (("nobody", "gpt-4o"), ("anthropic", "gpt-4o"), ("azure", "unknown")):
            with pytest.raises(UnknownProvider, match="unknown provider"):
                replica.attempt_at(name, model)

    def test_one_that_is_drained(self, fleet):
        """It is called, where somebody chose it all the same."""
        replica, _ = fleet()
        replica.drain("azure", reason="maintenance")
        with pytest.raises(NoProviderAvailable, match="maintenance"):
            replica.attempt("gpt-4o", exclude=["openai"])
        with replica.attempt_at("azure", "gpt-4o") as attempt:
            assert attempt.provider.name == "azure"


class TestAvailableProviders:
    def test_who_may_be_called_now(self, fleet):
        """Nobody whose circuit is open, who cools down or was drained; and nobody for a model that nobody serves."""
        replica, _ = fleet()

        def names():
            return [provider.name for provider in replica.available_providers("gpt-4o")]

        assert names() == ["openai", "azure"]
        replica.record_result("openai", outcome="rate_limited", cooldown=60.0)
        assert names() == ["azure"]
        fail(replica, "azure")
        until(replica, "azure", "open")
        assert names() == []
        assert replica.available_providers("unknown") == []
