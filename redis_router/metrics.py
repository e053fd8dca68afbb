"""Everything an operator can graph. The only module that imports prometheus_client.

The request path never comes here: the engine's thread feeds in what it carried. One set of metrics per registry;
routers that share a registry share the set.
"""

import os
import threading
from bisect import bisect_right
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from operator import sub
from typing import ParamSpec, Protocol
from weakref import WeakKeyDictionary, WeakSet

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    make_wsgi_app,
)

from redis_router.model import CircuitState, Outcome, ProviderHealth, Result, Transition, is_request

__all__ = ["CONTENT_TYPE_LATEST", "REGISTRY", "CollectorRegistry", "Metrics", "generate_latest", "make_wsgi_app"]

P = ParamSpec("P")
_BUCKETS_MS = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, float("inf"))
_gate = threading.RLock()
"""Held while a metric changes, and while the process forks: a child must not inherit a metric's lock that is taken."""
_sets: "WeakKeyDictionary[CollectorRegistry, Metrics]" = WeakKeyDictionary()


def _gated(change: Callable[P, None]) -> Callable[P, None]:
    @wraps(change)
    def gated(*args: P.args, **kwargs: P.kwargs) -> None:
        with _gate:
            change(*args, **kwargs)

    return gated


@cache
def _guard_forks() -> None:
    os.register_at_fork(before=_gate.acquire, after_in_parent=_gate.release, after_in_child=_gate.release)


class HasPending(Protocol):
    """Who holds results that are on their way."""

    @property
    def pending(self) -> int: ...


class HasLink(Protocol):
    """Who is in touch with Redis, or not."""

    up: bool


class _BatchHistogram(Histogram):
    """`observe` costs a microsecond for each sample; this takes many at once."""

    def observe_all(self, buckets: Iterable[int], total: float) -> None:
        """Samples by bucket, each counted in the first that holds it, and their sum."""
        for bucket, times in zip(self._buckets, buckets, strict=True):
            if times:
                bucket.inc(times)
        self._sum.inc(total)


@dataclass(slots=True)
class _Gauges:
    """What shows one provider's record."""

    available: Gauge
    failure_rate: Gauge
    latency_average: Gauge
    state: CircuitState | None = None


