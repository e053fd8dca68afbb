"""One provider's record: the circuit's state, what was measured, and the thresholds in force."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from operator import attrgetter
from typing import Self

from redis_router.checks import check_weight
from redis_router.circuit.config import CircuitConfig
from redis_router.circuit.fields import Codec, at_most_a_week, flag, moment, number, share, stored, whole

SCHEMA = 1
"""Of a record's fields, as in `lua/_record.lua`, which says when it is raised."""
CLOCK_SKEW_MS = 1000
"""An estimate of Redis's clock may be wrong by so much."""


class NewerSchema(ValueError):
    """A record was written by a version that is newer than this one, which would misread it."""


class CircuitState(StrEnum):
    """closed: calls flow; open: none do; half_open: a few trial calls, each holding a permit."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


def _check_schema(text: str) -> None:
    """Before anything else of a record is read: whatever a newer version changed, its record is named as one."""
    try:
        schema = number(text)
    except ValueError:
        raise ValueError(f"schema {text[:40]!r} is no number") from None
    if schema > SCHEMA:
        raise NewerSchema(f"schema {schema:g} is newer than {SCHEMA}, the newest that this version reads")


class TakenOutBy(StrEnum):
    """Who made a provider unavailable: its circuit opened, the worker's probe fails, or an operator took it out."""

    CIRCUIT = "circuit"
    PROBE = "probe"
    OPERATOR = "operator"


def _weight(text: str) -> float:
    return check_weight(number(text))


