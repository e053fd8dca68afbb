"""The set of metrics: one per registry, and not in the way of anything."""

import os
import subprocess
import sys

from prometheus_client import CollectorRegistry

from redis_router import Outcome, ProviderHealth
from redis_router.circuit.outcome import Result
from redis_router.telemetry.metrics import CREDENTIALS_REFUSED, DROP_REASONS, Metrics
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


class Owner:
    """A router, as far as the metrics know it."""

    def has_provider(self, name: str) -> bool:
        return False


def test_of_routers_that_share_a_registry_the_one_that_is_worst_off_is_shown():
    """And a model that nobody serves any more disappears, as does what a router that is gone said."""
    registry = CollectorRegistry()
    metrics, one, other = Metrics(registry), Owner(), Owner()

    def shown(model: str) -> float | None:
        return registry.get_sample_value("redis_router_routable_providers", {"model": model})

    metrics.models(one, {"a": 2, "b": 1})
    metrics.models(other, {"a": 0})
    assert (shown("a"), shown("b")) == (0, 1)
    metrics.models(other, {})
    assert (shown("a"), shown("b")) == (2, 1)
    metrics.models(one, {"b": 1})
    assert (shown("a"), shown("b")) == (None, 1)


def test_what_one_event_should_be_alerted_on_begins_at_0():
    """Prometheus sees no increase where the first sample is 1."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.health([ProviderHealth("p")])
    metrics.results("p", [Result("p", Outcome.SUCCESS, 20.0, 1)])
    assert registry.get_sample_value("redis_router_safety_net_transitions_total", {"provider": "p"}) == 0
    for reason in CREDENTIALS_REFUSED:
        assert registry.get_sample_value("redis_router_failures_total", {"provider": "p", "reason": reason}) == 0
    for reason in DROP_REASONS:
        assert registry.get_sample_value("redis_router_results_dropped_total", {"reason": reason}) == 0


def test_a_model_that_is_gone_raises_no_alarm_in_files(tmp_path):
    """There no series goes: it says infinite, so that the least of all processes is that of another one."""
    code = (
        "from redis_router.telemetry.exposition import scrape_registry\n"
        "from redis_router.telemetry.metrics import Metrics\n"
        "from redis_router.replica.served import Served\n"
        "m, owner = Metrics.of(None), Served()\n"
        "m.models(owner, {'a': 0, 'b': 1}); m.models(owner, {'b': 1})\n"
        "r = scrape_registry()\n"
        "print(*(r.get_sample_value('redis_router_routable_providers', {'model': each}) for each in 'ab'))\n"
    )
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.split() == ["inf", "1.0"]
