"""`redis-router doctor`: what is wrong, and what to do."""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict

from redis_router.checks import check_name
from redis_router.cli.arguments import Commands, of_redis
from redis_router.cli.checkup import ERROR, OK, WARNING, Finding, Patient, examine
from redis_router.cli.terminal import printable, say
from redis_router.runtime.names import operator_name
from redis_router.store.connect import connect
from redis_router.store.opening import open_store


def add(commands: Commands) -> None:
    """Declare the command."""
    doctor = commands.add_parser("doctor", parents=[of_redis()], help="say what is wrong, and what to do")
    doctor.add_argument("--json", action="store_true", help="a list of findings, as JSON")
    doctor.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit code 1 where there is an error; warnings leave it at 0."""
    namespace = check_name("namespace", arguments.namespace)
    with closing(connect(arguments.redis)) as client:
        store = open_store(client, namespace, operator_name())
        findings = list(examine(Patient(arguments.redis, client, store)))
    say(json.dumps([asdict(each) for each in findings], indent=2) if arguments.json else as_table(findings))
    return 1 if any(each.status == ERROR for each in findings) else 0


def as_table(findings: Sequence[Finding]) -> str:
    """A line for each finding, the advice under it, and the sums. Words tell the status, and no colour."""
    width = max(len(each.check) for each in findings)
    lines = []
    for each in findings:
        status = each.status if each.status == OK else each.status.upper()
        lines.append(printable(f"{status:7}  {each.check:{width}}  {each.found}"))
        if each.advice:
            lines.append(printable(f"{'':7}  {'':{width}}  -> {each.advice}"))
    counts = Counter(each.status for each in findings)
    return "\n".join([*lines, "", f"errors: {counts[ERROR]}, warnings: {counts[WARNING]}, ok: {counts[OK]}"])
