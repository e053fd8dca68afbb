"""One provider with a circuit for each of its models."""

import copy
import pickle
from dataclasses import asdict

import pytest

from redis_router import CircuitConfig, InvalidArgument, NoProviderAvailable, Provider, UnknownProvider
from tests.support import eventually
from tests.support.fleet import health

BOTH = Provider("openai", models=("gpt-4o", "gpt-4o-mini"), circuit_per_model=True, client="the client")


class TestCircuitPerModel:
    @pytest.fixture
    def pair(self, router, circuit):
        replicas = [router(circuit=circuit) for _ in range(2)]
        for replica in replicas:
            replica.register_provider(BOTH)
            replica.start()
        return replicas

    def test_one_model_fails_alone(self, pair):
        """The others go on; callers see the provider that they registered."""
        first, second = pair
        for _ in range(3):
            first.record_result("openai", model="gpt-4o", success=False, latency_ms=1.0)
        assert first.flush()
        eventually(lambda: second.get_circuit_state("openai", model="gpt-4o") == "open")
        assert second.get_circuit_state("openai", "gpt-4o-mini") == "closed"
        with pytest.raises(NoProviderAvailable, match="openai/gpt-4o"):
            second.select_provider("gpt-4o")
        assert second.select_provider("gpt-4o-mini") is BOTH
        with second.attempt("gpt-4o-mini") as attempt:
            assert attempt.provider.client == "the client"
        assert health(second, "openai/gpt-4o-mini").consecutive_successes == 1
        assert [model.owned_by for model in second.registered_models()] == ["openai", "openai"]

    def test_settings_hold_for_all_its_models(self, pair):
        """By the provider's name; or for one, by its record's."""
        first, second = pair
        first.update_health("openai", available=False)
        for model in BOTH.models:
            eventually(lambda model=model: not second.get_health_status()[f"openai/{model}"].available)
        first.update_health("openai/gpt-4o", available=True)
        eventually(lambda: second.get_health_status()["openai/gpt-4o"].available)
        assert not second.get_health_status()["openai/gpt-4o-mini"].available
        first.set_circuit_config(CircuitConfig(open_timeout=7.0), "openai")
        assert {h.config.open_timeout for h in first.get_health_status().values()} == {7.0}
        first.deregister_provider("openai", everywhere=True)
        eventually(lambda: not second.get_health_status())

    def test_the_model_must_be_named(self, pair):
        """Where it decides which circuit is meant."""
        with pytest.raises(InvalidArgument, match="give model="):
            pair[0].record_result("openai", success=True, latency_ms=1.0)
        with pytest.raises(InvalidArgument, match="give model="):
            pair[0].get_circuit_state("openai")
        with pytest.raises(UnknownProvider):
            pair[0].record_result("openai", model="gpt-9", success=True, latency_ms=1.0)

    def test_registered_again_its_old_parts_are_gone(self, pair):
        """For fewer models, or as one: whoever was registered last serves."""
        first, _ = pair
        first.register_provider(Provider("openai", models=("gpt-4o",), circuit_per_model=True, client="newer"))
        assert first.get_health_status().keys() == {"openai/gpt-4o"}
        with pytest.raises(NoProviderAvailable):
            first.select_provider("gpt-4o-mini")
        first.register_provider(Provider("openai", models=("gpt-4o",), client="newest"))
        assert first.get_health_status().keys() == {"openai"}
        assert first.select_provider("gpt-4o").client == "newest"

    def test_a_part_that_was_taken_out_is_no_reason_to_miss_news(self, pair):
        """The other part's circuit opens all the same."""
        first, _ = pair
        first.deregister_provider("openai/gpt-4o-mini")
        for _ in range(3):
            first.record_result("openai", model="gpt-4o", success=False, latency_ms=1.0)
        assert first.flush()
        assert first.get_circuit_state("openai") == "open"

    def test_it_travels(self):
        """Copied, pickled, turned into a dict: parts and whole."""
        part = BOTH.parts()[0]
        assert asdict(BOTH)["name"] == "openai"
        assert pickle.loads(pickle.dumps(part)).whole == BOTH
        assert copy.copy(BOTH).whole == BOTH

    @pytest.mark.parametrize("models", [("*",), ("a model",), ("x" * 64,)])
    def test_models_that_make_no_record_are_refused(self, models):
        """Their names come into Redis keys."""
        with pytest.raises(InvalidArgument, match="circuit"):
            Provider("openai", models=models, circuit_per_model=True)

    def test_a_shared_record_is_refused(self, pair):
        """Two providers would share one circuit without knowing."""
        with pytest.raises(InvalidArgument, match="would share the record"):
            pair[0].register_provider(Provider("openai/gpt-4o", models=("m",)))
