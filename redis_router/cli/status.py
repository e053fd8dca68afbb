"""`redis-router status`: one look at the shared records, as a table or as JSON."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from redis_router.circuit.overrides import FOR_EVER_MS, override_of
from redis_router.circuit.record import ProviderHealth, TakenOutBy
from redis_router.cli.arguments import Commands, of_redis, opened_store
from redis_router.cli.terminal import lasted, printable, say
from redis_router.store.contract import Snapshot
from redis_router.store.messages import Leader

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
    lines = [printable(_leader(snapshot.leader, snapshot.now_ms)), ""]
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
    return (
        health.name,
        health.circuit_state.value,
        _ago(snapshot.now_ms, health.last_state_change_ms),
        "-" if health.circuit_state == "closed" else health.open_reason,
        _next_try(health, snapshot.now_ms),
        _available(health, snapshot.now_ms),
        _probe(snapshot, health),
        health.last_failure or "-",
        f"{health.latency_ms:.1f} ms" if health.latency_ms else "-",
        f"{health.failure_rate:.1%}",
        _calls(health),
        _weight(health, snapshot.now_ms),
        ", ".join(map(str, snapshot.specs[health.name].models)),
    )


def _calls(health: ProviderHealth) -> str:
    """Under way over the fleet, of those that it takes at once without making them wait; and those overdue."""
    overdue = f" ({health.overdue} overdue)" if health.overdue else ""
    if not health.concurrency_limit:
        return f"{health.in_flight}{overdue}" if health.in_flight else "-"
    return f"{health.in_flight}/{health.concurrency_limit:.0f}{overdue}"


def _available(health: ProviderHealth, now_ms: int) -> str:
    by_operator = health.unavailable_reason == TakenOutBy.OPERATOR
    if not by_operator and (word := override_of(health, now_ms)):
        return _overridden(word, health.override_until_ms, health.override_by, now_ms)
    if health.still_answers and health.unavailable_reason == TakenOutBy.CIRCUIT:
        return "if nobody else is"
    if health.circuit_state == "half_open" and health.unavailable_reason == TakenOutBy.CIRCUIT:
        return "trial calls"
    if health.weight == 0 and not by_operator:
        return "no (weight 0)"
    if not health.available:
        return f"no ({health.unavailable_reason})"
    cooling = health.cooling_for_ms(now_ms)
    return f"no (rate limited, {cooling / 1000:.0f} s)" if cooling else "yes"


def _overridden(word: str, until_ms: int, by: str, now_ms: int) -> str:
    """drain by alice@ops-1, 29 min left."""
    left = "for ever" if until_ms >= FOR_EVER_MS else f"{lasted(until_ms - now_ms)} left"
    return f"{word} by {by or 'somebody'}, {left}"


def _weight(health: ProviderHealth, now_ms: int) -> str:
    if health.weight_override_until_ms <= now_ms:
        return f"{health.weight:g}"
    until_ms, by = health.weight_override_until_ms, health.weight_override_by
    return f"{health.weight:g}, {_overridden(f'{health.weight_override:g}', until_ms, by, now_ms)}"


def _next_try(health: ProviderHealth, now_ms: int) -> str:
    """When an open circuit lets trial calls through."""
    if health.circuit_state == "half_open":
        return "now"
    if health.circuit_state == "closed":
        return "-"
    wait = health.due_in_ms(now_ms) / 1000
    if wait <= 0 and health.probe_result not in ("", "passes"):
        return "after the probe"
    return f"in {wait:.0f} s" if wait > 0 else "due"


def _probe(snapshot: Snapshot, health: ProviderHealth) -> str:
    if snapshot.specs[health.name].probe is None:
        return "-"
    said = health.probe_result or "not yet"
    return said if said in ("passes", "not yet") or said.startswith("cannot: ") else f"fails: {said}"


def _leader(leader: Leader | None, now_ms: int) -> str:
    if leader is None:
        return "leader: none yet; start `redis-router worker`"
    if leader.remaining_ms <= 0:
        return f"leader: none since {_ago(now_ms, leader.until_ms)} (last: {leader.worker}, epoch {leader.epoch})"
    return (
        f"leader: {leader.worker}, epoch {leader.epoch}, for {_ago(now_ms, leader.since_ms)},"
        f" lease ends in {leader.remaining_ms / 1000:.1f} s"
    )


def _ago(now_ms: int, moment_ms: int) -> str:
    """How long ago; '-' for never."""
    return lasted(max(0, now_ms - moment_ms)) if moment_ms else "-"
