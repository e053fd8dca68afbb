"""The set of metrics: documented, one per registry, and not in the way of anything."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from redis_router import Outcome, ProviderHealth
from redis_router.metrics import Metrics
from redis_router.model import Result
from tests.support import metric

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_routers_that_share_a_registry_share_the_set():
    """A second router in a process is no error."""
    registry = CollectorRegistry()
    assert Metrics.of(registry) is Metrics.of(registry)


def test_every_metric_is_in_the_readme():
    """And the README names no other."""
    registry = CollectorRegistry()
    Metrics(registry)
    names = set()
    for family in registry.collect():
        names.add(family.name + ("_total" if family.type == "counter" else ""))
    assert set(re.findall(r"`(redis_router_\w+)", README)) == names


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


def test_a_batch_is_observed_as_its_samples_would_be():
    """Folded at once, and in the same buckets: those that lie on a bound, too."""
    registry, latencies = CollectorRegistry(), [0.1, 50, 50.001, 2_500, 119_999, 120_001, 10**6]
    metrics = Metrics(registry)
    metrics.results("batch", [Result("batch", Outcome.SUCCESS, latency, 1) for latency in latencies])
    for latency in latencies:
        metrics.request_latency.labels("single").observe(latency / 1000)

    def samples(provider):
        return {
            (s.name, s.labels.get("le")): s.value
            for family in registry.collect()
            for s in family.samples
            if s.labels.get("provider") == provider and "latency_seconds" in s.name and not s.name.endswith("created")
        }

    batch, single = samples("batch"), samples("single")
    assert batch.keys() == single.keys()
    assert batch == pytest.approx(single)


def test_a_forgotten_provider_disappears():
    """No stale gauge of a provider that was deregistered."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.health([ProviderHealth("p")])
    assert metric(registry, "circuit_state", provider="p", state="closed") == 1
    metrics.forget("p")
    assert registry.get_sample_value("redis_router_circuit_state", {"provider": "p", "state": "closed"}) is None
