"""The set of metrics: one per registry, and not in the way of anything."""

import subprocess
import sys

from prometheus_client import CollectorRegistry

from redis_router import Outcome, ProviderHealth
from redis_router.circuit.outcome import Result
from redis_router.telemetry.metrics import Metrics
from tests.support import metric


def test_routers_that_share_a_registry_share_the_set():
    """A second router in a process is no error."""
    registry = CollectorRegistry()
    assert Metrics.of(registry) is Metrics.of(registry)


def test_results_are_folded():
    """Counted by outcome; a latency of 0 was not measured and is not observed."""
    registry = CollectorRegistry()
    Metrics(registry).results(
        "p",
        [
            Result("p", Outcome.SUCCESS, 200.0, 1),
            Result("p", Outcome.SUCCESS, 0.0, 1),
            Result("p", Outcome.FAILURE, 300.0, 1),
        ],
    )
    assert metric(registry, "requests_total", provider="p", outcome="success") == 2
    assert metric(registry, "requests_total", provider="p", outcome="failure") == 1
    assert metric(registry, "request_latency_seconds_count", provider="p") == 2
    assert metric(registry, "request_latency_seconds_sum", provider="p") == 0.5


def test_a_fork_waits_for_a_scrape():
    """The child's metrics begin at zero, whatever the parent's threads held when it forked."""
    code = (
        "import os, threading, prometheus_client as p\n"
        "from redis_router import Outcome\n"
        "from redis_router.telemetry.metrics import Metrics\n"
        "from redis_router.circuit.outcome import Result\n"
        "m = Metrics.of(None); r = [Result('p', Outcome.SUCCESS, 1.0, 1)]; m.results('p', r)\n"
        "stop = threading.Event()\n"
        "def scrape():\n    while not stop.is_set(): p.generate_latest(p.REGISTRY)\n"
        "threads = [threading.Thread(target=scrape, daemon=True) for _ in range(4)]; [t.start() for t in threads]\n"
        "for _ in range(40):\n"
        "    if not (pid := os.fork()):\n"
        "        m.start_anew(); m.results('p', r)\n"
        "        counted = [s.value for f in m.collect() for s in f.samples if s.name.endswith('requests_total')]\n"
        "        os._exit(int(counted != [1.0]))\n"
        "    assert os.waitpid(pid, 0)[1] == 0\n"
        "stop.set()"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


def test_a_forgotten_provider_disappears():
    """No stale gauge of a provider that was deregistered."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.health([ProviderHealth("p")])
    assert metric(registry, "circuit_state", provider="p", state="closed") == 1
    metrics.forget("p")
    assert registry.get_sample_value("redis_router_circuit_state", {"provider": "p", "state": "closed"}) is None
