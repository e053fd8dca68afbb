"""`redis-router config show|diff|apply`: the fleet's thresholds and weights as a file that people keep in git."""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from redis_router.cli import settings
from redis_router.cli.arguments import Commands, Described, by_operator, of_redis, opened_operator
from redis_router.cli.settings import Difference, Settings
from redis_router.cli.terminal import complain, confirm, counted, printable, say
from redis_router.errors import InvalidArgument, RedisRefused, RouterError, UnknownProvider
from redis_router.overriding import ALL, Operator
from redis_router.runtime.names import operator_name
from redis_router.store.contract import Snapshot

DIFFERS = 1
"""The exit code of `config diff` where something would change."""


def add(commands: Commands) -> None:
    """Declare the command."""
    config = commands.add_parser("config", help="thresholds and weights as a file: show, diff, apply")
    verbs = Described(config.add_subparsers(required=True, metavar="show|diff|apply"))
    show = verbs.add_parser("show", parents=[of_redis()], help="print the file of what is in force")
    show.add_argument("providers", nargs="*", metavar="PROVIDER", help="a provider or provider/model (default: all)")
    show.add_argument("--all", action="store_true", help="every threshold, not only what differs from a preset")
    show.add_argument("--json", action="store_true", help="the same as JSON")
    show.set_defaults(run=_show)
    diff = verbs.add_parser("diff", parents=[of_redis()], help="say what a file would change; exit code 1 for anything")
    diff.set_defaults(run=_diff)
    apply = verbs.add_parser("apply", parents=[of_redis(), by_operator()], help="show the differences, ask, change")
    apply.add_argument("--yes", action="store_true", help="do not ask")
    apply.set_defaults(run=_apply)
    for command in (diff, apply):
        command.add_argument("file", metavar="FILE", help="as `config show` prints it; - for the standard input")
        command.add_argument("--json", action="store_true", help="the differences as JSON")


@dataclass(frozen=True, slots=True)
class Change:
    """What a file asks of one record."""

    record: str
    old: Settings
    new: Settings

    @property
    def differences(self) -> list[Difference]:
        """Setting by setting."""
        return settings.differences(self.record, self.old, self.new)


def _show(arguments: argparse.Namespace) -> int:
    """Exit code 0, or 1 where a record cannot be read."""
    with opened_operator(arguments) as operator:
        snapshot = operator.status()
        wanted = _records(operator, snapshot, arguments.providers)
    found = {name: _settings(snapshot, name) for name in wanted if name in snapshot.records}
    tables = {name: settings.shown(each, whole=arguments.all) for name, each in found.items()}
    say(json.dumps(tables, indent=2) if arguments.json else settings.written(tables))
    unreadable = [str(snapshot.unreadable[name]) for name in wanted if name in snapshot.unreadable]
    for why in unreadable:
        complain(printable(why))
    return 1 if unreadable else 0


def _records(operator: Operator, snapshot: Snapshot, names: Iterable[str]) -> list[str]:
    asked = list(names)
    return sorted({record for name in asked for record in operator.records(name)} if asked else snapshot.specs)


def _diff(arguments: argparse.Namespace) -> int:
    """Exit code 0 where nothing would change, 1 where something would."""
    with opened_operator(arguments) as operator:
        found = _differences(_changes(operator, _asked(arguments.file)))
    _tell(found, as_json=arguments.json)
    return DIFFERS if found else 0


def _apply(arguments: argparse.Namespace) -> int:
    """Exit code 0."""
    with opened_operator(arguments, arguments.by or operator_name()) as operator:
        asked = _asked(arguments.file)
        changes = _changes(operator, asked)
        found = _differences(changes)
        _tell(found, as_json=arguments.json)
        if found:
            confirm(f"{counted(len(found), 'setting')} would change", is_meant=arguments.yes)
            _check_same(changes, _changes(operator, asked))
        for change in changes:
            if change.old.config != change.new.config:
                operator.set_circuit_config(change.new.config, change.record, reason=arguments.reason)
            if change.old.weight != change.new.weight:
                operator.update_health(change.record, weight=change.new.weight, reason=arguments.reason)
    return 0


def _check_same(seen: Iterable[Change], now: Iterable[Change]) -> None:
    """While somebody thought about it, another one may have changed a setting: it would be undone unseen."""
    before = {change.record: change for change in seen}
    if others := [change.record for change in now if before.pop(change.record, None) != change] + list(before):
        raise RouterError(f"{', '.join(others)}: changed meanwhile, so nothing was done: look at the differences again")


def _tell(found: Sequence[Difference], *, as_json: bool) -> None:
    if as_json:
        say(json.dumps([asdict(each) for each in found], indent=2))
    else:
        say(printable("\n".join(map(str, found)), keep="\n") or "nothing to change")


def _differences(changes: Iterable[Change]) -> list[Difference]:
    return [difference for change in changes for difference in change.differences]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a file has, what of it is wrong, and how messages call it."""

    tables: Mapping[str, settings.Table]
    wrong: Sequence[str]
    shown: str


def _asked(file: str) -> Asked:
    shown = "the standard input" if file == "-" else file
    try:
        tables, wrong = settings.read(_text(file))
        return Asked(tables, wrong, shown)
    except InvalidArgument as error:
        raise _nothing_done(shown, error) from None


def _changes(operator: Operator, asked: Asked) -> list[Change]:
    """What the file asks of the records as they are; none of it, with all that is wrong, where anything is."""
    try:
        return _checked(operator, asked.tables, asked.wrong)
    except (InvalidArgument, UnknownProvider) as error:
        raise _nothing_done(asked.shown, error) from None


def _nothing_done(shown: str, error: RouterError) -> InvalidArgument:
    lines = "\n".join(f"{shown}: {line}" for line in str(error).splitlines())
    return InvalidArgument(f"{lines}\nso nothing was done")


def _checked(operator: Operator, tables: Mapping[str, settings.Table], wrong: Sequence[str]) -> list[Change]:
    """`wrong` is what was found before; all of it is told at once."""
    snapshot, wrong = operator.status(), [*wrong]
    for name in tables:
        try:
            if name == ALL:
                raise InvalidArgument(f"{ALL!r} names no provider: give each a table of its own")
            operator.records(name)
        except (InvalidArgument, UnknownProvider) as error:
            wrong.append(str(error))
    meant = settings.tables_of(tables, [(record, spec.provider) for record, spec in snapshot.specs.items()])
    changes = []
    for record, table in sorted(meant.items()):
        old = _settings(snapshot, record)
        try:
            changes.append(Change(record, old, settings.wanted(table, old)))
        except InvalidArgument as error:
            wrong.append(f"provider {record!r}: {error}")
    if wrong:
        raise InvalidArgument("\n".join(wrong))
    return changes


def _settings(snapshot: Snapshot, record: str) -> Settings:
    """Raises RedisRefused where the record is not there or cannot be read."""
    if record in snapshot.unreadable:
        raise snapshot.unreadable[record]
    if record not in snapshot.records:
        raise RedisRefused(f"provider {record!r} has no record in Redis: a router that serves it writes one")
    health = snapshot.records[record]
    return Settings(health.config, health.weight)


def _text(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode()
    except OSError as error:
        raise RouterError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidArgument("this is no UTF-8: save it as UTF-8") from None
