"""Many at once: waiting requests, results without a pause, permits."""

import asyncio
import threading
import time

from redis_router import CircuitConfig, Provider
from tests.faults.attacked import fail, record_of, until
from tests.support import eventually
from tests.support.fleet import (
    chosen,
    new_router,
    permits_in_hand,
)


class TestTrials:
    """Half-open permits."""

    def test_an_attempt_that_is_never_entered_blocks_nobody(self, admin, made):
        """Its permit is back when the object is gone."""
        circuit = CircuitConfig(
            consecutive_failure_limit=1, half_open_max_probes=1, half_open_success_threshold=1, open_timeout=0.2
        )
        router = made(circuit=circuit, safety_net_after=0.2)
        router.deregister_provider("healthy")
        fail(router, times=1)
        until(router, "half_open")
        attempt = eventually(lambda: chosen(router, "m"), "a trial call")
        assert attempt.permit
        del attempt
        with eventually(lambda: chosen(router, "m"), "another trial call", 15):
            pass
        until(router, "closed")

    def test_no_more_than_a_few_permits_are_made_ahead(self, server, made):
        """While Redis is away each replica makes its own."""
        circuit = CircuitConfig(consecutive_failure_limit=1, half_open_max_probes=1000, open_timeout=0.2)
        router = made(circuit=circuit)
        server.stop()
        eventually(lambda: not router.redis_up)
        fail(router, times=1)
        until(router, "half_open")
        assert eventually(lambda: permits_in_hand(router, "broken")) <= 3


def test_two_thousand_requests_wait_for_fifty_providers(server):
    """All are open and come back together: as many are woken as may go, and the loop has time for them."""
    circuit = CircuitConfig(consecutive_failure_limit=1, half_open_success_threshold=2, open_timeout=0.5)
    router = new_router(server.url, circuit=circuit, safety_net_after=0.1)
    names = [f"p{n}" for n in range(50)]
    for name in names:
        router.register_provider(Provider(name, ("m",)))
    served = []

    async def request():
        async for attempt in router.attempts("m", wait=True, deadline=60.0):
            with attempt:
                await asyncio.sleep(0.001)  # the call
                served.append(attempt.provider.name)

    async def everybody():
        await asyncio.gather(*(request() for _ in range(2000)))

    def all_are_closed():
        asyncio.run(request())  # a provider that is half-open when the crowd has gone waits for a call
        return {router.get_circuit_state(name) for name in names} == {"closed"}

    with router:
        assert router.flush(20)
        for name in names:
            router.record_result(name, success=False, latency_ms=1.0)
        assert router.flush(20)
        began = time.process_time()
        asyncio.run(everybody())
        took = time.process_time() - began
        assert len(served) == 2000
        eventually(all_are_closed, "all are closed")
        served.clear()
        began = time.process_time()
        asyncio.run(everybody())
        plain = time.process_time() - began
    assert len(served) == 2000
    assert took < 40 * plain, "CPU: it is about 5 times as much, where each is woken once"


def test_a_flush_covers_what_came_before_it_and_no_more(admin, router):
    """Under load without a pause: providers just registered have their record, results are there, and it returns."""
    over = threading.Event()

    def load():
        while not over.is_set():
            router.record_result("healthy", success=True, latency_ms=1.0)
            time.sleep(0)  # the other threads' turn

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(40):
            name = f"new{number}"
            router.register_provider(Provider(name, ("other",)))
            assert router.flush(10)
            assert record_of(admin, name)["generation"] == "1"
            router.record_result(name, success=False, latency_ms=1.0)
            assert router.flush(10)
            assert record_of(admin, name)["consecutive_failures"] == "1"
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_a_flush_ends_with_the_router(server, router):
    """Nobody is left who would settle what it waits for."""
    server.stop()
    eventually(lambda: not router.redis_up)
    said = []
    router.record_result("healthy", success=True, latency_ms=1.0)
    thread = threading.Thread(target=lambda: said.append(router.flush(60.0)))
    thread.start()
    router.close(0.5)
    thread.join(20.0)
    assert said == [False]
