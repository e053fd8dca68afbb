"""Fleets that many of the contract tests begin with, on every backend."""

from dataclasses import replace

import pytest

from redis_router import Provider
from tests.support.fleet import AZURE, CLAUDE, OPENAI, QUICK


@pytest.fixture
def circuit(request):
    """Quick thresholds. Where no worker is asked for, an open circuit stays open: in memory nobody waits for one."""
    return QUICK if "checker" in request.fixturenames else replace(QUICK, open_timeout=60.0)


@pytest.fixture
def pair(router, circuit):
    """Two started replicas that know openai and azure."""
    replicas = [router(circuit=circuit, strategy="round_robin") for _ in range(2)]
    for replica in replicas:
        replica.register_provider(OPENAI)
        replica.register_provider(AZURE)
        replica.start()
    return replicas


@pytest.fixture
def alone_on_openai(router, circuit):
    """Makes a started replica that knows openai and nobody else."""

    def make(**options):
        replica = router(**{"circuit": circuit, **options})
        replica.register_provider(OPENAI)
        replica.start()
        return replica

    return make


@pytest.fixture
def fleet(router, circuit):
    """Makes two started replicas that know openai and azure for gpt-4o, and anthropic."""

    def make(**options):
        replicas = [router(**{"circuit": circuit, "strategy": "round_robin", **options}) for _ in range(2)]
        for replica in replicas:
            for provider in (OPENAI, AZURE, CLAUDE):
                replica.register_provider(provider)
            replica.start()
        return replicas

    return make


@pytest.fixture
def bad_and_good(router, circuit):
    """Makes a started replica that knows "bad" and "good"; `only` leaves one of them."""

    def make(*, only=None, **options):
        replica = router(**{"circuit": circuit, "strategy": "round_robin", **options})
        for name in ("bad", "good"):
            if only in (None, name):
                replica.register_provider(Provider(name, models=("m",)))
        replica.start()
        return replica

    return make
