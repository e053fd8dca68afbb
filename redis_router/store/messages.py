"""What Redis says, as values: the one place where its bytes are read.

Anybody may write into Redis, so anything may stand there. What can be read becomes a value; what cannot is refused by
name, as RedisRefused; nothing else is raised.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from redis_router.checks import check_name
from redis_router.circuit.fields import LAST_MOMENT_MS
from redis_router.circuit.record import CircuitState, NewerSchema, ProviderHealth, Transition
from redis_router.errors import InvalidArgument, RedisRefused
from redis_router.probe import Probe

LATEST_SHOWN_MS = LAST_MOMENT_MS - 2 * 86_400_000
"""Of an entry of a log: a moment that has a date in every zone, and a day after it."""


class Status(StrEnum):
    """What became of a call to the store.

    missing   there is no record      replayed  it had been done before: what it did then is told again
    fenced    by a newer leader       not_due   the time of the transition has not come
    created, joined, updated, declined          of a record that is registered: see `Store.register`
    """

    OK = "ok"
    MISSING = "missing"
    REPLAYED = "replayed"
    FENCED = "fenced"
    NOT_DUE = "not_due"
    CREATED = "created"
    JOINED = "joined"
    UPDATED = "updated"
    DECLINED = "declined"
    DEREGISTERED = "deregistered"


@dataclass(frozen=True, slots=True)
class Reply:
    """What a script did: its status, the transitions it made, the record after it (None where there is none).

    applied     counts the outcomes of a batch that were applied, now or when the batch was sent before: its last ones
    unreadable  why the record after it cannot be read; '' where it can, or there is none
    """

    status: Status
    transitions: tuple[Transition, ...]
    health: ProviderHealth | None
    applied: int = 0
    unreadable: str = ""


@dataclass(frozen=True, slots=True)
class Spec:
    """What rr:providers says of one provider.

    One that was deregistered stays there, so that no replica takes its record for lost, with the generation it had:
    a new registration begins above it, so that no replica takes the new record for an old one.

    provider     whose record it is: the name itself, or the provider's, of which it is the part for one model
    at_ms        when it was deregistered, ms since the epoch; 0 where that is unknown
    """

    models: tuple[str, ...] = ()
    probe: Probe | None = None
    provider: str = ""
    deregistered: bool = False
    generation: int = 0
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An entry of a provider's log: what happened, when (ms on Redis's clock), who did it, and the details.

    `id` is its own in that log: later entries have higher ones.
    """

    at_ms: int
    event: str
    by: str
    details: Mapping[str, str]
    id: str = ""


def changed_fields(detail: str) -> dict[str, tuple[str, str]]:
    """Of an `updated` entry's detail, `weight 1>0.5 available 1>0`: field -> its old and its new value."""
    return {name: (old, new) for name, old, new in re.findall(r"(?:^| )(\w+) (\S*)>(\S*)", detail)}


@dataclass(frozen=True, slots=True)
class Leader:
    """Who holds the worker lease. `remaining_ms` was right when it was read; 0 or less: nobody holds it."""

    worker: str
    epoch: int
    since_ms: int
    until_ms: int
    remaining_ms: int


@dataclass(frozen=True, slots=True)
class Event:
    """One push: `kind` is transition, averages, cooling, updated, registered, restored, deregistered,
    elected, resigned."""

    kind: str
    provider: str
    by: str
    health: ProviderHealth | None


NOT_OURS = "is it a Redis server, and does nothing between change what it says?"


@contextmanager
def reading(what: str, remedy: str) -> Iterator[None]:
    """Turns whatever goes wrong while `what` is read into a refusal that names it."""
    try:
        yield
    except RedisRefused:
        raise
    except NewerSchema as error:  # nothing is wrong with it
        raise RedisRefused(f"{what} cannot be used ({error}): update this process") from error
    except Exception as error:  # a RecursionError, too: JSON may be nested as deep as it likes
        why = str(error) if isinstance(error, InvalidArgument) else f"{type(error).__name__}: {error}"
        raise RedisRefused(f"{what} cannot be used ({why[:200]}): {remedy}") from error


def text(value: Any) -> str:
    """What is no UTF-8 is replaced: it is not ours, and no name or word of ours is hit by it."""
    return value.decode(errors="replace") if type(value) is bytes else str(value)


