"""What there is to graph: every metric, its text and its labels."""

from collections.abc import Iterable
from typing import Literal

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric

from redis_router.telemetry.exposition import in_files

_PREFIX = "redis_router_"
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_COUNTERS = {
    "circuit_state_changes_total": (
        "Circuit transitions this process caused; the sum over the fleet is exact",
        ("provider", "from_state", "to_state"),
    ),
    "local_state_changes_total": (
        "Circuit transitions this process decided alone, while Redis was away",
        ("provider", "from_state", "to_state"),
    ),
    "observed_state_changes_total": (
        "Circuit transitions this process caused that moved no calls, as the provider is under observe or force_closed",
        ("provider", "from_state", "to_state"),
    ),
    "requests_total": ("Outcomes recorded by this process", ("provider", "outcome")),
    "failures_total": ("Failures recorded by this process, by what they said", ("provider", "reason")),
    "half_open_permits_total": ("Half-open permits this process was given", ("provider",)),
    "safety_net_transitions_total": ("Open to half-open by a replica because no worker led", ("provider",)),
    "probes_total": ("Provider probes by this worker", ("provider", "result")),
    "webhook_deliveries_total": ("Messages of this worker to the webhook, each try", ("result",)),
    "webhook_dropped_total": ("Changes that the webhook will never be told one by one", ("reason",)),
    "results_dropped_total": ("Results that will never reach Redis", ("reason",)),
    "background_failures_total": ("Turns of this process's background threads that failed", ("thread",)),
}
_Mode = Literal["livemax", "livemin", "livesum", "livemostrecent"]
_GAUGES: dict[str, tuple[str, tuple[str, ...], _Mode]] = {  # the mode: what several processes of one machine come to
    "circuit_state": ("1 for the state this process sees, 0 for the others", ("provider", "state"), "livemax"),
    "available": ("1 while the provider's record says available", ("provider",), "livemin"),
    "failure_rate": ("The fleet's moving average of failures, 0 to 1", ("provider",), "livemostrecent"),
    "latency_average_seconds": ("The fleet's moving average of latency", ("provider",), "livemostrecent"),
    "cooldown_until_timestamp_seconds": (
        "When a rate limit ends, seconds since the epoch; 0 where there was none",
        ("provider",),
        "livemax",
    ),
    "calls_in_flight": ("Calls under way over the fleet", ("provider",), "livemostrecent"),
    "calls_overdue": (
        "Of these, those that wait for longer than chance explains",
        ("provider",),
        "livemostrecent",
    ),
    "concurrency_limit": ("Calls at once that it takes, as learned; 0 for unknown", ("provider",), "livemostrecent"),
    "override_until_timestamp_seconds": (
        "When an operator's override ends, seconds since the epoch; 0 where there is none, the year 9999 for ever",
        ("provider", "override"),
        "livemostrecent",
    ),
    "override_since_timestamp_seconds": (
        "Since when an operator's override is in force, seconds since the epoch; 0 where there is none",
        ("provider", "override"),
        "livemostrecent",
    ),
    "routable_providers": ("Providers of a model that calls may go to without a permit", ("model",), "livemin"),
    "redis_up": ("1 while this process is in touch with Redis", (), "livemin"),
    "results_pending": ("Results recorded and not yet in Redis", (), "livesum"),
    "leader": ("1 while this process holds the worker lease", (), "livemax"),
    "replicas": ("Gateways and workers that said lately that they are there; of the leader", ("role",), "livemax"),
    "replicas_that_differ": (
        "Of these, those whose view of the circuits differs; of the leader",
        ("how",),
        "livemax",
    ),
    "leader_epoch": ("The newest election epoch this process saw", (), "livemax"),
}


class Series:
    """One set of them, by the names that an operator sees without `redis_router_`."""

    def __init__(self) -> None:
        self.counters = {
            name: Counter(_PREFIX + name, text, labels, registry=None) for name, (text, labels) in _COUNTERS.items()
        }
        # in files `redis_up` comes with the first contact: a process that never starts a router would write 0 for all
        self._gauges = {name: _gauge(name) for name in _GAUGES if name != "redis_up" or not in_files()}
        self.latency = Histogram(
            f"{_PREFIX}request_latency_seconds",
            "Whole duration of the calls recorded by this process",
            ("provider",),
            buckets=_BUCKETS,
            registry=None,
        )

    def gauge(self, name: str) -> Gauge:
        """The gauge of this name."""
        if name not in self._gauges:
            self._gauges[name] = _gauge(name)
        return self._gauges[name]

    def _all(self) -> Iterable[Counter | Gauge | Histogram]:
        return [*self.counters.values(), *self._gauges.values(), self.latency]

    def describe(self) -> list[Metric]:
        """What there is, without values."""
        return [family for metric in self._all() for family in metric.describe()]

    def collect(self) -> list[Metric]:
        """Everything as it is now."""
        return [family for metric in self._all() for family in metric.collect()]

    def forget(self, provider: str) -> None:
        """Take its series away."""
        for labels, metrics in ((_COUNTERS, self.counters), (_GAUGES, self._gauges)):
            for name, metric in metrics.items():
                if "provider" in labels[name][1]:
                    metric.remove_by_labels({"provider": provider})
        self.latency.remove_by_labels({"provider": provider})


def _gauge(name: str) -> Gauge:
    text, labels, mode = _GAUGES[name]
    return Gauge(_PREFIX + name, text, labels, registry=None, multiprocess_mode=mode)
