"""`redis-router events`: what happened to the providers, and who did what to them and why."""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime

from redis_router.circuit.overrides import FOR_EVER_MS
from redis_router.cli.arguments import Commands, duration, of_redis, opened_operator
from redis_router.cli.terminal import EndedBySignals, printable, say
from redis_router.errors import UnknownProvider
from redis_router.overriding import ALL, Operator
from redis_router.store.messages import LoggedEvent, changed_fields

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
    with EndedBySignals() as signals, opened_operator(arguments) as operator:
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
            signals.rest(max(LOOK_SECONDS, REST * (time.monotonic() - began)))
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
    """In words, and who did it: drain until 2026-11-27 04:15:36 (slow since noon)  by alice."""
    return f"{_happened(event, details)}  by {by or '?'}"


def _happened(event: str, details: Mapping[str, str]) -> str:
    was, now = details.get("from", ""), details.get("to", "")
    why = f" ({details['reason']})" if details.get("reason") else ""
    match event:
        case "transition":
            return f"circuit {was} -> {now}{why}"
        case "override" if not now:
            return f"{was or 'override'} ended{why}"
        case "override":
            return f"{now}{_until(details)}{why}" + (f", was {was}" if was else "")
        case "weight_override":
            return f"weight {was} -> {now}{_until(details)}{why}"
        case "cooling":
            return f"rate limited for {_seconds(details.get('detail', ''))}"
        case "updated":
            return f"{_fields(details.get('detail', ''))}{why}"
    named = {name: text for name, text in details.items() if text and name not in _WORDED}
    others = "".join(f" {name}={text}" for name, text in named.items())
    moved = f" {was or 'none'} -> {now or 'none'}" if was or now else ""
    detail = f" {details['detail']}" if details.get("detail") else ""
    return f"{event}{moved}{detail}{others}{why}"


def _fields(detail: str) -> str:
    """Which fields changed: available 1>0 unavailable_reason >probe is told as: out of service, probe."""
    fields, said = changed_fields(detail), []
    _, by = fields.pop("unavailable_reason", ("", ""))
    for name, (old, new) in fields.items():
        if name == "available":
            said.append("back in service" if new == "1" else f"out of service, {by or 'somebody'}")
        elif name == "cooldown_until_ms" and new == "0":
            said.append("rate limit ended")
        else:
            said.append(f"{name} {old or 'none'} -> {new or 'none'}")
    return ", ".join(said) or f"updated {detail}".rstrip()


def _seconds(detail: str) -> str:
    ms = detail.partition(" ")[0]
    return f"{int(ms) / 1000:.0f} s" if ms.isdecimal() else detail


_WORDED = ("from", "to", "until_ms", "reason", "detail")


def _until(details: Mapping[str, str]) -> str:
    """As the time of the event, of this machine's zone."""
    until_ms = int(details.get("until_ms") or 0)
    if not until_ms:
        return ""
    return " for ever" if until_ms >= FOR_EVER_MS else f" until {datetime.fromtimestamp(until_ms / 1000):%F %T}"
