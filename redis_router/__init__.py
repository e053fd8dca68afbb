"""One circuit breaker and one set of health figures for a whole fleet of LLM gateway replicas, kept in Redis."""

from typing import TYPE_CHECKING, Any

from redis_router.circuit.config import RECOMMENDED, CircuitConfig
from redis_router.circuit.outcome import Outcome
from redis_router.circuit.overrides import Override
from redis_router.circuit.record import CircuitState, ProviderHealth, Transition
from redis_router.errors import (
    AccessDenied,
    InvalidArgument,
    NoProviderAvailable,
    RedisRefused,
    RedisUnavailable,
    RouterError,
    UnknownProvider,
)
from redis_router.overriding import Operator
from redis_router.probe import Probe
from redis_router.provider import Provider, RegisteredModel
from redis_router.replicas import Replica, ViewState
from redis_router.request.attempt import Attempt
from redis_router.request.attempts import Attempts
from redis_router.request.classify import Verdict, classify
from redis_router.router import Router
from redis_router.routing.candidate import Candidate
from redis_router.routing.strategies import Latency, Strategy

if TYPE_CHECKING:
    from redis_router.worker.checker import HealthChecker
    from redis_router.worker.webhook import Webhook

__version__ = "0.2.0"

__all__ = [
    "RECOMMENDED",
    "AccessDenied",
    "Attempt",
    "Attempts",
    "Candidate",
    "CircuitConfig",
    "CircuitState",
    "HealthChecker",
    "InvalidArgument",
    "Latency",
    "NoProviderAvailable",
    "Operator",
    "Outcome",
    "Override",
    "Probe",
    "Provider",
    "ProviderHealth",
    "RedisRefused",
    "RedisUnavailable",
    "RegisteredModel",
    "Replica",
    "Router",
    "RouterError",
    "Strategy",
    "Transition",
    "UnknownProvider",
    "Verdict",
    "ViewState",
    "Webhook",
    "classify",
]


def __getattr__(name: str) -> Any:
    """The worker is loaded by those who use it: most gateways run none."""
    if name == "HealthChecker":
        from redis_router.worker.checker import HealthChecker

        return HealthChecker
    if name == "Webhook":
        from redis_router.worker.webhook import Webhook

        return Webhook
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
