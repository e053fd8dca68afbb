"""Which provider is selected, what else there is, and what it says where there is none."""

import dataclasses
import pickle

import pytest

from redis_router import InvalidArgument, NoProviderAvailable, Provider, RegisteredModel
from tests.support.fleet import AZURE, OPENAI, QUICK, fail


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

    def test_fallbacks_are_the_others_best_first(self, router, circuit):
        """By the router's strategy, without the primary, without what is down."""
        replica = router(circuit=circuit)
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


class TestExclude:
    def test_somebody_else_is_chosen(self, bad_and_good):
        """For a loop of one's own; names that nobody has are no matter."""
        replica = bad_and_good()
        for _ in range(6):
            assert replica.attempt("m", exclude=["bad", "nobody"]).provider.name == "good"

    def test_where_nobody_is_left_it_says_why(self, bad_and_good):
        """By name."""
        with pytest.raises(NoProviderAvailable) as caught:
            bad_and_good().attempt("m", exclude={"bad", "good"})
        assert caught.value.reasons == dict.fromkeys(("bad", "good"), "excluded by the caller")

    def test_all_parts_of_a_provider_are_meant(self, router):
        """With a circuit for each model, the provider's name will do."""
        replica = router()
        replica.register_provider(Provider("a", models=("m", "n"), circuit_per_model=True))
        replica.register_provider(Provider("b", models=("m",)))
        assert {replica.attempt("m", exclude=["a"]).provider.name for _ in range(10)} == {"b"}
        assert {replica.attempt("m", exclude=["a/m"]).provider.name for _ in range(10)} == {"b"}

    @pytest.mark.parametrize(
        "exclude", ["bad", b"bad", "", 3, None, False, [None], [["bad"]], [Provider("bad", ("m",))]]
    )
    def test_what_are_no_names_is_refused(self, bad_and_good, exclude):
        """Always, and not only when somebody is out."""
        with pytest.raises(InvalidArgument, match="exclude"):
            bad_and_good().attempt("m", exclude=exclude)
