"""The metrics that there are, read from the collectors after one of everything happened."""

from dataclasses import replace

from prometheus_client import CollectorRegistry

from redis_router import CircuitState, Outcome, ProviderHealth
from redis_router.circuit.outcome import Result
from redis_router.circuit.record import Transition
from redis_router.gateway import metrics as gateway
from redis_router.replica.served import Served
from redis_router.replicas import counts
from redis_router.telemetry.metrics import DROP_REASONS, Metrics


def touched() -> dict[str, tuple[str, dict[str, set[str]]]]:
    """Every metric after one of everything happened: its type, and the values of each label."""
    registry = CollectorRegistry()
    metrics, change = Metrics(registry), Transition("p", CircuitState.CLOSED, CircuitState.OPEN, "window", 2)
    metrics.results("p", [Result("p", outcome, 20.0, 1, reason="timeout") for outcome in Outcome])
    metrics.transition(change, replace(ProviderHealth("p"), override="observe"))
    metrics.local_transition(change)
    metrics.background_failed("engine")
    metrics.permit_claimed("p")
    metrics.safety_net_used("p")
    for passed in (True, False):
        metrics.probed("p", passed=passed)
    metrics.has_webhook()
    for reason in DROP_REASONS:
        metrics.dropped(reason, 1)
    metrics.health([replace(ProviderHealth("p"), override="drain", override_until_ms=1)])
    metrics.fleet(*counts([]))
    metrics.models(Served(), {"m": 1})
    asked = gateway.Metrics(registry)
    asked.begun()
    asked.ended("/v1/messages", 200, "alice", 0.5)
    for result in ("ok", "refused"):
        asked.reloaded(result)
    found: dict[str, tuple[str, dict[str, set[str]]]] = {}
    for family in registry.collect():
        labels: dict[str, set[str]] = {}
        for sample in family.samples:
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
        found[family.name + ("_total" if family.type == "counter" else "")] = (family.type, labels)
    return found


METRICS = touched()
SERIES = {name: name for name in METRICS} | {
    f"{name}_{part}": name
    for name, (kind, _) in METRICS.items()
    if kind == "histogram"
    for part in ("bucket", "sum", "count")
}
"""What a query may name, and the metric that it is of."""