class Metrics:
    """The metrics of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._pending: WeakSet[HasPending] = WeakSet()
        self._links: WeakSet[HasLink] = WeakSet()
        # bound once: looking a label up costs more than setting its value
        self._gauges: dict[str, _Gauges] = {}
        self._bound: dict[str, tuple[Counter, _BatchHistogram]] = {}

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"redis_router_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"redis_router_{name}", text, labels, registry=registry)

        self.state_changes = counter(
            "circuit_state_changes_total",
            "Circuit transitions this process caused; the sum over the fleet is exact",
            "provider", "from_state", "to_state",
        )  # fmt: skip
        self.requests = counter("requests_total", "Outcomes recorded by this process", "provider", "outcome")
        self.failures = counter(
            "failures_total", "Failures recorded by this process, by what they said", "provider", "reason"
        )
        self.request_latency = _BatchHistogram(
            "redis_router_request_latency_seconds",
            "Whole duration of the calls recorded by this process",
            ("provider",),
            buckets=[bound / 1000 for bound in _BUCKETS_MS],
            registry=registry,
        )
        self.circuit_state = gauge(
            "circuit_state", "1 for the state this process sees, 0 for the others", "provider", "state"
        )
        self.available = gauge("available", "1 while the provider's record says available", "provider")
        self.failure_rate = gauge("failure_rate", "The fleet's moving average of failures, 0 to 1", "provider")
        self.latency_average = gauge("latency_average_seconds", "The fleet's moving average of latency", "provider")
        self.local_changes = counter(
            "local_state_changes_total",
            "Circuit transitions this process decided alone, while Redis was away",
            "provider", "from_state", "to_state",
        )  # fmt: skip
        self.redis_up = gauge("redis_up", "1 while this process is in touch with Redis")
        self.results_pending = gauge("results_pending", "Results recorded and not yet in Redis")
        self.results_dropped = counter("results_dropped_total", "Results that will never reach Redis", "reason")
        self.permits_claimed = counter(
            "half_open_permits_total", "Half-open permits this process was given", "provider"
        )
        self.safety_net = counter(
            "safety_net_transitions_total", "Open to half-open by a replica because no worker led", "provider"
        )
        self.probes = counter("probes_total", "Provider probes by this worker", "provider", "result")
        self.leader = gauge("leader", "1 while this process holds the worker lease")
        self.leader_epoch = gauge("leader_epoch", "The newest election epoch this process saw")

    @classmethod
    def of(cls, registry: CollectorRegistry | None) -> "Metrics":
        """The set of this registry (prometheus_client's default where None), made on first use."""
        _guard_forks()
        registry = REGISTRY if registry is None else registry
        with _gate:
            if registry not in _sets:
                _sets[registry] = cls(registry)
            return _sets[registry]

    @_gated
    def start_anew(self) -> None:
        """In a forked child: count from zero, or the sum over the fleet would count the parent's past twice."""
        self._pending.clear()
        self._links.clear()
        self._gauges.clear()
        self._bound.clear()
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            return  # there each process has a file of its own already
        for metric in vars(self).values():
            if isinstance(metric, Counter | Gauge | Histogram) and metric._labelnames:
                metric._lock = threading.Lock()  # a scrape may have held it when the process forked
                metric.clear()
        for gauge in (self.redis_up, self.leader, self.leader_epoch):
            gauge.set(0)

    @_gated
    def results(self, provider: str, results: Sequence[Result]) -> None:
        """Outcomes of one provider, counted here and added up once: a batch costs little more than a single one."""
        outcomes = [result[1] for result in results]
        successes = outcomes.count(Outcome.SUCCESS)
        latencies = sorted([ms for result in results if (ms := result[6] or result[2]) > 0])
        below = [bisect_right(latencies, most) for most in _BUCKETS_MS]
        bound = self._bound.get(provider)
        if bound is None:
            bound = self._bound[provider] = (
                self.requests.labels(provider, Outcome.SUCCESS.value),
                self.request_latency.labels(provider),
            )
        bound[0].inc(successes)
        if successes < len(results):
            others = Tally(r[1] for r in results if r[1] is not Outcome.SUCCESS and is_request(r))
            for outcome, times in others.items():
                self.requests.labels(provider, outcome.value).inc(times)
            reasons = Tally(r.reason for r in results if r[1] is Outcome.FAILURE)
            for reason, times in reasons.items():
                self.failures.labels(provider, reason or "unspecified").inc(times)
        bound[1].observe_all(map(sub, below, [0, *below]), sum(latencies) / 1000)

    @_gated
    def transition(self, change: Transition) -> None:
        """Count a transition that this process caused."""
        self.state_changes.labels(change.provider, change.from_state.value, change.to_state.value).inc()

    @_gated
    def local_transition(self, change: Transition) -> None:
        """Count a transition that holds for this process alone."""
        self.local_changes.labels(change.provider, change.from_state.value, change.to_state.value).inc()

    @_gated
    def dropped(self, reason: str, results: int) -> None:
        """Count results that will never reach Redis."""
        self.results_dropped.labels(reason).inc(results)

    @_gated
    def permit_claimed(self, provider: str) -> None:
        """Count a half-open permit."""
        self.permits_claimed.labels(provider).inc()

    @_gated
    def safety_net_used(self, provider: str) -> None:
        """Count a transition that a worker should have made."""
        self.safety_net.labels(provider).inc()

    @_gated
    def probed(self, provider: str, *, passed: bool) -> None:
        """Count a probe."""
        self.probes.labels(provider, "pass" if passed else "fail").inc()

    @_gated
    def leads(self, now: bool) -> None:
        """Does this process hold the worker lease?"""
        self.leader.set(now)

    @_gated
    def saw_epoch(self, epoch: int) -> None:
        """The newest term."""
        self.leader_epoch.set(epoch)

    @_gated
    def health(self, records: Iterable[ProviderHealth]) -> None:
        """Show records as this process knows them now."""
        for health in records:
            gauges = self._gauges.get(health.name) or self._gauges_of(health.name)
            if gauges.state is not health.circuit_state:
                for state in CircuitState:
                    self.circuit_state.labels(health.name, state.value).set(state is health.circuit_state)
                gauges.state = health.circuit_state
            gauges.available.set(health.available)
            gauges.failure_rate.set(health.failure_rate)
            gauges.latency_average.set(health.latency_ms / 1000)

    def _gauges_of(self, provider: str) -> "_Gauges":
        gauges = self._gauges[provider] = _Gauges(
            self.available.labels(provider), self.failure_rate.labels(provider), self.latency_average.labels(provider)
        )
        return gauges

    @_gated
    def forget(self, provider: str) -> None:
        """Stop showing a provider that was deregistered."""
        if self._gauges.pop(provider, None) is None:
            return
        for state in CircuitState:
            self.circuit_state.remove(provider, state.value)
        for gauge in (self.available, self.failure_rate, self.latency_average):
            gauge.remove(provider)

    def watch_pending(self, owner: HasPending) -> None:
        """Read the number of waiting results whenever the metrics are scraped; summed over a registry's routers."""
        self._pending.add(owner)
        self.results_pending.set_function(lambda: sum(each.pending for each in list(self._pending)))

    def watch_link(self, link: HasLink) -> None:
        """Count this link in: `redis_up` is 1 while all links of the registry are up."""
        self._links.add(link)
        self.link_changed()

    def drop_link(self, link: HasLink) -> None:
        """Leave this link out from now on."""
        self._links.discard(link)
        self.link_changed()

    @_gated
    def link_changed(self) -> None:
        """A link went up or down."""
        links = list(self._links)
        self.redis_up.set(bool(links) and all(link.up for link in links))
