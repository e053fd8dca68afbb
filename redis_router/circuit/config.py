"""When a circuit opens and how it comes back: the thresholds of one provider, which stand in its record."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from typing import Any

from redis_router.checks import check_count, check_number, check_seconds
from redis_router.circuit.fields import WEEK_MS, Codec, in_ms, number, seconds, share, stored, whole
from redis_router.errors import InvalidArgument

MOST_TRIALS = 1000
"""Of `half_open_max_probes`: each trial call holds a permit in Redis, and more are no trial any more."""


def _or_off(check: Any) -> Any:
    """0 turns the rule off; everything else is checked."""
    return lambda name, value: None if value == 0 and not isinstance(value, bool) else check(name, value)


_RATE = partial(stored, read=share, check=partial(check_number, most=1.0))
_COUNT = partial(stored, read=whole, check=check_count)
_COUNT_OR_OFF = partial(stored, read=whole, check=partial(check_count, least=0))
_SECONDS = partial(stored, read=seconds, write=in_ms, suffix="_ms", check=check_seconds)
_SECONDS_OR_OFF = partial(_SECONDS, check=_or_off(check_seconds))
_FACTOR_OR_OFF = partial(stored, read=number, check=_or_off(partial(check_number, least=1.0, most=100.0)))


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
    min_reporters                   opens when so many replicas complain, or all that call it; one alone opens only its
                                    own view, which closes after one success in half-open
    slow_start                      seconds of a growing share of the calls, after the circuit closed
    """

    failure_rate_threshold: float = _RATE(0.5)
    consecutive_failure_limit: int = _COUNT(5)
    half_open_success_threshold: int = _COUNT(3)
    half_open_max_probes: int = _COUNT(3, check=partial(check_count, most=MOST_TRIALS))
    open_timeout: float = _SECONDS(30.0)
    minimum_calls: int = _COUNT_OR_OFF(0, optional=True)
    window: float = _SECONDS_OR_OFF(0.0, optional=True)
    window_failure_rate_threshold: float = _RATE(0.0, optional=True)
    slow_call_duration_threshold: float = _SECONDS_OR_OFF(0.0, optional=True)
    slow_call_rate_threshold: float = _RATE(0.0, optional=True)
    open_timeout_multiplier: float = _FACTOR_OR_OFF(0.0, optional=True)
    open_timeout_max: float = _SECONDS_OR_OFF(0.0, optional=True)
    open_timeout_jitter: float = _RATE(0.0, optional=True)
    min_reporters: int = _COUNT_OR_OFF(0, optional=True)
    slow_start: float = _SECONDS_OR_OFF(0.0, optional=True)

    def __post_init__(self) -> None:
        _CODEC.check(self)
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
        return max(round(self.open_timeout_max * 1000), self.open_timeout_ms) if self.open_timeout_max else WEEK_MS

    def differences(self, other: "CircuitConfig") -> list[str]:
        """What changes from here to there, field by field: `open_timeout 30 -> 10`."""
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return [f"{name} {old:g} -> {new:g}" for name, old, new in pairs if old != new]

    def to_fields(self) -> dict[str, str]:
        """The thresholds as they stand in the Redis hash: durations in ms."""
        return _CODEC.to_fields(self)

    @classmethod
    def from_fields(cls, values: Mapping[str, str]) -> "CircuitConfig":
        """The inverse. Raises KeyError for what is missing, ValueError for what cannot be read."""
        return _config_of(*map(values.get, CONFIG_FIELDS))


_CODEC = Codec(CircuitConfig)
RECOMMENDED = CircuitConfig(
    failure_rate_threshold=0.2,
    half_open_success_threshold=3,
    half_open_max_probes=1,
    open_timeout=5.0,
    open_timeout_multiplier=2.0,
    open_timeout_max=120.0,
    open_timeout_jitter=0.1,
    min_reporters=2,
)
"""What a new provider gets where nothing else was asked for: three failures in a row, or nearly, that two replicas see,
open the circuit, at first for five seconds; then one trial call at a time. The worlds of benchmarks/quality say so."""
CONFIG_FIELDS = tuple(_CODEC.names.values())
"""The names of the thresholds in a record."""


@lru_cache(maxsize=256)
def _config_of(*texts: str | None) -> CircuitConfig:
    """Thresholds hardly ever change, so that those read last are remembered."""
    values = _CODEC.from_fields({n: t for n, t in zip(CONFIG_FIELDS, texts, strict=True) if t is not None})
    # somebody may have changed one of two fields that belong together: the rule is off, the record stays readable
    if not values["window"]:
        values |= {"window_failure_rate_threshold": 0.0, "slow_call_rate_threshold": 0.0}
    if not (values["slow_call_duration_threshold"] and values["slow_call_rate_threshold"]):
        values |= {"slow_call_duration_threshold": 0.0, "slow_call_rate_threshold": 0.0}
    values["half_open_max_probes"] = min(values["half_open_max_probes"], MOST_TRIALS)
    if values["open_timeout_max"]:
        values["open_timeout_max"] = max(values["open_timeout_max"], values["open_timeout"])
    return CircuitConfig(**values)


def fingerprint(config: CircuitConfig, weight: float) -> str:
    """Of a provider's settings: by it a record says which ones were not taken."""
    settings = json.dumps({**config.to_fields(), "weight": weight}, sort_keys=True)
    return hashlib.sha1(settings.encode(), usedforsecurity=False).hexdigest()[:8]
