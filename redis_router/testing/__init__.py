"""For tests of code that uses redis_router: a fleet in memory, a real server, and circuits in the state one needs.

With pytest, a gateway that must answer 503 when nobody can be called, and fail over before::

    import pytest
    from prometheus_client import CollectorRegistry

    from redis_router import NoProviderAvailable, Provider, Router
    from redis_router.testing import memory, open_circuit, recorded


    def gateway(router):  # the code under test
        try:
            for attempt in router.attempts("gpt-4o"):
                with attempt:
                    return 200, attempt.provider.client()
        except NoProviderAvailable:
            return 503, "nobody can be called"


    def fails():
        raise ConnectionError


    @pytest.fixture
    def router():
        with memory() as url, Router(url, strategy="round_robin", registry=CollectorRegistry()) as router:
            router.register_provider(Provider("azure", models=("gpt-4o",), client=fails))
            router.register_provider(Provider("openai", models=("gpt-4o",), client=lambda: "Hello"))
            yield router


    def test_it_fails_over(router):
        with recorded(router) as outcomes:
            answers = [gateway(router) for _ in range(2)]
        assert answers == [(200, "Hello")] * 2
        assert outcomes == {("azure", "failure"): 1, ("openai", "success"): 2}


    def test_it_answers_503_when_all_are_open(router):
        for name in ("azure", "openai"):
            open_circuit(router, name)
        assert gateway(router) == (503, "nobody can be called")

On a real server in place of memory, started once for all tests, with a namespace for each::

    import uuid

    from redis_router.testing import redis_server, wait_until


    @pytest.fixture(scope="session")
    def redis_url():
        with redis_server() as url:
            yield url


    @pytest.fixture
    def replicas(redis_url):
        namespace = f"test-{uuid.uuid4()}"
        made = [Router(redis_url, namespace=namespace, registry=CollectorRegistry()) for _ in range(2)]
        with made[0], made[1]:
            for router in made:
                router.register_provider(Provider("openai", models=("gpt-4o",)))
                assert router.flush()
            yield made


    def test_a_circuit_is_the_fleets(replicas):
        open_circuit(replicas[0], "openai")
        wait_until(replicas[1], "openai", "open")

`pip install 'redis-llm-router[testing]'` brings a server along, where none is on PATH.
"""

from redis_router.testing.circuits import (
    close_circuit,
    half_open_circuit,
    memory,
    open_circuit,
    recorded,
    wait_until,
)
from redis_router.testing.server import redis_server

__all__ = [
    "close_circuit",
    "half_open_circuit",
    "memory",
    "open_circuit",
    "recorded",
    "redis_server",
    "wait_until",
]
