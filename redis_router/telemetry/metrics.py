"""Everything an operator can graph.

The request path never comes here: the engine's thread feeds in what it carried. One set of metrics per registry;
routers that share a registry share the set.
"""

import os
import threading
from collections import Counter as Times
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from typing import ParamSpec, Protocol
from weakref import WeakKeyDictionary, WeakSet

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from redis_router.circuit.outcome import ON_THE_WAY, Outcome, Result, is_request
from redis_router.circuit.overrides import LETS_IN
from redis_router.circuit.record import ProviderHealth, Transition
from redis_router.telemetry.exposition import in_files
from redis_router.telemetry.gauges import FleetGauges, ModelGauges, ProviderGauges
from redis_router.telemetry.series import Series
from redis_router.telemetry.tally import Tally

__all__ = ["CollectorRegistry", "Metrics"]

P = ParamSpec("P")
_gate = threading.RLock()
"""Held while metrics change or are read, and while the process forks: a child must not inherit a lock that is taken."""
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


CREDENTIALS_REFUSED = ("unauthorized", "payment_required", "forbidden")
"""Shown from 0 on, as one is worth an alert: of a counter that begins at 1 Prometheus sees no increase."""
WEBHOOK_RESULTS, WEBHOOK_DROPS = ("delivered", "failed", "refused"), ("backlog", "refused")
DROP_REASONS = ("buffer_full", "closed", "deregistered", "expired", "refused")


class HasPending(Protocol):
    """Who holds results that are on their way."""

    @property
    def pending(self) -> int: ...


class HasProviders(Protocol):
    """Whose providers are shown."""

    def has_provider(self, name: str) -> bool: ...


class HasLink(Protocol):
    """Who is in touch with Redis, or not."""

    up: bool


