"""What shows the providers' records: gauges by provider, set to what this process knows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from prometheus_client import Gauge

from redis_router.circuit.record import CircuitState, ProviderHealth
from redis_router.telemetry.exposition import in_files
from redis_router.telemetry.series import Series


@dataclass(slots=True)
class _Bound:
    """Those of one provider, bound once: looking a label up costs more than setting its value."""

    available: Gauge
    failure_rate: Gauge
    latency_average: Gauge
    cooldown_until: Gauge
    in_flight: Gauge
    overdue: Gauge
    limit: Gauge
    state: CircuitState | None = None
    overrides: set[str] = field(default_factory=set)


class ProviderGauges:
    """Whoever calls it holds the gate of the metrics."""

    def __init__(self, series: Series) -> None:
        self._series = series
        self._bound: dict[str, _Bound] = {}

    def show(self, health: ProviderHealth) -> None:
        """Set them to this record."""
        gauges = self._bound.get(health.name) or self._bind(health.name)
        if gauges.state is not health.circuit_state:
            for state in CircuitState:
                self._series.gauge("circuit_state").labels(health.name, state.value).set(state is health.circuit_state)
            gauges.state = health.circuit_state
        gauges.available.set(health.available)
        gauges.failure_rate.set(health.failure_rate)
        gauges.latency_average.set(health.latency_ms / 1000)
        gauges.cooldown_until.set(health.cooldown_until_ms / 1000)
        gauges.in_flight.set(health.in_flight)
        gauges.overdue.set(health.overdue)
        gauges.limit.set(health.concurrency_limit)
        if health.override_until_ms or health.weight_override_until_ms or gauges.overrides:
            self._show_overrides(health, gauges)

    def _show_overrides(self, health: ProviderHealth, gauges: _Bound) -> None:
        """Those in the record; until when stands beside, as nobody may be here when one ends."""
        ends = {health.override: health.override_until_ms, "weight": health.weight_override_until_ms}
        since = {health.override: health.override_since_ms, "weight": health.weight_override_since_ms}
        for word in {*ends, *gauges.overrides} - {""}:
            self._of_override("override_until_timestamp_seconds", health.name, word).set(ends.get(word, 0) / 1000)
            self._of_override("override_since_timestamp_seconds", health.name, word).set(since.get(word, 0) / 1000)
            gauges.overrides.add(word)

    def _of_override(self, name: str, provider: str, word: str) -> Gauge:
        return self._series.gauge(name).labels(provider, word)

    def _bind(self, provider: str) -> _Bound:
        # from 0 on: of a counter that begins at 1 Prometheus sees no increase
        self._series.counters["safety_net_transitions_total"].labels(provider)
        gauges = self._bound[provider] = _Bound(
            self._of("available", provider),
            self._of("failure_rate", provider),
            self._of("latency_average_seconds", provider),
            self._of("cooldown_until_timestamp_seconds", provider),
            self._of("calls_in_flight", provider),
            self._of("calls_overdue", provider),
            self._of("concurrency_limit", provider),
        )
        return gauges

    def _of(self, name: str, provider: str) -> Gauge:
        return self._series.gauge(name).labels(provider)

    def forget(self, provider: str) -> None:
        """Show it no more: in files, where prometheus_client can take no series away, as one with nothing."""
        known = self._bound.pop(provider, None)
        if known is None or not in_files():
            return
        for state in CircuitState:
            self._series.gauge("circuit_state").labels(provider, state.value).set(0)
        known.available.set(1)
        for gauge in (known.cooldown_until, known.in_flight, known.overdue):
            gauge.set(0)
        for word in known.overrides:
            self._of_override("override_until_timestamp_seconds", provider, word).set(0)
            self._of_override("override_since_timestamp_seconds", provider, word).set(0)


class ModelGauges:
    """Gauges by model: of those that a provider is registered with, never of one that a request names."""

    def __init__(self, series: Series) -> None:
        self._series = series
        self._shown: dict[str, int] = {}

    def show(self, routable: Mapping[str, int]) -> None:
        """Set them to these numbers, and show no other model any more: in files, where no series goes, as infinite."""
        gauge = self._series.gauge("routable_providers")
        for model in self._shown.keys() - routable.keys():
            if in_files():
                gauge.labels(model).set(inf)
            else:
                gauge.remove(model)
        for model, number in routable.items():
            if self._shown.get(model) != number:
                gauge.labels(model).set(number)
        self._shown = dict(routable)


class FleetGauges:
    """Gauges of the fleet as a whole, which one process of it counts."""

    def __init__(self, series: Series) -> None:
        self._series = series
        self._shown: dict[str, set[str]] = {"replicas": set(), "replicas_that_differ": set()}

    def show(self, there: Mapping[str, int], differ: Mapping[str, int]) -> None:
        """Set them to these numbers, and show no others any more: in files, where no series goes, as none."""
        for name, numbers in (("replicas", there), ("replicas_that_differ", differ)):
            gauge, shown = self._series.gauge(name), self._shown[name]
            for label in shown - numbers.keys():
                if in_files():
                    gauge.labels(label).set(0)
                else:
                    gauge.remove(label)
            for label, number in numbers.items():
                gauge.labels(label).set(number)
            self._shown[name] = set(numbers)