def pairs(raw: Any) -> dict[str, str]:
    """A flat array of names and values, or a mapping, as text."""
    if isinstance(raw, Mapping):
        return {text(name): text(value) for name, value in raw.items()}
    texts = [text(value) for value in raw]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def health(provider: str, fields: Any) -> ProviderHealth:
    """A record, from its fields and values. Raises RedisRefused."""
    with reading(f"the record of provider {provider!r} in Redis", "delete it to start anew, or put the field right"):
        return ProviderHealth.from_fields(provider, pairs(fields))


def reply(provider: str, raw: Any) -> Reply:
    """What a script on a record answered. Raises RedisRefused."""
    with reading(f"what Redis answered about provider {provider!r}", NOT_OURS):
        word, transitions, applied = map(text, raw[:3])
        status = Status(word)
        told = tuple(_transition(provider, *line.split()) for line in transitions.split(";") if line)
        count = int(applied)
    if len(raw) <= 3:
        return Reply(status, told, None, count)
    try:
        return Reply(status, told, health(provider, raw[3:]), count)
    except RedisRefused as error:
        return Reply(status, told, None, count, unreadable=str(error))


def _transition(provider: str, from_state: str, to_state: str, reason: str, generation: str) -> Transition:
    return Transition(provider, CircuitState(from_state), CircuitState(to_state), reason, int(generation))


def logged(entry: Any) -> LoggedEvent:
    """One entry of a provider's log. Raises RedisRefused."""
    with reading("an entry of a provider's log in Redis", "XDEL it"):
        number, fields = entry
        found = {text(name): text(value) for name, value in fields.items()}
        # whoever writes an id by hand may write any; those that follow it by themselves are as far ahead
        at_ms = min(int(text(number).partition("-")[0]), LATEST_SHOWN_MS)
        return LoggedEvent(at_ms, found.pop("event", ""), found.pop("by", ""), found, text(number))


def readable(entries: Iterable[Any]) -> list[LoggedEvent]:
    """Of a provider's log, newest first as Redis gives it: those that can be read, oldest first."""
    found = []
    for entry in entries:
        with suppress(RedisRefused):
            found.append(logged(entry))
    return found[::-1]


def leader(raw: Sequence[Any]) -> Leader:
    """Who leads. Raises RedisRefused."""
    with reading("the worker lease in Redis", "delete its key to start anew"):
        worker, epoch, since_ms, until_ms, remaining_ms = map(text, raw)
        return Leader(worker, int(epoch), int(since_ms), int(until_ms), int(remaining_ms))


def name(said: str) -> str:
    """The name of an entry of rr:providers. Raises RedisRefused."""
    with reading(f"the entry {said[:64]!r} of rr:providers", "HDEL it"):
        return check_name("its name", said)


def spec(provider: str, said: str) -> Spec:
    """What stands in rr:providers. Where that is not ours, the record still counts, without models and probe."""
    try:
        found = json.loads(said)
        if found.get("deregistered"):
            return Spec(deregistered=True, generation=int(found.get("generation", 0)), at_ms=int(found.get("at_ms", 0)))
        models = tuple(found["models"])
        if not all(isinstance(model, str) for model in models):
            return Spec(provider=provider)
        whole, _, model = provider.partition("/")
        was_part = "provider" not in found and models == (model,)  # written by an older version
        owner = found.get("provider", whole if was_part else provider)
        return Spec(models, _probe(found.get("probe")), _owner(owner, provider))
    except Exception:
        return Spec(provider=provider)  # written by hand or another version


def _owner(said: object, provider: str) -> str:
    """People type it, and shells complete it: what is no name is not it."""
    try:
        return check_name("its provider", said)
    except InvalidArgument:
        return provider


def _probe(said: Any) -> Probe | None:
    """One that cannot be understood is none; the rest of the spec counts."""
    try:
        return None if said is None else Probe.from_json(said)
    except (InvalidArgument, TypeError, KeyError):
        return None


def event(data: Any) -> Event | None:
    """A push; None for what is not ours, or of another version: the next refresh brings what it said."""
    try:
        said = json.loads(text(data))
        provider, kind = said.get("provider", ""), said["event"]
        has_record = "health" in said or kind == "transition"
        record = ProviderHealth.from_fields(provider, said["health"]) if has_record else None
        by = said.get("by", "")
        return Event(kind, provider, by, record) if all(isinstance(w, str) for w in (kind, provider, by)) else None
    except Exception:
        return None
