"""`redis-router events`: what happened to the providers, and who did what to them and why."""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime

from redis_router.cli.arguments import Commands, duration, of_redis
from redis_router.cli.terminal import printable, say
from redis_router.errors import UnknownProvider
from redis_router.overriding import ALL, Operator
from redis_router.store.messages import LoggedEvent

LOOK_SECONDS = 0.5
REST = 4.0
"""So many times as long as a look took nobody looks again: of a thousand providers each has a log."""
LOOKS_BACK = 60.0
"""Seconds, of those that follow."""


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
        told = _all(operator, arguments.providers, arguments.since)
        for record, event in told:
            say(show(record, event))
        seen = _seen(told)
        while arguments.follow:
            began = time.monotonic()
            # of those that were registered meanwhile, too
            lately = _all(operator, arguments.providers, since=LOOKS_BACK)
            for record, event in lately:
                if _number(event) > seen.get(record, NONE):
                    say(show(record, event))
            seen |= _seen(lately)
            time.sleep(max(LOOK_SECONDS, REST * (time.monotonic() - began)))
    return 0


Told = tuple[str, LoggedEvent]


def _all(operator: Operator, names: Sequence[str], since: float | None) -> list[Told]:
    """Of these, or of all where none is named; raises UnknownProvider for a name that is none's."""
    try:
        logs = {name: each for asked in names or [ALL] for name, each in operator.logs(asked, since=since).items()}
    except UnknownProvider:
        if names:
            raise
        return []  # nobody is registered yet
    return sorted(((name, event) for name, log in logs.items() for event in log), key=lambda each: each[1].at_ms)


NONE = (0, 0)


def _seen(told: Sequence[Told]) -> dict[str, tuple[int, int]]:
    """The last entry of each log."""
    return {record: _number(event) for record, event in told}


def _number(event: LoggedEvent) -> tuple[int, int]:
    """Later entries of a log have higher ones."""
    at_ms, _, place = event.id.partition("-")
    return int(at_ms), int(place or 0)


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
