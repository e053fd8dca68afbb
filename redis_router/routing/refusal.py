"""Why nobody may be called for a model, in the words that users read: every sentence is here."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from redis_router.circuit.overrides import FOR_EVER_MS, TAKES_OUT, acting, override_of
from redis_router.circuit.record import CircuitState, ProviderHealth, TakenOutBy
from redis_router.errors import Why
from redis_router.routing.candidate import Candidate
from redis_router.routing.table import RoutingTable


class Unavailable(Enum):
    """Why a provider is not called. Each value is its sentence; what stands in braces comes from the record."""

    UNKNOWN_MODEL = "model unknown: it does not serve it"
    EXCLUDED = "excluded by the caller"
    TRIED = "tried already"
    OPERATOR = "drained: taken out of service by an operator"
    OVERRIDDEN = "{override} by {by} {until}{reason}"
    NO_WEIGHT = "drained: its weight is 0"
    OPEN = "circuit open until {until} ({open_reason}{last_failure})"
    COOLING = "cooling until {until} (rate limited)"
    HALF_OPEN = "circuit half-open, its trial calls are taken"
    OUT_OF_SERVICE = "unavailable ({unavailable_reason})"
    JUST_BACK = "back in service a moment ago"


_NOBODY_SERVES_IT = "no provider serves it; registered: {models}"
_NO_PROVIDER = "no provider is registered"
_MODELS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one provider is not called: in short, in words, and in how many seconds it may be (None: unknown)."""

    why: Unavailable
    text: str
    back_in: float | None = None

    @classmethod
    def of(cls, why: Unavailable, back_in: float | None = None, **words: str) -> "Reason":
        """In the sentence for it; `words` fill its braces."""
        return cls(why, why.value.format(**words), back_in)


TRIED, EXCLUDED = Reason.of(Unavailable.TRIED), Reason.of(Unavailable.EXCLUDED)


@dataclass(frozen=True, slots=True)
class UnknownModel:
    """No provider serves this model."""

    model: str
    table: RoutingTable

    @property
    def reasons(self) -> dict[str, Reason]:
        """By record: why it is not called."""
        return dict.fromkeys(self.table.candidates, Reason.of(Unavailable.UNKNOWN_MODEL))

    def why(self) -> Why:
        """What `NoProviderAvailable` says: the models that are served, in place of reasons."""
        models = ", ".join(sorted(self.table.serving)[:_MODELS_SHOWN]) or _NO_PROVIDER
        texts = {name: reason.text for name, reason in self.reasons.items()}
        return texts, None, _NOBODY_SERVES_IT.format(models=models)


@dataclass(frozen=True, slots=True)
class NobodyNow:
    """None of the providers that serve this model may be called.

    Put into words only when somebody reads them: most refusals are caught, and the request waits or falls back.

    barred  by record: those that this request does not ask, whatever their state
    now_ms  when it was, on Redis's clock; `now` on this process's monotonic one, in seconds
    """

    model: str
    candidates: tuple[Candidate, ...]
    barred: Mapping[str, Reason]
    now_ms: float
    now: float

    @property
    def reasons(self) -> dict[str, Reason]:
        """By record: why it is not called."""
        return {
            c.health.name: self.barred.get(c.health.name) or reason_of(c, self.now_ms, self.now)
            for c in self.candidates
        }

    def why(self) -> Why:
        """What `NoProviderAvailable` says: a reason for each provider, and when the first may be back."""
        reasons = self.reasons
        waits = [reason.back_in for reason in reasons.values() if reason.back_in is not None]
        return {name: reason.text for name, reason in reasons.items()}, min(waits, default=None), ""


Refusal = UnknownModel | NobodyNow
"""Why nobody may be called for one model."""


def reason_of(candidate: Candidate, now_ms: float, now: float) -> Reason:
    """What in its state keeps a provider from being called without a permit."""
    health = acting(candidate.health, now_ms)
    word = override_of(health, now_ms)
    if word in TAKES_OUT:
        return _overridden(health, word, now_ms)
    cooling = max(health.cooling_for_ms(now_ms) / 1000, candidate.here.limited_for(now))
    if health.unavailable_reason == TakenOutBy.OPERATOR:
        return Reason.of(Unavailable.OPERATOR)
    if health.is_drained:
        return Reason.of(Unavailable.NO_WEIGHT)
    if health.circuit_state is CircuitState.OPEN:
        wait = max(cooling, health.due_in_ms(now_ms) / 1000, 0.0)
        failure = f"; last failure: {health.last_failure}" if health.last_failure else ""
        words = {"open_reason": health.open_reason, "last_failure": failure}
        return Reason.of(Unavailable.OPEN, wait, until=_moment(now_ms, wait), **words)
    if cooling:
        return Reason.of(Unavailable.COOLING, cooling, until=_moment(now_ms, cooling))
    if health.circuit_state is CircuitState.HALF_OPEN:
        return Reason.of(Unavailable.HALF_OPEN)
    if not health.available:
        return Reason.of(Unavailable.OUT_OF_SERVICE, unavailable_reason=health.unavailable_reason)
    return Reason.of(Unavailable.JUST_BACK)


def _overridden(health: ProviderHealth, word: str, now_ms: float) -> Reason:
    ends = health.override_until_ms < FOR_EVER_MS
    left = (health.override_until_ms - now_ms) / 1000 if ends else None
    until = "until somebody ends it" if left is None else f"until {_moment(now_ms, left)}"
    reason = f" ({health.override_reason})" if health.override_reason else ""
    words = {"override": word, "by": health.override_by or "somebody", "until": until, "reason": reason}
    return Reason.of(Unavailable.OVERRIDDEN, left, **words)


def _moment(now_ms: float, wait: float) -> str:
    """A time of day, and in how many seconds."""
    return f"{datetime.fromtimestamp(now_ms / 1000 + wait, UTC):%H:%M:%SZ}, in {wait:.1f} s"
