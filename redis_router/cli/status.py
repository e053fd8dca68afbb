"""`redis-router status`: one look at the shared records, as a table or as JSON."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from redis_router.circuit.record import ProviderHealth
from redis_router.cli.arguments import Commands, of_redis, opened_store
from redis_router.cli.terminal import printable, say
from redis_router.operate import words
from redis_router.store.contract import Snapshot

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
    status.add_argument("--json", action="store_true", help="all fields, as JSON")
    status.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0, or 1 where a record cannot be read."""
    with opened_store(arguments) as store:
        snapshot = store.snapshot()
    say(as_json(snapshot) if arguments.json else as_table(snapshot))
    return 1 if snapshot.unreadable else 0


def as_json(snapshot: Snapshot) -> str:
    """Every field of every record, and the leader."""
    providers = {name: _record(snapshot, health) for name, health in sorted(snapshot.records.items())}
    leads = snapshot.leader is not None and snapshot.leader.remaining_ms > 0
    leader = asdict(snapshot.leader) if snapshot.leader is not None and leads else None
    unreadable = {name: str(error) for name, error in sorted(snapshot.unreadable.items())}
    found = {"now_ms": snapshot.now_ms, "leader": leader, "providers": providers, "unreadable": unreadable}
    return json.dumps(found, indent=2)


def as_table(snapshot: Snapshot) -> str:
    """A line per provider, fit for a terminal whatever a hand wrote into the records."""
    lines = [printable(words.leads(snapshot.leader, snapshot.now_ms)), ""]
    if not snapshot.records and not snapshot.unreadable:
        return "\n".join(
            [*lines, "no provider is registered: check --namespace, or start a gateway that registers one"]
        )
    rows: list[Sequence[str]] = [_HEAD]
    rows += [tuple(map(printable, _row(snapshot, health))) for _, health in sorted(snapshot.records.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *(printable(str(error)) for error in snapshot.unreadable.values())])


def _record(snapshot: Snapshot, health: ProviderHealth) -> dict[str, Any]:
    spec = snapshot.specs[health.name]
    next_try_ms = max(0, round(health.due_in_ms(snapshot.now_ms))) if health.circuit_state == "open" else None
    probe = None if spec.probe is None else spec.probe.to_json()
    return {**asdict(health), "models": list(spec.models), "probe": probe, "next_try_in_ms": next_try_ms}


def _row(snapshot: Snapshot, health: ProviderHealth) -> Sequence[str]:
    spec, now_ms = snapshot.specs[health.name], snapshot.now_ms
    return (
        health.name,
        health.circuit_state.value,
        words.ago(now_ms, health.last_state_change_ms),
        "-" if health.circuit_state == "closed" else health.open_reason,
        words.next_try(health, now_ms),
        words.available(health, now_ms),
        words.probe(spec, health),
        health.last_failure or "-",
        f"{health.latency_ms:.1f} ms" if health.latency_ms else "-",
        f"{health.failure_rate:.1%}",
        words.calls(health),
        words.weight(health, now_ms),
        ", ".join(map(str, spec.models)),
    )
