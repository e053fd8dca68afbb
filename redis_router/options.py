"""What a router can be told, checked once and passed on whole."""

from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

from redis_router.checks import check_count, check_flag, check_name, check_number, check_seconds
from redis_router.circuit.config import RECOMMENDED, CircuitConfig
from redis_router.errors import InvalidArgument
from redis_router.routing.strategies import Strategy, resolve

WHEN_ALL_OPEN = ("panic", "raise", "least_bad", "wait")
_PERMIT_TTL = partial(check_number, least=1.0, most=3600.0)


def _checked(default: Any, check: Any) -> Any:
    return field(default=default, metadata={"check": check})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """As `Router` takes them; durations in seconds. Raises InvalidArgument for what cannot be used."""

    strategy: str | Strategy = "adaptive"
    namespace: str = _checked("rr", check_name)
    circuit: CircuitConfig = RECOMMENDED
    observe: bool = _checked(False, check_flag)
    circuit_version: int = _checked(0, partial(check_count, least=0))
    rate_limit_cooldown: float = 1.0
    rate_limit_cooldown_max: float = 300.0
    when_all_open: str = "panic"
    max_ejection_percent: float = _checked(100.0, partial(check_number, most=100.0))
    flush_interval: float = _checked(0.02, check_seconds)
    push_interval: float = _checked(0.5, check_seconds)
    refresh_interval: float = _checked(30.0, check_seconds)
    permit_ttl: float = _checked(5.0, _PERMIT_TTL)
    safety_net_after: float = _checked(5.0, check_seconds)
    buffer_limit: int = _checked(10_000, check_count)
    result_ttl: float = _checked(5.0, check_seconds)

    def __post_init__(self) -> None:
        for each in fields(self):
            if "check" in each.metadata:
                each.metadata["check"](each.name, getattr(self, each.name))
        if not isinstance(self.circuit, CircuitConfig):
            raise InvalidArgument(f"circuit is {self.circuit!r}: give a CircuitConfig")
        if self.when_all_open not in WHEN_ALL_OPEN:
            raise InvalidArgument(f"unknown when_all_open {self.when_all_open!r}: choose {', '.join(WHEN_ALL_OPEN)}")
        resolve(self.strategy)

    @property
    def least_bad(self) -> bool:
        """Where nobody may be called, is the least bad provider called all the same?"""
        return self.when_all_open == "least_bad"

    @property
    def panics(self) -> bool:
        """Where nobody may be called, are those called all the same that still answer?"""
        return self.when_all_open == "panic"

    @property
    def keeps_bad(self) -> bool:
        """May calls go to a provider that should not be called?"""
        return self.least_bad or self.max_ejection_percent != 100
