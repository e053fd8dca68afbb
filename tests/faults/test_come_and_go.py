"""Providers that are registered and taken out while others go on: nothing is lost, nothing stays."""

import threading

from prometheus_client import CollectorRegistry

from redis_router import CircuitConfig, Provider
from redis_router.store.redis import RedisStore
from tests.faults.attacked import fail, until
from tests.support import eventually, metric
from tests.support.fleet import books, series_of


def test_registering_from_several_threads(made):
    """While others register, deregister and choose."""
    router = made()
    errors = []

    def come_and_go(number):
        try:
            for turn in range(30):
                name = f"p{number}-{turn}"
                router.register_provider(Provider(name, ("m", f"m{number}"), circuit_per_model=turn % 2 == 0))
                router.select_provider("m")
                router.get_health_status()
                router.registered_models()
                router.deregister_provider(name)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=come_and_go, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_health_checker_is_started_once(made):
    """Also by several threads at once."""
    router = made()
    before = threading.active_count()
    gate = threading.Barrier(8)

    def start():
        gate.wait()
        router.start_health_checker()

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    router.stop_health_checker()
    eventually(lambda: threading.active_count() <= before, "its threads are gone")


def test_providers_that_come_and_go_leave_nothing_behind(made):
    """No series, and nothing in the router's own books."""
    router = made()

    def come_and_go(names):
        for name in names:
            router.register_provider(Provider(name, ("m",)))
            assert router.flush()
            fail(router, name)
            router.record_result(name, success=True, latency_ms=1.0)
            router.update_health(name, available=True)
            assert router.flush()
            router.deregister_provider(name, everywhere=True)

    def sizes():
        return {book: len(kept) for book, kept in books(router).items()}

    first, then = [f"first{n}" for n in range(5)], [f"then{n}" for n in range(20)]
    come_and_go(first)
    before = eventually(lambda: not kept_of(router, *first) and sizes(), "no book knows them")
    come_and_go(then)
    eventually(lambda: not kept_of(router, *then), "no book knows them")
    eventually(lambda: sizes() == before, "no book has grown")
    eventually(lambda: not any(series_of(router, name) for name in first + then), "no series is left")


def kept_of(router, *names):
    """The books of the router that know one of these names."""
    return {book for book, kept in books(router).items() if not kept.isdisjoint(names)}


def test_a_permit_of_a_provider_that_is_taken_out_here_goes_back(admin, made):
    """It must not block the fleet's trial calls until it runs out."""
    circuit = CircuitConfig(consecutive_failure_limit=1, half_open_max_probes=1, open_timeout=0.2)
    router = made(circuit=circuit, safety_net_after=0.2, permit_ttl=600.0)
    fail(router, times=1)
    until(router, "half_open")
    router.select_provider("m")  # there is demand
    eventually(lambda: admin.zcard("rr:{broken}:permits"), "a permit in hand")
    router.deregister_provider("broken")
    eventually(lambda: not admin.zcard("rr:{broken}:permits"), "it is back")


def test_so_does_one_whose_claim_is_under_way(admin, made, monkeypatch):
    """The provider is taken out after Redis gave the permit, and before the replica hears of it."""
    given = RedisStore.claim
    circuit = CircuitConfig(consecutive_failure_limit=1, half_open_max_probes=1, open_timeout=0.2)
    router = made(circuit=circuit, safety_net_after=0.2, permit_ttl=600.0)
    seen = []

    def claim(store, name, tokens, ttl_ms):
        said = given(store, name, tokens, ttl_ms)
        if not seen:
            seen.append(admin.zcard("rr:{broken}:permits"))
            router.deregister_provider(name)
            eventually(lambda: "Permits._hands" not in kept_of(router, name), "its permits went back")
        return said

    monkeypatch.setattr(RedisStore, "claim", claim)
    fail(router, times=1)
    until(router, "half_open")
    router.select_provider("m")  # there is demand
    eventually(lambda: seen == [1], "a permit is given")
    eventually(lambda: not admin.zcard("rr:{broken}:permits"), "it is back")


def test_a_provider_stays_in_the_metrics_while_another_router_has_it(made):
    """Two routers of one registry."""
    registry = CollectorRegistry()
    first, second = made(registry=registry), made(registry=registry)
    second.record_result("healthy", success=True, latency_ms=1.0)
    assert second.flush()
    first.deregister_provider("healthy")
    # the set of metrics is one for both
    shared = ("Metrics.", "ProviderGauges.")
    eventually(lambda: all(book.startswith(shared) for book in kept_of(first, "healthy")), "it was forgotten there")
    assert metric(registry, "requests_total", provider="healthy", outcome="success") == 1
    second.deregister_provider("healthy")
    eventually(lambda: not metric(registry, "requests_total", provider="healthy", outcome="success"))


def test_a_late_result_brings_no_series_back(made):
    """A call that ends after its provider was taken out."""
    router = made()
    attempt = router.attempt("m", exclude=["healthy"])
    with attempt:
        router.deregister_provider("broken")
        eventually(lambda: not kept_of(router, "broken"), "it was forgotten")
    assert router.flush()
    eventually(lambda: not series_of(router, "broken"))
    eventually(lambda: not kept_of(router, "broken"))