@dataclass(frozen=True, slots=True)
class ProviderHealth:
    """One provider's whole record, field for field as it stands in Redis (`HGETALL rr:{name}:health`).

    available, unavailable_reason   0 with one of `TakenOutBy`
    open_reason                     the rule that opened the circuit last; kept after it closes
    still_answers                   calls were answered since the circuit opened, and most are: better than nobody
    last_failure                    why the last failed call failed, one word; '' where nobody said
    probe_result                    of the worker's last probe: `passes`, why it fails or cannot be made; '' before it
    cooldown_until_ms, cooldown_ms  a rate limit: it wants no calls before this moment, so many ms after it said so
    cooling_logged_ms               when a rate limit was written into the log of events last
    latency_ms                      moving average, ms; 0 until the first sample
    failure_rate                    moving average, 0 to 1
    calls                           since the circuit closed, up to `minimum_calls`, where there is no window
    window_bucket                   number of the window's newest bucket; the three counts are of ten, newest last
    times_opened                    steps of backoff that the next opening takes
    open_timeout_factor             how many times `open_timeout` the last opening lasts: backoff and jitter
    generation                      counts transitions; a result from an earlier one never moves the circuit
    last_state_change_ms, last_check_ms, last_result_ms   moments on Redis's clock, ms since the epoch, 0 for never:
                                    a transition; a call's result or a probe's; a call's result
    result_gap_ms                   between the last two results
    answers_per_s                   moving average over some ten seconds, as it was at the last result
    calls_per_s, paced_until_ms     after a rate limit: one call follows the other at this rate, until this moment
    in_flight                       calls under way over the fleet, as its replicas said last
    overdue                         of these, so many wait for longer than chance explains
    answering                       of so many the answer has begun
    concurrency_limit               calls at once that it takes without making them wait; learned, 0 before that
    limit_growth                    quick answers of calls that filled it since it was cut; 0 where it never was
    samples                         answers that the following are made of, up to 63
    usual_latency_ms, latency_deviation_ms  average of calls that did not wait, and how far they are from it
    floor_latency_ms, near_latency_ms, near_load  averages at low load; near the limit; the load there: `capacity.py`
    longest_latency_ms              the longest of some hundreds of answers: a single call that waits longer is overdue
    call_ms                         moving average of whole calls, streams included and waiting left out, ms
    override, override_until_ms     what an operator said for a time, and until when, on Redis's clock: `overrides.py`
    override_since_ms               since when; 0 where a version before this field said it
    override_by, override_reason    who, and why
    weight_override, weight_override_until_ms  another weight for a time, and until when
    weight_override_since_ms        since when
    weight_override_by, weight_override_reason  who, and why
    circuit_version                 of the settings in force, where a router gave one
    declined_settings               a fingerprint of those that a replica came with last and were not taken
    version                         orders copies of the record: the higher one is newer
    leader_epoch                    the highest election epoch that wrote here; lower ones are refused
    """

    name: str
    circuit_state: CircuitState = stored(CircuitState.CLOSED, CircuitState)
    open_reason: str = stored("", str)
    still_answers: bool = stored(False, flag, optional=True)
    last_failure: str = stored("", str, optional=True)
    available: bool = stored(True, flag)
    unavailable_reason: str = stored("", str)
    probe_result: str = stored("", str, optional=True)
    cooldown_until_ms: int = stored(0, moment, optional=True)
    cooldown_ms: int = stored(0, at_most_a_week, optional=True)
    cooling_logged_ms: int = stored(0, moment, optional=True)
    latency_ms: float = stored(0.0, number)
    failure_rate: float = stored(0.0, share)
    weight: float = stored(1.0, _weight)
    consecutive_failures: int = stored(0, whole)
    consecutive_successes: int = stored(0, whole)
    calls: int = stored(0, whole, optional=True)
    window_bucket: int = stored(0, whole, optional=True)
    window_calls: str = stored("", str, optional=True)
    window_failures: str = stored("", str, optional=True)
    window_slow: str = stored("", str, optional=True)
    times_opened: int = stored(0, whole, optional=True)
    open_timeout_factor: float = stored(1.0, number, optional=True)
    generation: int = stored(1, whole)
    last_state_change_ms: int = stored(0, moment)
    last_check_ms: int = stored(0, moment)
    last_result_ms: int = stored(0, moment, optional=True)
    result_gap_ms: int = stored(0, whole, optional=True)
    answers_per_s: float = stored(0.0, number, optional=True)
    calls_per_s: float = stored(0.0, number, optional=True)
    paced_until_ms: int = stored(0, moment, optional=True)
    in_flight: int = stored(0, whole, optional=True)
    overdue: int = stored(0, whole, optional=True)
    answering: int = stored(0, whole, optional=True)
    concurrency_limit: float = stored(0.0, number, optional=True)
    limit_growth: int = stored(0, whole, optional=True)
    samples: int = stored(0, whole, optional=True)
    usual_latency_ms: float = stored(0.0, number, optional=True)
    latency_deviation_ms: float = stored(0.0, number, optional=True)
    floor_latency_ms: float = stored(0.0, number, optional=True)
    near_latency_ms: float = stored(0.0, number, optional=True)
    near_load: float = stored(0.0, number, optional=True)
    longest_latency_ms: float = stored(0.0, number, optional=True)
    call_ms: float = stored(0.0, number, optional=True)
    override: str = stored("", str, optional=True)
    override_since_ms: int = stored(0, moment, optional=True)
    override_until_ms: int = stored(0, moment, optional=True)
    override_by: str = stored("", str, optional=True)
    override_reason: str = stored("", str, optional=True)
    weight_override: float = stored(0.0, _weight, optional=True)
    weight_override_since_ms: int = stored(0, moment, optional=True)
    weight_override_until_ms: int = stored(0, moment, optional=True)
    weight_override_by: str = stored("", str, optional=True)
    weight_override_reason: str = stored("", str, optional=True)
    config: CircuitConfig = field(default_factory=CircuitConfig)
    circuit_version: int = stored(0, whole, optional=True)
    declined_settings: str = stored("", str, optional=True)
    leader_epoch: int = stored(0, whole)
    version: int = stored(0, whole)

    @property
    def is_drained(self) -> bool:
        """Did an operator take it out of service, or leave it no share of the calls?"""
        return self.unavailable_reason == TakenOutBy.OPERATOR or self.weight == 0

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

    @property
    def pause_ms(self) -> float:
        """Milliseconds from one call to the next where a pace is kept after a rate limit; 0 where there is none."""
        return 1000 / self.calls_per_s if self.calls_per_s else 0.0

    def is_due(self, now_ms: float) -> bool:
        """May an open circuit become half-open?"""
        return self.due_in_ms(now_ms) <= 0

    def supersedes(self, other: "ProviderHealth") -> bool:
        """Which of two copies of one record wins, everywhere: the one of more transitions, then the later version.

        A copy that never saw a result, of the same generation as one that did, was written anew after a loss: it loses.
        """
        if self.generation != other.generation:
            return self.generation > other.generation
        if (self.last_check_ms == 0) != (other.last_check_ms == 0):
            return other.last_check_ms == 0
        return self.version > other.version

    def to_fields(self) -> dict[str, str]:
        """The record as Redis holds it: words for states, 1/0 for flags, decimal text for numbers."""
        return {**_CODEC.to_fields(self), **self.config.to_fields(), "schema": str(SCHEMA)}

    @classmethod
    def from_fields(cls, name: str, values: Mapping[str, str]) -> Self:
        """The inverse. Raises NewerSchema, and KeyError or ValueError when the hash is not a health record.

        What is off or says nothing may be missing: a push leaves it out. So may the schema: older versions have none.
        """
        _check_schema(values.get("schema", "0"))
        return cls(name, config=CircuitConfig.from_fields(values), **_CODEC.from_fields(values))


_CODEC = Codec(ProviderHealth)
_NAMES = tuple(field.name for field in fields(ProviderHealth))
_VALUES = attrgetter(*_NAMES)


def changed(health: ProviderHealth, changes: Mapping[str, object]) -> ProviderHealth:
    """As `dataclasses.replace` does it, at half of its price: some of these are made for each outcome."""
    values = dict(zip(_NAMES, _VALUES(health), strict=True))
    values.update(changes)
    return ProviderHealth(**values)


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