class Metrics(Collector):
    """The metrics of one process, as one collector of its registry: a scrape and a fork wait for each other."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._pending: WeakSet[HasPending] = WeakSet()
        self._links: WeakSet[HasLink] = WeakSet()
        self._owners: WeakSet[HasProviders] = WeakSet()
        self._routable: WeakKeyDictionary[HasProviders, Mapping[str, int]] = WeakKeyDictionary()
        self._begin()
        registry.register(self)

    def _begin(self) -> None:
        self._series = Series()
        self._counters = self._series.counters
        self._drops = {reason: Tally() for reason in DROP_REASONS}
        self._drops_told: dict[str, int] = {}
        for reason in DROP_REASONS:
            self._counters["results_dropped_total"].labels(reason)
        self._gauges = ProviderGauges(self._series)
        self._models = ModelGauges(self._series)
        self._fleet = FleetGauges(self._series)
        self._bound: dict[str, tuple[Counter, Histogram]] = {}

    @classmethod
    def of(cls, registry: CollectorRegistry | None) -> "Metrics":
        """The set of this registry (prometheus_client's default where None), made on first use."""
        _guard_forks()
        registry = REGISTRY if registry is None else registry
        with _gate:
            if registry not in _sets:
                _sets[registry] = cls(registry)
            return _sets[registry]

    def describe(self) -> list[Metric]:
        """What there is, without values: for the registry."""
        return self._series.describe()

    def collect(self) -> list[Metric]:
        """Everything as it is now: for the registry."""
        with _gate:
            self._write_out()
            return self._series.collect()

    @_gated
    def start_anew(self) -> None:
        """In a forked child: count from zero, or the sum over the fleet would count the parent's past twice."""
        self._pending.clear()
        self._links.clear()
        self._owners.clear()
        self._routable.clear()
        self._begin()

    @_gated
    def results(self, provider: str, results: Sequence[Result]) -> None:
        """Outcomes of one provider, counted here and added up once."""
        outcomes = [result.outcome for result in results]
        successes = outcomes.count(Outcome.SUCCESS)
        bound = self._bound.get(provider)
        if bound is None:
            bound = self._bound[provider] = (
                self._counters["requests_total"].labels(provider, Outcome.SUCCESS.value),
                self._series.latency.labels(provider),
            )
            for reason in CREDENTIALS_REFUSED:
                self._counters["failures_total"].labels(provider, reason)
        bound[0].inc(successes)
        if successes < len(results):
            others = Times(r.outcome for r in results if r.outcome is not Outcome.SUCCESS and is_request(r))
            for outcome, times in others.items():
                self._counters["requests_total"].labels(provider, outcome.value).inc(times)
            reasons = Times(r.reason for r in results if r.outcome is Outcome.FAILURE)
            for reason, times in reasons.items():
                self._counters["failures_total"].labels(provider, reason or "unspecified").inc(times)
        observe = bound[1].observe
        for result in results:
            milliseconds = result.duration_ms or result.latency_ms
            if milliseconds > 0 and result.outcome not in ON_THE_WAY:
                observe(milliseconds / 1000)

    @_gated
    def transition(self, change: Transition, health: ProviderHealth | None) -> None:
        """Count a transition that this process caused; and once more where an override keeps it from moving calls."""
        if health is not None and health.override in LETS_IN:
            self._counters["observed_state_changes_total"].labels(
                change.provider, change.from_state.value, change.to_state.value
            ).inc()
        self._counters["circuit_state_changes_total"].labels(
            change.provider, change.from_state.value, change.to_state.value
        ).inc()

    @_gated
    def local_transition(self, change: Transition) -> None:
        """Count a transition that holds for this process alone."""
        self._counters["local_state_changes_total"].labels(
            change.provider, change.from_state.value, change.to_state.value
        ).inc()

    def dropped(self, reason: str, results: int) -> None:
        """Count results that will never reach Redis. No lock: the request path comes here, too."""
        for _ in range(results):
            self._drops[reason].add()

    @_gated
    def background_failed(self, thread: str) -> None:
        """Count a turn of a background thread that raised what it should not."""
        self._counters["background_failures_total"].labels(thread).inc()

    @_gated
    def permit_claimed(self, provider: str) -> None:
        """Count a half-open permit."""
        self._counters["half_open_permits_total"].labels(provider).inc()

    @_gated
    def safety_net_used(self, provider: str) -> None:
        """Count a transition that a worker should have made."""
        self._counters["safety_net_transitions_total"].labels(provider).inc()

    @_gated
    def probed(self, provider: str, *, passed: bool) -> None:
        """Count a probe."""
        self._counters["probes_total"].labels(provider, "pass" if passed else "fail").inc()

    @_gated
    def has_webhook(self) -> None:
        """Show what comes of its messages from 0 on: of a counter that begins at 1 Prometheus sees no increase."""
        for result in WEBHOOK_RESULTS:
            self._counters["webhook_deliveries_total"].labels(result)
        for reason in WEBHOOK_DROPS:
            self._counters["webhook_dropped_total"].labels(reason)

    @_gated
    def webhook(self, result: str) -> None:
        """Count a try to send a message."""
        self._counters["webhook_deliveries_total"].labels(result).inc()

    @_gated
    def webhook_dropped(self, reason: str, changes: int) -> None:
        """Count changes that it is not told."""
        self._counters["webhook_dropped_total"].labels(reason).inc(changes)

    @_gated
    def leads(self, now: bool) -> None:
        """Does this process hold the worker lease?"""
        self._series.gauge("leader").set(now)

    @_gated
    def fleet(self, there: Mapping[str, int], differ: Mapping[str, int]) -> None:
        """Show how many there are, and how many differ in each way; nothing where this process does not count them."""
        self._fleet.show(there, differ)

    @_gated
    def saw_epoch(self, epoch: int) -> None:
        """The newest term."""
        self._series.gauge("leader_epoch").set(epoch)

    @_gated
    def health(self, records: Iterable[ProviderHealth]) -> None:
        """Show records as this process knows them now."""
        for health in records:
            self._gauges.show(health)

    @_gated
    def models(self, owner: HasProviders, routable: Mapping[str, int]) -> None:
        """Show how many providers of each model are in service, by the router of this registry that is worst off."""
        self._routable[owner] = routable
        least: dict[str, int] = {}
        for counts in list(self._routable.values()):
            for model, number in counts.items():
                least[model] = min(number, least.get(model, number))
        self._models.show(least)

    def watch_providers(self, owner: HasProviders) -> None:
        """Count in who shows providers here."""
        self._owners.add(owner)

    @_gated
    def forget(self, provider: str) -> None:
        """Show this provider no more, unless another router or worker of this registry has it."""
        if any(owner.has_provider(provider) for owner in list(self._owners)):
            return
        self._bound.pop(provider, None)
        self._gauges.forget(provider)
        if not in_files():
            self._series.forget(provider)

    def watch_pending(self, owner: HasPending) -> None:
        """Count these waiting results in; summed over a registry's routers."""
        self._pending.add(owner)

    def pending_changed(self) -> None:
        """Where another process is scraped for this one, it has only what was written."""
        if in_files():
            with _gate:
                self._write_out()

    def _write_out(self) -> None:
        self._series.gauge("results_pending").set(sum(each.pending for each in list(self._pending)))
        for reason, tally in self._drops.items():
            total = tally.total()
            if more := total - self._drops_told.get(reason, 0):
                self._drops_told[reason] = total
                self._counters["results_dropped_total"].labels(reason).inc(more)

    def watch_link(self, link: HasLink) -> None:
        """Count this link in: `redis_up` is 1 while all links of the registry are up."""
        self._links.add(link)
        if not in_files():  # there a process that never starts its router, as gunicorn's master, would write 0 for all
            self.link_changed()

    def drop_link(self, link: HasLink) -> None:
        """Leave this link out from now on."""
        self._links.discard(link)
        self.link_changed()

    @_gated
    def link_changed(self) -> None:
        """A link went up or down."""
        links = list(self._links)
        self._series.gauge("redis_up").set(bool(links) and all(link.up for link in links))
