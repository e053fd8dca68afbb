"""What operators say for a time: the mirror of `lua/_overrides.lua`, function for function.

An override lies over the record and changes nothing that the rules have there. So when it ends, what the rules say now
counts at once, and nothing needs to be put back. It is in force while Redis's clock is before its end.
"""

from enum import StrEnum
from math import inf

from redis_router.checks import MAX_REASON, check_number, check_text, check_weight
from redis_router.circuit.fields import LAST_MOMENT_MS, WEEK_MS
from redis_router.circuit.record import CircuitState, ProviderHealth, TakenOutBy, changed
from redis_router.errors import InvalidArgument

FOR_EVER_MS = LAST_MOMENT_MS
"""As the end of an override that nobody bounded."""
HOUR_SECONDS = 3600.0
END, LAPSE, WEIGHT = "end", "lapse", "weight"
"""As the word of `Store.override`, beside those of `Override`."""

Said = tuple[str, dict[str, str]]
"""For the log of events: what happened, and its details; without details it is told to who listens, and not kept."""


class Override(StrEnum):
    """What an operator may say of a provider's state.

    drain, force_open  no new calls, whatever the rules say; those under way end
    force_closed       calls flow, whatever the circuit and the probe say; the rules still count
    observe            the same; and the log and metrics tell what the rules would have done
    """

    DRAIN = "drain"
    FORCE_OPEN = "force_open"
    FORCE_CLOSED = "force_closed"
    OBSERVE = "observe"


TAKES_OUT = frozenset({Override.DRAIN, Override.FORCE_OPEN})
LETS_IN = frozenset({Override.FORCE_CLOSED, Override.OBSERVE})


def override_of(health: ProviderHealth, now_ms: float) -> str:
    """The override of its state that is in force; '' for none."""
    return health.override if health.override_until_ms > now_ms else ""


def weight_of(health: ProviderHealth, now_ms: float) -> float:
    """The weight in force."""
    return health.weight_override if health.weight_override_until_ms > now_ms else health.weight


def acting(health: ProviderHealth, now_ms: float) -> ProviderHealth:
    """The record as calls should see it, with what operators said for this moment; the same one where they said none.

    Its generation is the record's own: what these calls come to counts by the rules.
    """
    if not health.override_until_ms and not health.weight_override_until_ms:
        return health
    changes: dict[str, object] = {"weight": weight_of(health, now_ms)}
    word = override_of(health, now_ms)
    if word in TAKES_OUT:
        changes |= {"available": False, "unavailable_reason": TakenOutBy.OPERATOR}
    elif word in LETS_IN:
        by_operator = health.unavailable_reason == TakenOutBy.OPERATOR  # no rule of ours: it stays out
        changes |= {"available": not by_operator, "unavailable_reason": TakenOutBy.OPERATOR if by_operator else ""}
        if health.circuit_state is not CircuitState.CLOSED:
            changes |= {"circuit_state": CircuitState.CLOSED, "last_state_change_ms": 0}  # 0: no slow start
    return changed(health, changes)


def left_ms(health: ProviderHealth, now_ms: float) -> float | None:
    """Milliseconds until the first of its overrides ends; None for never."""
    ends = (health.override_until_ms, health.weight_override_until_ms)
    return min((end - now_ms for end in ends if now_ms < end < FOR_EVER_MS), default=None)


def next_end_ms(health: ProviderHealth) -> float:
    """When the first of its overrides ends, or ended and nobody wrote so yet, ms; infinite where none will."""
    ends = (health.override_until_ms, health.weight_override_until_ms)
    return min((end for end in ends if 0 < end < FOR_EVER_MS), default=inf)


def end_state(health: ProviderHealth, reason: str) -> tuple[ProviderHealth, list[Said]]:
    """Without the override of its state; `reason` is for the log."""
    if not health.override_until_ms:
        return health, []
    said = ("override", {"from": health.override, "to": "", "until_ms": "0", "reason": reason})
    none = {"override": "", "override_since_ms": 0, "override_until_ms": 0, "override_by": "", "override_reason": ""}
    return changed(health, none), [said]


def end_weight(health: ProviderHealth, reason: str) -> tuple[ProviderHealth, list[Said]]:
    """Without the override of its weight."""
    if not health.weight_override_until_ms:
        return health, []
    old, new = f"{health.weight_override:g}", f"{health.weight:g}"
    said = ("weight_override", {"from": old, "to": new, "until_ms": "0", "reason": reason})
    none = {
        "weight_override": 0.0,
        "weight_override_since_ms": 0,
        "weight_override_until_ms": 0,
        "weight_override_by": "",
        "weight_override_reason": "",
    }
    return changed(health, none), [said]


def lapsed(health: ProviderHealth, now_ms: float) -> tuple[ProviderHealth, list[Said]]:
    """Without the overrides that are over."""
    said: list[Said] = []
    if 0 < health.override_until_ms <= now_ms:
        health, said = end_state(health, "expired")
    if 0 < health.weight_override_until_ms <= now_ms:
        health, more = end_weight(health, "expired")
        said += more
    return health, said


def overridden(
    health: ProviderHealth, word: str, lasts_ms: float, weight: float, by: str, reason: str, now_ms: int
) -> tuple[ProviderHealth, list[Said]]:
    """The record after an operator's word, or a worker's `LAPSE`; `lasts_ms` 0 for ever.

    Who says the same again prolongs it.
    """
    health, said = lapsed(health, now_ms)
    if word == LAPSE:
        return health, said
    if word == END:
        health, state = end_state(health, reason)
        health, share = end_weight(health, reason)
        return health, said + state + share
    until = int(now_ms + lasts_ms) if lasts_ms else FOR_EVER_MS
    if word == WEIGHT:
        old, new, event, field = f"{weight_of(health, now_ms):g}", f"{weight:g}", "weight_override", "weight_override"
    else:
        old, new, event, field = health.override, word, "override", "override"
    value: object = weight if word == WEIGHT else word
    goes_on = getattr(health, f"{field}_until_ms") > 0 and (word == WEIGHT or old == word)
    since = (goes_on and getattr(health, f"{field}_since_ms")) or now_ms
    words = {f"{field}_since_ms": since, f"{field}_until_ms": until, f"{field}_by": by, f"{field}_reason": reason}
    entry = (event, {"from": old, "to": new, "until_ms": str(until), "reason": reason})
    return changed(health, {field: value, **words}), [*said, entry]


def observed(by: str) -> dict[str, object]:
    """The fields of a record that begins under `observe`, for ever."""
    words = {"override_by": by, "override_reason": "registered with observe=True"}
    return {"override": Override.OBSERVE, "override_until_ms": FOR_EVER_MS, **words}


def check_override(word: object, seconds: object, weight: object, reason: object, by: object) -> tuple[str, int, float]:
    """The word, how many ms it lasts (0 for ever) and the weight. Raises InvalidArgument before anything is stored."""
    known = [*map(str, Override), WEIGHT]
    if word not in known:
        raise InvalidArgument(f"override is {word!r}: give one of {', '.join(known)}")
    check_text("reason", reason, MAX_REASON)
    check_text("by", by, 64)
    if (word == WEIGHT) != (weight is not None):
        raise InvalidArgument(f"override {word!r} has weight={weight!r}: give weight= with 'weight', and only there")
    lasts = 0
    if seconds is not None:
        lasts = round(check_number("seconds", seconds, least=0.001, most=52 * WEEK_MS / 1000) * 1000)
    return str(word), lasts, 0.0 if weight is None else check_weight(weight)
