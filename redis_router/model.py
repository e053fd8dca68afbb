"""The values that everything else passes around: frozen, validated on construction, free of I/O."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self

from redis_router.checks import (
    NO_PROBE,
    check_count,
    check_flag,
    check_model,
    check_name,
    check_number,
    check_part,
    check_probe_url,
    check_seconds,
    check_weight,
)
from redis_router.errors import InvalidArgument
from redis_router.probe import Probe

if TYPE_CHECKING:  # a default for a type variable: typing has it from Python 3.13 on
    from typing_extensions import TypeVar

    ClientT = TypeVar("ClientT", default=Any)
else:
    from typing import TypeVar

    ClientT = TypeVar("ClientT")

MOST_TRIALS = 1000
"""Of `half_open_max_probes`: each trial call holds a permit in Redis, and more are no trial any more."""
CLOCK_SKEW_MS = 1000
"""An estimate of Redis's clock may be wrong by so much."""
ANY_MODEL = "*"
"""In `Provider.models`: this provider serves every model."""


class CircuitState(StrEnum):
    """closed: calls flow; open: none do; half_open: a few trial calls, each holding a permit."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Outcome(StrEnum):
    """What one call says about its provider.

    rate_limited  it asks to be left alone for a while: no verdict on its circuit, nor on its averages
    ignored       nothing: the caller's own mistake, cancellation or deadline
    """

    SUCCESS = "success"
    FAILURE = "failure"
    RATE_LIMITED = "rate_limited"
    IGNORED = "ignored"


class Result(NamedTuple):
    """One outcome on its way to Redis.

    latency_ms   what the averages are made of: the time to the first token where it was marked
    generation   the circuit's when the call began
    permit       the token of a trial call, or ''
    reason       of a failure: one word that says why, or ''
    duration_ms  of the whole call, for the metrics; 0 where that is `latency_ms`
    cooldown_ms  of rate_limited: for how long the provider wants no calls

    A tuple, not a dataclass: it is made on the request path, where a frozen dataclass costs five times as much.
    """

    provider: str
    outcome: Outcome
    latency_ms: float
    generation: int
    permit: str = ""
    reason: str = ""
    duration_ms: float = 0.0
    cooldown_ms: float = 0.0


def is_request(result: Result) -> bool:
    """Or merely a permit that is handed back unused?"""
    return result.outcome is not Outcome.IGNORED or result.latency_ms > 0 or not result.permit


@dataclass(frozen=True)  # no slots: `Provider[Client](…)` sets an attribute of typing's own
class Provider(Generic[ClientT]):
    """One place to send requests to.

    name    the key of its shared record: the same string in every replica
    models  the models it serves; "*" serves any
    weight  its share under the weighted strategies, relative to the others, from 0.000001 to 1,000,000; 0: drained, it
            gets no calls
    client  anything the gateway wants back from `select_provider` (an SDK client, a base URL); never leaves the process
            (make SDK clients without retries of their own: openai and anthropic with `max_retries=0`)
    probe   what a worker checks: an http(s):// URL that answers below 400, tcp://host:port that accepts connections, or
            a `Probe` with headers, a method or a status of its own; shared by the fleet: None leaves what another
            replica gave, "none" takes it away
    circuit_per_model  a circuit, and a record `name/model`, for each model, where they fail apart from each other
    """

    name: str
    models: Collection[str]
    weight: float = 1.0
    client: ClientT = field(default=None, compare=False, repr=False)  # type: ignore[assignment]
    probe: str | Probe | None = None
    circuit_per_model: bool = False
    _whole: "Provider[ClientT] | None" = field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_name("provider name", self.name)
        check_flag("circuit_per_model", self.circuit_per_model)
        if isinstance(self.models, str | bytes) or not hasattr(self.models, "__iter__"):
            raise InvalidArgument(
                f"models of provider {self.name!r} is {self.models!r}: give a tuple of names, such as ('gpt-4o',)"
            )
        object.__setattr__(self, "models", tuple(dict.fromkeys(check_model(model) for model in self.models)))
        if not self.models:
            raise InvalidArgument(f"provider {self.name!r} serves no model: name at least one, or '*' for every model")
        object.__setattr__(self, "weight", check_weight(self.weight))
        if self.probe not in (None, NO_PROBE) and not isinstance(self.probe, Probe):
            check_probe_url(f"probe of provider {self.name!r}", self.probe)
        if self.circuit_per_model:
            for model in self.models:
                check_part(self.name, model)

    def parts(self) -> tuple["Provider[ClientT]", ...]:
        """What has a record of its own: this provider, or one part for each model, named `name/model`."""
        if not self.circuit_per_model:
            return (self,)
        return tuple(self._part(model) for model in self.models)

    def _part(self, model: str) -> "Provider[ClientT]":
        part = replace(self, name=f"{self.name}/{model}", models=(model,), circuit_per_model=False)
        object.__setattr__(part, "_whole", self)
        return part

    @property
    def whole(self) -> "Provider[ClientT]":
        """The provider as the gateway registered it, where this is its part for one model; else itself."""
        return self._whole or self


@dataclass(frozen=True, slots=True)
class CircuitConfig:
    """When a circuit opens and how it comes back. The defaults are the original router's; 0 turns a rule off.

    failure_rate_threshold          opens when the failure-rate average is above this (0 to 1)
    consecutive_failure_limit       opens at this many failures in a row
    half_open_success_threshold     closes after this many successes in half-open
    half_open_max_probes            trial calls in flight at once in half-open, over the whole fleet; at most 1000
    open_timeout                    seconds from opening until half-open
    minimum_calls                   rates open nothing before so many calls: the window's or, without one, since closing
    window                          seconds of the sliding window, counted over the fleet in ten buckets
    window_failure_rate_threshold   opens when so much of the window's calls failed (0 to 1)
    slow_call_duration_threshold    seconds above which a call is slow: its time to the first token, where marked
    slow_call_rate_threshold        opens when so much of the window's calls was slow (0 to 1); a slow trial call fails
    open_timeout_multiplier         each opening lasts so many times longer than the last; each healthy
                                    `open_timeout` takes one step back
    open_timeout_max                seconds that an opening lasts at most, before jitter
    open_timeout_jitter             part of an opening that is added at random (0 to 1)
    min_reporters                   opens when so many replicas complain; one alone opens only its own view
    slow_start                      seconds of a growing share of the calls, after the circuit closed
    """

    failure_rate_threshold: float = 0.5
    consecutive_failure_limit: int = 5
    half_open_success_threshold: int = 3
    half_open_max_probes: int = 3
    open_timeout: float = 30.0
    minimum_calls: int = 0
    window: float = 0.0
    window_failure_rate_threshold: float = 0.0
    slow_call_duration_threshold: float = 0.0
    slow_call_rate_threshold: float = 0.0
    open_timeout_multiplier: float = 0.0
    open_timeout_max: float = 0.0
    open_timeout_jitter: float = 0.0
    min_reporters: int = 0
    slow_start: float = 0.0

    def __post_init__(self) -> None:
        for name in _RATES:
            check_number(name, getattr(self, name), most=1.0)
        for name in ("consecutive_failure_limit", "half_open_success_threshold"):
            check_count(name, getattr(self, name))
        check_count("half_open_max_probes", self.half_open_max_probes, most=MOST_TRIALS)
        for name in ("minimum_calls", "min_reporters"):
            check_count(name, getattr(self, name), least=0)
        check_seconds("open_timeout", self.open_timeout)
        for name in ("window", "slow_call_duration_threshold", "open_timeout_max", "slow_start"):
            if getattr(self, name) != 0 or isinstance(getattr(self, name), bool):
                check_seconds(name, getattr(self, name))
        if self.open_timeout_multiplier != 0:
            check_number("open_timeout_multiplier", self.open_timeout_multiplier, least=1.0, most=100.0)
        self._check_together()

    def _check_together(self) -> None:
        if self.window == 0 and (self.window_failure_rate_threshold or self.slow_call_rate_threshold):
            raise InvalidArgument(
                "window is 0, so that window_failure_rate_threshold and slow_call_rate_threshold have nothing to count"
                " in: give window=10.0 (seconds), or leave them at 0"
            )
        if bool(self.slow_call_duration_threshold) != bool(self.slow_call_rate_threshold):
            raise InvalidArgument(
                f"slow_call_duration_threshold is {self.slow_call_duration_threshold!r} and slow_call_rate_threshold is"
                f" {self.slow_call_rate_threshold!r}: give both, or leave both at 0"
            )
        if 0 < self.open_timeout_max < self.open_timeout:
            raise InvalidArgument(
                f"open_timeout_max is {self.open_timeout_max!r}: give 0, or at least {self.open_timeout!r}"
            )

    @property
    def open_timeout_ms(self) -> int:
        return round(self.open_timeout * 1000)

    @property
    def longest_opening_ms(self) -> int:
        """How long an opening lasts at most, before jitter: as long as always, or what backoff may come to."""
        if self.open_timeout_multiplier <= 1:
            return self.open_timeout_ms
        return max(round(self.open_timeout_max * 1000), self.open_timeout_ms) if self.open_timeout_max else _WEEK_MS

    def differences(self, other: "CircuitConfig") -> list[str]:
        """What changes from here to there, field by field: `open_timeout 30 → 10`."""
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return [f"{name} {old:g} → {new:g}" for name, old, new in pairs if old != new]

    def to_fields(self) -> dict[str, str]:
        """The thresholds as they stand in the Redis hash: durations in ms."""
        fields = {}
        for name, in_record in _IN_RECORD.items():
            value = getattr(self, name)
            fields[in_record] = str(round(value * 1000)) if name != in_record else _text(value)
        return fields

    @classmethod
    def from_fields(cls, values: Mapping[str, str]) -> "CircuitConfig":
        """The inverse. Thresholds hardly ever change, so that those read last are remembered."""
        return _config_of(*map(values.__getitem__, CONFIG_FIELDS[:5]), *map(values.get, CONFIG_FIELDS[5:]))


_WEEK_MS = 604_800_000
_RATES = (
    "failure_rate_threshold",
    "window_failure_rate_threshold",
    "slow_call_rate_threshold",
    "open_timeout_jitter",
)
_COUNTS = (
    "consecutive_failure_limit",
    "half_open_success_threshold",
    "half_open_max_probes",
    "minimum_calls",
    "min_reporters",
)
_IN_RECORD = {
    f.name: f.name if f.name in (*_RATES, *_COUNTS, "open_timeout_multiplier") else f"{f.name}_ms"
    for f in fields(CircuitConfig)
}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)


_LARGEST = 2.0**53
_LAST_MOMENT_MS = 253_402_300_799_000
"""The end of the year 9999: later ones are no moments."""


def _number(text: str, most: float = _LARGEST) -> float:
    """What Lua takes for a number: a hand may have written 6e4 or 0x10. Not below 0, which no field of ours is."""
    try:
        number = float(text)
    except ValueError:
        number = float(int(text, 0))
    if 0 <= number <= most:
        return number
    raise ValueError(f"{text[:40]} is not from 0 to {most:g}")


def _whole(text: str, most: float = _LARGEST) -> int:
    # most are digits, and short; a float would lose the last ones of a long number
    return int(text) if text.isdecimal() and len(text) < 16 and int(text) <= most else int(_number(text, most))


def _moment(text: str) -> int:
    return _whole(text, _LAST_MOMENT_MS)


CONFIG_FIELDS = tuple(CircuitConfig().to_fields())


@lru_cache(maxsize=256)
def _config_of(*texts: str | None) -> CircuitConfig:
    values: dict[str, Any] = {}
    for (name, in_record), text in zip(_IN_RECORD.items(), texts, strict=True):
        if text is not None:
            values[name] = _whole(text) if name in _COUNTS else _number(text)
            if name != in_record:
                values[name] /= 1000
    # somebody may have changed one of two fields that belong together: the rule is off, the record stays readable
    if not values.get("window"):
        values |= {"window_failure_rate_threshold": 0.0, "slow_call_rate_threshold": 0.0}
    if not (values.get("slow_call_duration_threshold") and values.get("slow_call_rate_threshold")):
        values |= {"slow_call_duration_threshold": 0.0, "slow_call_rate_threshold": 0.0}
    if "half_open_max_probes" in values:
        values["half_open_max_probes"] = min(values["half_open_max_probes"], MOST_TRIALS)
    if values.get("open_timeout_max"):
        values["open_timeout_max"] = max(values["open_timeout_max"], values["open_timeout"])
    return CircuitConfig(**values)


@dataclass(frozen=True, slots=True)
class ProviderHealth:
    """One provider's whole record, field for field as it stands in Redis (`HGETALL rr:{name}:health`).

    available, unavailable_reason   0 with `circuit` (opened), `probe` (the worker's probe fails) or `operator`
    open_reason                     the rule that opened the circuit last; kept after it closes
    last_failure                    why the last failed call failed, one word; '' where nobody said
    probe_result                    of the worker's last probe: `passes`, why it fails or cannot be made; '' before it
    cooldown_until_ms, cooldown_ms  a rate limit: it wants no calls before this moment, so many ms after it said so
    latency_ms                      moving average, ms; 0 until the first sample
    failure_rate                    moving average, 0 to 1
    calls                           since the circuit closed, up to `minimum_calls`, where there is no window
    window_bucket                   number of the window's newest bucket; the three counts are of ten, newest last
    times_opened                    steps of backoff that the next opening takes
    open_timeout_factor             how many times `open_timeout` the last opening lasts: backoff and jitter
    generation                      counts transitions; a result from an earlier one never moves the circuit
    last_state_change_ms, last_check_ms, last_result_ms   moments on Redis's clock, ms since the epoch, 0 for never:
                                    a transition; a call's result or a probe's; a call's result
    circuit_version                 of the settings in force, where a router gave one
    declined_settings               a fingerprint of those that a replica came with last and were not taken
    version                         orders copies of the record: the higher one is newer
    leader_epoch                    the highest election epoch that wrote here; lower ones are refused
    """

    name: str
    circuit_state: CircuitState = CircuitState.CLOSED
    open_reason: str = ""
    last_failure: str = ""
    available: bool = True
    unavailable_reason: str = ""
    probe_result: str = ""
    cooldown_until_ms: int = 0
    cooldown_ms: int = 0
    latency_ms: float = 0.0
    failure_rate: float = 0.0
    weight: float = 1.0
    consecutive_failures: int = 0
    consecutive_successes: int = 0
    calls: int = 0
    window_bucket: int = 0
    window_calls: str = ""
    window_failures: str = ""
    window_slow: str = ""
    times_opened: int = 0
    open_timeout_factor: float = 1.0
    generation: int = 1
    last_state_change_ms: int = 0
    last_check_ms: int = 0
    last_result_ms: int = 0
    config: CircuitConfig = field(default_factory=CircuitConfig)
    circuit_version: int = 0
    declined_settings: str = ""
    leader_epoch: int = 0
    version: int = 0

    @property
    def is_drained(self) -> bool:
        """Did an operator take it out of service, or leave it no share of the calls?"""
        return self.unavailable_reason == "operator" or self.weight == 0

    def due_in_ms(self, now_ms: float) -> float:
        """Milliseconds until an open circuit may become half-open, on Redis's clock; 0 or less: now.

        Where that clock was set back by more than `open_timeout`, the circuit does not wait until it caught up.
        """
        most = self.config.longest_opening_ms * (1 + self.config.open_timeout_jitter)
        lasts = min(self.config.open_timeout_ms * self.open_timeout_factor, most)
        return lasts - abs(now_ms - self.last_state_change_ms)

    def cooling_for_ms(self, now_ms: float) -> float:
        """Milliseconds for which it wants no calls yet; 0 where Redis's clock was set back.

        A replica's estimate of that clock may be behind a little.
        """
        left = self.cooldown_until_ms - now_ms
        return left if 0 < left <= self.cooldown_ms + CLOCK_SKEW_MS else 0.0

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
        texts: dict[str, str] = {}
        for name in _FIELDS:
            value = getattr(self, name)
            texts |= value.to_fields() if name == "config" else {name: _text(value)}
        return texts

    @classmethod
    def from_fields(cls, name: str, values: Mapping[str, str]) -> Self:
        """The inverse of `to_fields`. Raises KeyError or ValueError when the hash is not a health record.

        What is off or says nothing may be missing: a push leaves it out.
        """
        may = values.get
        return cls(
            name=name,
            circuit_state=CircuitState(values["circuit_state"]),
            open_reason=values["open_reason"],
            last_failure=may("last_failure", ""),
            available=values["available"] == "1",
            unavailable_reason=values["unavailable_reason"],
            probe_result=may("probe_result", ""),
            cooldown_until_ms=_moment(may("cooldown_until_ms", "0")),
            cooldown_ms=_whole(may("cooldown_ms", "0"), _WEEK_MS),
            latency_ms=_number(values["latency_ms"]),
            failure_rate=_number(values["failure_rate"], 1.0),
            weight=check_weight(_number(values["weight"])),
            consecutive_failures=_whole(values["consecutive_failures"]),
            consecutive_successes=_whole(values["consecutive_successes"]),
            calls=_whole(may("calls", "0")),
            window_bucket=_whole(may("window_bucket", "0")),
            window_calls=may("window_calls", ""),
            window_failures=may("window_failures", ""),
            window_slow=may("window_slow", ""),
            times_opened=_whole(may("times_opened", "0")),
            open_timeout_factor=_number(may("open_timeout_factor", "1")),
            generation=_whole(values["generation"]),
            last_state_change_ms=_moment(values["last_state_change_ms"]),
            last_check_ms=_moment(values["last_check_ms"]),
            last_result_ms=_moment(may("last_result_ms", "0")),
            config=CircuitConfig.from_fields(values),
            circuit_version=_whole(may("circuit_version", "0")),
            declined_settings=may("declined_settings", ""),
            leader_epoch=_whole(values["leader_epoch"]),
            version=_whole(values["version"]),
        )


_FIELDS = tuple(f.name for f in fields(ProviderHealth))[1:]


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of a circuit's state, announced exactly once over the fleet.

    alone  decided by this replica for itself: while Redis is away, or where fewer than `min_reporters` complain
    """

    provider: str
    from_state: CircuitState
    to_state: CircuitState
    reason: str
    generation: int
    alone: bool = False


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


@dataclass(slots=True)
class Here:
    """What this replica alone knows of a provider: the same object in every table.

    in_flight      one entry for each attempt of this replica that is under way: a list, as appending is atomic
    limited_until  a rate limit that this replica was told of and the fleet's record may not show yet: monotonic
                   seconds, 0 for none
    looked_at_ms   when a call was sent here only to see how it is, on Redis's clock
    """

    in_flight: list[None] = field(default_factory=list)
    limited_until: float = 0.0
    looked_at_ms: float = 0.0

    @property
    def limited_for(self) -> float:
        """Seconds for which it wants no calls, as this replica knows itself; 0 for none."""
        return max(0.0, self.limited_until - time.monotonic()) if self.limited_until else 0.0

    def may_look(self, now_ms: float, every_ms: float) -> bool:
        """May a call be sent here only to see how it is? Once in `every_ms`, and not where one is under way."""
        if self.in_flight or abs(now_ms - self.looked_at_ms) < every_ms:
            return False
        self.looked_at_ms = now_ms
        return True


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a strategy chooses between: a provider together with its health as this replica knows it."""

    provider: Provider
    health: ProviderHealth
    here: Here = field(default_factory=Here, compare=False, repr=False)

    @property
    def in_flight(self) -> list[None]:
        """One entry for each attempt of this replica that is under way."""
        return self.here.in_flight
