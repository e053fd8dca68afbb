"""`redis-router purge`: what nobody uses any more in a namespace, and taking it away."""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from redis_router.cli.arguments import Commands, duration, of_redis, opened_store
from redis_router.cli.terminal import complain, lasted, printable, say
from redis_router.store.contract import Snapshot, Store

OURS = r"(providers|seen|replicas|\{leader\}(:told)?|\{.+\}:(health|permits|reporters|in_flight|events|seq:.+))"
"""A key of ours, behind the namespace and a colon."""
LEAST_UNUSED_MS = 900_000
"""Replicas say every five minutes what they serve: who was silent for less is not gone."""


def add(commands: Commands) -> None:
    """Declare the command."""
    purge = commands.add_parser("purge", parents=[of_redis()], help="list, and remove, what no replica uses any more")
    purge.add_argument(
        "--unused-for", type=_unused_for, default="7d", metavar="TIME", help="such as 12h or 7d (default: 7d)"
    )
    purge.add_argument("--all", action="store_true", help="every key of the namespace: to uninstall")
    purge.add_argument("--yes", action="store_true", help="remove what is listed")
    purge.add_argument("--json", action="store_true", help="what is listed, as JSON")
    purge.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0."""
    with opened_store(arguments) as store:
        if arguments.all:
            for line in in_use(store):
                complain(f"{printable(line)}: stop it first, or what is removed comes back")
            keys = all_keys(store)
            if arguments.json:
                say(json.dumps({"removed": arguments.yes, "keys": keys}, indent=2))
            else:
                _list(keys, arguments.yes)
            store.delete(keys if arguments.yes else ())
            return 0
        found = leftovers(store, arguments.unused_for * 1000)
        if arguments.json:
            say(json.dumps({"removed": arguments.yes, "unused": [asdict(each) for each in found]}, indent=2))
        else:
            _list([str(leftover) for leftover in found], arguments.yes)
        for leftover in found if arguments.yes else ():
            remove(store, leftover)
        return 0


def _list(lines: Sequence[str], removes: bool) -> None:
    say("\n".join(map(printable, lines)) or "nothing to remove")
    if lines:
        say(f"removing {len(lines)}" if removes else f"{len(lines)} to remove: once more with --yes")


def _unused_for(text: str) -> float:
    seconds = duration(text)
    if seconds * 1000 < LEAST_UNUSED_MS:
        raise argparse.ArgumentTypeError(f"{text} is too short: replicas say every five minutes what they serve; 15m")
    return seconds


@dataclass(frozen=True, slots=True)
class Leftover:
    """A provider's record that no replica serves, or the tombstone of one that was deregistered, and for how long."""

    provider: str
    deregistered: bool
    unused_ms: float

    def __str__(self) -> str:
        what = "deregistered" if self.deregistered else "registered by no replica"
        return f"{self.provider}: {what} for {lasted(self.unused_ms, days='days')}"


def leftovers(store: Store, unused_ms: float) -> list[Leftover]:
    """What was not used for so long. Raises RedisUnavailable or RedisRefused."""
    snapshot, seen = store.snapshot(), store.last_seen()
    found = [Leftover(name, False, _ms_unused(store, name, snapshot, seen)) for name in snapshot.specs]
    found += [Leftover(name, True, snapshot.now_ms - at_ms) for name, at_ms in snapshot.deregistered.items()]
    return sorted((each for each in found if each.unused_ms >= unused_ms), key=lambda each: each.provider)


def in_use(store: Store) -> list[str]:
    """A line for each provider that a replica served not long ago. Raises RedisUnavailable or RedisRefused."""
    (now_ms, _), seen = store.leader(), store.last_seen()
    ages = {name: now_ms - at_ms for name, at_ms in sorted(seen.items())}
    return [f"{name}: a replica served it {lasted(age)} ago" for name, age in ages.items() if age < LEAST_UNUSED_MS]


def _ms_unused(store: Store, name: str, snapshot: Snapshot, seen: dict[str, int]) -> float:
    """Since a replica said that it serves it; those of an older version do not: since anything happened to it."""
    health = snapshot.records.get(name)
    used = max(seen.get(name, 0), health.last_result_ms if health is not None else 0) or store.last_event_ms(name)
    return snapshot.now_ms - used


def remove(store: Store, leftover: Leftover) -> None:
    """Take it away; its log of events stays for a week. Raises RedisUnavailable or RedisRefused.

    Its tombstone stays until a later purge: a replica that was silent must not bring it back.
    """
    if leftover.deregistered:
        store.forget(leftover.provider)
    else:
        store.deregister(leftover.provider)


def all_keys(store: Store) -> list[str]:
    """Every key of the namespace. Raises RedisUnavailable or RedisRefused."""
    ours = re.compile(re.escape(f"{store.keys.namespace}:") + OURS)
    return sorted(key for key in store.scan() if ours.fullmatch(key))
