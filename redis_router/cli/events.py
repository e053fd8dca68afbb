"""`redis-router events`: what happened to the providers, and who did what to them and why."""

import argparse
import json
import time
from collections.abc import Iterable, Mapping
from datetime import datetime

from redis_router.cli.arguments import Commands, duration, of_redis
from redis_router.cli.terminal import printable, say
from redis_router.overriding import ALL, Operator
from redis_router.store.messages import LoggedEvent

LOOK_SECONDS = 0.5


def add(commands: Commands) -> None:
    """Declare the command."""
    events = commands.add_parser("events", parents=[of_redis()], help="show what happened, and who did it")
    events.add_argument(
        "providers",
        nargs="*",
        metavar="PROVIDER",
        help="a provider or provider/model, also of one that was deregistered (default: all)",
    )
    events.add_argument(
        "--since", type=duration, metavar="TIME", help="how long ago, such as 2h (default: all that is kept)"
    )
    events.add_argument("--follow", action="store_true", help="go on with what happens from now on, until Ctrl-C")
    events.add_argument("--json", action="store_true", help="a JSON object a line")
    events.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0."""
    show = _as_json if arguments.json else _as_line
    with Operator(arguments.redis, arguments.namespace) as operator:
        records = _records(operator, arguments.providers)
        told = _all(operator, records, arguments.since)
        for event in told:
            say(show(*event))
        seen = set(map(_key, told))
        while arguments.follow:
            time.sleep(LOOK_SECONDS)
            records = _records(operator, arguments.providers)  # those that were registered meanwhile, too
            new = [event for event in _all(operator, records, since=60.0) if _key(event) not in seen]
            for event in new:
                say(show(*event))
            seen.update(map(_key, new))
    return 0


Told = tuple[str, LoggedEvent]


def _records(operator: Operator, names: Iterable[str]) -> list[str]:
    asked = list(names) or ([ALL] if operator.status().specs else [])
    return list(dict.fromkeys(record for name in asked for record in operator.records(name, deregistered=True)))


def _all(operator: Operator, records: Iterable[str], since: float | None) -> list[Told]:
    found = [(record, event) for record in records for event in operator.events(record, since=since)]
    return sorted(found, key=lambda each: each[1].at_ms)


def _key(told: Told) -> tuple[object, ...]:
    record, event = told
    return record, event.at_ms, event.event, event.by, tuple(event.details.items())


def _as_json(record: str, event: LoggedEvent) -> str:
    return json.dumps({"provider": record, "at_ms": event.at_ms, "event": event.event, "by": event.by, **event.details})


def _as_line(record: str, event: LoggedEvent) -> str:
    """The time is of this machine's zone."""
    at = datetime.fromtimestamp(event.at_ms / 1000).astimezone().isoformat(sep=" ", timespec="seconds")
    return printable(f"{at}  {record}  {change(event.event, event.by, event.details)}")


def change(event: str, by: str, details: Mapping[str, str]) -> str:
    """In words: from, to; the rest of the details by name; and who did it."""
    was, now = details.get("from"), details.get("to")
    moved = "" if was is None else f" {was or 'none'} -> {now or 'none'}"
    others = {name: text for name, text in details.items() if text and name not in ("from", "to", "until_ms")}
    rest = "".join(f" {name}={text}" for name, text in others.items())
    return f"{event}{moved}{rest}  by {by or '?'}"
