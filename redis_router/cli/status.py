"""`redis-router status`: one look at the shared records, or a full account of some, in words or as JSON."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from redis_router.circuit.record import ProviderHealth
from redis_router.cli.arguments import Commands, of_redis, opened_store
from redis_router.cli.terminal import columns, printable, say
from redis_router.operate import facts, fleet, words
from redis_router.operate.account import Account
from redis_router.overriding import names_in_fleet
from redis_router.replicas import Replica, compared, presences
from redis_router.store.contract import Snapshot
from redis_router.store.messages import Spec

_HEAD = (
    "PROVIDER",
    "CIRCUIT",
    "SINCE",
    "REASON",
    "NEXT TRY",
    "AVAILABLE",
    "PROBE",
    "LAST FAILURE",
    "LATENCY",
    "FAILURES",
    "CALLS",
    "WEIGHT",
    "MODELS",
)


def add(commands: Commands) -> None:
    """Declare the command."""
    status = commands.add_parser("status", parents=[of_redis()], help="show every provider's circuit, and who leads")
    status.add_argument("providers", nargs="*", metavar="PROVIDER", help="a full account of these; provider/model, too")
    status.add_argument("--json", action="store_true", help="all fields, as JSON")
    status.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0, or 1 where a record cannot be read."""
    with opened_store(arguments) as store:
        asked = dict.fromkeys(record for name in arguments.providers for record in names_in_fleet(store, name))
        said = presences(store)
        snapshot = store.snapshot(asked or None)
        found = None if said is None else compared(said, snapshot)
        accounts = {
            name: Account.of(name, snapshot, store.surroundings(name), found)
            for name in asked
            if name in snapshot.records
        }
    if arguments.json:
        say(as_json(snapshot, found, accounts))
    elif asked:
        say(as_accounts(snapshot, accounts, list(asked)))
    else:
        say(as_table(snapshot, found))
    return 1 if snapshot.unreadable else 0


def as_json(snapshot: Snapshot, found: Sequence[Replica] | None, accounts: Mapping[str, Account]) -> str:
    """Every field of every record, the leader, and how many replicas differ; and the accounts that were asked for."""
    providers = {name: _record(snapshot, health) for name, health in sorted(snapshot.records.items())}
    for name, account in accounts.items():
        providers[name]["account"] = account.facts
    leads = snapshot.leader is not None and snapshot.leader.remaining_ms > 0
    leader = asdict(snapshot.leader) if snapshot.leader is not None and leads else None
    unreadable = {name: str(error) for name, error in sorted(snapshot.unreadable.items())}
    replicas = None if found is None else {"count": len(found), "differ": sum(each.differs for each in found)}
    head = {"now_ms": snapshot.now_ms, "leader": leader, "replicas": replicas}
    return json.dumps({**head, "providers": providers, "unreadable": unreadable}, indent=2)


def as_accounts(snapshot: Snapshot, accounts: Mapping[str, Account], asked: Sequence[str]) -> str:
    """A paragraph for each, its name above."""
    paragraphs = []
    for name in asked:
        if name in accounts:
            lines = accounts[name].lines
            width = max(len(what) for what, _ in lines)
            said = [f"  {what.ljust(width)}  {printable(text)}" for what, text in lines]
        else:
            why = snapshot.unreadable.get(name, "registered, and without a record")
            said = [f"  {printable(str(why))}"]
        paragraphs.append("\n".join([printable(name), *said]))
    return "\n\n".join(paragraphs)


def as_table(snapshot: Snapshot, replicas: Sequence[Replica] | None) -> str:
    """A line per provider, fit for a terminal whatever a hand wrote into the records."""
    who = ["replicas: unknown, Redis refuses to tell"] if replicas is None else [fleet.summary(replicas)]
    lines = [printable(words.leads(snapshot.leader, snapshot.now_ms)), *who, ""]
    if not snapshot.records and not snapshot.unreadable:
        return "\n".join(
            [*lines, "no provider is registered: check --namespace, or start a gateway that registers one"]
        )
    rows: list[Sequence[str]] = [_HEAD]
    rows += [tuple(map(printable, _row(snapshot, health))) for _, health in sorted(snapshot.records.items())]
    return "\n".join([*lines, *columns(rows), *(printable(str(error)) for error in snapshot.unreadable.values())])


def _record(snapshot: Snapshot, health: ProviderHealth) -> dict[str, Any]:
    spec = snapshot.specs.get(health.name, Spec())  # it may be deregistered at this moment
    next_try_ms = max(0, round(health.due_in_ms(snapshot.now_ms))) if health.circuit_state == "open" else None
    return {**facts.record(health, spec), "next_try_in_ms": next_try_ms}


def _row(snapshot: Snapshot, health: ProviderHealth) -> Sequence[str]:
    spec, now_ms = snapshot.specs.get(health.name, Spec()), snapshot.now_ms
    return (
        health.name,
        health.circuit_state.value,
        words.ago(now_ms, health.last_state_change_ms),
        "-" if health.circuit_state == "closed" else health.open_reason,
        words.next_try(health, now_ms),
        words.available(health, now_ms),
        words.probe(spec, health),
        health.last_failure or "-",
        words.latency(health),
        f"{health.failure_rate:.1%}",
        words.calls(health),
        words.weight(health, now_ms),
        ", ".join(map(str, spec.models)),
    )
