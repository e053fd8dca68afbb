"""What a person may do on the page: the words of the command line, each with who and why, for the whole fleet."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from redis_router.checks import check_flag
from redis_router.circuit.overrides import HOUR_SECONDS, TAKES_OUT, WEIGHT, Override, acting, check_override
from redis_router.circuit.record import CircuitState, ProviderHealth
from redis_router.errors import InvalidArgument
from redis_router.operate.http import Refused
from redis_router.overriding import Operator
from redis_router.provider import ANY_MODEL
from redis_router.store.contract import Snapshot

NOBODY = "page"
"""Who acts, where a person gave no name."""
OVERRIDES: Mapping[str, str] = {
    "drain": Override.DRAIN,
    "open": Override.FORCE_OPEN,
    "close": Override.FORCE_CLOSED,
    "observe": Override.OBSERVE,
    "weight": WEIGHT,
}
READY, RESET, END = "ready", "reset", "end"
ACTIONS = (*OVERRIDES, READY, RESET, END)
FIELDS = ("provider", "action", "seconds", "weight", "reason", "by", "yes")


@dataclass(frozen=True, slots=True)
class Action:
    """One, as it was asked for. Raises InvalidArgument for what cannot be used.

    provider  a provider's name, a record's, `provider/model`, or `*` for the fleet
    seconds   how long it holds; None for ever; of no matter for `ready`, `reset` and `end`
    yes       also where a model is left without a provider
    """

    provider: str
    action: str
    seconds: float | None = HOUR_SECONDS
    weight: float | None = None
    reason: str = ""
    by: str = NOBODY
    yes: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.provider, str) or not self.provider:
            raise InvalidArgument(f"provider is {self.provider!r}: give a provider's name, or '*' for all")
        if self.action not in ACTIONS:
            raise InvalidArgument(f"action is {self.action!r}: give one of {', '.join(ACTIONS)}")
        check_flag("yes", self.yes)
        # what the fleet is told is checked before anything is done to any record
        check_override(OVERRIDES.get(self.action, Override.DRAIN), self.seconds, self.weight, self.reason, self.by)

    @classmethod
    def of(cls, said: object) -> "Action":
        """From JSON. Raises InvalidArgument."""
        if not isinstance(said, dict):
            raise InvalidArgument("the body is no JSON object: send {'provider': …, 'action': …}")
        if unknown := sorted(set(said) - set(FIELDS)):
            raise InvalidArgument(f"unknown field {unknown[0]!r}: there are {', '.join(FIELDS)}")
        if missing := [name for name in ("provider", "action") if name not in said]:
            raise InvalidArgument(f"the field {missing[0]!r} is missing")
        return cls(**{**said, "by": NOBODY if said.get("by") in (None, "") else said["by"]})

    @property
    def takes_out(self) -> bool:
        """Does it keep calls away?"""
        return OVERRIDES.get(self.action) in TAKES_OUT or (self.action == WEIGHT and self.weight == 0)


def act(action: Action, opened: Callable[[str], Operator]) -> list[str]:
    """Carry it out, by the operator that `opened` makes for who acts; the names of the records.

    Raises UnknownProvider, InvalidArgument, Refused, RedisUnavailable, RedisRefused.
    """
    operator = opened(action.by)
    records = operator.records(action.provider)
    if action.takes_out and not action.yes and (left := models_left_alone(operator.status(), records)):
        said = f"nobody would be left for {', '.join(left)}, so nothing was done: send yes: true where that is meant"
        raise Refused(HTTPStatus.CONFLICT, said, left_alone=left)
    name, reason = action.provider, action.reason  # `*` as that: each name is looked up among all of the fleet
    if action.action in OVERRIDES:
        word = OVERRIDES[action.action]
        operator.override(name, word, seconds=action.seconds, weight=action.weight, reason=reason)
    elif action.action == RESET:
        operator.reset(name, reason=reason)
    else:
        operator.end_override(name, reason=reason)
    if action.action == READY:
        operator.update_health(name, available=True, reason=reason)
    return records


def models_left_alone(snapshot: Snapshot, records: Iterable[str]) -> list[str]:
    """The models that only these records serve at this moment."""
    left, serving = set(records), dict[str, set[str]]()
    for name, health in snapshot.records.items():
        if name in snapshot.specs and _is_called(health, snapshot.now_ms):
            for model in snapshot.specs[name].models:
                serving.setdefault(model, set()).add(name)
    for_any = serving.get(ANY_MODEL, set()) - left
    return sorted(model for model, names in serving.items() if names <= left and not for_any)


def _is_called(health: ProviderHealth, now_ms: int) -> bool:
    seen = acting(health, now_ms)
    return seen.available and seen.weight > 0 and seen.circuit_state is CircuitState.CLOSED


def as_said(action: Action) -> dict[str, Any]:
    """What is told of it afterwards."""
    return {"action": action.action, "by": action.by, "reason": action.reason}
