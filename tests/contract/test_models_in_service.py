"""redis_router_routable_providers: how many providers of each model are in service, as a replica sees it."""

from dataclasses import replace

from redis_router import Provider
from tests.support.fleet import AZURE, QUICK, fail, registry_of
from tests.support.servers import eventually

SLOW = replace(QUICK, open_timeout=30.0)


def shown(router, model):
    """What the gauge says of this model; None where there is no such series."""
    return registry_of(router).get_sample_value("redis_router_routable_providers", {"model": model})


def until_shown(router, **numbers):
    """Wait until the gauge says these of the models gpt-4o (`large`) and gpt-4o-mini (`mini`)."""
    models = {"large": "gpt-4o", "mini": "gpt-4o-mini"}
    eventually(lambda: all(shown(router, models[name]) == number for name, number in numbers.items()), str(numbers))


class TestModelsInService:
    def test_an_open_circuit_and_a_drain_are_out(self, fleet):
        """On every replica, of every model that the provider serves; and back when they end."""
        replicas = fleet(circuit=SLOW)
        for replica in replicas:
            until_shown(replica, large=2, mini=1)
        fail(replicas[0], "openai")
        for replica in replicas:
            until_shown(replica, large=1, mini=0)
        replicas[1].update_health("azure", available=False)
        for replica in replicas:
            until_shown(replica, large=0, mini=0)
        replicas[1].update_health("azure", available=True)
        for replica in replicas:
            until_shown(replica, large=1, mini=0)

    def test_a_rate_limit_is_out_until_it_ends(self, fleet):
        """By the time alone: nobody has to say so."""
        replica, _ = fleet(circuit=SLOW)
        until_shown(replica, mini=1)
        replica.record_result("openai", outcome="rate_limited", cooldown=0.5)
        until_shown(replica, mini=0)
        until_shown(replica, mini=1)

    def test_who_is_called_although_all_are_out_does_not_count(self, fleet):
        """The least bad one, or one that still answers: somebody has to look all the same."""
        replica, _ = fleet(when_all_open="least_bad", circuit=SLOW)
        fail(replica, "openai")
        until_shown(replica, mini=0)
        assert replica.select_provider("gpt-4o-mini").name == "openai"

    def test_only_models_of_providers_have_a_series(self, fleet):
        """No name that a request gives; `*` for providers of any model; and none of a provider that is gone."""
        replica, _ = fleet(circuit=SLOW)
        until_shown(replica, large=2, mini=1)
        replica.register_provider(Provider("local", models=("*",)))
        eventually(lambda: shown(replica, "*") == 1)
        until_shown(replica, large=3, mini=2)
        replica.select_provider("of-a-request")
        replica.deregister_provider("openai")
        eventually(lambda: shown(replica, "gpt-4o-mini") is None)
        until_shown(replica, large=2)
        assert shown(replica, "of-a-request") is None
        assert AZURE.name in replica.get_health_status()
