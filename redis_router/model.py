"""The values that everything else passes around: frozen, validated on construction, free of I/O."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple, Self

from redis_router.checks import (
    check_count,
    check_model,
    check_name,
    check_number,
    check_probe,
    check_seconds,
    check_weight,
)
from redis_router.errors import InvalidArgument

ANY_MODEL = "*"
"""In `Provider.models`: this provider serves every model."""


class CircuitState(StrEnum):
    """closed: calls flow; open: none do; half_open: a few trial calls, each holding a permit."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Outcome(StrEnum):
    """What one call says about its provider; `ignored` says nothing, it only hands a permit back."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"


class Result(NamedTuple):
    """One outcome on its way to Redis; `generation` is that in which its call began, `permit` a token or ''.

    A tuple, not a dataclass: it is made on the request path, where a frozen dataclass costs five times as much.
    """

    provider: str
    outcome: Outcome
    latency_ms: float
    generation: int
    permit: str = ""


def is_request(result: Result) -> bool:
    """Or merely a permit that is handed back unused?"""
    return result.outcome is not Outcome.IGNORED or result.latency_ms > 0


@dataclass(frozen=True, slots=True)
class Provider:
    """One place to send requests to.

    name    the key of its shared record: the same string in every replica
    models  the models it serves; "*" serves any
    weight  its share under `weighted`, relative to the others; above 0
    client  anything the gateway wants back from `select_provider` (an SDK client, a base URL); never leaves the process
    probe   what a worker checks: an http(s):// URL that answers below 400, or tcp://host:port that accepts connections;
            shared by the fleet: None leaves what another replica gave, "none" takes it away
    """

    name: str
    models: Collection[str]
    weight: float = 1.0
    client: Any = field(default=None, compare=False, repr=False)
    probe: str | None = None

    def __post_init__(self) -> None:
        check_name("provider name", self.name)
        if isinstance(self.models, str | bytes) or not hasattr(self.models, "__iter__"):
            raise InvalidArgument(
                f"models of provider {self.name!r} is {self.models!r}: give a tuple of names, such as ('gpt-4o',)"
            )
        object.__setattr__(self, "models", tuple(dict.fromkeys(check_model(model) for model in self.models)))
        if not self.models:
            raise InvalidArgument(f"provider {self.name!r} serves no model: name at least one, or '*' for every model")
        object.__setattr__(self, "weight", check_weight(self.weight))
        if self.probe is not None:
            check_probe(self.name, self.probe)


@dataclass(frozen=True, slots=True)
class CircuitConfig:
    """When a circuit opens and how it comes back. The defaults are the original router's.

    failure_rate_threshold       opens when the failure-rate average is above this (0 to 1)
    consecutive_failure_limit    opens at this many failures in a row
    half_open_success_threshold  closes after this many successes in half-open
    half_open_max_probes         trial calls in flight at once in half-open, over the whole fleet
    open_timeout                 seconds from opening until half-open
    """

    failure_rate_threshold: float = 0.5
    consecutive_failure_limit: int = 5
    half_open_success_threshold: int = 3
    half_open_max_probes: int = 3
    open_timeout: float = 30.0

    def __post_init__(self) -> None:
        check_number("failure_rate_threshold", self.failure_rate_threshold, most=1.0)
        check_count("consecutive_failure_limit", self.consecutive_failure_limit)
        check_count("half_open_success_threshold", self.half_open_success_threshold)
        check_count("half_open_max_probes", self.half_open_max_probes)
        check_seconds("open_timeout", self.open_timeout)

    @property
    def open_timeout_ms(self) -> int:
        return round(self.open_timeout * 1000)

    def to_fields(self) -> dict[str, str]:
        """The thresholds as they stand in the Redis hash."""
        return {
            "failure_rate_threshold": repr(float(self.failure_rate_threshold)),
            "consecutive_failure_limit": str(self.consecutive_failure_limit),
            "half_open_success_threshold": str(self.half_open_success_threshold),
            "half_open_max_probes": str(self.half_open_max_probes),
            "open_timeout_ms": str(self.open_timeout_ms),
        }

    @classmethod
    def from_fields(cls, values: Mapping[str, str]) -> "CircuitConfig":
        """The inverse. Thresholds hardly ever change, so that those read last are remembered."""
        return _config_of(*map(values.__getitem__, CONFIG_FIELDS))


def _number(text: str) -> float:
    """What Lua takes for a number: a hand may have written 6e4 or 0x10."""
    try:
        return float(text)
    except ValueError:
        return float(int(text, 0))


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return int(_number(text))


CONFIG_FIELDS = tuple(CircuitConfig().to_fields())


@lru_cache(maxsize=256)
def _config_of(rate: str, failures: str, successes: str, probes: str, timeout_ms: str) -> CircuitConfig:
    return CircuitConfig(_number(rate), _whole(failures), _whole(successes), _whole(probes), _whole(timeout_ms) / 1000)


@dataclass(frozen=True, slots=True)
class ProviderHealth:
    """One provider's whole record, field for field as it stands in Redis (`HGETALL rr:{name}:health`).

    available, unavailable_reason   0 with `circuit` (opened), `probe` (the worker's probe fails) or `operator`
    latency_ms                      moving average, ms; 0 until the first sample
    failure_rate                    moving average, 0 to 1
    generation                      counts transitions; a result from an earlier one never moves the circuit
    last_state_change_ms, last_check_ms   moments on Redis's clock, ms since the epoch; 0 for never
    open_reason                     the rule that opened the circuit last; kept after it closes
    version                         orders copies of the record: the higher one is newer
    leader_epoch                    the highest election epoch that wrote here; lower ones are refused
    """

    name: str
    circuit_state: CircuitState = CircuitState.CLOSED
    open_reason: str = ""
    available: bool = True
    unavailable_reason: str = ""
    latency_ms: float = 0.0
    failure_rate: float = 0.0
    weight: float = 1.0
    consecutive_failures: int = 0
    consecutive_successes: int = 0
    generation: int = 1
    last_state_change_ms: int = 0
    last_check_ms: int = 0
    config: CircuitConfig = field(default_factory=CircuitConfig)
    version: int = 0
    leader_epoch: int = 0

    def due_in_ms(self, now_ms: float) -> float:
        """Milliseconds until an open circuit may become half-open, on Redis's clock; 0 or less: now.

        Where that clock was set back by more than `open_timeout`, the circuit does not wait until it caught up.
        """
        return self.config.open_timeout_ms - abs(now_ms - self.last_state_change_ms)

    def is_due(self, now_ms: float) -> bool:
        """May an open circuit become half-open?"""
        return self.due_in_ms(now_ms) <= 0

    def is_newer_than(self, copy: "ProviderHealth") -> bool:
        """Is this the later of two copies of one record?"""
        return (self.generation, self.version) > (copy.generation, copy.version)

    def is_remnant_of(self, copy: "ProviderHealth") -> bool:
        """Is this what a failover or a restart left of the record, or a new one written in its place?"""
        return self.generation < copy.generation or (
            self.generation == copy.generation and self.last_check_ms == 0 < copy.last_check_ms
        )

    def to_fields(self) -> dict[str, str]:
        """The record as Redis holds it: words for states, 1/0 for flags, decimal text for numbers."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("name", "config")}
        values["available"] = int(self.available)
        texts = {key: repr(value) if isinstance(value, float) else str(value) for key, value in values.items()}
        bookkeeping = {key: texts.pop(key) for key in ("leader_epoch", "version")}
        return {**texts, **self.config.to_fields(), **bookkeeping}

    @classmethod
    def from_fields(cls, name: str, values: Mapping[str, str]) -> Self:
        """The inverse of `to_fields`. Raises KeyError or ValueError when the hash is not a health record."""
        return cls(
            name=name,
            circuit_state=CircuitState(values["circuit_state"]),
            open_reason=values["open_reason"],
            available=values["available"] == "1",
            unavailable_reason=values["unavailable_reason"],
            latency_ms=_number(values["latency_ms"]),
            failure_rate=_number(values["failure_rate"]),
            weight=_number(values["weight"]),
            consecutive_failures=_whole(values["consecutive_failures"]),
            consecutive_successes=_whole(values["consecutive_successes"]),
            generation=_whole(values["generation"]),
            last_state_change_ms=_whole(values["last_state_change_ms"]),
            last_check_ms=_whole(values["last_check_ms"]),
            config=CircuitConfig.from_fields(values),
            version=_whole(values["version"]),
            leader_epoch=_whole(values["leader_epoch"]),
        )


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of a circuit's state, announced exactly once over the fleet."""

    provider: str
    from_state: CircuitState
    to_state: CircuitState
    reason: str
    generation: int


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model the router can serve; `owned_by` is the first provider, by name, that serves it."""

    id: str
    owned_by: str


@dataclass(frozen=True, slots=True)
class Leader:
    """Who holds the worker lease. `remaining_ms` was right when it was read; 0 or less: nobody holds it."""

    worker: str
    epoch: int
    since_ms: int
    until_ms: int
    remaining_ms: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a strategy chooses between: a provider together with its health as this replica knows it."""

    provider: Provider
    health: ProviderHealth
