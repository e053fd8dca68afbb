"""What somebody on call says for the whole fleet: `redis-router drain`, `open`, `close`, `observe`, `weight` …

Each is an override of `redis_router.overriding`, with a time, a reason and who said so. `ready` ends what was said;
`reset` has the rules begin anew.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence

from redis_router.circuit.overrides import HOUR_SECONDS, TAKES_OUT, Override
from redis_router.circuit.record import ProviderHealth, TakenOutBy
from redis_router.cli.arguments import Commands, by_operator, duration, of_redis, opened_operator
from redis_router.cli.terminal import confirm, lasted, printable, say
from redis_router.cli.waiting import wait
from redis_router.errors import InvalidArgument
from redis_router.operate.actions import models_left_alone
from redis_router.operate.words import available
from redis_router.overriding import ALL, Operator
from redis_router.runtime.names import operator_name
from redis_router.store.contract import Snapshot

MOST_NAMED = 8
WAIT_SECONDS = 600.0
STILL_BUSY = 3
"""The exit code of `drain --wait` where calls were under way to the end."""
WORDS: Mapping[str, tuple[Override, str]] = {
    "drain": (Override.DRAIN, "no new calls to a provider; those under way end"),
    "open": (Override.FORCE_OPEN, "no new calls, as an emergency"),
    "close": (Override.FORCE_CLOSED, "let calls through, whatever circuit and probe say"),
    "observe": (Override.OBSERVE, "let calls through, and tell what the rules would do"),
}


def add(commands: Commands) -> None:
    """Declare the commands."""
    for name, (word, text) in WORDS.items():
        command = _command(commands, name, text)
        command.set_defaults(run=_override, word=word, weight=None)
        if name == "drain":
            command.add_argument("--wait", action="store_true", help="wait until no call is under way there, too")
            command.add_argument(
                "--timeout",
                type=duration,
                metavar="TIME",
                help="how long --wait waits at most (default: 10m)",
            )
    weight = _command(commands, "weight", "give a provider another weight for a time")
    weight.add_argument(
        "--to", dest="weight", type=float, required=True, metavar="W", help="the weight, such as 0.2; 0: no calls"
    )
    weight.set_defaults(run=_override, word="weight")
    ready = _command(
        commands, "ready", "end what operators said of a provider, and put it back in service", lasts=False
    )
    ready.set_defaults(run=_ready)
    reset = _command(commands, "reset", "close the circuit, and forget what calls taught of a provider", lasts=False)
    reset.add_argument("--yes", action="store_true", help="do not ask where several are meant")
    reset.set_defaults(run=_reset)


def _command(commands: Commands, name: str, text: str, *, lasts: bool = True) -> argparse.ArgumentParser:
    command = commands.add_parser(name, parents=[of_redis(), by_operator()], help=text)
    command.add_argument("providers", nargs="+", metavar="PROVIDER", help="a provider, provider/model, or '*' for all")
    command.add_argument("--json", action="store_true", help="the records afterwards, as JSON")
    if lasts:
        how_long = command.add_mutually_exclusive_group()
        how_long.add_argument(
            "--for",
            dest="seconds",
            type=duration,
            default=HOUR_SECONDS,
            metavar="TIME",
            help="how long, such as 90s, 30m or 2h (default: 1h)",
        )
        how_long.add_argument(
            "--for-ever",
            dest="seconds",
            action="store_const",
            const=None,
            help="without an end: until `redis-router ready`",
        )
        command.add_argument("--yes", action="store_true", help="do not ask where a model is left without a provider")
    return command


def _override(arguments: argparse.Namespace) -> int:
    """Exit code 0; 3 where calls are still under way after `drain --wait`."""
    waits, timeout = getattr(arguments, "wait", False), getattr(arguments, "timeout", None)
    if timeout is not None and not waits:
        raise InvalidArgument("--timeout is for --wait: give both, or neither")
    with opened_operator(arguments, arguments.by or operator_name()) as operator:
        records = _records(operator, arguments.providers)
        if arguments.word in TAKES_OUT or arguments.weight == 0:
            _ask(operator.status(), records, is_meant=arguments.yes)
        for name in _asked(arguments):
            operator.override(
                name, arguments.word, seconds=arguments.seconds, weight=arguments.weight, reason=arguments.reason
            )
        is_done = wait(operator, records, WAIT_SECONDS if timeout is None else timeout) if waits else True
        _tell(operator.status(), records, as_json=arguments.json)
    return 0 if is_done else STILL_BUSY


def _ready(arguments: argparse.Namespace) -> int:
    """Exit code 0."""
    with opened_operator(arguments, arguments.by or operator_name()) as operator:
        records = _records(operator, arguments.providers)
        before = operator.status()
        for name in _asked(arguments):
            operator.end_override(name, reason=arguments.reason)
            operator.update_health(name, available=True, reason=arguments.reason)
        after = operator.status()
        if arguments.json:
            _tell(after, records, as_json=True)
    for record in () if arguments.json else records:
        say(printable(f"{record}: {_ended(before, record)}; the rules decide: {_available(after, record)}"))
    return 0


def _ended(before: Snapshot, record: str) -> str:
    """What stood in the way of the rules: drain, rate limit ended."""
    if record not in before.records:
        return "no override"
    health, now_ms = before.records[record], before.now_ms
    said = {
        str(health.override): health.override_until_ms > now_ms,
        f"weight {health.weight_override:g}": health.weight_override_until_ms > now_ms,
        "out of service": health.unavailable_reason == TakenOutBy.OPERATOR,
        "rate limit": health.cooling_for_ms(now_ms) > 0,
    }
    ended = ", ".join(word for word, is_said in said.items() if is_said)
    return f"{ended} ended" if ended else "no override"


def _available(after: Snapshot, record: str) -> str:
    """Do calls go there now? As `redis-router status` has it."""
    if record not in after.records:
        return "no record"
    said = available(after.records[record], after.now_ms)
    return "calls flow" if said == "yes" else said


def _reset(arguments: argparse.Namespace) -> int:
    """Exit code 0."""
    with opened_operator(arguments, arguments.by or operator_name()) as operator:
        records = _records(operator, arguments.providers)
        if len(records) > 1:
            confirm(f"what calls taught would be forgotten of {_named(records)}", is_meant=arguments.yes)
        for name in _asked(arguments):
            operator.reset(name, reason=arguments.reason)
        if arguments.json:
            _tell(operator.status(), records, as_json=True)
    for record in () if arguments.json else records:
        say(printable(f"{record}: circuit closed; what calls taught is forgotten"))
    return 0


def _named(records: Sequence[str]) -> str:
    more = f" and {len(records) - MOST_NAMED} more" if len(records) > MOST_NAMED else ""
    return f"{', '.join(records[:MOST_NAMED])}{more}"


def _asked(arguments: argparse.Namespace) -> list[str]:
    """As they were typed, each once: `*` is looked up once, and not each of a thousand records among all."""
    names: list[str] = arguments.providers
    return [ALL] if ALL in names else list(dict.fromkeys(names))


def _records(operator: Operator, names: Iterable[str]) -> list[str]:
    """All that is meant, before anything is done to any. Raises UnknownProvider."""
    return list(dict.fromkeys(record for name in names for record in operator.records(name)))


def _ask(snapshot: Snapshot, records: Iterable[str], *, is_meant: bool) -> None:
    """Raises RouterError where a model would be left without a provider, and nobody said that it is meant."""
    if left := models_left_alone(snapshot, records):
        confirm(f"nobody would be left for {', '.join(left)}", is_meant=is_meant)


def _tell(snapshot: Snapshot, records: Iterable[str], *, as_json: bool) -> None:
    found = [snapshot.records[name] for name in records if name in snapshot.records]
    if as_json:
        say(json.dumps([_as_json(health, snapshot.now_ms) for health in found], indent=2))
        return
    for health in found:
        said = _said(health.override, health.override_until_ms, health.override_by, snapshot.now_ms)
        weight = f"weight {health.weight_override:g}" if health.weight_override_until_ms else ""
        weight = _said(weight, health.weight_override_until_ms, health.weight_override_by, snapshot.now_ms)
        words = ", ".join(each for each in (said, weight) if each) or "no override; the rules decide"
        say(printable(f"{health.name}: {words}"))


def _said(word: str, until_ms: int, by: str, now_ms: int) -> str:
    if not word:
        return ""
    left = until_ms - now_ms
    return f"{word} by {by}, " + ("for ever" if left > 100 * 365 * 86_400_000 else f"for {lasted(left)}")


def _as_json(health: ProviderHealth, now_ms: int) -> dict[str, object]:
    return {"provider": health.name, "now_ms": now_ms} | {name: getattr(health, name) for name in _SHOWN}


_SHOWN = (
    "override",
    "override_until_ms",
    "override_by",
    "override_reason",
    "weight_override",
    "weight_override_until_ms",
    "weight_override_by",
    "weight_override_reason",
    "available",
    "circuit_state",
    "in_flight",
)
