"""What the webhook is told: the entries of the providers' logs as a message, for people and for programs. Pure."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from redis_router.circuit.machine import OPEN
from redis_router.circuit.overrides import FOR_EVER_MS, LETS_IN
from redis_router.circuit.record import ProviderHealth
from redis_router.operate.words import printable
from redis_router.store.messages import LoggedEvent, changed_fields

MOST_CHANGES = 100
"""Of a message. Where more wait, the last of each kind for each provider is told, and how many were left out."""
MOST_LINES = 20
"""Of its text; the providers of the others are named."""
VERSION = 1
"""Of the object; it is raised where a member changes its meaning or goes. New ones may come."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that happened to a provider, as docs/operating.md explains it member by member."""

    id: str
    provider: str
    event: str
    at_ms: int
    by: str
    from_: str
    to: str
    reason: str
    generation: int | None = None
    until_ms: int | None = None
    override: str = ""

    def as_json(self) -> dict[str, object]:
        """Its members as they are told."""
        return {name.rstrip("_"): value for name, value in asdict(self).items()} | {"text": sentence(self)}


@dataclass(frozen=True, slots=True)
class Message:
    """What is POSTed; `id` is that of its changes, so that it is the same whoever sends them, and how often."""

    id: str
    body: bytes
    changes: tuple[Change, ...]
    left_out: int


def changes_of(namespace: str, name: str, events: Iterable[LoggedEvent], health: ProviderHealth | None) -> list[Change]:
    """What is told of a provider's log; `health` is its record now, None where that is unknown."""
    found = []
    for event in events:
        key = f"{namespace}:{name}:{event.id}"
        if event.event == "transition":
            found.append(_transition(key, name, event, health))
        elif event.event in ("override", "weight_override"):
            change = _change(key, name, event, event.event)
            found.append(replace(change, until_ms=_whole(event.details.get("until_ms", "")) or None))
        elif event.event == "updated":
            found += _updated(key, name, event)
        elif event.event in ("deregistered", "reset"):
            found.append(_change(key, name, event, event.event))
    return found


def _change(key: str, name: str, event: LoggedEvent, kind: str) -> Change:
    words = event.details
    return Change(
        key, name, kind, event.at_ms, event.by, words.get("from", ""), words.get("to", ""), words.get("reason", "")
    )


def _whole(said: str) -> int | None:
    """A whole number that a record can hold; None for anything else."""
    return int(said) if said.isdecimal() and len(said) < 16 else None


def _transition(key: str, name: str, event: LoggedEvent, health: ProviderHealth | None) -> Change:
    change = _change(key, name, event, "transition")
    change = replace(change, generation=_whole(event.details.get("generation", "")))
    if health is None:
        return change
    if health.override in LETS_IN and health.override_since_ms <= event.at_ms < health.override_until_ms:
        change = replace(change, override=health.override)
    if health.circuit_state is OPEN and health.generation == change.generation:
        since = health.last_state_change_ms
        change = replace(change, until_ms=round(since + health.due_in_ms(since)))
    return change


def _updated(key: str, name: str, event: LoggedEvent) -> list[Change]:
    """Whether it is in service, and its weight, said for good; what a probe said meanwhile is no news."""
    values, found = changed_fields(event.details.get("detail", "")), []
    if "available" in values:
        words = {"1": "available", "0": "unavailable"}
        old, new = (words.get(each, each) for each in values["available"])
        why = event.details.get("reason") or values.get("unavailable_reason", ("", ""))[1]
        found.append(replace(_change(key, name, event, "availability"), from_=old, to=new, reason=why))
    if "weight" in values:
        old, new = (each.removesuffix(".0") for each in values["weight"])
        found.append(replace(_change(f"{key}:weight", name, event, "weight"), from_=old, to=new))
    return found


def compose(namespace: str, worker: str, changes: Sequence[Change]) -> Message:
    """A message of these, oldest first."""
    told = _last_ones(sorted(changes, key=lambda change: change.at_ms))
    digest = hashlib.sha256("\n".join(change.id for change in told).encode()).hexdigest()
    left_out = len(changes) - len(told)
    body = {
        "text": _text(namespace, told, left_out),
        "id": f"msg_{digest[:32]}",
        "version": VERSION,
        "namespace": namespace,
        "worker": worker,
        "left_out": left_out,
        "changes": [change.as_json() for change in told],
    }
    return Message(f"msg_{digest[:32]}", json.dumps(body).encode(), tuple(told), left_out)


def _last_ones(changes: list[Change]) -> list[Change]:
    if len(changes) <= MOST_CHANGES:
        return changes
    last = {(change.provider, change.event): change.id for change in changes}
    kept = set(last.values())
    return [change for change in changes if change.id in kept][-MOST_CHANGES:]


# For people


def sentence(change: Change) -> str:
    """What, why, until when, by whom, and when."""
    said = f"{change.provider} {_what(change)}; by {change.by or 'somebody'} at {_moment(change.at_ms)}"
    return printable(said)  # in one line: what a hand wrote into a log must not look like a change of its own


def _what(change: Change) -> str:
    why = f" ({change.reason})" if change.reason else ""
    until = f" {_until(change.until_ms)}" if change.until_ms else ""
    match change.event:
        case "transition":
            would = f"would be {change.to} but for {change.override}" if change.override else f"is {change.to}"
            trial = f", trial calls from {_moment(change.until_ms)} on" if change.until_ms else ""
            return f"{would}{why}, was {change.from_}{trial}"
        case "override":
            return f"is under {change.to}{until}{why}" if change.to else f"is no longer under {change.from_}{why}"
        case "weight_override":
            return f"has weight {change.to}{until}{why}, had {change.from_}"
        case "availability" if change.to == "available":
            return f"is back in service{why}"
        case "availability":
            return f"is out of service{why}"
        case "weight":
            return f"has weight {change.to} for good{why}, had {change.from_}"
        case "reset":
            return f"was reset{why}: it is {change.to}, was {change.from_}"
        case _:
            return f"was {change.event} for the whole fleet"


def _until(until_ms: int) -> str:
    return "for ever" if until_ms >= FOR_EVER_MS else f"until {_moment(until_ms)}"


def _moment(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(min(at_ms, FOR_EVER_MS) / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _text(namespace: str, changes: Sequence[Change], left_out: int) -> str:
    """In Slack's own escapes: nobody's reason or name becomes a link or calls a whole channel."""
    lines = [sentence(change) for change in changes[-MOST_LINES:]]
    before = list(dict.fromkeys(change.provider for change in changes[:-MOST_LINES]))
    if before:
        lines.insert(0, f"{len(changes) - MOST_LINES} before these, of {_some(before)}")
    if left_out:
        lines.insert(0, f"{left_out} older ones are left out")
    head = f"{namespace}: " if len(lines) == 1 else f"{namespace}: {len(changes)} changes\n"
    return head + "\n".join(map(_escaped, lines))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_CHANGES])


def _escaped(line: str) -> str:
    for sign, name in _ESCAPES.items():
        line = line.replace(sign, name)
    return line


_ESCAPES: Mapping[str, str] = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
"""The ampersand first, which the others bring."""
